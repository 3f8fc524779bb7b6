//! Observations as a run stores them, written down for tests.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Learned;
use super::text::octets_of;
use crate::case::{Case, Part, Unit};
use crate::observation::{Envelope, Event, Message, Observation, Place, Reply, Servers};

/// A session in which each of these is sent and then a reply is waited for.
pub(crate) fn case(steps: &[(Part, &str)]) -> Case {
    let units = steps.iter().flat_map(|(part, octets)| {
        [Unit::Send { part: *part, octets: octets.as_bytes().to_vec() }, Unit::Expect { code: String::new() }]
    });
    Case { name: "a".into(), units: units.collect() }
}

/// A session with a message of this text to so many recipients. The waits are for the replies to EHLO, MAIL, each RCPT,
/// DATA and the text.
pub(crate) fn message(recipients: usize, text: &str) -> Case {
    let mut steps = vec![(Part::Helo, "EHLO client.example\r\n"), (Part::Mail, "MAIL FROM:<__SOURCE__>\r\n")];
    steps.extend(
        ["RCPT TO:<__DEST__>\r\n", "RCPT TO:<__DEST2__>\r\n"].map(|rcpt| (Part::Rcpt, rcpt)).iter().take(recipients),
    );
    steps.extend([(Part::Data, "DATA\r\n"), (Part::End, text)]);
    case(&steps)
}

/// What a server made of a case. Of its answers the first digits are written, in the order of the waits; `-` is a
/// time-out and `.` the end of the connection.
pub(crate) fn observation(server: &str, case: &Case, answers: &str, messages: Vec<Message>) -> Observation {
    let waits = case.units.iter().enumerate().filter(|(_, unit)| matches!(unit, Unit::Expect { .. }));
    let event = |(answer, (unit, _)): (char, _)| match answer.to_digit(10) {
        Some(digit) => {
            Event::Reply(Reply { code: u16::try_from(digit * 100).unwrap(), lines: Vec::new(), unit: Some(unit) })
        }
        None if answer == '-' => Event::TimedOut,
        None => Event::Closed,
    };
    Observation {
        case: case.name.clone(),
        server: server.to_owned(),
        token: "t0t0t0t0t".into(),
        filled: BTreeMap::new(),
        transcript: answers.chars().zip(waits).map(event).collect(),
        messages,
        log: Vec::new(),
        is_alive: true,
        ended: None,
        is_drained: true,
    }
}

/// A message in a mailbox.
pub(crate) fn delivered(octets: &str) -> Message {
    Message { place: Place::Mailbox("user1".into()), envelope: None, octets: octets.into() }
}

/// A message that was passed on; the octets are those on the wire.
pub(crate) fn passed_on(mail: &str, recipients: &[&str], octets: &str) -> Message {
    let recipients = recipients.iter().map(|&recipient| recipient.to_owned()).collect();
    Message {
        place: Place::Wire,
        envelope: Some(Envelope { mail: mail.to_owned(), recipients }),
        octets: octets.into(),
    }
}

/// Servers that change nothing.
pub(crate) fn plain(servers: &[&str]) -> BTreeMap<String, Learned> {
    let known = Learned { is_known: true, ..Learned::default() };
    servers.iter().map(|&server| (server.to_owned(), known.clone())).collect()
}

/// Servers of which each accepts everything, and has one message of it.
pub(crate) struct Made<'a> {
    /// The message of this server, of these octets.
    pub(crate) makes: &'a dyn Fn(&str, &str) -> &'static str,
    /// The sessions that were held.
    pub(crate) held: Vec<(String, Case)>,
}

impl Servers for Made<'_> {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn hold(&mut self, server: &str, cases: &[Case]) -> Result<Vec<Observation>> {
        let observations = cases.iter().map(|case| {
            self.held.push((server.to_owned(), case.clone()));
            let octets = String::from_utf8(octets_of(case)).unwrap();
            let waits = case.units.iter().filter(|unit| matches!(unit, Unit::Expect { .. })).count();
            observation(server, case, &"2".repeat(waits), vec![delivered((self.makes)(server, &octets))])
        });
        Ok(observations.collect())
    }
}
