//! smtp-sink(1) as the upstream: each command refused for now and for good, each one behind which it hangs up, and servers
//! that have few of SMTP's extensions.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use testkit::smtp_sink::SmtpSink;
use testkit::{Client, a_few_at_a_time, wait_until};

use crate::support::CONFIG;
use crate::{COPY, FRED, Listener, TEXT, TRY_AGAIN, copies, log, number, relaying, reply_to_message, send, stuffed};

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
    // For good (5xx). What is said of the connection or of us, and a 500 is, is no reason to send this message back.
    (&["-f", "CONNECT"], TRY_AGAIN),
    (&["-f", "EHLO"], "250 "),
    (&["-f", "EHLO,HELO"], "451 4.3.5 "),
    (&["-f", "MAIL"], "451 4.3.5 "),
    (&["-f", "RCPT"], "451 4.3.5 "),
    (&["-f", "DATA"], "451 4.3.5 "),
    (&["-f", "."], "451 4.3.5 "),
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

/// Of octets above 127 where none are taken (RFC 6152), announced or not.
#[test]
fn a_text_of_eight_bits_goes_to_a_server_that_takes_them() {
    for (options, parameter, text, expected) in [
        (&[][..], "", EIGHT_BITS, "250 "),
        (&[], " BODY=8BITMIME", EIGHT_BITS, "250 "),
        (&["-8"], "", EIGHT_BITS, "554 5.6.3 "),
        (&["-8"], " BODY=8BITMIME", EIGHT_BITS, "554 5.6.3 "),
        (&["-e"], "", EIGHT_BITS, "554 5.6.3 "),
        (&["-8"], " BODY=7BIT", TEXT, "250 "),
        // It might have been.
        (&["-8"], " BODY=8BITMIME", TEXT, "250 "),
    ] {
        let sink = SmtpSink::start(options);
        let scratch = relaying(format!("smtp://{}", sink.address()), "");
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        let mut reply = session.ask(&format!("MAIL FROM:<sender@client.example>{parameter}"));
        for command in [format!("RCPT TO:<{FRED}>"), "DATA".to_owned()] {
            if reply.starts_with("250 ") {
                reply = session.ask(&command);
            }
        }
        if reply.starts_with("354 ") {
            session.send([&stuffed(text)[..], b".\r\n"].concat());
            reply = session.reply();
        }
        let what = format!("{options:?}{parameter}: {reply}\n{}", log(&scratch));
        let is_refused_early = parameter == " BODY=8BITMIME" && options == ["-8"] && reply.starts_with("554 5.6.3 ");
        assert!(reply.starts_with(expected) || is_refused_early, "{what}");
        let count = usize::from(reply.starts_with("250 "));
        // A transaction that is begun has a file there already.
        let there = sink.taken().iter().filter(|kept| kept.contains("\nSubject: ")).count();
        assert_eq!((there, copies(&scratch)), (count, count), "{what}");
        session.quit();
    }
}

const EIGHT_BITS: &[u8] = b"Subject: \xfc\r\n\r\n\xe4\r\n";

/// One that is slower than a session may be.
#[test]
fn a_slow_server_is_not_waited_for_without_end() {
    let cases = [["-W", "CONNECT:100"], ["-W", "MAIL:100"], ["-W", "RCPT:100"], ["-w", "100"], ["-W", ".:100"]];
    a_few_at_a_time(&cases, |options| {
        let sink = SmtpSink::start(options);
        let scratch = relaying(format!("smtp://{}", sink.address()), "limit.connection_secs 3\n");
        let mut session = scratch.greeted();
        let reply = send(&mut session, &[FRED], TEXT);
        assert!(reply.starts_with('4'), "{options:?}: {reply}\n{}", log(&scratch));
        assert!(log(&scratch).contains(&sink.address().to_string()), "{options:?}: {}", log(&scratch));
        // The session ends, by itself or because it is told to.
        session.send("QUIT\r\n");
        drop(session.try_rest());
        assert_eq!(session.exit_code(), 0);
        assert_eq!(copies(&scratch), 0);
    });
}

/// Killed among many messages: each with 250 is there, and once in the copy; of those without, it has at most the one that each
/// client was in the middle of, and the copy has none.
#[test]
fn a_server_that_is_killed_takes_no_more_than_it_has() {
    const CLIENTS: usize = 4;
    // More than there can be.
    const MOST: usize = 100_000;
    let mut sink = SmtpSink::start(&[]);
    let scratch = relaying(format!("smtp://{}", sink.address()), "limit.fcrdns_check off\n");
    let listener = Listener::start(&scratch);
    let (address, accepted) = (listener.address, Mutex::new(BTreeSet::new()));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let accepted = &accepted;
            scope.spawn(move || {
                let mut peer = Client::connect(address);
                peer.expect("220 ");
                peer.exchange("EHLO client.example", "250-");
                for number in client * MOST..(client + 1) * MOST {
                    let commands = ["MAIL FROM:<sender@client.example>", "RCPT TO:<fred@final.example>", "DATA"];
                    let text = format!("Subject: {number};\r\n\r\ntext\r\n.");
                    let mut replies = commands.into_iter().chain([&*text]).map(|line| peer.ask(line));
                    if !replies.all(|reply| reply.starts_with(['2', '3'])) {
                        break;
                    }
                    accepted.lock().unwrap().insert(number);
                }
            });
        }
        wait_until("the first messages", || (accepted.lock().unwrap().len() > 50).then_some(()));
        sink.kill();
    });
    let accepted = accepted.into_inner().unwrap();
    let numbers = |texts: Vec<Vec<u8>>| -> Vec<usize> {
        let whole = texts.iter().filter(|text| text.windows(5).any(|it| it == b"text\n"));
        let mut numbers: Vec<usize> = whole.map(|text| number(text)).collect();
        numbers.sort_unstable();
        numbers
    };
    let there = numbers(sink.taken().into_iter().map(String::into_bytes).collect());
    let here = numbers(scratch.contents(format!("{COPY}/new")));
    assert_eq!(here, accepted.iter().copied().collect::<Vec<_>>());
    assert!(accepted.iter().all(|number| there.contains(number)), "{accepted:?}\n{there:?}");
    assert!(there.len() <= accepted.len() + CLIENTS, "{} {}", there.len(), accepted.len());
}
