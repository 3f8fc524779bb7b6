//! Peers that vanish, trickle or do not read, and sessions that are asked to stop: what was answered 250 is delivered,
//! what was not leaves nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use testkit::process::peak_memory;
use testkit::{Session, wait_until};

use crate::support::{PEER, Scratch};
use crate::{INBOX, SLOW, text_of};

/// A peer that goes away in the middle of a message, with a FIN or with a RST: nothing is delivered, one line in the log
/// says so, and it is no fault of ours.
#[test]
fn a_peer_that_vanishes_leaves_nothing() {
    let scratch = Scratch::with_config(INBOX);
    let parts: [&[u8]; 5] =
        [b"", b"Subject: x\r\n", b"Subject: x\r\n\r\nbody\r\n.", b"Subject: x\r\n.\r", &text_of(600_000)];
    for part in parts {
        for reset in [false, true] {
            let before = scratch.log().len();
            let mut session = scratch.greeted();
            session.begin_message(&["fred@mx.example"]);
            session.send(part);
            session.until_read();
            let mut process = if reset { session.reset() } else { session.hang_up() };
            assert_eq!(process.exit_code(), 0);
            assert!(!scratch.path("inbox").exists());
            let log = scratch.log();
            assert_eq!(log.len(), before + 1, "{log:?}");
            assert!(log[before].starts_with("[192.0.2.7] WARNING: the "), "{log:?}");
            assert!(log[before].ends_with("; nothing was delivered of the message it had begun"), "{log:?}");
        }
    }
}

/// What was answered with 250 stays, whatever the peer does after it, and the log of that session says that it may come
/// again (RFC 1047).
#[test]
fn a_peer_that_vanishes_after_the_message_has_delivered_it() {
    let scratch =
        Scratch::with_config("domain mx.example\ndeliver rcpt_to fred@mx.example pipe sleep 1; cat >> inbox\n");
    for reset in [false, true] {
        for reads_the_reply in [true, false] {
            let before = (scratch.log().len(), delivered_to_inbox(&scratch));
            let mut session = scratch.greeted();
            session.begin_message(&["fred@mx.example"]);
            session.send("x\r\n.\r\n");
            match reads_the_reply {
                true => drop(session.expect("250 ")),
                // A reset takes with it what is not read.
                false => session.until_read(),
            }
            let mut process = if reset { session.reset() } else { session.hang_up() };
            assert_eq!(process.exit_code(), 0);
            assert_eq!(delivered_to_inbox(&scratch), before.1 + 1);
            let log = scratch.log();
            assert_eq!(log.len(), before.0 + 1, "{log:?}");
            assert!(log[before.0].starts_with("[192.0.2.7] WARNING: the "), "{log:?}");
            assert!(
                log[before.0].ends_with(" is delivered, but if the peer has not read that it will send it again"),
                "{log:?}"
            );
        }
    }
}

/// With `exactly_once` the message may come again without harm, and the log says that, too.
#[test]
fn a_peer_that_vanishes_will_be_recognised() {
    let scratch = Scratch::with_config(
        "domain mx.example\nexactly_once once\ndeliver rcpt_to fred@mx.example append inbox\n\
         deliver rcpt_to jim@mx.example discard\n",
    );
    for (recipient, end) in [
        ("fred@mx.example", " it will send it again, and that is not delivered again"),
        // Nothing is kept of it.
        ("jim@mx.example", " it will send it again"),
    ] {
        let mut session = scratch.greeted();
        session.begin_message(&[recipient]);
        session.send("x\r\n.\r\n");
        session.expect("250 ");
        assert_eq!(session.hang_up().exit_code(), 0);
        let log = scratch.log();
        assert!(log.last().is_some_and(|line| line.ends_with(end)), "{log:?}");
    }
}

/// A peer that is gone before the greeting, or that never says anything.
#[test]
fn a_peer_that_only_connects_is_nothing_to_write_about() {
    let scratch = Scratch::with_config(INBOX);
    assert_eq!(scratch.session(&["--peer", PEER]).hang_up().exit_code(), 0);
    assert_eq!(scratch.session(&["--peer", PEER]).reset().exit_code(), 0);
    assert_eq!(scratch.greeted().reset().exit_code(), 0);
    assert_eq!(scratch.log(), Vec::<String>::new());
}

/// SIGTERM: 421 where nothing is half done.
#[test]
fn a_request_to_stop_is_answered_at_the_next_safe_point() {
    let scratch = Scratch::with_config(&format!("{INBOX}deliver rcpt_to slow@mx.example pipe {SLOW}\n"));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // Idle.
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        kill(session.pid(), signal).unwrap();
        assert_eq!(session.reply(), "421 4.3.2 mx.example is shutting down, try again later");
        assert_eq!(session.line(), None);
        assert_eq!(session.end().1, 0);
        // In the middle of a message.
        let mut session = scratch.greeted();
        session.begin_message(&["fred@mx.example"]);
        session.send("Subject: x\r\n");
        session.until_read();
        kill(session.pid(), signal).unwrap();
        session.expect("421 4.3.2 ");
        assert_eq!(session.line(), None);
        assert_eq!(session.end().1, 0);
        assert!(!scratch.path("inbox").exists());
    }
    // Whatever the peer has sent meanwhile is not begun any more.
    let mut session = scratch.greeted();
    kill(session.pid(), Signal::SIGSTOP).unwrap();
    session.send("HELO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\nx\r\n.\r\n");
    kill(session.pid(), Signal::SIGTERM).unwrap();
    kill(session.pid(), Signal::SIGCONT).unwrap();
    session.expect("421 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.end().1, 0);
    assert!(!scratch.path("inbox").exists());
    // During a delivery: it is brought to its end and answered, then the session ends.
    let mut session = scratch.greeted();
    session.begin_message(&["slow@mx.example", "fred@mx.example"]);
    session.send("Subject: x\r\n.\r\n");
    wait_until("the command", || scratch.path("begun").exists().then_some(()));
    kill(session.pid(), Signal::SIGTERM).unwrap();
    scratch.write("go", "");
    session.expect("250 2.0.0 ");
    session.expect("421 4.3.2 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.end().1, 0);
    assert!(scratch.read("slow").contains("Subject: x\n"));
    assert!(scratch.read("inbox").contains("Subject: x\n"));
}

/// `limit.idle_secs` is the time for one command, however its bytes are spread.
#[test]
fn a_command_that_trickles_in_is_as_good_as_none() {
    let scratch = Scratch::with_config("limit.idle_secs 2\nlimit.connection_secs 60\n");
    let start = Instant::now();
    let mut session = scratch.greeted();
    trickle(&mut session, "N");
    session.expect("421 Idle for too long.");
    assert!(start.elapsed() >= Duration::from_secs(2));
}

/// A delivery is not cut short by the end of the connection's time, which comes behind it.
#[test]
fn the_connection_ends_behind_a_delivery() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.connection_secs 3\n\
         deliver rcpt_to command@mx.example pipe sleep 4; cat > piped\ncopy rcpt_to command@mx.example append inbox\n",
    );
    let mut session = scratch.session(&["--peer", PEER]);
    begin_at_once(&mut session, "command@mx.example", "x\r\n.\r\n");
    session.expect("250 2.0.0 ");
    session.expect("421 4.4.2 ");
    assert_eq!(session.line(), None);
    for copy in ["piped", "inbox"] {
        assert!(scratch.read(copy).contains("\nDelivered-To: command@mx.example\n"), "{copy}");
    }
}

/// The text of a message that hardly moves is not idle; `limit.connection_secs` ends it all the same.
#[test]
fn data_that_trickles_in_is_bounded_by_the_connection() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.idle_secs 5\nlimit.connection_secs 8\n"));
    let start = Instant::now();
    let mut session = scratch.session(&["--peer", PEER]);
    begin_at_once(&mut session, "fred@mx.example", "");
    trickle(&mut session, "x");
    session.expect("421 4.4.2 Connection timeout.");
    assert!(start.elapsed() >= Duration::from_secs(8));
    assert!(!scratch.path("inbox").exists());
}

/// Text that comes slowly, and yet at a least rate, has the time that it needs, and the next message has its own.
#[test]
fn a_slow_link_gets_through() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.connection_secs 5\n"));
    let mut session = scratch.greeted();
    for count in [1, 2] {
        session.begin_message(&["fred@mx.example"]);
        for _ in 0..12 {
            session.send("x".repeat(998) + "\r\n");
            assert!(session.is_silent_for(Duration::from_millis(500)), "{:?}", session.line());
        }
        session.send(".\r\n");
        session.expect("250 2.0.0 ");
        assert_eq!(delivered_to_inbox(&scratch), count);
    }
    session.quit();
}

/// Where places are scarce, that would hold one with little data.
#[test]
fn where_places_are_scarce_a_slow_link_has_no_more_time() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.connection_secs 4\n"));
    let mut command = scratch.mailrecv(&["--peer", PEER]);
    command.env("MAILRECV_SCARCE", "");
    let mut session = Session::start(command);
    begin_at_once(&mut session, "fred@mx.example", "");
    trickle(&mut session, &("x".repeat(998) + "\r\n"));
    session.expect("421 4.4.2 Connection timeout.");
}

/// Nobody saves up time for later: there is never more left than at the beginning.
#[test]
fn data_that_came_fast_gives_no_time_to_come_slowly() {
    for (limits, piece) in [("", "x"), ("limit.smtp_data_size 10\n", "x".repeat(1000).as_str())] {
        let scratch = Scratch::with_config(&format!("{INBOX}limit.connection_secs 4\n{limits}"));
        let mut session = scratch.session(&["--peer", PEER]);
        begin_at_once(&mut session, "fred@mx.example", "");
        session.send(format!("{}\r\n", "x".repeat(998)).repeat(1000));
        trickle(&mut session, piece);
        session.expect("421 4.4.2 Connection timeout.");
        assert!(!scratch.path("inbox").exists());
    }
}

/// A peer that sends commands and never reads the replies is given up.
#[test]
fn a_peer_that_does_not_read_is_given_up() {
    let scratch = Scratch::with_config("limit.smtp_commands 1000000000\nlimit.idle_secs 2\nlimit.connection_secs 5\n");
    let mut session = scratch.greeted();
    session.send_without_reading(&b"HELP\r\n".repeat(1_000_000), Duration::from_secs(1));
    assert_eq!(session.exit_code(), 0);
}

/// SIGTERM is heard while replies wait for somebody who does not read them. Meanwhile they cost little memory.
#[test]
fn a_peer_that_does_not_read_does_not_keep_a_session_that_is_to_stop() {
    let scratch = Scratch::with_config(
        "limit.smtp_commands 1000000000\nlimit.idle_secs 300\nlimit.connection_secs 600\ndebug w\n",
    );
    let mut session = scratch.greeted();
    // All at once, so that the session reads as much at a time as it ever does.
    kill(session.pid(), Signal::SIGSTOP).unwrap();
    session.send_without_reading(&b"HELP\r\n".repeat(1_000_000), Duration::from_secs(1));
    kill(session.pid(), Signal::SIGCONT).unwrap();
    session.until_replies_wait();
    let memory = peak_memory(session.pid()).unwrap();
    assert!(memory < 2 * 1024, "{memory} KiB");
    kill(session.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(session.exit_code(), 0);
    let log = scratch.log();
    assert!(log[0].contains("the peer does not read our replies"), "{log:?}");
}

/// Sends all that comes before a text, and this much of it, in one write, so that none of the session's time is lost between.
#[track_caller]
fn begin_at_once(session: &mut Session, recipient: &str, text: &str) {
    session.send(format!("EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n{text}"));
    for reply in ["220 ", "250-", "250 ", "250 ", "354 "] {
        session.expect(reply);
    }
}

/// Sends a piece now and again, until there is an answer.
fn trickle(session: &mut Session, piece: &str) {
    for _ in 0..200 {
        session.send(piece);
        if !session.is_silent_for(Duration::from_millis(400)) {
            return;
        }
    }
}

fn delivered_to_inbox(scratch: &Scratch) -> usize {
    if scratch.path("inbox").exists() { scratch.read("inbox").matches("\nDelivered-To: ").count() } else { 0 }
}
