//! What a server does to every message, learned from clean controls and never written down by hand.
//!
//! Nothing that a server does to a message of an ordinary kind is a finding. What is learned is narrow on purpose: which
//! fields, in which order, at which place. A mask that is wider hides what one looks for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outcome::{OfCase, delivered_octets, filled_back, is_bounce};
use super::text::{Field, LineEnds, Text, canonical, end_of, sent};
use crate::case::{Case, Part, Unit};
use crate::observation::{Event, Message, Observation, Place};

/// What is known of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Whether a clean control came out. If none did, nothing that the server does can be judged.
    pub is_known: bool,
    /// The names of the fields that it puts on top of each message, from the top; `from ` is the first line of a mailbox file.
    pub top: Vec<String>,
    /// What else it adds.
    pub additions: Vec<Addition>,
    /// What it does to fields that a sender wrote.
    pub changes: BTreeMap<String, Change>,
    /// What becomes of the end of the last line.
    pub last_line_end: LastLineEnd,
    /// What lines end with in its mailbox, where it has one.
    pub mailbox: Option<MailboxLines>,
    /// Whether `From ` at the beginning of a line gets a `>`.
    pub quotes_from: bool,
    /// Whether it refuses the greeting of the controls and serves nevertheless.
    pub refuses_greeting: bool,
    /// Whether it answers the end of the data once for each recipient (RFC 2033, 4.2).
    pub answers_each_recipient: bool,
    /// Whether the sender that it passes on is another.
    pub rewrites_sender: bool,
    /// Whether the recipients that it passes on are others.
    pub rewrites_recipients: bool,
    /// What is different even in clean controls, and is none of these: findings about this server are to be doubted.
    pub unexplained: Vec<String>,
}

/// A field that is added elsewhere than in the row on top, or only where it is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addition {
    /// Its name, in small letters.
    pub name: String,
    /// Where.
    pub place: FieldPlace,
    /// Whether it is added only to a message that has none of this name.
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

/// What is done to a sender's field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is not passed on.
    Removed,
    /// It gets this name.
    Renamed(String),
    /// It gets another value.
    Rewritten,
}

/// What becomes of the end of the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastLineEnd {
    /// It stays.
    #[default]
    Kept,
    /// It is dropped.
    Dropped,
    /// An empty line comes behind it.
    Doubled,
}

/// Lines in a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailboxLines {
    /// All end with LF.
    Lf,
    /// All end with CRLF.
    CrLf,
    /// Some so, some so.
    Mixed,
}

/// How many controls without any oddity there are.
const CLEAN: usize = 3;

/// The fields that a server may complete.
const COMPLETED: [&str; 4] = ["Date", "Message-ID", "From", "To"];

/// Fields that servers are known to take away, for they are theirs or are not for every eye.
const REMOVED: &str = "Return-Path: <return@elsewhere.example>\r\n\
    X-Original-To: original@elsewhere.example\r\n\
    Delivered-To: delivered@elsewhere.example\r\n\
    Bcc: bcc@elsewhere.example\r\n\
    Resent-Bcc: resent@elsewhere.example\r\n\
    Content-Length: 7\r\n\
    Lines: 1\r\n\
    Status: RO\r\n\
    X-Status: A\r\n\
    Errors-To: errors@elsewhere.example\r\n\
    Apparently-To: apparently@elsewhere.example\r\n\
    Return-Receipt-To: receipt@elsewhere.example\r\n";

/// The cases that are held with every server before any other. They are learned from and are not judged; those that
/// [`crate::generate::controls`] makes are judged, and show whether what was learned holds for clean mails of other forms.
pub fn controls() -> Vec<Case> {
    let mut cases: Vec<_> = (1..=CLEAN).map(|number| control(&format!("clean-{number}"), &COMPLETED, "", 1)).collect();
    for missing in COMPLETED {
        let others: Vec<_> = COMPLETED.into_iter().filter(|name| *name != missing).collect();
        cases.push(control(&format!("without-{}", missing.to_ascii_lowercase()), &others, "", 1));
    }
    cases.push(control("without-all", &[], "", 1));
    // Where a server adds fields to a header that is short depends on what else is in it.
    cases.push(with_header("without-subject", "X-Last: of the header\r\n", 1));
    cases.push(with_header("without-header", "", 1));
    cases.push(control("removed", &COMPLETED, REMOVED, 1));
    cases.push(control("two-recipients", &COMPLETED, "", 2));
    cases
}

/// What the observations of [`controls`] tell of the server that they are of. Others among them are passed over.
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
        let is_clean = case.name.starts_with("control/clean-");
        let Some((sent, text, message)) = only_message(case, observation) else {
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
        // What is known to be the server's own is not a sender's field that got another value.
        let rest = if is_clean { text.clone() } else { without_row(text.clone(), &learned) };
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
    /// What is done to a message that goes through this server and then through that one.
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
        chain.refuses_greeting = self.refuses_greeting;
        chain.answers_each_recipient = self.answers_each_recipient;
        chain.rewrites_sender |= self.rewrites_sender;
        chain.rewrites_recipients |= self.rewrites_recipients;
        chain
    }

    /// How the end of the last line is made what it was.
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

    fn doubt(&mut self, what: String) {
        if !self.unexplained.contains(&what) {
            self.unexplained.push(what);
        }
    }
}

fn control(name: &str, fields: &[&str], more: &str, recipients: usize) -> Case {
    let mut header = String::from("Subject: control __TOKEN__\r\n");
    for field in fields {
        header.push_str(match *field {
            "Date" => "Date: Fri, 27 Nov 2026 09:00:00 +0000\r\n",
            "Message-ID" => "Message-ID: <__TOKEN__@elsewhere.example>\r\n",
            "From" => "From: __SOURCE__\r\n",
            _ => "To: __DEST__\r\n",
        });
    }
    header.push_str(more);
    header.push_str("X-Last: of the header\r\n");
    with_header(name, &header, recipients)
}

fn with_header(name: &str, header: &str, recipients: usize) -> Case {
    let steps = [
        (Part::Helo, "EHLO client.example\r\n".to_owned(), ""),
        (Part::Mail, "MAIL FROM:<__SOURCE__>\r\n".into(), "2"),
    ];
    let recipients = ["__DEST__", "__DEST2__"]
        .into_iter()
        .take(recipients)
        .map(|address| (Part::Rcpt, format!("RCPT TO:<{address}>\r\n"), "2"));
    let mut units = Vec::new();
    for (part, octets, code) in steps.into_iter().chain(recipients).chain([(Part::Data, "DATA\r\n".into(), "354")]) {
        units.push(Unit::Send { part, octets: octets.into_bytes() });
        units.push(Unit::Expect { code: code.into() });
    }
    let body = "\r\n__TOKEN__\r\nFrom here on it is text.\r\n\r\nThe end.\r\n";
    let pieces = [(Part::Header, header), (Part::Body, body), (Part::End, ".\r\n")];
    for (part, octets) in pieces.into_iter().filter(|(_, octets)| !octets.is_empty()) {
        units.push(Unit::Send { part, octets: octets.as_bytes().to_vec() });
    }
    units.push(Unit::Expect { code: "2".into() });
    units.push(Unit::Send { part: Part::Quit, octets: b"QUIT\r\n".to_vec() });
    units.push(Unit::Expect { code: String::new() });
    Case { name: format!("control/{name}"), units }
}

/// What was sent, what came out of it, and the message as it was seen; nothing if it is not exactly one. Of a message to two
/// recipients the first is enough.
fn only_message<'o>(case: &Case, observation: &'o Observation) -> Option<(Text, Text, &'o Message)> {
    let of_case = OfCase::new(case, None);
    let message = of_case.sent.first()?;
    let out: Vec<_> = observation.messages.iter().filter(|out| !is_bounce(&of_case, out)).collect();
    let (first, more) = out.split_first()?;
    if more.len() >= message.recipients.max(1) {
        return None;
    }
    let ends = ends_of(&first.place);
    let octets = filled_back(&delivered_octets(first), observation);
    Some((Text::parse(&message.octets, LineEnds::Wire), Text::parse(&octets, ends), first))
}

/// How lines end there.
pub(super) const fn ends_of(place: &Place) -> LineEnds {
    match place {
        Place::Mailbox(_) => LineEnds::Mailbox,
        Place::Wire => LineEnds::Wire,
    }
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

/// Where the fields that came out come from: matched in order with those that were sent, first by name and value, then by name.
fn learn_fields(learned: &mut Learned, case: &Case, sent: &Text, seen: &Text) {
    let matched = matched(&sent.fields, &seen.fields);
    let first = matched.iter().position(Option::is_some).unwrap_or(seen.fields.len());
    let last = matched.iter().rposition(Option::is_some).unwrap_or(0);
    let mut is_lost = vec![true; sent.fields.len()];
    for (field, at) in seen.fields.iter().zip(&matched) {
        if let Some(at) = *at {
            is_lost[at] = false;
            if field.value() != sent.fields[at].value() {
                learned.changes.insert(field.name.clone(), Change::Rewritten);
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
        let is_completion = is_completion(case, &field.name);
        let place = match &before {
            _ if index < first => FieldPlace::Top,
            _ if index > last => FieldPlace::Bottom,
            Some(name) => FieldPlace::Behind(name.clone()),
            None => FieldPlace::Top,
        };
        if place == FieldPlace::Top && !is_completion {
            top.push(field.name.clone());
        } else {
            let addition = Addition { name: field.name.clone(), place, is_completion };
            if !learned.additions.contains(&addition) {
                learned.additions.push(addition);
            }
        }
    }
    for (field, is_lost) in sent.fields.iter().zip(is_lost) {
        if is_lost {
            learned.changes.insert(field.name.clone(), Change::Removed);
        }
    }
    // What is there only sometimes is in the longest row.
    if case.name.starts_with("control/clean-") && top.len() > learned.top.len() {
        learned.top = top;
    }
}

fn is_completion(case: &Case, name: &str) -> bool {
    COMPLETED.iter().any(|completed| completed.eq_ignore_ascii_case(name))
        && sent(case).iter().any(|message| !Text::parse(&message.octets, LineEnds::Wire).has(name))
}

/// For each field that came out, which of those that were sent it is.
fn matched(sent: &[Field], seen: &[Field]) -> Vec<Option<usize>> {
    let mut matched = vec![None; seen.len()];
    let mut is_taken = vec![false; sent.len()];
    let is_same: [fn(&Field, &Field) -> bool; 2] =
        [|a, b| a.name == b.name && a.value() == b.value(), |a, b| a.name == b.name];
    for is_same in is_same {
        // From below, for what is added on top may have the name of a sender's own field.
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
    let ends = ends_of(&message.place);
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

/// Takes from a message what this server is known to have put on it, and gives the rest with the text of Return-Path or of
/// the first line of the mailbox, where that was on top.
///
/// Only from the top and in the learned order; of what is completed one line at the learned place, and none that the sender
/// wrote word for word: a field of the same name further down, or one that some server makes of text, is not the server's.
pub(super) fn without_own(mut text: Text, learned: &Learned, of_case: &OfCase) -> (Text, Option<Vec<u8>>) {
    let is_missing: Vec<_> = learned
        .additions
        .iter()
        .map(|addition| {
            !addition.is_completion
                || of_case.names.is_empty()
                || of_case.names.iter().any(|names| !names.contains(&addition.name))
        })
        .collect();
    let mut is_dropped = vec![false; learned.additions.len()];
    let mut drops = |field: &Field, place: &FieldPlace| {
        let found = learned.additions.iter().enumerate().position(|(index, addition)| {
            !is_dropped[index]
                && is_missing[index]
                && addition.name == field.name
                && addition.place == *place
                && !(addition.is_completion && is_own_word(field, &of_case.octets))
        });
        if let Some(index) = found {
            // Of one name there is one, wherever it was seen.
            let name = &learned.additions[index].name;
            for (dropped, addition) in is_dropped.iter_mut().zip(&learned.additions) {
                *dropped |= addition.name == *name && addition.is_completion;
            }
            is_dropped[index] = true;
        }
        found.is_some()
    };
    let mut sender = None;
    let mut row = learned.top.as_slice();
    let mut own = 0;
    for field in &text.fields {
        if let Some(at) = row.iter().position(|name| *name == field.name) {
            row = &row[at + 1..];
            match field.name.as_str() {
                "return-path" => sender = Some(field.value().to_vec()),
                "from " if sender.is_none() => {
                    sender = field.octets.split(|&octet| octet == b' ').nth(1).map(<[u8]>::to_vec)
                }
                _ => {}
            }
        } else if !drops(field, &FieldPlace::Top) {
            break;
        }
        own += 1;
    }
    text.fields.drain(..own);
    while text.fields.last().is_some_and(|field| drops(field, &FieldPlace::Bottom)) {
        text.fields.pop();
    }
    let mut kept: Vec<Field> = Vec::with_capacity(text.fields.len());
    for field in text.fields.drain(..) {
        let is_own = kept.last().is_some_and(|before| drops(&field, &FieldPlace::Behind(before.name.clone())));
        if !is_own {
            kept.push(field);
        }
    }
    text.fields = kept;
    (text, sender)
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

/// Whether the line stands in what was sent as it is.
fn is_own_word(field: &Field, all: &[u8]) -> bool {
    super::text::find(all, field.octets.trim_ascii_end()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(octets: &[u8]) -> Text {
        Text::parse(octets, LineEnds::Wire)
    }

    fn without(octets: &[u8], learned: &Learned, sent: &[u8]) -> String {
        let octets_of_case = [b"DATA\r\n", sent, b".\r\n"].concat();
        let units = vec![Unit::Send { part: Part::Header, octets: octets_of_case }];
        let of_case = OfCase::new(&Case { name: String::new(), units }, None);
        let (text, _) = without_own(text(octets), learned, &of_case);
        String::from_utf8(text.octets()).unwrap()
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_the_top_is_taken_off_and_only_in_order() {
        let learned = Learned { top: names(&["return-path", "received"]), ..Learned::default() };
        let sent = b"Received: own\r\nReturn-Path: own\r\n\r\n";
        assert_eq!(
            without(b"Return-Path: <s>\r\nReceived: s\r\nReceived: own\r\nReturn-Path: own\r\n\r\n", &learned, sent),
            "Received: own\r\nReturn-Path: own\r\n\r\n"
        );
        assert_eq!(without(b"X: 1\r\nReceived: own\r\n\r\n", &learned, sent), "X: 1\r\nReceived: own\r\n\r\n");
    }

    #[test]
    fn of_a_completed_field_one_line_goes_at_its_place() {
        let date = Addition { name: "date".into(), place: FieldPlace::Bottom, is_completion: true };
        let learned = Learned { additions: vec![date], ..Learned::default() };
        let sent = b"X: a\nDate: forged\r\n\r\n";
        // As a server that ends lines at LF has it: there is one now, and it completes none.
        assert_eq!(without(b"X: a\r\nDate: forged\r\n\r\n", &learned, sent), "X: a\r\nDate: forged\r\n\r\n");
        // As one has it that completes nevertheless: its own goes, the other stays.
        assert_eq!(
            without(b"X: a\r\nDate: forged\r\nDate: now\r\n\r\n", &learned, sent),
            "X: a\r\nDate: forged\r\n\r\n"
        );
        // Two that it wrote: one is too many.
        assert_eq!(without(b"X: a\r\nDate: now\r\nDate: then\r\n\r\n", &learned, sent), "X: a\r\nDate: now\r\n\r\n");
        // The sender wrote one: nothing is completed.
        assert_eq!(without(b"X: a\r\nDate: now\r\n\r\n", &learned, b"Date: d\r\n\r\n"), "X: a\r\nDate: now\r\n\r\n");
    }

    #[test]
    fn the_controls_are_what_they_are_called() {
        let names: Vec<_> = controls().iter().map(|case| case.name.clone()).collect();
        assert_eq!(names.len(), 12);
        for missing in COMPLETED {
            let name = format!("control/without-{}", missing.to_ascii_lowercase());
            let case = controls().into_iter().find(|case| case.name == name).unwrap();
            let header = text(&sent(&case)[0].octets);
            assert!(!header.has(&missing.to_ascii_lowercase()));
            assert_eq!(header.fields.len(), 5);
        }
    }
}
