# Without a cursor: from the oldest entry kept. Afterwards add &cursor= with the next_cursor of the last answer.
curl --fail-with-body -sS "$RECEIVER/api/v1/results?limit=1000" \
  -H "Authorization: Bearer $KEY" -H "Prefer: wait=30"
