//! Combinations of alternatives for the parts of a mail: every alternative of a part with every one of each other part,
//! in few cases.

use std::collections::BTreeSet;

use super::draft::{Draft, Tail};
use super::end_of_data::VARIANTS;
use crate::case::Case;

/// Cases in which every two alternatives of different parts occur together.
pub(super) fn cases() -> Vec<Case> {
    let parts = parts();
    let levels: Vec<usize> = parts.iter().map(Vec::len).collect();
    let case = |(number, row): (usize, Vec<usize>)| {
        // The last part determines what is behind the end, and needs the end to be there already.
        let draft = parts.iter().zip(&row).fold(Draft::new(), |draft, (part, level)| part[*level](draft));
        draft.case(format!("pairs/{number:03}"))
    };
    (1..).zip(pairwise(&levels)).map(case).collect()
}

type Alternative = Box<dyn Fn(Draft) -> Draft>;

/// The alternatives of each part. They change different things, so that none undoes another.
fn parts() -> Vec<Vec<Alternative>> {
    let hello = ["EHLO client.example", "HELO client.example", "ehlo client.example", "EHLO [127.0.0.1]"];
    let mail = ["<__SOURCE__>", "<>", "<__SOURCE__> BODY=8BITMIME", "<__SOURCE__> SIZE=500", " <__SOURCE__>"];
    let recipients: [&[&[u8]]; 4] = [
        &[b"RCPT TO:<__DEST__>\r\n"],
        &[b"RCPT TO:<__DEST__>\r\n", b"RCPT TO:<__DEST2__>\r\n"],
        &[b"RCPT TO:<\"__USER__\"@__HOST__>\r\n"],
        &[b"rcpt to:<__DEST__>\r\n"],
    ];
    let long = [b"X-Long: ", &[b'x'; 1200][..], b"\r\n"].concat();
    let lines: [&[u8]; 12] = [
        b"",
        b"X-Value: one\r\n two\r\n",
        b"X-Value: one\0two\r\n",
        b"X-Value: one\rX-Inner: two\r\n",
        b"X-Value: one\nX-Inner: two\r\n",
        b"X-Value: caf\xe9\r\n",
        &long,
        b"no field\r\n",
        b"X-Value : one\r\n",
        b"From: second@other.example\r\n",
        b"Return-Path: <second@other.example>\r\n",
        b"Bcc: hidden@server.example\r\n",
    ];
    let texts: [&[u8]; 10] = [
        b"\r\nThe text of __TOKEN__",
        b"\nThe text of __TOKEN__",
        b"The text of __TOKEN__",
        b"\r\n__TOKEN__ one\0two",
        b"\r\n__TOKEN__ one\rtwo",
        b"\r\n__TOKEN__ one\ntwo",
        b"\r\n__TOKEN__ caf\xe9",
        b"\r\n__TOKEN__\r\n..\r\n..x\r\n.x",
        b"\r\nFrom __TOKEN__\r\nFrom x",
        b"\r\n\r\n\r\n__TOKEN__\r\n\r\n",
    ];
    let ends = [("", &b"\r\n.\r\n"[..])].into_iter().chain(VARIANTS.iter().copied());
    vec![
        hello
            .map(|line| -> Alternative { Box::new(move |draft| draft.hello(format!("{line}\r\n").as_bytes())) })
            .into(),
        mail.map(|argument| -> Alternative {
            Box::new(move |draft| draft.mail(format!("MAIL FROM:{argument}\r\n").as_bytes()))
        })
        .into(),
        recipients.map(|lines| -> Alternative { Box::new(move |draft| draft.recipients(lines)) }).into(),
        lines
            .map(|line| -> Alternative {
                let line = line.to_vec();
                Box::new(move |draft| if line.is_empty() { draft } else { draft.line(&line) })
            })
            .into(),
        texts.map(|text| -> Alternative { Box::new(move |draft| draft.body(text.to_vec())) }).into(),
        ends.map(|(_, end)| -> Alternative { Box::new(move |draft| draft.end(end)) }).collect(),
        vec![
            Box::new(|draft| draft.tail(Tail::Blob)),
            Box::new(|draft| draft.tail(Tail::Paced)),
            // The text is ended in any case.
            Box::new(|draft| {
                let end = [draft.end_octets(), b"behind\r\n.\r\n"].concat();
                if draft.end_octets() == b"\r\n.\r\n" { draft } else { draft.end(&end) }
            }),
        ],
    ]
}

/// Rows with a level for each factor, so that every two levels of different factors occur together in some row.
/// `levels` has the number of levels of each factor.
fn pairwise(levels: &[usize]) -> Vec<Vec<usize>> {
    let mut uncovered = all_pairs(levels);
    let mut rows = Vec::new();
    while let Some(&((first, first_level), (second, second_level))) = uncovered.first() {
        let mut row: Vec<Option<usize>> = vec![None; levels.len()];
        row[first] = Some(first_level);
        row[second] = Some(second_level);
        for factor in 0..levels.len() {
            if row[factor].is_none() {
                // The level that covers most new combinations with those that are set; if several are equal, they take
                // turns.
                let turn = rows.len();
                let gain = |level: &usize| {
                    let set = row.iter().enumerate().filter_map(|(other, set)| Some((other, (*set)?)));
                    set.filter(|other| uncovered.contains(&ordered(*other, (factor, *level)))).count()
                };
                let candidates = (0..levels[factor]).map(|level| (level + turn) % levels[factor]);
                row[factor] = candidates.max_by_key(gain);
            }
        }
        let row: Vec<usize> = row.into_iter().map(Option::unwrap_or_default).collect();
        for pair in pairs_of(&row) {
            uncovered.remove(&pair);
        }
        rows.push(row);
    }
    rows
}

/// A factor and one of its levels.
type Level = (usize, usize);

fn ordered(one: Level, other: Level) -> (Level, Level) {
    if one.0 < other.0 { (one, other) } else { (other, one) }
}

fn all_pairs(levels: &[usize]) -> BTreeSet<(Level, Level)> {
    let each: Vec<Level> =
        levels.iter().enumerate().flat_map(|(factor, number)| (0..*number).map(move |level| (factor, level))).collect();
    let behind = |one: Level| each.iter().filter(move |other| other.0 > one.0).map(move |other| (one, *other));
    each.iter().flat_map(|one| behind(*one)).collect()
}

fn pairs_of(row: &[usize]) -> Vec<(Level, Level)> {
    let levels: Vec<Level> = row.iter().copied().enumerate().collect();
    levels.iter().enumerate().flat_map(|(at, one)| levels[at + 1..].iter().map(|other| (*one, *other))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(levels: &[usize]) -> usize {
        let rows = pairwise(levels);
        let covered: BTreeSet<_> = rows.iter().flat_map(|row| pairs_of(row)).collect();
        for (number, row) in rows.iter().enumerate() {
            assert!(row.iter().zip(levels).all(|(level, number)| level < number), "row {number}: {row:?}");
        }
        assert_eq!(all_pairs(levels).difference(&covered).collect::<Vec<_>>(), Vec::<&(Level, Level)>::new());
        rows.len()
    }

    #[test]
    fn every_pair_of_alternatives_comes_together() {
        let levels: Vec<usize> = parts().iter().map(Vec::len).collect();
        let rows = check(&levels);
        assert_eq!(rows, cases().len());
        let mut largest = levels.clone();
        largest.sort_unstable();
        // The two parts with most alternatives need at least this many rows.
        let least = largest[largest.len() - 1] * largest[largest.len() - 2];
        assert!(rows < least * 3 / 2, "{rows} rows, {least} are needed");
    }

    #[test]
    fn what_an_alternative_sets_is_in_the_case() {
        let (parts, cases) = (parts(), cases());
        let levels: Vec<usize> = parts.iter().map(Vec::len).collect();
        for (row, case) in pairwise(&levels).iter().zip(&cases) {
            for (part, level) in row.iter().enumerate().take(6) {
                let alone = parts[part][*level](Draft::new()).case("alone");
                let plain = Draft::new().case("plain");
                let added = alone.units.iter().filter(|unit| !plain.units.contains(unit));
                for unit in added {
                    let crate::case::Unit::Send { part, octets } = unit else { continue };
                    let is_there = case.units.iter().any(|unit| {
                        matches!(unit, crate::case::Unit::Send { part: p, octets: o } if p == part && o.starts_with(octets))
                    });
                    assert!(is_there, "{}: {}", case.name, crate::case::escaped::escape(octets));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_pair_of_levels_comes_together(levels in proptest::collection::vec(1_usize..7, 2..7)) {
            check(&levels);
        }
    }
}
