//! What is another way now, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::play::{Difference, Played, Told};
use super::settings;
use crate::config::Config;
use crate::transcript::{Ruled, Transcript};
use crate::untrusted::Untrusted;

/// Every difference with its place.
pub(super) fn for_people(config: &Config, file: &Path, played: &Played) -> String {
    let mut text = String::new();
    for difference in &played.differences {
        let said = Untrusted::new(difference.said.as_bytes()).for_people();
        let _ = writeln!(text, "{}:{}: {said}", file.display(), difference.line);
        told(&mut text, "then:", &difference.then);
        told(&mut text, "now: ", &difference.now);
        for why in why(config, difference) {
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
pub(super) fn for_programs(config: &Config, file: &Path, transcript: &Transcript, played: &Played) -> String {
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
            "why": why(config, difference),
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

/// What of a difference is the same for many sessions, of one or more lines.
pub(super) fn kind_of(config: &Config, difference: &Difference) -> String {
    let verb = difference.said.split([' ', ':']).next().unwrap_or_default();
    let mut text = format!("{}\n", Untrusted::new(verb.as_bytes()).for_people());
    // What is in the answer to one EHLO only is what matters of it.
    let (then, now) = (&difference.then, &difference.now);
    let only = |these: &Told, others: &Told| {
        let is_other =
            |reply: &&String| !others.replies.iter().any(|other| without_peers(other) == without_peers(reply));
        let replies = these.replies.iter().filter(is_other).map(|reply| without_peers(reply).to_owned()).collect();
        let has_other_rules = these.rules.len() != others.rules.len()
            || these.rules.iter().zip(&others.rules).any(|(this, other)| !this.agrees_with(other));
        Told { rules: if has_other_rules { these.rules.clone() } else { Vec::new() }, replies }
    };
    told(&mut text, "then:", &only(then, now));
    told(&mut text, "now: ", &only(now, then));
    for line in why(config, difference) {
        let line = line.split_once(": ").map_or(&*line, |(line, _)| line);
        let _ = writeln!(text, "  why:  {}", Untrusted::new(line.as_bytes()).for_people());
    }
    text
}

/// A reply without our name for a message, which is another each time.
fn without_peers(reply: &str) -> &str {
    reply.split_once(" id=").or_else(|| reply.split_once(" Hello ")).map_or(reply, |(before, _)| before)
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
fn why(config: &Config, difference: &Difference) -> Vec<String> {
    let (then, now) = (&difference.then.rules, &difference.now.rules);
    let rules_agree = then.len() == now.len() && then.iter().zip(now).all(|(then, now)| then.agrees_with(now));
    match rules_agree {
        false => difference.why.clone(),
        true => settings::deciding(config, difference).into_iter().collect(),
    }
}
