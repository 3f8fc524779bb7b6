//! Patterns mean what they mean to Perl's library: hundreds of them, made of all that is spelled otherwise here, are held
//! against pcre2test(1).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use support::{CONFIG, MAILRECV, PEER, Scratch};
use testkit::debian;

/// Patterns that somebody wrote, or could have.
const WRITTEN: &[&str] = &[
    r"^[\w-.]+@",
    r"^[a-z\d-_.]+@mx",
    r"^[[]",
    r"^a{@",
    r"^a{,3}@",
    r"^a{1,3}@",
    r"^\Qa.b\E@",
    r"^\Qa.b",
    r"example\Z",
    r"a\hb",
    r"a\Rb",
    r"\e|\cA|^b",
    r"^(?>a+)b",
    r"\<b",
    r"a\<b",
    r"(?#a note)^a",
    r"(?'name'a)b",
    r"(?P<name>a)b",
    r"(?|a|b)-",
    r"^\x61",
    r"^\x{61}",
    r"^\141",
    r"[\141]{3}",
    r"^\0",
    r"(?i)A",
    r"^a\.b@|^b",
    r"[a-z&&b]",
    r"^[a~~b]{2}",
    r"[+--]",
    r"[]a]",
    r"^[^]a]",
    r"[[:alpha:]-]b",
    r"[[:^alpha:]]{2}",
    r"[a\]]b",
    r"a++b",
    r"a*+b",
    r"(*UTF8)^a",
    r"\Aa|\z",
    r"\Ga",
    r"a\Kb",
    r"[\h]b",
    r"\Hb",
    r"\Nb",
    r"^\N+$",
    r"[\x61-c]{2}",
    r"[a-\x63]{2}",
    r"[\Q[a]\E]b",
    r"\[b",
    r"}@|]@",
];

const PIECES: &[&str] = &[
    "a",
    "b",
    "c",
    "1",
    "-",
    "_",
    ".",
    r"\.",
    r"\-",
    r"\_",
    r"\<",
    r"\>",
    "{",
    "}",
    "]",
    "{2}",
    "{1,}",
    "{,2}",
    "{0,1}",
    "{x}",
    "*",
    "+",
    "?",
    "*?",
    "++",
    "(",
    "(?:",
    ")",
    "|",
    "^",
    "@",
    "[ab]",
    "[^ab]",
    r"[\w-.]",
    r"[\d-a]",
    "[a-c-]",
    "[-a]",
    "[a-c-e]",
    "[[]",
    "[[a]",
    "[]a]",
    "[^]a]",
    r"[\]a]",
    "[{}]",
    "[a&&b]",
    "[a~~b]",
    "[--a]",
    "[+--]",
    "[[:alnum:]-_]",
    r"\w",
    r"\W",
    r"\d",
    r"\D",
    r"\s",
    r"\S",
    r"\b",
    r"\B",
    r"\h",
    r"\H",
    r"\v",
    r"\V",
    r"\R",
    r"\N",
    r"\e",
    r"\cA",
    r"\Q.a\E",
    r"\Q[\E",
    r"\E",
    r"\x61",
    r"\x6",
    r"\x{62}",
    r"\0",
    r"\060",
    r"[\x61-\x63]",
    r"[\b]",
    r"[\e]",
    r"[\h-]",
    r"(?#x)",
    "(?|",
    "(?i)",
    "[.]",
    "[=]",
    "[^-]",
];

/// Local parts that tell them apart; some only in quotes.
const LOCAL_PARTS: &[&str] = &[
    "a",
    "b",
    "ab",
    "aab",
    "abc",
    "a.b",
    "a-b",
    "a_b",
    "a{",
    "\"a{,2}\"",
    "a{x}",
    "b}",
    "1a",
    "a&b",
    "a~b",
    "c1-",
    "-a",
    "=a",
    "a+b",
    "\"a b\"",
    "\"a<b\"",
    "\"a[b\"",
    "\"a]b\"",
    "\"<\"",
    "\"[a]\"",
];

#[test]
fn patterns_mean_what_they_mean_to_perl() {
    let patterns: Vec<String> = WRITTEN.iter().map(|pattern| (*pattern).to_owned()).chain(made_up(600)).collect();
    let texts: Vec<String> =
        LOCAL_PARTS.iter().map(|local_part| format!("{}@mx.example", local_part.trim_matches('"'))).collect();
    let perl = matches_of_perl(&patterns, &texts);
    assert!(perl.values().flatten().count() > 200, "too many patterns are none");

    // What compiles there compiles here.
    let scratch = Scratch::new();
    let write = |patterns: &[&String]| {
        let mut config = "domain mx.example\nlimit.fcrdns_check off\ndeliver rcpt_to * discard\n".to_owned();
        patterns.iter().for_each(|pattern| writeln!(config, "copy rcpt_to \"/{pattern}/\" discard").unwrap());
        scratch.write(CONFIG, config);
    };
    let sound: Vec<&String> = patterns.iter().filter(|pattern| perl[*pattern].is_some()).collect();
    write(&sound);
    let check = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    let said = String::from_utf8(check.stderr).unwrap();
    let errors: Vec<&str> = said.split("\nmailrecv.conf").filter(|finding| finding.contains(" error: ")).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));

    // And finds the same.
    let mut differences = String::new();
    for (local_part, text) in LOCAL_PARTS.iter().zip(&texts) {
        let rcpt = format!("--rcpt={local_part}@mx.example");
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "explain", "--peer", PEER, &rcpt]);
        let explained = String::from_utf8(output.stdout).unwrap();
        let found: BTreeSet<usize> = explained
            .lines()
            .filter(|line| line.contains(": copy rcpt_to: ") && line.contains("' matches '"))
            .map(|line| line.trim_start_matches("  line ").split(':').next().unwrap().parse::<usize>().unwrap() - 4)
            .collect();
        let asked = explained.lines().filter(|line| line.contains(": copy rcpt_to: ")).count();
        assert_eq!(asked, sound.len(), "{explained}");
        for (number, pattern) in sound.iter().enumerate() {
            let expected = perl[*pattern].as_ref().unwrap().contains(text);
            if found.contains(&number) != expected {
                writeln!(differences, "{pattern} in {text}: {expected} for Perl").unwrap();
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// Patterns of random pieces, the same each time.
fn made_up(count: usize) -> impl Iterator<Item = String> {
    let mut state = 7_u64;
    let mut below = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let patterns = (0..count).map(move |_| (0..=below(5)).map(|_| PIECES[below(PIECES.len())]).collect::<String>());
    // What gives nothing back can find less than the same pattern here.
    patterns.filter(|pattern| !["*+", "++", "?+", "}+"].iter().any(|possessive| pattern.contains(possessive)))
}

/// Of each pattern the texts that it is found in, letter case aside; `None` if it is none.
fn matches_of_perl(patterns: &[String], texts: &[String]) -> BTreeMap<String, Option<BTreeSet<String>>> {
    let scratch = Scratch::new();
    let mut input = String::new();
    for pattern in patterns {
        assert!(
            !pattern.contains(['!', '\'', '"', '#']) || pattern.contains("(?#") || pattern.contains("(?'"),
            "{pattern}"
        );
        writeln!(input, "!{pattern}!i").unwrap();
        texts.iter().for_each(|text| writeln!(input, "    {}", text.replace('\\', "\\\\")).unwrap());
        input.push('\n');
    }
    scratch.write("in", input);
    let program = debian::program("pcre2-utils", "pcre2test");
    let output = scratch.run(program.to_str().unwrap(), &["-q", "in", "out"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&std::fs::read(scratch.path("out")).unwrap()).into_owned();
    let mut lines = said.lines().peekable();
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let begins = format!("!{pattern}!i");
        assert!(lines.any(|line| line == begins), "{begins} is missing");
        if lines.peek().is_some_and(|line| line.starts_with("Failed: ")) {
            found.insert(pattern.clone(), None);
            continue;
        }
        let mut matching = BTreeSet::new();
        for text in texts {
            assert!(lines.any(|line| line == format!("    {text}")), "{text} for {pattern} is missing");
            if lines.peek().is_some_and(|line| line.starts_with(" 0: ")) {
                matching.insert(text.clone());
            }
        }
        found.insert(pattern.clone(), Some(matching));
    }
    found
}
