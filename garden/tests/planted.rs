//! Faults that are planted in made-up servers are found, each for what it is, and ordinary mail is no finding.
//!
//! No server runs here: what is tried is the comparison.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod scripted;

use std::collections::BTreeMap;

use scripted::{
    At, Fault, Habits, Output, Scripted, Server, case, expected, learn_all, observe, smuggling, ten_sound_servers,
};
use smtp_garden::case::{Case, Part, Unit};
use smtp_garden::compare::{Judgement, Kind, Learned, Stand, chains, confirm, judge, judge_chain, text};
use smtp_garden::observation::{Observation, Servers};
use smtp_garden::shrink::{SESSIONS, Wanted, shrink};

fn judge_all(servers: &mut Scripted, learned: &BTreeMap<String, Learned>, case: &Case) -> Judgement {
    let observations = observe(servers, case);
    judge(case, &observations.iter().collect::<Vec<_>>(), learned, None)
}

fn apart(judgement: &Judgement) -> Vec<(&str, Kind)> {
    judgement
        .verdicts
        .iter()
        .filter_map(|verdict| Some((verdict.server.as_str(), verdict.difference()?.kind)))
        .collect()
}

const HEADER: &[u8] = b"Subject: __TOKEN__\r\nFrom: __SOURCE__\r\nX-First: 1\r\nX-Second: 2\r\n";

/// Ten that are sound, and one with this fault.
fn with(fault: Fault) -> Scripted {
    let mut servers = ten_sound_servers();
    servers.push(Server::faulty("faulty", fault));
    Scripted::new(servers)
}

/// A case that has more in it than the fault needs.
fn showing(fault: Fault) -> Case {
    let body: &[u8] = b"__TOKEN__\r\nfirst line\r\nsecond line\r\n";
    match fault {
        Fault::JoinsHeaderLines => {
            case("joins", b"Subject: __TOKEN__\r\nX-First: with space \r\nX-Second: 2\r\nX-Third: 3\r\n", body)
        }
        Fault::AddsField => case("adds", b"Subject: __TOKEN__\r\nX-First: caf\xc3\xa9\r\nX-Second: 2\r\n", body),
        Fault::DoublesDots => case("dots", HEADER, b"__TOKEN__\r\nfirst\r\n..a line with a dot\r\nlast\r\n"),
        Fault::EndsAtLfDotLf => case("ends", HEADER, b"__TOKEN__\r\nfirst\n.\nMAIL is what follows\r\nlast\r\n"),
        _ => case("nul", HEADER, b"__TOKEN__\r\nfirst\r\nwith a \0 in it\r\nlast\r\n"),
    }
}

#[test]
fn planted_faults_are_named_by_class() {
    for (fault, kind) in [
        (Fault::DropsNulLines, Kind::Bytes),
        (Fault::JoinsHeaderLines, Kind::HeaderLost),
        (Fault::EndsAtLfDotLf, Kind::Cut),
        (Fault::AddsField, Kind::HeaderInjected),
        (Fault::DoublesDots, Kind::Bytes),
        (Fault::RefusesNul, Kind::Refuses),
        (Fault::BouncesNul, Kind::Bounces),
    ] {
        let mut servers = with(fault);
        let learned = learn_all(&mut servers);
        let judgement = judge_all(&mut servers, &learned, &showing(fault));
        assert_eq!(apart(&judgement), [("faulty", kind)], "{fault:?}: {judgement:#?}");
        assert_eq!(judgement.clusters.len(), 2, "{fault:?}");
        assert!(judgement.clusters[0].is_reference);
    }
}

#[test]
fn a_message_that_comes_out_of_a_text_is_counted_and_is_forged() {
    let mut servers = with(Fault::EndsAtLfDotLf);
    let learned = learn_all(&mut servers);
    let judgement = judge_all(&mut servers, &learned, &smuggling("end", b"\n.\n"));
    assert_eq!(apart(&judgement), [("faulty", Kind::More)]);
    let Stand::Apart(differences) = &judgement.verdict("faulty").unwrap().stand else { panic!() };
    let kinds: Vec<_> = differences.iter().map(|difference| difference.kind).collect();
    assert_eq!(kinds, [Kind::More, Kind::Forged]);
}

/// What a relay puts on the wire, sent to a receiver as it is.
fn onward(servers: &mut Scripted, relayed: &Observation, receiver: &str) -> Observation {
    let octets = text::with_replaced(&relayed.messages[0].octets, relayed.token.as_bytes(), b"__TOKEN__");
    let mut units = scripted::opening();
    units.push(Unit::Send { part: Part::Body, octets });
    let case = Case { name: relayed.case.clone(), units };
    let mut observation = servers.hold(receiver, std::slice::from_ref(&case)).unwrap().remove(0);
    // All else was filled in for the relay.
    observation.filled.clone_from(&relayed.filled);
    observation
}

#[test]
fn a_relay_and_a_receiver_that_make_two_messages_of_one_are_named_and_confirmed() {
    let mut servers = with(Fault::EndsAtLfDotLf);
    let learned = learn_all(&mut servers);
    let case = smuggling("end", b"\n.\n");
    let observations = observe(&mut servers, &case);
    let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &learned, None);
    let found = chains(std::iter::once((&case, &observations[..], &judgement)));
    // Those that pass mail on, each before the one that ends the data there.
    let pairs: Vec<_> = found.iter().map(|chain| (chain.relay.as_str(), chain.receiver.as_str())).collect();
    assert_eq!(pairs, [("helo", "faulty"), ("two-received", "faulty"), ("wire", "faulty")]);
    assert!(found.iter().all(|chain| chain.case == "end" && chain.variant == r"\n.\n"));
    // Another, larger case with the same octets is no chain of its own.
    let mut larger = case.clone();
    larger.name = "larger".into();
    if let Some(Unit::Send { octets, .. }) =
        larger.units.iter_mut().find(|unit| matches!(unit, Unit::Send { part: Part::Header, .. }))
    {
        octets.extend_from_slice(b"X-More: 1\r\n");
    }
    let again = observe(&mut servers, &larger);
    let judged = judge(&larger, &again.iter().collect::<Vec<_>>(), &learned, None);
    let both = [(&larger, &again[..], &judged), (&case, &observations[..], &judgement)];
    assert_eq!(chains(both.into_iter()), found);

    let relayed = observations.iter().find(|observation| observation.server == "wire").unwrap();
    let judge = |came_out: &Observation| {
        judge_chain(&case, relayed, &learned["wire"], came_out, &learned[&came_out.server])
            .difference()
            .map(|difference| difference.kind)
    };
    let faulty = onward(&mut servers, relayed, "faulty");
    assert_eq!(judge(&faulty), Some(Kind::More));
    for sound in ["postal", "renaming", "old", "plain"] {
        let came_out = onward(&mut servers, relayed, sound);
        assert_eq!(judge(&came_out), None, "{sound}");
    }
}

#[test]
fn a_difference_that_does_not_come_each_time_is_unsteady() {
    for (fault, is_steady) in [(Fault::DropsNulLines, true), (Fault::DropsNulLinesAtTimes, false)] {
        let mut servers = with(fault);
        let learned = learn_all(&mut servers);
        let case = showing(fault);
        // The session in which it shows.
        let (observations, judgement) = loop {
            servers.sessions += 1;
            let observations = observe(&mut servers, &case);
            let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &learned, None);
            if !apart(&judgement).is_empty() {
                break (observations, judgement);
            }
        };
        let observations: Vec<_> = observations.iter().collect();
        let found = confirm(&mut servers, &case, &observations, &learned, None, &judgement).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].server.as_str(), found[0].is_steady()), ("faulty", is_steady), "{fault:?}");
        assert_eq!(found[0].otherwise.is_some(), !is_steady);
    }
}

#[test]
fn a_timeout_is_no_refusal_and_a_queue_that_is_not_empty_is_unknown() {
    let mut servers = with(Fault::Delivers);
    let learned = learn_all(&mut servers);
    let judgement = judge_all(&mut servers, &learned, &showing(Fault::Delivers));
    assert_eq!(apart(&judgement), []);
    assert!(matches!(judgement.verdict("faulty").unwrap().stand, Stand::Unknown(_)), "{judgement:#?}");

    let mut servers = with(Fault::None);
    let learned = learn_all(&mut servers);
    servers.servers.last_mut().unwrap().fault = Fault::IsSilent;
    let judgement = judge_all(&mut servers, &learned, &showing(Fault::IsSilent));
    assert_eq!(apart(&judgement), [("faulty", Kind::NoAnswer)]);
}

#[test]
fn what_cannot_be_seen_and_what_was_not_held_is_not_lost() {
    let mut servers = Scripted::new(ten_sound_servers());
    let learned = learn_all(&mut servers);
    // Without a token nobody knows whose message it is; and a server without EHLO is not asked for more.
    let no_token = case("no-token", b"Subject: none\r\n", b"text\r\n");
    let mut strict = case("strict", HEADER, b"__TOKEN__\r\n");
    strict.units[1] = Unit::Expect { code: "2".into() };
    // Nor is mail of nobody a bounce, if that is who it was sent by.
    let mut blank = case("blank", HEADER, b"__TOKEN__\r\n");
    blank.units[2] = Unit::Send { part: Part::Mail, octets: b"MAIL FROM:< >\r\n".to_vec() };
    for case in [no_token, strict, blank] {
        let observations = observe(&mut servers, &case);
        let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &learned, Some(&expected(&case)));
        assert_eq!(apart(&judgement), [], "{}", case.name);
        let stand = &judgement.verdict("helo").unwrap().stand;
        assert_eq!(matches!(stand, Stand::Unknown(_)), case.name == "strict", "{stand:?}");
    }
}

#[test]
fn how_a_line_ends_is_told_on_the_wire_and_not_in_a_mailbox() {
    for (output, found) in
        [(Output::Wire, vec![("faulty", Kind::Bytes)]), (Output::MailboxLf, vec![]), (Output::MailboxCrLf, vec![])]
    {
        let mut servers = with(Fault::DropsCr);
        servers.servers.last_mut().unwrap().habits.output = output;
        let learned = learn_all(&mut servers);
        assert_eq!(apart(&judge_all(&mut servers, &learned, &showing(Fault::DropsCr))), found);
    }
}

#[test]
fn a_server_whose_controls_do_not_come_out_is_not_judged() {
    let mut servers = with(Fault::IsSilent);
    let learned = learn_all(&mut servers);
    assert!(!learned["faulty"].is_known);
    let judgement = judge_all(&mut servers, &learned, &showing(Fault::IsSilent));
    assert_eq!(apart(&judgement), []);
}

#[test]
fn two_hundred_ordinary_mails_are_no_finding() {
    let mut servers = Scripted::new(ten_sound_servers());
    let learned = learn_all(&mut servers);
    for (name, learned) in &learned {
        assert_eq!((learned.is_known, &learned.unexplained), (true, &Vec::new()), "{name}");
    }
    let mails = ordinary_mails();
    assert_eq!(mails.len(), 200);
    let mut found = Vec::new();
    for case in &mails {
        let observations = observe(&mut servers, case);
        let observations: Vec<_> = observations.iter().collect();
        // Measured with each other, and with what the standard has come of them.
        for expected in [None, Some(&expected(case))] {
            let judgement = judge(case, &observations, &learned, expected);
            if judgement.clusters.len() > 1 || !apart(&judgement).is_empty() {
                found.push(format!("{}: {:#?}", case.name, judgement.verdicts));
            }
        }
    }
    assert!(found.is_empty(), "{} of 200:\n{}", found.len(), found.first().unwrap());
}

/// One that writes anew what says the same, and one that passes on lines that end with LF.
fn two_more() -> [Server; 2] {
    let anew = Habits { writes_anew: true, output: Output::Wire, ..Habits::default() };
    let lf = Habits { passes_on_lf: true, output: Output::Wire, ..Habits::default() };
    [Server::sound("anew", anew), Server::sound("lf", lf)]
}

#[test]
fn what_is_written_anew_and_says_the_same_is_no_finding() {
    let mut servers = ten_sound_servers();
    servers.extend(two_more());
    let mut servers = Scripted::new(servers);
    let learned = learn_all(&mut servers);
    assert_eq!((learned["anew"].recodes, learned["lf"].passes_on_lf), (true, true));
    let one_part = "--b\r\nContent-Type: text/plain\r\n\r\n__TOKEN__\r\n--b--\r\n";
    let of_parts =
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 7bit\r\n";
    let of_addresses = "From: \"A, B\" <a@b.c>\r\nTo: <d@e.f>,\r\n\tG <g@h.i>\r\nReferences: <1@b>\r\n\t<2@b>\r\n";
    for (name, header, body) in [
        ("parts", of_parts, one_part),
        ("addresses", of_addresses, "__TOKEN__\r\n"),
        ("dots", "From: a@b.c\r\n", "__TOKEN__\r\n..a\r\n...\r\n"),
    ] {
        let header = format!("Subject: __TOKEN__\r\n{header}");
        let judgement = judge_all(&mut servers, &learned, &case(name, header.as_bytes(), body.as_bytes()));
        assert_eq!((apart(&judgement), judgement.clusters.len()), (vec![], 1), "{name}: {judgement:#?}");
    }
}

#[test]
fn behind_what_is_written_anew_faults_are_found() {
    for (fault, kind) in [
        (Fault::DropsNulLines, Kind::Bytes),
        (Fault::JoinsHeaderLines, Kind::HeaderLost),
        (Fault::EndsAtLfDotLf, Kind::Cut),
        (Fault::AddsField, Kind::HeaderInjected),
        (Fault::DoublesDots, Kind::Bytes),
    ] {
        for sound in two_more() {
            let mut servers = ten_sound_servers();
            servers.push(Server { fault, ..sound });
            let mut servers = Scripted::new(servers);
            let learned = learn_all(&mut servers);
            let judgement = judge_all(&mut servers, &learned, &showing(fault));
            assert_eq!(apart(&judgement).len(), 1, "{fault:?}: {judgement:#?}");
            assert_eq!(apart(&judgement)[0].1, kind, "{fault:?}: {judgement:#?}");
        }
    }
}

type Tampers = &'static [(&'static [u8], &'static [u8])];

/// A server that does something to every message, and in one case something else that looks like it.
struct Hidden {
    what: &'static str,
    server: Server,
    header: &'static str,
    body: &'static str,
    kind: Kind,
}

fn hidden(
    what: &'static str,
    habits: Habits,
    (header, body): (&'static str, &'static str),
    tampers: Tampers,
    kind: Kind,
) -> Hidden {
    Hidden { what, server: Server { name: "hidden", habits, tampers, ..Server::default() }, header, body, kind }
}

/// Two parts, the second of them a file.
const PARTS: (&str, &str) = (
    "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n",
    "--b\r\nContent-Type: text/plain\r\n\r\n__TOKEN__\r\n--b\r\n\
     Content-Type: image/png; name=\"a.png\"\r\nContent-Disposition: attachment; filename=\"a.png\"\r\n\
     Content-Transfer-Encoding: base64\r\n\r\nAAECAwQF\r\n--b--\r\n",
);

/// Faults that lie in what was learned, by what was learned.
fn hidden_faults() -> Vec<Hidden> {
    let anew = || Habits { writes_anew: true, output: Output::Wire, top: &["Received"], ..Habits::default() };
    let lf = || Habits { passes_on_lf: true, output: Output::Wire, ..Habits::default() };
    let of = |name: &str| {
        ten_sound_servers().into_iter().find(|server| server.name == name).map(|server| server.habits).unwrap()
    };
    let text = ("X-Other: one two\r\nX-Last: 2\r\n", "__TOKEN__\r\n");
    let from = ("From: a@b.c\r\nX-Last: 2\r\n", "__TOKEN__\r\n");
    let returned =
        ("Return-Path: <forged@elsewhere.example>\r\nBcc: hidden@elsewhere.example\r\nX-Last: 2\r\n", "__TOKEN__\r\n");
    let of_id = ("Message-ID: <a@b>\r\nX-Last: 2\r\n", "__TOKEN__\r\n");
    let rewriting = || Habits { rewrites: Some("Message-ID"), output: Output::Wire, ..Habits::default() };
    let lines = ("X-Last: 2\r\n", "__TOKEN__\r\nFrom here on\r\n..a\r\nX-Body: 1\r\nlast\r\n");
    let mut all = vec![
        // White space that is other white space.
        hidden("a CR in a field", anew(), text, &[(b"one two", b"one\rEvil: two")], Kind::Bytes),
        hidden("a CR for a space", anew(), text, &[(b"one two", b"one\rtwo")], Kind::Bytes),
        hidden("an LF for a space", anew(), text, &[(b"one two", b"one\ntwo")], Kind::Bytes),
        hidden("a fold of CR alone", anew(), text, &[(b"one two", b"one\r two")], Kind::Bytes),
        hidden("a fold of LF alone", anew(), text, &[(b"one two", b"one\n two")], Kind::Bytes),
        hidden("a form feed", anew(), text, &[(b"one two", b"one\x0ctwo")], Kind::Bytes),
        hidden("a NUL", anew(), text, &[(b"one two", b"one\0two")], Kind::Bytes),
        hidden("a CR at the end of a field", anew(), text, &[(b"one two", b"one two\r")], Kind::Bytes),
        hidden("a CR before a value", anew(), text, &[(b": one two", b":\rone two")], Kind::Bytes),
        hidden("a space before a colon", anew(), text, &[(b"X-Other:", b"X-Other :")], Kind::Bytes),
        hidden("a field that becomes two", anew(), text, &[(b"one two", b"one\r\nEvil: two")], Kind::HeaderInjected),
        hidden("a header that ends early", anew(), text, &[(b"X-Last", b"\r\nX-Last")], Kind::HeaderLost),
        hidden("text in the header", anew(), lines, &[(b"2\r\n\r\n__TOKEN__", b"2\r\n"), (b"2\r\n\r\n", b"2\r\nX-Evil: 1\r\n\r\n")], Kind::HeaderInjected),
        // Addresses that are spelled otherwise.
        hidden("another address", anew(), from, &[(b"a@b.c", b"a@b.d")], Kind::Bytes),
        hidden("one address more", anew(), from, &[(b"a@b.c", b"a@b.c, e@f.g")], Kind::Bytes),
        hidden("a comment without an end", anew(), from, &[(b"a@b.c", b"a@b.c (, e@f.g")], Kind::Bytes),
        hidden("a CR in a name", anew(), from, &[(b"a@b.c", b"\"x\rBcc: y\" <a@b.c>")], Kind::Bytes),
        hidden("an LF in a name", anew(), from, &[(b"a@b.c", b"\"x\nBcc: y\" <a@b.c>")], Kind::Bytes),
        hidden("a NUL in a comment", anew(), from, &[(b"a@b.c", b"a@b.c (x\0y)")], Kind::Bytes),
        hidden("a From with a space before the colon", anew(), from, &[(b"from:", b"from :")], Kind::Bytes),
        // Another value.
        hidden("an LF in another value", rewriting(), of_id, &[(b"rewritten", b"rewritten\nEvil: 1")], Kind::Bytes),
        hidden("a CR in another value", rewriting(), of_id, &[(b"rewritten", b"rewritten\rEvil: 1")], Kind::Bytes),
        hidden("a NUL in another value", rewriting(), of_id, &[(b"rewritten", b"rewritten\0")], Kind::Bytes),
        hidden("a field more of that name", rewriting(), of_id, &[(b"X-Last", b"Message-ID: 2\r\nX-Last")], Kind::HeaderInjected),
        // MIME that is written anew.
        hidden("other octets of a file", anew(), PARTS, &[(b"AAECAwQF", b"AAECAwQG")], Kind::Bytes),
        hidden("a part that is lost", anew(), PARTS, &[(b"--anew\r\nContent-Type: image/png", b"--anew--\r\n--anew\r\nContent-Type: image/png")], Kind::Bytes),
        hidden("a part more", anew(), PARTS, &[(b"--anew--", b"--anew\r\n\r\nevil\r\n--anew--")], Kind::Bytes),
        hidden("two parts that become one", anew(), PARTS, &[(b"\r\n--anew\r\nContent-Type: image/png; name=\"a.png\"\r\nContent-Disposition: attachment; filename=\"a.png\"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQF", b"\r\n\r\nimage/png\r\n\0\x01\x02\x03\x04\x05")], Kind::Bytes),
        hidden("another name of a file", anew(), PARTS, &[(b"filename=\"a.png\"", b"filename=\"a.exe\"")], Kind::Bytes),
        hidden("another name of a type", anew(), PARTS, &[(b"name=\"a.png\"", b"name=\"a.exe\"")], Kind::Bytes),
        hidden("a file that becomes text", anew(), PARTS, &[(b"attachment;", b"inline;")], Kind::Bytes),
        hidden("a second Content-Type", anew(), PARTS, &[(b"mime-version", b"Content-Type: text/html\r\nmime-version")], Kind::HeaderInjected),
        hidden("a Content-Disposition", anew(), PARTS, &[(b"mime-version", b"Content-Disposition: attachment\r\nmime-version")], Kind::HeaderInjected),
        hidden("a field that MIME does not know", anew(), PARTS, &[(b"mime-version", b"Content-Evil: 1\r\nmime-version")], Kind::HeaderInjected),
        hidden("a field in a part", anew(), PARTS, &[(b"image/png;", b"text/html;")], Kind::Bytes),
        // Fields that are removed or renamed, but not this time.
        hidden("a Return-Path that stays", of("postal"), returned, &[(b"X-Last", b"Return-Path: <forged@elsewhere.example>\r\nX-Last")], Kind::HeaderInjected),
        hidden("a Bcc that stays", of("postal"), returned, &[(b"X-Last", b"Bcc: hidden@elsewhere.example\r\nX-Last")], Kind::HeaderInjected),
        hidden("a Return-Path under its own name", of("renaming"), returned, &[(b"Old-Return-Path", b"Return-Path")], Kind::HeaderLost),
        // The row on top.
        hidden("an LF in the row on top", of("wire"), text, &[(b"from client", b"from client\nEvil: 1")], Kind::HeaderInjected),
        hidden("a CR in the row on top", of("postal"), text, &[(b"from client", b"from client\rEvil: 1")], Kind::HeaderInjected),
        hidden("a NUL in the row on top", of("postal"), text, &[(b"from client", b"from client\0")], Kind::HeaderInjected),
        hidden("a field within the row on top", of("postal"), text, &[(b"Received:", b"Received: forged\r\nReceived:")], Kind::HeaderInjected),
        hidden("a Return-Path below the row on top", of("postal"), text, &[(b"X-Other", b"Return-Path: <forged@b>\r\nX-Other")], Kind::HeaderInjected),
        // From at the beginning of a line.
        hidden("a From that is not quoted", of("old"), lines, &[(b"\r\n>From here", b"\r\nFrom here")], Kind::Bytes),
        hidden("a From that is quoted twice", of("old"), lines, &[(b"\r\n>From here", b"\r\n>>From here")], Kind::Bytes),
        // The end of the last line.
        hidden("the last line", of("short"), lines, &[(b"\r\nlast", b"")], Kind::Bytes),
        hidden("a last line more", of("short"), lines, &[(b"\r\nlast", b"\r\nlast\r\n")], Kind::Bytes),
        // Lines that end with LF.
        hidden("a dot that is lost", lf(), lines, &[(b"\r\n.a", b"\r\na")], Kind::Bytes),
        hidden("a dot that is doubled", lf(), lines, &[(b"\r\n.a", b"\r\n..a")], Kind::Bytes),
        hidden("an empty line that is lost", lf(), lines, &[(b"2\r\n\r\n", b"2\r\nX-Evil: 1\r\n\r\n")], Kind::HeaderInjected),
        hidden("a CR in a line", lf(), lines, &[(b"X-Body: 1", b"X-Body:\r1")], Kind::Bytes),
    ];
    // What is completed: one that is made of text is not the server's.
    let of_cr: [(&str, Tampers); 3] = [
        ("a field that a CR makes", &[]),
        ("a field that a CR makes, with other white space", &[(b"Date: forged", b"Date:  forged")]),
        ("a field that a CR makes, in other letters", &[(b"Date: forged", b"date: forged")]),
    ];
    for (what, tampers) in of_cr {
        let completes: &[_] = &[("Date", At::Bottom)];
        let habits = Habits { completes, output: Output::Wire, ..Habits::default() };
        let mut of_cr =
            hidden(what, habits, ("X-Other: 1\rDate: forged\r\n", "__TOKEN__\r\n"), tampers, Kind::HeaderInjected);
        of_cr.server.fault = Fault::EndsHeaderLineAtCr;
        all.push(of_cr);
    }
    all
}

#[test]
fn faults_that_look_like_what_was_learned_are_found() {
    let mut sound = Scripted::new(ten_sound_servers());
    let learned_of_sound = learn_all(&mut sound);
    let mut wrong = Vec::new();
    for Hidden { what, server, header, body, kind } in hidden_faults() {
        let mut alone = Scripted::new(vec![server.clone()]);
        let mut learned = learned_of_sound.clone();
        learned.extend(learn_all(&mut alone));
        assert!(learned["hidden"].is_known && learned["hidden"].unexplained.is_empty(), "{what}: {learned:#?}");
        let header = format!("Subject: __TOKEN__\r\n{header}");
        let case = case("hidden", header.as_bytes(), body.as_bytes());
        let mut all = sound.servers.clone();
        all.push(server);
        let judgement = judge_all(&mut Scripted::new(all), &learned, &case);
        let found = apart(&judgement);
        if found != [("hidden", kind)] {
            wrong.push(format!("{what}: {found:?} and not {kind:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} are hidden:\n{}", wrong.len(), wrong.join("\n"));
}

/// Mail of many kinds, each of them without any fault: combinations of headers, texts and envelopes.
fn ordinary_mails() -> Vec<Case> {
    let headers: [&[u8]; 10] = [
        b"Subject: __TOKEN__\r\nFrom: __SOURCE__\r\nTo: __DEST__\r\nDate: Fri, 27 Nov 2026 09:00:00 +0000\r\nMessage-ID: <a@b>\r\n",
        b"Subject: __TOKEN__ for __USER__ at __HOST__ (__DOMAIN__), __USER__@__HOST__\r\n",
        b"From: __SOURCE__\r\nTo: __DEST__\r\nSubject: no date, no id\r\n",
        b"Received: from a by b; Thu, 26 Nov 2026\r\nReceived: from c\r\n by d;\r\n\tThu, 26 Nov 2026\r\nDate: Fri, 27 Nov 2026\r\nFrom: a@b\r\nTo: c@d\r\n",
        b"Return-Path: <own@elsewhere.example>\r\nDelivered-To: own\r\nReceived: from own\r\nSubject: a list\r\nList-Id: <l.example>\r\n",
        b"Date: Fri, 27 Nov 2026 09:00:00 +0000\r\nBcc: hidden@elsewhere.example\r\nFrom: a@b\r\nSubject: folded\r\n over\r\n\tthree lines\r\nTo: x@y\r\n",
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_b\"\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\nFrom: a@b\r\n",
        b"Subject: eight bits caf\xc3\xa9\r\nFrom: a@b\r\nTo: c@d\r\nDate: now\r\nMessage-Id: <small@id>\r\n",
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=r\r\nFrom: MAILER-DAEMON\r\nTo: __SOURCE__\r\nSubject: it did not arrive\r\n",
        b"X-Mailer: none\r\nDate: Fri, 27 Nov 2026\r\nDate: a second one\r\nFrom: a@b\r\nFrom: c@d\r\nSubject:\r\nX-Empty:\r\n",
    ];
    let bodies: [Vec<u8>; 10] = [
        b"__TOKEN__\r\n".to_vec(),
        b"__TOKEN__\r\n\r\n\r\nempty lines at the end\r\n\r\n\r\n".to_vec(),
        b"__TOKEN__\r\n..\r\n...\r\n..a dot at the beginning\r\na.\r\n".to_vec(),
        b"From the beginning\r\n>From was quoted already\r\nFrom __TOKEN__\r\n".to_vec(),
        [b"__TOKEN__ ".to_vec(), vec![b'x'; 900], b"\r\n".to_vec()].concat(),
        "__TOKEN__ caf\u{e9} \u{2603}\r\n".as_bytes().to_vec(),
        b"--=_b\r\nContent-Type: text/plain\r\n\r\n__TOKEN__\r\n--=_b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inside\r\nReceived: inside\r\n\r\ntext\r\n--=_b--\r\n".to_vec(),
        b"\r\n\r\n__TOKEN__ spaces at the end   \r\n\t\r\n \r\n".to_vec(),
        b"Date: looks like a header\r\nMessage-ID: <but@is.text>\r\n__TOKEN__\r\n".to_vec(),
        [b"__TOKEN__\r\n".to_vec(), b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5\r\n".repeat(60)].concat(),
    ];
    let mut mails = Vec::new();
    for (number, header) in headers.iter().enumerate() {
        for (kind, body) in bodies.iter().enumerate() {
            for two in [false, true] {
                let mut mail = case(&format!("ordinary/{number}-{kind}-{two}"), header, body);
                let is_of_nobody = number == 8;
                for unit in &mut mail.units {
                    if let Unit::Send { part: Part::Mail, octets } = unit
                        && is_of_nobody
                    {
                        *octets = b"MAIL FROM:<>\r\n".to_vec();
                    }
                }
                if two && kind % 2 == 0 {
                    // Two recipients.
                    let more = [
                        Unit::Send { part: Part::Rcpt, octets: b"RCPT TO:<__DEST2__>\r\n".to_vec() },
                        Unit::Expect { code: "2".into() },
                    ];
                    mail.units.splice(6..6, more);
                } else if two {
                    // Two messages in a session.
                    let quit = mail.units.len() - 2;
                    let second = case("", headers[(number + 1) % 8], b"__TOKEN__ again\r\n");
                    mail.units.splice(quit..quit, second.units[2..second.units.len() - 2].to_vec());
                }
                mails.push(mail);
            }
        }
    }
    mails
}

/// What is left of the text of a case: header, body, ends and tails, as they are sent.
fn text_of(case: &Case) -> String {
    let sends = case.units.iter().filter_map(|unit| match unit {
        Unit::Send { part, octets } if !matches!(part, Part::Quit) => Some(smtp_garden::case::escaped::escape(octets)),
        _ => None,
    });
    sends.collect::<Vec<_>>().join("|")
}

#[test]
fn planted_faults_are_minimised() {
    for (fault, kind, smallest) in [
        (Fault::DropsNulLines, Kind::Bytes, r"|\r\n__TOKEN__\r\n\x00\r\n|.\r\n"),
        (Fault::JoinsHeaderLines, Kind::HeaderLost, r"|__TOKEN__ \r\nT:\r\n|.\r\n"),
        (Fault::EndsAtLfDotLf, Kind::Cut, r"|__TOKEN__\r\n.\nt\r\n|.\r\n"),
        (Fault::AddsField, Kind::HeaderInjected, r"|__TOKEN__\xa9\r\n|.\r\n"),
        (Fault::DoublesDots, Kind::Bytes, r"|\r\n__TOKEN__\r\n..\r\n|.\r\n"),
    ] {
        let mut servers = with(fault);
        let learned = learn_all(&mut servers);
        let wanted = Wanted {
            kind,
            apart: &["faulty".to_owned()],
            others: &["wire".to_owned(), "postal".to_owned()],
            learned: &learned,
            oracle: &|_| None,
            sessions: SESSIONS,
        };
        let before = servers.sessions;
        let (shrunk, sessions) = shrink(&mut servers, &showing(fault), wanted).unwrap();
        let shrunk = shrunk.unwrap();
        let opening = r"MAIL FROM:<__SOURCE__>\r\n|RCPT TO:<__DEST__>\r\n|DATA\r\n";
        assert_eq!(text_of(&shrunk.case), format!("{opening}{smallest}"), "{fault:?}");
        assert!(shrunk.is_smallest, "{fault:?}");
        assert_eq!(servers.sessions - before, sessions);
        assert!(sessions <= SESSIONS);
    }
}

#[test]
fn no_more_sessions_are_held_than_are_given() {
    let mut servers = with(Fault::DropsNulLines);
    let learned = learn_all(&mut servers);
    let before = servers.sessions;
    let (apart, others) = (["faulty".to_owned()], ["wire".to_owned()]);
    let wanted = Wanted {
        kind: Kind::Bytes,
        apart: &apart,
        others: &others,
        learned: &learned,
        oracle: &|_| None,
        sessions: 30,
    };
    let (shrunk, sessions) = shrink(&mut servers, &showing(Fault::DropsNulLines), wanted).unwrap();
    assert!(!shrunk.unwrap().is_smallest);
    assert!(sessions <= 30 && servers.sessions - before == sessions);
    // What it does not show is not made smaller.
    let wanted = Wanted { kind: Kind::Cut, ..wanted };
    let before = servers.sessions;
    let (shrunk, sessions) = shrink(&mut servers, &showing(Fault::DropsNulLines), wanted).unwrap();
    assert_eq!((shrunk, sessions), (None, servers.sessions - before));
}
