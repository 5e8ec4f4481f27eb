<?php
// Confirms one collection in the encrypted form and prints the decrypted answer.
//
//   php confirm.php URL CERT_FILE USER_NAME KEY PASSWORD CONTRACT
//
// Needs PHP 8 with the openssl extension, which Debian's php-cli has.

[, $url, $certFile, $userName, $key, $password, $contract] = $argv;

// AES-128-ECB with PKCS#5 padding; the key is the first 16 bytes of SHA1(SHA1(password)).
function aesKey(string $password): string
{
    return substr(sha1(sha1($password, true), true), 0, 16);
}

function encrypt(string $password, string $text): string
{
    return openssl_encrypt($text, 'aes-128-ecb', aesKey($password)); // gives base64
}

function decrypt(string $password, string $text): string
{
    return openssl_decrypt($text, 'aes-128-ecb', aesKey($password));
}

// All times on the wire are Philippine time, GMT+8.
$now = new DateTime('now', new DateTimeZone('Asia/Manila'));
$json = json_encode([
    'userName' => $userName,
    'action' => 'collectionCollect',
    'authentication' => $key,
    'contractNumber' => $contract,
    'amount' => '3900.00', // a string: PHP's floats lose centavos
    'phone' => '09270348095',
    'receiptNumber' => "PHP-$contract",
    'collectedTime' => $now->format('Y-m-d H:i:s'),
    'payChannel' => '1',
]);

// Trusts the certificate that `tilld cert show --pem` printed, and no other.
$context = stream_context_create([
    'ssl' => ['cafile' => $certFile],
    'http' => [
        'method' => 'POST',
        'header' => 'Content-Type: text/plain',
        'content' => encrypt($password, $json),
        'timeout' => 15,
        'ignore_errors' => true, // read the body of a 503 too
    ],
]);
// On a time-out, an error or -1009: post the same receipt again until 1000 or -1015.
$answer = file_get_contents($url, false, $context);
if ($answer === false) {
    exit(1);
}

// -1001 comes as plain JSON, everything else under the password of the request.
echo $answer[0] === '{' ? $answer : decrypt($password, $answer), "\n";
