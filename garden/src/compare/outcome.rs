//! The outcome of a case at one server, in a form that can be compared: what the server is known to do is removed, and
//! placeholders are put back.

use std::collections::BTreeMap;

use super::learn::{Change, Learned};
use super::meaning;
use super::own::without_own;
use super::text::{
    LineEnds, Sent, Text, address, canonical, end_of, ends_for_some, find, octets_of, sent, unstuffed, with_replaced,
};
use super::{Expected, ExpectedMessage};
use crate::case::{Case, Part, Placeholder, Unit};
use crate::observation::{Event, Message, Observation, Place};

/// What a case sends, parsed once for all servers.
pub(crate) struct OfCase {
    /// The messages in it, as the standard reads them.
    pub(crate) sent: Vec<Sent>,
    /// Everything that it sends, in lower case and without spaces and tabs.
    pub(crate) words: Vec<u8>,
    /// The names of the fields of each of these messages; also as a reader finds them whose lines end with LF and for
    /// whom `From :` is not From.
    pub(crate) names: Vec<Vec<String>>,
    /// How many lines of their headers may be taken for text at most.
    pub(crate) hidden_lines: usize,
    has_report: bool,
    has_nobody: bool,
}

impl OfCase {
    /// If there is an observation, placeholders are the same as in its outcome.
    pub(crate) fn new(case: &Case, observation: Option<&Observation>) -> Self {
        let put_back = |octets: Vec<u8>| match observation {
            Some(observation) => as_put_back(&octets, observation),
            None => octets,
        };
        let octets = put_back(octets_of(case));
        let mut sent = sent(case);
        for message in &mut sent {
            message.octets = put_back(std::mem::take(&mut message.octets));
            message.sender = put_back(std::mem::take(&mut message.sender));
        }
        let names = sent
            .iter()
            .flat_map(|message| {
                let [wire, lf] =
                    [LineEnds::Wire, LineEnds::Mailbox].map(|ends| Text::parse(&message.octets, ends).fields);
                let plain = lf.into_iter().filter(|field| field.label().len() == field.name.len() + 1).collect();
                [wire, plain]
            })
            .map(|fields| fields.into_iter().map(|field| field.name).collect())
            .collect();
        let has_report = find(&octets.to_ascii_lowercase(), b"multipart/report").is_some();
        let is_of_nobody = |message: &Sent| address(&message.sender).trim_ascii().is_empty();
        let has_nobody = find(&octets, b"<>").is_some() || sent.iter().any(is_of_nobody);
        let words = words(&octets);
        let hidden_lines = sent.iter().map(|message| hidden_lines(&message.octets)).max().unwrap_or(0);
        Self { words, sent, names, hidden_lines, has_report, has_nobody }
    }
}

/// How many lines of a header may be taken for text: in a mailbox, an LF LF within a header looks like its end, and the
/// server adds its fields where it saw the end.
fn hidden_lines(message: &[u8]) -> usize {
    let header = Text::parse(message, LineEnds::Wire).fields;
    let header: Vec<u8> = header.into_iter().flat_map(|field| field.octets).collect();
    memchr::memchr_iter(b'\n', &Text::parse(&header, LineEnds::Mailbox).body).count()
}

/// Octets in lower case and without spaces and tabs.
pub(super) fn words(octets: &[u8]) -> Vec<u8> {
    octets.iter().filter(|octet| !matches!(octet, b' ' | b'\t')).map(u8::to_ascii_lowercase).collect()
}

/// The outcome of a case.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The messages that came out, one for each recipient, in that order.
    pub(crate) delivered: Vec<Delivered>,
    /// How many messages tell the sender that something did not arrive.
    pub(crate) bounces: usize,
    /// The answers, in order; `None` if only messages are known.
    pub(crate) steps: Option<Vec<Step>>,
    /// Whether the session was held up to its last reply.
    pub(crate) is_complete: bool,
    /// Whether the server still greets.
    pub(crate) is_alive: bool,
    /// What has ended of the processes beside it, and how.
    pub(crate) ended: Option<String>,
    /// Whether the server has nothing more to deliver. If not, messages may be missing.
    pub(crate) is_drained: bool,
    /// What the server does to senders' fields.
    pub(crate) changes: BTreeMap<String, Change>,
    /// Whether it quotes `From `.
    pub(crate) quotes_from: bool,
    /// Whether it changes white space in fields.
    pub(crate) refolds: bool,
    /// Whether it rewrites messages that have several parts or are encoded.
    pub(crate) recodes: bool,
    /// Whether it passes mail on with other senders and with other recipients.
    pub(crate) rewrites: (bool, bool),
}

/// A message that came out.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    /// How its lines end.
    pub(crate) ends: LineEnds,
    /// Its octets, without what the server is known to add.
    pub(crate) octets: Vec<u8>,
    /// The sender according to the envelope, or to what the server wrote on top.
    pub(crate) sender: Option<Vec<u8>>,
    /// The recipient, if it was passed on.
    pub(crate) recipient: Option<Vec<u8>>,
}

/// What came in answer to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// 2xx.
    Done,
    /// 3xx.
    GoOn,
    /// 4xx.
    Later,
    /// 5xx, and codes that do not exist.
    Never,
    /// Nothing in time.
    Silence,
    /// Something that is not a reply.
    Garbage,
    /// The end of the connection.
    Closed,
}

impl Step {
    pub(crate) const fn is_refusal(self) -> bool {
        matches!(self, Self::Later | Self::Never)
    }

    pub(crate) const fn is_positive(self) -> bool {
        matches!(self, Self::Done | Self::GoOn)
    }

    const fn of_code(code: u16) -> Self {
        match code {
            200..=299 => Self::Done,
            300..=399 => Self::GoOn,
            400..=499 => Self::Later,
            _ => Self::Never,
        }
    }
}

impl Outcome {
    /// The outcome of an observation.
    pub(crate) fn seen(case: &Case, of_case: &OfCase, observation: &Observation, learned: &Learned) -> Self {
        let mut delivered = Vec::new();
        let mut bounces = 0;
        for message in &observation.messages {
            if is_bounce(of_case, message, learned) {
                bounces += 1;
                continue;
            }
            let ends = learned.ends_of(&message.place);
            let octets = filled_back(&delivered_octets(message, learned), observation);
            let (text, on_top) = without_own(Text::parse(&octets, ends), ends, learned, of_case);
            let octets = learned.with_last_line_end(text.octets(), ends);
            let of_envelope = |argument: &String| address(&filled_back(argument.as_bytes(), observation)).to_vec();
            let sender = message.envelope.as_ref().map(|envelope| of_envelope(&envelope.mail));
            let sender = sender.or_else(|| on_top.map(|on_top| address(&on_top).to_vec()));
            let one = Delivered { ends, octets, sender, recipient: None };
            match &message.envelope {
                Some(envelope) if !envelope.recipients.is_empty() => {
                    delivered.extend(
                        envelope
                            .recipients
                            .iter()
                            .map(|recipient| Delivered { recipient: Some(of_envelope(recipient)), ..one.clone() }),
                    );
                }
                _ => delivered.push(one),
            }
        }
        let (steps, is_complete) = steps(case, of_case, observation, learned);
        Self {
            delivered,
            bounces,
            steps: Some(steps),
            is_complete,
            is_alive: observation.is_alive,
            ended: observation.ended.clone(),
            is_drained: observation.is_drained,
            changes: learned.changes.clone(),
            quotes_from: learned.quotes_from,
            refolds: learned.refolds,
            recodes: learned.recodes,
            rewrites: (learned.rewrites_sender, learned.rewrites_recipients),
        }
    }

    /// The outcome according to the standard, with placeholders as in this observation.
    pub(crate) fn expected(expected: &Expected, observation: &Observation) -> Self {
        let one = |message: &ExpectedMessage| Delivered {
            ends: LineEnds::Wire,
            octets: as_put_back(&message.octets, observation),
            sender: None,
            recipient: None,
        };
        // A message without a token comes out too, but cannot be attributed to a session.
        let token = Placeholder::Token.text().as_bytes();
        let seen = expected.messages.iter().filter(|message| find(&message.octets, token).is_some());
        let delivered = seen.flat_map(|message| std::iter::repeat_n(one(message), message.copies)).collect();
        Self {
            delivered,
            bounces: 0,
            steps: None,
            is_complete: true,
            is_alive: true,
            ended: None,
            is_drained: true,
            changes: BTreeMap::new(),
            quotes_from: false,
            refolds: false,
            recodes: false,
            rewrites: (false, false),
        }
    }

    /// Whether everything was refused and nothing came out.
    pub(crate) fn is_refused(&self) -> bool {
        self.delivered.is_empty() && self.bounces == 0 && self.has_refusal() && self.taken() == 0
    }

    /// How many messages were accepted after DATA.
    pub(crate) fn taken(&self) -> usize {
        self.steps.iter().flat_map(|steps| steps.windows(2)).filter(|pair| *pair == [Step::GoOn, Step::Done]).count()
    }

    pub(crate) fn has_refusal(&self) -> bool {
        self.steps.iter().flatten().any(|step| step.is_refusal())
    }

    /// Whether the session ended without a reply that says what happened to the message.
    pub(crate) fn has_no_answer(&self) -> bool {
        self.steps.iter().flatten().any(|step| matches!(step, Step::Silence | Step::Garbage | Step::Closed))
    }

    /// How much the server does to ordinary mail, and whether it keeps less than was on the wire. Servers that do
    /// little are what others are compared with.
    pub(crate) fn opacity(&self) -> (bool, usize) {
        let is_mailbox = self.delivered.iter().any(|message| message.ends == LineEnds::Mailbox);
        (
            is_mailbox,
            self.changes.len() + usize::from(self.quotes_from) + usize::from(self.refolds) + usize::from(self.recodes),
        )
    }
}

/// The octets of the message: those of a file as they are, those from the wire without stuffed dots.
pub(super) fn delivered_octets(message: &Message, learned: &Learned) -> Vec<u8> {
    match message.place {
        Place::Mailbox(_) => message.octets.clone(),
        Place::Wire => unstuffed(&message.octets, learned.ends_of(&message.place)),
    }
}

/// The octets with placeholders in place of values that differ between sessions.
pub(super) fn filled_back(octets: &[u8], observation: &Observation) -> Vec<u8> {
    let mut values: Vec<(&str, &str)> =
        observation.filled.iter().map(|(placeholder, value)| (value.as_str(), placeholder.as_str())).collect();
    values.push((&observation.token, Placeholder::Token.text()));
    values.retain(|(value, _)| !value.is_empty());
    // Longer values first, because an address contains the domain.
    values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    let mut octets = octets.to_vec();
    for (value, placeholder) in values {
        octets = with_replaced(&octets, value.as_bytes(), placeholder.as_bytes());
    }
    octets
}

/// What was sent, in the form of what comes out after placeholders were put back: one value may belong to two
/// placeholders.
fn as_put_back(octets: &[u8], observation: &Observation) -> Vec<u8> {
    let mut octets = octets.to_vec();
    for (placeholder, value) in &observation.filled {
        octets = with_replaced(&octets, placeholder.as_bytes(), value.as_bytes());
    }
    filled_back(&octets, observation)
}

/// Whether this message tells a sender that another one did not arrive. It contains the token because it quotes that
/// one.
pub(super) fn is_bounce(of_case: &OfCase, message: &Message, learned: &Learned) -> bool {
    let text = Text::parse(&delivered_octets(message, learned), learned.ends_of(&message.place));
    let is_report = text
        .fields
        .iter()
        .filter(|field| field.name == "content-type")
        .any(|field| field.value().to_ascii_lowercase().starts_with(b"multipart/report"));
    let is_of_nobody = match &message.envelope {
        Some(envelope) => address(envelope.mail.as_bytes()).is_empty(),
        None => text.fields.iter().any(|field| match field.name.as_str() {
            "return-path" => field.value() == b"<>",
            "from " => field.octets.starts_with(b"From <>") || field.octets.starts_with(b"From MAILER-DAEMON"),
            _ => false,
        }),
    };
    is_report && !of_case.has_report || is_of_nobody && !of_case.has_nobody
}

/// The answers in the order of the units, and whether the last reply that was due is among them.
fn steps(case: &Case, of_case: &OfCase, observation: &Observation, learned: &Learned) -> (Vec<Step>, bool) {
    let parts = parts_of_units(case);
    let last_due = case.units.iter().rposition(|unit| matches!(unit, Unit::Expect { .. }));
    let mut steps = Vec::new();
    let mut greeted = None;
    let mut is_last_due_there = false;
    for event in &observation.transcript {
        let step = match event {
            Event::Sent(_) | Event::Secured => continue,
            Event::Reply(reply) => {
                let Some(unit) = reply.unit else {
                    // The server's greeting is recorded only if it is negative.
                    if reply.code >= 400 {
                        steps.push(Step::of_code(reply.code));
                    }
                    continue;
                };
                let step = Step::of_code(reply.code);
                is_last_due_there |= Some(unit) >= last_due;
                if parts.get(unit) == Some(&Part::Helo) {
                    let step = if learned.refuses_greeting && step.is_refusal() { Step::Done } else { step };
                    // A login has replies of its own within the same unit.
                    if greeted == Some(unit) {
                        steps.pop();
                    }
                    greeted = Some(unit);
                    steps.push(step);
                    continue;
                }
                step
            }
            Event::TimedOut => Step::Silence,
            Event::Garbage(_) => Step::Garbage,
            Event::Closed => Step::Closed,
        };
        // Once everything is answered, a server may close the connection or not.
        if is_last_due_there && matches!(step, Step::Silence | Step::Closed) {
            continue;
        }
        steps.push(step);
    }
    let steps = if learned.answers_each_recipient { once_a_message(of_case, &steps) } else { steps };
    (steps, is_last_due_there || last_due.is_none())
}

/// Turns replies for each recipient into one for each message, if all of them are equal.
fn once_a_message(of_case: &OfCase, steps: &[Step]) -> Vec<Step> {
    let mut recipients = of_case.sent.iter().map(|message| message.recipients);
    let mut kept = Vec::with_capacity(steps.len());
    let mut rest = steps;
    while let Some((&step, behind)) = rest.split_first() {
        kept.push(step);
        rest = behind;
        if step == Step::GoOn {
            // Recipients that were refused before DATA get no answer after it.
            let named = recipients.next().unwrap_or(1);
            let before = kept.iter().rev().skip(1).take(named);
            let more = before.filter(|step| step.is_positive()).count().saturating_sub(1);
            if let Some((&first, others)) = rest.split_first() {
                let repeated = others.iter().take(more).take_while(|&&other| other == first).count();
                kept.push(first);
                rest = &others[repeated..];
            }
        }
    }
    kept
}

/// For each unit the part that was sent last before it.
fn parts_of_units(case: &Case) -> Vec<Part> {
    let mut last = Part::Helo;
    case.units
        .iter()
        .map(|unit| {
            if let Unit::Send { part, .. } = unit {
                last = *part;
            }
            last
        })
        .collect()
}

/// Two texts in a form for comparison: whatever one of the two servers does to every message is done to both.
pub(crate) fn comparable(one: (&Outcome, &Delivered), other: (&Outcome, &Delivered)) -> (Text, Text) {
    let ends = match (one.1.ends, other.1.ends) {
        (LineEnds::Wire, LineEnds::Wire) => LineEnds::Wire,
        _ => LineEnds::Mailbox,
    };
    let octets = [one, other].map(|(_, message)| canonical(&message.octets, ends));
    let mut texts = octets.each_ref().map(|octets| Text::parse(octets, ends));
    let pairs = [(one.0, other.0), (other.0, one.0)];
    for (text, (own, theirs)) in texts.iter_mut().zip(pairs) {
        if own.quotes_from || theirs.quotes_from {
            // Some of these servers quote lines of headers, others do not.
            for field in &mut text.fields {
                field.octets = with_replaced(&field.octets, b"\n>From ", b"\nFrom ");
            }
        }
        // In a text all of them quote. A server that quotes has failed to do so if the quote is missing.
        if theirs.quotes_from && !own.quotes_from {
            text.body = with_replaced(&text.body, b"\nFrom ", b"\n>From ");
        }
        rename(text, &own.changes);
        // If this server usually removes a field and has kept it here, that is a difference.
        for (name, _) in theirs.changes.iter().filter(|(_, change)| **change == Change::Removed) {
            text.fields.retain(|field| field.name != *name);
        }
        for (name, change) in own.changes.iter().chain(&theirs.changes) {
            apply(text, name, change, ends);
        }
        if own.refolds || theirs.refolds {
            for field in text.fields.iter_mut().filter(|field| !field.name.is_empty()) {
                field.octets = [&field.label(), &b" "[..], &field.unfolded(ends), end_of(ends)].concat();
            }
        }
    }
    let has_mime = |text: &Text| text.fields.iter().any(|field| meaning::is_of_mime(&field.name));
    if (one.0.recodes || other.0.recodes)
        && texts.iter().any(has_mime)
        && let [Some(contents), Some(others)] = octets.each_ref().map(|octets| meaning::contents(octets))
    {
        for (text, contents) in texts.iter_mut().zip([contents, others]) {
            without_mime(text);
            text.body = contents;
        }
    }
    let [one, other] = texts;
    (one, other)
}

/// Removes the fields that describe the encoding, one of each name. A second one of the same name is never ordinary.
fn without_mime(text: &mut Text) {
    let mut seen: Vec<String> = Vec::new();
    text.fields.retain(|field| {
        let is_first = meaning::is_of_mime(&field.name) && !seen.contains(&field.name);
        if is_first {
            seen.push(field.name.clone());
        }
        !is_first
    });
}

/// Gives renamed fields their old names. A field that kept its name, although this server renames it, is marked as
/// such.
fn rename(text: &mut Text, changes: &BTreeMap<String, Change>) {
    for (name, change) in changes {
        let Change::Renamed(to) = change else {
            continue;
        };
        for field in &mut text.fields {
            let other = match &field.name {
                own if own == to => name,
                own if own == name => to,
                _ => continue,
            };
            let behind = field.octets.get(field.name.len()..).unwrap_or_default();
            field.octets = [other.as_bytes(), behind].concat();
            field.name.clone_from(other);
        }
    }
}

/// Does to fields of this name what a server does to them.
fn apply(text: &mut Text, name: &str, change: &Change, ends: LineEnds) {
    if *change == Change::Removed {
        return;
    }
    for field in text.fields.iter_mut().filter(|field| field.name == name) {
        let mut value = field.unfolded(ends);
        match change {
            Change::Respelled => value = meaning::addresses(name, &value).unwrap_or(value),
            // A new value contains none of these characters.
            Change::Rewritten => value.retain(|&octet| ends_for_some(octet)),
            Change::Refolded | Change::Renamed(_) | Change::Removed => {}
        }
        field.octets = [&field.label(), &b" "[..], &value, end_of(ends)].concat();
    }
}
