#!/bin/sh
# nullmailer, where its files may be written to: HOST PORT SENDER RECIPIENT..., the message on standard input.
set -e
mkdir -p /etc/nullmailer
echo "$1 smtp --port=$2" >/etc/nullmailer/remotes
echo client.example >/etc/mailname
echo client.example >/etc/nullmailer/helohost
sender=$3
shift 3
cd /var/spool
mkdir -p nullmailer/queue nullmailer/tmp nullmailer/failed
mkfifo -m 600 nullmailer/trigger
nullmailer-inject -f "$sender" "$@"
nullmailer-send &
# Until the queue is empty, and stays so: it makes a message that tells of a failure, too.
empty=0
for _ in $(seq 1800); do
    sleep 0.1
    if [ -n "$(ls nullmailer/queue)" ]; then empty=0; else empty=$((empty + 1)); fi
    [ $empty -lt 5 ] || break
done
kill $!
