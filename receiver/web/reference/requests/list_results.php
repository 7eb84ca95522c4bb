<?php
$cursor = is_file('cursor') ? '&cursor=' . urlencode(file_get_contents('cursor')) : '';
while (true) {
    $request = curl_init(getenv('RECEIVER') . "/api/v1/results?limit=1000$cursor");
    curl_setopt_array($request, [
        CURLOPT_HTTPHEADER => ['Authorization: Bearer ' . getenv('KEY'), 'Prefer: wait=1'],
        CURLOPT_FAILONERROR => true,
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 30,
    ]);
    $answer = curl_exec($request);
    if ($answer === false) {
        fwrite(STDERR, curl_error($request) . "\n");
        exit(1);
    }
    $page = json_decode($answer, true);
    if ($page['results'] === []) {
        break;
    }
    foreach ($page['results'] as $call) {
        echo "{$call['batch_id']} {$call['row']} {$call['state']} {$call['outcome']}\n";
    }
    file_put_contents('cursor', $page['next_cursor']); // only after the page is processed
    $cursor = '&cursor=' . urlencode($page['next_cursor']);
}
