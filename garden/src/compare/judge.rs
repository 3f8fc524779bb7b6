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
            let outcome = Outcome::seen(case, &knowledge.of_case, observation, learned);
            let has_no_greeting = learned.refuses_greeting && !outcome.is_complete && outcome.delivered.is_empty();
            let more_to_come = knowledge.of_case.sent.iter().rev().skip(1);
            let is_out_of_step = learned.answers_each_recipient
                && !outcome.is_complete
                && more_to_come.into_iter().any(|message| message.recipients > 1);
            let unknown = match learned.is_known {
                false => Some("its clean controls do not come out".to_owned()),
                // A wait expects one answer to each message, and here there are more or fewer.
                true if is_out_of_step => {
                    Some("its answers to several recipients are more than are waited for".to_owned())
                }
                true if has_no_greeting => Some("it does not have the greeting of this case".to_owned()),
                true => None,
            };
            Seen { server: &observation.server, outcome, unknown }
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

struct Seen<'a> {
    server: &'a str,
    outcome: Outcome,
    unknown: Option<String>,
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
    if let Some(reason) = &one.unknown {
        return Stand::Unknown(reason.clone());
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
