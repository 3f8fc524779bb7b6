//! Finds the line that decides if no rule does: that of a limit or another setting, recognised by the reply that it
//! causes.

use super::Difference;
use crate::config::Config;
use crate::smtp::reply::{self, Reply};

/// The line that decides how we reply now, if it can be told: its place and its directive.
pub(super) fn deciding(config: &Config, difference: &Difference) -> Option<String> {
    let directive = match &difference.reply {
        Some(reply) if reply.is_negative() => of_refusal(config, reply)?,
        _ => of_other_lines(&difference.then.replies, &difference.now.replies)?,
    };
    Some(match config.rules.line_of_setting(directive) {
        Some(line) => format!("{line}: {directive}"),
        None => format!("{directive}, by default"),
    })
}

fn of_refusal(config: &Config, reply: &Reply) -> Option<&'static str> {
    let is = |other: Reply| (reply.code, &reply.text) == (other.code, &other.text);
    let settings = [
        (reply::tls_required(), "tls"),
        (reply::authentication_required(), "auth"),
        (reply::tls_required_for_auth(), "auth_plaintext"),
    ];
    let setting = settings.into_iter().find(|(refusal, _)| is(refusal.clone())).map(|(_, setting)| setting);
    setting.or_else(|| config.limits.whose_reply(reply.code, &reply.text))
}

/// The first line of a greeting, or of the answer to EHLO, that was added or removed since then.
fn of_other_lines(then: &[String], now: &[String]) -> Option<&'static str> {
    let others = now.iter().filter(|line| !then.contains(line)).chain(then.iter().filter(|line| !now.contains(line)));
    let mut words = others.filter_map(|line| line.get(4..)?.split(' ').next());
    words.find_map(|word| KEYWORDS.iter().find(|(keyword, _)| *keyword == word).map(|(_, setting)| *setting))
}

/// What EHLO offers, and what it depends on.
const KEYWORDS: [(&str, &str); 4] =
    [("SIZE", "limit.smtp_data_size"), ("SMTPUTF8", "limit.smtp_ascii"), ("STARTTLS", "tls"), ("AUTH", "auth")];
