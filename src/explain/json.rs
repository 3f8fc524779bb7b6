//! Prints the answer of `explain` for programs: a JSON object on one line. mailrecv(8), EXPLAIN FOR PROGRAMS, is the
//! reference. Fields may be added, but none is renamed or removed.

use std::path::Path;

use serde_json::{Value, json};

use super::{Answer, Destination, Explanation, Stage};
use crate::config::{Config, Finding, LineName, Origin, Protocol, Verdict};
use crate::smtp::reply::Reply;

/// `main` is the configuration file; lines that name no file are in it.
pub(super) fn of(explanation: &Explanation<'_>, config: &Config, main: &Path) -> String {
    let teller = Teller { explanation, config, main };
    format!("{}\n", teller.whole())
}

struct Teller<'t> {
    explanation: &'t Explanation<'t>,
    config: &'t Config,
    main: &'t Path,
}

impl Teller<'_> {
    fn whole(&self) -> Value {
        let Explanation { peer, protocol, is_secured, user, notes, connection, sender, recipients } = self.explanation;
        let stages = || self.explanation.stages().filter(|stage| stage.answer.is_some());
        // The first refusal decides, or the last answer if there is none.
        let decisive = stages().find(|stage| !stage.is_accepted()).or_else(|| stages().last());
        json!({
            "accepted": self.explanation.is_accepted(),
            "peer": peer.for_programs(),
            "user": user,
            "protocol": match protocol { Protocol::Smtp => "smtp", Protocol::Lmtp => "lmtp" },
            "tls": is_secured,
            "notes": notes.iter().map(|note| note.replace('\n', " ")).collect::<Vec<_>>(),
            "reply": decisive.map(told_reply),
            "fail2ban": stages().any(is_counted),
            "connection": self.stage(connection),
            "sender": self.stage_about(sender),
            "recipients": recipients.iter().map(|recipient| self.recipient(recipient)).collect::<Vec<_>>(),
        })
    }

    fn recipient(&self, stage: &Stage<'_>) -> Value {
        let destinations = stage.answer.iter().flat_map(|answer| &answer.destinations);
        let mut told = self.stage_about(stage);
        told["destinations"] = destinations.map(|destination| self.destination(destination)).collect();
        told
    }

    fn stage_about(&self, stage: &Stage<'_>) -> Value {
        let mut told = self.stage(stage);
        told["address"] = json!(stage.address);
        told
    }

    fn stage(&self, stage: &Stage<'_>) -> Value {
        let findings = stage.answer.iter().flat_map(|answer| &answer.findings);
        let lines = stage.answer.iter().flat_map(Answer::log);
        let peer = self.explanation.peer.address;
        json!({
            "accepted": stage.is_accepted(),
            "rules": findings.map(|finding| self.rule(finding)).collect::<Vec<_>>(),
            "reply": told_reply(stage),
            "log": lines.map(|line| format!("[{peer}] {}", line.text)).collect::<Vec<_>>(),
            "fail2ban": is_counted(stage),
        })
    }

    fn rule(&self, finding: &Finding<'_>) -> Value {
        let verdict = match finding.verdict {
            Verdict::Matches => "matches",
            Verdict::DoesNotMatch => "does_not_match",
            Verdict::AsBefore => "as_before",
        };
        json!({
            "file": finding.line.map(|line| self.file(line)),
            "line": finding.line.map(LineName::number),
            "rule": finding.rule,
            "verdict": verdict,
            "text": finding.text,
        })
    }

    fn destination(&self, Destination { action, arguments, origin, .. }: &Destination) -> Value {
        let line = match origin {
            Origin::Line(number) => Some(self.config.rules.line(*number)),
            Origin::DeadLetterFile => None,
        };
        json!({
            "action": action,
            "arguments": arguments,
            "file": line.map(|line| self.file(line)),
            "line": line.map(LineName::number),
        })
    }

    fn file(&self, line: LineName<'_>) -> String {
        line.file().unwrap_or(self.main).to_string_lossy().into_owned()
    }
}

/// The reply to a command as the peer receives it.
fn told_reply(stage: &Stage<'_>) -> Value {
    let sent = stage.answer.as_ref().and_then(|answer| Reply::parse(&answer.sent).ok().flatten());
    sent.map_or(Value::Null, |(Reply { code, status, text, .. }, _)| {
        json!({ "to": stage.verb, "code": code, "status": status.map(|status| status.to_string()), "text": text })
    })
}

fn is_counted(stage: &Stage<'_>) -> bool {
    stage.answer.iter().flat_map(Answer::log).any(|line| line.is_counted)
}
