//! Finds out what part of a pattern about peers can only mean an address.
//!
//! In the original a pattern was searched in a peer's name and in its address, and a network was written as `^10\.`.
//! But the owner of a name chooses it: `10.0.0.1.evil.example` would pass for a peer of that network. So the ways in
//! which a pattern can match are distinguished by the characters that they name:
//!
//! - An *address's* characters are digits, dots and colons; in a pattern with a colon also the hexadecimal letters.
//! - What can be any character (`.`, `[^-]`, `\S`, `\W`, `[a-z0-9-]`) names nothing. Neither does a dot, which
//!   addresses and names both have.
//! - Every other character is one that only a *name* has: a letter, a hyphen, an underscore.
//!
//! A way to match that names a digit or a colon, and no character that only names have, means an address, and is tried
//! on addresses only. So `^10\.`, `^10\..*`, `10\.0\.0\.`, `^1`, `^10.` and `^[0-9a-f:]+$` mean addresses;
//! `^192\.168\..*\.example$` and `^1and1\.` mean names; of `^(10|mail)\.` one way means an address and one a name; and
//! ``, `.*` and `^[a-z0-9.-]+$` mean either.

use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Dot, Hir, HirKind, Repetition};

use super::network::Network;

/// A pattern in two parts; it matches whatever one of them matches.
#[derive(Debug)]
pub(super) struct Meanings {
    /// The ways to match that mean an address.
    pub(super) addresses: Option<Hir>,
    /// All other ways, by which host names can match.
    pub(super) names: Option<Hir>,
}

impl Meanings {
    /// Divides the result of `compiler::parse` into the two parts.
    pub(super) fn of(pattern: &Hir) -> Self {
        let address = characters_of_addresses(names_colon(pattern));
        let by_name = split(pattern, &|class| divided(class, &address));
        let Some(unnamed) = by_name.without else { return Self { addresses: None, names: by_name.with } };
        let by_number = split(&unnamed, &|class| match names_number(class) {
            true => (ClassBytes::empty(), class.clone()),
            false => (class.clone(), ClassBytes::empty()),
        });
        Self { addresses: by_number.with, names: either(by_name.with, by_number.without) }
    }
}

/// The ways in which a pattern can match, divided by whether they contain at least one character of some kind. `None`
/// means that there is no such way.
struct Split {
    without: Option<Hir>,
    with: Option<Hir>,
}

/// Divides the ways in which a pattern can match. `divide` splits a class of characters into those that are not of the
/// kind in question and those that are.
fn split(pattern: &Hir, divide: &dyn Fn(&ClassBytes) -> (ClassBytes, ClassBytes)) -> Split {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => Split { without: Some(pattern.clone()), with: None },
        HirKind::Literal(literal) => {
            let has = |byte: &u8| !is_none(&divide(&ClassBytes::new([ClassBytesRange::new(*byte, *byte)])).1);
            match literal.0.iter().any(has) {
                true => Split { without: None, with: Some(pattern.clone()) },
                false => Split { without: Some(pattern.clone()), with: None },
            }
        }
        HirKind::Class(class) => match in_bytes(class) {
            Some(class) => {
                let (without, with) = divide(&class);
                let some = |class: ClassBytes| (!is_none(&class)).then(|| Hir::class(Class::Bytes(class)));
                Split { without: some(without), with: some(with) }
            }
            // A class with characters beyond ASCII counts as one that can be anything.
            None => Split { without: Some(pattern.clone()), with: None },
        },
        HirKind::Capture(group) => split(&group.sub, divide),
        HirKind::Alternation(branches) => {
            let branches = branches.iter().map(|branch| split(branch, divide));
            branches.fold(Split { without: None, with: None }, |all, branch| Split {
                without: either(all.without, branch.without),
                with: either(all.with, branch.with),
            })
        }
        HirKind::Concat(parts) => {
            let (mut without, mut with) = (Vec::new(), None);
            for (at, part) in parts.iter().enumerate() {
                let here = split(part, divide);
                // The first character of the kind may be here: none of them before, and anything after.
                let way = here.with.map(|here| {
                    let rest = parts[at + 1..].iter().cloned();
                    Hir::concat(without.iter().cloned().chain([here]).chain(rest).collect())
                });
                with = either(with, way);
                match here.without {
                    Some(here) => without.push(here),
                    None => return Split { without: None, with },
                }
            }
            Split { without: Some(Hir::concat(without)), with }
        }
        HirKind::Repetition(repeated) => {
            let times = |sub: Hir, min, max| Hir::repetition(Repetition { min, max, greedy: true, sub: Box::new(sub) });
            let Split { without, with } = split(&repeated.sub, divide);
            let others = repeated.max.map(|max| max.saturating_sub(1));
            // Any number of times without, once with, then any number of times either way. The exact number of
            // repetitions is not preserved, because the whole pattern has to match as well.
            let before = without.clone().map_or(Hir::empty(), |without| times(without, 0, others));
            let with = with.map(|with| Hir::concat(vec![before, with, times((*repeated.sub).clone(), 0, others)]));
            let without = match without {
                Some(without) => Some(times(without, repeated.min, repeated.max)),
                None => (repeated.min == 0).then(Hir::empty),
            };
            Split { without, with }
        }
    }
}

fn either(one: Option<Hir>, other: Option<Hir>) -> Option<Hir> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Hir::alternation(vec![one, other])),
        (one, other) => one.or(other),
    }
}

/// Splits a class into the characters within `known` and the others. A class that names nothing has none of the former.
fn divided(class: &ClassBytes, known: &ClassBytes) -> (ClassBytes, ClassBytes) {
    if is_anything(class) {
        return (class.clone(), ClassBytes::empty());
    }
    let (mut within, mut beyond) = (class.clone(), class.clone());
    within.intersect(known);
    beyond.difference(known);
    (within, beyond)
}

/// Whether a class of characters of addresses has more than a dot, which names have too.
fn names_number(class: &ClassBytes) -> bool {
    !is_anything(class) && !is_within(class, &bytes(&[b'.'..=b'.']))
}

/// Whether a class names nothing: it was written as "anything but", so that it has bytes that nobody would list, or it
/// has all letters and digits.
fn is_anything(class: &ClassBytes) -> bool {
    let contains = |all: &ClassBytes| is_within(all, class);
    contains(&bytes(&[0xff..=0xff])) || contains(&bytes(&[b'0'..=b'9', b'a'..=b'z']))
}

/// Whether the pattern names a colon anywhere.
fn names_colon(pattern: &Hir) -> bool {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(literal) => literal.0.contains(&b':'),
        HirKind::Class(class) => {
            in_bytes(class).is_some_and(|class| !is_anything(&class) && is_within(&bytes(&[b':'..=b':']), &class))
        }
        HirKind::Capture(group) => names_colon(&group.sub),
        HirKind::Repetition(repeated) => names_colon(&repeated.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(names_colon),
    }
}

fn characters_of_addresses(with_letters: bool) -> ClassBytes {
    let mut characters = bytes(&[b'.'..=b'.', b'0'..=b'9', b':'..=b':']);
    if with_letters {
        characters.union(&bytes(&[b'A'..=b'F', b'a'..=b'f']));
    }
    characters
}

/// The class as a class of bytes; `None` if it has characters beyond ASCII.
fn in_bytes(class: &Class) -> Option<ClassBytes> {
    match class {
        Class::Bytes(class) => Some(class.clone()),
        Class::Unicode(class) => class.to_byte_class(),
    }
}

fn bytes(ranges: &[std::ops::RangeInclusive<u8>]) -> ClassBytes {
    ClassBytes::new(ranges.iter().map(|range| ClassBytesRange::new(*range.start(), *range.end())))
}

fn is_none(class: &ClassBytes) -> bool {
    class.ranges().is_empty()
}

fn is_within(class: &ClassBytes, larger: &ClassBytes) -> bool {
    let mut rest = class.clone();
    rest.difference(larger);
    is_none(&rest)
}

/// The networks that an address pattern was written for, such as `10.0.0.0/8` for `^10\.`; none if they cannot be
/// determined. A `.` that can be any character is read as a dot.
pub(super) fn networks(addresses: &Hir) -> Vec<Network> {
    let beginnings = Extractor::new().extract(&as_written(addresses));
    let beginnings = beginnings.literals().unwrap_or_default();
    let networks = beginnings.iter().map(|beginning| network(std::str::from_utf8(beginning.as_bytes()).ok()?));
    let mut networks = networks.collect::<Option<Vec<Network>>>().unwrap_or_default();
    // 172.16.0.0/16 to 172.31.0.0/16 become one network.
    let mut at = 0;
    while at < networks.len() {
        let other = networks.iter().skip(at + 1).position(|other| networks[at].joined(other).is_some());
        match other.map(|offset| networks.remove(at + 1 + offset)) {
            Some(other) => {
                networks[at] = networks[at].joined(&other).unwrap_or(other);
                at = 0;
            }
            None => at += 1,
        }
    }
    networks
}

/// The pattern with its probable beginnings as literals; a repetition cannot be a beginning.
fn as_written(pattern: &Hir) -> Hir {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => Hir::empty(),
        HirKind::Literal(_) => pattern.clone(),
        HirKind::Class(class) => match in_bytes(class) {
            Some(mut class) if !is_anything(&class) => {
                class.difference(&bytes(&[b'A'..=b'F']));
                Hir::class(Class::Bytes(class))
            }
            _ => Hir::literal(*b"."),
        },
        HirKind::Repetition(repeated) if Some(repeated.min) == repeated.max => {
            Hir::repetition(Repetition { sub: Box::new(as_written(&repeated.sub)), ..repeated.clone() })
        }
        HirKind::Repetition(_) => Hir::dot(Dot::AnyByte),
        HirKind::Capture(group) => as_written(&group.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(as_written).collect()),
        HirKind::Alternation(branches) => Hir::alternation(branches.iter().map(as_written).collect()),
    }
}

/// The network of all addresses that begin with this text, which ends after a number and its separator. A whole address
/// stands for itself.
fn network(beginning: &str) -> Option<Network> {
    let cidr = if let Some(numbers) = beginning.strip_suffix('.') {
        let count = numbers.split('.').count();
        format!("{numbers}{}/{}", ".0".repeat(3_usize.checked_sub(count)? + 1), 8 * count)
    } else if let Some(numbers) = beginning.strip_suffix(':') {
        format!("{numbers}::/{}", 16 * numbers.split(':').count())
    } else {
        beginning.to_owned()
    };
    Network::parse(&cidr).ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::*;
    use crate::config::compiler::{compile_parsed, parse};

    fn taken_apart(source: &str) -> (Option<Regex>, Option<Regex>) {
        let Meanings { addresses, names } = Meanings::of(&parse(source).unwrap());
        let compiled = |part: Option<Hir>| part.map(|part| compile_parsed(&part).unwrap());
        (compiled(addresses), compiled(names))
    }

    #[test]
    fn what_means_an_address() {
        const NAME: &str = "n";
        const ADDRESS: &str = "a";
        const BOTH: &str = "an";
        for (pattern, meaning) in [
            (r"^10\.", ADDRESS),
            (r"^10\..*", ADDRESS),
            (r"^10\..*$", ADDRESS),
            (r"^10[.].+", ADDRESS),
            (r"^10\.\S+$", ADDRESS),
            (r"^10\.[a-z0-9.-]*$", ADDRESS),
            (r"^10\.[^-]*", ADDRESS),
            (r"^10\D", ADDRESS),
            (r"^10\W", ADDRESS),
            (r"^10\b", ADDRESS),
            ("^10.", ADDRESS),
            ("^192.168.", ADDRESS),
            ("^1", ADDRESS),
            ("^1.*", ADDRESS),
            ("1", ADDRESS),
            (r"10\.0\.0\.", ADDRESS),
            (r".*10\.0\.0\.", ADDRESS),
            (r"^(10|172)\.", ADDRESS),
            (r"^(10\.|172\.16\.)", ADDRESS),
            (r"^172\.(1[6-9]|2[0-9]|3[01])\.", ADDRESS),
            (r"^\d+\.\d+", ADDRESS),
            (r"^([0-9]{1,3}\.){3}[0-9]+$", ADDRESS),
            (r"^[[:digit:]]+\.", ADDRESS),
            (r"^192\.0\.2\.25$", ADDRESS),
            ("^::1$", ADDRESS),
            ("^2001:db8:", ADDRESS),
            ("^FE80:", ADDRESS),
            ("^[0-9a-f:]+$", ADDRESS),
            ("^[0-9a-f:.]+$", ADDRESS),
            (r"^[.:\da-f]", ADDRESS),
            ("^fe80[0-9a-f:.]*", ADDRESS),
            ("(?x) ^ 10 [.] # the office", ADDRESS),
            ("", NAME),
            ("^", NAME),
            ("$", NAME),
            (".", NAME),
            (".*", NAME),
            ("^.+$", NAME),
            (r"^\S+$", NAME),
            (r"\.", NAME),
            (r"^[^.]+\.[^.]+$", NAME),
            ("^[a-z0-9.-]+$", NAME),
            ("^[a-z]", NAME),
            ("^[0-9a-f]", BOTH),
            ("[0-9.]+", ADDRESS),
            (r"^abc\.de$", NAME),
            (r"^192\.168\..*\.example$", NAME),
            (r"^1and1\.", NAME),
            (r"^10-", NAME),
            (r"mail\d+\.", NAME),
            (r"^\d+\.\d+\.\d+\.\d+\.dyn\.example$", NAME),
            (r"^[0-9]+[.-][0-9]+[.-]", BOTH),
            (r"^(10|mail)\.", BOTH),
            (r"^10\.|\.example$", BOTH),
            (r"^10\.(0\.|.*\.example$)", BOTH),
            (r"^10(-|\.)", BOTH),
        ] {
            let (addresses, names) = taken_apart(pattern);
            let found = match (addresses, names) {
                (Some(_), None) => ADDRESS,
                (None, Some(_)) => NAME,
                (Some(_), Some(_)) => BOTH,
                (None, None) => "",
            };
            assert_eq!(found, meaning, "{pattern}");
        }
    }

    #[test]
    fn networks_are_read() {
        for (pattern, expected) in [
            (r"^10\.", &["10.0.0.0/8"][..]),
            (r"^10\..*", &["10.0.0.0/8"]),
            ("^10.", &["10.0.0.0/8"]),
            (r"^192\.168\.", &["192.168.0.0/16"]),
            ("^192.168.1.", &["192.168.1.0/24"]),
            (r"^192\.168\.\d+\.", &["192.168.0.0/16"]),
            (r"^192\.168\.1\.5", &["192.168.1.5/32"]),
            (r"10\.0\.0\.", &["10.0.0.0/24"]),
            (r"^(10|172)\.", &["10.0.0.0/8", "172.0.0.0/8"]),
            (r"^172\.(1[6-9]|2[0-9]|3[01])\.", &["172.16.0.0/12"]),
            (r"^10\.|\.example$", &["10.0.0.0/8"]),
            ("^2001:db8:", &["2001:db8::/32"]),
            ("^2001:DB8:25:", &["2001:db8:25::/48"]),
            ("^fe80:", &["fe80::/16"]),
            // It cannot be told which networks these mean.
            ("^10", &[]),
            (r"^192\.168\.1[0-9]*", &[]),
            (r"^[0-9]+\.", &[]),
            (r"^300\.", &[]),
            (r"^1\.2\.3\.4\.", &[]),
            ("^2001:db8::", &[]),
        ] {
            let Meanings { addresses, .. } = Meanings::of(&parse(pattern).unwrap());
            let networks: Vec<String> = networks(&addresses.unwrap()).iter().map(Network::to_string).collect();
            assert_eq!(networks, expected, "{pattern}");
        }
    }

    /// Whether a pattern has a class that names nothing: two alternatives that name something can be one together.
    fn has_anything(pattern: &Hir) -> bool {
        let found = Cell::new(false);
        split(pattern, &|class| {
            found.set(found.get() || is_anything(class));
            (class.clone(), ClassBytes::empty())
        });
        found.get()
    }

    /// What patterns of peers are made of; nothing that names nothing.
    const PIECES: &[&str] = &[
        "1", "0", "10", r"\.", "[0-9]", r"\d", "a", "g", "-", "ad", "[.-]", "[0-9-]", "[a-z]", "[0-9a-f]", "(", "(?:",
        ")", "|", "?", "*", "+", "{2}", "{1,3}", "{2,}", "*?",
    ];
    /// What names nothing, and anchors.
    const OTHERS: &[&str] =
        &[".", ".*", r"\S", "[^-]", "[a-z0-9-]", "^", "$", r"\b", "(?-i:", "(?s:", ":", "[0-9a-f:]"];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        /// From end to end a text matches as a name if it has a character that only names have, or no digit; and else as
        /// an address. What the pattern as a whole says of the text decides.
        #[test]
        fn a_text_matches_as_what_it_is(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 1..9),
            has_colon in any::<bool>(),
            texts in prop::collection::vec(prop_oneof!["[01agd.-]{0,7}", "[01.]{0,7}", "[01ad]{0,5}"], 8),
        ) {
            let inner = pieces.concat();
            let source = format!("^(?:{inner}{})$", if has_colon { "|:" } else { "" });
            let Some(parsed) = parse(&inner).ok().and_then(|_| parse(&source).ok()).filter(|it| !has_anything(it)) else {
                return Ok(());
            };
            let whole = compile_parsed(&parsed).unwrap();
            let (addresses, names) = taken_apart(&source);
            let is_match = |part: &Option<Regex>, text: &str| part.as_ref().is_some_and(|it| it.is_match(text.as_bytes()));
            // No name consists of dots.
            for text in texts.iter().filter(|text| text.is_empty() || text.contains(|c: char| c != '.')) {
                let is_of_address = |c: char| c.is_ascii_digit() || c == '.' || c == ':' || (has_colon && c.is_ascii_hexdigit());
                let is_address = !text.is_empty() && text.chars().all(is_of_address);
                let matches = whole.is_match(text.as_bytes());
                prop_assert_eq!(matches && is_match(&names, text), matches && !is_address, "{}: {}", source, text);
                prop_assert_eq!(matches && is_match(&addresses, text), matches && is_address, "{}: {}", source, text);
            }
        }

        /// Nothing is lost: what a pattern matches, one of its parts does.
        #[test]
        fn the_parts_are_the_whole(
            pieces in prop::collection::vec(
                prop_oneof![prop::sample::select(PIECES), prop::sample::select(OTHERS)], 0..9),
            texts in prop::collection::vec("[01agd.:-]{0,7}", 8),
        ) {
            let source = pieces.concat();
            let Ok(parsed) = parse(&source) else { return Ok(()) };
            let whole = compile_parsed(&parsed).unwrap();
            let (addresses, names) = taken_apart(&source);
            let is_match = |part: &Option<Regex>, text: &str| part.as_ref().is_some_and(|it| it.is_match(text.as_bytes()));
            for text in &texts {
                let parts = is_match(&names, text) || is_match(&addresses, text);
                prop_assert!(parts || !whole.is_match(text.as_bytes()), "{}: {}", source, text);
            }
        }
    }
}
