//! Holds a case with a server on an open connection.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::case::{Case, Part, Placeholder, Unit, piece};
use crate::compare::text::sent_in;
use crate::connection::{Connection, Step};
use crate::observation::{Event, Reply};

/// Longer than any line of a reply should be (512 octets; RFC 5321, 4.5.3.1.5), so that a line without an end is given
/// up.
const LONGEST_LINE: usize = 64 << 10;

/// After the last step of a case without QUIT, replies are read until none has come for this long.
const SILENCE: Duration = Duration::from_millis(200);

/// The values of placeholders in one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filling {
    /// See [`Placeholder::Token`].
    pub token: String,
    /// See [`Placeholder::Source`].
    pub source: String,
    /// See [`Placeholder::Destination`].
    pub destination: String,
    /// See [`Placeholder::SecondDestination`].
    pub second_destination: String,
    /// See [`Placeholder::Domain`].
    pub domain: String,
}

impl Filling {
    /// The octets with placeholders replaced.
    pub fn fill(&self, octets: &[u8]) -> Vec<u8> {
        Placeholder::fill(octets, |placeholder| self.value(placeholder).to_owned())
    }

    /// The value of this placeholder.
    pub fn value(&self, placeholder: Placeholder) -> &str {
        let (user, host) = self.destination.rsplit_once('@').unwrap_or((&self.destination, ""));
        match placeholder {
            Placeholder::Token => &self.token,
            Placeholder::Source => &self.source,
            Placeholder::Destination => &self.destination,
            Placeholder::SecondDestination => &self.second_destination,
            Placeholder::Domain => &self.domain,
            Placeholder::User => user,
            Placeholder::Host => host,
        }
    }
}

/// How a server has to be greeted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hello {
    /// As the case has it.
    #[default]
    AsItIs,
    /// With HELO, because it has no other greeting.
    Helo,
    /// With LHLO, because it speaks LMTP (RFC 2033).
    Lhlo,
}

/// The case adapted to this server: with its greeting, and logged in if it requires that. Only parts of kind
/// [`Part::Helo`] are changed, and in them only the first verb. Also returns, for each unit, the index of the original
/// unit that it came from or follows.
pub fn adapt(case: &Case, hello: Hello, login: Option<&str>) -> (Case, Vec<usize>) {
    let mut adapted = Case { name: case.name.clone(), units: Vec::with_capacity(case.units.len() + 2) };
    let mut origins = Vec::with_capacity(case.units.len() + 2);
    let mut login = login.map(|line| format!("{line}\r\n").into_bytes());
    // A login follows the reply to the greeting; if the greeting is sent in one piece with what follows, it follows the
    // greeting directly.
    let mut is_due = false;
    for (index, unit) in case.units.iter().enumerate() {
        let mut unit = unit.clone();
        let is_greeting = matches!(unit, Unit::Send { part: Part::Helo, .. });
        if let Unit::Send { part: Part::Helo, octets } = &mut unit {
            *octets = greeting(octets, hello);
            is_due = matches!(case.units.get(index + 1), Some(Unit::Expect { .. }));
            if !is_due && let Some(line) = login.take() {
                let end = octets.iter().position(|&octet| octet == b'\n').map_or(octets.len(), |at| at + 1);
                octets.splice(end..end, line);
            }
        }
        adapted.units.push(unit);
        origins.push(index);
        if is_due
            && !is_greeting
            && let Some(octets) = login.take()
        {
            adapted.units.extend([Unit::Send { part: Part::Helo, octets }, Unit::Expect { code: "2".into() }]);
            origins.extend([index; 2]);
        }
    }
    (adapted, origins)
}

/// The line with which this user logs in (RFC 4616).
pub fn auth_plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))
}

/// Whether the session was held to its end: each awaited reply came and was the expected one.
pub fn is_whole(case: &Case, events: &[Event]) -> bool {
    let code_at = |index: usize| {
        events.iter().find_map(|event| match event {
            Event::Reply(reply) if reply.unit == Some(index) => Some(reply.code.to_string()),
            _ => None,
        })
    };
    case.units.iter().enumerate().all(|(index, unit)| match unit {
        Unit::Expect { code } => code_at(index).is_some_and(|came| came.starts_with(code.as_str())),
        Unit::Send { .. } | Unit::Pause(_) | Unit::StartTls => true,
    })
}

fn is_quit(octets: &[u8]) -> bool {
    octets.eq_ignore_ascii_case(b"QUIT\r\n")
}

fn greeting(octets: &[u8], hello: Hello) -> Vec<u8> {
    let verb = match hello {
        Hello::AsItIs => return octets.to_vec(),
        Hello::Helo => "HELO",
        Hello::Lhlo => "LHLO",
    };
    match octets.get(..5) {
        Some(first) if [&b"HELO "[..], b"EHLO ", b"LHLO "].iter().any(|known| first.eq_ignore_ascii_case(known)) => {
            [verb.as_bytes(), &octets[4..]].concat()
        }
        _ => octets.to_vec(),
    }
}

/// How long to wait for replies.
#[derive(Clone, Debug)]
pub struct Waits {
    due: Duration,
    /// The units in which no reply is due according to the standard, because what was sent until then ends no line or
    /// text.
    not_due: Vec<usize>,
}

/// How long to wait for a reply that only a server gives which sees an end where there is none.
const NOT_DUE: Duration = Duration::from_secs(2);

impl Waits {
    /// The waits in this case, if a reply that is due may take this long.
    pub fn of(case: &Case, due: Duration) -> Self {
        let mut octets = Vec::new();
        let mut not_due = Vec::new();
        for (index, unit) in case.units.iter().enumerate() {
            match unit {
                Unit::Send { octets: piece, .. } => octets.extend_from_slice(piece),
                Unit::Expect { .. } if !octets.ends_with(b"\r\n") || is_within_a_text(&octets) => not_due.push(index),
                Unit::Expect { .. } | Unit::Pause(_) | Unit::StartTls => {}
            }
        }
        Self { due, not_due }
    }

    fn at(&self, unit: usize) -> Duration {
        if self.not_due.contains(&unit) { self.due.min(NOT_DUE) } else { self.due }
    }
}

fn is_within_a_text(octets: &[u8]) -> bool {
    let is_command = octets.len() >= 6 && octets[octets.len() - 6..].eq_ignore_ascii_case(b"DATA\r\n");
    !is_command && sent_in(octets).last().is_some_and(|message| !message.is_ended)
}

/// Holds the session: reads the greeting, follows the units, and reads what still comes. Events are reported as they
/// happen, and returned.
///
/// The rest is not held if a reply is not the expected one, if none comes in time, or if the connection ends.
///
/// # Errors
///
/// Our own faults only.
pub fn hold(
    stream: TcpStream,
    case: &Case,
    filling: &Filling,
    waits: &Waits,
    told: &mut dyn FnMut(&Event),
) -> Result<Vec<Event>> {
    let connection = Connection::over(stream)?;
    let (unread, read) = (Vec::new(), 0);
    let mut session = Session { connection, unread, read, reply: None, is_over: false, events: Vec::new(), told };
    session.hold(case, filling, waits)?;
    Ok(session.events)
}

/// How many replies are due: over LMTP the end of the data gets one for each accepted recipient (RFC 2033, 4.2).
#[derive(Default)]
struct Due {
    is_lmtp: bool,
    recipients: usize,
    last: Option<Part>,
}

impl Due {
    /// Notes what is sent next.
    fn note(&mut self, sends: &[Unit]) {
        for unit in sends {
            let Unit::Send { part, octets } = unit else {
                continue;
            };
            self.is_lmtp |= octets.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"LHLO "));
            if *part == Part::Mail {
                self.recipients = 0;
            }
            self.last = Some(*part);
        }
    }

    /// How many more replies are due after this one.
    fn behind(&mut self, came: &[Event]) -> usize {
        let is_taken =
            came.iter().any(|event| matches!(event, Event::Reply(reply) if (200..300).contains(&reply.code)));
        match self.last {
            Some(Part::Rcpt) if is_taken => self.recipients += 1,
            Some(Part::End) if self.is_lmtp => return std::mem::take(&mut self.recipients).saturating_sub(1),
            _ => {}
        }
        0
    }
}

struct Session<'t> {
    connection: Connection,
    /// Input that was not read as lines yet.
    unread: Vec<u8>,
    read: usize,
    /// A reply whose last line has not come yet.
    reply: Option<Reply>,
    is_over: bool,
    events: Vec<Event>,
    told: &'t mut dyn FnMut(&Event),
}

/// The result of a wait.
enum Waited {
    Reply(u16),
    /// Something that is not a reply.
    Garbage,
    Over,
    TooLong,
}

impl Session<'_> {
    fn hold(&mut self, case: &Case, filling: &Filling, waits: &Waits) -> Result<()> {
        let is_secure_at_once = case.units.first() == Some(&Unit::StartTls);
        if (is_secure_at_once && !self.secure(waits.due)?) || !self.is_as_expected("2", None, waits.due) {
            return Ok(());
        }
        let mut index = usize::from(is_secure_at_once);
        let mut due = Due::default();
        while let Some(unit) = case.units.get(index) {
            let (octets, sends) = piece(&case.units[index..]);
            due.note(&case.units[index..index + sends]);
            let goes_on = match unit {
                Unit::Send { .. } => self.send(filling.fill(&octets), waits.due),
                Unit::Expect { code } => {
                    let before = self.events.len();
                    let is_expected = self.is_as_expected(code, Some(index), waits.at(index));
                    let more = due.behind(&self.events[before..]);
                    is_expected && (0..more).all(|_| self.is_as_expected("", Some(index), waits.at(index)))
                }
                Unit::Pause(time) => self.pause(*time, index),
                Unit::StartTls => self.secure(waits.due)?,
            };
            if !goes_on {
                return Ok(());
            }
            index += sends.max(1);
        }
        let last = case.units.len().saturating_sub(1);
        if case.units.iter().any(|unit| matches!(unit, Unit::Send { part: Part::Quit, octets } if is_quit(octets))) {
            // A server that has read QUIT answers and closes. Replies to everything before it come first.
            while let Waited::Reply(_) | Waited::Garbage = self.wait(Some(last), Instant::now() + waits.at(last), true)
            {
            }
        } else {
            self.read_what_comes(Some(last));
        }
        Ok(())
    }

    fn read_what_comes(&mut self, unit: Option<usize>) {
        while let Waited::Reply(_) | Waited::Garbage = self.wait(unit, Instant::now() + SILENCE, false) {}
    }

    fn secure(&mut self, patience: Duration) -> Result<bool> {
        // Input that came in the clear behind the reply to STARTTLS is not a reply to anything under TLS.
        let clear = self.take_unread();
        if !clear.is_empty() {
            self.tell(Event::Garbage(clear));
        }
        let until = Instant::now() + patience;
        self.connection.begin_tls()?;
        let step = self.connection.until_flushed(&[], &mut self.unread, until);
        match step {
            Step::Done => self.tell(Event::Secured),
            Step::TooLong => self.tell(Event::TimedOut),
            Step::Over => self.over(),
        }
        Ok(matches!(step, Step::Done))
    }

    fn send(&mut self, octets: Vec<u8>, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let step = self.connection.until_flushed(&octets, &mut self.unread, until);
        self.tell(Event::Sent(octets));
        let is_sent = matches!(step, Step::Done);
        if !is_sent {
            // What the server said before it closed still has to be read.
            self.read_what_comes(None);
            if matches!(step, Step::Over) {
                self.over();
            } else {
                self.tell(Event::TimedOut);
            }
        }
        is_sent
    }

    fn is_as_expected(&mut self, code: &str, unit: Option<usize>, patience: Duration) -> bool {
        match self.wait(unit, Instant::now() + patience, true) {
            Waited::Reply(came) => came.to_string().starts_with(code),
            Waited::Garbage | Waited::Over | Waited::TooLong => false,
        }
    }

    fn pause(&mut self, time: Duration, unit: usize) -> bool {
        let end = Instant::now() + time;
        loop {
            match self.wait(Some(unit), end, false) {
                Waited::Reply(_) | Waited::Garbage => {}
                Waited::TooLong => return true,
                Waited::Over => return false,
            }
        }
    }

    /// Waits for a reply until this time; `is_due` says whether a missing one is worth an event.
    fn wait(&mut self, unit: Option<usize>, until: Instant, is_due: bool) -> Waited {
        loop {
            while let Some(line) = self.line() {
                if let Some(waited) = self.take(&line, unit) {
                    return waited;
                }
            }
            self.unread.drain(..std::mem::take(&mut self.read));
            if self.unread.len() > LONGEST_LINE {
                let garbage = self.take_unread();
                self.tell(Event::Garbage(garbage));
                return Waited::Garbage;
            }
            match self.connection.step(&mut &[][..], &mut self.unread, until) {
                Step::Done => {}
                Step::TooLong => {
                    if is_due {
                        self.tell(Event::TimedOut);
                    }
                    return Waited::TooLong;
                }
                Step::Over => {
                    self.over();
                    return Waited::Over;
                }
            }
        }
    }

    /// A complete line without its end. Lines that end with LF alone are accepted.
    fn line(&mut self) -> Option<Vec<u8>> {
        let length = self.unread[self.read..].iter().position(|&octet| octet == b'\n')?;
        let mut line = self.unread[self.read..self.read + length].to_vec();
        self.read += length + 1;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }

    /// Takes the input that was not read as lines.
    fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread).split_off(std::mem::take(&mut self.read))
    }

    fn take(&mut self, line: &[u8], unit: Option<usize>) -> Option<Waited> {
        let Some((code, is_last, text)) = reply_line(line) else {
            self.tell(Event::Garbage(line.to_vec()));
            return Some(Waited::Garbage);
        };
        let reply = self.reply.get_or_insert_with(|| Reply { code, lines: Vec::new(), unit });
        reply.lines.push(text);
        if !is_last {
            return None;
        }
        let mut reply = self.reply.take()?;
        // If the codes of its lines differ, the last one counts, as it does for clients.
        reply.code = code;
        self.tell(Event::Reply(reply));
        Some(Waited::Reply(code))
    }

    fn over(&mut self) {
        if !self.is_over {
            self.is_over = true;
            let rest = self.take_unread();
            if !rest.is_empty() {
                self.tell(Event::Garbage(rest));
            }
            self.tell(Event::Closed);
        }
    }

    fn tell(&mut self, event: Event) {
        (self.told)(&event);
        self.events.push(event);
    }
}

/// The code of a line, whether it is the last one of its reply, and its text.
fn reply_line(line: &[u8]) -> Option<(u16, bool, String)> {
    let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let (is_last, text) = match line.get(3) {
        None => (true, &line[3..]),
        Some(b' ') => (true, &line[4..]),
        Some(b'-') => (false, &line[4..]),
        Some(_) => return None,
    };
    Some((code, is_last, String::from_utf8_lossy(text).into_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
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
}
