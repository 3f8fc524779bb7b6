//! Checks that depend on several lines about authentication, and the check of the file of accounts, for `mailrecv
//! check`.
//!
//! A session opens the file and reads it when a peer logs in. An error in one of its lines affects that account only:
//! logging in to it is answered 454.

use std::collections::HashSet;
use std::fs::File;

use super::diagnostic::{Diagnostic, Severity};
use super::rules::Rules;
use super::setting_lines::{SettingLine, SettingLines};
use super::settings::{AuthUse, Config, Setting, TlsUse};
use super::sources;
use super::writers::{self, Content};
use crate::accounts::{self, Mistake};

/// The lines about authentication.
#[derive(Debug)]
pub(super) struct AuthLines(SettingLines);

impl AuthLines {
    pub(super) fn find(rules: &Rules) -> Result<Self, Diagnostic> {
        SettingLines::find(rules, |setting| {
            matches!(
                setting,
                Setting::auth_file(_) | Setting::auth_users(_) | Setting::auth_use(_) | Setting::auth_plaintext(_)
            )
        })
        .map(Self)
    }

    /// The line that asks for authentication: the last `auth`, or else the first with accounts.
    fn asking(&self) -> Option<&SettingLine> {
        let asking = self.0.of(|setting| matches!(setting, Setting::auth_use(_))).last();
        asking.or_else(|| self.file()).or_else(|| self.users().next())
    }

    fn users(&self) -> impl Iterator<Item = &SettingLine> {
        self.0.of(|setting| matches!(setting, Setting::auth_users(_)))
    }

    /// Warnings about users whose name an earlier line has already.
    fn repeated_users(&self) -> impl Iterator<Item = Diagnostic> {
        let mut names = HashSet::new();
        self.users().filter(move |line| !names.insert(line.value())).map(|line| {
            line.cite(Severity::Warning, "this account is there already: the first line counts, remove one".to_owned())
        })
    }

    fn file(&self) -> Option<&SettingLine> {
        self.0.of(|setting| matches!(setting, Setting::auth_file(_))).last()
    }

    /// The error if the last `auth` line needs something that is missing.
    pub(super) fn missing(&self, config: &Config) -> Vec<Diagnostic> {
        let message = if config.has_accounts() {
            format!("nobody could ever send mail: {NOBODY}")
        } else {
            "this needs accounts: write `auth_file FILE`, and make its lines with `mailrecv passwd NAME`".to_owned()
        };
        self.asking().map(|line| line.cite(Severity::Error, message)).into_iter().collect()
    }
}

impl Config {
    /// Whether authentication is wanted but a line that it needs is missing.
    pub(super) fn lacks_auth_lines(&self) -> bool {
        match self.auth() {
            AuthUse::Off => false,
            AuthUse::Offer => !self.has_accounts(),
            AuthUse::Require => !self.has_accounts() || !self.can_authenticate(),
        }
    }

    /// Whether passwords can be sent on any connection.
    fn can_authenticate(&self) -> bool {
        self.auth_plaintext || self.tls() != TlsUse::Off
    }

    /// Checks the file of accounts. How lines fit together is checked only if all of them could be read (`is_whole`).
    pub(super) fn check_auth(&self, is_whole: bool) -> Vec<Diagnostic> {
        if self.auth() == AuthUse::Off {
            return self.rules.warn_of_members(
                |member| member.auth().map(|pattern| (pattern.position(), pattern.source())),
                "nobody logs in here: write `auth_file FILE`",
            );
        }
        // If the file cannot be read a second time, the check of the rules reports that.
        let Ok(lines) = AuthLines::find(&self.rules) else { return Vec::new() };
        let mut found = Vec::new();
        if let Some(line) = lines.asking().filter(|_| is_whole && !self.can_authenticate()) {
            found.push(line.cite(Severity::Warning, format!("nobody can log in here: {NOBODY}")));
        }
        let unreadable = match self.auth() {
            AuthUse::Off | AuthUse::Offer => Severity::Warning,
            // If authentication is required, no mail can be sent without accounts.
            AuthUse::Require => Severity::Error,
        };
        found.extend(lines.repeated_users());
        found.extend(lines.file().into_iter().flat_map(|line| check_file(line, unreadable)));
        found
    }
}

/// Checks the file that this line names. `unreadable` is the severity if it cannot be read.
fn check_file(line: &SettingLine, unreadable: Severity) -> Vec<Diagnostic> {
    let mut found: Vec<_> = line.public_secret("try passwords at leisure").into_iter().collect();
    found.extend(writable(line));
    let checked = match accounts::check(line.path()) {
        Ok(checked) => checked,
        Err(why) => {
            found.push(line.about(unreadable, format_args!("{why:#}: nobody can log in")));
            return found;
        }
    };
    if checked.accounts == 0 && checked.mistakes.is_empty() {
        let what = "has no account: make a line for one with `mailrecv passwd NAME`";
        found.push(line.about(Severity::Warning, what));
    }
    if checked.with_scram > 0 && checked.with_scram < checked.accounts {
        let what = format!(
            "keeps {} of {} passwords in another form than scram-sha-256, so that SCRAM-SHA-256 is not offered: clients \
             prefer it, and it would fail for these",
            checked.accounts - checked.with_scram,
            checked.accounts
        );
        found.push(line.about(Severity::Warning, what));
    }
    if checked.with_scram > 0 && checked.with_scram == checked.accounts && !checked.has_secret {
        let what = format!(
            "has no line `:secret:...`, so that who asks for SCRAM-SHA-256 twice finds out which names have an account: {}",
            accounts::NEW_SECRET
        );
        found.push(line.about(Severity::Warning, what));
    }
    let file = sources::shown(line.path());
    found.extend(checked.mistakes.into_iter().map(|mistake| {
        let Mistake { line, column, width, message, shown } = mistake;
        let severity = Severity::Error;
        Diagnostic { severity, file: Some(file.clone()), line, column, width, message, source: shown }
    }));
    found
}

/// Warns if others can write to the file.
fn writable(line: &SettingLine) -> Option<Diagnostic> {
    let file = line.path().is_file().then(|| File::open(line.path()).ok())??;
    let metadata = file.metadata().ok()?;
    let others = writers::refuse_others(&file, &metadata, line.path(), Content::Accounts);
    others.err().map(|why| line.about(Severity::Warning, why))
}

/// Why nobody can log in, for messages.
const NOBODY: &str = "passwords are taken under TLS only, and there is none; write `tls_certificate FILE` and \
                      `tls_key FILE`, or `auth_plaintext on`";
