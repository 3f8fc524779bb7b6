# Perl's Email::Sender: HOST PORT SENDER RECIPIENT..., the message on standard input.
use strict;
use warnings;
use Email::Sender::Transport::SMTP;

my ($host, $port, $sender, @recipients) = @ARGV;
binmode STDIN;
my $message = do { local $/; <STDIN> } // '';
my $transport = Email::Sender::Transport::SMTP->new(
    {host => $host, port => $port, helo => 'client.example', allow_partial_success => 1}
);
my $result = $transport->send($message, {from => $sender, to => \@recipients});
if ($result->isa('Email::Sender::Success::Partial')) {
    print 'refused: ', $_->message, "\n" for $result->failure->failures;
}
