//! Learns from clean controls what a server does to every message; none of this is configured by hand.
//!
//! What a server does to ordinary messages is not a finding. What is learned is narrow on purpose: which fields, in
//! which order, at which place. A wider mask would hide real findings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::controls::{ANY_FIELD, COMPLETED, MIME, RESENT_COMPLETED, controls};
use super::meaning;
use super::outcome::{OfCase, delivered_octets, filled_back, is_bounce};
use super::text::{Field, LineEnds, Text, canonical, end_of};
use crate::case::{Case, Unit};
use crate::observation::{Event, Message, Observation, Place};

/// What is known of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Whether a clean control came out. If not, nothing about the server can be judged.
    pub is_known: bool,
    /// The fields that it puts on top of each message, from the top; `from ` stands for the first line of a mailbox
    /// file.
    pub top: Vec<String>,
    /// Other fields that it adds.
    pub additions: Vec<Addition>,
    /// What it does to the sender's fields, by name.
    pub changes: BTreeMap<String, Change>,
    /// What it does to the end of the last line.
    pub last_line_end: LastLineEnd,
    /// How lines end in its mailbox, if it has one.
    pub mailbox: Option<MailboxLines>,
    /// Whether all lines that it passes on end with LF alone, except for the last one.
    #[serde(default)]
    pub passes_on_lf: bool,
    /// Whether it changes white space in fields.
    #[serde(default)]
    pub refolds: bool,
    /// Whether it rewrites messages that have several parts or are encoded, with the same content.
    #[serde(default)]
    pub recodes: bool,
    /// Whether `From ` at the beginning of a line gets a `>`.
    pub quotes_from: bool,
    /// Whether it refuses the greeting of the controls and accepts mail in spite of it.
    pub refuses_greeting: bool,
    /// Whether it answers the end of the data once for each recipient (RFC 2033, 4.2).
    pub answers_each_recipient: bool,
    /// Whether it passes mail on with another sender.
    pub rewrites_sender: bool,
    /// Whether it passes mail on with other recipients.
    pub rewrites_recipients: bool,
    /// Differences in clean controls that nothing of the above explains. Findings about such a server are doubtful.
    pub unexplained: Vec<String>,
}

/// A field that is added elsewhere than on top, or only if it is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addition {
    /// Its name, in small letters.
    pub name: String,
    /// Where.
    pub place: FieldPlace,
    /// Whether it is added only to messages without a field of this name.
    pub is_completion: bool,
}

/// Where a field is added.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldPlace {
    /// Above all that the sender wrote.
    Top,
    /// Behind a field of the sender, of this name.
    Behind(String),
    /// Behind all that the sender wrote.
    Bottom,
}

/// What is done to a sender's field, the least change first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Its white space is changed.
    Refolded,
    /// Its addresses are written differently.
    Respelled,
    /// Its value is replaced.
    Rewritten,
    /// It gets another name.
    Renamed(String),
    /// It is not passed on.
    Removed,
}

/// What happens to the end of the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastLineEnd {
    /// It stays.
    #[default]
    Kept,
    /// It is dropped.
    Dropped,
    /// An empty line is added behind it.
    Doubled,
}

/// How lines end in a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailboxLines {
    /// All end with LF.
    Lf,
    /// All end with CRLF.
    CrLf,
    /// Some with LF, some with CRLF.
    Mixed,
}

/// The most additions that are learned; no server adds that many fields.
const MOST_ADDITIONS: usize = 100;

/// What the observations of [`controls`] show about a server. Observations of other cases are ignored.
pub fn learn(observations: &[Observation]) -> Learned {
    let mut learned = Learned::default();
    let controls: Vec<_> = controls()
        .into_iter()
        .filter_map(|case| {
            let observation = observations.iter().find(|observation| observation.case == case.name)?;
            Some((case, observation))
        })
        .collect();
    for (case, observation) in &controls {
        let name = case.name.trim_start_matches("control/");
        let is_clean = name.starts_with("clean-");
        // Everything else is interpreted with this.
        if is_clean {
            learned.passes_on_lf |= passes_on_lf(observation);
        }
        let Some((sent, text, message)) = only_message(case, observation, &learned) else {
            if is_clean {
                learned.doubt(format!("{} did not come out, or more than once", case.name));
            }
            continue;
        };
        if is_clean {
            learned.is_known = true;
            learn_envelope(&mut learned, message, observation);
            learn_lines(&mut learned, message);
        }
        // Fields that the server is known to add are not the sender's with another value.
        let mut rest = if is_clean { text.clone() } else { without_row(text.clone(), &learned) };
        if name.starts_with(MIME) && learn_recoding(&mut learned, &sent, &rest, &message.place) {
            rest.fields.retain(|field| !meaning::is_of_mime(&field.name));
        }
        learn_fields(&mut learned, case, &sent, &rest);
        if is_clean {
            learn_body(&mut learned, &sent, &text, message);
        }
        learned.refuses_greeting |= is_clean && refuses_greeting(case, observation);
    }
    if let Some((case, observation)) = controls.iter().find(|(case, _)| case.name == "control/two-recipients") {
        let expected = case.units.iter().filter(|unit| matches!(unit, Unit::Expect { .. })).count();
        let replies = observation.transcript.iter().filter(|event| is_reply_to_unit(event)).count();
        learned.answers_each_recipient = replies == expected + 1;
    }
    learned
}

impl Learned {
    /// How lines end at this place.
    pub(super) const fn ends_of(&self, place: &Place) -> LineEnds {
        match place {
            Place::Mailbox(_) => LineEnds::Mailbox,
            Place::Wire if self.passes_on_lf => LineEnds::Mailbox,
            Place::Wire => LineEnds::Wire,
        }
    }

    /// What is done to a message that goes through this server and then through `next`.
    pub fn then(&self, next: &Self) -> Self {
        let mut chain = next.clone();
        chain.is_known &= self.is_known;
        chain.top.extend(self.top.iter().cloned());
        for addition in &self.additions {
            if !chain.additions.contains(addition) {
                chain.additions.push(addition.clone());
            }
        }
        for (name, change) in &self.changes {
            chain.changes.entry(name.clone()).or_insert_with(|| change.clone());
        }
        if chain.last_line_end == LastLineEnd::Kept {
            chain.last_line_end = self.last_line_end;
        }
        chain.quotes_from |= self.quotes_from;
        chain.refolds |= self.refolds;
        chain.recodes |= self.recodes;
        chain.refuses_greeting = self.refuses_greeting;
        chain.answers_each_recipient = self.answers_each_recipient;
        chain.rewrites_sender |= self.rewrites_sender;
        chain.rewrites_recipients |= self.rewrites_recipients;
        chain
    }

    /// Restores the end of the last line.
    pub fn with_last_line_end(&self, mut octets: Vec<u8>, ends: LineEnds) -> Vec<u8> {
        let end = end_of(ends);
        match self.last_line_end {
            LastLineEnd::Kept => {}
            LastLineEnd::Dropped => octets.extend_from_slice(end),
            LastLineEnd::Doubled if octets.ends_with(&[end, end].concat()) => octets.truncate(octets.len() - end.len()),
            LastLineEnd::Doubled => {}
        }
        octets
    }

    /// Of several changes of a field the largest counts.
    fn note_change(&mut self, name: &str, change: Change) {
        self.refolds |= change == Change::Refolded && name == ANY_FIELD;
        match self.changes.get_mut(name) {
            Some(known) if *known >= change => {}
            Some(known) => *known = change,
            None => {
                self.changes.insert(name.to_owned(), change);
            }
        }
    }

    fn note_addition(&mut self, addition: Addition) {
        if self.additions.contains(&addition) {
            return;
        }
        if self.additions.len() == MOST_ADDITIONS {
            self.doubt(format!("it adds more than {MOST_ADDITIONS} fields"));
        } else {
            self.additions.push(addition);
        }
    }

    fn doubt(&mut self, what: String) {
        if !self.unexplained.contains(&what) {
            self.unexplained.push(what);
        }
    }
}

/// What was sent, what came out, and the message as observed; `None` if it is not exactly one message. Of a message to
/// two recipients the first is used.
fn only_message<'o>(case: &Case, observation: &'o Observation, learned: &Learned) -> Option<(Text, Text, &'o Message)> {
    let of_case = OfCase::new(case, Some(observation));
    let message = of_case.sent.first()?;
    let out: Vec<_> = observation.messages.iter().filter(|out| !is_bounce(&of_case, out, learned)).collect();
    let (first, more) = out.split_first()?;
    if more.len() >= message.recipients.max(1) {
        return None;
    }
    let ends = learned.ends_of(&first.place);
    let octets = filled_back(&delivered_octets(first, learned), observation);
    Some((Text::parse(&message.octets, LineEnds::Wire), Text::parse(&octets, ends), first))
}

/// Whether all lines that are passed on end with LF alone, except for the one before the final dot.
fn passes_on_lf(observation: &Observation) -> bool {
    let mut wire = observation.messages.iter().filter(|message| message.place == Place::Wire);
    wire.next().is_some_and(|message| {
        let text = message.octets.strip_suffix(b"\r\n.\r\n").unwrap_or(&message.octets);
        text.contains(&b'\n') && !text.contains(&b'\r')
    })
}

/// Whether a message with several parts, or an encoded one, came out with the same content but written differently.
fn learn_recoding(learned: &mut Learned, sent: &Text, seen: &Text, place: &Place) -> bool {
    let ends = learned.ends_of(place);
    let of_mime = |text: &Text| {
        let fields = text.fields.iter().filter(|field| meaning::is_of_mime(&field.name));
        fields.map(|field| canonical(&field.octets, ends).into_owned()).collect::<Vec<_>>()
    };
    let end = learned.with_last_line_end(seen.body.clone(), ends);
    if of_mime(sent) == of_mime(seen) && canonical(&sent.body, ends) == end {
        return false;
    }
    let is_same = meaning::contents(&sent.octets()) == meaning::contents(&seen.octets());
    if is_same {
        learned.recodes = true;
    } else {
        learned.doubt("the text of a message of several parts comes out as another".into());
    }
    is_same
}

fn learn_envelope(learned: &mut Learned, message: &Message, observation: &Observation) {
    let Some(envelope) = &message.envelope else {
        return;
    };
    let put_back = |text: &str| filled_back(text.as_bytes(), observation);
    let sender = put_back(&envelope.mail);
    learned.rewrites_sender |= super::text::address(&sender) != b"__SOURCE__";
    learned.rewrites_recipients |=
        envelope.recipients.iter().any(|recipient| super::text::address(&put_back(recipient)) != b"__DEST__");
}

fn learn_lines(learned: &mut Learned, message: &Message) {
    if message.place == Place::Wire {
        return;
    }
    let lines = message.octets.iter().filter(|&&octet| octet == b'\n').count();
    let with_cr = message.octets.windows(2).filter(|pair| *pair == b"\r\n").count();
    let seen = match with_cr {
        0 => MailboxLines::Lf,
        _ if with_cr == lines => MailboxLines::CrLf,
        _ => MailboxLines::Mixed,
    };
    learned.mailbox = Some(match learned.mailbox {
        Some(known) if known != seen => MailboxLines::Mixed,
        _ => seen,
    });
}

/// Finds out where the fields of the outcome come from. They are matched in order with those that were sent, first by
/// name and value, then by name.
fn learn_fields(learned: &mut Learned, case: &Case, sent: &Text, seen: &Text) {
    let matched = matched(&sent.fields, &seen.fields);
    let last = matched.iter().rposition(Option::is_some).unwrap_or(0);
    let mut is_lost = vec![true; sent.fields.len()];
    for (field, at) in seen.fields.iter().zip(&matched) {
        if let Some(at) = *at {
            is_lost[at] = false;
            if let Some(change) = change(&sent.fields[at], field) {
                learned.note_change(&field.name, change);
            }
        }
    }
    let mut top = Vec::new();
    let mut before = None;
    for (index, field) in seen.fields.iter().enumerate() {
        if let Some(at) = matched[index] {
            before = Some(sent.fields[at].name.clone());
            continue;
        }
        let renamed = sent.fields.iter().enumerate().find(|(at, own)| is_lost[*at] && own.value() == field.value());
        if let Some((at, own)) = renamed {
            is_lost[at] = false;
            learned.changes.insert(own.name.clone(), Change::Renamed(field.name.clone()));
            continue;
        }
        let is_completion = is_completion(sent, &field.name);
        let place = match &before {
            None => FieldPlace::Top,
            Some(_) if index > last => FieldPlace::Bottom,
            Some(name) => FieldPlace::Behind(name.clone()),
        };
        if place == FieldPlace::Top && !is_completion {
            top.push(field.name.clone());
        } else {
            learned.note_addition(Addition { name: field.name.clone(), place, is_completion });
        }
    }
    for (field, is_lost) in sent.fields.iter().zip(is_lost) {
        if is_lost && !(learned.recodes && meaning::is_of_mime(&field.name)) {
            learned.changes.insert(field.name.clone(), Change::Removed);
        }
    }
    // The longest row is kept, because some fields are added only sometimes.
    if case.name.starts_with("control/clean-") && top.len() > learned.top.len() {
        learned.top = top;
    }
}

/// What was done to the value of a field.
fn change(sent: &Field, seen: &Field) -> Option<Change> {
    let as_lines = |field: &Field| Field {
        name: field.name.clone(),
        octets: canonical(&field.octets, LineEnds::Mailbox).into_owned(),
    };
    let (sent, seen) = (as_lines(sent), as_lines(seen));
    if sent.octets == seen.octets {
        return None;
    }
    let unfolded = |field: &Field| field.unfolded(LineEnds::Mailbox);
    let addresses = |field: &Field| meaning::addresses(&field.name, &unfolded(field));
    Some(if unfolded(&sent) == unfolded(&seen) {
        Change::Refolded
    } else if addresses(&sent).is_some() && addresses(&sent) == addresses(&seen) {
        Change::Respelled
    } else {
        Change::Rewritten
    })
}

fn is_completion(sent: &Text, name: &str) -> bool {
    let completed = COMPLETED.iter().chain(&RESENT_COMPLETED);
    completed.into_iter().any(|completed| completed.eq_ignore_ascii_case(name)) && !sent.has(name)
}

/// For each field of the outcome the index of the field that was sent.
fn matched(sent: &[Field], seen: &[Field]) -> Vec<Option<usize>> {
    let mut matched = vec![None; seen.len()];
    let mut is_taken = vec![false; sent.len()];
    let is_same: [fn(&Field, &Field) -> bool; 2] =
        [|a, b| a.name == b.name && a.value() == b.value(), |a, b| a.name == b.name];
    for is_same in is_same {
        // Matched from the bottom, because a field that is added on top may have the name of one of the sender's.
        for (index, field) in seen.iter().enumerate().rev() {
            if matched[index].is_some() {
                continue;
            }
            let own = (0..sent.len()).rev().find(|&at| !is_taken[at] && is_same(&sent[at], field));
            if let Some(at) = own {
                is_taken[at] = true;
                matched[index] = Some(at);
            }
        }
    }
    matched
}

fn learn_body(learned: &mut Learned, sent: &Text, seen: &Text, message: &Message) {
    let ends = learned.ends_of(&message.place);
    let end = end_of(ends);
    let sent = canonical(&sent.body, ends).into_owned();
    let quoted = super::text::with_replaced(&sent, b"\nFrom ", b"\n>From ");
    for (sent, quotes_from) in [(sent, false), (quoted, true)] {
        let last_line_end = if seen.body == sent {
            LastLineEnd::Kept
        } else if [&seen.body, end].concat() == sent {
            LastLineEnd::Dropped
        } else if seen.body == [&sent, end].concat() {
            LastLineEnd::Doubled
        } else {
            continue;
        };
        learned.last_line_end = last_line_end;
        learned.quotes_from = quotes_from;
        return;
    }
    learned.doubt("the text of a clean message comes out as another".into());
}

fn refuses_greeting(case: &Case, observation: &Observation) -> bool {
    let greeting = case.units.iter().position(|unit| matches!(unit, Unit::Expect { .. }));
    observation.transcript.iter().any(|event| match event {
        Event::Reply(reply) => reply.unit == greeting && reply.code >= 400,
        _ => false,
    })
}

const fn is_reply_to_unit(event: &Event) -> bool {
    matches!(event, Event::Reply(reply) if reply.unit.is_some())
}

/// The message without the row that this server puts on top.
fn without_row(mut text: Text, learned: &Learned) -> Text {
    let mut row = learned.top.as_slice();
    let mut own = 0;
    while let Some(at) = text.fields.get(own).and_then(|field| row.iter().position(|name| *name == field.name)) {
        row = &row[at + 1..];
        own += 1;
    }
    text.fields.drain(..own);
    text
}
