"""A server on smtpd.SMTPServer: what the module hands over goes to Maildirs, or on with smtplib."""

import asyncore
import itertools
import os
import smtpd
import smtplib

DOMAIN = "__DOMAIN__"
USERS = ("user1", "user2")
PEERS = {
    "__PEER_DOMAIN__": __PEER_PORT__,
}
HOP = __HOP_PORT__

numbers = itertools.count(1)


class Channel(smtpd.SMTPChannel):
    """Refuses unknown users at RCPT, where the module would take everybody."""

    def smtp_RCPT(self, arg):
        before = len(self.rcpttos)
        self.is_quiet = True
        super().smtp_RCPT(arg)
        self.is_quiet = False
        answer = self.answer
        if len(self.rcpttos) > before:
            user, _, domain = self.rcpttos[-1].rpartition("@")
            if domain.lower() == DOMAIN and user.lower() not in USERS:
                self.rcpttos.pop()
                answer = "550 No such user"
        self.push(answer)

    is_quiet = False

    def push(self, msg):
        if self.is_quiet:
            self.answer = msg
        else:
            super().push(msg)


class Server(smtpd.SMTPServer):
    channel_class = Channel

    def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
        elsewhere = {}
        for recipient in rcpttos:
            user, _, domain = recipient.rpartition("@")
            if domain.lower() == DOMAIN:
                deliver(user.lower(), data)
            else:
                elsewhere.setdefault(PEERS.get(domain.lower(), HOP), []).append(recipient)
        for port, recipients in elsewhere.items():
            try:
                with smtplib.SMTP("127.0.0.1", port) as client:
                    client.sendmail(mailfrom, recipients, data)
            except (OSError, smtplib.SMTPException) as error:
                print(error)
                return "451 Not passed on"


def deliver(user, data):
    name = f"{next(numbers)}.garden"
    maildir = f"/home/{user}/Maildir"
    with open(f"{maildir}/tmp/{name}", "wb") as file:
        file.write(data)
    os.rename(f"{maildir}/tmp/{name}", f"{maildir}/new/{name}")


Server(("127.0.0.1", __PORT__), None, data_size_limit=50_000_000)
asyncore.loop()
