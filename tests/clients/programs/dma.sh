#!/bin/sh
# The DragonFly Mail Agent, where its files may be written to: HOST PORT SENDER RECIPIENT..., the message on standard
# input.
set -e
printf 'SMARTHOST %s\nPORT %s\nMAILNAME relay.example\n' "$1" "$2" >/etc/dma/dma.conf
sender=$3
shift 3
mkdir -p /var/spool/dma
chown root:mail /var/spool/dma
chmod 2775 /var/spool/dma
dma -D -i -f "$sender" "$@"
# A process of its own may still be busy with a message that tells of a failure.
for _ in $(seq 1800); do
    [ -n "$(find /var/spool/dma -type f ! -name flush)" ] || break
    sleep 0.1
done
