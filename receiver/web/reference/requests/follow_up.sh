curl --fail-with-body -sS "$RECEIVER/api/v1/batches/1/follow-ups" \
  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
  -H "Idempotency-Key: second-try-2026-12-02" \
  -d '{"outcomes": ["failed", "rejected"], "name": "Second try"}'
