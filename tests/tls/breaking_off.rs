//! Peers that stop in the middle, and peers that take their time.

use std::time::{Duration, Instant};

use testkit::tls::Ending;
use testkit::{Session, wait_until};

use crate::support::{CONFIG, MAILRECV, PEER, Scratch};
use crate::{client, scratch, secured, warnings};

/// A session under TLS in the middle of a message, whose client will end like this.
fn in_the_middle(scratch: &Scratch, ending: Ending) -> Session {
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.start_tls(&client().ending(ending));
    session.begin_message(&["fred@mx.example"]);
    session.send("Subject: half\r\n\r\nhalf of a message\r\n");
    session
}

#[test]
fn half_a_message_is_none() {
    for (ending, how) in [
        (Ending::Orderly, "the peer closed the connection without QUIT"),
        (Ending::Silent, "the peer closed the connection without QUIT"),
        (Ending::Reset, "Connection reset by peer"),
    ] {
        let scratch = scratch("");
        let mut process = in_the_middle(&scratch, ending).hang_up();
        assert_eq!(process.exit_code(), 0, "{ending:?}");
        assert!(!scratch.path("inbox").exists(), "{ending:?}");
        let warnings = warnings(&scratch);
        assert!(warnings.len() == 1 && warnings[0].contains(how), "{ending:?}: {warnings:#?}");
        assert!(warnings[0].contains("nothing was delivered of the message it had begun"), "{warnings:#?}");
    }
}

/// Who says that it has nothing more to say still gets its answers, and the word that there are no more.
#[test]
fn a_peer_may_close_its_half() {
    for ending in [Ending::Orderly, Ending::Silent] {
        let scratch = scratch("");
        let mut session = in_the_middle(&scratch, ending);
        session.send(".\r\nQUIT\r\n");
        let (rest, code) = session.end();
        assert_eq!(code, 0);
        assert!(rest.len() == 2 && rest[0].starts_with("250 ") && rest[1].starts_with("221 "), "{ending:?}: {rest:?}");
        assert!(scratch.read("inbox").contains("half of a message"));
    }
}

/// A handshake may come byte by byte, and has the time of a silent peer for all of it.
#[test]
fn a_handshake_takes_no_longer_than_a_silent_peer_may() {
    for directives in ["limit.greet_secs 1\n", "limit.connection_secs 1\n", "tls implicit\nlimit.greet_secs 1\n"] {
        let scratch = scratch(directives);
        let mut session = scratch.session(&["--peer", PEER]);
        if !directives.contains("implicit") {
            session.expect("220 ");
            session.exchange("STARTTLS", "220 ");
        }
        let began = Instant::now();
        // The beginning of a record of a client's hello, which never ends.
        for byte in [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03].into_iter().chain([0; 300]) {
            session.send([byte]);
            std::thread::sleep(Duration::from_millis(20));
            if began.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        assert_eq!(session.exit_code(), 0, "{directives}");
        let expected = "[192.0.2.7] WARNING: no TLS with this peer: the handshake takes too long";
        assert_eq!(warnings(&scratch), [expected], "{directives}");
    }
}

#[test]
fn a_peer_that_is_gone_in_the_handshake_is_no_fault() {
    let scratch = scratch("");
    let mut session = scratch.greeted();
    session.exchange("STARTTLS", "220 ");
    session.send([0x16, 0x03, 0x01]);
    session.half_close();
    let alert = session.try_rest().unwrap();
    assert_eq!(alert.first(), Some(&0x15), "{alert:?}");
    assert_eq!(session.exit_code(), 0);
    let expected = "[192.0.2.7] WARNING: no TLS with this peer: the peer closed the connection in the handshake";
    assert_eq!(warnings(&scratch), [expected]);
}

/// The reply to a message may be lost with a handshake that was asked for behind it, and then the message may come again.
#[test]
fn a_peer_that_is_gone_in_the_handshake_may_not_know_of_its_message() {
    let scratch = scratch("");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send("Subject: x\r\n\r\nx\r\n.\r\nSTARTTLS\r\n");
    session.until_read();
    assert_eq!(session.hang_up().exit_code(), 0);
    let warnings = warnings(&scratch);
    assert!(warnings.len() == 2 && warnings[0].contains("no TLS with this peer: "), "{warnings:#?}");
    assert!(
        warnings[1].ends_with(" is delivered, but if the peer has not read that it will send it again"),
        "{warnings:#?}"
    );
    assert!(scratch.read("inbox").contains("Subject: x\n"));
}

/// A session that is asked to stop in the handshake ends as any other that is, and not for want of TLS.
#[test]
fn a_handshake_ends_when_we_are_to_stop() {
    let scratch = scratch("metrics_file numbers\n");
    let mut session = scratch.greeted();
    session.exchange("STARTTLS", "220 ");
    session.send([0x16, 0x03, 0x01]);
    nix::sys::signal::kill(session.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    let alert = session.try_rest().unwrap();
    assert_eq!(alert.first(), Some(&0x15), "{alert:?}");
    assert_eq!(session.exit_code(), 0);
    assert_eq!(warnings(&scratch), ["[192.0.2.7] WARNING: no TLS with this peer: we were asked to stop"]);
    let numbers = String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "metrics"]).stdout).unwrap();
    for (end, count) in [("stopped", 1), ("no_tls", 0)] {
        assert!(numbers.contains(&format!("mailrecv_sessions_total{{end=\"{end}\"}} {count}\n")), "{numbers}");
    }
}

/// Who is slow under TLS is told so under TLS.
#[test]
fn last_words_come_under_tls() {
    let scratch = scratch("limit.greet_secs 1\n");
    let mut session = secured(&scratch);
    session.exchange("EHLO client.example", "250-");
    session.expect("421 4.4.2 Idle for too long.");
    assert_eq!(session.line(), None);
    let mut session = secured(&scratch);
    session.exchange("EHLO client.example", "250-");
    nix::sys::signal::kill(session.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    session.expect("421 4.3.2 mx.example is shutting down");
    wait_until("the end", || session.line().is_none().then_some(()));
}
