//! The outcome of a case at one server, in a form that can be compared: what the server is known to do is removed, and
//! placeholders are put back.

use std::collections::BTreeMap;

use super::learn::{Change, Learned};
use super::own::without_own;
use super::text::{LineEnds, Sent, Text, address, find, octets_of, sent, unstuffed, with_replaced};
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
    names: Vec<Vec<String>>,
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

    /// Whether one of its messages has no field of this name, for some reader.
    pub(super) fn may_lack(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|names| !names.iter().any(|known| known == name))
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

#[cfg(test)]
mod tests {
    use super::super::stored::{delivered, message, observation, passed_on};
    use super::*;
    use crate::observation::Reply;

    const TEXT: &str = "Subject: a\r\n\r\n__TOKEN__\r\n.\r\n";

    #[test]
    fn the_longest_value_is_put_back_first() {
        let mut seen = observation("a", &message(1, TEXT), "", vec![]);
        let values = [("__DOMAIN__", "garden"), ("__SOURCE__", "me@garden"), ("__USER__", ""), ("__HOST__", "garden")];
        seen.filled = values.map(|(placeholder, value)| (placeholder.to_owned(), value.to_owned())).into();
        assert_eq!(filled_back(b"me@garden at garden: t0t0t0t0t", &seen), b"__SOURCE__ at __DOMAIN__: __TOKEN__");
        // One value is that of two placeholders: what was sent is put back in the same way.
        assert_eq!(as_put_back(b"__HOST__", &seen), b"__DOMAIN__");
    }

    /// Whether this is a bounce, in a case with this sender and text.
    fn bounces(sent: &str, came: &Message) -> bool {
        let case = message(1, TEXT);
        let units = case.units.into_iter().map(|unit| match unit {
            Unit::Send { part: Part::Mail, .. } => Unit::Send { part: Part::Mail, octets: sent.into() },
            other => other,
        });
        let case = Case { name: "a".into(), units: units.collect() };
        is_bounce(&OfCase::new(&case, None), came, &Learned::default())
    }

    #[test]
    fn a_bounce_is_of_nobody_or_a_report() {
        let (someone, nobody) = ("MAIL FROM:<a@b>\r\n", "MAIL FROM:<>\r\n");
        for octets in [
            "Return-Path: <>\r\nSubject: failed\r\n\r\nt0t0t0t0t\r\n",
            "From MAILER-DAEMON Fri Nov 27\r\nSubject: failed\r\n\r\nt0t0t0t0t\r\n",
            "From <> Fri Nov 27\r\nSubject: failed\r\n\r\nt0t0t0t0t\r\n",
        ] {
            assert!(bounces(someone, &delivered(octets)), "{octets}");
            assert!(!bounces(nobody, &delivered(octets)), "{octets}");
        }
        let on_wire = "Subject: failed\r\n\r\nt0t0t0t0t\r\n.\r\n";
        assert!(bounces(someone, &passed_on("<>", &["<a@b>"], on_wire)));
        assert!(!bounces(someone, &passed_on("<a@b>", &["<a@b>"], on_wire)));
        let report = "Return-Path: <c@d>\r\nContent-Type: Multipart/Report; boundary=b\r\n\r\nt0t0t0t0t\r\n";
        assert!(bounces(someone, &delivered(report)));
        // The text itself is one.
        let case = message(1, "Content-Type: multipart/report; boundary=b\r\n\r\n__TOKEN__\r\n.\r\n");
        assert!(!is_bounce(&OfCase::new(&case, None), &delivered(report), &Learned::default()));
    }

    fn steps_of(case: &Case, observation: &Observation, learned: &Learned) -> (String, bool) {
        let (steps, is_complete) = steps(case, &OfCase::new(case, None), observation, learned);
        (super::super::difference::in_words(&steps).replace(' ', ""), is_complete)
    }

    #[test]
    fn a_greeting_counts_if_it_is_a_refusal_and_a_login_with_its_hello() {
        let case = message(1, TEXT);
        let reply = |code, unit| Event::Reply(Reply { code, lines: Vec::new(), unit });
        let of = |first: Vec<Event>, answers: &str| {
            let mut seen = observation("a", &case, answers, vec![]);
            seen.transcript.splice(..0, first);
            steps_of(&case, &seen, &Learned::default())
        };
        assert_eq!(of(vec![reply(220, None)], "22232"), ("22232".into(), true));
        assert_eq!(of(vec![reply(554, None), Event::Closed], ""), ("5closed".into(), false));
        // The reply to EHLO, and that to AUTH.
        assert_eq!(of(vec![reply(250, Some(1))], "22232"), ("22232".into(), true));
        assert_eq!(of(vec![reply(250, Some(1))], "5-"), ("5silence".into(), false));
        // Behind the last reply it does not matter how the connection ends.
        let mut seen = observation("a", &case, "22232", vec![]);
        seen.transcript.extend([Event::TimedOut, Event::Closed]);
        assert_eq!(steps_of(&case, &seen, &Learned::default()), ("22232".into(), true));
    }

    #[test]
    fn replies_to_each_recipient_are_one_if_they_are_equal() {
        let case = message(2, TEXT);
        let learned = Learned { answers_each_recipient: true, ..Learned::default() };
        let once = |answers: &str| {
            // All that is behind the reply to DATA came in the unit of the text.
            let (before, text) = answers.split_at(5);
            let mut seen = observation("a", &case, before, vec![]);
            let last = case.units.len() - 1;
            let reply =
                |digit: char| Reply { code: if digit == '2' { 250 } else { 550 }, lines: Vec::new(), unit: Some(last) };
            seen.transcript.extend(text.chars().map(|digit| Event::Reply(reply(digit))));
            steps_of(&case, &seen, &learned).0
        };
        assert_eq!(once("222232"), "222232");
        assert_eq!(once("2222322"), "222232");
        assert_eq!(once("2222325"), "2222325");
        // Of a recipient that was refused there is no reply behind the text; what follows is another's.
        assert_eq!(once("2225322"), "2225322");
        assert_eq!(once("22223222"), "2222322");
    }

    #[test]
    fn what_was_taken_was_not_refused() {
        let case = message(1, TEXT);
        let of = |answers, messages| {
            let seen = observation("a", &case, answers, messages);
            Outcome::seen(&case, &OfCase::new(&case, None), &seen, &Learned::default())
        };
        assert!(of("22235", vec![]).is_refused());
        assert!(!of("25232", vec![]).is_refused());
        assert!(!of("22232", vec![]).is_refused());
        assert!(!of("22235", vec![delivered("t0t0t0t0t\r\n")]).is_refused());
        assert_eq!([of("22232", vec![]).taken(), of("22235", vec![]).taken(), of("2223-", vec![]).taken()], [1, 0, 0]);
    }
}
