//! What is true of the comparison whatever servers do and whatever is sent: sound servers are no finding, no verdict
//! depends on an order, what is made smaller shows the same, and nothing takes longer than what came is long.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod scripted;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use proptest::prelude::*;
use scripted::{Fault, Habits, Output, Scripted, Server, case, expected, learn_all, observe, ten_sound_servers};
use smtp_garden::case::{Case, Part, Unit};
use smtp_garden::compare::{Judgement, Kind, Learned, Stand, controls, judge, learn, text};
use smtp_garden::observation::Servers;
use smtp_garden::shrink::{Wanted, shrink};

fn apart(judgement: &Judgement) -> Vec<(String, Kind)> {
    let mut apart: Vec<_> = judgement
        .verdicts
        .iter()
        .filter_map(|verdict| Some((verdict.server.clone(), verdict.difference()?.kind)))
        .collect();
    apart.sort();
    apart
}

/// The ten, and more that have several habits at once.
fn sound_servers() -> Vec<Server> {
    let rewriting = Habits {
        output: Output::Wire,
        top: &["Received"],
        rewrites_sender: true,
        rewrites_recipients: true,
        reverses_recipients: true,
        ..Habits::default()
    };
    let lf = Habits { passes_on_lf: true, quotes_from: true, output: Output::Wire, ..Habits::default() };
    let reversing = Habits { output: Output::Wire, reverses_recipients: true, ..Habits::default() };
    let lmtp = Habits { is_lmtp: true, output: Output::Wire, top: &["Received"], ..Habits::default() };
    let mut servers = ten_sound_servers();
    servers.push(Server::sound("rewriting", rewriting));
    servers.push(Server::sound("lf-quoting", lf));
    servers.push(Server::sound("reversing", reversing));
    servers.push(Server::sound("lmtp-wire", lmtp));
    servers
}

/// What is learned of the sound servers.
fn learned() -> &'static BTreeMap<String, Learned> {
    static LEARNED: OnceLock<BTreeMap<String, Learned>> = OnceLock::new();
    LEARNED.get_or_init(|| learn_all(&mut Scripted::new(sound_servers())))
}

/// Recipients in a case that has one.
fn to_two(mut case: Case) -> Case {
    let more = [
        Unit::Send { part: Part::Rcpt, octets: b"RCPT TO:<__DEST2__>\r\n".to_vec() },
        Unit::Expect { code: String::new() },
    ];
    case.units.splice(6..6, more);
    case
}

/// Two messages of one session.
fn twice(mut case: Case) -> Case {
    let quit = case.units.len() - 2;
    let second = case.units[2..quit].to_vec();
    case.units.splice(quit..quit, second);
    case
}

#[test]
fn envelopes_of_ordinary_kinds_are_no_finding() {
    let header: &[u8] = b"Subject: __TOKEN__\r\nFrom: __SOURCE__\r\nX-First: 1\r\n";
    let plain = || case("plain", header, b"__TOKEN__\r\ntext\r\n");
    let sent_by = |sender: &[u8]| {
        let mut case = plain();
        case.units[2] = Unit::Send { part: Part::Mail, octets: sender.to_vec() };
        case
    };
    let cases = [
        plain(),
        to_two(plain()),
        twice(plain()),
        twice(to_two(plain())),
        case("header", header, b"text\r\n"),
        case("often", header, b"__TOKEN__ __TOKEN__\r\n__TOKEN__\r\n"),
        case("none", b"Subject: none\r\n", b"text\r\n"),
        case("nothing", b"", b""),
        sent_by(b"MAIL FROM:<>\r\n"),
        sent_by(b"MAIL FROM:<__TOKEN__@elsewhere.example>\r\n"),
    ];
    let mut servers = Scripted::new(sound_servers());
    for case in &cases {
        let observations = observe(&mut servers, case);
        let observations: Vec<_> = observations.iter().collect();
        for expected in [None, Some(&expected(case))] {
            let judgement = judge(case, &observations, learned(), expected);
            assert_eq!(apart(&judgement), [], "{}: {judgement:#?}", case.name);
        }
    }
}

#[test]
fn a_recipient_that_all_refuse_is_no_finding() {
    let mut all = sound_servers();
    all.iter_mut().for_each(|server| server.fault = Fault::RefusesSecondRecipient);
    let mut servers = Scripted::new(all);
    let case = to_two(case("refused", b"Subject: __TOKEN__\r\n", b"__TOKEN__\r\n"));
    let observations = observe(&mut servers, &case);
    let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), learned(), None);
    assert_eq!(apart(&judgement), [], "{judgement:#?}");
}

#[test]
fn controls_that_do_not_all_come_out_tell_what_they_can() {
    let mut servers = Scripted::new(sound_servers());
    let case = case("plain", b"Subject: __TOKEN__\r\nBcc: a@b\r\nReturn-Path: <c@d>\r\n", b"__TOKEN__\r\ntext\r\n");
    for missing in
        ["control/clean-1", "control/clean-2", "control/two-recipients", "control/without-all", "control/folded"]
    {
        let known: BTreeMap<_, _> = servers
            .names()
            .into_iter()
            .map(|name| {
                let mut seen = servers.hold(&name, &controls()).unwrap();
                for one in seen.iter_mut().filter(|one| one.case == missing) {
                    one.messages.clear();
                    one.is_drained = false;
                }
                (name, learn(&seen))
            })
            .collect();
        let observations = observe(&mut servers, &case);
        let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &known, None);
        assert_eq!(apart(&judgement), [], "{missing}: {judgement:#?}");
    }
}

/// For some the header ends where for others it goes on: what a server puts there is its own nevertheless.
#[test]
fn a_header_that_has_another_end_for_some_is_no_finding() {
    let headers: [&[u8]; 5] = [
        b"X-First: \n\n.\n\r\n",
        b"X-First: \n.\n\r\nDate: 1\r\n",
        b"X-First: \r\n\n\0\r\nReturn-Path: <x@y>\r\n..\r\n",
        b"X-First: \r\n\n\r.\r\r\nReturn-Path: <x@y>\r\n",
        b"From : \r\n",
    ];
    for header in headers {
        let case = case("header", &[b"Subject: __TOKEN__\r\n", header].concat(), b"__TOKEN__\r\n\r\n");
        for kind in sound_servers() {
            let same = ["a", "b", "c"].map(|name| Server::sound(name, kind.habits.clone()));
            let mut servers = Scripted::new(same.to_vec());
            let learned = learn_all(&mut servers);
            let observations = observe(&mut servers, &case);
            let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &learned, None);
            assert_eq!(apart(&judgement), [], "{}: {judgement:#?}", kind.name);
        }
    }
}

#[test]
fn one_that_goes_away_in_the_middle_is_named_and_the_others_are_not() {
    let mut servers = Scripted::new(sound_servers());
    let case = twice(case("plain", b"Subject: __TOKEN__\r\n", b"__TOKEN__\r\ntext\r\n"));
    let mut observations = observe(&mut servers, &case);
    let gone = observations.iter_mut().find(|one| one.server == "wire").unwrap();
    gone.messages.truncate(1);
    gone.transcript.truncate(gone.transcript.len() / 2);
    gone.transcript.push(smtp_garden::observation::Event::Closed);
    for (is_alive, kind) in [(false, Kind::Died), (true, Kind::NoAnswer)] {
        observations.iter_mut().find(|one| one.server == "wire").unwrap().is_alive = is_alive;
        let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), learned(), None);
        assert_eq!(apart(&judgement), [("wire".to_owned(), kind)], "{judgement:#?}");
    }
}

/// Octets of the kind that servers differ in.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => proptest::sample::select(vec![
            &b"\r\n"[..], b"\r", b"\n", b"\0", b".", b"\r\n.", b"\n.\n", b"\r.\r", b" ", b"\t", b": ", b"From ", b">From ",
            b"__TOKEN__", b"__DEST__", b"\r\nReceived: x", b"\r\nReturn-Path: <x@y>", b"\r\nDate: 1", b"\r\nBcc: a@b",
            b"\r\nTo: a (b", b"\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n", b"\r\n\r\n",
            b"MAIL FROM:<a@b>\r\n", b"\r\nSubject: s",
        ]).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// As [`octets`], in a text that begins a line with no dot and has no end of data within.
fn a_case() -> impl Strategy<Value = Case> {
    (octets(), octets()).prop_map(|(header, body)| {
        let header = [b"Subject: __TOKEN__\r\nX-First: ", &header[..], b"\r\n"].concat();
        let body = [b"__TOKEN__\r\n", &body[..], b"\r\n"].concat();
        let stuffed = |octets: Vec<u8>| text::with_replaced(&octets, b"\r\n.", b"\r\n..");
        case("invented", &stuffed(header), &stuffed(body))
    })
}

/// Of two servers with the same habits, each faulty in its own way or not at all.
fn a_fault() -> impl Strategy<Value = Fault> {
    proptest::sample::select(vec![
        Fault::None,
        Fault::DropsNulLines,
        Fault::JoinsHeaderLines,
        Fault::EndsAtLfDotLf,
        Fault::AddsField,
        Fault::DoublesDots,
        Fault::DropsCr,
        Fault::RefusesNul,
        Fault::BouncesNul,
    ])
}

fn verdicts(judgement: &Judgement) -> BTreeMap<String, Stand> {
    judgement.verdicts.iter().map(|verdict| (verdict.server.clone(), verdict.stand.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Whatever is sent: servers of one kind that made the same of it, each with its own addresses, are no finding.
    #[test]
    fn who_did_the_same_is_no_finding(case in a_case(), kind in 0_usize..14) {
        let habits = sound_servers()[kind].habits.clone();
        let mut servers = Scripted::new(["a", "b", "c"].map(|name| Server::sound(name, habits.clone())).to_vec());
        let learned = learn_all(&mut servers);
        let observations = observe(&mut servers, &case);
        let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &learned, None);
        prop_assert_eq!(apart(&judgement), [], "{:#?}", judgement);
    }

    /// Whatever is sent: who keeps all octets, in a mailbox or on the wire, made the same of it.
    #[test]
    fn a_mailbox_and_the_wire_are_the_same(case in a_case()) {
        let mut servers = Scripted::new(sound_servers());
        servers.servers.retain(|server| matches!(server.name, "plain" | "wire" | "two-received" | "reversing"));
        servers.servers.push(Server::sound("lf", Habits::default()));
        let learned = learn_all(&mut servers);
        let observations = observe(&mut servers, &case);
        let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &learned, None);
        prop_assert_eq!(apart(&judgement), [], "{:#?}", judgement);
    }

    #[test]
    fn no_verdict_depends_on_the_order(
        case in a_case(),
        faults in proptest::collection::vec(a_fault(), 14),
        order in Just((0..14).collect::<Vec<usize>>()).prop_shuffle(),
        count in 2_usize..14,
    ) {
        let mut all = sound_servers();
        for (server, fault) in all.iter_mut().zip(&faults) {
            server.fault = *fault;
        }
        let observations = observe(&mut Scripted::new(all), &case);
        let chosen = |order: &[usize]| -> Judgement {
            let observations: Vec<_> = order.iter().map(|&index| &observations[index]).collect();
            judge(&case, &observations, learned(), None)
        };
        let mut sorted = order[..count].to_vec();
        sorted.sort_unstable();
        prop_assert_eq!(verdicts(&chosen(&order[..count])), verdicts(&chosen(&sorted)));
    }

    #[test]
    fn one_more_of_those_that_are_right_changes_no_class(case in a_case(), fault in a_fault(), kind in 0_usize..14) {
        let mut all = sound_servers();
        let again = Server { name: "again", ..all[kind].clone() };
        all.push(Server { fault, ..Server::sound("faulty", Habits::default()) });
        let mut known = learned().clone();
        known.extend(learn_all(&mut Scripted::new(vec![all[14].clone(), again.clone()])));
        let mut observations = observe(&mut Scripted::new(all), &case);
        let before = judge(&case, &observations.iter().collect::<Vec<_>>(), &known, None);
        let is_right = before.reference().any(|name| name == sound_servers()[kind].name);
        observations.extend(observe(&mut Scripted::new(vec![again]), &case));
        let after = judge(&case, &observations.iter().collect::<Vec<_>>(), &known, None);
        prop_assert!(!is_right || apart(&before) == apart(&after), "{:#?}\n{:#?}", before, after);
    }

    /// What is made smaller is never larger, shows the same for the same server, and costs no more sessions than there
    /// are.
    #[test]
    fn what_is_made_smaller_shows_the_same(case in a_case(), fault in a_fault(), sessions in 0_usize..120) {
        let mut all = sound_servers();
        all.push(Server { fault, ..Server::sound("faulty", Habits::default()) });
        let mut known = learned().clone();
        known.extend(learn_all(&mut Scripted::new(vec![all[14].clone()])));
        let mut servers = Scripted::new(all);
        let observations = observe(&mut servers, &case);
        let judgement = judge(&case, &observations.iter().collect::<Vec<_>>(), &known, None);
        let Some(kind) = judgement.verdict("faulty").and_then(|verdict| verdict.difference()).map(|found| found.kind) else {
            return Ok(());
        };
        let wanted = Wanted {
            kind,
            apart: &["faulty".to_owned()],
            others: &["wire".to_owned(), "plain".to_owned()],
            learned: &known,
            oracle: &|_| None,
            sessions,
        };
        let before = servers.sessions;
        let (shrunk, held) = shrink(&mut servers, &case, wanted).unwrap();
        prop_assert_eq!(servers.sessions - before, held);
        prop_assert!(held <= sessions);
        let Some(shrunk) = shrunk else {
            return Ok(());
        };
        prop_assert!(text::octets_of(&shrunk.case).len() <= text::octets_of(&case).len());
        prop_assert!(shrunk.case.units.len() <= case.units.len());
        servers.servers.retain(|server| ["faulty", "wire", "plain"].contains(&server.name));
        let again = observe(&mut servers, &shrunk.case);
        for observations in [&again, &shrunk.observations] {
            let observations: Vec<_> = observations.iter().collect();
            let judgement = smtp_garden::compare::judge_against(&shrunk.case, &observations, &known, None, &["wire"]);
            prop_assert_eq!(apart(&judgement), vec![("faulty".to_owned(), kind)]);
        }
    }
}
