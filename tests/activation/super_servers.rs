//! Mail through every super-server, with every client, over IPv4 and IPv6: it lies in the file when the client is
//! told so.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testkit::daemon::free_port;
use testkit::debian::{self, USER};
use testkit::tcp::is_listening;
use testkit::{Client, LOOPBACK, repository};

use crate::support::receiver::{FRED, Receiver};
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
            "pipe_env ARCHIVE\ndeliver rcpt_to who@example.com pipe cat >/dev/null; (id -un; umask; echo \"$ARCHIVE\") >{}",
            told.display()
        ));
        let service = super_server.start(&receiver, LOOPBACK[0], "");
        let mut peer = Client::connect(service.address);
        peer.reply();
        peer.deliver_subject("who@example.com", "x");
        let told = receiver.read(told);
        assert!(told.starts_with(&format!("{USER}\n{umask}")), "{super_server:?}: {told}");
        // As the entry says it.
        let is_xinetd = matches!(super_server, SuperServer::Xinetd);
        assert_eq!(told.ends_with("\n/srv/archive\n"), is_xinetd, "{super_server:?}: {told}");
    }
}

/// What an included file says holds as what the main one says, for a session that has become another user and confined
/// itself; and from the next connection on it is as it is then.
#[test]
fn included_files_hold_under_every_super_server() {
    for super_server in SuperServer::ALL {
        let receiver = Receiver::new(&format!("user {USER}\nsandbox on\nspool_dir /tmp\ninclude users.d/*.conf"));
        // Those that start it as root leave it to read what only root can.
        let is_root = matches!(super_server, SuperServer::SystemdSocketActivate | SuperServer::Listen);
        std::fs::create_dir(receiver.path("users.d")).unwrap();
        let write = |recipient: &str| {
            let place = receiver.path(recipient).display().to_string();
            let text = format!("# Users.\ndeliver rcpt_to {recipient}@example.com append {place}\n");
            let file = receiver.write("users.d/a.conf", text);
            let mode = if is_root { 0o600 } else { 0o644 };
            std::fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
        };
        write("wilma");
        if is_root {
            std::fs::set_permissions(receiver.path("users.d"), Permissions::from_mode(0o700)).unwrap();
        }
        let service = super_server.start(&receiver, LOOPBACK[0], "");
        let mut before = Client::connect(service.address);
        assert!(before.reply().starts_with("220 "), "{super_server:?}");
        before.deliver_subject("wilma@example.com", "before");
        write("barney");
        let mut after = Client::connect(service.address);
        assert!(after.reply().starts_with("220 "), "{super_server:?}");
        after.deliver_subject("barney@example.com", "after");
        after.exchange("MAIL FROM:<a@b.example>", "250");
        after.exchange("RCPT TO:<wilma@example.com>", "550");
        for (recipient, subject) in [("wilma", "before"), ("barney", "after")] {
            let mailbox = receiver.read(recipient);
            assert!(mailbox.contains(&format!("\nSubject: {subject}\n")), "{super_server:?}: {mailbox}");
        }
    }
}

/// They tell in a variable who the peer is, or hand the connection itself over: as the manual has it.
#[test]
fn socat_and_ncat() {
    let lines = repository::page_example("etc/man/mailrecv.8", "socat ");
    for line in lines.lines() {
        let receiver = Receiver::new("");
        let address = free_port(LOOPBACK[0]);
        let call = format!("{} -c {}", receiver.binary().display(), receiver.config().display());
        let line = line
            .replace("EXEC:/usr/sbin/mailrecv,nofork", &format!("'EXEC:{call},nofork'"))
            .replace("exec mailrecv ", &format!("exec {call} "))
            .replace("LISTEN:25,", &format!("LISTEN:{},", address.port()))
            .replace("-k 25 ", &format!("-k {} {} ", address.ip(), address.port()));
        let program = line.split(' ').next().unwrap().to_owned();
        let path = debian::program(&program, &program).display().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {}", line.replacen(&program, &path, 1))]);
        let mut daemon = receiver.launch(shell);
        daemon.until("listening", |_| is_listening(address).then_some(()));
        let mut peer = Client::connect(address);
        peer.expect("220 ");
        peer.deliver_subject(FRED, &line);
        peer.exchange("QUIT", "221 ");
        let mailbox = receiver.read(receiver.mailbox());
        assert!(mailbox.contains("[127.0.0.1])\n\tby mail.example.com (mailrecv) with "), "{line}: {mailbox}");
    }
    assert_eq!(lines.lines().count(), 3);
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
