//! Pairs of a relay and a receiver: what one passes on may be the end of data for the other, although each of them
//! alone seems correct.
//!
//! The pairs are computed from octets that were seen on the wire. Each is then to be confirmed by a real chain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::difference::{Knowledge, differences};
use super::outcome::Outcome;
use super::text::{ends_for_some, find, octets_of};
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
/// judgement. A receiver is judged by what it did with exactly these octets, in whichever case they were sent to it. Of
/// each pair there is one chain for the same octets, with the smallest case.
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
    let mut smallest: BTreeMap<[&str; 2], BTreeMap<&[u8], &Case>> = BTreeMap::new();
    for (case, observations, _) in cases {
        for observation in observations {
            for message in observation.messages.iter().filter(|message| message.place == Place::Wire) {
                let text = without_end(message);
                for (variant, receivers) in enders.iter().filter(|(variant, _)| find(text, variant).is_some()) {
                    for receiver in receivers.iter().filter(|receiver| **receiver != observation.server) {
                        let of_pair = smallest.entry([&observation.server, receiver]).or_default();
                        let known = of_pair.entry(variant).or_insert(case);
                        if octets_of(case).len() < octets_of(known).len() {
                            *known = case;
                        }
                    }
                }
            }
        }
    }
    let of_pair = smallest.into_iter().flat_map(|(pair, variants)| variants.into_iter().map(move |of| (pair, of)));
    of_pair
        .map(|([relay, receiver], (variant, case))| Chain {
            relay: relay.to_owned(),
            receiver: receiver.to_owned(),
            case: case.name.clone(),
            variant: escape(variant),
        })
        .collect()
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

/// The octets with which a case tries to end the data in front of its tail, unless they are the standard end: a dot,
/// and around it what some server may take for the end of a line. Anything shorter is in every message.
fn variant(case: &Case) -> Option<Vec<u8>> {
    let octets = case.units.iter().find_map(|unit| match unit {
        Unit::Send { part: Part::End, octets } => Some(octets),
        _ => None,
    })?;
    let runs = octets.chunk_by(|one, other| is_of_an_end(*one) == is_of_an_end(*other));
    let end = runs.into_iter().find(|run| run.first().copied().is_some_and(is_of_an_end) && has_dot_within(run))?;
    find(end, b"\r\n.\r\n").is_none().then(|| end.to_vec())
}

const fn is_of_an_end(octet: u8) -> bool {
    octet == b'.' || ends_for_some(octet)
}

fn has_dot_within(run: &[u8]) -> bool {
    run.windows(3).any(|around| ends_for_some(around[0]) && around[1] == b'.' && ends_for_some(around[2]))
}

fn ends_data(verdict: &Verdict) -> bool {
    verdict.class().is_some_and(|class| matches!(class, Class::Count | Class::Forged | Class::Cut))
        && verdict.difference().is_some_and(|difference| difference.kind != super::Kind::Lost)
}

fn without_end(message: &Message) -> &[u8] {
    message.octets.strip_suffix(b".\r\n").unwrap_or(&message.octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_end_the_data_is_a_dot_between_what_may_end_lines() {
        let variant = |octets: &[u8]| {
            variant(&Case { name: String::new(), units: vec![Unit::Send { part: Part::End, octets: octets.to_vec() }] })
        };
        for (octets, expected) in [
            (&b"\n.\n"[..], Some(&b"\n.\n"[..])),
            (b"\r\n.\r", Some(b"\r\n.\r")),
            (b"\0.\0", Some(b"\0.\0")),
            (b"text\r.\r\ntail\n.\n", Some(b"\r.\r\n")),
            (b"\r\n.\r\n", None),
            (b".\r\n", None),
            (b"\n", None),
            (b"", None),
            (b"\n..\n", None),
            (b"a.b", None),
        ] {
            assert_eq!(variant(octets).as_deref(), expected, "{octets:?}");
        }
    }
}
