use std::collections::HashSet;
use std::sync::OnceLock;

use super::*;
use crate::case::{Part, Placeholder, Unit, escaped};
use crate::oracle::{self, Reason};
use crate::payload::{self, Assignments};

fn all() -> &'static [Case] {
    static ALL: OnceLock<Vec<Case>> = OnceLock::new();
    ALL.get_or_init(|| Set::All.cases(Options::default()))
}

fn sent(case: &Case) -> Vec<u8> {
    let octets = case.units.iter().map(|unit| match unit {
        Unit::Send { octets, .. } => octets.as_slice(),
        _ => b"",
    });
    octets.collect::<Vec<_>>().concat()
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

fn named(name: &str) -> Case {
    let mut found = select(&[name.to_owned()], Options::default()).unwrap();
    assert_eq!(found.len(), 1, "{name}");
    found.remove(0)
}

#[test]
fn every_case_has_a_name_of_its_own_that_can_be_typed() {
    let mut names = HashSet::new();
    for case in all() {
        assert!(names.insert(case.name.clone()), "{} twice", case.name);
        let is_easy = case.name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"/.-".contains(&octet));
        assert!(is_easy, "{}", case.name);
        assert!(case.name.len() <= 60, "{}", case.name);
    }
}

#[test]
fn every_case_differs_from_every_other() {
    let mut units = std::collections::HashMap::new();
    for case in all() {
        if let Some(other) = units.insert(case.units.clone(), case.name.clone()) {
            panic!("{other} and {} are the same", case.name);
        }
    }
}

#[test]
fn a_set_has_its_cases_under_its_name() {
    for set in Set::EVERY {
        let cases = set.cases(Options::default());
        assert!(cases.len() >= 10, "{set}: {}", cases.len());
        assert_eq!(set.name().parse(), Ok(set));
        if !matches!(set, Set::Short | Set::All) {
            assert!(cases.iter().all(|case| case.name.starts_with(&format!("{set}/"))), "{set}");
        }
        assert_eq!(cases, set.cases(Options::default()), "{set} is the same each time");
    }
    assert!("nothing".parse::<Set>().unwrap_err().contains("end-of-data"));
}

#[test]
fn the_end_of_data_has_nineteen_forms_in_four_manners() {
    assert_eq!(Set::EndOfData.cases(Options::default()).len(), 19 * 4);
    let blob = named("end-of-data/LF.LF/blob/crlf-header");
    let texts: Vec<_> = blob.units.iter().filter(|unit| matches!(unit, Unit::Pause(_))).collect();
    assert_eq!(texts.len(), 0);
    let paced = named("end-of-data/LF.LF/paced/lf-header");
    let end = paced.units.iter().position(|unit| matches!(unit, Unit::Send { part: Part::End, .. })).unwrap();
    assert_eq!(paced.units[end], Unit::Send { part: Part::End, octets: b"\n.\n".to_vec() });
    assert!(matches!(paced.units[end + 1], Unit::Pause(_)));
    let header = paced.units.iter().filter_map(|unit| match unit {
        Unit::Send { part: Part::Header, octets } => Some(octets),
        _ => None,
    });
    assert!(header.clone().count() == 5 && header.clone().all(|line| !line.contains(&b'\r')));
}

#[test]
fn the_short_set_is_short() {
    let cases = Set::Short.cases(Options::default());
    assert!((50..=70).contains(&cases.len()), "{}", cases.len());
    for name in
        ["end-of-data/LF.CRLF/paced/crlf-header", "octets/NUL/body", "octets/CR/header-value", "duplicates/From"]
    {
        assert!(cases.iter().any(|case| case.name == name), "{name}");
    }
}

#[test]
fn every_message_has_its_token_in_its_subject_and_in_its_text() {
    let token = Placeholder::Token.text().as_bytes();
    for case in all() {
        if case.name.starts_with("mutations/") {
            assert!(contains(&sent(case), token), "{}", case.name);
            continue;
        }
        for message in oracle::expected(case).messages {
            let octets = &message.octets;
            // These are about messages without a text or header.
            let without = [
                "lines/no-body",
                "lines/empty",
                "lines/only-blank",
                "lines/first/",
                "bdat/one/empty",
                "bdat/never-last",
            ];
            if without.iter().any(|name| case.name.starts_with(name)) {
                continue;
            }
            let place = octets.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_default();
            let (_, text) = octets.split_at(place);
            assert!(contains(text, token), "{}: {}", case.name, escaped::escape(octets));
            let is_headless = [
                "header/shape/none",
                "header/shape/only",
                "bdat/one/no-header",
                "bdat/one/leading-dot",
                "controls/no-Subject",
            ]
            .iter()
            .any(|name| case.name.starts_with(name));
            let has_subject =
                octets.to_ascii_lowercase().split(|octet| *octet == b'\n').any(|line| line.starts_with(b"subject:"));
            assert!(is_headless || has_subject, "{}", case.name);
        }
    }
}

#[test]
fn clean_mails_are_clean() {
    for case in controls() {
        let expected = oracle::expected(&case);
        assert!(expected.is_definite(), "{}: {expected}", case.name);
        assert_eq!(expected.messages.len(), 1, "{}", case.name);
    }
    for field in ["Date", "Message-ID", "From", "To"] {
        let octets = sent(&named(&format!("controls/no-{field}")));
        assert!(!contains(&octets, format!("\r\n{field}: ").as_bytes()), "{field}");
        assert!(contains(&sent(&named("controls/clean/plain")), format!("\r\n{field}: ").as_bytes()), "{field}");
    }
}

#[test]
fn what_is_expected_of_a_case_is_what_it_is_about() {
    let expected = |name: &str| oracle::expected(&named(name));
    for case in Set::EndOfData.cases(Options::default()) {
        let expected = oracle::expected(&case);
        let has_an_end = case.name.contains("/CRCRLF.CRLF/");
        assert_eq!(expected.messages.len(), if has_an_end { 2 } else { 1 }, "{}: {expected}", case.name);
        if !has_an_end {
            assert_eq!(expected.at_most, Some(1), "{}", case.name);
        }
    }
    for case in Set::Duplicates.cases(Options::default()) {
        assert!(oracle::expected(&case).is_definite(), "{}", case.name);
    }
    for case in Set::Header.cases(Options::default()) {
        let expected = oracle::expected(&case);
        let only_line_ends = expected.open.iter().all(|open| matches!(open.reason, Reason::BareLf | Reason::BareCr));
        assert!(only_line_ends && expected.messages.len() == 1, "{}: {expected}", case.name);
    }
    for definite in
        ["lines/body/998", "lines/dot-at/512", "lines/dots/one-and-text", "lines/noop/512", "addresses/mail/null"]
    {
        assert!(expected(definite).is_definite(), "{definite}: {}", expected(definite));
    }
    for (name, reason) in [
        ("lines/body/999", Reason::LongLine),
        ("lines/header/70000", Reason::LongLine),
        ("lines/noop/513", Reason::LongCommand),
        ("octets/NUL/body", Reason::ControlCharacter),
        ("octets/CR/rcpt-local", Reason::CommandLine),
        ("octets/latin1/unannounced/body", Reason::EightBit),
        ("addresses/mail/no-brackets", Reason::Syntax),
        ("addresses/rcpt/unknown", Reason::Recipient),
        ("pipelining/group", Reason::Extension(oracle::Extension::Pipelining)),
        ("pipelining/everything", Reason::BeforeReply),
        ("pipelining/order/mail-first", Reason::NoHello),
        ("bdat/two", Reason::Extension(oracle::Extension::Chunking)),
    ] {
        assert!(expected(name).leaves_open(reason), "{name}: {}", expected(name));
    }
    assert_eq!(
        expected("lines/dots/one-and-text").messages[0].octets.windows(3).filter(|window| window == b"\nx\r").count(),
        1
    );
    // The announced size is that of the chunk, so that the session continues behind it.
    for case in Set::Bdat.cases(Options::default()) {
        if case.name.starts_with("bdat/one/") {
            let expected = oracle::expected(&case);
            assert_eq!(expected.messages.len(), 1, "{}: {expected}", case.name);
            let filled = [Placeholder::Source, Placeholder::Destination, Placeholder::User, Placeholder::Host];
            for placeholder in filled {
                let octets = &expected.messages[0].octets;
                assert!(!contains(octets, placeholder.text().as_bytes()), "{}: a length that nobody knows", case.name);
            }
        }
    }
}

/// A reply that comes in a pause would be waited for in vain.
#[test]
fn nothing_is_waited_for_behind_a_pause() {
    for case in all().iter().filter(|case| !case.name.starts_with("mutations/")) {
        let waits = case.units.windows(2).any(|pair| matches!(pair, [Unit::Pause(_), Unit::Expect { .. }]));
        assert!(!waits, "{}", case.name);
    }
}

#[test]
fn every_case_can_be_written_and_read() {
    for case in all() {
        let text = payload::write(case);
        assert_eq!(
            payload::read("x", text.as_bytes(), &Assignments::new()).unwrap().as_slice(),
            std::slice::from_ref(case)
        );
    }
}

#[test]
fn cases_are_selected_by_set_name_and_beginning() {
    let names = |words: &[&str]| -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        select(&words, Options::default()).unwrap().into_iter().map(|case| case.name).collect()
    };
    assert_eq!(names(&["end-of-data/LF.LF"]).len(), 4);
    assert_eq!(names(&["end-of-data/LF.LF/", "end-of-data/LF.LF/blob"]).len(), 4);
    assert_eq!(names(&["duplicates/From/first", "octets/CR/body"]), ["duplicates/From/first", "octets/CR/body"]);
    assert_eq!(names(&["mutations/77/123"]), ["mutations/77/00123"]);
    assert_eq!(
        names(&["short", "all"])[..2],
        names(&["end-of-data"])[..1]
            .iter()
            .cloned()
            .chain(["end-of-data/LF.LF/paced/crlf-header".to_owned()])
            .collect::<Vec<_>>()[..]
    );
    let said = select(&["end-of-data/L".to_owned()], Options::default()).unwrap_err();
    assert!(said.contains("`end-of-data/L` names no case"), "{said}");
}

#[test]
fn the_manual_has_every_set() {
    let manual = include_str!("../../docs/payloads.md");
    for set in Set::EVERY {
        let row = format!("| `{set}` | {} |\n", set.about());
        assert!(manual.contains(&row), "{row}");
    }
}
