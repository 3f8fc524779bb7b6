//! What a newcomer does first: the README's command and its session, with the shipped configuration.

use std::process::Command;

use testkit::{debian, repository, succeeds};

use crate::support::receiver::Receiver;
use crate::support::super_server::Listener;

#[test]
fn the_first_session_delivers() {
    let blocks = repository::readme_commands("Try it");
    // There is an empty line in what is to be pasted.
    let [listen, session, rest_of_session] = &blocks[..] else { panic!("{blocks:?}") };
    let receiver = Receiver::new("");
    std::fs::create_dir(receiver.path("etc")).unwrap();
    receiver.write("etc/mailrecv-try.conf", repository::text("etc/mailrecv-try.conf"));
    let program = format!("exec {}", receiver.binary().display());
    let listen =
        repository::replaced(listen, &[("cargo run --release --", &program), ("127.0.0.1:2525", "127.0.0.1:0")]);
    let mut command = Command::new("sh");
    command.args(["-c", &listen]).current_dir(receiver.path(""));
    let mut listener = Listener::of(&receiver, command);
    let address = listener.addresses[0];
    let mut nc = debian::command("netcat-openbsd", "nc.openbsd");
    nc.args(["-N", &address.ip().to_string(), &address.port().to_string()]);
    let replies = succeeds(nc, &format!("{session}\n{rest_of_session}"));
    assert!(replies.contains("\n250 Message accepted for delivery, id="), "{replies}");
    assert!(replies.ends_with("\n221 localhost closing connection\r\n"), "{replies}");
    let mailbox = receiver.read(receiver.path("mail.mbox"));
    assert!(mailbox.ends_with("\nSubject: Test\n\nTest message line 1.\nTest line 2.\n\n"), "{mailbox}");
    listener.daemon.until("the mail on the terminal", |shown| shown.contains("| Test line 2.\n").then_some(()));
}
