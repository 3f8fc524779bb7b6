//! Finds the line that decides if no rule does: that of a limit or another setting, recognised by the reply that it
//! causes.

use std::cell::RefCell;
use std::collections::HashMap;

use super::Difference;
use crate::config::Config;
use crate::smtp::reply::{self, Reply};

/// The settings of a configuration, and where those are that were looked for: what differs once often differs in each
/// session, and looking reads all lines.
pub(super) struct Settings<'c> {
    config: &'c Config,
    found: RefCell<HashMap<&'static str, String>>,
}

impl<'c> Settings<'c> {
    /// Those of this configuration.
    pub(super) fn new(config: &'c Config) -> Self {
        Self { config, found: RefCell::default() }
    }

    /// The line that decides how we reply now, if it can be told: its place and its directive.
    pub(super) fn deciding(&self, difference: &Difference) -> Option<String> {
        let directive = match (difference.setting, &difference.reply) {
            (Some(directive), _) => directive,
            (None, Some(reply)) if reply.is_negative() => of_refusal(self.config, reply)?,
            _ => of_other_lines(&difference.then.replies, &difference.now.replies)?,
        };
        let look = || match self.config.rules.line_of_setting(directive) {
            Some(line) => format!("{line}: {directive}"),
            None => format!("{directive}, by default"),
        };
        Some(self.found.borrow_mut().entry(directive).or_insert_with(look).clone())
    }
}

fn of_refusal(config: &Config, reply: &Reply) -> Option<&'static str> {
    let is = |other: Reply| (reply.code, &reply.text) == (other.code, &other.text);
    let settings = [
        (reply::TLS_REQUIRED, "tls"),
        (reply::AUTHENTICATION_REQUIRED, "auth"),
        (reply::TLS_REQUIRED_FOR_AUTH, "auth_plaintext"),
    ];
    let setting = settings.into_iter().find(|(refusal, _)| is(refusal.clone())).map(|(_, setting)| setting);
    setting.or_else(|| config.limits.whose_reply(reply.code, &reply.text))
}

/// The first line of a greeting, or of the answer to EHLO, that was added or removed since then.
fn of_other_lines(then: &[String], now: &[String]) -> Option<&'static str> {
    // What was refused then and is not now depends on something else.
    let code = |replies: &[String]| replies.last().and_then(|reply| reply.get(..3)).map(str::to_owned);
    if code(then) != code(now) {
        return None;
    }
    let others = now.iter().filter(|line| !then.contains(line)).chain(then.iter().filter(|line| !now.contains(line)));
    let mut words = others.filter_map(|line| line.get(4..)?.split(' ').next());
    words.find_map(|word| KEYWORDS.iter().find(|(keyword, _)| *keyword == word).map(|(_, setting)| *setting))
}

/// What EHLO offers, and what it depends on.
const KEYWORDS: [(&str, &str); 4] =
    [("SIZE", "limit.smtp_data_size"), ("SMTPUTF8", "limit.smtp_ascii"), ("STARTTLS", "tls"), ("AUTH", "auth")];
