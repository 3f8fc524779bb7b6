//! What many recipients, and little room, do to a disk.

use std::fs;

use testkit::{Session, is_root};

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use crate::text_of;

/// A message for many recipients who have their place in common is there once, whatever kind of place it is.
#[test]
fn recipients_with_one_place_share_one_copy() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to *@file.example append inbox\ndeliver rcpt_to *@dir.example maildir dir\n\
         deliver rcpt_to *@log.example print\ncopy rcpt_to * append inbox\n",
    );
    let recipients: Vec<String> = ["file", "dir", "log"]
        .iter()
        .flat_map(|domain| (0..30).map(move |number| format!("r{number}@{domain}.example")))
        .collect();
    let mut session = scratch.greeted();
    session.begin_message(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
    session.send(text_of(200_000));
    session.send(".\r\n");
    session.expect("250 ");
    session.quit();
    let inbox = scratch.read("inbox");
    assert_eq!((inbox.matches("\nSubject: large\n").count(), inbox.matches("\nDelivered-To: ").count()), (1, 90));
    assert_eq!(scratch.count_files("dir/new"), 1);
    let message = fs::read_dir(scratch.path("dir/new")).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read_to_string(message.path()).unwrap().matches("\nDelivered-To: ").count(), 30);
    let log = scratch.log();
    let named = log.iter().find(|line| line.contains("| Envelope recipients: <r0@log.example>, ")).unwrap();
    assert!(named.ends_with(">, and 10 more"), "{named}");
    assert_eq!(log.iter().filter(|line| line.contains("| === NEW EMAIL ===")).count(), 1);
}

/// With too little room anywhere, no message is begun; the sender keeps it, and nothing counts against the peer.
#[test]
fn a_disk_that_is_nearly_full_takes_no_new_message() {
    if !is_root("a file system of 1 MiB") {
        return;
    }
    for config in [
        "deliver rcpt_to * append small/inbox\n",
        "deliver rcpt_to * maildir small/dir\n",
        "deliver rcpt_to * append inbox\nspool_dir small\n",
    ] {
        let scratch = Scratch::with_config(&format!("domain mx.example\nlimit.smtp_failcmds 1\n{config}"));
        fs::create_dir(scratch.path("small")).unwrap();
        let script = "mount -t tmpfs -o size=1m tmpfs small && head -c 1000000 /dev/zero > small/other && exec \"$@\"";
        let mut command = scratch.command("unshare", &["-m", "sh", "-c", script, "sh", MAILRECV]);
        command.args(["-c", CONFIG, "-l", LOG, "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        session.exchange("EHLO client.example", "250-");
        for _ in 0..3 {
            session.exchange("MAIL FROM:<a@b.example>", "452 4.3.1 Not enough room for messages, try again later.");
        }
        let other = format!("/proc/{}/root{}", session.pid(), scratch.path("small/other").display());
        fs::write(other, "").unwrap();
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{config}: {reply}");
        session.quit();
        let log = scratch.log();
        assert!(log[0].starts_with("[192.0.2.7] WARNING: 452 Not enough room for messages"), "{log:?}");
        assert!(log[0].contains(" bytes are free on the file system of "), "{log:?}");
        assert_eq!(log.len(), 3);
    }
}
