//! Holds a case with a server, on a connection that stands.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::case::{Case, Part, Placeholder, Unit};
use crate::observation::{Event, Reply};

/// Longer than any line of a reply that a server should send (512 octets; RFC 5321, 4.5.3.1.5), so that one without an end
/// is given up.
const LONGEST_LINE: usize = 64 << 10;

/// Behind the last step of a case without QUIT, replies are waited for until none has come for so long.
const SILENCE: Duration = Duration::from_millis(200);

/// What placeholders stand for in one session.
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
    /// The octets with what their placeholders stand for.
    pub fn fill(&self, octets: &[u8]) -> Vec<u8> {
        let mut filled = Vec::with_capacity(octets.len());
        let mut rest = octets;
        while let Some((&octet, behind)) = rest.split_first() {
            match Placeholder::ALL.iter().find(|placeholder| rest.starts_with(placeholder.text().as_bytes())) {
                Some(placeholder) => {
                    filled.extend_from_slice(self.value(*placeholder).as_bytes());
                    rest = &rest[placeholder.text().len()..];
                }
                None => {
                    filled.push(octet);
                    rest = behind;
                }
            }
        }
        filled
    }

    fn value(&self, placeholder: Placeholder) -> &str {
        match placeholder {
            Placeholder::Token => &self.token,
            Placeholder::Source => &self.source,
            Placeholder::Destination => &self.destination,
            Placeholder::SecondDestination => &self.second_destination,
            Placeholder::Domain => &self.domain,
        }
    }
}

/// How a server wants to be greeted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hello {
    /// As the case has it.
    #[default]
    AsItIs,
    /// With HELO: it has no other.
    Helo,
    /// With LHLO: it speaks LMTP (RFC 2033).
    Lhlo,
}

/// The case as this server can be asked it: with the greeting that it has, and logged in where it wants that. Only parts
/// of kind [`Part::Helo`] are changed, and of those only the first verb.
pub fn adapt(case: &Case, hello: Hello, login: Option<&str>) -> Case {
    let mut adapted = Case { name: case.name.clone(), units: Vec::with_capacity(case.units.len() + 2) };
    let mut login = login;
    let mut units = case.units.iter().peekable();
    while let Some(unit) = units.next() {
        let Unit::Send { part: Part::Helo, octets } = unit else {
            adapted.units.push(unit.clone());
            continue;
        };
        let mut octets = greeting(octets, hello);
        let is_answered = matches!(units.peek(), Some(Unit::Expect { .. }));
        match login {
            // In one piece with what follows, it goes in front of that.
            Some(line) if !is_answered => {
                let end = octets.iter().position(|&octet| octet == b'\n').map_or(octets.len(), |at| at + 1);
                octets.splice(end..end, format!("{line}\r\n").into_bytes());
                adapted.units.push(Unit::Send { part: Part::Helo, octets });
            }
            Some(line) => {
                adapted.units.push(Unit::Send { part: Part::Helo, octets });
                adapted.units.extend(units.next().cloned());
                adapted.units.push(Unit::Send { part: Part::Helo, octets: format!("{line}\r\n").into_bytes() });
                adapted.units.push(Unit::Expect { code: "2".into() });
            }
            None => adapted.units.push(Unit::Send { part: Part::Helo, octets }),
        }
        login = None;
    }
    adapted
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

/// Holds the session: reads the greeting, does what the units say, and reads what still comes. What happens is told as it
/// happens, and returned.
///
/// The rest is not held when a reply is not the expected one, when none comes within `patience`, or when the connection is
/// over.
///
/// # Errors
///
/// Our own faults only: no thread, no second descriptor.
pub fn hold(
    stream: TcpStream,
    case: &Case,
    filling: &Filling,
    patience: Duration,
    told: &mut dyn FnMut(&Event),
) -> Result<Vec<Event>> {
    let _ = stream.set_nodelay(true);
    stream.set_write_timeout(Some(patience)).context("setting how long to write")?;
    let mut reading = stream.try_clone().context("a second descriptor of the connection")?;
    let (came, chunks) = channel();
    // It reads while we write: a server that answers much while much is sent to it would wait for us, and we for it.
    let reader = thread::Builder::new().name("replies".into()).spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            match reading.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) if came.send(buffer[..length].to_vec()).is_err() => break,
                Err(error) if error.kind() != ErrorKind::Interrupted => break,
                Ok(_) | Err(_) => {}
            }
        }
    })?;
    let mut session =
        Session { stream, chunks, unread: Vec::new(), reply: None, is_over: false, events: Vec::new(), told };
    session.hold(case, filling, patience);
    // Ends the reader as well.
    let _ = session.stream.shutdown(Shutdown::Both);
    let events = session.events;
    let _ = reader.join();
    Ok(events)
}

struct Session<'t> {
    stream: TcpStream,
    chunks: Receiver<Vec<u8>>,
    unread: Vec<u8>,
    /// One whose last line has not come.
    reply: Option<Reply>,
    is_over: bool,
    events: Vec<Event>,
    told: &'t mut dyn FnMut(&Event),
}

/// What was waited for.
enum Waited {
    Reply(u16),
    /// What came is none.
    Garbage,
    Over,
    TooLong,
}

impl Session<'_> {
    fn hold(&mut self, case: &Case, filling: &Filling, patience: Duration) {
        if !self.is_as_expected("2", None, patience) {
            return;
        }
        for (index, unit) in case.units.iter().enumerate() {
            let goes_on = match unit {
                Unit::Send { octets, .. } => self.send(filling.fill(octets)),
                Unit::Expect { code } => self.is_as_expected(code, Some(index), patience),
                Unit::Pause(time) => self.pause(*time, index),
            };
            if !goes_on {
                return;
            }
        }
        let last = case.units.len().saturating_sub(1);
        if case.units.iter().any(|unit| matches!(unit, Unit::Send { part: Part::Quit, .. })) {
            // A server that has read QUIT answers and closes. Replies to all that was sent before come first.
            while let Waited::Reply(_) | Waited::Garbage = self.wait(Some(last), Instant::now() + patience, true) {}
        } else {
            while let Waited::Reply(_) | Waited::Garbage = self.wait(Some(last), Instant::now() + SILENCE, false) {}
        }
    }

    fn send(&mut self, octets: Vec<u8>) -> bool {
        let sent = self.stream.write_all(&octets);
        self.tell(Event::Sent(octets));
        if sent.is_err() {
            // What it said before it closed is still to be read.
            while let Waited::Reply(_) | Waited::Garbage = self.wait(None, Instant::now() + SILENCE, false) {}
            self.over();
        }
        sent.is_ok()
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

    /// Waits for a reply until then; `is_due` if one that does not come is worth telling.
    fn wait(&mut self, unit: Option<usize>, until: Instant, is_due: bool) -> Waited {
        loop {
            while let Some(line) = self.line() {
                if let Some(waited) = self.take(&line, unit) {
                    return waited;
                }
            }
            if self.unread.len() > LONGEST_LINE {
                let garbage = std::mem::take(&mut self.unread);
                self.tell(Event::Garbage(garbage));
                return Waited::Garbage;
            }
            match self.chunks.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(octets) => self.unread.extend_from_slice(&octets),
                Err(RecvTimeoutError::Timeout) => {
                    if is_due {
                        self.tell(Event::TimedOut);
                    }
                    return Waited::TooLong;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.over();
                    return Waited::Over;
                }
            }
        }
    }

    /// A line that is whole, without its end. A server that ends lines with LF alone is understood.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.iter().position(|&octet| octet == b'\n')?;
        let mut line: Vec<u8> = self.unread.drain(..=end).collect();
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
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
        // The last line's code counts: where lines differ, that is the one that clients go by.
        reply.code = code;
        self.tell(Event::Reply(reply));
        Some(Waited::Reply(code))
    }

    fn over(&mut self) {
        if !self.is_over {
            self.is_over = true;
            let rest = std::mem::take(&mut self.unread);
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

/// The code of a line, whether no further one belongs to the reply, and its text.
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
    use std::net::TcpListener;

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

    /// Holds a session with a server that says the first of these at once, and each other one when it has read a line.
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
        let events = hold(stream, &case(units), &filling(), patience, &mut |_| {}).unwrap();
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
        let octets = b"__SOURCE__ __DEST__ __DEST2__ __DOMAIN__ __TOKEN__ __OTHER__ __\xff";
        assert_eq!(filling().fill(octets), b"from@garden to@garden too@garden garden t0k3n __OTHER__ __\xff");
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
    fn behind_a_reply_that_is_not_expected_nothing_is_sent() {
        let units = vec![send(Part::Mail, "MAIL\r\n"), expect("2"), send(Part::Rcpt, "RCPT\r\n")];
        let (events, heard) = session(&["220 hello\r\n", "550 no\r\n"], units, PATIENCE);
        assert_eq!((replies(&events), &*heard), (vec![(220, None), (550, Some(1))], "MAIL\r\n"));
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

    #[test]
    fn a_server_is_greeted_as_it_wants() {
        let asked = case(vec![send(Part::Helo, "EHLO me\r\n"), expect("2"), send(Part::Mail, "EHLO \r\n")]);
        assert_eq!(adapt(&asked, Hello::AsItIs, None), asked);
        for (hello, verb) in [(Hello::Helo, "HELO"), (Hello::Lhlo, "LHLO")] {
            let adapted = adapt(&asked, hello, None);
            assert_eq!(adapted.units[0], send(Part::Helo, &format!("{verb} me\r\n")));
            assert_eq!(adapted.units[1..], asked.units[1..]);
        }
    }

    #[test]
    fn who_has_to_log_in_does_so_behind_the_greeting() {
        let asked = case(vec![send(Part::Helo, "EHLO me\r\n"), expect("2"), send(Part::Mail, "MAIL\r\n")]);
        let units = &adapt(&asked, Hello::AsItIs, Some("AUTH PLAIN x")).units;
        let login = [send(Part::Helo, "AUTH PLAIN x\r\n"), expect("2")];
        assert_eq!(units[..], [&asked.units[..2], &login, &asked.units[2..]].concat()[..]);
        let asked = case(vec![send(Part::Helo, "EHLO me\r\nMAIL\r\n")]);
        let units = &adapt(&asked, Hello::AsItIs, Some("AUTH PLAIN x")).units;
        assert_eq!(units[..], [send(Part::Helo, "EHLO me\r\nAUTH PLAIN x\r\nMAIL\r\n")]);
    }
}
