//! What a newcomer does first: the README's command and its session, with the shipped configuration.

use testkit::{debian, repository, succeeds};

use crate::support::receiver::Receiver;
use crate::support::super_server::Listener;

#[test]
fn the_first_session_delivers() {
    let receiver = Receiver::new("");
    let config = receiver.write("try.conf", repository::text("etc/mailrecv-try.conf"));
    let mut command = receiver.bare_command();
    command.arg("-c").arg(config).args(["listen", "127.0.0.1:0"]).current_dir(receiver.path(""));
    let mut listener = Listener::of(&receiver, command);
    let address = listener.addresses[0];
    let mut nc = debian::command("netcat-openbsd", "nc.openbsd");
    nc.args(["-N", &address.ip().to_string(), &address.port().to_string()]);
    let replies = succeeds(nc, &session_to_paste());
    assert!(replies.contains("\n250 Message accepted for delivery, id="), "{replies}");
    assert!(replies.ends_with("\n221 localhost closing connection\r\n"), "{replies}");
    let mailbox = receiver.read(receiver.path("mail.mbox"));
    assert!(mailbox.ends_with("\nSubject: Test\n\nTest message line 1.\nTest line 2.\n\n"), "{mailbox}");
    listener.daemon.until("the mail on the terminal", |shown| shown.contains("| Test line 2.\n").then_some(()));
}

/// The indented lines below "paste this".
fn session_to_paste() -> String {
    let readme = repository::text("README.md");
    let (_, behind) = readme.split_once("and paste this:\n\n").expect("a session to paste");
    let (session, _) = behind.split_once("\n\nThe tests").expect("the end of the session");
    session.lines().map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n").collect()
}
