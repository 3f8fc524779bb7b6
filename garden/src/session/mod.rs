//! Holds a case with a server on an open connection.

mod adapt;
mod due;
mod waits;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::case::{Case, Part, Placeholder, Unit, piece};
use crate::connection::{Connection, Step};
use crate::observation::{Event, Reply};
use due::Due;

pub use adapt::{Hello, adapt, auth_plain};
pub use waits::Waits;

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
    let mut session = Session {
        connection,
        unread: Vec::new(),
        read: 0,
        reply: None,
        due: Due::default(),
        is_over: false,
        events: Vec::new(),
        told,
    };
    session.hold(case, filling, waits)?;
    Ok(session.events)
}

struct Session<'t> {
    connection: Connection,
    /// Input that was not read as lines yet.
    unread: Vec<u8>,
    read: usize,
    /// A reply whose last line has not come yet.
    reply: Option<Reply>,
    due: Due,
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
        if (is_secure_at_once && !self.secure(waits.patience)?) || !self.is_as_expected("2", None, waits.patience) {
            return Ok(());
        }
        let mut index = usize::from(is_secure_at_once);
        while let Some(unit) = case.units.get(index) {
            let (octets, sends) = piece(&case.units[index..]);
            let goes_on = match unit {
                Unit::Send { .. } => self.send(filling.fill(&octets), waits.patience),
                Unit::Expect { code } => {
                    self.is_as_expected(code, Some(index), waits.at(index))
                        && self.read_copies(&case.units[index + 1..], index, waits.at(index))
                }
                Unit::Pause(time) => self.pause(*time, index),
                Unit::StartTls => self.secure(waits.patience)?,
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

    /// Reads the replies that belong to the last one, if the units that follow do not wait for them. Returns whether
    /// all came.
    fn read_copies(&mut self, following: &[Unit], unit: usize, patience: Duration) -> bool {
        let waits = following.iter().take_while(|unit| matches!(unit, Unit::Expect { .. })).count();
        (0..self.due.copies(waits)).all(|_| self.is_as_expected("", Some(unit), patience))
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
        self.due.sent(&octets);
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
        self.due.came(code);
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
mod tests;
