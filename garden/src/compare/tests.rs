//! What is learned, what is put back, and which pairs there are, on observations that are written down.

use super::learn::{Addition, Change, FieldPlace, LastLineEnd, MailboxLines};
use super::stored::{case, delivered, message, observation, passed_on, plain};
use super::*;
use crate::case::{Case, Part, Unit};
use crate::observation::{Message, Observation};

/// What is learned of a server that makes this of each control, given its name and its text.
fn learned(makes: impl Fn(&str, &str) -> Vec<Message>) -> Learned {
    let observed: Vec<Observation> = controls()
        .iter()
        .map(|control| {
            let sent = text::sent(control).remove(0).octets;
            let octets = text::with_replaced(&sent, b"__TOKEN__", b"t0t0t0t0t");
            let messages = makes(control.name.trim_start_matches("control/"), str::from_utf8(&octets).unwrap());
            observation("a", control, &"2".repeat(8), messages)
        })
        .collect();
    learn(&observed)
}

/// The same of a server with a mailbox and one message for each control.
fn learned_of_mailbox(makes: impl Fn(&str, &str) -> String) -> Learned {
    learned(|name, octets| vec![delivered(&makes(name, octets))])
}

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|&name| name.to_owned()).collect()
}

fn addition(name: &str, place: FieldPlace, is_completion: bool) -> Addition {
    Addition { name: name.into(), place, is_completion }
}

#[test]
fn of_a_server_that_changes_nothing_nothing_is_learned() {
    let expected = Learned { is_known: true, mailbox: Some(MailboxLines::CrLf), ..Learned::default() };
    assert_eq!(learned_of_mailbox(|_, octets| octets.to_owned()), expected);
    let expected = Learned { mailbox: Some(MailboxLines::Lf), ..expected };
    assert_eq!(learned_of_mailbox(|_, octets| octets.replace("\r\n", "\n")), expected);
    let mixed = learned_of_mailbox(|name, octets| match name {
        "clean-2" => octets.replace("\r\n", "\n"),
        _ => octets.to_owned(),
    });
    assert_eq!(mixed.mailbox, Some(MailboxLines::Mixed));
}

#[test]
fn of_a_control_that_comes_out_twice_nothing_is_learned() {
    let twice = learned(|_, octets| vec![delivered(octets); 2]);
    assert!(!twice.is_known);
    let doubts =
        ["clean-1", "clean-2", "clean-3"].map(|name| format!("control/{name} did not come out, or more than once"));
    assert_eq!(twice.unexplained, doubts);
    assert!(learned(|_, octets| vec![delivered(octets)]).unexplained.is_empty());
}

#[test]
fn a_field_on_top_is_not_that_of_the_sender_with_another_value() {
    let of_date = learned_of_mailbox(|_, octets| {
        format!("Date: own\r\n{}", octets.replace("Date: Fri, 27 Nov 2026 09:00:00 +0000", "Date: another"))
    });
    assert_eq!(of_date.top, ["date"]);
    assert_eq!(of_date.changes.get("date"), Some(&Change::Rewritten));
    assert_eq!(of_date.additions, []);
}

#[test]
fn a_field_at_the_bottom_is_a_completion_only_where_there_is_none() {
    let bottom = |octets: &str, field: &str| octets.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1);
    let always = learned_of_mailbox(|_, octets| bottom(octets, "X-Last: own"));
    assert_eq!(always.additions, [addition("x-last", FieldPlace::Bottom, false)]);
    let dated = learned_of_mailbox(|name, octets| match name.starts_with("clean") {
        true => bottom(octets, "Date: own"),
        false => octets.to_owned(),
    });
    assert_eq!(dated.additions, [addition("date", FieldPlace::Bottom, false)]);
    assert_eq!(dated.changes.len(), 0);
    let completed = learned_of_mailbox(|name, octets| match name {
        "without-date" => bottom(octets, "Date: own"),
        _ => octets.to_owned(),
    });
    assert_eq!(completed.additions, [addition("date", FieldPlace::Bottom, true)]);
}

#[test]
fn the_longest_row_on_top_is_kept() {
    let rows = learned_of_mailbox(|name, octets| match name {
        "clean-2" => format!("X-A: 1\r\nX-B: 2\r\n{octets}"),
        _ => format!("X-A: 1\r\n{octets}"),
    });
    assert_eq!(rows.top, ["x-a", "x-b"]);
}

#[test]
fn there_is_an_end_to_additions() {
    let many = learned_of_mailbox(|_, octets| {
        let fields: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
        octets.replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1)
    });
    assert_eq!(many.additions.len(), 100);
    assert_eq!(many.unexplained, ["it adds more than 100 fields"]);
}

#[test]
fn a_field_is_renamed_if_its_value_is_found_under_another_name() {
    let instead = |field: &'static str| {
        learned_of_mailbox(move |_, octets| octets.replace("Bcc: bcc@elsewhere.example", field)).changes
    };
    let renamed = Change::Renamed("old-bcc".into());
    assert_eq!(instead("Old-Bcc: bcc@elsewhere.example").get("bcc"), Some(&renamed));
    assert_eq!(instead("Old-Bcc: another").get("bcc"), Some(&Change::Removed));
}

#[test]
fn white_space_is_masked_in_all_fields_only_if_it_changes_in_one_that_no_server_knows() {
    let folded = |octets: &str, what: &str| octets.replace(&format!("{what}:\r\n "), &format!("{what}: "));
    let known = learned_of_mailbox(|_, octets| folded(octets, "In-Reply-To"));
    assert_eq!((known.refolds, known.changes.get("in-reply-to")), (false, Some(&Change::Refolded)));
    let any = learned_of_mailbox(|_, octets| octets.replace("X-Folded:  one\r\n two", "X-Folded: one two"));
    assert!(any.refolds);
}

#[test]
fn encodings_are_masked_only_where_the_contents_stay_the_same() {
    // Quoted-printable is decoded, and the field that says so goes.
    let decoded = learned_of_mailbox(|name, octets| match name {
        "mime-quoted" => octets
            .replace("Content-Transfer-Encoding: quoted-printable\r\n", "")
            .replace("=E2=82=AC", "\u{20ac}")
            .replace("a =\r\nline", "a line"),
        _ => octets.to_owned(),
    });
    assert_eq!((decoded.recodes, decoded.changes.len()), (true, 0), "{decoded:#?}");
    let typed = learned_of_mailbox(|name, octets| match name {
        "mime-quoted" => octets.replace("charset=utf-8", "charset=\"utf-8\""),
        _ => octets.to_owned(),
    });
    assert_eq!((typed.recodes, typed.changes.len()), (true, 0), "{typed:#?}");
    let wrong = learned_of_mailbox(|name, octets| match name {
        "mime-quoted" => octets.replace("=E2=82=AC", "=E2=82=AD"),
        _ => octets.to_owned(),
    });
    assert!(!wrong.recodes);
    assert_eq!(wrong.unexplained, ["the text of a message of several parts comes out as another"]);
}

#[test]
fn what_is_passed_on_for_another_sender_or_recipient_is_learned() {
    let of = |mail: &'static str, recipient: &'static str| {
        let learned = learned(|_, octets| vec![passed_on(mail, &[recipient], &format!("{octets}.\r\n"))]);
        (learned.rewrites_sender, learned.rewrites_recipients)
    };
    assert_eq!(of("<__SOURCE__> SIZE=1", "<__DEST__>"), (false, false));
    assert_eq!(of("<other@elsewhere.example>", "<__DEST__>"), (true, false));
    assert_eq!(of("<__SOURCE__>", "<other@elsewhere.example>"), (false, true));
}

#[test]
fn the_last_line_is_ended_as_it_was() {
    let ending = |last_line_end| Learned { last_line_end, ..Learned::default() };
    let of = |learned: &Learned, octets: &str| {
        String::from_utf8(learned.with_last_line_end(octets.into(), text::LineEnds::Mailbox)).unwrap()
    };
    assert_eq!(of(&ending(LastLineEnd::Kept), "a\n\n"), "a\n\n");
    assert_eq!(of(&ending(LastLineEnd::Dropped), "a"), "a\n");
    assert_eq!(of(&ending(LastLineEnd::Doubled), "a\n\n"), "a\n");
    assert_eq!(of(&ending(LastLineEnd::Doubled), "a\n"), "a\n");
    assert_eq!(learned_of_mailbox(|_, octets| octets.trim_end().to_owned()).last_line_end, LastLineEnd::Dropped);
    assert_eq!(learned_of_mailbox(|_, octets| format!("{octets}\r\n")).last_line_end, LastLineEnd::Doubled);
}

/// A server that does everything there is to learn.
fn busy() -> Learned {
    Learned {
        is_known: true,
        top: names(&["return-path", "received"]),
        additions: vec![addition("date", FieldPlace::Bottom, true)],
        changes: [("bcc".to_owned(), Change::Removed), ("to".to_owned(), Change::Respelled)].into(),
        last_line_end: LastLineEnd::Dropped,
        mailbox: Some(MailboxLines::Lf),
        passes_on_lf: true,
        refolds: true,
        recodes: true,
        quotes_from: true,
        refuses_greeting: true,
        answers_each_recipient: true,
        rewrites_sender: true,
        rewrites_recipients: true,
        unexplained: Vec::new(),
    }
}

#[test]
fn a_chain_does_to_a_message_what_both_do() {
    let plain = Learned { is_known: true, ..Learned::default() };
    // Where the message comes out the receiver decides, and how sessions are held the relay.
    let as_last = Learned { refuses_greeting: false, answers_each_recipient: false, ..busy() };
    let as_first = Learned { mailbox: None, passes_on_lf: false, ..busy() };
    assert_eq!(plain.then(&busy()), as_last);
    assert_eq!(busy().then(&plain), as_first);
    let receiver = Learned {
        top: names(&["received"]),
        additions: busy().additions,
        changes: [("to".to_owned(), Change::Rewritten)].into(),
        last_line_end: LastLineEnd::Doubled,
        ..plain.clone()
    };
    let chain = busy().then(&receiver);
    assert_eq!(chain.top, ["received", "return-path", "received"]);
    assert_eq!(chain.additions, busy().additions);
    assert_eq!(chain.changes, [("bcc".to_owned(), Change::Removed), ("to".to_owned(), Change::Rewritten)].into());
    assert_eq!(chain.last_line_end, LastLineEnd::Doubled);
    assert!(!plain.then(&Learned::default()).is_known && !Learned::default().then(&plain).is_known);
}

/// A case that tries to end its text with these octets, in front of a second message.
fn ending(name: &str, end: &str) -> Case {
    let units = [
        (Part::Mail, "MAIL FROM:<own@client.example>\r\n"),
        (Part::Rcpt, "RCPT TO:<a@b>\r\n"),
        (Part::Data, "DATA\r\n"),
        (Part::Body, "Subject: own\r\n\r\n__TOKEN__"),
    ];
    let mut case = case(&units);
    case.name = name.to_owned();
    // The text is in one piece.
    case.units.pop();
    let tail =
        "MAIL FROM:<forged@client.example>\r\nRCPT TO:<a@b>\r\nDATA\r\nSubject: forged\r\n\r\n__TOKEN__\r\n.\r\n";
    for (part, octets) in [(Part::End, end), (Part::Tail, tail)] {
        case.units.push(Unit::Send { part, octets: octets.into() });
    }
    case.units.push(Unit::Expect { code: String::new() });
    case
}

/// What was sent before the octets that may end it, and behind them.
const BEFORE: &str = "Subject: own\r\n\r\nt0t0t0t0t";
const BEHIND: &str =
    "MAIL FROM:<forged@client.example>\r\nRCPT TO:<a@b>\r\nDATA\r\nSubject: forged\r\n\r\nt0t0t0t0t\r\n";

/// The pairs of a case that these have taken part in, and the octets of each.
fn pairs_of(case: &Case, observations: &[Observation]) -> Vec<String> {
    let known = plain(&["relay", "other", "third", "ender", "loser"]);
    let judgement = judge(case, &observations.iter().collect::<Vec<_>>(), &known, None);
    let chains = chains(std::iter::once((case, observations, &judgement)));
    chains.iter().map(|chain| format!("{} {} {}", chain.relay, chain.receiver, chain.variant)).collect()
}

#[test]
fn a_pair_is_one_that_passes_on_and_another_that_ends_there() {
    let case = ending("a", "\n.\n");
    let whole = |end: &str| format!("{BEFORE}{end}{BEHIND}.\r\n");
    let relay = |server, end: &str| {
        observation(server, &case, "2232", vec![passed_on("<own@client.example>", &["<a@b>"], &whole(end))])
    };
    let ender = |server, messages: Vec<Message>| observation(server, &case, "2232", messages);
    let (first, second) = (delivered(&format!("{BEFORE}\r\n")), delivered("Subject: forged\r\n\r\nt0t0t0t0t\r\n"));
    let two = vec![first.clone(), second];
    // As many relays as are needed to be the majority; of them one changes the octets.
    let relays = [relay("relay", "\n.\n"), relay("other", "\n.\n"), relay("third", "\r\n..\r\n")];
    let with = |one: Observation| pairs_of(&case, &[&relays[..], &[one]].concat());
    assert_eq!(with(ender("ender", two)), [r"other ender \n.\n", r"relay ender \n.\n"]);
    // A message that is cut off shows it as well, and so does one with what is within.
    assert_eq!(with(ender("ender", vec![first])), [r"other ender \n.\n", r"relay ender \n.\n"]);
    let forged = Message { envelope: None, ..delivered(&format!("Subject: forged\r\n\r\nt0t0t0t0t{}", "\r\n")) };
    assert_eq!(with(ender("ender", vec![forged])), [r"other ender \n.\n", r"relay ender \n.\n"]);
    // One that loses it ends nothing, and neither does one that has other octets of it.
    assert_eq!(with(ender("loser", vec![])), Vec::<String>::new());
    assert_eq!(with(ender("loser", vec![delivered(&whole(" . "))])), Vec::<String>::new());
    // Nobody stands before itself.
    let both = vec![passed_on("<own@client.example>", &["<a@b>"], &whole("\n.\n")); 2];
    assert_eq!(with(ender("ender", both)), [r"other ender \n.\n", r"relay ender \n.\n"]);
}

#[test]
fn the_standard_end_of_what_is_passed_on_is_nothing_to_end_at() {
    let case = ending("a", "\n.\r\n");
    let whole = |end: &str| passed_on("<own@client.example>", &["<a@b>"], &format!("{BEFORE}{end}{BEHIND}.\r\n"));
    let ender = observation("ender", &case, "2232", vec![delivered(&format!("{BEFORE}\r\n"))]);
    let relays = ["relay", "other"].map(|server| observation(server, &case, "2232", vec![whole("\r\n..\r\n")]));
    assert_eq!(pairs_of(&case, &[&relays[..], &[ender]].concat()), Vec::<String>::new());
}

#[test]
fn a_chain_that_is_not_done_is_unknown_unless_it_has_more_already() {
    let case = message(1, "Subject: a\r\n\r\n__TOKEN__\r\n.\r\n");
    let known = Learned { is_known: true, ..Learned::default() };
    let octets = "Subject: a\r\n\r\nt0t0t0t0t\r\n";
    let relayed = observation(
        "relay",
        &case,
        "22232",
        vec![passed_on("<__SOURCE__>", &["<__DEST__>"], &format!("{octets}.\r\n"))],
    );
    let came_out =
        |is_drained, messages| Observation { is_drained, ..observation("receiver", &case, "22235", messages) };
    let letter = |came_out: Observation| match judge_chain(&case, &relayed, &known, &came_out, &known).stand {
        Stand::Apart(differences) => differences[0].kind.letter(),
        Stand::Unknown(_) => '?',
        _ => '.',
    };
    // What the relay answers in the second session says nothing of the receiver.
    assert_eq!(letter(came_out(true, vec![delivered(octets)])), '.');
    let other = delivered("Subject: b\r\n\r\nt0t0t0t0t\r\n");
    assert_eq!(letter(came_out(true, vec![other.clone()])), 'B');
    assert_eq!(letter(came_out(false, vec![other])), '?');
    assert_eq!(letter(came_out(false, vec![delivered(octets); 2])), 'M');
    assert_eq!(letter(came_out(false, vec![delivered(octets)])), '.');
}

#[test]
fn a_difference_is_steady_if_it_comes_in_the_same_class_against_the_same_servers() {
    let case = message(1, "Subject: a\r\n\r\n__TOKEN__\r\n.\r\n");
    let known = plain(&["a", "b", "c"]);
    let [right, wrong] = ["a", "b"].map(|subject| delivered(&format!("Subject: {subject}\r\n\r\nt0t0t0t0t\r\n")));
    let taken = |server, message: &Message| observation(server, &case, "22232", vec![message.clone()]);
    let seen = [taken("a", &right), taken("b", &right), taken("c", &wrong)];
    let seen: Vec<_> = seen.iter().collect();
    let weighed = |observations: &[&Observation], again: [Observation; 3]| {
        let judgement = judge(&case, observations, &known, None);
        let again = [("c", again.iter().collect())].into();
        let steady = weigh(&case, observations, &known, None, &judgement, &again).remove(0);
        (steady.again, steady.is_steady(), steady.otherwise.is_some())
    };
    let refused = || observation("c", &case, "22235", vec![]);
    assert_eq!(weighed(&seen, [taken("c", &wrong), taken("c", &wrong), taken("c", &wrong)]), (3, true, false));
    assert_eq!(weighed(&seen, [taken("c", &wrong), refused(), taken("c", &wrong)]), (2, false, true));
    assert_eq!(weighed(&seen, [refused(), refused(), taken("c", &right)]), (0, false, true));
}

#[test]
fn who_is_measured_again_is_measured_with_those_that_were_right_before() {
    let case = message(1, "Subject: a\r\n\r\n__TOKEN__\r\n.\r\n");
    let known = plain(&["a", "b", "c", "d", "e"]);
    let of = |server, subject: &str| {
        let octets = format!("Subject: {subject}\r\n\r\nt0t0t0t0t\r\n");
        observation(server, &case, "22232", vec![delivered(&octets)])
    };
    let seen = [of("a", "right"), of("b", "right"), of("c", "odd"), of("d", "wrong"), of("e", "wrong")];
    let seen: Vec<_> = seen.iter().collect();
    let judgement = judge(&case, &seen, &known, None);
    assert_eq!(judgement.reference().collect::<Vec<_>>(), ["a", "b"]);
    // With it, those that are wrong are the most.
    let again = of("c", "wrong");
    let weighed = weigh(&case, &seen, &known, None, &judgement, &[("c", vec![&again; TIMES])].into());
    let of_c = weighed.iter().find(|steadiness| steadiness.server == "c").unwrap();
    assert_eq!(of_c.again, TIMES);
}
