//! Prints the answer of `explain` for people.

use std::fmt::Write as _;

use super::{Answer, Explanation, LogLine, Stage};
use crate::config::Config;
use crate::log::Log;
use crate::untrusted::Untrusted;

pub(super) fn of(explanation: &Explanation<'_>, config: &Config, log: &Log) -> String {
    let mut text = String::new();
    let tls = if explanation.is_secured { ", under TLS" } else { "" };
    let _ = write!(text, "peer {}{tls}", explanation.peer);
    let _ = match explanation.user {
        Some(user) => writeln!(text, ", logged in as '{}'", Untrusted::new(user.as_bytes())),
        None => writeln!(text),
    };
    for note in &explanation.notes {
        let _ = writeln!(text, "  note: {}", note.replace('\n', "\n        "));
    }
    for stage in explanation.stages() {
        if let Some(answer) = &stage.answer {
            let _ = writeln!(text, "{}", Untrusted::new(stage.command.as_bytes()));
            show(&mut text, stage, answer, config, log);
        }
    }
    text
}

fn show(text: &mut String, stage: &Stage<'_>, answer: &Answer<'_>, config: &Config, log: &Log) {
    for finding in &answer.findings {
        let _ = writeln!(text, "  {finding}");
    }
    // The reply to EHLO says nothing about this peer.
    if stage.address.is_some() || answer.reply.is_negative() {
        for line in String::from_utf8_lossy(&answer.sent).lines() {
            let _ = writeln!(text, "  reply: {line}");
        }
    }
    if let Some(LogLine { text: line, is_counted }) = &answer.refusal {
        let _ = writeln!(text, "  log:   {}", log.line(line));
        let counts = if *is_counted { "counts" } else { "does not count" };
        let _ = writeln!(text, "  ban:   the fail2ban filter {counts} that line");
    }
    for destination in &answer.destinations {
        let _ = writeln!(text, "destination: {} ({})", destination.shown, config.rules.origin(destination.origin));
        let _ = match &destination.log {
            Some(line) => writeln!(text, "  log:   {}", log.line(&line.text)),
            None => writeln!(text, "  log:   nothing, without debug flag +"),
        };
    }
}
