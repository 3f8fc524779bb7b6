//! From observations to a report, as JSON and as a grid: servers here are made up.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod scripted;

use std::collections::BTreeSet;

use scripted::{Fault, Scripted, Server, case, closing, example, opening, ten_sound_servers};
use smtp_garden::case::{Case, Part, Unit};
use smtp_garden::compare::{Expected, ExpectedMessage, Kind, Stand, text};
use smtp_garden::examine::{Bounds, examine, gather};
use smtp_garden::report::{FORMAT, OTHER_LETTERS, Report, grid, letter};

/// What is typed to hold a case again.
const AGAIN: &str = "smtp-garden run --report 'a report'";

fn report_of(mut servers: Scripted, cases: &[Case], oracle: &dyn Fn(&Case) -> Option<Expected>) -> Report {
    let gathered = gather(&mut servers, cases).unwrap();
    examine(&mut servers, gathered, oracle, Bounds::default(), &mut |_| {}).unwrap()
}

#[test]
fn a_finding_is_told_once_with_the_smallest_case_and_where_else_it_was_seen() {
    let report = example();
    let told: Vec<_> =
        report.findings.iter().map(|finding| (finding.server.as_str(), finding.kind, finding.found_in.len())).collect();
    assert_eq!(
        told,
        [
            ("ends", Kind::More, 1),
            ("ends", Kind::Cut, 1),
            ("joins", Kind::HeaderLost, 1),
            ("dots", Kind::Bytes, 4),
            ("nul", Kind::Bytes, 2),
        ]
    );
    for finding in &report.findings {
        assert!(finding.is_smallest, "{finding:?}");
        let entry = report.case(&finding.case).unwrap();
        assert_eq!(entry.of.as_ref(), Some(&finding.found_in[0]));
        // Whoever reads of the smallest case sees all servers with it.
        assert_eq!(entry.observations.len(), report.servers.iter().filter(|server| server.absent.is_none()).count());
        assert_eq!(entry.judgement.verdict(&finding.server).unwrap().difference().unwrap().kind, finding.kind);
    }
    assert!(report.numbers.apart_unscreened > 5 * report.numbers.apart, "{:?}", report.numbers);
    // The one that drops lines only at times is told of, and is no finding.
    let numbers = report.numbers;
    assert_eq!((numbers.findings, numbers.apart - numbers.steady), (report.findings.len(), report.unsteady.len()));
    let unsteady: Vec<_> = report.unsteady.iter().map(|unsteady| unsteady.server.as_str()).collect();
    assert_eq!(unsteady, ["at-times"]);
}

#[test]
fn json_is_read_back_as_it_was_written_and_another_layout_is_refused() {
    let report = example();
    let json = report.to_json().unwrap();
    assert_eq!(Report::from_json(&json).unwrap(), report);
    let other = json.replacen("\"format\": 1", "\"format\": 999", 1);
    assert_eq!(
        Report::from_json(&other).unwrap_err().to_string(),
        "the report has layout 999, and this program reads layout 1"
    );
    assert_eq!(Report::from_json("{}").unwrap_err().to_string(), "this is no report");
}

#[test]
fn the_grid_has_a_letter_for_each_case_and_server_and_is_the_same_without_colours() {
    let report = example();
    let plain = grid(&report, AGAIN, false);
    assert!(plain.is_ascii() && !plain.contains('\x1b'));
    let coloured = grid(&report, AGAIN, true);
    let mut stripped = coloured.clone();
    while let Some(at) = stripped.find("\x1b[") {
        let end = stripped[at..].find('m').unwrap();
        stripped.replace_range(at..=at + end, "");
    }
    assert_eq!(stripped, plain);
    for entry in report.cases.iter().filter(|entry| entry.of.is_none()) {
        let letters: Vec<_> =
            entry.judgement.verdicts.iter().map(|verdict| letter(&verdict.stand).to_string()).collect();
        assert_eq!(letters.len(), report.servers.iter().filter(|server| server.absent.is_none()).count());
        let line = plain.lines().find(|line| line.split_whitespace().next() == Some(&entry.case.name)).unwrap();
        assert!(line.ends_with(&format!(" {}", letters.join(" "))), "{line}");
    }
    assert!(plain.contains(&format!("\n    {AGAIN} --case ")));
}

/// CR CRLF `.` CRLF has CRLF `.` CRLF in it: two messages are right, and most servers have no say in it.
#[test]
fn what_the_standard_says_is_right_even_where_most_do_otherwise() {
    let mut units = opening();
    units.push(Unit::Send { part: Part::Header, octets: b"Subject: __TOKEN__\r\n".to_vec() });
    units.push(Unit::Send { part: Part::Body, octets: b"\r\n__TOKEN__".to_vec() });
    units.push(Unit::Send { part: Part::End, octets: b"\r\r\n.\r\n".to_vec() });
    units.push(Unit::Expect { code: String::new() });
    let tail =
        b"MAIL FROM:<second@elsewhere.example>\r\nRCPT TO:<__DEST__>\r\nDATA\r\nSubject: second __TOKEN__\r\n\r\nx\r\n";
    units.push(Unit::Send { part: Part::Tail, octets: tail.to_vec() });
    units.extend(closing());
    let two = Case { name: "two".into(), units };
    let oracle = |case: &Case| {
        let messages: Vec<ExpectedMessage> = text::sent(case)
            .into_iter()
            .map(|message| ExpectedMessage { octets: message.octets, copies: message.recipients })
            .collect();
        let at_most = Some(messages.iter().map(|message| message.copies).sum());
        Some(Expected { messages, may_refuse: true, at_most })
    };
    let report = report_of(Scripted::new(ten_sound_servers()), std::slice::from_ref(&two), &oracle);
    assert_eq!(report.case("two").unwrap().expected.as_ref().unwrap().messages.len(), 2);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);

    // Most end the data at LF `.` LF, and the standard has it otherwise; one refuses, which it may.
    let smuggling = scripted::smuggling("end/LF.LF", b"\n.\n");
    let mut servers: Vec<_> =
        ["a", "b", "c"].into_iter().map(|name| Server::faulty(name, Fault::EndsAtLfDotLf)).collect();
    servers.push(Server::sound("sound", scripted::Habits::default()));
    servers.push(Server::faulty("strict", Fault::RefusesLf));
    let report = report_of(Scripted::new(servers), &[smuggling], &oracle);
    let judgement = &report.cases[0].judgement;
    let letters: String = judgement.verdicts.iter().map(|verdict| letter(&verdict.stand)).collect();
    assert_eq!(letters, "MMM.-");
    assert_eq!(judgement.verdict("strict").unwrap().stand, Stand::Refuses);
    assert_eq!(judgement.clusters[0].servers, ["sound"]);
}

#[test]
fn public_findings_get_their_names_and_others_none() {
    let end = scripted::smuggling("end/LF.LF", b"\n.\n");
    let mut servers = ten_sound_servers();
    servers.push(Server::faulty("postfix", Fault::EndsAtLfDotLf));
    servers.push(Server::faulty("postfix/relay", Fault::EndsAtLfDotLf));
    servers.push(Server::faulty("postfixed", Fault::EndsAtLfDotLf));
    servers.push(Server::faulty("msmtpd", Fault::DropsNulLines));
    let nul = case("nul", b"Subject: __TOKEN__\r\n", b"__TOKEN__\r\na \0 b\r\nlast\r\n");
    let report = report_of(Scripted::new(servers), &[end, nul], &|_| None);
    let names: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.server.as_str(), finding.public.first().map(|public| public.name.as_str())))
        .collect();
    assert_eq!(
        names,
        [
            ("postfix", Some("CVE-2023-51764")),
            ("postfix/relay", Some("CVE-2023-51764")),
            ("postfixed", None),
            ("msmtpd", Some("marlam/msmtp#199")),
        ]
    );
}

/// Names of fields, at any depth; those of lists by name (headers, placeholders) are no fields.
fn fields(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                found.insert(name.clone());
                if !["changes", "filled"].contains(&name.as_str()) {
                    fields(value, found);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_every_kind_and_every_letter_is_documented() {
    let manual = include_str!("../docs/report.md");
    let mut found = BTreeSet::new();
    fields(&serde_json::from_str(&example().to_json().unwrap()).unwrap(), &mut found);
    assert!(found.len() > 50, "{found:?}");
    let missing: Vec<_> = found
        .iter()
        .filter(|name| !manual.contains(&format!("`{name}`")) && !manual.contains(&format!("\"{name}\": ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    for kind in Kind::ALL {
        let (name, class) = (serde_json::to_value(kind).unwrap(), kind.class().name());
        assert!(manual.contains(&format!("`{}`", name.as_str().unwrap())), "{name}");
        let line = format!("| `{}` | {} | `{class}` |", kind.letter(), kind.meaning());
        assert!(manual.contains(&line), "{line}");
    }
    for (letter, _) in OTHER_LETTERS.into_iter().filter(|(letter, _)| *letter != ' ') {
        assert!(manual.contains(&format!("| `{letter}` |")), "{letter}");
    }
    let letters: BTreeSet<_> =
        Kind::ALL.into_iter().map(Kind::letter).chain(OTHER_LETTERS.map(|(letter, _)| letter)).collect();
    assert_eq!(letters.len(), Kind::ALL.len() + OTHER_LETTERS.len(), "each letter means one thing");
    assert!(manual.contains(&format!("| `format` | {FORMAT} |")));
}

/// What is found of these faulty servers beside sound ones in these cases: the server, the kind, and the smallest case.
fn found(faulty: Vec<Server>, cases: &[Case]) -> Vec<(String, Kind, String)> {
    let mut servers = ten_sound_servers();
    servers.extend(faulty);
    let report = report_of(Scripted::new(servers), cases, &|_| None);
    let findings = report.findings.into_iter().map(|finding| (finding.server, finding.kind, finding.case));
    findings.collect()
}

const SUBJECT: &[u8] = b"Subject: __TOKEN__\r\n";

#[test]
fn a_finding_is_known_by_its_server_its_kind_and_its_octets() {
    let nul = case("nul", SUBJECT, b"__TOKEN__\r\na \0 b\r\nlast\r\n");
    let word = case("word", SUBJECT, b"__TOKEN__\r\nan odd word\r\nlast\r\n");
    let tampers: &[(&[u8], &[u8])] = &[(b"odd", b"even")];
    // The same kind, of the same server, for two reasons.
    let server = Server { tampers, ..Server::faulty("faulty", Fault::DropsNulLines) };
    let two = found(vec![server], &[nul, word.clone()]);
    let of: Vec<_> = two.iter().map(|(server, kind, _)| (server.as_str(), *kind)).collect();
    assert_eq!(of, [("faulty", Kind::Bytes), ("faulty", Kind::Bytes)]);
    assert_ne!(two[0].2, two[1].2);
    // Two kinds, one of which is within the case of the other.
    let server = Server { tampers, ..Server::faulty("faulty", Fault::RefusesNul) };
    let both = case("both", SUBJECT, b"__TOKEN__\r\nan odd word\r\na \0 b\r\nlast\r\n");
    let kinds: Vec<_> = found(vec![server], &[both, word]).into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [Kind::Refuses, Kind::Bytes]);
    // Two servers with the same smallest case: it is there once.
    let faulty = |name, tampers| Server { name, tampers, ..Server::default() };
    let faulty =
        vec![faulty("other", &[(b"odd\r\n", b"even\r\n")]), faulty("more", &[(b"odd\r\n", b"odd\r\nX: 1\r\n")])];
    let case = case("odd", b"Subject: __TOKEN__\r\nX-First: odd\r\n", b"__TOKEN__\r\nlast\r\n");
    let two = found(faulty, &[case]);
    let of: Vec<_> = two.iter().map(|(server, kind, _)| (server.as_str(), *kind)).collect();
    assert_eq!(of, [("more", Kind::HeaderInjected), ("other", Kind::Bytes)]);
    assert_eq!(two[0].2, two[1].2);
}

#[test]
fn a_smallest_case_is_told_of_those_alone_that_show_the_same_in_it() {
    // They differ for different reasons, and the case is made smaller for the first two.
    let faulty = vec![
        Server::faulty("nul-one", Fault::DropsNulLines),
        Server::faulty("nul-two", Fault::DropsNulLines),
        Server::faulty("dots", Fault::DoublesDots),
    ];
    let case = case("both", SUBJECT, b"__TOKEN__\r\na \0 b\r\n..a dot\r\nlast\r\n");
    let found = found(faulty, &[case]);
    let of: Vec<_> = found.iter().map(|(server, kind, _)| (server.as_str(), *kind)).collect();
    assert_eq!(of, [("dots", Kind::Bytes), ("nul-one", Kind::Bytes), ("nul-two", Kind::Bytes)]);
    assert_eq!(found[1].2, found[2].2);
    assert_ne!(found[0].2, found[1].2);
}

#[test]
fn no_more_sessions_are_held_to_make_cases_smaller_than_are_given_and_all_are_counted() {
    let cases = [
        case("nul", SUBJECT, b"__TOKEN__\r\na \0 b\r\nlast\r\n"),
        case("dots", SUBJECT, b"__TOKEN__\r\nfirst\r\n..a line\r\nlast\r\n"),
    ];
    for (sessions_per_case, sessions) in [(30, 500), (500, 60), (25, 60), (500, 500), (0, 500)] {
        let mut servers = ten_sound_servers();
        servers.extend([Server::faulty("nul", Fault::DropsNulLines), Server::faulty("dots", Fault::DoublesDots)]);
        let mut servers = Scripted::new(servers);
        let gathered = gather(&mut servers, &cases).unwrap();
        let before = servers.sessions;
        let bounds = Bounds { confirms: false, sessions_per_case, sessions };
        let numbers = examine(&mut servers, gathered, &|_| None, bounds, &mut |_| {}).unwrap().numbers;
        assert_eq!(numbers.shrink_sessions, servers.sessions - before);
        // At the end of each case the other servers are asked.
        let others = servers.servers.len();
        assert!(numbers.shrink_sessions <= sessions.min(2 * (sessions_per_case + others)), "{numbers:?}");
        assert_eq!((numbers.findings, numbers.shrink_sessions > 0), (2, sessions_per_case > 0));
    }
}
