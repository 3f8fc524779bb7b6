//! Peers that want more than their share (cases B.8): commands without an end, replies that nobody reads, a hundred
//! thousand commands, a message of one line. Each costs a bounded time and a few megabytes of memory at most.
//!
//! Bytes that come one at a time, and messages of other odd shapes, are in tests/delivery/peers.rs and large.rs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use support::{CONFIG, MAILRECV, PEER, Scratch};
use testkit::process::peak_memory;
use testkit::{Broken, PATIENCE, Session};

const INBOX: &str = "domain mx.example\ndeliver rcpt_to fred@mx.example append inbox\n";

/// Nothing stops a session but time, and that not soon.
const PATIENT: &str = "limit.smtp_commands 1000000000\nlimit.smtp_unknowncmd 1000000000\n\
    limit.smtp_failcmds 1000000000\nlimit.connection_secs 86400\n";

/// As long as its end does not come it is no command, and idle time passes.
#[test]
fn a_command_without_end_is_as_good_as_none() {
    let beginnings: [(&[u8], &[u8]); 5] = [
        (b"", b"x"),
        (b"", b"\0"),
        (b"NOOP ", b"\r"),
        // Bare LF are no line ends once the first line had CRLF.
        (b"NOOP\r\n", b"\n"),
        (b"EHLO me\r\nMAIL FROM:<a@b.example> ", b"SIZE=1 "),
    ];
    for_all(beginnings, |(beginning, endless)| {
        let scratch = Scratch::with_config(&format!("{INBOX}limit.idle_secs 2\nlimit.connection_secs 60\n"));
        let start = Instant::now();
        let mut session = scratch.greeted();
        let memory = Memory::watch(session.pid());
        session.send(beginning);
        let pieces = endless.repeat(64 * 1024 / endless.len());
        // Until it hangs up.
        while start.elapsed() < PATIENCE && session.send_within(&pieces, PATIENCE) {}
        assert!(start.elapsed() >= Duration::from_secs(2), "{endless:?}");
        assert_eq!(session.exit_code(), 0, "{endless:?}");
        assert_eq!(scratch.log(), ["[192.0.2.7] ERROR: 421 Idle for too long."], "{endless:?}");
        memory.assert_little(endless);
    });
}

/// Ten megabytes of commands, and none of the replies is ever read.
#[test]
fn commands_whose_replies_are_not_read_end_the_session() {
    let commands = ["NOOP", "VRFY fred", "EHLO client.example", "RSET", "FOO", "RCPT TO:<fred@mx.example>"];
    for_all(commands, |command| {
        let scratch = Scratch::with_config(&format!("{INBOX}{PATIENT}limit.idle_secs 2\nlimit.connection_secs 5\n"));
        let mut session = scratch.greeted();
        let memory = Memory::watch(session.pid());
        let line = format!("{command}\r\n");
        session.send_without_reading(line.repeat(10_000_000 / line.len()).as_bytes(), PATIENCE);
        // That we are still there makes no difference to it.
        assert_eq!(session.exit_code(), 0, "{command}");
        memory.assert_little(command);
    });
}

/// With the limits out of the way, each gets its reply, and memory does not grow with them.
#[test]
fn very_many_commands_take_little_memory() {
    let repeated: [(&str, &[&str], &str); 6] = [
        ("RSET", &["HELO client.example"], "250 "),
        ("EHLO client.example", &[], "250-"),
        ("MAIL FROM:<a@b.example>\r\nRSET", &["HELO client.example"], "250 "),
        ("FOO", &["HELO client.example"], "500 "),
        ("RCPT TO:<nobody@mx.example>", &["HELO client.example", "MAIL FROM:<>"], "550 "),
        // The first hundred are accepted.
        ("RCPT TO:<fred@mx.example>", &["HELO client.example", "MAIL FROM:<>"], ""),
    ];
    for_all(repeated, |(command, before, reply)| {
        let scratch = Scratch::with_config(&format!("{INBOX}{PATIENT}logfile /dev/null\n"));
        let mut session = Session::start(scratch.command(MAILRECV, &["-c", CONFIG, "--peer", PEER]));
        session.expect("220 ");
        let memory = Memory::watch(session.pid());
        for line in before {
            session.exchange(line, "250 ");
        }
        let replies = command.lines().count();
        for _ in 0..COMMANDS / BATCH {
            session.send(format!("{command}\r\n").repeat(BATCH));
            for _ in 0..BATCH * replies {
                session.expect(reply);
            }
        }
        session.quit();
        memory.assert_little(command);
    });
}

/// `limit.smtp_commands` counts exactly, however large it is.
#[test]
fn the_limit_of_commands_is_exact() {
    let scratch = Scratch::with_config(&format!(
        "domain mx.example\nlimit.smtp_commands {COMMANDS}\nlimit.connection_secs 86400\n"
    ));
    let mut session = scratch.greeted();
    for _ in 0..COMMANDS / BATCH {
        session.send("NOOP\r\n".repeat(BATCH));
        for _ in 0..BATCH {
            session.expect("250 ");
        }
    }
    session.exchange("NOOP", "421 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.end(), (Vec::new(), 0));
}

/// A recipient that cannot go with the others is asked about before it is put off, which may try a thousand patterns. Who
/// names many of them keeps us no busier for that.
#[test]
fn recipients_that_are_put_off_run_no_rules() {
    let scratch = Scratch::with_config(ALL_TO_A_COMMAND);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    session.exchange("RCPT TO:<first@mx.example>", "250 ");
    for number in 0..500 {
        session.exchange(&format!("RCPT TO:<r{number}@mx.example>"), "452 4.5.3 ");
    }
    session.quit();
    assert_eq!(decisions(&scratch), 1 + 10);
}

#[test]
fn a_recipient_that_comes_again_is_decided_once() {
    let scratch = Scratch::with_config(ALL_TO_A_COMMAND);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    // As somebody does who was put off, and somebody who wants to keep us busy.
    for _ in 0..5 {
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        session.exchange("RCPT TO:<first@mx.example>", "250 ");
        session.exchange("RCPT TO:<second@mx.example>", "452 4.5.3 ");
        session.exchange("RSET", "250 ");
    }
    session.quit();
    assert_eq!(decisions(&scratch), 2);
}

/// What counts as no command is bounded for the connection: neither another transaction nor a message that is accepted
/// starts it anew. Nor do thousands of refusals for one reason make thousands of lines.
#[test]
fn a_connection_names_a_bounded_number_of_recipients() {
    let scratch = Scratch::with_config(&ALL_TO_A_COMMAND.replace("debug r", "debug -"));
    let mut session = scratch.greeted();
    session.exchange("HELO client.example", "250 ");
    let mut answered = 0;
    // Eleven transactions take the commands that there are until a message is accepted, and then anew.
    let mut transaction = |has_message: bool| -> Result<bool, Broken> {
        if !session.try_ask("MAIL FROM:<a@b.example>")?.starts_with("250 ") {
            return Ok(false);
        }
        for _ in 0..11 {
            let names = answered..answered + 100;
            session.send(names.map(|number| format!("RCPT TO:<r{number}@mx.example>\r\n")).collect::<String>());
            for _ in 0..100 {
                if session.try_reply()?.starts_with("421 ") {
                    return Ok(false);
                }
                answered += 1;
            }
        }
        let end = if has_message && session.try_ask("DATA")?.starts_with("354 ") { "x\r\n." } else { "RSET" };
        Ok(session.try_ask(end)?.starts_with("250 "))
    };
    for number in 1..=24 {
        if transaction(number % 12 == 0) != Ok(true) {
            break;
        }
    }
    assert_eq!(session.hang_up().exit_code(), 0);
    assert!((2000..2200).contains(&answered), "{answered} recipients");
    let log = scratch.log();
    assert!(log.len() < 20, "{} lines: {:?}", log.len(), log.last());
    assert!(log.iter().any(|line| line.ends_with("(1000 such refusals until now)")), "{log:?}");
}

/// Both bounds, to the command: what counts for nothing does so until MAIL and RCPT are two thousand and a message's
/// recipients, and two thousand are enough for another transaction not to begin.
#[test]
fn the_bound_of_recipients_is_exact() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.smtp_rcpt_to 1\nlimit.smtp_commands 10\n"));
    for ends_with_mail in [false, true] {
        let mut session = scratch.greeted();
        session.exchange("HELO client.example", "250 ");
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        let mut name = |recipient: &str, count: usize, reply: &str| {
            session.send(format!("RCPT TO:<{recipient}@mx.example>\r\n").repeat(count));
            (0..count).for_each(|_| drop(session.expect(reply)));
        };
        name("fred", 1999, "250 ");
        if ends_with_mail {
            session.exchange("DATA", "354 ");
            session.exchange("x\r\n.", "250 ");
            session.exchange("MAIL FROM:<sender@client.example>", "421 Enough mail for one connection");
        } else {
            name("other", 1, "452 ");
            // HELO and MAIL are two of ten.
            name("other", 8, "452 ");
            name("fred", 1, "421 Too many SMTP commands");
        }
        assert_eq!(session.end(), (Vec::new(), 0));
    }
}

/// How often rules were tried, going by the flag `r`.
fn decisions(scratch: &Scratch) -> usize {
    scratch.log().iter().filter(|line| line.contains("'*@mx.example'")).count()
}

const ALL_TO_A_COMMAND: &str = "domain mx.example\ndebug r\ndeliver rcpt_to *@mx.example pipe cat > /dev/null\n";

/// 60 MB in one line: stored, or refused when all of it has been read.
#[test]
fn a_large_message_of_one_line_takes_little_memory() {
    for_all([("limit.smtp_data_size 0\n", "250 "), ("", "552 ")], |(limit, reply)| {
        let scratch = Scratch::with_config(&format!("{INBOX}{limit}"));
        let mut session = scratch.greeted();
        let memory = Memory::watch(session.pid());
        session.begin_message(&["fred@mx.example"]);
        let piece = vec![b'x'; 1_000_000];
        for _ in 0..60 {
            session.send(&piece);
        }
        session.send("\r\n.\r\n");
        session.expect(reply);
        session.quit();
        memory.assert_little(limit);
        let stored = std::fs::metadata(scratch.path("inbox")).map_or(0, |file| file.len());
        assert_eq!(stored > 60_000_000, reply == "250 ", "{stored}");
    });
}

const COMMANDS: usize = 100_000;

/// How many commands are sent before their replies are read: what both sides' buffers hold.
const BATCH: usize = 200;

/// Runs cases beside each other: most of them wait.
fn for_all<C: Send, const N: usize>(cases: [C; N], test: impl Fn(C) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// Looks at the memory of a process for as long as there is one: its peak is not told afterwards.
struct Memory {
    ended: Arc<AtomicBool>,
    peak: JoinHandle<u64>,
}

impl Memory {
    fn watch(pid: Pid) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        // Once now: it may have ended before the thread runs.
        let mut peak = peak_memory(pid).unwrap_or(0);
        let watch = move || {
            while !seen.load(Ordering::Relaxed) {
                peak = peak.max(peak_memory(pid).unwrap_or(0));
                thread::sleep(Duration::from_millis(20));
            }
            peak
        };
        Self { ended, peak: thread::spawn(watch) }
    }

    #[track_caller]
    fn assert_little(self, what: impl std::fmt::Debug) {
        self.ended.store(true, Ordering::Relaxed);
        let peak = self.peak.join().unwrap();
        assert!((1..2 * 1024).contains(&peak), "{what:?}: {peak} KiB");
    }
}
