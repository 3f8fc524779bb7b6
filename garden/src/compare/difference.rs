//! How one outcome differs from another, in classes.

use super::comparable::comparable;
use super::outcome::{Delivered, OfCase, Outcome, Step};
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
    if let Some(ended) = seen.ended.as_ref().filter(|_| reference.ended.is_none()) {
        add(Kind::Died, ended.clone());
    } else if reference.is_alive && !seen.is_alive {
        add(Kind::Died, "it does not greet after this case".into());
    }
    if let Some((kind, detail)) = in_number(knowledge, reference, seen) {
        add(kind, detail);
    }
    if let Some(forged) = seen.delivered.iter().find_map(|message| knowledge.is_forged(message))
        && !reference.delivered.iter().any(|message| knowledge.is_forged(message).is_some())
    {
        add(Kind::Forged, forged);
    }
    if seen.delivered.len() == reference.delivered.len() {
        for (kind, detail) in pairs(reference, seen) {
            add(kind, detail);
        }
        add_envelope(reference, seen, &mut add);
        if let Some((kind, detail)) = in_answers(reference, seen) {
            add(kind, detail);
        }
    }
    found.sort_by_key(|difference| difference.kind);
    found
}

/// How the number of messages differs.
fn in_number(knowledge: &Knowledge, reference: &Outcome, seen: &Outcome) -> Option<(Kind, String)> {
    let (expected, came) = (reference.delivered.len(), seen.delivered.len());
    let numbers = format!("{came} came out, {expected} elsewhere");
    let kind = if came > expected.max(knowledge.at_most) {
        Kind::More
    } else if came > expected {
        match &reference.steps {
            None => Kind::Accepts,
            Some(_) if reference.is_refused() => Kind::Accepts,
            // For the reference the text continues at this point, and here it has ended.
            Some(_) if reference.taken() == 0 => {
                return Some((Kind::Cut, "the text has ended where others wait for its end".into()));
            }
            Some(_) => Kind::More,
        }
    } else if came < expected && (seen.is_drained || seen.is_refused()) {
        if seen.bounces > 0 {
            Kind::Bounces
        } else if came < seen.taken() {
            Kind::Lost
        } else if seen.has_refusal() {
            Kind::Refuses
        } else if seen.has_no_answer() || !seen.is_complete {
            Kind::NoAnswer
        } else {
            Kind::Lost
        }
    } else {
        return None;
    };
    Some((kind, numbers))
}

/// How the answers differ, if both are known.
fn in_answers(reference: &Outcome, seen: &Outcome) -> Option<(Kind, String)> {
    let (theirs, own) = (reference.steps.as_ref()?, seen.steps.as_ref()?);
    if theirs == own {
        return None;
    }
    let kind = match theirs.iter().zip(own).find(|(their, own)| their != own) {
        Some((their, own)) if their.is_positive() && own.is_refusal() => Kind::Refuses,
        Some((their, own)) if their.is_refusal() && own.is_positive() => Kind::Accepts,
        _ => Kind::Answers,
    };
    Some((kind, format!("{} where others have {}", in_words(own), in_words(theirs))))
}

/// Whether both outcomes are the same.
pub(super) fn is_same(one: &Outcome, other: &Outcome) -> bool {
    let mut has_other_envelope = false;
    add_envelope(one, other, &mut |_, _| has_other_envelope = true);
    one.is_alive == other.is_alive
        && one.ended.is_some() == other.ended.is_some()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::text::LineEnds;
    use super::*;
    use crate::case::{Part, Unit};

    /// What a server answered, the first digit of each code (`-` for silence, `.` for the end of the connection), and
    /// the messages that came out.
    fn outcome(answers: &str, messages: &[&str]) -> Outcome {
        let step = |answer| match answer {
            '2' => Step::Done,
            '3' => Step::GoOn,
            '4' => Step::Later,
            '5' => Step::Never,
            '-' => Step::Silence,
            _ => Step::Closed,
        };
        Outcome {
            delivered: messages.iter().map(|octets| message(octets)).collect(),
            bounces: 0,
            steps: Some(answers.chars().map(step).collect()),
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

    fn message(octets: &str) -> Delivered {
        Delivered { ends: LineEnds::Wire, octets: octets.into(), sender: None, recipient: None }
    }

    /// One message passed on from this sender to each of these recipients.
    fn passed_on(sender: &str, recipients: &[&str]) -> Outcome {
        let to = |recipient: &&str| Delivered {
            sender: Some(sender.into()),
            recipient: Some((*recipient).into()),
            ..message(ONE)
        };
        Outcome { delivered: recipients.iter().map(to).collect(), ..outcome(TAKEN, &[]) }
    }

    fn case(octets: &str) -> Case {
        Case { name: "a".into(), units: vec![Unit::Send { part: Part::Body, octets: octets.into() }] }
    }

    /// Two messages, the second of them within the text of the first for whoever ends it at LF `.` LF.
    const SENT: &str = "MAIL FROM:<own@client.example>\r\nRCPT TO:<a@b>\r\nDATA\r\nSubject: own\r\n\r\nx\n.\n\
        MAIL FROM:<forged@client.example>\r\nRCPT TO:<a@b>\r\nDATA\r\nSubject: forged\r\n\r\nx\r\n.\r\n";
    const ONE: &str = "Subject: own\r\n\r\nx\r\n";
    /// The answers to EHLO, MAIL, RCPT, DATA and the text.
    const TAKEN: &str = "22232";
    const REFUSED: &str = "22235";

    fn between(reference: &Outcome, seen: &Outcome) -> Vec<Kind> {
        let knowledge = Knowledge::new(&case(SENT), None, None);
        differences(&knowledge, reference, seen).into_iter().map(|difference| difference.kind).collect()
    }

    #[test]
    fn more_messages_are_more_or_accepted_or_cut_off() {
        let one = outcome(TAKEN, &[ONE]);
        assert_eq!(between(&one, &outcome(TAKEN, &[ONE, ONE])), [Kind::More]);
        assert_eq!(between(&outcome(REFUSED, &[]), &one), [Kind::Accepts]);
        // Others still wait for the end.
        assert_eq!(between(&outcome("2223-", &[]), &one), [Kind::Cut]);
        // They have taken it, and nothing came out.
        assert_eq!(between(&outcome(TAKEN, &[]), &one), [Kind::More]);
        let of_standard = Outcome { steps: None, ..outcome("", &[]) };
        assert_eq!(between(&of_standard, &one), [Kind::Accepts]);
        // No more can be right than were sent.
        assert_eq!(between(&of_standard, &outcome(TAKEN, &[ONE, ONE])), [Kind::More]);
        assert_eq!(between(&outcome(REFUSED, &[]), &outcome(TAKEN, &[ONE, ONE])), [Kind::More]);
    }

    #[test]
    fn as_many_messages_may_come_out_as_the_standard_has_or_leaves_open() {
        let two_sent = [SENT, "MAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n"].concat();
        let kind = |expected: Option<&Expected>| {
            let knowledge = Knowledge::new(&case(&two_sent), None, expected);
            let found = differences(&knowledge, &outcome(REFUSED, &[]), &outcome(TAKEN, &[ONE, ONE]));
            found.first().map(|difference| difference.kind)
        };
        assert_eq!(kind(None), Some(Kind::Accepts));
        let expected = |at_most| Expected { messages: Vec::new(), may_refuse: true, at_most };
        assert_eq!(kind(Some(&expected(Some(1)))), Some(Kind::More));
        assert_eq!(kind(Some(&expected(None))), Some(Kind::Accepts));
    }

    #[test]
    fn fewer_messages_are_refused_or_lost_or_bounced_or_not_answered() {
        let two = outcome("2223222232", &[ONE, ONE]);
        assert_eq!(between(&two, &outcome("2223222235", &[ONE])), [Kind::Refuses]);
        assert_eq!(between(&two, &outcome("2223222232", &[ONE])), [Kind::Lost]);
        // Two were taken, whatever else was refused.
        assert_eq!(between(&two, &outcome("25223222232", &[ONE])), [Kind::Lost]);
        assert_eq!(between(&two, &Outcome { bounces: 1, ..outcome("2223222232", &[ONE]) }), [Kind::Bounces]);
        assert_eq!(between(&two, &outcome("22232223-", &[ONE])), [Kind::NoAnswer]);
        let broken_off = Outcome { is_complete: false, ..outcome("22232223", &[ONE]) };
        assert_eq!(between(&two, &broken_off), [Kind::NoAnswer]);
        // One that does not say what happened has lost it.
        assert_eq!(between(&two, &outcome("22232223", &[ONE])), [Kind::Lost]);
    }

    #[test]
    fn what_is_to_come_is_not_missing_unless_it_was_refused() {
        let one = outcome(TAKEN, &[ONE]);
        let later = |answers| Outcome { is_drained: false, ..outcome(answers, &[]) };
        assert_eq!(between(&one, &later(TAKEN)), []);
        assert_eq!(between(&one, &later(REFUSED)), [Kind::Refuses]);
    }

    #[test]
    fn who_died_is_told_unless_all_did() {
        let (one, dead) = (outcome(TAKEN, &[ONE]), Outcome { is_alive: false, ..outcome(TAKEN, &[ONE]) });
        assert_eq!(between(&one, &dead), [Kind::Died]);
        assert_eq!(between(&dead, &dead), []);
        assert_eq!(between(&dead, &one), []);
        // The same of a process beside the server, which greets nevertheless.
        let ended = Outcome { ended: Some("`queue` ended: exit status 3".into()), ..one.clone() };
        assert_eq!(between(&one, &ended), [Kind::Died]);
        assert_eq!(between(&ended, &ended), []);
        assert_eq!(between(&ended, &dead), [Kind::Died]);
        let knowledge = Knowledge::new(&case(SENT), None, None);
        assert_eq!(differences(&knowledge, &one, &ended)[0].detail, "`queue` ended: exit status 3");
    }

    #[test]
    fn what_is_forged_is_of_a_message_within_the_text() {
        let forged = "Subject: forged\r\n\r\nx\r\n";
        assert_eq!(between(&outcome(TAKEN, &[ONE]), &outcome(TAKEN, &[ONE, forged])), [Kind::More, Kind::Forged]);
        let sender = Delivered { sender: Some(b"forged@client.example".to_vec()), ..message(ONE) };
        let by_sender = Outcome { delivered: vec![sender], ..outcome(TAKEN, &[]) };
        assert_eq!(between(&outcome(TAKEN, &[ONE]), &by_sender), [Kind::Forged]);
        // Not if the others have it too, and not the message's own.
        let both = outcome(TAKEN, &[ONE, forged]);
        assert_eq!(between(&both, &both), []);
        let repeated = SENT.replace("forged@client", "own@client").replace("Subject: forged", "Subject: own");
        let knowledge = Knowledge::new(&case(&repeated), None, None);
        assert_eq!(knowledge.embedded, Embedded::default());
        let nameless = SENT.replace("<forged@client.example>", "<>").replace("Subject: forged", "Subject:");
        assert_eq!(Knowledge::new(&case(&nameless), None, None).embedded, Embedded::default());
    }

    #[test]
    fn the_gravest_difference_comes_first() {
        let forged = "Subject: forged\r\n\r\nx\r\n";
        assert_eq!(
            between(&outcome("2223222232", &[ONE, ONE]), &outcome("2223222235", &[forged])),
            [Kind::Forged, Kind::Refuses]
        );
        let other = "Subject: own\r\n\r\ny\r\n";
        assert_eq!(between(&outcome("22223", &[ONE]), &outcome("25223", &[other])), [Kind::Refuses, Kind::Bytes]);
    }

    #[test]
    fn a_text_is_cut_off_at_the_end_of_a_line_if_something_shows_that_it_ended_there() {
        let whole = |rest: &str| format!("{ONE}{rest}");
        let kinds = |rest: &str, answers: &str| between(&outcome(TAKEN, &[&whole(rest)]), &outcome(answers, &[ONE]));
        assert_eq!(kinds(".\n more\r\n", TAKEN), [Kind::Cut]);
        assert_eq!(kinds("more\r\n", "222325"), [Kind::Cut, Kind::Answers]);
        assert_eq!(kinds("more\r\n", "2223."), [Kind::Cut, Kind::Answers]);
        // Nothing shows it, nothing but line ends is missing, or the last line is not whole.
        assert_eq!(kinds("more\r\n", TAKEN), [Kind::Bytes]);
        assert_eq!(kinds("\r\n\r\n", "222325"), [Kind::Bytes, Kind::Answers]);
        let within_line = between(&outcome(TAKEN, &["A: 1\r\n\r\nab.\r\n"]), &outcome("222325", &["A: 1\r\n\r\nab"]));
        assert_eq!(within_line, [Kind::Bytes, Kind::Answers]);
        // The standard has no answers to compare with: a refusal shows it.
        let of_standard = Outcome { steps: None, ..outcome("", &[&whole("more\r\n")]) };
        assert_eq!(between(&of_standard, &outcome("222325", &[ONE])), [Kind::Cut]);
        assert_eq!(between(&of_standard, &outcome("222322", &[ONE])), [Kind::Bytes]);
    }

    #[test]
    fn equal_messages_are_pairs_and_the_rest_is_told_once() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|text| format!("A: 1\r\n\r\n{text}\r\n"));
        assert_eq!(between(&outcome(TAKEN, &[&a, &b]), &outcome(TAKEN, &[&b, &a])), []);
        assert_eq!(between(&outcome(TAKEN, &[&a, &b]), &outcome(TAKEN, &[&c, &d])), [Kind::Bytes]);
        assert_eq!(between(&outcome(TAKEN, &[&a, &a]), &outcome(TAKEN, &[&a, &b])), [Kind::Bytes]);
    }

    #[test]
    fn other_answers_are_a_refusal_or_an_acceptance_or_others() {
        let kinds = |theirs, own| between(&outcome(theirs, &[ONE]), &outcome(own, &[ONE]));
        assert_eq!(kinds("222322", "222325"), [Kind::Refuses]);
        assert_eq!(kinds("222325", "222322"), [Kind::Accepts]);
        assert_eq!(kinds("222325", "222324"), [Kind::Answers]);
        assert_eq!(kinds("222325", "22232"), [Kind::Answers]);
        assert_eq!(kinds("222325", "22232-"), [Kind::Answers]);
    }

    #[test]
    fn envelopes_are_compared_as_far_as_nobody_rewrites_them() {
        let one = passed_on("a@b", &["c@d", "e@f"]);
        assert_eq!(between(&one, &passed_on("A@b", &["e@f", "C@d"])), []);
        let (other_sender, other_recipient) = (passed_on("x@b", &["c@d", "e@f"]), passed_on("a@b", &["c@d", "x@f"]));
        assert_eq!(between(&one, &other_sender), [Kind::Envelope]);
        assert_eq!(between(&one, &other_recipient), [Kind::Envelope]);
        let rewriting = |rewrites| Outcome { rewrites, ..one.clone() };
        assert_eq!(between(&rewriting((true, false)), &other_sender), []);
        assert_eq!(between(&rewriting((false, true)), &other_sender), [Kind::Envelope]);
        assert_eq!(between(&rewriting((false, true)), &other_recipient), []);
        assert_eq!(between(&rewriting((true, false)), &other_recipient), [Kind::Envelope]);
        assert_eq!(between(&other_sender, &rewriting((true, false))), []);
        assert_eq!(between(&other_recipient, &rewriting((false, true))), []);
        // Of those that are delivered nobody knows the envelope.
        let mut delivered = one.clone();
        delivered.delivered[0].recipient = None;
        assert_eq!(between(&delivered, &one), []);
        assert_eq!(between(&one, &delivered), []);
    }

    #[test]
    fn outcomes_are_the_same_if_all_of_them_is() {
        let one = outcome(TAKEN, &[ONE]);
        assert!(is_same(&one, &one));
        assert!(!is_same(&one, &Outcome { is_alive: false, ..one.clone() }));
        assert!(!is_same(&one, &Outcome { ended: Some("`queue` ended".into()), ..one.clone() }));
        assert!(!is_same(&one, &Outcome { bounces: 1, ..one.clone() }));
        assert!(!is_same(&one, &outcome("222325", &[ONE])));
        assert!(!is_same(&one, &outcome(TAKEN, &["A: 1\r\n\r\n"])));
        assert!(!is_same(&one, &outcome(TAKEN, &[ONE, ONE])));
        assert!(!is_same(&passed_on("a@b", &["c@d"]), &passed_on("a@b", &["e@f"])));
    }
}
