//! Who may log in, with which password: a file of names and hashes.
//!
//! A line is `NAME:HASH`; empty lines and those that begin with `#` say nothing. The file is opened while we may still
//! open it, and read when a peer asks to log in.

pub mod hash;
pub mod scram;

use std::path::Path;

use anyhow::Context;

use crate::unread::Unread;
use hash::Hash;
use scram::{ScramKeys, mac};

/// The file of accounts, opened and not read yet; or none.
#[derive(Debug, Default)]
pub struct Accounts(Option<Unread>);

impl Accounts {
    /// Opens the file, if there is one. What cannot be opened is told when it is needed.
    pub fn open(path: Option<&Path>) -> Self {
        Self(path.map(Unread::open))
    }

    /// Whether SCRAM-SHA-256 can be offered: clients prefer it, so it must not fail for somebody whose password is kept
    /// in another way. If the file cannot be read, it is not offered.
    pub fn takes_scram(&self) -> bool {
        self.parsed(|list| Ok(list.takes_scram())).unwrap_or(false)
    }

    /// Whether this is the password of this account. Who has none costs the same as a wrong password. An error is our own
    /// fault: the file cannot be read, or what it says of this account cannot be used.
    pub fn is_password(&self, name: &str, password: &[u8]) -> anyhow::Result<bool> {
        self.parsed(|list| list.is_password(name, password))
    }

    /// The keys of this account. For a name that has none they are made up, and always the same, so that nobody can find
    /// out who has an account. Errors as those of [`Accounts::is_password`].
    pub fn scram_keys(&self, name: &str) -> anyhow::Result<ScramKeys> {
        self.parsed(|list| list.scram_keys(name))
    }

    fn parsed<T>(&self, ask: impl FnOnce(List<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.0.as_ref().context("there is no file of accounts")?.parsed(|text| ask(List(text)))
    }
}

/// The text of the file.
#[derive(Debug, Clone, Copy)]
struct List<'t>(&'t [u8]);

/// A line of the file: the name, and what is kept of the password.
#[derive(Debug, Clone, Copy)]
struct Account<'t> {
    name: &'t str,
    hash: &'t str,
}

impl<'t> List<'t> {
    /// The accounts, in the order of the file; what is no account is left out.
    fn accounts(self) -> impl Iterator<Item = Account<'t>> {
        self.0.split(|octet| *octet == b'\n').filter_map(|line| {
            let (name, hash) = std::str::from_utf8(line).ok()?.split_once(':')?;
            (!name.is_empty() && !name.starts_with('#')).then_some(Account { name, hash: hash.trim_ascii_end() })
        })
    }

    fn takes_scram(self) -> bool {
        let mut accounts = self.accounts().peekable();
        accounts.peek().is_some() && accounts.all(|account| matches!(Hash::parse(account.hash), Ok(Hash::Scram(_))))
    }

    fn is_password(self, name: &str, password: &[u8]) -> anyhow::Result<bool> {
        let (hash, is_known) = match self.find(name) {
            Some(hash) => (Some(hash?), true),
            None => (self.stand_in(name), false),
        };
        let is_right = hash.is_some_and(|hash| hash.is_of(password));
        Ok(is_right && is_known)
    }

    fn scram_keys(self, name: &str) -> anyhow::Result<ScramKeys> {
        match self.find(name) {
            Some(hash) => match hash? {
                Hash::Scram(keys) => Ok(keys),
                _ => anyhow::bail!("the account `{name}` has no keys of SCRAM-SHA-256"),
            },
            None => self.made_up(name),
        }
    }

    /// What is kept of somebody's password.
    fn find(self, name: &str) -> Option<anyhow::Result<Hash>> {
        let account = self.accounts().find(|account| account.name == name)?;
        Some(Hash::parse(account.hash).with_context(|| format!("the account `{name}`")))
    }

    /// An account that is tried for a name that has none, always the same one.
    fn stand_in(self, name: &str) -> Option<Hash> {
        let count = self.accounts().count().max(1);
        let [first, second, ..] = self.secret(name);
        let start = usize::from(u16::from_be_bytes([first, second])) % count;
        let in_turn = self.accounts().skip(start).chain(self.accounts().take(start));
        in_turn.filter_map(|account| Hash::parse(account.hash).ok()).next()
    }

    /// Keys for a name that has none.
    fn made_up(self, name: &str) -> anyhow::Result<ScramKeys> {
        let Some(Hash::Scram(like)) = self.stand_in(name) else { anyhow::bail!("has no keys of SCRAM-SHA-256") };
        let secret = self.secret(name);
        let salt = like.salt.iter().zip(mac(&secret, b"salt").iter().cycle()).map(|(_, octet)| *octet).collect();
        Ok(ScramKeys { salt, stored_key: mac(&secret, b"stored"), server_key: mac(&secret, b"server"), ..like })
    }

    /// What nobody outside can foretell about a name. It changes with the first account only: if it did with any, what is
    /// made up would change when something else does, and show by that that it is made up.
    fn secret(self, name: &str) -> scram::Key {
        let first = self.accounts().next().map(|account| account.hash).unwrap_or_default();
        mac(first.as_bytes(), name.as_bytes())
    }
}
