//! Groups the servers of a case into clusters, and says which of them differ from what is right, or from the majority.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::difference::{Knowledge, differences, in_words, is_same};
use super::outcome::Outcome;
use super::{Class, Difference, Expected, Kind, Learned};
use crate::case::Case;
use crate::observation::Observation;

/// The result for a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The name of the case.
    pub case: String,
    /// Servers with the same outcome. The first cluster is the one that others are compared with; the rest are sorted
    /// by size.
    pub clusters: Vec<Cluster>,
    /// One for each server, in the order of the observations.
    pub verdicts: Vec<Verdict>,
}

/// Servers with the same outcome of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Their names.
    pub servers: Vec<String>,
    /// Whether the others are compared with this one: it is right, if a standard says what is right, or else it is the
    /// majority.
    pub is_reference: bool,
    /// The outcome in a few words.
    pub summary: String,
}

/// The result for a server and a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The name of the server.
    pub server: String,
    /// How the server compares with the others.
    pub stand: Stand,
}

/// How a server compares with the others in a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stand {
    /// Its outcome is right, or that of the majority.
    WithTheOthers,
    /// It refused, which is allowed.
    Refuses,
    /// It differs in these ways, the gravest first; there is at least one.
    Apart(Vec<Difference>),
    /// It differed, but not each time.
    Unsteady {
        /// In these ways.
        differences: Vec<Difference>,
        /// In how many of three more sessions it differed.
        again: usize,
    },
    /// Nothing can be said, for this reason.
    Unknown(String),
}

impl Verdict {
    /// The gravest difference, if there is one.
    pub fn difference(&self) -> Option<&Difference> {
        match &self.stand {
            Stand::Apart(differences) => differences.first(),
            _ => None,
        }
    }

    /// Its class.
    pub fn class(&self) -> Option<Class> {
        self.difference().map(|difference| difference.kind.class())
    }
}

impl Judgement {
    /// The verdict on this server.
    pub fn verdict(&self, server: &str) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.server == server)
    }

    /// The names of the servers in the cluster that others are compared with.
    pub fn reference(&self) -> impl Iterator<Item = &str> {
        self.clusters
            .iter()
            .filter(|cluster| cluster.is_reference)
            .flat_map(|cluster| &cluster.servers)
            .map(String::as_str)
    }
}

/// Judges a case by its observations. If the standard determines the outcome, that is right. Otherwise it is what most
/// servers did; of clusters of equal size, that of the servers which change messages least.
pub fn judge(
    case: &Case,
    observations: &[&Observation],
    learned: &BTreeMap<String, Learned>,
    expected: Option<&Expected>,
) -> Judgement {
    judge_against(case, observations, learned, expected, &[])
}

/// Like [`judge`], but if no standard determines the outcome, it is that of the first of these trusted servers that was
/// observed.
pub fn judge_against(
    case: &Case,
    observations: &[&Observation],
    learned: &BTreeMap<String, Learned>,
    expected: Option<&Expected>,
    trusted: &[&str],
) -> Judgement {
    let knowledge = Knowledge::new(case, observations.first().copied(), expected);
    let nothing = Learned::default();
    let seen: Vec<Seen<'_>> = observations
        .iter()
        .map(|observation| {
            let learned = learned.get(&observation.server).unwrap_or(&nothing);
            Seen::of(case, &knowledge, observation, learned)
        })
        .collect();
    let mut groups = groups(&seen, expected.is_some());
    let reference = match expected {
        Some(_) => None,
        None => reference(&mut groups, &seen, trusted),
    };
    let mut verdicts: Vec<_> = seen
        .iter()
        .zip(observations)
        .map(|(one, observation)| {
            let right = expected.map(|expected| Outcome::expected(expected, observation));
            let against = right.as_ref().or_else(|| reference.map(|index| &seen[index].outcome));
            let stand = match against {
                Some(against) => stand(&knowledge, one, against, expected),
                None => Stand::Unknown("there is nothing to compare it with".into()),
            };
            Verdict { server: one.server.to_owned(), stand }
        })
        .collect();
    if expected.is_some() {
        judge_answers(&knowledge, &seen, &mut verdicts);
    }
    let clusters = clusters(&groups, &seen, &verdicts);
    Judgement { case: case.name.clone(), clusters, verdicts }
}

/// What a server is seen to have done in a case.
struct Seen<'a> {
    server: &'a str,
    outcome: Outcome,
    /// Why nothing can be said of it, if so.
    unknown: Option<&'static str>,
}

impl<'a> Seen<'a> {
    fn of(case: &Case, knowledge: &Knowledge, observation: &'a Observation, learned: &Learned) -> Self {
        let outcome = Outcome::seen(case, &knowledge.of_case, observation, learned);
        // A wait expects one answer to each message, and in front of the last message there may be more.
        let mut before_last = knowledge.of_case.sent.iter().rev().skip(1);
        let is_out_of_step =
            learned.answers_each_recipient && !outcome.is_complete && before_last.any(|message| message.recipients > 1);
        let has_no_greeting = learned.refuses_greeting && !outcome.is_complete && outcome.delivered.is_empty();
        let unknown = if !learned.is_known {
            Some("its clean controls do not come out")
        } else if is_out_of_step {
            Some("its answers to several recipients are more than are waited for")
        } else if has_no_greeting {
            Some("it does not have the greeting of this case")
        } else {
            None
        };
        Self { server: &observation.server, outcome, unknown }
    }
}

/// Indices of the servers, in groups that are like their first member. Servers of which nothing is known are in no
/// group.
fn groups(seen: &[Seen<'_>], is_standard_known: bool) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..seen.len()).filter(|&index| seen[index].unknown.is_none()).collect();
    // Sorted by name too, so that the result does not depend on the order of the observations.
    order.sort_by_key(|&index| (seen[index].outcome.opacity(), seen[index].server));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        let outcome = &seen[index].outcome;
        let like: Vec<usize> = (0..groups.len())
            .filter(|&group| {
                let first = &seen[groups[group][0]].outcome;
                first.is_drained == outcome.is_drained && is_same(first, outcome)
            })
            .collect();
        // A server that keeps less of messages may be like several servers that are not like each other. It joins the
        // largest group.
        match like.into_iter().rev().max_by_key(|&group| groups[group].len()) {
            Some(group) => groups[group].push(index),
            None => groups.push(vec![index]),
        }
    }
    // The order is stable: of equally large clusters the one that changes messages least comes first.
    groups.sort_by_key(|group| std::cmp::Reverse(if is_standard_known { 0 } else { group.len() }));
    groups
}

/// The group that others are compared with; it is moved to the front.
fn reference(groups: &mut [Vec<usize>], seen: &[Seen<'_>], trusted: &[&str]) -> Option<usize> {
    let of_trusted = trusted.iter().find_map(|name| {
        let index = seen.iter().position(|one| one.server == *name)?;
        groups.iter().position(|group| group.contains(&index))
    });
    // A server whose queue is not empty yet is no reference for others.
    let largest = || groups.iter().position(|group| group.iter().any(|&index| seen[index].outcome.is_drained));
    let at = of_trusted.or_else(largest)?;
    groups[..=at].rotate_right(1);
    groups[0].first().copied()
}

fn stand(knowledge: &Knowledge, one: &Seen<'_>, against: &Outcome, expected: Option<&Expected>) -> Stand {
    if let Some(reason) = one.unknown {
        return Stand::Unknown(reason.to_owned());
    }
    let mut found = differences(knowledge, against, &one.outcome);
    let may_refuse = expected.is_some_and(|expected| expected.may_refuse);
    if may_refuse && !found.is_empty() && found.iter().all(|difference| difference.kind == Kind::Refuses) {
        return Stand::Refuses;
    }
    // Messages that have not come out yet may be anything.
    if !one.outcome.is_drained && found.iter().all(|difference| difference.kind.class() == Class::Reply) {
        found.clear();
        if one.outcome.delivered.len() < against.delivered.len() || against.delivered.is_empty() {
            return Stand::Unknown("its queue is not empty".into());
        }
    }
    if found.is_empty() { Stand::WithTheOthers } else { Stand::Apart(found) }
}

/// The standard determines which messages come out, but not the answers to malformed commands. For those, the servers
/// with the right messages are compared with each other.
fn judge_answers(knowledge: &Knowledge, seen: &[Seen<'_>], verdicts: &mut [Verdict]) {
    let right: Vec<usize> = (0..seen.len()).filter(|&index| verdicts[index].stand == Stand::WithTheOthers).collect();
    let count =
        |index: usize| right.iter().filter(|&&other| seen[other].outcome.steps == seen[index].outcome.steps).count();
    let Some(most) = right.iter().copied().max_by_key(|&index| (count(index), std::cmp::Reverse(seen[index].server)))
    else {
        return;
    };
    for index in right.iter().copied() {
        let found: Vec<_> = differences(knowledge, &seen[most].outcome, &seen[index].outcome)
            .into_iter()
            .filter(|difference| matches!(difference.kind.class(), Class::Reply | Class::AcceptRefuse))
            .collect();
        if !found.is_empty() {
            verdicts[index].stand = Stand::Apart(found);
        }
    }
}

fn clusters(groups: &[Vec<usize>], seen: &[Seen<'_>], verdicts: &[Verdict]) -> Vec<Cluster> {
    let mut clusters: Vec<_> = groups
        .iter()
        .map(|group| {
            let is_reference = group.iter().all(|&index| verdicts[index].stand == Stand::WithTheOthers);
            let mut members = group.clone();
            members.sort_unstable();
            Cluster {
                servers: members.into_iter().map(|index| seen[index].server.to_owned()).collect(),
                is_reference,
                summary: summary(&seen[group[0]].outcome),
            }
        })
        .collect();
    clusters.sort_by_key(|cluster| (!cluster.is_reference, std::cmp::Reverse(cluster.servers.len())));
    let unknown: Vec<_> = seen.iter().filter(|one| one.unknown.is_some()).map(|one| one.server.to_owned()).collect();
    if !unknown.is_empty() {
        clusters.push(Cluster { servers: unknown, is_reference: false, summary: "nothing is known".into() });
    }
    clusters
}

fn summary(outcome: &Outcome) -> String {
    let messages = match outcome.delivered.len() {
        0 if outcome.bounces > 0 => "bounced".into(),
        0 if !outcome.is_drained => "nothing yet".into(),
        0 if outcome.is_refused() => "refused".into(),
        0 => "nothing".into(),
        1 => "1 message".into(),
        more => format!("{more} messages"),
    };
    let answers = outcome.steps.as_deref().map(in_words).unwrap_or_default();
    format!("{messages}; answers {answers}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::stored::{case, delivered, message, observation, passed_on, plain};
    use super::super::{ExpectedMessage, text};
    use super::*;
    use crate::case::Part;
    use crate::observation::Message;

    const TEXT: &str = "Subject: a\r\n\r\n__TOKEN__\r\n.\r\n";
    /// The answers to EHLO, MAIL, RCPT, DATA and the text.
    const TAKEN: &str = "22232";
    const REFUSED: &str = "22235";

    /// The message, so many times.
    fn times(number: usize) -> Vec<Message> {
        vec![delivered("Subject: a\r\n\r\nt0t0t0t0t\r\n"); number]
    }

    fn other() -> Vec<Message> {
        vec![delivered("Subject: b\r\n\r\nt0t0t0t0t\r\n")]
    }

    fn judged(case: &Case, observations: &[Observation], learned: &BTreeMap<String, Learned>) -> Judgement {
        judge(case, &observations.iter().collect::<Vec<_>>(), learned, None)
    }

    fn by_standard(case: &Case, observations: &[Observation], may_refuse: bool) -> Judgement {
        let message = |sent: text::Sent| ExpectedMessage { octets: sent.octets, copies: sent.recipients };
        let messages: Vec<_> = text::sent(case).into_iter().map(message).collect();
        let expected = Expected { at_most: Some(messages.len()), messages, may_refuse };
        judge(case, &observations.iter().collect::<Vec<_>>(), &plain(&["a", "b", "c", "d"]), Some(&expected))
    }

    /// How each server stands: `.` with the others, `-` refuses, `?` unknown, and else the letters of its differences.
    fn stands(judgement: &Judgement) -> String {
        let letters = |verdict: &Verdict| match &verdict.stand {
            Stand::WithTheOthers => ".".to_owned(),
            Stand::Refuses => "-".into(),
            Stand::Apart(differences) => differences.iter().map(|difference| difference.kind.letter()).collect(),
            Stand::Unsteady { .. } => "~".into(),
            Stand::Unknown(_) => "?".into(),
        };
        judgement.verdicts.iter().map(letters).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_refuses_the_greeting_and_takes_nothing_is_unknown() {
        let case = message(1, TEXT);
        let mut learned = plain(&["a", "b", "c"]);
        learned.get_mut("c").unwrap().refuses_greeting = true;
        let stand_of_c = |answers, messages| {
            let seen = ["a", "b"].map(|server| observation(server, &case, TAKEN, times(1)));
            stands(&judged(&case, &[&seen[..], &[observation("c", &case, answers, messages)]].concat(), &learned))
        };
        assert_eq!(stand_of_c("5-", vec![]), ". . ?");
        // One that has held the session, or in spite of all has delivered something, is judged.
        assert_eq!(stand_of_c("52235", vec![]), ". . R");
        assert_eq!(stand_of_c("5223-", times(1)), ". . r");
    }

    #[test]
    fn who_answers_each_recipient_is_out_of_step_behind_a_message_to_several() {
        let mut learned = plain(&["a", "b", "c"]);
        learned.get_mut("c").unwrap().answers_each_recipient = true;
        let steps = |recipients: [usize; 2]| {
            let one = recipients.map(|number| message(number, TEXT).units);
            Case { name: "a".into(), units: one.concat() }
        };
        let stand_of_c = |recipients: [usize; 2], answers: &str, messages| {
            let case = steps(recipients);
            let all = recipients.map(|number| format!("22{}32", "2".repeat(number))).concat();
            let copies = || times(recipients.iter().sum());
            let seen = ["a", "b"].map(|server| observation(server, &case, &all, copies()));
            let own = observation("c", &case, answers, messages);
            stands(&judged(&case, &[&seen[..], &[own]].concat(), &learned))
        };
        assert_eq!(stand_of_c([2, 1], "222232", times(2)), ". . ?");
        assert_eq!(stand_of_c([2, 1], "22223222235", times(2)), ". . R");
        // The last message has nothing behind it.
        assert_eq!(stand_of_c([1, 2], "22232", times(1)), ". . n");
    }

    #[test]
    fn of_equally_many_those_that_come_first_by_name_are_right() {
        let case = message(1, TEXT);
        let (a, b) = (observation("a", &case, TAKEN, times(1)), observation("b", &case, TAKEN, other()));
        for seen in [[a.clone(), b.clone()], [b, a]] {
            assert_eq!(judged(&case, &seen, &plain(&["a", "b"])).reference().collect::<Vec<_>>(), ["a"]);
        }
    }

    #[test]
    fn who_is_not_done_is_measured_and_no_measure() {
        let case = message(1, TEXT);
        let undone = |server, answers, messages| {
            let seen = observation(server, &case, answers, messages);
            Observation { is_drained: false, ..seen }
        };
        let known = plain(&["a", "b", "c", "d"]);
        let done = observation("c", &case, TAKEN, times(1));
        let judgement = judged(&case, &[undone("a", TAKEN, vec![]), undone("b", TAKEN, vec![]), done.clone()], &known);
        assert_eq!((stands(&judgement).as_str(), judgement.reference().collect::<Vec<_>>()), ("? ? .", vec!["c"]));
        // Two did the same, and only one of them is done: they are two clusters.
        let judgement = judged(&case, &[done.clone(), undone("d", TAKEN, times(1))], &known);
        assert_eq!((stands(&judgement).as_str(), judgement.clusters.len()), (". .", 2));
        // What has come out is no less, whatever is to come.
        assert_eq!(stands(&judged(&case, &[done.clone(), undone("d", TAKEN, times(2))], &known)), ". M");
        assert_eq!(stands(&judged(&case, &[done.clone(), undone("d", "22234", times(1))], &known)), ". R");
        assert_eq!(stands(&judged(&case, &[done, undone("d", "2223-", times(1))], &known)), ". .");
        // Where nothing comes out elsewhere, something may still come out here.
        let refused = observation("c", &case, REFUSED, vec![]);
        assert_eq!(stands(&judged(&case, &[refused, undone("d", "2223-", vec![])], &known)), ". ?");
    }

    #[test]
    fn who_may_refuse_may_do_nothing_else() {
        let text = "Subject: a\r\n\r\n__TOKEN__\n.\nMAIL FROM:<forged@client.example>\r\n.\r\n";
        let case = case(&[
            (Part::Mail, "MAIL FROM:<own@client.example>\r\n"),
            (Part::Rcpt, "RCPT TO:<a@b>\r\n"),
            (Part::Data, "DATA\r\n"),
            (Part::End, text),
            (Part::Mail, "MAIL FROM:<own@client.example>\r\n"),
            (Part::Rcpt, "RCPT TO:<a@b>\r\n"),
            (Part::Data, "DATA\r\n"),
            (Part::End, TEXT),
        ]);
        let forged = passed_on("<forged@client.example>", &["<a@b>"], "Subject: b\r\n\r\nt0t0t0t0t\r\n.\r\n");
        let seen = [observation("a", &case, "22352235", vec![]), observation("b", &case, "22352232", vec![forged])];
        assert_eq!(stands(&by_standard(&case, &seen, true)), "- FR");
        assert_eq!(stands(&by_standard(&case, &seen, false)), "R FR");
    }

    #[test]
    fn of_those_with_the_right_messages_most_have_the_right_answers() {
        let case =
            case(&[(Part::Mail, "NOOP\r\n"), (Part::End, "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n")]);
        let seen = |answers: [&str; 4]| {
            let servers = ["a", "b", "c", "d"].into_iter().zip(answers);
            let seen: Vec<_> = servers.map(|(server, answers)| observation(server, &case, answers, vec![])).collect();
            stands(&by_standard(&case, &seen, false))
        };
        assert_eq!(seen(["52", "22", "22", "22"]), "R . . .");
        assert_eq!(seen(["52", "52", "52", "22"]), ". . . A");
        assert_eq!(seen(["52", "22", "22", "-2"]), "R . . r");
        // Nothing but the answers is compared: the standard has no envelope.
        let case = message(1, TEXT);
        let of = |server, mail| {
            let octets = "Subject: a\r\n\r\nt0t0t0t0t\r\n.\r\n";
            observation(server, &case, TAKEN, vec![passed_on(mail, &["<c@d>"], octets)])
        };
        assert_eq!(stands(&by_standard(&case, &[of("a", "<a@b>"), of("b", "<x@b>")], false)), ". .");
    }

    #[test]
    fn clusters_are_the_right_one_then_the_largest_and_last_the_unknown() {
        let case = message(1, TEXT);
        let learned = plain(&["a", "b", "c", "d", "e", "f"]);
        let seen = [
            observation("unknown", &case, REFUSED, vec![]),
            observation("e", &case, TAKEN, other()),
            observation("b", &case, REFUSED, vec![]),
            observation("d", &case, TAKEN, times(1)),
            observation("a", &case, REFUSED, vec![]),
            observation("c", &case, TAKEN, times(1)),
            observation("f", &case, TAKEN, times(1)),
        ];
        let observations: Vec<_> = seen.iter().collect();
        let judgement = judge_against(&case, &observations, &learned, None, &["e"]);
        let clusters: Vec<_> = judgement.clusters.iter().map(|cluster| cluster.servers.join(" ")).collect();
        // Servers are in the order of the observations.
        assert_eq!(clusters, ["e", "d c f", "b a", "unknown"]);
        let references: Vec<_> = judgement.clusters.iter().map(|cluster| cluster.is_reference).collect();
        assert_eq!(references, [true, false, false, false]);
        assert_eq!(stands(&judgement), "? . R B R B B");
    }
}
