# Twisted: HOST PORT SENDER RECIPIENT..., the message on standard input.
import sys

from twisted.internet import task
from twisted.mail.smtp import sendmail

host, port, sender, *recipients = sys.argv[1:]
message = sys.stdin.buffer.read()


def tell(result):
    for recipient, code, reply in result[1]:
        if code != 250:
            print("refused:", recipient, code, reply)


def main(reactor):
    sent = sendmail(host, sender, recipients, message, senderDomainName="client.example", port=int(port))
    return sent.addCallback(tell)


task.react(main)
