# Python's smtplib: HOST PORT SENDER RECIPIENT..., the message on standard input.
import smtplib
import sys

host, port, sender, *recipients = sys.argv[1:]
message = sys.stdin.buffer.read()
with smtplib.SMTP(host, int(port), local_hostname="client.example", timeout=180) as server:
    refused = server.sendmail(sender, recipients, message, mail_options=["BODY=8BITMIME"])
for recipient, reply in refused.items():
    print("refused:", recipient, reply)
