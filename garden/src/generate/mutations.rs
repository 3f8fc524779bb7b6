//! Cases with random changes, which are the same for the same seed and number.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::draft::{expect, forged, quit, send};
use crate::case::{Case, Part, Placeholder, Unit};
use crate::compare::text::find;
use crate::oracle::Guide;

/// The mutation with this number for this seed, made from one of these cases: `mutations/SEED/NUMBER`.
///
/// The same cases give the same mutation, without making the earlier ones. The session always ends: a text without an
/// end gets one. The mutation has a token if the original case has one.
pub fn mutation(base: &[Case], seed: u64, number: u64) -> Case {
    let mut random = Random::new(seed, number);
    let name = format!("mutations/{seed}/{number:05}");
    let Some(chosen) = random.choose(base) else { return Case { name, units: quit() } };
    loop {
        let mut units = chosen.units.clone();
        for _ in 0..=random.below(MOST_CHANGES - 1) {
            if random.below(3) == 0 {
                change_structure(&mut units, base, &mut random);
            } else {
                change_octets(&mut units, &mut random);
            }
        }
        end(&mut units);
        let is_new = base.iter().all(|case| case.units != units);
        if is_new && (has_token(&units) || !has_token(&chosen.units)) {
            return Case { name, units };
        }
    }
}

/// The most changes to one case.
const MOST_CHANGES: usize = 4;

/// Random numbers for a seed.
struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64, number: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(number);
        Self(generator)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        // Low numbers are slightly more frequent, which does not matter here.
        let number = self.0.next_u32();
        usize::try_from(number).unwrap_or_default() % bound.max(1)
    }

    fn choose<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        from.get(self.below(from.len()))
    }

    /// A range of at most `most` octets.
    fn range(&mut self, length: usize, most: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        start..(start + 1 + self.below(most)).min(length)
    }
}

pub(super) fn has_token(units: &[Unit]) -> bool {
    let token = Placeholder::Token.text().as_bytes();
    units.iter().any(|unit| match unit {
        Unit::Send { octets, .. } => find(octets, token).is_some(),
        _ => false,
    })
}

/// Octets to insert: ends of lines and texts, and parts of these, words of the protocol, and octets with a meaning for
/// somebody.
const INTERESTING: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\0",
    b".",
    b"\r\n",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r.\r",
    b"\r\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"..",
    b"\r\n..",
    b"\r\n.",
    b" ",
    b"\t",
    b"\r\n ",
    b"\r\n\t",
    b":",
    b";",
    b",",
    b"<",
    b">",
    b"@",
    b"\"",
    b"\\",
    b"(",
    b")",
    b"%",
    b"!",
    b"[",
    b"]",
    b"=",
    b"\x80",
    b"\x85",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"\x0b",
    b"\x0c",
    b"\x1b",
    b"\x1a",
    b"\x7f",
    b"\x08",
    b"From ",
    b"\r\nFrom: x@other.example\r\n",
    b"Bcc: x@server.example\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
    b"BDAT 5 LAST\r\n",
    b"\r\nSubject: __TOKEN__\r\n",
    b" BODY=8BITMIME",
    b" SIZE=1",
    b" SMTPUTF8",
];

/// Changes the octets of one unit.
fn change_octets(units: &mut [Unit], random: &mut Random) {
    let mut sent: Vec<&mut Vec<u8>> = units
        .iter_mut()
        .filter_map(|unit| match unit {
            Unit::Send { octets, .. } if !octets.is_empty() => Some(octets),
            _ => None,
        })
        .collect();
    let number = sent.len();
    let Some(octets) = sent.get_mut(random.below(number)) else { return };
    let length = octets.len();
    let at = random.below(length);
    match random.below(10) {
        0 => octets[at] ^= 1 << random.below(8),
        1 => octets[at] = u8::try_from(random.below(256)).unwrap_or_default(),
        2 | 3 => insert(octets, random.below(length + 1), random),
        4 => {
            octets.drain(random.range(length, 8));
        }
        5 => {
            let piece = octets[random.range(length, 32)].to_vec();
            octets.splice(at..at, piece);
        }
        6 => {
            let range = random.range(length, 4);
            let interesting = random.choose(INTERESTING).copied().unwrap_or_default();
            octets.splice(range, interesting.iter().copied());
        }
        7 => change_line_end(octets, random),
        8 => {
            let octet = octets[at];
            let times = [2, 10, 100, 998, 1000, 2000][random.below(6)];
            octets.splice(at..at, std::iter::repeat_n(octet, times));
        }
        _ => octets.truncate(at),
    }
}

fn insert(octets: &mut Vec<u8>, at: usize, random: &mut Random) {
    let interesting = random.choose(INTERESTING).copied().unwrap_or_default();
    octets.splice(at..at, interesting.iter().copied());
}

/// Replaces one CR LF.
fn change_line_end(octets: &mut Vec<u8>, random: &mut Random) {
    let ends: Vec<usize> =
        octets.windows(2).enumerate().filter(|(_, pair)| pair == b"\r\n").map(|(at, _)| at).collect();
    let others: &[&[u8]] = &[b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\0\r\n", b"", b"\r\0\n"];
    if let (Some(&at), Some(&other)) = (random.choose(&ends), random.choose(others)) {
        octets.splice(at..at + 2, other.iter().copied());
    }
}

/// Changes the units.
fn change_structure(units: &mut Vec<Unit>, base: &[Case], random: &mut Random) {
    let at = random.below(units.len());
    match random.below(8) {
        0 => {
            units.remove(at);
        }
        1 => units.insert(at, units[at].clone()),
        2 => {
            let other = random.below(units.len());
            units.swap(at, other);
        }
        // Takes a unit of the same kind from another case.
        3 | 4 => {
            let other = random.choose(base).map(|case| case.units.clone()).unwrap_or_default();
            let is_alike = |unit: &&Unit| part(unit) == part(&units[at]);
            let alike: Vec<&Unit> = other.iter().filter(is_alike).collect();
            if let Some(unit) = random.choose(&alike) {
                units[at] = (*unit).clone();
            }
        }
        5 => split(units, at, random),
        // Removes the next wait.
        6 => {
            if let Some(behind) = units[at..].iter().position(|unit| matches!(unit, Unit::Expect { .. })) {
                units.remove(at + behind);
            }
        }
        _ => {
            let [mail, rcpt, data, message] = forged();
            let octets = [mail, rcpt, data, message].concat();
            units.insert(at, send(Part::Tail, &octets));
        }
    }
}

fn part(unit: &Unit) -> Option<Part> {
    match unit {
        Unit::Send { part, .. } => Some(*part),
        _ => None,
    }
}

/// Sends in two pieces what was one.
fn split(units: &mut Vec<Unit>, at: usize, random: &mut Random) {
    let Unit::Send { part, octets } = units[at].clone() else { return };
    let (first, second) = octets.split_at(random.below(octets.len() + 1));
    units.splice(at..=at, [send(part, first), Unit::Pause(PAUSE), send(part, second)]);
}

const PAUSE: Duration = Duration::from_millis(50);

/// Adds an end to a text that has none, so that no server waits for more of it.
fn end(units: &mut Vec<Unit>) {
    let mut guide = Guide::new();
    for unit in &*units {
        if let Unit::Send { octets, .. } = unit {
            guide.send(octets);
        }
    }
    if guide.is_in_text() {
        units.push(send(Part::End, b"\r\n.\r\n"));
        units.extend(quit());
    }
    if !matches!(units.last(), Some(Unit::Expect { .. })) {
        units.push(expect(""));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Options, Set};
    use super::*;

    fn base() -> &'static [Case] {
        static BASE: std::sync::OnceLock<Vec<Case>> = std::sync::OnceLock::new();
        BASE.get_or_init(|| Set::Short.cases(Options::default()))
    }

    #[test]
    fn a_mutation_is_that_of_its_seed_and_number() {
        let base = base();
        let of = |seed, number| mutation(base, seed, number);
        assert_eq!(of(1, 5), of(1, 5));
        assert_ne!(of(1, 5).units, of(1, 6).units);
        assert_ne!(of(1, 5).units, of(2, 5).units);
        // A finding has to be found again, even after an update of the crate that makes the random numbers.
        let mut random = Random::new(1, 5);
        assert_eq!([random.below(1000), random.below(1000), random.below(1000)], [859, 976, 509]);
    }

    #[test]
    fn mutations_are_of_all_kinds() {
        let base = base();
        let cases: Vec<_> = (0..300).map(|number| mutation(base, 7, number)).collect();
        let mut units: Vec<_> = cases.iter().map(|case| case.units.clone()).collect();
        units.sort_by_key(|units| format!("{units:?}"));
        units.dedup();
        assert!(units.len() > 290, "{} different ones", units.len());
        assert!(cases.iter().all(|case| !base.iter().any(|known| known.units == case.units)));
        let lengths = base.iter().map(|case| case.units.len());
        let (shortest, longest) = (lengths.clone().min().unwrap(), lengths.max().unwrap());
        let shorter = cases.iter().filter(|case| case.units.len() < shortest).count();
        let longer = cases.iter().filter(|case| case.units.len() > longest).count();
        assert!(shorter > 0 && longer > 0);
    }

    proptest! {
        #[test]
        fn a_mutation_has_a_token_and_an_end(seed: u64, number: u64) {
            let base = base();
            let case = mutation(base, seed, number);
            prop_assert!(has_token(&case.units));
            let mut guide = Guide::new();
            case.units.iter().for_each(|unit| if let Unit::Send { octets, .. } = unit { guide.send(octets); });
            prop_assert!(!guide.is_in_text());
            let text = crate::payload::write(&case);
            prop_assert_eq!(crate::payload::read("x", text.as_bytes(), &crate::payload::Assignments::new()).unwrap(), [case]);
        }
    }
}
