//! `explain --json` beside `explain`, beside what a real session says and logs, and beside what fail2ban makes of that.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use testkit::process::succeeds;
use testkit::{Session, debian, repository};

use crate::support::{CONFIG, MAILRECV, Scratch};

/// A configuration, a peer and a message, and the code of the reply that decides.
struct Case {
    rules: &'static str,
    options: &'static [&'static str],
    /// What follows the address.
    name: &'static str,
    from: &'static str,
    recipients: &'static [&'static str],
    code: u16,
}

const NAMED: &str = "=mail.example.net";

const fn case(rules: &'static str, from: &'static str, recipients: &'static [&'static str], code: u16) -> Case {
    Case { rules, options: &[], name: NAMED, from, recipients, code }
}

/// Every kind of decision that there is before a message comes.
const CASES: &[Case] = &[
    case("deliver rcpt_to fred append inbox", "a@b.example", &["fred@mx.example"], 250),
    case("deliver rcpt_to fred append inbox\ncopy rcpt_to * maildir all/", "", &["fred"], 250),
    case("deadletter_file dead", "a@b.example", &["anybody@mx.example"], 250),
    case("deliver rcpt_to fred pipe cat \"a b\" >x", "a@b.example", &["fred+tag@mx.example"], 250),
    case("debug -\ndeliver rcpt_to fred discard", "a@b.example", &["fred@mx.example"], 250),
    case("", "a@b.example", &["nobody@mx.example"], 550),
    case("", "a@b.example", &["'[192.0.2.1]\u{1}x'@mx.example"], 500),
    case("", "a@b.example", &["no address"], 501),
    case("", "no address", &["fred@mx.example"], 501),
    case("limit.smtp_ascii on", "\u{fc}@b.example", &["fred@mx.example"], 500),
    case("error rcpt_to ^fred@ 550 Fred's [192.0.2.1] gone, \"quoted\" \\ \u{fc}", "", &["fred@mx.example"], 550),
    case("error rcpt_to ^fred@ 550 5.1.6 Moved", "", &["fred@mx.example"], 550),
    case("error rcpt_to ^fred@ 451 Not now", "", &["fred@mx.example"], 451),
    case("error rcpt_to ^fred@ 554 The command that takes this mail is broken", "", &["fred@mx.example"], 554),
    case("error mail_from @b\\.example$ 553 No", "a@b.example", &["fred@mx.example"], 553),
    case("error mail_from @b\\.example$ 450 Later", "a@b.example", &["fred@mx.example"], 450),
    case("allow mail_from @good\\.example$", "a@b.example", &["fred@mx.example"], 550),
    case("deny remotehost ^mail\\.example\\.net$", "a@b.example", &["fred@mx.example"], 550),
    case("allow remotehost net 198.51.100.0/24", "a@b.example", &["fred@mx.example", "wilma@mx.example"], 550),
    case("allowgroup +few ^few\\.\ndeliver allowgroup +few rcpt_to fred discard", "", &["fred@mx.example"], 550),
    case("limit.smtp_rcpt_to 1\ndeliver rcpt_to * discard", "", &["fred@mx.example", "wilma@mx.example"], 452),
    case("deliver rcpt_to * pipe cat", "", &["fred@mx.example", "wilma@mx.example", "fred@mx.example"], 452),
    case("deliver rcpt_to fred discard", "", &["nobody@mx.example", "fred@mx.example", "none@mx.example"], 550),
    Case {
        options: &["--lmtp"],
        ..case("deliver rcpt_to * pipe cat", "", &["fred@mx.example", "wilma@mx.example"], 250)
    },
    Case { options: &["--lmtp"], ..case("", "a@b.example", &["nobody@mx.example"], 550) },
    Case { name: "", ..case("limit.fcrdns_check off", "a@b.example", &["nobody@mx.example"], 550) },
];

/// For every case: the same facts in both forms, the replies and the lines of the log that a session has, and what
/// fail2ban counts in that log.
#[test]
fn explain_agrees_with_sessions_and_with_fail2ban() {
    let (mut logs, mut expected) = (String::new(), Vec::new());
    for (number, case) in CASES.iter().enumerate() {
        let address = format!("203.0.113.{}", number + 1);
        let peer = format!("{address}{}", case.name);
        let scratch = scratch(case.rules);
        let (explained, text) = explain(&scratch, case, &peer);
        assert_eq!(explained["reply"]["code"], case.code, "{}: {}: {explained}", case.rules, explained["reply"]);
        assert_eq!(explained["peer"]["address"], json!(address));
        assert_eq!(explained["accepted"], case.code < 400, "{explained}");
        assert_same_facts(&explained, &text);

        let (replies, log) = session(&scratch, case, &peer);
        let told: Vec<&Value> =
            stages(&explained).map(|stage| &stage["reply"]).filter(|reply| !reply.is_null()).collect();
        assert_eq!(told.len(), replies.len(), "{replies:?} {explained}");
        for (told, reply) in told.iter().zip(&replies) {
            assert_eq!(wire(told), *reply, "{}", case.rules);
        }
        let refusals = strings(&explained, "log").filter(|line| !line.contains("] Mail id="));
        assert_eq!(refusals.collect::<Vec<_>>(), log, "{}: {explained}", case.rules);
        logs += &scratch.read("log");
        expected.push((address, explained["fail2ban"].as_bool().unwrap()));
    }
    assert!(expected.iter().filter(|(_, is_counted)| *is_counted).count() > 8, "{expected:?}");
    let folder = Scratch::new();
    let counted = hits(&folder.write("logs", logs));
    let counted: Vec<_> = expected.iter().map(|(address, _)| (address.clone(), counted.contains(address))).collect();
    assert_eq!(expected, counted);
}

/// One object on one line, in the documented form, whatever is asked.
#[test]
fn explain_for_programs_has_every_field() {
    let page = repository::text("etc/man/mailrecv.8");
    let section = page.split(".Sh EXPLAIN FOR PROGRAMS").nth(1).expect("the section").split("\n.Sh ").next().unwrap();
    let documented: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix(".It Va ")).collect();
    let mut found = Vec::new();
    for case in CASES {
        let (explained, _) = explain(&scratch(case.rules), case, "192.0.2.7=mail.example.net");
        fields(&explained, "", &mut found);
    }
    found.sort();
    found.dedup();
    let mut expected: Vec<String> = Vec::new();
    for name in documented {
        expected.extend(name.split(" , ").map(str::to_owned));
    }
    // What connection, sender and recipients have in common is described once.
    let common = |name: &String| {
        name.replace("connection.", "STAGE.").replace("sender.", "STAGE.").replace("recipients[].", "STAGE.")
    };
    let sorted = |names: Vec<String>| {
        let mut names: Vec<String> = names.iter().map(common).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(sorted(found), sorted(expected));
}

/// A user of this host has no address, and fail2ban counts nothing against one.
#[test]
fn explain_for_programs_knows_users_of_this_host() {
    let scratch = scratch("allow remotehost uid root\n");
    for (peer, uid) in [("local=105", json!(105)), ("local", Value::Null)] {
        let case = case("", "", &["fred@mx.example"], 550);
        let (explained, _) = explain(&scratch, &case, peer);
        assert_eq!(explained["peer"], json!({ "address": null, "name": null, "uid": uid }));
        assert_eq!((&explained["reply"]["code"], &explained["fail2ban"]), (&json!(550), &json!(false)));
        assert_eq!(explained["reply"]["to"], "EHLO");
    }
}

/// Places of rules and destinations, those of included files too.
#[test]
fn explain_for_programs_names_places() {
    let scratch = scratch("include more.conf\ndeadletter_file dead\n");
    scratch.write("more.conf", "# users\ndeliver rcpt_to /^fred@/ append \"in box\"\n");
    let case = case("", "", &["fred@mx.example", "x@mx.example"], 250);
    let (explained, _) = explain(&scratch, &case, "192.0.2.7=mail.example.net");
    assert_eq!(
        explained["recipients"][0]["rules"],
        json!([{
            "file": "more.conf", "line": 2, "rule": "deliver rcpt_to", "verdict": "matches",
            "text": "deliver rcpt_to: 'fred@mx.example' matches '^fred@'",
        }])
    );
    let destination = |place: usize| explained["recipients"][place]["destinations"].clone();
    assert_eq!(
        destination(0),
        json!([{ "action": "append", "arguments": ["in box"], "file": "more.conf", "line": 2 }])
    );
    assert_eq!(destination(1), json!([{ "action": "append", "arguments": ["dead"], "file": null, "line": null }]));
}

/// The configuration that all have.
fn scratch(rules: &str) -> Scratch {
    Scratch::with_config(
        &format!("domain mx.example\nlogfile log\ndebug +\n{rules}\n").replace("debug +\ndebug -\n", ""),
    )
}

/// What `explain` says in both forms, which have one exit status.
fn explain(scratch: &Scratch, case: &Case, peer: &str) -> (Value, String) {
    let mut arguments = [&["-c", CONFIG], case.options, &["explain", "--peer", peer, "--from", case.from]].concat();
    for recipient in case.recipients {
        arguments.extend(["--rcpt", recipient]);
    }
    let text = scratch.run(MAILRECV, &arguments);
    arguments.push("--json");
    let output = scratch.run(MAILRECV, &arguments);
    assert_eq!(output.status, text.status);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    let explained: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(explained["accepted"], output.status.code() == Some(0), "{explained}");
    (explained, String::from_utf8(text.stdout).unwrap())
}

/// The replies that a peer gets until there is nothing more to say, and the log's refusals.
fn session(scratch: &Scratch, case: &Case, peer: &str) -> (Vec<String>, Vec<String>) {
    let mut session = Session::start(scratch.mailrecv(&[case.options, &["-d", "-", "--peer", peer]].concat()));
    session.expect("220 ");
    let hello = if case.options.is_empty() { "EHLO" } else { "LHLO" };
    let envelope = [format!("{hello} explain.invalid"), format!("MAIL FROM:<{}>", case.from)];
    let recipients = case.recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>"));
    let mut replies = Vec::new();
    for command in envelope.iter().cloned().chain(recipients) {
        let reply = session.ask(&command).to_string();
        let is_over = !reply.starts_with("250") && !command.starts_with("RCPT");
        replies.push(reply.trim_end().replace("\r\n", "\n"));
        if is_over {
            break;
        }
    }
    // A line is there before the reply that it is about; behind that is what the log says of a peer without QUIT.
    let log = scratch.log();
    drop(session);
    (replies, log)
}

/// Every rule, reply, line of the log and destination of one form is in the other.
fn assert_same_facts(explained: &Value, text: &str) {
    let mut facts = String::new();
    for stage in stages(explained) {
        for rule in stage["rules"].as_array().unwrap() {
            let place = match (&rule["file"], &rule["line"]) {
                (Value::Null, Value::Null) => String::new(),
                (file, line) if *file == CONFIG => format!("line {line}: "),
                (file, line) => format!("line {line} of {}: ", file.as_str().unwrap()),
            };
            writeln!(facts, "  {place}{}", rule["text"].as_str().unwrap()).unwrap();
        }
        let is_refused = stage["accepted"] == false;
        let reply = &stage["reply"];
        if !reply.is_null() && (is_refused || reply["to"] != "EHLO" && reply["to"] != "LHLO") {
            wire(reply).lines().for_each(|line| writeln!(facts, "  reply: {line}").unwrap());
        }
        let mut log = stage["log"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        if is_refused && !reply.is_null() {
            let counts = if stage["fail2ban"] == true { "counts" } else { "does not count" };
            let line = log.next().unwrap();
            writeln!(facts, "  log:   {line}\n  ban:   the fail2ban filter {counts} that line").unwrap();
        }
        for destination in stage["destinations"].as_array().into_iter().flatten() {
            let arguments = destination["arguments"].as_array().unwrap().iter();
            let arguments: String = arguments.map(|it| format!(" '{}'", it.as_str().unwrap())).collect();
            let origin = match &destination["line"] {
                Value::Null => "deadletter_file".to_owned(),
                line => format!("line {line}"),
            };
            writeln!(facts, "destination: {}{arguments} ({origin})", destination["action"].as_str().unwrap()).unwrap();
            let line = log.next().unwrap_or("nothing, without debug flag +");
            writeln!(facts, "  log:   {line}").unwrap();
        }
        assert_eq!(log.next(), None);
    }
    let without_date = |line: &str| match (line.strip_prefix("  log:   "), line.split_once("]: ")) {
        (Some(_), Some((_, logged))) => format!("  log:   {logged}"),
        _ => line.to_owned(),
    };
    let is_fact =
        |line: &&str| line.starts_with("  ") && !line.starts_with("  note:") || line.starts_with("destination:");
    let shown: Vec<String> = text.lines().filter(is_fact).map(without_date).collect();
    assert_eq!(shown, facts.lines().collect::<Vec<_>>(), "{text}\n{explained}");
}

/// A reply as it goes over the wire.
fn wire(reply: &Value) -> String {
    let status = reply["status"].as_str().map_or(String::new(), |status| format!("{status} "));
    let lines: Vec<&str> = reply["text"].as_str().unwrap().split('\n').collect();
    let line = |(number, line): (usize, &&str)| {
        let separator = if number + 1 < lines.len() { '-' } else { ' ' };
        format!("{}{separator}{status}{line}", reply["code"])
    };
    lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn stages(explained: &Value) -> impl Iterator<Item = &Value> {
    let recipients = explained["recipients"].as_array().unwrap();
    [&explained["connection"], &explained["sender"]].into_iter().chain(recipients)
}

/// The texts in this list of every stage.
fn strings<'v>(explained: &'v Value, field: &'static str) -> impl Iterator<Item = &'v str> {
    stages(explained).flat_map(move |stage| stage[field].as_array().unwrap()).map(|text| text.as_str().unwrap())
}

/// The names of all fields, those of objects in lists behind `[].`.
pub(crate) fn fields(value: &Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                found.push(name.clone());
                fields(value, &name, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, &format!("{prefix}[]"), found)),
        _ => {}
    }
}

/// Whom the shipped filter finds in a log.
fn hits(log: &Path) -> Vec<String> {
    let mut regex = debian::fail2ban("fail2ban-regex");
    regex.args(["--out", "ip", "--usedns", "no"]).arg(log);
    regex.arg(repository::path("etc/fail2ban/filter.d/mailrecv.conf"));
    succeeds(regex, "").split_whitespace().map(str::to_owned).collect()
}
