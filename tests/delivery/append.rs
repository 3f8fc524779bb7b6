//! Mail that is appended to files: what other programs read there, what a crash may have left at the end of a mailbox,
//! and files that are not written to.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::time::Duration;

use testkit::process::copy_program;
use testkit::{Process, Session, debian, is_root, succeeds, wait_until};

use crate::support::{MAILRECV, PEER, Scratch};
use crate::{INBOX, send_to_fred, text_of};

/// Other programs read back what was sent.
#[test]
fn mailboxes_are_readable_for_others() {
    let scratch = Scratch::with_config(INBOX);
    let mut session = scratch.greeted();
    let texts = [
        "Subject: one\r\n\r\nFrom here\r\n>From there\r\n",
        "no header at all\r\n",
        "\r\n",
        "Subject: four\r\n\r\nFrom \r\nFrom a@b Sat Nov 21 01:32:50 2026\r\n\r\n\r\n",
    ];
    for text in texts {
        let reply = send_to_fred(&mut session, text.as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
    }
    session.quit();
    let script = "import mailbox\n\
        for message in mailbox.mbox('inbox'):\n\
        \x20   print(message.get_from().split()[0], message['Return-Path'], message['Delivered-To'], message['Subject'],\n\
        \x20         repr(message.get_payload()), len(message.get_all('Received')))";
    let read = scratch.python(script, &[]);
    let about = "sender@client.example <sender@client.example> fred@mx.example";
    assert_eq!(
        read.lines().collect::<Vec<_>>(),
        [
            format!("{about} one '>From here\\n>>From there\\n' 1"),
            format!("{about} None 'no header at all\\n' 1"),
            format!("{about} None '' 1"),
            format!("{about} four '>From \\n>From a@b Sat Nov 21 01:32:50 2026\\n\\n\\n' 1"),
        ]
    );
    let formail = debian::program("procmail", "formail");
    let mut split = scratch.command(&formail, &["-s"]);
    split.arg(&formail).args(["-x", "Return-Path:"]);
    assert_eq!(succeeds(split, &scratch.read("inbox")), " <sender@client.example>\n".repeat(4));
}

#[test]
fn a_new_mailbox_is_for_its_owner_only() {
    let scratch = Scratch::with_config(INBOX);
    let mut session = scratch.greeted();
    session.deliver(&["fred@mx.example"]);
    session.quit();
    assert_eq!(std::fs::metadata(scratch.path("inbox")).unwrap().permissions().mode() & 0o7777, 0o600);
}

/// Two recipients with one file get two copies, under one lock; also if the file has two names.
#[test]
fn recipients_share_a_file() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to one@mx.example append inbox\n\
         deliver rcpt_to two@mx.example append ./inbox\n\
         deliver rcpt_to three@mx.example append link\n",
    );
    symlink("inbox", scratch.path("link")).unwrap();
    let mut session = scratch.greeted();
    let reply = session.deliver(&["one@mx.example", "two@mx.example", "three@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    let mut copies: Vec<String> = scratch
        .read("inbox")
        .lines()
        .filter_map(|line| line.strip_prefix("Delivered-To: "))
        .map(str::to_owned)
        .collect();
    copies.sort();
    assert_eq!(copies, ["one@mx.example", "three@mx.example", "two@mx.example"]);
}

/// Half a message that a crash left at the end is closed off, so that ours is a message of its own.
#[test]
fn a_torn_tail_is_closed_off() {
    const FROM_LINE: &str = "From a@b Sat Nov 21 01:32:50 2026\n";
    for (tail, closed) in [
        ("", "{}"),
        ("From a@b Sat Nov 21 01:32:50 2026\nSubject: whole\n\nwhole\n\n", "{}"),
        ("From a@b Sat Nov 21 01:32:50 2026\nSubject: torn\n\nhalf a li", "{}\n\n"),
        ("From a@b Sat Nov 21 01:32:50 2026\nSubject: torn\n\nhalf\n", "{}\n"),
        (FROM_LINE, "{}\n"),
        ("x", "{}\n\n"),
        ("\n", "{}\n"),
    ] {
        assert_closed(tail, closed);
    }
    assert_closed("Dear Bob,\n\nFrom now on it is 4711", "{}\n\n");
    assert_closed("Dear Bob,\n\nFrog", "{}\n\n");
    assert_closed("Dear Bob,\nFrom", "{}\n\n");
}

/// What ends inside its `From ` line would become a part of the message before it, which has its 250.
#[test]
fn a_torn_from_line_is_completed() {
    const FROM_LINE: &str = "From a@b Sat Nov 21 01:32:50 2026";
    let whole = format!("{FROM_LINE}\nSubject: whole\n\nwhole\n\n");
    for length in 1..=FROM_LINE.len() {
        let scratch = Scratch::with_config(INBOX);
        scratch.write("inbox", format!("{whole}{}", &FROM_LINE[..length]));
        let mut session = scratch.greeted();
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}");
        session.quit();
        let inbox = scratch.read("inbox");
        let messages: Vec<&str> = inbox.split("\n\nFrom ").collect();
        let [first, torn, last] = messages[..] else { panic!("after {length} bytes:\n{inbox}") };
        assert_eq!(format!("{first}\n\n"), whole);
        let words: Vec<&str> = torn.split_ascii_whitespace().collect();
        let [sender, _, _, _, time, year] = words[..] else { panic!("no `From ` line: {torn:?}") };
        assert!(["a@b", "a@", "a", "MAILER-DAEMON"].contains(&sender), "{torn:?}");
        assert_eq!((time.len(), year.len()), (8, 4), "{torn:?}");
        assert!(last.starts_with("sender@client.example "), "{last}");
    }
}

/// Files that are no mailbox, or may lead anywhere, are not written to; the sender keeps the mail.
#[test]
fn odd_files_are_not_written_to() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndebug +\nlimit.smtp_failcmds 100\nlimit.smtp_commands 100\n\
         deliver rcpt_to folder@mx.example append folder\n\
         deliver rcpt_to missing@mx.example append no/such/folder\n\
         deliver rcpt_to fifo@mx.example append fifo\n\
         deliver rcpt_to foreign@mx.example append foreign\n\
         deliver rcpt_to behind@mx.example append ours/inbox\n\
         deliver rcpt_to maildir@mx.example maildir ours/maildir\n\
         deliver rcpt_to linked@mx.example append linked\n\
         deliver rcpt_to fred@mx.example append inbox\n",
    );
    std::fs::create_dir(scratch.path("folder")).unwrap();
    scratch.write("precious", "");
    std::fs::hard_link(scratch.path("precious"), scratch.path("linked")).unwrap();
    assert!(scratch.run("mkfifo", &["fifo"]).status.success());
    symlink("target", scratch.path("foreign")).unwrap();
    let mut names = vec!["folder", "missing", "fifo", "linked"];
    if is_root("a link of somebody else") {
        // Directly, and behind a link of ours to a folder in a folder that is a link.
        std::fs::create_dir_all(scratch.path("elsewhere/folder")).unwrap();
        symlink("elsewhere", scratch.path("theirs")).unwrap();
        symlink("theirs/folder", scratch.path("ours")).unwrap();
        for link in ["foreign", "theirs"] {
            std::os::unix::fs::lchown(scratch.path(link), Some(8), Some(8)).unwrap();
        }
        names.extend(["foreign", "behind", "maildir"]);
    }
    let mut session = scratch.greeted();
    for name in names {
        session.exchange("RSET", "250 ");
        let reply = session.deliver(&["fred@mx.example", &format!("{name}@mx.example")]);
        assert!(reply.starts_with("451 4.3.0 "), "{name}: {reply}");
        let log = scratch.log();
        let line = log.last().unwrap();
        assert!(line.starts_with("[192.0.2.7] ERROR: 451 "), "{name}");
        let words = match name {
            "fifo" => "nobody reads this FIFO",
            "linked" => "the file has 2 names (hard links), as `cp -al` gives them: put a copy in its place",
            _ => "",
        };
        assert!(line.contains(words), "{name}: {line}");
    }
    session.quit();
    assert!(!scratch.path("target").exists());
    assert!(std::fs::read_dir(scratch.path("elsewhere/folder")).map_or(true, |mut names| names.next().is_none()));
    assert_eq!(scratch.read("precious"), "");
    assert_eq!(scratch.read("inbox"), "");
}

/// A user who may write a mailbox, and pass through its folder, but not list that.
#[test]
fn a_folder_that_cannot_be_read_does_not_matter() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to fred@mx.example append mail/inbox\n");
    copy_program(MAILRECV, scratch.path("mailrecv"));
    std::fs::create_dir(scratch.path("mail")).unwrap();
    scratch.write("mail/inbox", "");
    std::os::unix::fs::chown(scratch.path("mail/inbox"), Some(8), Some(8)).unwrap();
    scratch.write("log", "");
    std::os::unix::fs::chown(scratch.path("log"), Some(8), Some(8)).unwrap();
    for folder in ["", "mail"] {
        std::fs::set_permissions(scratch.path(folder), PermissionsExt::from_mode(0o711)).unwrap();
    }
    let user = ["--reuid", "8", "--regid", "8", "--clear-groups", "./mailrecv", "-c", "mailrecv.conf", "-l", "log"];
    let mut command = scratch.command("setpriv", &user);
    command.args(["--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    for copies in [1, 2] {
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}: {:?}", scratch.log());
        assert_eq!(scratch.read("mail/inbox").matches("\nDelivered-To: ").count(), copies);
        session.exchange("RSET", "250 ");
    }
    session.quit();
}

/// A reader that is slow gets the time it needs.
#[test]
fn a_fifo_is_written_to_as_fast_as_it_is_read() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * append fifo\n");
    assert!(scratch.run("mkfifo", &["fifo"]).status.success());
    let mut reader = Process::start(scratch.command("sh", &["-c", "exec < fifo; sleep 1; cat > seen"]));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    let text = text_of(200_000);
    wait_until("a reader", || {
        std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(scratch.path("fifo")).ok()
    });
    session.send(&text);
    session.send("\r\n.\r\n");
    session.expect("250 ");
    session.quit();
    assert_eq!(reader.exit_code(), 0);
    assert!(scratch.read("seen").len() > text.len() * 9 / 10);
}

/// One that takes its time does not keep us from stopping.
#[test]
fn a_request_to_stop_reaches_who_waits_for_the_reader_of_a_fifo() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * append fifo\n");
    assert!(scratch.run("mkfifo", &["fifo"]).status.success());
    let trickle = "import os, time\nfifo = os.open('fifo', os.O_RDONLY)\n\
        while True:\n  if os.read(fifo, 4096): open('begun', 'w').close()\n  time.sleep(0.2)\n";
    let _reader = Process::start(scratch.command(debian::program("python3", "python3"), &["-c", trickle]));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    wait_until("a reader", || {
        std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(scratch.path("fifo")).ok()
    });
    session.send(text_of(3_000_000));
    session.send("\r\n.\r\n");
    wait_until("the beginning of a delivery", || scratch.path("begun").exists().then_some(()));
    assert!(session.is_silent_for(Duration::from_millis(500)), "the reader is slow");
    nix::sys::signal::kill(session.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    session.expect("451 4.3.0 ");
    session.expect("421 4.3.2 ");
    assert_eq!(session.end(), (Vec::new(), 0));
}

/// A file that ends like this is made into that, `{}` standing for what it was, before the next message is appended.
fn assert_closed(mailbox: &str, closed: &str) {
    let closed = closed.replace("{}", mailbox);
    let scratch = Scratch::with_config(INBOX);
    scratch.write("inbox", mailbox);
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    let inbox = scratch.read("inbox");
    assert!(inbox.starts_with(&format!("{closed}From sender@client.example ")), "after {mailbox:?}:\n{inbox}");
}
