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
    fwrite(STDERR, curl_error($request) . "\n");
    exit(1);
}
$call = json_decode($answer, true);
echo $call['phone_number'], ' ', $call['state'], ' ', $call['outcome'], "\n";
