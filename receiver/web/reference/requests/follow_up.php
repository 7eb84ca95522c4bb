<?php
$request = curl_init(getenv('RECEIVER') . '/api/v1/batches/1/follow-ups');
curl_setopt_array($request, [
    CURLOPT_HTTPHEADER => [
        'Authorization: Bearer ' . getenv('KEY'),
        'Content-Type: application/json',
        'Idempotency-Key: second-try-2026-12-02',
    ],
    CURLOPT_POSTFIELDS => json_encode(['outcomes' => ['failed', 'rejected'], 'name' => 'Second try']),
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
echo $batch['id'], ' ', $batch['chosen'], "\n";
