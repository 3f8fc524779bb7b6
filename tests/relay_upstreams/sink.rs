//! smtp-sink(1) as the upstream: each command refused for now and for good, each one behind which it hangs up, and servers
//! that have few of SMTP's extensions.

use testkit::a_few_at_a_time;
use testkit::smtp_sink::SmtpSink;

use crate::support::CONFIG;
use crate::{FRED, TRY_AGAIN, copies, log, relaying, reply_to_message};

/// Its options, and what our peer hears.
const CASES: &[(&[&str], &str)] = &[
    // Nothing to complain of.
    (&[], "250 "),
    // Without what it offers otherwise: 8BITMIME, AUTH, enhanced status codes, DSN, PIPELINING, XCLIENT, XFORWARD.
    (&["-8"], "250 "),
    (&["-a", "-E", "-N", "-p", "-C", "-F"], "250 "),
    // HELO only; behind a PIX, whose greeting is of stars.
    (&["-e"], "250 "),
    (&["-P"], "250 "),
    // Slow, and not too slow.
    (&["-w", "1"], "250 "),
    (&["-H", "1"], "250 "),
    (&["-W", "RCPT:1"], "250 "),
    (&["-h", "upstream.example"], "250 "),
    // For good (5xx). What is said of the connection or of us is no reason to send this message back.
    (&["-f", "CONNECT"], TRY_AGAIN),
    (&["-f", "EHLO"], "250 "),
    (&["-f", "EHLO,HELO"], TRY_AGAIN),
    (&["-f", "MAIL"], "500 5.3.0 "),
    (&["-f", "RCPT"], "500 5.3.0 "),
    (&["-f", "DATA"], "500 5.3.0 "),
    (&["-f", "."], "500 5.3.0 "),
    (&["-f", "RSET"], "250 "),
    (&["-f", "QUIT"], "250 "),
    (&["-f", "NOOP"], "250 "),
    (&["-B", "550 5.7.1 Not for you", "-f", "RCPT"], "550 5.7.1 Not for you"),
    (&["-B", "554 5.6.0 Not like this", "-f", "."], "554 5.6.0 Not like this"),
    // For now (4xx).
    (&["-r", "CONNECT"], TRY_AGAIN),
    (&["-r", "EHLO"], "4"),
    (&["-r", "EHLO,HELO"], TRY_AGAIN),
    (&["-r", "MAIL"], "450 4.3.0 "),
    (&["-r", "RCPT"], "450 4.3.0 "),
    (&["-r", "DATA"], "450 4.3.0 "),
    (&["-r", "."], "450 4.3.0 "),
    (&["-r", "QUIT"], "250 "),
    (&["-b", "452 4.2.2 No room", "-r", "."], "452 4.2.2 No room"),
    // It hangs up without a word.
    (&["-q", "CONNECT"], TRY_AGAIN),
    (&["-q", "EHLO"], TRY_AGAIN),
    (&["-q", "MAIL"], TRY_AGAIN),
    (&["-q", "RCPT"], TRY_AGAIN),
    (&["-q", "DATA"], TRY_AGAIN),
    (&["-q", "."], TRY_AGAIN),
    (&["-q", "QUIT"], "250 "),
    // With a 421, which to our peer would be the end of its session with us.
    (&["-Q", "CONNECT"], TRY_AGAIN),
    (&["-Q", "EHLO"], TRY_AGAIN),
    (&["-Q", "MAIL"], TRY_AGAIN),
    (&["-Q", "RCPT"], TRY_AGAIN),
    (&["-Q", "DATA"], TRY_AGAIN),
    (&["-Q", "."], TRY_AGAIN),
    (&["-Q", "QUIT"], "250 "),
    // In the middle of the text: a 550, and nothing of the text is read.
    (&["-A", "0"], "550 "),
];

#[test]
fn what_it_answers_is_what_our_peer_hears() {
    let problems = a_few_at_a_time(CASES, |(options, expected)| {
        let sink = SmtpSink::start(options);
        let scratch = relaying(format!("smtp://{}", sink.address()), "");
        let reply = reply_to_message(&scratch, &[FRED]);
        let is_taken = reply.starts_with("250 ");
        let (there, here) = (sink.taken().iter().filter(|text| text.contains("\nlast\n")).count(), copies(&scratch));
        let is_right = reply.starts_with(expected) && here == usize::from(is_taken) && (!is_taken || there == 1);
        let config = scratch.read(CONFIG);
        (!is_right).then(|| {
            format!(
                "{options:?}: expected {expected:?}, got {reply:?}; {there} there, {here} here\n{config}{}",
                log(&scratch)
            )
        })
    });
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// One that is slower than a session may be.
#[test]
fn a_slow_server_is_not_waited_for_without_end() {
    for options in [["-W", "CONNECT:100"], ["-W", "MAIL:100"], ["-W", "RCPT:100"], ["-w", "100"], ["-W", ".:100"]] {
        let sink = SmtpSink::start(&options);
        let scratch = relaying(format!("smtp://{}", sink.address()), "limit.connection_secs 3\n");
        let mut session = scratch.greeted();
        let reply = crate::send(&mut session, &[FRED], crate::TEXT);
        assert!(reply.starts_with('4'), "{options:?}: {reply}\n{}", log(&scratch));
        // The session ends, by itself or because it is told to.
        session.send("QUIT\r\n");
        drop(session.try_rest());
        assert_eq!(session.exit_code(), 0);
        assert_eq!(copies(&scratch), 0);
    }
}
