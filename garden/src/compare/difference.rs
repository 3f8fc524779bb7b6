//! How one outcome differs from another, in classes.

use super::outcome::{Delivered, OfCase, Outcome, Step, comparable};
use super::text::{Embedded, Text, embedded};
use super::{Difference, Expected, Kind};
use crate::case::Case;
use crate::case::escaped::escape;
use crate::observation::Observation;

/// What is known of a case, regardless of the server.
pub(super) struct Knowledge {
    /// What the case sends.
    pub(super) of_case: OfCase,
    embedded: Embedded,
    /// If more messages than this come out, text was taken for commands or an end.
    at_most: usize,
}

impl Knowledge {
    pub(super) fn new(case: &Case, observation: Option<&Observation>, expected: Option<&Expected>) -> Self {
        let of_case = OfCase::new(case, observation);
        let sent = &of_case.sent;
        let mut found = Embedded::default();
        for message in sent {
            let Embedded { senders, subjects } = embedded(&message.octets);
            found.senders.extend(senders);
            found.subjects.extend(subjects);
        }
        // Senders and subjects that the messages themselves have are not forged.
        let own_senders: Vec<_> = sent.iter().map(|message| super::text::address(&message.sender).to_vec()).collect();
        let own_subjects: Vec<_> = sent
            .iter()
            .flat_map(|message| Text::parse(&message.octets, super::text::LineEnds::Wire).fields)
            .filter(|field| field.name == "subject")
            .map(|field| field.value().to_vec())
            .collect();
        found.senders.retain(|sender| !sender.is_empty() && !own_senders.contains(sender));
        found.subjects.retain(|subject| !subject.is_empty() && !own_subjects.contains(subject));
        let at_most = match expected {
            Some(expected) => expected.at_most.unwrap_or(usize::MAX),
            None => of_case.sent.iter().map(|message| message.recipients.max(1)).sum(),
        };
        Self { of_case, embedded: found, at_most }
    }

    fn is_forged(&self, message: &Delivered) -> Option<String> {
        if let Some(sender) = message.sender.as_ref().filter(|sender| self.embedded.senders.contains(sender)) {
            return Some(format!("the sender is {}", escape(sender)));
        }
        let text = Text::parse(&message.octets, message.ends);
        let subject =
            text.value("subject").filter(|subject| self.embedded.subjects.iter().any(|known| known == subject))?;
        Some(format!("the subject is {}", escape(subject)))
    }
}

/// How `seen` differs from `reference`, the gravest difference first; empty if it does not.
pub(super) fn differences(knowledge: &Knowledge, reference: &Outcome, seen: &Outcome) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |kind, detail: String| found.push(Difference { kind, detail });
    if reference.is_alive && !seen.is_alive {
        add(Kind::Died, "it does not greet after this case".into());
    }
    let (expected, came) = (reference.delivered.len(), seen.delivered.len());
    let numbers = format!("{came} came out, {expected} elsewhere");
    if came > expected.max(knowledge.at_most) {
        add(Kind::More, numbers);
    } else if came > expected {
        match &reference.steps {
            None => add(Kind::Accepts, numbers),
            Some(_) if reference.is_refused() => add(Kind::Accepts, numbers),
            // For the reference the text continues at this point, and here it has ended.
            Some(_) if reference.taken() == 0 => {
                add(Kind::Cut, "the text has ended where others wait for its end".into())
            }
            Some(_) => add(Kind::More, numbers),
        }
    } else if came < expected && (seen.is_drained || seen.is_refused()) {
        if seen.bounces > 0 {
            add(Kind::Bounces, numbers);
        } else if came < seen.taken() {
            add(Kind::Lost, numbers);
        } else if seen.has_refusal() {
            add(Kind::Refuses, numbers);
        } else if seen.has_no_answer() || !seen.is_complete {
            add(Kind::NoAnswer, numbers);
        } else {
            add(Kind::Lost, numbers);
        }
    }
    if let Some(forged) = seen.delivered.iter().find_map(|message| knowledge.is_forged(message))
        && !reference.delivered.iter().any(|message| knowledge.is_forged(message).is_some())
    {
        add(Kind::Forged, forged);
    }
    if came == expected {
        for (kind, detail) in pairs(reference, seen) {
            add(kind, detail);
        }
        add_envelope(reference, seen, &mut add);
    }
    if let (Some(theirs), Some(own)) = (&reference.steps, &seen.steps)
        && came == expected
        && theirs != own
    {
        let first = theirs.iter().zip(own).find(|(their, own)| their != own);
        let detail = format!("{} where others have {}", in_words(own), in_words(theirs));
        match first {
            Some((their, own)) if their.is_positive() && own.is_refusal() => add(Kind::Refuses, detail),
            Some((their, own)) if their.is_refusal() && own.is_positive() => add(Kind::Accepts, detail),
            _ => add(Kind::Answers, detail),
        }
    }
    found.sort_by_key(|difference| difference.kind);
    found
}

/// Whether both outcomes are the same.
pub(super) fn is_same(one: &Outcome, other: &Outcome) -> bool {
    let mut has_other_envelope = false;
    add_envelope(one, other, &mut |_, _| has_other_envelope = true);
    one.is_alive == other.is_alive
        && one.delivered.len() == other.delivered.len()
        && one.bounces == other.bounces
        && one.steps == other.steps
        && !has_other_envelope
        && unmatched(one, other).0.is_empty()
}

/// Pairs equal messages first, then the rest in order, and finds the differences within each pair.
fn pairs(reference: &Outcome, seen: &Outcome) -> Vec<(Kind, String)> {
    let (rest, others) = unmatched(reference, seen);
    let mut found: Vec<_> =
        rest.into_iter().zip(others).map(|(expected, came)| pair(reference, expected, seen, came)).collect();
    found.dedup_by_key(|(kind, _)| *kind);
    found
}

/// The messages of each side that the other side does not have.
fn unmatched<'a>(reference: &'a Outcome, seen: &'a Outcome) -> (Vec<&'a Delivered>, Vec<&'a Delivered>) {
    let mut rest: Vec<_> = reference.delivered.iter().collect();
    let mut others = Vec::new();
    for message in &seen.delivered {
        let same = rest.iter().position(|expected| {
            let (expected, came) = comparable((reference, *expected), (seen, message));
            expected == came
        });
        match same {
            Some(at) => {
                rest.remove(at);
            }
            None => others.push(message),
        }
    }
    (rest, others)
}

fn pair(reference: &Outcome, expected: &Delivered, seen: &Outcome, came: &Delivered) -> (Kind, String) {
    let (expected, came) = comparable((reference, expected), (seen, came));
    let (whole, part) = (expected.octets(), came.octets());
    if let Some(rest) = cut(&whole, &part)
        && (begins_with_dot(rest) || has_more_answers(reference, seen))
    {
        return (Kind::Cut, format!("{} octets are missing, from {}", rest.len(), excerpt(rest)));
    }
    let names = |text: &Text| {
        let mut names: Vec<_> =
            text.fields.iter().map(|field| field.name.clone()).filter(|name| !name.is_empty()).collect();
        names.sort();
        names
    };
    let (theirs, own) = (names(&expected), names(&came));
    let lost = without(&theirs, &own);
    if !lost.is_empty() {
        return (Kind::HeaderLost, format!("without {}", lost.join(", ")));
    }
    let injected = without(&own, &theirs);
    if !injected.is_empty() {
        return (Kind::HeaderInjected, format!("with {}", injected.join(", ")));
    }
    let at = whole.iter().zip(&part).take_while(|(a, b)| a == b).count();
    let detail = format!("octet {at}: {} where others have {}", excerpt(&part[at..]), excerpt(&whole[at..]));
    (Kind::Bytes, detail)
}

/// What is missing at the end of `part`, if everything before is there and ends with a line.
fn cut<'a>(whole: &'a [u8], part: &[u8]) -> Option<&'a [u8]> {
    let part = &part[..part.len() - part.iter().rev().take_while(|octet| matches!(octet, b'\r' | b'\n')).count()];
    let rest = whole.strip_prefix(part)?;
    let is_at_line_end = part.is_empty() || matches!(rest.first(), Some(b'\r' | b'\n'));
    let has_more = rest.iter().any(|octet| !matches!(octet, b'\r' | b'\n'));
    (is_at_line_end && has_more).then_some(rest)
}

fn begins_with_dot(rest: &[u8]) -> bool {
    rest.iter().find(|octet| !matches!(octet, b'\r' | b'\n' | 0)) == Some(&b'.')
}

/// Whether the missing part of the text was answered as if it were commands.
fn has_more_answers(reference: &Outcome, seen: &Outcome) -> bool {
    match (&reference.steps, &seen.steps) {
        (Some(theirs), Some(own)) => own.len() > theirs.len() || own.last() == Some(&Step::Closed),
        (None, Some(own)) => own.iter().any(|step| !step.is_positive()),
        _ => false,
    }
}

fn add_envelope(reference: &Outcome, seen: &Outcome, add: &mut impl FnMut(Kind, String)) {
    let is_sender_told = !(reference.rewrites.0 || seen.rewrites.0);
    let is_recipient_told = !(reference.rewrites.1 || seen.rewrites.1);
    // The order in which they are passed on does not matter.
    let envelopes = |outcome: &Outcome| {
        let of_one = |message: &Delivered| {
            let recipient = message.recipient.as_ref()?.to_ascii_lowercase();
            let sender = message.sender.as_ref().map(|sender| sender.to_ascii_lowercase());
            Some((is_recipient_told.then_some(recipient), sender.filter(|_| is_sender_told)))
        };
        let mut envelopes: Vec<_> = outcome.delivered.iter().filter_map(of_one).collect();
        envelopes.sort();
        envelopes
    };
    let (theirs, own) = (envelopes(reference), envelopes(seen));
    if theirs.len() != own.len() {
        return;
    }
    for ((recipient, sender), (own_recipient, own_sender)) in theirs.into_iter().zip(own) {
        for (expected, came) in [(sender, own_sender), (recipient, own_recipient)] {
            if let (Some(expected), Some(came)) = (expected, came)
                && expected != came
            {
                add(Kind::Envelope, format!("{} where others have {}", excerpt(&came), excerpt(&expected)));
                return;
            }
        }
    }
}

/// The items that are in one list and not, or less often, in the other. Both lists are sorted.
fn without(of: &[String], other: &[String]) -> Vec<String> {
    let mut other = other.iter().peekable();
    let mut rest = Vec::new();
    for name in of {
        while other.next_if(|candidate| *candidate < name).is_some() {}
        if other.next_if(|candidate| *candidate == name).is_none() {
            rest.push(name.clone());
        }
    }
    rest
}

/// Steps in words: the first digits of the codes.
pub(super) fn in_words(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "no answer".into();
    }
    let words: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Done => "2",
            Step::GoOn => "3",
            Step::Later => "4",
            Step::Never => "5",
            Step::Silence => "silence",
            Step::Garbage => "garbage",
            Step::Closed => "closed",
        })
        .collect();
    words.join(" ")
}

fn excerpt(octets: &[u8]) -> String {
    const LENGTH: usize = 24;
    if octets.is_empty() {
        return "the end".into();
    }
    let more = if octets.len() > LENGTH { "..." } else { "" };
    format!("\"{}{more}\"", escape(&octets[..octets.len().min(LENGTH)]))
}
