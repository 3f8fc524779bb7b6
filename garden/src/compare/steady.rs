//! Looks again: a difference that does not come each time is none that one can work with.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Expected, Judgement, Learned, judge_against};
use crate::case::Case;
use crate::observation::{Observation, Servers};

/// How often a difference is looked for again.
const TIMES: usize = 3;

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

/// Holds the case again, three times and alone, with each server that stands apart in this judgement, and judges it each
/// time among the others as they were observed.
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
    let trusted: Vec<&str> = judgement.reference().collect();
    let mut steadiness = Vec::new();
    for verdict in &judgement.verdicts {
        let Some(class) = verdict.class() else {
            continue;
        };
        let mut again = 0;
        let mut otherwise = None;
        for _ in 0..TIMES {
            for observation in servers.hold(&verdict.server, std::slice::from_ref(case))? {
                let mut all = observations.to_vec();
                for one in &mut all {
                    if one.server == verdict.server {
                        *one = &observation;
                    }
                }
                let now = judge_against(case, &all, learned, expected, &trusted);
                if now.verdict(&verdict.server).and_then(super::Verdict::class) == Some(class) {
                    again += 1;
                } else {
                    otherwise = Some(observation);
                }
            }
        }
        steadiness.push(Steadiness { server: verdict.server.clone(), again, otherwise });
    }
    Ok(steadiness)
}
