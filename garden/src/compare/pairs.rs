//! Pairs of a relay and a receiver: what one passes on may be the end of data for the other, although each of them
//! alone seems correct.
//!
//! The pairs are computed from octets that were seen on the wire. Each is then to be confirmed by a real chain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::difference::{Knowledge, differences};
use super::outcome::Outcome;
use super::text::find;
use super::{Class, Judgement, Learned, Stand, Verdict};
use crate::case::escaped::escape;
use crate::case::{Case, Part, Unit};
use crate::observation::{Message, Observation, Place};

/// A relay in front of a receiver, and a case with which to confirm the pair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Chain {
    /// The server that passes the octets on.
    pub relay: String,
    /// The server that ends the data at these octets.
    pub receiver: String,
    /// The case that is sent to the relay.
    pub case: String,
    /// The octets that get through, as text: see [`crate::case::escaped`].
    pub variant: String,
}

/// The chains to confirm: the relay sends, within a message, octets at which the receiver ended the data when it got
/// them directly.
///
/// Each case comes with its observations, of servers that passed it on and of servers that received it, and with its
/// judgement. A receiver is judged by what it did with exactly these octets, in whichever case they were sent to it.
pub fn chains<'a>(cases: impl Iterator<Item = (&'a Case, &'a [Observation], &'a Judgement)> + Clone) -> Vec<Chain> {
    let mut enders: BTreeMap<Vec<u8>, BTreeSet<&str>> = BTreeMap::new();
    for (case, _, judgement) in cases.clone() {
        let Some(variant) = variant(case) else {
            continue;
        };
        let receivers = enders.entry(variant).or_default();
        receivers
            .extend(judgement.verdicts.iter().filter(|verdict| ends_data(verdict)).map(|verdict| &*verdict.server));
    }
    let mut chains = BTreeSet::new();
    for observation in cases.flat_map(|(_, observations, _)| observations) {
        for message in observation.messages.iter().filter(|message| message.place == Place::Wire) {
            let text = without_end(message);
            for (variant, receivers) in &enders {
                if find(text, variant).is_none() {
                    continue;
                }
                chains.extend(receivers.iter().filter(|receiver| **receiver != observation.server).map(|receiver| {
                    Chain {
                        relay: observation.server.clone(),
                        receiver: (*receiver).to_owned(),
                        case: observation.case.clone(),
                        variant: escape(variant),
                    }
                }));
            }
        }
    }
    chains.into_iter().collect()
}

/// Judges a chain that was held: what came out at the receiver, compared with what the relay alone sent.
///
/// So a relay that makes two messages of one is not a finding about the pair.
pub fn judge_chain(
    case: &Case,
    relayed: &Observation,
    relay: &Learned,
    came_out: &Observation,
    receiver: &Learned,
) -> Verdict {
    let knowledge = Knowledge::new(case, Some(relayed), None);
    let mut before = Outcome::seen(case, &knowledge.of_case, relayed, relay);
    let after = Outcome::seen(case, &knowledge.of_case, came_out, &relay.then(receiver));
    // In both sessions the relay answers; what it says in the second one does not come from the receiver.
    before.steps = None;
    let found = differences(&knowledge, &before, &after);
    let stand = if found.is_empty() {
        Stand::WithTheOthers
    } else if !after.is_drained && after.delivered.len() <= before.delivered.len() {
        Stand::Unknown("the queue of the relay or of the receiver is not empty".into())
    } else {
        Stand::Apart(found)
    };
    Verdict { server: came_out.server.clone(), stand }
}

/// The octets with which a case tries to end the data in front of its tail, unless they are the standard end.
fn variant(case: &Case) -> Option<Vec<u8>> {
    let octets = case.units.iter().find_map(|unit| match unit {
        Unit::Send { part: Part::End, octets } => Some(octets.clone()),
        _ => None,
    })?;
    (find(&octets, b"\r\n.\r\n").is_none() && octets != b".\r\n").then_some(octets)
}

fn ends_data(verdict: &Verdict) -> bool {
    verdict.class().is_some_and(|class| matches!(class, Class::Count | Class::Forged | Class::Cut))
        && verdict.difference().is_some_and(|difference| difference.kind != super::Kind::Lost)
}

fn without_end(message: &Message) -> &[u8] {
    message.octets.strip_suffix(b".\r\n").unwrap_or(&message.octets)
}
