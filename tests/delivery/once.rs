//! `exactly_once`: a message that comes again is delivered again only if its sender knew that we have it.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use testkit::{Session, Upstream, debian, wait_until};

use crate::SLOW;
use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

/// A message that has all that a copy could be torn or mistaken by.
pub const TEXT: &str = "Subject: once\r\nStatus: RO\r\n\r\nFrom here\r\n..\r\nto there\r\n";

/// Each destination, and a command that counts the messages there.
const DESTINATIONS: &[(&str, &str)] = &[
    ("append inbox", "grep -cx 'Subject: once' inbox"),
    ("maildir dir", "ls dir/new dir/cur | grep -c M"),
    ("eml files", "ls files | wc -l"),
    ("pipe cat >> piped", "grep -cx 'Subject: once' piped"),
    ("pipe_raw cat >> piped", "grep -cx 'Subject: once' piped"),
    ("print", "grep -c 'Subject: once' log"),
];

fn scratch(destinations: &str) -> Scratch {
    Scratch::with_config(&format!(
        "domain mx.example\ndebug +w\nexactly_once once\nmetrics_file counted\n{destinations}"
    ))
}

pub fn to_fred(destination: &str) -> Scratch {
    scratch(&format!("deliver rcpt_to fred@mx.example {destination}\n"))
}

/// A session in which the text of a message has been sent, but for its end.
pub fn begun(scratch: &Scratch, recipients: &[&str]) -> Session {
    let mut session = scratch.greeted();
    session.begin_message(recipients);
    session.send(TEXT);
    session
}

/// A message whose sender is gone before it has read the 250, which has left. What it sends behind the dot it has not
/// waited to send.
pub fn unread(scratch: &Scratch, recipients: &[&str], behind_the_dot: &str) {
    let logged = || scratch.log().iter().filter(|line| line.contains("Mail id=")).count();
    let mut session = begun(scratch, recipients);
    let before = logged();
    session.send(format!(".\r\n{behind_the_dot}"));
    // The log hears of it when the 250 has left.
    wait_until("the delivery", || (logged() > before).then_some(()));
    session.reset().exit_code();
}

/// The answer to the same message in another session, which ends as it should.
pub fn again(scratch: &Scratch, recipients: &[&str]) -> String {
    let mut session = begun(scratch, recipients);
    session.send(".\r\n");
    let reply = session.reply();
    session.quit();
    reply.to_string()
}

fn count(scratch: &Scratch, command: &str) -> String {
    let counted = scratch.command("sh", &["-c", command]).stderr(Stdio::null()).output().unwrap();
    String::from_utf8(counted.stdout).unwrap().trim().to_owned()
}

/// The 250 was not read: the message is there once, and whoever sends it again is told by which name.
#[test]
fn what_comes_again_is_not_delivered_again() {
    for (destination, counting) in DESTINATIONS {
        let scratch = to_fred(destination);
        unread(&scratch, &["fred@mx.example"], "");
        let first = scratch
            .log()
            .iter()
            .find_map(|line| line.split_once("; message ")?.1.split_once(' ').map(|it| it.0.to_owned()));
        let first = first.unwrap_or_else(|| panic!("{destination}: {:?}", scratch.log()));
        for _ in 0..2 {
            let reply = again(&scratch, &["fred@mx.example"]);
            // The second time it has been told.
            if reply != format!("250 2.0.0 Message accepted for delivery before, id={first}") {
                assert!(
                    count(&scratch, counting) == "2"
                        && reply.starts_with("250 2.0.0 Message accepted for delivery, id="),
                    "{destination}: {reply}"
                );
                break;
            }
            assert_eq!(count(&scratch, counting), "1", "{destination}: {reply}");
            let log = scratch.log();
            assert!(log.iter().any(|line| line.ends_with(&format!("delivered before as {first}"))), "{log:?}");
        }
        assert_eq!(count(&scratch, counting), "2", "{destination}");
    }
}

/// Who has shown that it read the 250, by QUIT or by any other command, means the second message.
#[test]
fn what_was_confirmed_is_forgotten() {
    let scratch = to_fred("append inbox");
    for number in 1..=2 {
        assert!(again(&scratch, &["fred@mx.example"]).contains("delivery, id="));
        assert_eq!(count(&scratch, DESTINATIONS[0].1), number.to_string());
    }
    for number in 3..=4 {
        let mut session = begun(&scratch, &["fred@mx.example"]);
        session.send(".\r\n");
        session.expect("250 ");
        session.exchange("NOOP", "250 ");
        session.reset().exit_code();
        assert_eq!(count(&scratch, DESTINATIONS[0].1), number.to_string());
    }
}

/// What was sent ahead, behind the dot, shows nothing (RFC 2920): whether we have read it when the 250 leaves, or not yet.
#[test]
fn what_was_sent_ahead_confirms_nothing() {
    for ahead in ["NOOP\r\n", "QUIT\r\n", "MAIL FROM:<a@client.example>\r\nRCPT TO:<fred@mx.example>\r\n"] {
        let scratch = to_fred("append inbox");
        unread(&scratch, &["fred@mx.example"], ahead);
        let reply = again(&scratch, &["fred@mx.example"]);
        assert!(reply.contains("delivery before, id="), "{ahead}: {reply}");
        assert_eq!(count(&scratch, DESTINATIONS[0].1), "1", "{ahead}");

        let scratch = to_fred(&format!("pipe {SLOW}; echo x >> runs"));
        let mut session = begun(&scratch, &["fred@mx.example"]);
        session.send(".\r\n");
        wait_until("the command", || scratch.path("begun").exists().then_some(()));
        session.send(ahead);
        scratch.write("go", "");
        session.expect("250 ");
        // It is answered, so it was read, and by now forgotten if it is to be.
        session.expect("2");
        session.reset().exit_code();
        let reply = again(&scratch, &["fred@mx.example"]);
        assert!(reply.contains("delivery before, id="), "{ahead}: {reply}");
        assert_eq!(scratch.read("runs"), "x\n", "{ahead}");
    }
}

/// Half a command is none, nor is an end of the connection.
#[test]
fn what_is_no_command_confirms_nothing() {
    for piece in ["", "Q", "QUIT", "QUIT\r", "NOOP\n"] {
        let scratch = to_fred("append inbox");
        for is_reset in [false, true] {
            let mut session = begun(&scratch, &["fred@mx.example"]);
            session.send(".\r\n");
            session.expect("250 ");
            session.send(piece);
            session.until_read();
            let mut process = if is_reset { session.reset() } else { session.hang_up() };
            assert_eq!(process.exit_code(), 0);
        }
        let reply = again(&scratch, &["fred@mx.example"]);
        assert!(reply.contains("delivery before, id="), "{piece:?}: {reply}");
        assert_eq!(count(&scratch, DESTINATIONS[0].1), "1", "{piece:?}");
        let log = scratch.log();
        let warned = log.iter().filter(|line| line.contains("if the peer has not read that it will send it again"));
        assert_eq!(warned.count(), 2, "{piece:?}: {log:#?}");
    }
}

/// One message, twice in one session, is two.
#[test]
fn one_session_can_send_a_message_twice() {
    let scratch = to_fred("append inbox");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    let message = format!("MAIL FROM:<a@client.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\n{TEXT}.\r\n");
    session.send(message.repeat(2));
    for reply in ["250 ", "250 ", "354 ", "250 ", "250 ", "250 ", "354 ", "250 "] {
        session.expect(reply);
    }
    session.quit();
    assert_eq!(count(&scratch, DESTINATIONS[0].1), "2");
}

/// If the sender has read neither answer to the two, both come again, and neither is delivered again: in one session or
/// in two, sent ahead or one after the other.
#[test]
fn what_was_sent_twice_comes_again_twice() {
    let message = format!("MAIL FROM:<sender@client.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\n{TEXT}.\r\n");
    for (destination, counting) in DESTINATIONS {
        for sent_ahead in [Some(true), Some(false), None] {
            let what = format!("{destination}, {sent_ahead:?}");
            let scratch = to_fred(destination);
            let mut session = scratch.greeted();
            session.exchange("EHLO client.example", "250-");
            session.send(message.repeat(2));
            let logged = || scratch.log().iter().filter(|line| line.contains("Mail id=")).count() == 2;
            wait_until("both deliveries", || logged().then_some(()));
            session.reset().exit_code();
            assert_eq!(count(&scratch, counting), "2", "{what}");
            let replies: Vec<String> = match sent_ahead {
                None => (0..2).map(|_| again(&scratch, &["fred@mx.example"])).collect(),
                Some(sent_ahead) => {
                    let mut session = scratch.greeted();
                    session.exchange("EHLO client.example", "250-");
                    if sent_ahead {
                        session.send(message.repeat(2));
                    }
                    let mut reply = || {
                        if !sent_ahead {
                            session.send(&message);
                        }
                        (0..4).map(|_| session.reply().to_string()).last().unwrap()
                    };
                    let replies = vec![reply(), reply()];
                    session.quit();
                    replies
                }
            };
            assert!(replies.iter().all(|reply| reply.contains("delivery before, id=")), "{what}: {replies:?}");
            assert_ne!(replies[0], replies[1], "{what}");
            assert_eq!(count(&scratch, counting), "2", "{what}");
            if sent_ahead != Some(true) {
                assert!(again(&scratch, &["fred@mx.example"]).contains("delivery, id="), "{what}");
                assert_eq!(count(&scratch, counting), "3", "{what}");
            }
        }
    }
}

/// A session was killed when its mailbox had the message, and before a command had taken it. If the command then refuses
/// the message, the mailbox is as it was; but where another message stands behind it, nothing is cut off.
#[test]
fn what_a_killed_session_left_goes_with_a_refusal() {
    let command = "touch begun; until test -e go; do sleep 0.02; done; exit $(cat go)";
    let scratch = scratch(&format!(
        "deliver rcpt_to wilma@mx.example append inbox\n\
         deliver rcpt_to fred@mx.example append inbox\ncopy rcpt_to fred@mx.example pipe {command}\n"
    ));
    again(&scratch, &["wilma@mx.example"]);
    let before = scratch.read("inbox");
    let kill_one = || {
        let _ = fs::remove_file(scratch.path("begun"));
        let mut session = begun(&scratch, &["fred@mx.example"]);
        session.send(".\r\n");
        wait_until("the command", || scratch.path("begun").exists().then_some(()));
        kill(session.pid(), Signal::SIGKILL).unwrap();
        assert_eq!(session.exit_code(), 128 + 9);
    };
    for (status, answer) in [("65", "554 "), ("75", "451 ")] {
        kill_one();
        assert_ne!(scratch.read("inbox"), before, "{status}");
        scratch.write("go", status);
        let reply = again(&scratch, &["fred@mx.example"]);
        assert!(reply.starts_with(answer), "{reply}");
        assert_eq!(scratch.read("inbox"), before, "{status}");
        fs::remove_file(scratch.path("go")).unwrap();
    }
    for (is_last, status, expected) in [(true, "0", "2"), (false, "0", "4"), (false, "75", "6")] {
        let _ = fs::remove_file(scratch.path("go"));
        kill_one();
        if !is_last {
            again(&scratch, &["wilma@mx.example"]);
        }
        scratch.write("go", status);
        again(&scratch, &["fred@mx.example"]);
        assert_eq!(count(&scratch, DESTINATIONS[0].1), expected, "{is_last}, {status}");
    }
}

/// What one recipient shares with another, who may have had a 250 for it, is not cut off because one of them is refused.
#[test]
fn what_a_killed_session_left_stays_if_anybody_may_have_it() {
    let command = "touch begun; until test -e go; do sleep 0.02; done; exit 65";
    let both = ["fred@mx.example", "wilma@mx.example"];
    for (second, is_read, third, expected) in [
        (&both[..0], true, &both[..], 0),
        (&both[1..], true, &both[..1], 1),
        (&both[1..], false, &both[..1], 1),
        (&both[1..], true, &both[..], 1),
        (&both[1..], false, &both[..], 1),
    ] {
        let scratch = scratch(&format!(
            "deliver rcpt_to *@mx.example append inbox\ncopy rcpt_to fred@mx.example pipe {command}\n"
        ));
        let mut session = begun(&scratch, &both);
        session.send(".\r\n");
        wait_until("the command", || scratch.path("begun").exists().then_some(()));
        kill(session.pid(), Signal::SIGKILL).unwrap();
        assert_eq!(session.exit_code(), 128 + 9);
        scratch.write("go", "");
        if !second.is_empty() {
            let mut session = begun(&scratch, second);
            session.send(".\r\n");
            assert!(session.expect("250 ").contains("delivery before, id="));
            if is_read { session.quit() } else { assert_eq!(session.reset().exit_code(), 0) }
        }
        let reply = again(&scratch, third);
        assert!(reply.starts_with("554 "), "{second:?}, {third:?}: {reply}");
        let copies = scratch.read("inbox").matches("Delivered-To: wilma@").count();
        assert_eq!(copies, expected, "{second:?}, {is_read}, {third:?}");
    }
}

/// Another sender, recipient, destination or text is another message.
#[test]
fn what_is_not_the_same_is_delivered() {
    let scratch = scratch("deliver rcpt_to *@mx.example append inbox\n");
    unread(&scratch, &["fred@mx.example"], "");
    assert!(again(&scratch, &["fred@MX.example"]).contains("delivery before, id="));
    unread(&scratch, &["fred@mx.example"], "");
    assert!(again(&scratch, &["wilma@mx.example"]).contains("delivery, id="));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send(format!("Received: by another.example\r\n{TEXT}.\r\n"));
    assert!(session.reply().contains("delivery, id="));
    session.quit();
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send(format!("{TEXT}.\r\n"));
    assert!(session.reply().contains("delivery, id="));
    session.quit();
    let config = scratch.read(CONFIG).replace("append inbox", "append other");
    scratch.write(CONFIG, config);
    assert!(again(&scratch, &["fred@mx.example"]).contains("delivery, id="));
    assert_eq!(count(&scratch, "cat inbox other | grep -cx 'Subject: once'"), "6");
}

/// Who comes again with some more recipients, or some less: each has the message once.
#[test]
fn each_recipient_has_it_once() {
    let scratch = scratch(
        "deliver rcpt_to fred@mx.example append inbox\ndeliver rcpt_to wilma@mx.example append inbox\n\
         deliver rcpt_to barney@mx.example maildir dir\ncopy rcpt_to fred@mx.example maildir dir\n",
    );
    unread(&scratch, &["fred@mx.example"], "");
    let delivered_to =
        |name: &str| count(&scratch, &format!("cat inbox dir/new/* | grep -cx 'Delivered-To: {name}@mx.example'"));
    assert_eq!(["fred", "wilma", "barney"].map(delivered_to), ["2", "0", "0"]);
    let reply = again(&scratch, &["fred@mx.example", "wilma@mx.example", "barney@mx.example"]);
    assert!(reply.contains("delivery, id="), "{reply}");
    assert_eq!(["fred", "wilma", "barney"].map(delivered_to), ["2", "1", "1"]);
    unread(&scratch, &["fred@mx.example", "wilma@mx.example"], "");
    assert_eq!(["fred", "wilma", "barney"].map(delivered_to), ["4", "2", "1"]);
    assert!(again(&scratch, &["wilma@mx.example"]).contains("delivery before, id="));
    assert_eq!(["fred", "wilma", "barney"].map(delivered_to), ["4", "2", "1"]);
}

/// By which command, with which parameters and line ends a message comes does not matter.
#[test]
fn another_way_to_send_it_is_no_other_message() {
    let with_lf = TEXT.replace('\r', "");
    let chunk = |text: &str, last: &str| format!("BDAT {}{last}\r\n{text}", text.len());
    let unstuffed = TEXT.replace("\r\n..", "\r\n.");
    let (one, other) = unstuffed.split_at(20);
    let ways = [
        ("\r\n", "", format!("DATA\r\n{TEXT}.\r\n")),
        ("\r\n", " BODY=8BITMIME", format!("DATA\r\n{TEXT}.\r\n")),
        ("\r\n", " BODY=8BITMIME SMTPUTF8", format!("DATA\r\n{}.\r\n", TEXT.replace("\r\nto", "\r\n.to"))),
        ("\r\n", " SIZE=100", chunk(&unstuffed, " LAST")),
        ("\r\n", "", chunk(one, "") + &chunk(other, "") + &chunk("", " LAST")),
        ("\n", "", format!("DATA\n{with_lf}.\n")),
    ];
    let scratch = scratch("limit.smtp_ascii off\ndeliver rcpt_to fred@mx.example append inbox\n");
    unread(&scratch, &["fred@mx.example"], "");
    for (end, parameters, text) in ways {
        let mut session = scratch.greeted();
        let commands = ["EHLO client.example", "MAIL FROM:<sender@client.example>", "RCPT TO:<fred@mx.example>"];
        session.send(format!("{}{end}{}{parameters}{end}{}{end}{text}", commands[0], commands[1], commands[2]));
        let reply = std::iter::repeat_with(|| session.reply().to_string()).find(|it| it.contains("id="));
        assert!(reply.as_ref().is_some_and(|reply| reply.contains("delivery before, id=")), "{text:?}: {reply:?}");
        assert_eq!(session.reset().exit_code(), 0);
    }
    assert_eq!(count(&scratch, DESTINATIONS[0].1), "1");
}

/// Any command shows it, also one that is refused or none that we know.
#[test]
fn whatever_the_command_is_it_confirms() {
    for command in
        ["RSET", "EHLO client.example", "MAIL FROM:<a@client.example>", "STARTTLS", "VRFY x", "\u{7f}nothing", ""]
    {
        let scratch = to_fred("append inbox");
        let mut session = begun(&scratch, &["fred@mx.example"]);
        session.send(".\r\n");
        session.expect("250 ");
        session.send(format!("{command}\r\n"));
        session.reply();
        assert_eq!(session.reset().exit_code(), 0);
        let reply = again(&scratch, &["fred@mx.example"]);
        assert!(reply.contains("delivery, id="), "{command}: {reply}");
    }
}

/// LMTP: who was answered for and who was not.
#[test]
fn each_answer_of_lmtp_is_for_itself() {
    let scratch = scratch(&format!(
        "protocol lmtp\ndeliver rcpt_to fred@mx.example append fred\ndeliver rcpt_to slow@mx.example pipe {SLOW}\n"
    ));
    let begin = || {
        let mut session = scratch.greeted();
        session.exchange("LHLO mta.example", "250-");
        session.exchange("MAIL FROM:<a@client.example>", "250 ");
        session.exchange("RCPT TO:<fred@mx.example>", "250 ");
        session.exchange("RCPT TO:<slow@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.send(format!("{TEXT}.\r\n"));
        session
    };
    let mut session = begin();
    session.expect("250 ");
    wait_until("the command", || scratch.path("begun").exists().then_some(()));
    let mut process = session.reset();
    scratch.write("go", "");
    assert_eq!(process.exit_code(), 0);
    let mut session = begin();
    assert!(session.reply().contains("delivery before, id="));
    assert!(session.reply().contains("delivery before, id="));
    session.quit();
    assert_eq!(count(&scratch, "cat fred slow | grep -cx 'Subject: once'"), "2");
}

/// LMTP: who is named twice has one copy, also when the message comes again.
#[test]
fn a_recipient_who_is_named_twice_has_it_once() {
    for destination in ["append fred", "pipe cat >> fred"] {
        let scratch = scratch(&format!("protocol lmtp\ndeliver rcpt_to fred@mx.example {destination}\n"));
        for _ in 0..3 {
            let mut session = scratch.greeted();
            session.exchange("LHLO mta.example", "250-");
            session.exchange("MAIL FROM:<a@client.example>", "250 ");
            session.exchange("RCPT TO:<fred@mx.example>", "250 ");
            session.exchange("RCPT TO:<fred@mx.example>", "250 ");
            session.exchange("DATA", "354 ");
            session.send(format!("{TEXT}.\r\n"));
            session.expect("250 ");
            session.expect("250 ");
            session.reset().exit_code();
            assert_eq!(count(&scratch, "grep -cx 'Subject: once' fred"), "1", "{destination}");
        }
    }
}

/// A message that another session delivers just now is waited for.
#[test]
fn one_message_in_two_sessions_is_delivered_once() {
    let scratch = to_fred(&format!("pipe echo x >> runs; {SLOW}"));
    let mut first = begun(&scratch, &["fred@mx.example"]);
    first.send(".\r\n");
    wait_until("the command", || scratch.path("begun").exists().then_some(()));
    let mut second = begun(&scratch, &["fred@mx.example"]);
    second.send(".\r\n");
    second.until_read();
    scratch.write("go", "");
    let (first_reply, second_reply) = (first.reply(), second.reply());
    assert!(first_reply.contains("delivery, id="), "{first_reply}");
    assert!(second_reply.contains("delivery before, id="), "{second_reply}");
    assert_eq!(scratch.read("runs"), "x\n");
    first.quit();
    second.quit();
}

/// A command that fails has taken nothing over: the message is delivered when it comes again, and what was kept beside the
/// command is there once.
#[test]
fn what_was_refused_is_no_delivery() {
    let scratch = scratch(
        "deliver rcpt_to fred@mx.example append inbox\ncopy rcpt_to fred@mx.example pipe cat >> piped; test -e go\n",
    );
    let reply = again(&scratch, &["fred@mx.example"]);
    assert!(reply.starts_with("451 "), "{reply}");
    assert_eq!(count(&scratch, DESTINATIONS[0].1), "0");
    scratch.write("go", "");
    assert!(again(&scratch, &["fred@mx.example"]).contains("delivery, id="));
    assert_eq!(count(&scratch, DESTINATIONS[0].1), "1");
}

/// In doubt a message is delivered: the table is gone, damaged, of another form, or open to others.
#[test]
fn without_records_it_is_delivered() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &str); 5] = [
        ("gone", |folder| fs::remove_dir_all(folder).unwrap(), ""),
        (
            "damaged",
            |folder| {
                let table = fs::OpenOptions::new().read(true).write(true).open(folder.join("records")).unwrap();
                let mut content = fs::read(folder.join("records")).unwrap();
                let at = content.windows(9).position(|word| word == b"delivered").unwrap();
                content[at] = b'D';
                table.write_all_at(&content[at..=at], at as u64).unwrap();
            },
            "",
        ),
        ("another form", |folder| fs::write(folder.join("records"), "x").unwrap(), "not of this form"),
        (
            "open",
            |folder| fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap(),
            "others can write to it",
        ),
        (
            "readable",
            |folder| {
                fs::set_permissions(folder.join("records"), fs::Permissions::from_mode(0o644)).unwrap();
            },
            "no file that is ours alone",
        ),
    ];
    for (what, damage, said) in damages {
        let scratch = to_fred("append inbox");
        unread(&scratch, &["fred@mx.example"], "");
        damage(&scratch.path("once"));
        let reply = again(&scratch, &["fred@mx.example"]);
        assert!(reply.contains("delivery, id="), "{what}: {reply}");
        assert_eq!(count(&scratch, DESTINATIONS[0].1), "2", "{what}");
        let warnings: Vec<_> = scratch.log().into_iter().filter(|line| line.contains("exactly_once")).collect();
        assert_eq!(warnings.len(), usize::from(!said.is_empty()), "{what}: {warnings:?}");
        assert!(warnings.iter().all(|line| line.contains(said)), "{what}: {warnings:?}");
    }
}

/// The table is open before the session confines itself.
#[test]
fn a_strict_sandbox_does_not_stand_in_the_way() {
    for number in [0, 1, 2, 3] {
        let (destination, counting) = DESTINATIONS[number];
        let scratch = scratch(&format!("sandbox strict required\ndeliver rcpt_to fred@mx.example {destination}\n"));
        unread(&scratch, &["fred@mx.example"], "");
        assert!(again(&scratch, &["fred@mx.example"]).contains("delivery before, id="), "{destination}");
        assert_eq!(count(&scratch, counting), "1", "{destination}");
        let log = scratch.log();
        assert!(log.iter().all(|line| !line.contains("exactly_once")), "{log:?}");
    }
}

/// A session that is killed when its record is durable and its mailbox is written to, and not synced.
pub fn killed(scratch: &Scratch, recipients: &[&str]) {
    let mut strace = debian::command("strace", "strace");
    strace.args(["-o", "/dev/null", "-e", "inject=fdatasync:signal=KILL:when=2", MAILRECV]);
    strace.args(["-c", CONFIG, "-l", LOG, "--peer", PEER]).current_dir(scratch.path(""));
    let mut session = Session::start_with_stderr(strace, Stdio::null());
    session.expect("220 ");
    session.begin_message(recipients);
    session.send(format!("{TEXT}.\r\n"));
    assert_eq!(session.exit_code(), 128 + 9);
}

/// What a killed session has left at the end of a mailbox is cut off, whatever is missing of it, and the message is there
/// once. But where something stands behind it, nothing is cut off.
#[test]
fn what_is_torn_is_cut_off_if_it_is_known_to_be_ours() {
    let scratch = scratch("deliver rcpt_to *@mx.example append inbox\n");
    // With the first message, the table is made and the new name synced.
    again(&scratch, &["first@mx.example"]);
    let length = || fs::metadata(scratch.path("inbox")).unwrap().len();
    let cut_to = |length| fs::File::options().write(true).open(scratch.path("inbox")).unwrap().set_len(length).unwrap();
    let copies_of = |name: &str| count(&scratch, &format!("grep -cx 'Delivered-To: {name}@mx.example' inbox"));
    let messages = || count(&scratch, "grep -c '^From ' inbox");
    let text = TEXT.replace('\r', "").len() as u64;
    for (number, missing) in [0, 1, 2, 10, text].into_iter().enumerate() {
        let name = format!("fred{number}");
        let address = format!("{name}@mx.example");
        killed(&scratch, &[&address]);
        cut_to(length() - missing);
        let reply = again(&scratch, &[&address]);
        assert_eq!(reply.contains("delivery before, id="), missing == 0, "without its last {missing} octets: {reply}");
        assert_eq!((copies_of(&name), messages()), ("1".to_owned(), (number + 2).to_string()), "{missing}");
    }
    // Others append, and what is torn gets the empty line that ends it.
    killed(&scratch, &["fred@mx.example"]);
    cut_to(length() - 5);
    again(&scratch, &["wilma@mx.example"]);
    assert!(again(&scratch, &["fred@mx.example"]).contains("delivery, id="));
    assert_eq!((copies_of("fred"), copies_of("wilma"), messages()), ("2".to_owned(), "1".to_owned(), "9".to_owned()));
    // Somebody has put other octets in the place of ours.
    killed(&scratch, &["barney@mx.example"]);
    let mailbox = fs::File::options().write(true).open(scratch.path("inbox")).unwrap();
    mailbox.write_all_at(b"X", length() - 10).unwrap();
    let changed = length();
    assert!(again(&scratch, &["barney@mx.example"]).contains("delivery, id="));
    assert!(length() > changed);
}

/// What the next server has it is not sent again, and a command can tell by itself.
#[test]
fn who_has_taken_it_over_is_not_asked_again() {
    let upstream = Upstream::polite();
    let scratch = to_fred(&format!("relay smtp://{}", upstream.address));
    unread(&scratch, &["fred@mx.example"], "");
    assert!(again(&scratch, &["fred@mx.example"]).contains("delivery before, id="));
    assert_eq!(upstream.messages().len(), 1);
    assert!(again(&scratch, &["fred@mx.example"]).starts_with("250 "));
    assert_eq!(upstream.messages().len(), 2);

    let scratch = to_fred("pipe_raw cat > seen; echo \"$MESSAGE_HASH\" >> hashes; test -e go");
    assert!(again(&scratch, &["fred@mx.example"]).starts_with("451 "));
    scratch.write("go", "");
    again(&scratch, &["fred@mx.example"]);
    let hashes = scratch.read("hashes");
    let hashes: Vec<&str> = hashes.lines().collect();
    assert!(hashes.len() == 2 && hashes[0] == hashes[1] && hashes[0].len() == 64, "{hashes:?}");
    let config =
        scratch.read(CONFIG).replace("exactly_once once\n", "").replace("$MESSAGE_HASH", "${MESSAGE_HASH-none}");
    scratch.write(CONFIG, config);
    again(&scratch, &["fred@mx.example"]);
    assert!(scratch.read("hashes").ends_with("\nnone\n"));
}

/// The folder and the table are nobody else's, and nothing is there without the line that asks for it.
#[test]
fn the_table_is_ours_alone() {
    let scratch = to_fred("append inbox");
    again(&scratch, &["fred@mx.example"]);
    let mode = |name: &str| fs::metadata(scratch.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("once"), mode("once/records")), (0o700, 0o600));
    assert_eq!(fs::read_dir(scratch.path("once")).unwrap().count(), 1);
    let config = scratch.read(CONFIG).replace("exactly_once once\n", "");
    let scratch = Scratch::with_config(&config);
    again(&scratch, &["fred@mx.example"]);
    assert!(!scratch.path("once").exists());
}
