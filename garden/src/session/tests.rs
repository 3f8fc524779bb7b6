use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::thread;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn filling() -> Filling {
    Filling {
        token: "t0k3n".into(),
        source: "from@garden".into(),
        destination: "to@garden".into(),
        second_destination: "too@garden".into(),
        domain: "garden".into(),
    }
}

fn send(part: Part, octets: &str) -> Unit {
    Unit::Send { part, octets: octets.into() }
}

fn expect(code: &str) -> Unit {
    Unit::Expect { code: code.into() }
}

fn case(units: Vec<Unit>) -> Case {
    Case { name: "test".into(), units }
}

fn held(stream: TcpStream, units: Vec<Unit>, patience: Duration) -> Result<Vec<Event>> {
    let case = case(units);
    hold(stream, &case, &filling(), &Waits::of(&case, patience), &mut |_| {})
}

#[test]
fn within_a_line_and_within_a_text_no_reply_is_due() {
    let case = case(vec![
        send(Part::Mail, "MAIL FROM:<a@b>"),
        expect("2"),
        send(Part::Mail, "\r\n"),
        expect("2"),
        send(Part::Data, "DATA\r\n"),
        expect("354"),
        send(Part::Body, "\r\na\n.\r\n"),
        expect("2"),
        send(Part::End, "\r\n.\r\n"),
        expect("2"),
        send(Part::Quit, "QUIT\r"),
        expect(""),
    ]);
    assert_eq!(Waits::of(&case, PATIENCE).not_due, [1, 7, 11]);
}

/// Holds a session with a server that says the first of these at once, and each further one after it has read a
/// line.
fn session(says: &'static [&'static str], units: Vec<Unit>, patience: Duration) -> (Vec<Event>, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        use std::io::{BufRead, BufReader};
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut heard = String::new();
        for (index, text) in says.iter().enumerate() {
            if index > 0 && lines.read_line(&mut heard).unwrap_or(0) == 0 {
                break;
            }
            let _ = (&stream).write_all(text.as_bytes());
        }
        if says.last() != Some(&"") {
            let _ = stream.shutdown(Shutdown::Write);
        }
        while lines.read_line(&mut heard).unwrap_or(0) > 0 {}
        heard
    });
    let stream = TcpStream::connect(address).unwrap();
    let events = held(stream, units, patience).unwrap();
    (events, server.join().unwrap())
}

fn replies(events: &[Event]) -> Vec<(u16, Option<usize>)> {
    events
        .iter()
        .filter_map(|event| if let Event::Reply(reply) = event { Some((reply.code, reply.unit)) } else { None })
        .collect()
}

#[test]
fn placeholders_are_filled_in() {
    let octets = b"__SOURCE__ __DEST__ __DEST2__ __DOMAIN__ __TOKEN__ __USER__ __HOST__ __OTHER__ __\xff";
    assert_eq!(filling().fill(octets), b"from@garden to@garden too@garden garden t0k3n to garden __OTHER__ __\xff");
}

#[test]
fn what_is_said_and_answered_is_seen_in_its_order() {
    let units = vec![send(Part::Helo, "EHLO __DOMAIN__\r\n"), expect("2"), send(Part::Quit, "QUIT\r\n")];
    let (events, heard) = session(&["220 hello\r\n", "250-one\r\n250 two\r\n", "221 bye\r\n"], units, PATIENCE);
    assert_eq!(heard, "EHLO garden\r\nQUIT\r\n");
    let expected = [
        Event::Reply(Reply { code: 220, lines: vec!["hello".into()], unit: None }),
        Event::Sent(b"EHLO garden\r\n".to_vec()),
        Event::Reply(Reply { code: 250, lines: vec!["one".into(), "two".into()], unit: Some(1) }),
        Event::Sent(b"QUIT\r\n".to_vec()),
        Event::Reply(Reply { code: 221, lines: vec!["bye".into()], unit: Some(2) }),
        Event::Closed,
    ];
    assert_eq!(events, expected);
}

#[test]
fn steps_that_nothing_is_waited_for_between_are_one_piece() {
    let units = vec![send(Part::Mail, "MAIL "), send(Part::Mail, "__SOURCE__\r\n"), expect("2")];
    let (events, heard) = session(&["220 hello\r\n", "250 1\r\n"], units, PATIENCE);
    assert_eq!((&events[1], &*heard), (&Event::Sent(b"MAIL from@garden\r\n".to_vec()), "MAIL from@garden\r\n"));
    assert_eq!(replies(&events), [(220, None), (250, Some(2))]);
}

#[test]
fn behind_a_reply_that_is_not_expected_nothing_is_sent() {
    let units = vec![send(Part::Mail, "MAIL\r\n"), expect("2"), send(Part::Rcpt, "RCPT\r\n")];
    let (events, heard) = session(&["220 hello\r\n", "550 no\r\n"], units, PATIENCE);
    assert_eq!((replies(&events), &*heard), (vec![(220, None), (550, Some(1))], "MAIL\r\n"));
}

#[test]
fn a_session_is_whole_with_the_replies_that_it_waits_for() {
    let units = || vec![send(Part::Mail, "MAIL\r\n"), expect("2"), send(Part::Rcpt, "RCPT\r\n"), expect("2")];
    for (second, is) in [("250 2\r\n", true), ("550 2\r\n", false), ("", false)] {
        let says: &[&str] = Box::leak(Box::new(["220 hello\r\n", "250 1\r\n", second]));
        let says: &'static [&'static str] = Box::leak(says.iter().map(|text| &*text.to_string().leak()).collect());
        let patience = if second.is_empty() { Duration::from_millis(50) } else { PATIENCE };
        let (events, _) = session(says, units(), patience);
        assert_eq!(is_whole(&case(units()), &events), is, "{second}");
    }
}

#[test]
fn who_logs_in_says_so_in_base64() {
    // The example of RFC 4616, section 4, without an authorization identity.
    assert_eq!(auth_plain("tim", "tanstaaftanstaaf"), "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm");
    assert_eq!(auth_plain("ab", "c"), "AUTH PLAIN AGFiAGM=");
}

#[test]
fn over_lmtp_the_end_of_the_data_has_a_reply_for_each_recipient_that_was_taken() {
    let transaction = || {
        [
            [send(Part::Mail, "MAIL\r\n"), expect("2")],
            [send(Part::Rcpt, "RCPT 1\r\n"), expect("")],
            [send(Part::Rcpt, "RCPT 2\r\n"), expect("")],
            [send(Part::Rcpt, "RCPT 3\r\n"), expect("")],
            [send(Part::Data, "DATA\r\n"), expect("354")],
            [send(Part::End, ".\r\n"), expect("2")],
        ]
        .concat()
    };
    let says: &[&str] = &[
        "220 hello\r\n",
        "250 LHLO\r\n",
        "250 MAIL\r\n",
        "250 1\r\n",
        "550 2\r\n",
        "250 3\r\n",
        "354 go on\r\n",
        "250 of 1\r\n550 of 3\r\n",
        "250 MAIL\r\n",
        "250 1\r\n",
        "250 2\r\n",
        "250 3\r\n",
        "354 go on\r\n",
        "250 of 1\r\n250 of 2\r\n250 of 3\r\n",
        "221 bye\r\n",
    ];
    let opening = vec![send(Part::Helo, "LHLO me\r\n"), expect("2")];
    let quit = vec![send(Part::Quit, "QUIT\r\n"), expect("221")];
    let (events, _) = session(says, [opening, transaction(), transaction(), quit].concat(), PATIENCE);
    let ends = replies(&events).into_iter().filter(|(_, unit)| matches!(unit, Some(13 | 25)));
    assert_eq!(ends.map(|(code, _)| code).collect::<Vec<_>>(), [250, 550, 250, 250, 250]);
    assert_eq!(replies(&events).last(), Some(&(221, Some(27))));
}

/// What a server says, one piece for each line that it reads, to who sends LHLO, MAIL, three recipients, DATA and an
/// empty text: the second recipient is refused.
const LMTP: &[&str] = &[
    "220 hello\r\n",
    "250 LHLO\r\n",
    "250 MAIL\r\n",
    "250 1\r\n",
    "550 2\r\n",
    "250 3\r\n",
    "354 go on\r\n",
    "250 of 1\r\n250 of 3\r\n",
    "221 bye\r\n",
];

#[test]
fn over_lmtp_recipients_may_be_sent_in_one_piece() {
    let opening = || vec![send(Part::Helo, "LHLO me\r\n"), expect("2")];
    let four = || vec![expect("2"), expect("2"), expect(""), expect("2"), expect("354")];
    let ending = || vec![send(Part::End, ".\r\n"), expect("2"), send(Part::Quit, "QUIT\r\n"), expect("221")];
    let recipients = "RCPT 1\r\nRCPT 2\r\nRCPT 3\r\n";
    // The parts of a transaction, in units of their own or in one; the replies are waited for behind all of them.
    let in_units = vec![
        send(Part::Mail, "MAIL\r\n"),
        send(Part::Rcpt, "RCPT 1\r\n"),
        send(Part::Rcpt, "RCPT 2\r\n"),
        send(Part::Rcpt, "RCPT 3\r\n"),
        send(Part::Data, "DATA\r\n"),
    ];
    let in_one = vec![send(Part::Mail, &format!("MAIL\r\n{recipients}DATA\r\n"))];
    let in_halves =
        vec![send(Part::Mail, "MAIL\r\nRC"), send(Part::Rcpt, &recipients[2..]), send(Part::Data, "DATA\r\n")];
    for transaction in [in_units, in_one, in_halves] {
        let units = [opening(), transaction, four(), ending()].concat();
        let (end, quit) = (units.len() - 3, units.len() - 1);
        let (events, _) = session(LMTP, units, PATIENCE);
        let came = &replies(&events)[7..];
        assert_eq!(came, [(250, Some(end)), (250, Some(end)), (221, Some(quit))], "{events:?}");
    }
}

#[test]
fn over_lmtp_each_reply_may_be_waited_for() {
    let opening = vec![send(Part::Helo, "LHLO me\r\nMAIL\r\nRCPT 1\r\nRCPT 2\r\nRCPT 3\r\nDATA\r\n")];
    let ending = vec![send(Part::Body, ".\r\n"), expect("2"), expect("2"), send(Part::Quit, "QUIT\r\n"), expect("221")];
    let (events, _) = session(LMTP, [opening, vec![expect(""); 6], ending].concat(), PATIENCE);
    assert_eq!(replies(&events)[7..], [(250, Some(8)), (250, Some(9)), (221, Some(11))], "{events:?}");
}

#[test]
fn any_reply_will_do_where_no_code_is_named() {
    let units = vec![send(Part::Mail, "MAIL\r\n"), expect(""), send(Part::Rcpt, "RCPT\r\n"), expect("")];
    let (events, heard) = session(&["220 hello\r\n", "550 no\r\n", "250 yes\r\n"], units, PATIENCE);
    assert_eq!(replies(&events), [(220, None), (550, Some(1)), (250, Some(3))]);
    assert_eq!(heard, "MAIL\r\nRCPT\r\n");
}

#[test]
fn silence_is_no_refusal() {
    let units = vec![send(Part::Mail, "MAIL\r\n"), expect("2"), send(Part::Rcpt, "RCPT\r\n")];
    let (events, heard) = session(&["220 hello\r\n", ""], units, Duration::from_millis(50));
    assert_eq!((events.last(), &*heard), (Some(&Event::TimedOut), "MAIL\r\n"));
}

#[test]
fn a_connection_that_is_over_is_seen_with_what_came_last() {
    let units = vec![send(Part::Mail, "MAIL\r\n"), expect("2"), send(Part::Rcpt, "RCPT\r\n"), expect("2")];
    let (events, _) = session(&["220 hello\r\n", "25"], units, PATIENCE);
    assert_eq!(events[2..], [Event::Garbage(b"25".to_vec()), Event::Closed]);
}

#[test]
fn what_is_no_reply_is_kept_as_it_came() {
    let (events, _) =
        session(&["220 hello\r\n", "what?\r\n"], vec![send(Part::Mail, "MAIL\r\n"), expect("2")], PATIENCE);
    assert_eq!(events.last(), Some(&Event::Garbage(b"what?".to_vec())));
}

#[test]
fn replies_that_nothing_waits_for_are_read_at_the_end() {
    let units = vec![send(Part::Mail, "MAIL\r\nRCPT\r\nQUIT\r\n"), send(Part::Quit, "QUIT\r\n")];
    let (events, _) = session(&["220 hello\r\n", "250 1\r\n", "550 2\r\n", "221 3\r\n"], units, PATIENCE);
    assert_eq!(replies(&events), [(220, None), (250, Some(1)), (550, Some(1)), (221, Some(1))]);
    assert_eq!(events.last(), Some(&Event::Closed));
}

/// A server with an unknown certificate. It greets in the clear unless it is `secure_at_once`.
fn session_under_tls(secure_at_once: bool, units: Vec<Unit>) -> Vec<Event> {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::io::{BufRead, BufReader};
    let own = rcgen::generate_simple_self_signed(vec!["other.example".into()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        if !secure_at_once {
            stream.write_all(b"220 hello\r\n").unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            stream.write_all(b"220 go on\r\n250 injected\r\n").unwrap();
        }
        let mut tls = StreamOwned::new(ServerConnection::new(config.into()).unwrap(), stream);
        if secure_at_once {
            tls.write_all(b"220 hello\r\n").unwrap();
        }
        let mut line = String::new();
        BufReader::new(&mut tls).read_line(&mut line).unwrap();
        tls.write_all(b"221 bye\r\n").unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        line
    });
    let stream = TcpStream::connect(address).unwrap();
    let events = held(stream, units, PATIENCE).unwrap();
    assert_eq!(server.join().unwrap(), "QUIT\r\n");
    events
}

#[test]
fn tls_begins_where_the_case_says() {
    let quit = [send(Part::Quit, "QUIT\r\n"), expect("221")];
    let starttls = [send(Part::Helo, "STARTTLS\r\n"), expect("220"), Unit::StartTls];
    let events = session_under_tls(false, [&starttls[..], &quit].concat());
    assert_eq!(replies(&events), [(220, None), (220, Some(1)), (221, Some(4))]);
    let secured = events.iter().position(|event| *event == Event::Secured).unwrap();
    assert_eq!(events[secured - 1], Event::Garbage(b"250 injected\r\n".to_vec()));
    let events = session_under_tls(true, [&[Unit::StartTls][..], &quit].concat());
    assert_eq!((&events[0], replies(&events)), (&Event::Secured, vec![(220, None), (221, Some(2))]));
}

#[test]
fn a_server_that_answers_much_meanwhile_is_read() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // It reads no further until all of this is accepted.
        stream.write_all(b"220 hello\r\n").unwrap();
        stream.write_all(format!("250 {}\r\n", "again ".repeat(80)).repeat(1 << 15).as_bytes()).unwrap();
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut std::io::sink());
    });
    let units = vec![send(Part::Body, &"x".repeat(16 << 20)), expect("2")];
    let events = held(TcpStream::connect(address).unwrap(), units, PATIENCE).unwrap();
    assert!(replies(&events).len() > 1 << 12, "{}", replies(&events).len());
}

#[test]
fn a_server_is_greeted_as_it_wants() {
    let asked = case(vec![send(Part::Helo, "EHLO me\r\n"), expect("2"), send(Part::Mail, "EHLO \r\n")]);
    assert_eq!(adapt(&asked, Hello::AsItIs, None), (asked.clone(), vec![0, 1, 2]));
    for (hello, verb) in [(Hello::Helo, "HELO"), (Hello::Lhlo, "LHLO")] {
        let (adapted, _) = adapt(&asked, hello, None);
        assert_eq!(adapted.units[0], send(Part::Helo, &format!("{verb} me\r\n")));
        assert_eq!(adapted.units[1..], asked.units[1..]);
    }
}

#[test]
fn who_has_to_log_in_does_so_behind_the_greeting() {
    let asked = case(vec![send(Part::Helo, "EHLO me\r\n"), expect("2"), send(Part::Mail, "MAIL\r\n")]);
    let (Case { units, .. }, origins) = adapt(&asked, Hello::AsItIs, Some("AUTH PLAIN x"));
    let login = [send(Part::Helo, "AUTH PLAIN x\r\n"), expect("2")];
    assert_eq!(units, [&asked.units[..2], &login, &asked.units[2..]].concat());
    assert_eq!(origins, [0, 1, 1, 1, 2]);
    let asked = case(vec![send(Part::Helo, "EHLO me\r\nMAIL\r\n")]);
    let (Case { units, .. }, _) = adapt(&asked, Hello::AsItIs, Some("AUTH PLAIN x"));
    assert_eq!(units, [send(Part::Helo, "EHLO me\r\nAUTH PLAIN x\r\nMAIL\r\n")]);
}
