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
    fwrite(STDERR, curl_error($request) . "\n");
    exit(1);
}
$batch = json_decode($answer, true);
if (!in_array(curl_getinfo($request, CURLINFO_RESPONSE_CODE), [201, 202])) {
    fwrite(STDERR, "{$batch['code']}: {$batch['detail']}\n");
    exit(1);
}
echo $batch['id'], "\n";
