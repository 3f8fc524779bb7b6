"""A server on aiosmtpd's Controller: what the handler is given goes to Maildirs, or on with smtplib."""

import asyncio
import itertools
import os
import signal
import smtplib

from aiosmtpd.controller import Controller

DOMAIN = "__DOMAIN__"
USERS = ("user1", "user2")
PEERS = {
    "__PEER_DOMAIN__": __PEER_PORT__,
}
HOP = __HOP_PORT__

numbers = itertools.count(1)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        user, _, domain = address.rpartition("@")
        if domain.lower() == DOMAIN and user.lower() not in USERS:
            return "550 No such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        elsewhere = {}
        for recipient in envelope.rcpt_tos:
            user, _, domain = recipient.rpartition("@")
            if domain.lower() == DOMAIN:
                deliver(user.lower(), envelope.original_content)
            else:
                elsewhere.setdefault(PEERS.get(domain.lower(), HOP), []).append(recipient)
        loop = asyncio.get_running_loop()
        for port, recipients in elsewhere.items():
            await loop.run_in_executor(
                None, pass_on, port, envelope.mail_from, recipients, envelope.original_content
            )
        return "250 Message taken"


def deliver(user, data):
    name = f"{next(numbers)}.garden"
    maildir = f"/home/{user}/Maildir"
    with open(f"{maildir}/tmp/{name}", "wb") as file:
        file.write(data)
    os.rename(f"{maildir}/tmp/{name}", f"{maildir}/new/{name}")


def pass_on(port, sender, recipients, data):
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail(sender, recipients, data)


Controller(Handler(), hostname="127.0.0.1", port=__PORT__, server_hostname=DOMAIN, decode_data=False).start()
signal.pause()
