//! Mail through every super-server, with every client, over IPv4 and IPv6: it lies in the file when the client is
//! told so.

use std::net::IpAddr;

use testkit::debian::USER;
use testkit::{Client, LOOPBACK};

use crate::support::receiver::Receiver;
use crate::support::sender::Sender;
use crate::support::super_server::SuperServer;

#[test]
fn xinetd() {
    carries_mail(SuperServer::Xinetd);
}

#[test]
fn openbsd_inetd() {
    carries_mail(SuperServer::Inetd);
}

#[test]
fn tcpserver() {
    carries_mail(SuperServer::Tcpserver);
}

#[test]
fn systemd_socket_activate() {
    carries_mail(SuperServer::SystemdSocketActivate);
}

#[test]
fn listen() {
    carries_mail(SuperServer::Listen);
}

#[test]
fn xinetd_and_inetd_entries_name_a_user_without_privileges() {
    for (super_server, umask) in [(SuperServer::Xinetd, "0077"), (SuperServer::Inetd, "")] {
        let receiver = Receiver::new("");
        let told = receiver.path("told");
        receiver.configure(&format!(
            "deliver rcpt_to who@example.com pipe cat >/dev/null; (id -un; umask) >{}",
            told.display()
        ));
        let service = super_server.start(&receiver, LOOPBACK[0], "");
        let mut peer = Client::connect(service.address);
        peer.reply();
        peer.deliver_subject("who@example.com", "x");
        let told = receiver.read(told);
        assert!(told.starts_with(&format!("{USER}\n{umask}")), "{super_server:?}: {told}");
    }
}

fn carries_mail(super_server: SuperServer) {
    for address in LOOPBACK {
        let receiver = Receiver::new("");
        let service = super_server.start(&receiver, address, "");
        for client in Sender::ALL {
            let subject = format!("{super_server:?} {client:?} {address}");
            client.send(service.address, &subject);
            // Nothing waits here: when a client was told 250, the message is in the file.
            let mailbox = receiver.read(receiver.mailbox());
            let message = mailbox.split("\nFrom ").last().unwrap();
            for line in [
                "Return-Path: <me@mydomain.com>\n",
                "\nDelivered-To: fred@example.com\n",
                &format!("[{}])\n\tby mail.example.com (mailrecv) with ", literal(address)),
                "\n\tfor <fred@example.com>; ",
                &format!("\nSubject: {subject}\n"),
                "\n\nTest message line 1.\nTest line 2.\n",
            ] {
                assert!(message.contains(line), "{subject}: no `{line}` in\n{mailbox}");
            }
        }
        let mailbox = receiver.read(receiver.mailbox());
        assert_eq!(mailbox.matches("Delivered-To:").count(), Sender::ALL.len(), "{mailbox}");
        let log = receiver.read(receiver.log());
        let delivered = format!("]: [{address}] Mail id=");
        let deliveries = log.lines().filter(|line| line.contains(&delivered) && line.ends_with(": delivered")).count();
        assert_eq!(deliveries, Sender::ALL.len(), "{log}");
    }
}

/// An address as headers have it (RFC 5321, section 4.1.3).
fn literal(address: IpAddr) -> String {
    if address.is_ipv4() { address.to_string() } else { format!("IPv6:{address}") }
}
