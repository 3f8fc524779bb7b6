"""What a few lines around the library aiosmtpd do of what mailrecv does with the files etc/mailrecv-sink.conf, -relay.conf
and -collector.conf; the benchmark has them beside each other.

    neighbours.py sink PORT
    neighbours.py relay PORT NEXT-PORT PASSWORD
    neighbours.py collector PORT BROKER-PORT SECRET MAILDIR

They promise less: nothing is synced to a disk, no certificate is asked for, and the collector says 250 before the broker
has heard of the message.
"""

import asyncio
import hashlib
import json
import logging
import mailbox
import smtplib
import sys

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult
from hpfeeds.asyncio import ClientSession

log = logging.getLogger("neighbours")


class Sink:
    """Shows each message."""

    async def handle_DATA(self, server, session, envelope):
        log.info("=== NEW EMAIL ===")
        log.info("From: %s", envelope.mail_from)
        log.info("To: %s", envelope.rcpt_tos)
        log.info("Data:\n%s", envelope.content.decode("utf8", errors="replace"))
        log.info("=" * 40)
        return "250 Message accepted for delivery"


class Relay:
    """Passes messages on from some domains to some domains."""

    domains = {"example.com"}

    def __init__(self, next_port):
        self.next_port = next_port

    async def handle_MAIL(self, server, session, envelope, address, options):
        if self.domain(address) not in self.domains:
            return "550 Sender domain not allowed"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.domain(address) not in self.domains:
            return "550 Recipient domain(s) not allowed"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        try:
            with smtplib.SMTP("127.0.0.1", self.next_port, timeout=60) as upstream:
                upstream.sendmail(envelope.mail_from, envelope.rcpt_tos, envelope.content)
        except (OSError, smtplib.SMTPException) as error:
            log.error("Error relaying message: %s", error)
            return "451 Requested action aborted: local error in processing"
        log.info("Successfully relayed message from %s to %s", envelope.mail_from, envelope.rcpt_tos)
        return "250 OK Message accepted for delivery"

    def domain(self, address):
        return address.rpartition("@")[2].lower()


class Collector:
    """Stores messages and publishes them, later, with a broker of hpfeeds."""

    def __init__(self, folder):
        self.folder = mailbox.Maildir(folder)
        self.queue = asyncio.Queue()

    async def handle_DATA(self, server, session, envelope):
        self.folder.add(envelope.content)
        self.queue.put_nowait(envelope.content)
        return "250 OK"

    async def publish(self, port, secret):
        async with ClientSession("127.0.0.1", port, "writer", secret) as broker:
            while True:
                content = await self.queue.get()
                payload = {"msg": content.decode(), "sha256": hashlib.sha256(content).hexdigest()}
                broker.publish("spam.mails", json.dumps(payload).encode())


async def main(job, port, *more):
    background = None
    if job == "sink":
        sink = Sink()

        def protocol():
            return SMTP(sink, data_size_limit=1048576, enable_SMTPUTF8=True)
    elif job == "relay":
        relay, password = Relay(int(more[0])), more[1].encode()

        def authenticator(server, session, envelope, mechanism, login):
            return AuthResult(success=login.login == b"user" and login.password == password)

        def protocol():
            return SMTP(relay, authenticator=authenticator, auth_required=True, auth_require_tls=False)
    else:
        collector = Collector(more[2])
        background = asyncio.create_task(collector.publish(int(more[0]), more[1]))

        def protocol():
            return LMTP(collector)

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", int(port))
    await asyncio.gather(server.serve_forever(), *filter(None, [background]))


# The library's own lines, one for each command, would be a cost that mailrecv does not have.
logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
logging.getLogger("mail.log").setLevel(logging.WARNING)
asyncio.run(main(*sys.argv[1:]))
