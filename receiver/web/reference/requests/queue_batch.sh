curl --fail-with-body -sS "$RECEIVER/api/v1/batches" \
  -H "Authorization: Bearer $KEY" \
  -H "Idempotency-Key: reminders-2026-12-01" \
  -F csv=@contacts.csv -F application_id=7 -F deployment_id=3 \
  -F name="December reminders" -F max_attempts=3 -F reattempt_wait=300
