//! Pairs of a relay and a receiver: what one passes on may be the end of data for the other, though each alone looks sound.
//!
//! Which pairs there are is computed from octets that were seen on the wire; each is then to be confirmed by a real chain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::difference::{Knowledge, differences};
use super::outcome::Outcome;
use super::text::find;
use super::{Class, Judgement, Learned, Stand, Verdict};
use crate::case::escaped::escape;
use crate::case::{Case, Part, Unit};
use crate::observation::{Message, Observation, Place};

/// A relay before a receiver, and a case to confirm it with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Chain {
    /// The server that passes the octets on.
    pub relay: String,
    /// The server that ends the data there.
    pub receiver: String,
    /// The case that is sent to the relay.
    pub case: String,
    /// The octets that go through, as text: see [`crate::case::escaped`].
    pub variant: String,
}

/// The chains to confirm: the relay puts on the wire, within a message, octets at which the receiver ended the data when it
/// got them itself.
///
/// Each case comes with what was observed of it, where it was passed on and where it was received, and with its judgement.
/// The receiver is judged by what it made of those very octets, in whichever case they were sent to it.
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

/// Judges a chain that was held: what came out at the receiver, against what the relay alone put on the wire.
///
/// A relay that makes two messages of one by itself is no finding about the pair, therefore.
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
    // Who answers is the relay, both times; what it says of the second session is not the receiver's.
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

/// What a case means to end the data with, if it is not what ends it everywhere: the octets in front of its tail.
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
