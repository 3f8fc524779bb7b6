//! Under inetd and xinetd, descriptors 0, 1 and 2 of mailrecv are all the connection. Whatever commands print or leave
//! behind, and whatever is wrong with the configuration: the peer sees SMTP, and nothing keeps its connection open.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::syslog::Syslog;
use testkit::{Client, LOOPBACK, wait_until};

use crate::support::receiver::Receiver;
use crate::support::super_server::SuperServer;

#[test]
fn output_of_commands_is_logged_and_not_sent() {
    for (super_server, address) in everywhere() {
        let receiver = Receiver::new("");
        let seen = receiver.path("descriptors");
        receiver.configure(&format!(
            "debug f+\n\
             deliver rcpt_to loud@example.com \
             pipe cat >/dev/null; ls -l /proc/$$/fd >{}; echo 550 INJECTED >&2; echo 250 INJECTED",
            seen.display()
        ));
        let service = super_server.start(&receiver, address, "");
        let mut peer = Client::connect(service.address);
        // Everything at once: what the command prints would stand between the replies.
        peer.send(
            "EHLO client.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<loud@example.com>\r\nDATA\r\n\
             Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n",
        );
        let codes: Vec<String> = (0..7).map(|_| peer.reply()[..3].to_owned()).collect();
        assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "221"], "{super_server:?}");
        assert_eq!(peer.rest(), "", "{super_server:?}");
        let log = receiver.read(receiver.log());
        assert!(log.contains("'550 INJECTED'"), "{super_server:?}: {log}");
        let descriptors = receiver.read(seen);
        assert!(descriptors.contains("pipe:"), "{super_server:?}: {descriptors}");
        assert!(!descriptors.contains("socket:"), "{super_server:?}: {descriptors}");
    }
}

#[test]
fn what_a_command_leaves_behind_does_not_hold_the_connection() {
    for (super_server, address) in everywhere() {
        let receiver = Receiver::new("");
        let number = receiver.path("number");
        receiver.configure(&format!(
            "deliver rcpt_to slow@example.com pipe cat >/dev/null; setsid sleep 600 & echo $! >{}",
            number.display()
        ));
        let service = super_server.start(&receiver, address, "");
        let mut peer = Client::connect(service.address);
        peer.reply();
        peer.deliver_subject("slow@example.com", "x");
        peer.exchange("QUIT", "221");
        assert_eq!(peer.rest(), "");
        let left_behind = Pid::from_raw(receiver.read(&number).trim().parse().unwrap());
        // The connection was over before it.
        assert!(kill(left_behind, Signal::SIGKILL).is_ok(), "{super_server:?}: the test left nothing behind");
    }
}

/// `ncat -e` and the like, where the connection is two pipes: what is written to /dev/stdout would be in the dialogue.
#[test]
fn standard_output_is_neither_a_log_nor_a_mailbox() {
    let receiver = Receiver::new("");
    receiver.configure("logfile /dev/stdout\ndebug s+\ndeliver rcpt_to jane@example.com append /dev/stdout");
    let mut session = receiver
        .bare_command()
        .args(["--peer", "192.0.2.7", "-c"])
        .arg(receiver.config())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let dialogue = "EHLO client.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<jane@example.com>\r\nDATA\r\n\
                    Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n";
    session.stdin.take().unwrap().write_all(dialogue.as_bytes()).unwrap();
    let replies = String::from_utf8(session.wait_with_output().unwrap().stdout).unwrap();
    let codes: Vec<&str> = replies.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "354", "451", "221"], "{replies}");
}

#[test]
fn errors_of_the_configuration_go_to_the_log() {
    for (super_server, address) in everywhere() {
        let receiver = Receiver::new("");
        let service = super_server.start(&receiver, address, "");
        // After the start: `listen` refuses to begin with a broken configuration.
        receiver.configure("delivr rcpt_to a@example.com discard\nlimit.smtp_commands many");
        let mut peer = Client::connect(service.address);
        let said = peer.rest();
        assert!(said.starts_with("421 4.3.5 ") && said.ends_with("\r\n"), "{super_server:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{super_server:?}: {said}");
        let log = receiver.read(receiver.log());
        for place in [":6:1: ", ":7:21: "] {
            let place = format!("]: [{address}] ERROR: {}{place}", receiver.config().display());
            assert!(log.contains(&place), "{super_server:?}: no `{place}` in {log}");
        }
    }
}

#[test]
fn wrong_arguments_go_to_the_system_log() {
    let syslog = Syslog::start();
    // The others would tell the administrator, whose terminal is descriptor 2.
    for super_server in [SuperServer::Xinetd, SuperServer::Inetd] {
        let mut receiver = Receiver::new("");
        receiver.logs_to(&syslog);
        let argument = format!("--nonsense-{super_server:?}");
        let service = super_server.start(&receiver, LOOPBACK[0], &argument);
        let said = Client::connect(service.address).rest();
        assert!(said.is_empty() || said.starts_with("421 4.3.5 "), "{super_server:?}: {said}");
        assert!(said.lines().count() <= 1, "{super_server:?}: {said}");
        wait_until(&argument, || receiver.read(syslog.traditional()).contains(&argument).then_some(()));
    }
}

/// Each super-server with each loopback address.
fn everywhere() -> impl Iterator<Item = (SuperServer, std::net::IpAddr)> {
    SuperServer::ALL.into_iter().flat_map(|super_server| LOOPBACK.map(|address| (super_server, address)))
}
