<?php
// The SMTP of PHPMailer: HOST PORT SENDER RECIPIENT..., the message on standard input.
require '/usr/share/php/libphp-phpmailer/src/SMTP.php';

[, $host, $port, $sender] = $argv;
$smtp = new PHPMailer\PHPMailer\SMTP();

function done(bool $is_done): void
{
    global $smtp;
    if (!$is_done) {
        fwrite(STDERR, implode(' ', $smtp->getError()) . "\n");
        exit(1);
    }
}

done($smtp->connect($host, (int) $port, 30));
done($smtp->hello('client.example'));
done($smtp->mail($sender));
foreach (array_slice($argv, 4) as $recipient) {
    if (!$smtp->recipient($recipient)) {
        echo "refused: $recipient ", $smtp->getError()['detail'], "\n";
    }
}
done($smtp->data(stream_get_contents(STDIN)));
$smtp->quit();
