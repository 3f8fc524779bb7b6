# Perl's Net::SMTP: HOST PORT SENDER RECIPIENT..., the message on standard input.
use strict;
use warnings;
use Net::SMTP;

my ($host, $port, $sender, @recipients) = @ARGV;
binmode STDIN;
my $message = do { local $/; <STDIN> } // '';
my $smtp = Net::SMTP->new($host, Port => $port, Hello => 'client.example', Timeout => 180) or die $@;
$smtp->mail($sender, Bits => 8) or die $smtp->message;
for my $recipient (@recipients) {
    $smtp->to($recipient) or print "refused: $recipient ", $smtp->message;
}
$smtp->data($message) or die $smtp->message;
$smtp->quit;
