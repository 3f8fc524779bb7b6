//! A message goes to all of its destinations or to none: what is refused, by a command or for lack of room, leaves
//! nothing behind.

use testkit::{Session, is_root};

use crate::maildir::messages_in;
use crate::support::{MAILRECV, PEER, Scratch};
use crate::{INBOX, send_to_fred, text_of};

/// Files are prepared, the command decides, then they are kept or taken back.
#[test]
fn a_command_that_fails_takes_the_files_back() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndebug +\n\
         deliver rcpt_to fred@mx.example append inbox\n\
         deliver rcpt_to wilma@mx.example append new\n\
         deliver rcpt_to mail@mx.example maildir dir\n\
         deliver rcpt_to command@mx.example pipe cat > /dev/null; cp inbox seen 2>&1; exit ${STATUS:-0}\n\
         deliver rcpt_to fails@mx.example pipe cat > /dev/null; cp inbox seen; exit 75\n",
    );
    let old = "From a@b Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n";
    scratch.write("inbox", old);
    let mut session = scratch.greeted();
    let all = ["fails@mx.example", "fred@mx.example", "mail@mx.example", "wilma@mx.example"];
    let reply = session.deliver(&all);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    assert!(scratch.read("seen").len() > old.len(), "prepared before the command ran");
    assert_eq!(scratch.read("inbox"), old);
    assert_eq!(scratch.read("new"), "");
    assert_eq!(messages_in(&scratch, "dir"), 0);
    assert_eq!(scratch.log().len(), 1, "no line says `delivered`");

    let all = ["command@mx.example", "fred@mx.example", "mail@mx.example", "wilma@mx.example"];
    let reply = session.deliver(&all);
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    session.quit();
    assert_eq!(scratch.read("inbox").matches("Delivered-To: fred@mx.example\n").count(), 1);
    assert_eq!(scratch.read("new").matches("\nDelivered-To: wilma@mx.example\n").count(), 1);
    assert_eq!(messages_in(&scratch, "dir"), 1);
    let delivered = scratch.log().into_iter().filter(|line| line.ends_with(": delivered")).count();
    assert_eq!(delivered, 4);
}

#[test]
fn a_device_without_room_is_a_full_disk() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to full@mx.example append /dev/full\n\
         deliver rcpt_to fred@mx.example append inbox\n",
    );
    scratch.write("inbox", "From a@b Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n");
    let before = scratch.read("inbox");
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fred@mx.example", "full@mx.example"]);
    assert_eq!(reply, "452 4.3.1 Not enough room for this message, try again later");
    session.exchange("RSET", "250 ");
    session.quit();
    assert_eq!(scratch.read("inbox"), before, "taken back");
    let log = scratch.log();
    assert_eq!(log.len(), 1);
    assert!(
        log[0].starts_with(
            "[192.0.2.7] ERROR: 452 Not enough room for this message, try again later 'full@mx.example' \
             (appending to /dev/full: "
        ),
        "{log:?}"
    );
}

/// A file size limit: the mailbox keeps its length, and the process its life (SIGXFSZ).
#[test]
fn a_file_size_limit_is_a_full_disk() {
    let scratch = Scratch::with_config(INBOX);
    let old = "From a@b Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n";
    scratch.write("inbox", old);
    // The larger one does not even fit into the spool file.
    for size in [150_000, 600_000] {
        let mut command = scratch.command("prlimit", &["--fsize=100000", MAILRECV, "-c", "mailrecv.conf", "-l", "log"]);
        command.args(["--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        let reply = send_to_fred(&mut session, &text_of(size));
        assert_eq!(reply, "452 4.3.1 Not enough room for this message, try again later", "{size}");
        assert_eq!(scratch.read("inbox"), old);
        // And what fits still goes in.
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}");
        session.quit();
        assert!(scratch.read("inbox").starts_with(old));
        scratch.write("inbox", old);
    }
}

/// A log that can hold no more is no reason to say nothing.
#[test]
fn a_file_size_limit_for_the_log_costs_no_reply() {
    let scratch = Scratch::with_config("frobnicate\n");
    scratch.write("log", "x".repeat(4096));
    let mut command = scratch.command("prlimit", &["--fsize=4096", MAILRECV, "-c", "mailrecv.conf", "-l", "log"]);
    command.args(["--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("421 4.3.5 ");
    assert_eq!(session.end().1, 78);
}

/// A real file system that is too small, for the mailbox and for the spool.
#[test]
fn a_full_file_system_takes_nothing_and_loses_nothing() {
    if !is_root("a file system of 1 MiB") {
        return;
    }
    for (config, what) in [
        ("deliver rcpt_to fred@mx.example append small/inbox\n", "mailbox"),
        ("deliver rcpt_to fred@mx.example append inbox\nspool_dir small\n", "spool"),
    ] {
        let scratch = Scratch::with_config(&format!("domain mx.example\n{config}"));
        std::fs::create_dir(scratch.path("small")).unwrap();
        let script = "mount -t tmpfs -o size=1m tmpfs small && exec \"$@\"";
        let mut command = scratch.command("unshare", &["-m", "sh", "-c", script, "sh", MAILRECV]);
        command.args(["-c", "mailrecv.conf", "-l", "log", "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        // What the process sees below its folder, which is not what we see there.
        let seen = |name: &str| {
            let root = format!("/proc/{}/root{}", session.pid(), scratch.path(name).display());
            std::fs::read(root).unwrap_or_default()
        };
        let inbox = if what == "mailbox" { "small/inbox" } else { "inbox" };
        assert_eq!(seen(inbox).len(), 0);
        let pid = session.pid();
        let reply = send_to_fred(&mut session, &text_of(500_000));
        assert!(reply.starts_with("250 "), "{what}: {reply}");
        let path = format!("/proc/{pid}/root{}", scratch.path(inbox).display());
        let before = std::fs::read(&path).unwrap();
        let reply = send_to_fred(&mut session, &text_of(1_500_000));
        assert_eq!(reply, "452 4.3.1 Not enough room for this message, try again later", "{what}");
        assert!(std::fs::read(&path).unwrap() == before, "{what}: the mailbox is as it was");
        let reply = send_to_fred(&mut session, &text_of(100_000));
        assert!(reply.starts_with("250 "), "{what}: {reply}");
        session.quit();
    }
}
