"""Requests in curl, Python and PHP, shown in the reference next to the operations that most users start with."""

from __future__ import annotations

from collections.abc import Mapping

_QUEUE_CURL = """\
curl --fail-with-body -sS "$RECEIVER/api/v1/batches" \\
  -H "Authorization: Bearer $KEY" \\
  -H "Idempotency-Key: reminders-2026-12-01" \\
  -F csv=@contacts.csv -F application_id=7 -F deployment_id=3 \\
  -F name="December reminders" -F max_attempts=3 -F reattempt_wait=300"""

_QUEUE_PYTHON = """\
import os
import requests

with open("contacts.csv", "rb") as csv:
    answer = requests.post(
        f"{os.environ['RECEIVER']}/api/v1/batches",
        headers={
            "Authorization": f"Bearer {os.environ['KEY']}",
            "Idempotency-Key": "reminders-2026-12-01",
        },
        files={"csv": csv},
        data={
            "application_id": 7,
            "deployment_id": 3,
            "name": "December reminders",
            "max_attempts": 3,
            "reattempt_wait": 300,
        },
        timeout=75,
    )
if answer.status_code not in (201, 202):
    raise SystemExit(f"{answer.json()['code']}: {answer.json()['detail']}")
print(answer.json()["id"])"""

_QUEUE_PHP = """\
<?php
$request = curl_init(getenv('RECEIVER') . '/api/v1/batches');
curl_setopt_array($request, [
    CURLOPT_HTTPHEADER => [
        'Authorization: Bearer ' . getenv('KEY'),
        'Idempotency-Key: reminders-2026-12-01',
    ],
    CURLOPT_POSTFIELDS => [
        'csv' => new CURLFile('contacts.csv', 'text/csv'),
        'application_id' => 7,
        'deployment_id' => 3,
        'name' => 'December reminders',
        'max_attempts' => 3,
        'reattempt_wait' => 300,
    ],
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_TIMEOUT => 75,
]);
$answer = curl_exec($request);
if ($answer === false) {
    fwrite(STDERR, curl_error($request) . "\\n");
    exit(1);
}
$batch = json_decode($answer, true);
if (!in_array(curl_getinfo($request, CURLINFO_RESPONSE_CODE), [201, 202])) {
    fwrite(STDERR, "{$batch['code']}: {$batch['detail']}\\n");
    exit(1);
}
echo $batch['id'], "\\n";"""

_READ_CURL = """\
curl --fail-with-body -sS "$RECEIVER/api/v1/batches/1/calls/1" \\
  -H "Authorization: Bearer $KEY" """.rstrip()

_READ_PYTHON = """\
import os
import requests

answer = requests.get(
    f"{os.environ['RECEIVER']}/api/v1/batches/1/calls/1",
    headers={"Authorization": f"Bearer {os.environ['KEY']}"},
    timeout=10,
)
answer.raise_for_status()
call = answer.json()
print(call["phone_number"], call["state"], call["outcome"])"""

_READ_PHP = """\
<?php
$request = curl_init(getenv('RECEIVER') . '/api/v1/batches/1/calls/1');
curl_setopt_array($request, [
    CURLOPT_HTTPHEADER => ['Authorization: Bearer ' . getenv('KEY')],
    CURLOPT_FAILONERROR => true,
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_TIMEOUT => 10,
]);
$answer = curl_exec($request);
if ($answer === false) {
    fwrite(STDERR, curl_error($request) . "\\n");
    exit(1);
}
$call = json_decode($answer, true);
echo $call['phone_number'], ' ', $call['state'], ' ', $call['outcome'], "\\n";"""

SAMPLES: Mapping[str, Mapping[str, str]] = {
    "queue_batch": {"curl": _QUEUE_CURL, "Python": _QUEUE_PYTHON, "PHP": _QUEUE_PHP},
    "get_call": {"curl": _READ_CURL, "Python": _READ_PYTHON, "PHP": _READ_PHP},
}
"""By operation, then by language. `$RECEIVER` is this installation's address, `$KEY` an API key."""
