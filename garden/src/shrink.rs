//! Makes a case smaller as long as the same servers differ in the same way: delta debugging (Zeller and Hildebrandt,
//! 2002) over steps, then lines, then octets.
//!
//! It holds sessions, but no more than it is given; the result is the smallest case by then.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use crate::case::{Case, Part, Placeholder, Unit};
use crate::compare::text::{find, sent};
use crate::compare::{Expected, Kind, Learned, Stand, Verdict, judge_against};
use crate::observation::{Observation, Servers};

/// The default number of sessions for making one case smaller.
pub const SESSIONS: usize = 200;

/// What has to stay the same while a case gets smaller.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The kind of difference.
    pub kind: Kind,
    /// The servers that differ in this way.
    pub apart: &'a [String],
    /// Some of those that do not.
    pub others: &'a [String],
    /// What was learned of all of them.
    pub learned: &'a BTreeMap<String, Learned>,
    /// The outcome of a case according to the standard, if it is determined.
    pub oracle: &'a dyn Fn(&Case) -> Option<Expected>,
    /// How many sessions may be held.
    pub sessions: usize,
}

/// A case that was made smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The case, with its old name.
    pub case: Case,
    /// The observations of all servers that were asked.
    pub observations: Vec<Observation>,
    /// Whether nothing more can be left out. If not, the sessions were used up.
    pub is_smallest: bool,
}

/// Makes the case smaller; `None` if it does not show the difference. Also returns how many sessions were held.
///
/// # Errors
///
/// Those of [`Servers::hold`].
pub fn shrink(servers: &mut dyn Servers, case: &Case, wanted: Wanted<'_>) -> Result<(Option<Shrunk>, usize)> {
    let mut trial = Trial {
        servers,
        wanted,
        sessions: 0,
        is_spent: false,
        is_ended: is_ended(case),
        known: HashMap::new(),
        observations: Vec::new(),
    };
    if !trial.shows(case)? {
        return Ok((None, trial.sessions));
    }
    let mut smallest = case.clone();
    loop {
        let before = smallest.clone();
        for pieces in [chunks, pauses, header_lines, other_lines, octets] {
            smallest = without_needless(&smallest, pieces(&smallest), &mut trial)?;
        }
        if smallest == before || trial.is_spent {
            break;
        }
    }
    let is_smallest = !trial.is_spent;
    let shrunk = Shrunk { case: smallest, observations: trial.observations, is_smallest };
    Ok((Some(shrunk), trial.sessions))
}

/// Whether `small` is contained in `large`, in the same order. Between the letters of a word there may be others, but
/// everything that is not a word has to be in one piece, because that is what cases are about: LF `.` LF is not
/// contained in CRLF `.` CRLF.
pub fn is_within(small: &Case, large: &Case) -> bool {
    let large = pieces(large);
    pieces(small).iter().all(|(kind, small)| {
        let rest = large.iter().find(|(other, _)| other == kind).map_or(&[][..], |(_, octets)| octets);
        has_within(rest, without_end(small))
    })
}

/// Whether two cases send the same octets, regardless of their units.
pub fn is_same(one: &Case, other: &Case) -> bool {
    pieces(one) == pieces(other)
}

/// What is sent by kind of part, each kind in one piece; a body, its intended end and what follows count as one text.
fn pieces(case: &Case) -> Vec<(Part, Vec<u8>)> {
    let mut pieces: Vec<(Part, Vec<u8>)> = Vec::new();
    for unit in &case.units {
        let Unit::Send { part, octets } = unit else {
            continue;
        };
        let part = if matches!(part, Part::End | Part::Tail) { Part::Body } else { *part };
        match pieces.iter_mut().find(|(known, _)| *known == part) {
            Some((_, piece)) => piece.extend_from_slice(octets),
            None => pieces.push((part, octets.clone())),
        }
    }
    pieces
}

fn without_end(octets: &[u8]) -> &[u8] {
    octets.strip_suffix(b".\r\n").unwrap_or(octets)
}

fn has_within(large: &[u8], small: &[u8]) -> bool {
    let is_letter = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'_';
    let mut rest = large;
    for run in small.chunk_by(|one, other| is_letter(one) == is_letter(other)) {
        let end = if run.first().is_some_and(is_letter) {
            let mut letters = run.iter().peekable();
            let last = rest.iter().position(|octet| {
                letters.next_if_eq(&octet);
                letters.peek().is_none()
            });
            last.map(|at| at + 1)
        } else {
            find(rest, run).map(|at| at + run.len())
        };
        let Some(end) = end else {
            return false;
        };
        rest = &rest[end..];
    }
    true
}

/// Holds sessions and says whether a case still shows the difference.
struct Trial<'a> {
    servers: &'a mut dyn Servers,
    wanted: Wanted<'a>,
    sessions: usize,
    is_spent: bool,
    /// Whether the text of the original case has an end.
    is_ended: bool,
    known: HashMap<Vec<Unit>, bool>,
    /// Those of the last case that showed it.
    observations: Vec<Observation>,
}

impl Trial<'_> {
    fn shows(&mut self, case: &Case) -> Result<bool> {
        if let Some(&known) = self.known.get(&case.units) {
            return Ok(known);
        }
        // A case whose text has a standard end must not become one for which most servers wait for more.
        if self.is_ended && !is_ended(case) {
            return Ok(false);
        }
        let wanted = self.wanted;
        if self.sessions + wanted.apart.len() + wanted.others.len() > wanted.sessions {
            self.is_spent = true;
            return Ok(false);
        }
        let expected = (wanted.oracle)(case);
        let mut observations = Vec::new();
        // One server of each side is asked first: most cases fail with these.
        let (first_apart, more_apart) = wanted.apart.split_at(wanted.apart.len().min(1));
        let (first_other, more_others) = wanted.others.split_at(wanted.others.len().min(1));
        let mut shows = true;
        for turn in [[first_other, first_apart], [more_others, more_apart]] {
            let asked: Vec<_> = turn.concat().into_iter().map(|server| (server, vec![case.clone()])).collect();
            self.sessions += asked.len();
            observations.extend(self.servers.hold_each(&asked)?.concat());
            shows = shows && is_wanted(case, &observations, expected.as_ref(), wanted);
            if !shows {
                break;
            }
        }
        self.known.insert(case.units.clone(), shows);
        if shows {
            self.observations = observations;
        }
        Ok(shows)
    }
}

fn is_ended(case: &Case) -> bool {
    sent(case).iter().all(|message| message.is_ended)
}

fn is_wanted(case: &Case, observations: &[Observation], expected: Option<&Expected>, wanted: Wanted<'_>) -> bool {
    let all: Vec<_> = observations.iter().collect();
    let trusted: Vec<_> = wanted.others.iter().map(String::as_str).collect();
    let judgement = judge_against(case, &all, wanted.learned, expected, &trusted);
    judgement.verdicts.iter().all(|verdict: &Verdict| {
        if wanted.apart.contains(&verdict.server) {
            verdict.difference().is_some_and(|difference| difference.kind == wanted.kind)
        } else {
            matches!(verdict.stand, Stand::WithTheOthers | Stand::Refuses)
        }
    })
}

/// A piece of a case: octets of a unit, or whole units.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Units(Vec<usize>),
    Octets { unit: usize, from: usize, to: usize },
}

/// Leaves out as many of these pieces as possible: halves, then quarters, and finally single ones.
fn without_needless(case: &Case, pieces: Vec<Piece>, trial: &mut Trial<'_>) -> Result<Case> {
    let mut pieces = pieces;
    let mut left_out: Vec<Piece> = Vec::new();
    let mut smallest = case.clone();
    let mut parts = 1;
    while !pieces.is_empty() && !trial.is_spent {
        let length = pieces.len().div_ceil(parts);
        let mut is_less = false;
        let mut from = 0;
        while from < pieces.len() && !trial.is_spent {
            let to = (from + length).min(pieces.len());
            let tried = [&left_out[..], &pieces[from..to]].concat();
            let candidate = without(case, &tried);
            if trial.shows(&candidate)? {
                left_out = tried;
                pieces.drain(from..to);
                smallest = candidate;
                is_less = true;
            } else {
                from = to;
            }
        }
        if length == 1 && !is_less {
            break;
        }
        parts = if length == 1 { pieces.len().max(1) } else { (parts * 2).min(pieces.len().max(1)) };
    }
    Ok(smallest)
}

fn without(case: &Case, left_out: &[Piece]) -> Case {
    let mut is_left_out: Vec<Vec<bool>> = case
        .units
        .iter()
        .map(|unit| match unit {
            Unit::Send { octets, .. } => vec![false; octets.len()],
            _ => vec![false],
        })
        .collect();
    for piece in left_out {
        match piece {
            Piece::Units(units) => units.iter().for_each(|&unit| is_left_out[unit].fill(true)),
            Piece::Octets { unit, from, to } => is_left_out[*unit][*from..*to].fill(true),
        }
    }
    let mut units = Vec::with_capacity(case.units.len());
    for (unit, is_left_out) in case.units.iter().zip(is_left_out) {
        match unit {
            Unit::Send { part, octets } => {
                let octets: Vec<u8> = octets
                    .iter()
                    .zip(is_left_out)
                    .filter(|(_, is_left_out)| !is_left_out)
                    .map(|(&octet, _)| octet)
                    .collect();
                if !octets.is_empty() {
                    units.push(Unit::Send { part: *part, octets });
                }
            }
            other if !is_left_out[0] => units.push(other.clone()),
            _ => {}
        }
    }
    Case { name: case.name.clone(), units }
}

/// What is sent, together with what is waited for behind it: leaving out only one of them would make it wait in vain.
fn chunks(case: &Case) -> Vec<Piece> {
    let mut chunks: Vec<Vec<usize>> = Vec::new();
    for (index, unit) in case.units.iter().enumerate() {
        match chunks.last_mut() {
            Some(last) if !matches!(unit, Unit::Send { .. }) => last.push(index),
            _ => chunks.push(vec![index]),
        }
    }
    chunks.into_iter().map(Piece::Units).collect()
}

fn pauses(case: &Case) -> Vec<Piece> {
    let pauses = case.units.iter().enumerate().filter(|(_, unit)| matches!(unit, Unit::Pause(_)));
    pauses.map(|(index, _)| Piece::Units(vec![index])).collect()
}

fn header_lines(case: &Case) -> Vec<Piece> {
    lines(case, |part| part == Part::Header)
}

fn other_lines(case: &Case) -> Vec<Piece> {
    lines(case, |part| matches!(part, Part::Body | Part::Tail))
}

fn lines(case: &Case, is_of: fn(Part) -> bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (unit, octets) in sends(case, is_of) {
        let mut from = 0;
        for (at, &octet) in octets.iter().enumerate() {
            if octet == b'\n' || at + 1 == octets.len() {
                pieces.push(Piece::Octets { unit, from, to: at + 1 });
                from = at + 1;
            }
        }
    }
    pieces
}

/// Single octets, except that placeholders and CRLFs stay whole: half a CRLF would be another case.
///
/// What cannot be shorter is not split: of a command only an argument that is more than one name, and of the standard
/// end of data nothing, because a server would wait for the rest.
fn octets(case: &Case) -> Vec<Piece> {
    let mut pieces = Vec::new();
    // The text comes first, because most of what can be left out is there.
    for is_of in [is_text as fn(Part) -> bool, |part| !is_text(part)] {
        for (unit, octets) in sends(case, is_of) {
            let (mut at, mut end) = (0, octets.len());
            if let Unit::Send { part: part @ (Part::Helo | Part::Mail | Part::Rcpt), .. } = &case.units[unit] {
                let verb_ends = |octet: &u8| *octet == if matches!(part, Part::Helo) { b' ' } else { b':' };
                at = octets.iter().position(verb_ends).map_or(end, |at| at + 1);
                end = octets.trim_ascii_end().len().max(at);
                if is_one_name(&octets[at..end]) {
                    continue;
                }
            } else if matches!(&case.units[unit], Unit::Send { part: Part::Data | Part::Quit, .. }) || is_end(octets) {
                continue;
            } else if ends_before_dot(case, unit) && octets.ends_with(b"\r\n") {
                end -= 2;
            }
            while at < end {
                let length = whole(&octets[at..end]);
                pieces.push(Piece::Octets { unit, from: at, to: at + length });
                at += length;
            }
        }
    }
    pieces
}

/// Whether this is exactly the standard end of data.
fn is_end(octets: &[u8]) -> bool {
    matches!(octets, b".\r\n" | b"\r\n.\r\n")
}

fn is_text(part: Part) -> bool {
    matches!(part, Part::Header | Part::Body | Part::End | Part::Tail)
}

/// Whether this is a placeholder or a domain, with or without brackets, or just brackets.
fn is_one_name(argument: &[u8]) -> bool {
    let name = argument.trim_ascii();
    let name = name.strip_prefix(b"<").and_then(|name| name.strip_suffix(b">")).unwrap_or(name);
    name.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_'))
}

/// Whether a dot follows, which ends the data only if a line ends before it.
fn ends_before_dot(case: &Case, unit: usize) -> bool {
    let next = case.units[unit + 1..].iter().find_map(|unit| match unit {
        Unit::Send { octets, .. } => Some(octets),
        _ => None,
    });
    next.is_some_and(|octets| octets.starts_with(b"."))
}

fn whole(octets: &[u8]) -> usize {
    let placeholder = Placeholder::ALL.iter().find(|placeholder| octets.starts_with(placeholder.text().as_bytes()));
    match placeholder {
        Some(placeholder) => placeholder.text().len(),
        None if octets.starts_with(b"\r\n") => 2,
        None => 1,
    }
}

fn sends(case: &Case, is_of: fn(Part) -> bool) -> Vec<(usize, &Vec<u8>)> {
    case.units
        .iter()
        .enumerate()
        .filter_map(|(index, unit)| match unit {
            Unit::Send { part, octets } if is_of(*part) => Some((index, octets)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::compare::stored::{Made, plain};
    use crate::compare::{ExpectedMessage, text::octets_of};

    fn send(part: Part, octets: &[u8]) -> Unit {
        Unit::Send { part, octets: octets.to_vec() }
    }

    fn case(units: Vec<Unit>) -> Case {
        Case { name: "a".into(), units }
    }

    #[test]
    fn what_is_left_out_is_left_out_and_nothing_else() {
        let whole = case(vec![
            send(Part::Mail, b"MAIL FROM:<a>\r\n"),
            Unit::Expect { code: "2".into() },
            send(Part::Body, b"abc"),
        ]);
        let pieces = [Piece::Octets { unit: 0, from: 11, to: 12 }, Piece::Octets { unit: 2, from: 0, to: 3 }];
        let expected = case(vec![send(Part::Mail, b"MAIL FROM:<>\r\n"), Unit::Expect { code: "2".into() }]);
        assert_eq!(without(&whole, &[Piece::Octets { unit: 0, from: 11, to: 12 }]).units.len(), 3);
        assert_eq!(without(&whole, &pieces).units[1..], expected.units[1..]);
        assert_eq!(without(&whole, &[Piece::Units(vec![0, 1])]).units, [send(Part::Body, b"abc")]);
    }

    #[test]
    fn placeholders_and_line_ends_are_left_out_whole_or_not_at_all() {
        let pieces = octets(&case(vec![
            send(Part::Mail, b"MAIL FROM:<__SOURCE__>\r\n"),
            send(Part::Rcpt, b"RCPT TO:<\"__DEST__>\r\n"),
            send(Part::Body, b"\r\n\na\r\n"),
            send(Part::End, b".\r\n"),
        ]));
        let of = |unit, from, to| Piece::Octets { unit, from, to };
        let (text, address) =
            ([of(2, 0, 2), of(2, 2, 3), of(2, 3, 4)], [of(1, 8, 9), of(1, 9, 10), of(1, 10, 18), of(1, 18, 19)]);
        assert_eq!(pieces, [&text[..], &address[..]].concat());
    }

    #[test]
    fn a_case_is_within_another_if_what_is_no_word_is_there_in_one_piece() {
        let large = case(vec![send(Part::Header, b"A: 1\r\n"), send(Part::Body, b"\r\nx\0y\r\n")]);
        assert!(is_within(&case(vec![send(Part::Body, b"\0")]), &large));
        assert!(is_within(&large, &large));
        assert!(!is_within(&case(vec![send(Part::Header, b"\0")]), &large));
        assert!(!is_within(&case(vec![send(Part::Body, b"y\0")]), &large));
        let ends = |octets: &[u8]| {
            case(vec![send(Part::Body, b"\r\nletters"), send(Part::End, octets), send(Part::End, b".\r\n")])
        };
        assert!(is_within(
            &case(vec![send(Part::Body, b"es\n.\n"), send(Part::End, b".\r\n")]),
            &ends(b"\n.\nMAIL\r\n")
        ));
        assert!(!is_within(
            &case(vec![send(Part::Body, b"es\n.\n"), send(Part::End, b".\r\n")]),
            &ends(b"\r\n.\r\r\nMAIL\r\n")
        ));
        assert!(is_same(&ends(b"a"), &case(vec![send(Part::Body, b"\r\nlettersa.\r\n")])));
    }

    const ODD: &str = "A: odd\n\nt0t0t0t0t\n";
    const EVEN: &str = "A: even\n\nt0t0t0t0t\n";

    type Oracle<'a> = &'a dyn Fn(&Case) -> Option<Expected>;

    /// Makes the case smaller with two servers that are odd and two that are not, and checks that no session was held
    /// twice or beyond the bound. Returns what is left of its units.
    fn smallest(
        units: Vec<Unit>,
        sessions: usize,
        oracle: Oracle<'_>,
        is_odd: &dyn Fn(&str, &str) -> bool,
    ) -> Option<(Vec<Unit>, bool)> {
        let makes = |server: &str, octets: &str| if is_odd(server, octets) { ODD } else { EVEN };
        let mut servers = Made { makes: &makes, held: Vec::new() };
        let (apart, others) = (["odd".to_owned(), "odder".into()], ["even".to_owned(), "evener".into()]);
        let learned = plain(&["odd", "odder", "even", "evener"]);
        let wanted = Wanted { kind: Kind::Bytes, apart: &apart, others: &others, learned: &learned, oracle, sessions };
        let (shrunk, held) = shrink(&mut servers, &case(units), wanted).unwrap();
        assert_eq!(held, servers.held.len());
        assert!(held <= sessions);
        for (at, held) in servers.held.iter().enumerate() {
            assert!(!servers.held[..at].contains(held), "{held:?}");
        }
        let shrunk = shrunk?;
        Some((shrunk.case.units, shrunk.is_smallest))
    }

    fn expect() -> Unit {
        Unit::Expect { code: "2".into() }
    }

    fn by_odd(server: &str) -> bool {
        server.starts_with("odd")
    }

    #[test]
    fn a_wait_stays_with_what_it_waits_for_and_a_pause_goes_alone() {
        let pause = Unit::Pause(std::time::Duration::from_secs(1));
        let units = vec![send(Part::Helo, b"EHLO a\r\n"), expect(), send(Part::Body, b"x"), pause, expect()];
        let left = smallest(units.clone(), SESSIONS, &|_| None, &|server, octets| {
            by_odd(server) && octets.contains("EHLO") && octets.contains('x')
        });
        let kept = [&units[..3], &units[4..]].concat();
        assert_eq!(left, Some((kept, true)));
        let left = smallest(units, SESSIONS, &|_| None, &|server, octets| by_odd(server) && octets.contains('x'));
        assert_eq!(left, Some((vec![send(Part::Body, b"x"), expect()], true)));
    }

    #[test]
    fn what_becomes_needless_later_is_left_out_too() {
        let units = vec![send(Part::Helo, b"EHLO a\r\n"), expect(), send(Part::Body, b"bx")];
        // While there is a b, the greeting is needed.
        let left = smallest(units, SESSIONS, &|_| None, &|server, octets| {
            by_odd(server) && octets.contains('x') && (!octets.contains('b') || octets.contains("EHLO"))
        });
        assert_eq!(left, Some((vec![send(Part::Body, b"x")], true)));
    }

    #[test]
    fn all_servers_have_to_stand_where_they_stood() {
        let left = |is_odd: &dyn Fn(&str, &str) -> bool| {
            let (units, _) = smallest(vec![send(Part::Body, b"wxyz")], SESSIONS, &|_| None, is_odd).unwrap();
            String::from_utf8(octets_of(&case(units))).unwrap()
        };
        assert_eq!(left(&|server, octets| by_odd(server) && octets.contains('x')), "x");
        assert_eq!(
            left(&|server, octets| match server {
                "odd" => octets.contains('x'),
                "odder" => octets.contains('x') && octets.contains('y'),
                _ => false,
            }),
            "xy"
        );
        assert_eq!(
            left(&|server, octets| match server {
                "even" => false,
                "evener" => !octets.contains('z'),
                _ => octets.contains('x'),
            }),
            "xz"
        );
    }

    #[test]
    fn the_standard_says_who_is_odd_if_it_says_anything() {
        let oracle = |_: &Case| {
            let message = ExpectedMessage { octets: b"A: odd\r\n\r\n__TOKEN__\r\n".to_vec(), copies: 1 };
            Some(Expected { messages: vec![message], may_refuse: false, at_most: Some(1) })
        };
        let units = || vec![send(Part::Body, b"wx")];
        let is_odd = |server: &str, octets: &str| by_odd(server) && octets.contains('x');
        assert!(smallest(units(), SESSIONS, &|_| None, &is_odd).is_some());
        assert_eq!(smallest(units(), SESSIONS, &oracle, &is_odd), None);
    }

    #[test]
    fn sessions_are_held_as_long_as_there_are_enough_for_all_servers() {
        let units = || vec![send(Part::Body, b"abcdefghx")];
        let left =
            |sessions| smallest(units(), sessions, &|_| None, &|server, octets| by_odd(server) && octets.contains('x'));
        assert_eq!(left(3), None);
        // The case itself, and nothing more.
        assert_eq!(left(4), Some((units(), false)));
        for sessions in 5..SESSIONS {
            let (units, is_smallest) = left(sessions).unwrap();
            assert!(!is_smallest || units == [send(Part::Body, b"x")], "{sessions}");
        }
        assert_eq!(left(SESSIONS), Some((vec![send(Part::Body, b"x")], true)));
    }
}
