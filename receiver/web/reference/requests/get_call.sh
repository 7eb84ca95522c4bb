curl --fail-with-body -sS "$RECEIVER/api/v1/batches/1/calls/1" \
  -H "Authorization: Bearer $KEY"
