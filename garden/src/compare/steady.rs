//! Repeats sessions: a difference that does not come each time cannot be worked with.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Expected, Judgement, Learned, judge_against};
use crate::case::Case;
use crate::observation::{Observation, Servers};

/// How many times a difference is looked for again.
pub const TIMES: usize = 3;

/// How steady a difference is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steadiness {
    /// The server that differs.
    pub server: String,
    /// In how many of three sessions, held alone, it differed in the same class.
    pub again: usize,
    /// The last observation in which it did not, if there is one.
    pub otherwise: Option<Observation>,
}

impl Steadiness {
    /// Whether it differed each time.
    pub const fn is_steady(&self) -> bool {
        self.again == TIMES
    }
}

/// Repeats the case three times with each server that differs in this judgement, and judges it each time together with
/// the first observations of the others.
///
/// # Errors
///
/// Those of [`Servers::hold`].
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

/// The servers that differ in this judgement.
pub fn standing_apart(judgement: &Judgement) -> impl Iterator<Item = &str> {
    judgement.verdicts.iter().filter(|verdict| verdict.class().is_some()).map(|verdict| verdict.server.as_str())
}

/// Says of each server that differs how often it did so in [`TIMES`] more sessions. `again` has their observations by
/// server. Each is judged together with the first observations of the others.
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
