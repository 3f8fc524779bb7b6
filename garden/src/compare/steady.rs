//! Looks again: a difference that does not come each time is none that one can work with.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Expected, Judgement, Learned, judge_against};
use crate::case::Case;
use crate::observation::{Observation, Servers};

/// How often a difference is looked for again.
pub const TIMES: usize = 3;

/// How steady a difference is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steadiness {
    /// The server that stands apart.
    pub server: String,
    /// In how many of three sessions, held alone, it stood apart in the same class.
    pub again: usize,
    /// What was observed last where it was another: what the server does at other times.
    pub otherwise: Option<Observation>,
}

impl Steadiness {
    /// Whether it is a finding.
    pub const fn is_steady(&self) -> bool {
        self.again == TIMES
    }
}

/// Holds the case again, three times, with each server that stands apart in this judgement, and judges it each time among
/// the others as they were observed.
///
/// # Errors
///
/// As of [`Servers::hold`].
pub fn confirm(
    servers: &mut dyn Servers,
    case: &Case,
    observations: &[&Observation],
    learned: &BTreeMap<String, Learned>,
    expected: Option<&Expected>,
    judgement: &Judgement,
) -> Result<Vec<Steadiness>> {
    let mut again = BTreeMap::new();
    for server in standing_apart(judgement) {
        again.insert(server.to_owned(), servers.hold(server, &vec![case.clone(); TIMES])?);
    }
    let again: BTreeMap<&str, Vec<&Observation>> =
        again.iter().map(|(server, observations)| (server.as_str(), observations.iter().collect())).collect();
    Ok(weigh(case, observations, learned, expected, judgement, &again))
}

/// The servers that stand apart in this judgement.
pub fn standing_apart(judgement: &Judgement) -> impl Iterator<Item = &str> {
    judgement.verdicts.iter().filter(|verdict| verdict.class().is_some()).map(|verdict| verdict.server.as_str())
}

/// Says of each server that stands apart how often it did so [`TIMES`] times more: `again` has what was observed then, by
/// server. It is judged each time among the others as they were observed first.
pub fn weigh(
    case: &Case,
    observations: &[&Observation],
    learned: &BTreeMap<String, Learned>,
    expected: Option<&Expected>,
    judgement: &Judgement,
    again: &BTreeMap<&str, Vec<&Observation>>,
) -> Vec<Steadiness> {
    let trusted: Vec<&str> = judgement.reference().collect();
    let mut steadiness = Vec::new();
    for verdict in &judgement.verdicts {
        let Some(class) = verdict.class() else {
            continue;
        };
        let mut steady = Steadiness { server: verdict.server.clone(), again: 0, otherwise: None };
        for &observation in again.get(verdict.server.as_str()).into_iter().flatten() {
            let mut all = observations.to_vec();
            for one in all.iter_mut().filter(|one| one.server == verdict.server) {
                *one = observation;
            }
            let now = judge_against(case, &all, learned, expected, &trusted);
            if now.verdict(&verdict.server).and_then(super::Verdict::class) == Some(class) {
                steady.again += 1;
            } else {
                steady.otherwise = Some(observation.clone());
            }
        }
        steadiness.push(steady);
    }
    steadiness
}
