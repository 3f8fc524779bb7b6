//! What is another way now, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::exchange::Told;
use super::play::{Difference, Played};
use super::settings::Settings;
use crate::peer::Peer;
use crate::transcript::{Ruled, Transcript};
use crate::untrusted::Untrusted;

/// Every difference with its place.
pub(super) fn for_people(settings: &Settings<'_>, file: &Path, played: &Played) -> String {
    let mut text = String::new();
    for difference in &played.differences {
        let said = Untrusted::new(difference.said.as_bytes()).for_people();
        let _ = writeln!(text, "{}:{}: {said}", file.display(), difference.line);
        told(&mut text, "then:", &difference.then);
        told(&mut text, "now: ", &difference.now);
        for why in why(settings, difference) {
            let _ = writeln!(text, "  why:  {}", Untrusted::new(why.as_bytes()).for_people().whole());
        }
    }
    if let Some((line, why)) = played.rest {
        let _ = writeln!(text, "{}:{line}: {why}: what follows is not compared", file.display());
    }
    text
}

/// The same as one object on one line. mailrecv(8), REPLAY FOR PROGRAMS, is the reference; fields are added, and none is
/// renamed or removed.
pub(super) fn for_programs(settings: &Settings<'_>, file: &Path, transcript: &Transcript, played: &Played) -> String {
    let told = |told: &Told| {
        let rules = told
            .rules
            .iter()
            .map(|Ruled { about, verdict, by }| json!({ "about": about.word(), "verdict": verdict, "by": by }));
        json!({ "decisions": rules.collect::<Vec<Value>>(), "replies": told.replies })
    };
    let differences = played.differences.iter().map(|difference| {
        json!({
            "line": difference.line,
            "said": difference.said,
            "then": told(&difference.then),
            "now": told(&difference.now),
            "why": why(settings, difference),
        })
    });
    let whole = json!({
        "file": file.to_string_lossy(),
        "time": transcript.header.time,
        "peer": transcript.header.peer.for_programs(),
        "differs": !played.differences.is_empty(),
        "differences": differences.collect::<Vec<Value>>(),
        "not_compared_from": played.rest.map(|(line, _)| line),
    });
    format!("{whole}\n")
}

/// What of a difference is the same for many sessions, of one or more lines: who the peer is, what else it was told and our
/// name for a message are not.
pub(super) fn kind_of(settings: &Settings<'_>, peer: &Peer, difference: &Difference) -> String {
    let verb = difference.said.split([' ', ':']).next().unwrap_or_default();
    let mut text = format!("{}\n", Untrusted::new(verb.as_bytes()).for_people());
    let peer = peer.to_string();
    let general = |reply: &str| {
        let reply = reply.split_once(", id=").map_or(reply, |(before, _)| before);
        reply.replace(&peer, "(the peer)")
    };
    let (then, now) = (&difference.then, &difference.now);
    let only = |these: &Told, others: &Told| {
        let others_say: Vec<String> = others.replies.iter().map(|reply| general(reply)).collect();
        let replies = these.replies.iter().map(|reply| general(reply)).filter(|reply| !others_say.contains(reply));
        let rules = if these.has_rules_of(others) { Vec::new() } else { these.rules.clone() };
        Told { rules, replies: replies.collect() }
    };
    told(&mut text, "then:", &only(then, now));
    told(&mut text, "now: ", &only(now, then));
    for line in why(settings, difference) {
        let line = line.split_once(": ").map_or(&*line, |(line, _)| line);
        let _ = writeln!(text, "  why:  {}", Untrusted::new(line.as_bytes()).for_people());
    }
    text
}

fn told(text: &mut String, when: &str, told: &Told) {
    let rules = told.rules.iter().map(|Ruled { about, verdict, by }| match by {
        Some(by) => format!("{}: {verdict} ({by})", about.word()),
        None => format!("{}: {verdict}", about.word()),
    });
    let mut lines = rules.chain(told.replies.iter().cloned()).collect::<Vec<_>>();
    if lines.is_empty() {
        lines.push("(nothing)".to_owned());
    }
    for (number, line) in lines.iter().enumerate() {
        let when = if number == 0 { when } else { "     " };
        let _ = writeln!(text, "  {when} {}", Untrusted::new(line.as_bytes()).for_people().whole());
    }
}

/// What decides now: lines of rules, or else of a setting.
fn why(settings: &Settings<'_>, difference: &Difference) -> Vec<String> {
    // A session that was refused before any rule was asked has none to name.
    let are_rules = !difference.now.rules.is_empty() && !difference.then.has_rules_of(&difference.now);
    match are_rules {
        true => difference.why.clone(),
        false => settings.deciding(difference).into_iter().collect(),
    }
}
