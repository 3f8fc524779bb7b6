//! The users and groups of a server: a few that every Debian has, two with mailboxes, and those of the recipe.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::recipe::Recipe;

/// The users with mailboxes, which are in `Maildir` in their homes.
pub(super) const USERS: [&str; 2] = ["user1", "user2"];

/// The accounts in the form of files in /etc.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) passwd: String,
    pub(super) group: String,
    pub(super) shadow: String,
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// The accounts of a server.
    pub(super) fn of(recipe: &Recipe) -> Self {
        let mut accounts = Self {
            passwd: String::new(),
            group: String::new(),
            shadow: String::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        accounts.add_user("root", 0, "/root", "/bin/sh");
        for &(name, id) in DEBIAN_USERS {
            accounts.add_user(name, id, "/nonexistent", NO_SHELL);
        }
        for &(name, id) in DEBIAN_GROUPS {
            accounts.add_group(name, id);
        }
        for (name, id) in USERS.into_iter().zip(5001..) {
            accounts.add_user(name, id, &home(name), "/bin/sh");
        }
        let mut ids = 5101..;
        for name in &recipe.users {
            accounts.add_user(name, ids.next().unwrap_or_default(), "/nonexistent", NO_SHELL);
        }
        for name in &recipe.groups {
            accounts.add_group(name, ids.next().unwrap_or_default());
        }
        accounts
    }

    /// The numbers of `USER` or `USER:GROUP`.
    ///
    /// # Errors
    ///
    /// There is no such user or group.
    pub(super) fn owner(&self, text: &str) -> Result<(u32, u32)> {
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        let uid = self.users.get(user).with_context(|| format!("there is no user `{user}`; add it to `users`"))?;
        let gid = self.groups.get(group).with_context(|| format!("there is no group `{group}`; add it to `groups`"))?;
        Ok((*uid, *gid))
    }

    fn add_user(&mut self, name: &str, id: u32, home: &str, shell: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.passwd, "{name}:x:{id}:{id}:{name}:{home}:{shell}");
        let _ = writeln!(self.shadow, "{name}:*:19000:0:99999:7:::");
        self.users.insert(name.to_owned(), id);
        self.add_group(name, id);
    }

    fn add_group(&mut self, name: &str, id: u32) {
        let _ = writeln!(self.group, "{name}:x:{id}:");
        self.groups.insert(name.to_owned(), id);
    }
}

/// Where a user's home is.
pub(super) fn home(user: &str) -> String {
    format!("/home/{user}")
}

const NO_SHELL: &str = "/usr/sbin/nologin";

/// The users of Debian's base-passwd that mail servers name.
const DEBIAN_USERS: &[(&str, u32)] = &[
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("man", 6),
    ("lp", 7),
    ("mail", 8),
    ("news", 9),
    ("uucp", 10),
    ("proxy", 13),
    ("www-data", 33),
    ("backup", 34),
    ("list", 38),
    ("nobody", 65534),
];

const DEBIAN_GROUPS: &[(&str, u32)] =
    &[("adm", 4), ("tty", 5), ("disk", 6), ("staff", 50), ("users", 100), ("utmp", 43), ("nogroup", 65534)];
