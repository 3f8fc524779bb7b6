//! What the first process of a server is told, and what it reports.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::account::{Accounts, USERS, home};
use crate::packages::Fetched;
use crate::recipe::{Entry, Recipe, Setting};

/// What it has to make and run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The name of the host.
    pub(super) domain: String,
    /// The folder with unpacked Debian packages, on the host.
    pub(super) packages: Option<PathBuf>,
    /// Files and folders of the host, and the paths under which the server sees them, read-only.
    pub(super) programs: Vec<(PathBuf, PathBuf)>,
    /// The folders to make, in this order.
    pub(super) folders: Vec<Made>,
    /// The files to make, with their texts, in this order.
    pub(super) files: Vec<(Made, String)>,
    /// The environment of all commands.
    pub(super) environment: BTreeMap<String, String>,
    /// Commands that are run to their end, in this order.
    pub(super) setup: Vec<Vec<String>>,
    /// Commands that are run beside the server.
    pub(super) beside: Vec<Vec<String>>,
    /// The command of the server.
    pub(super) run: Vec<String>,
}

/// A file or folder, as the server sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Plan {
    /// What it takes to run the server of this recipe.
    ///
    /// # Errors
    ///
    /// An owner or a placeholder that there is not.
    pub(super) fn of(recipe: &Recipe, setting: &Setting, fetched: &Fetched) -> Result<Self> {
        let accounts = Accounts::of(recipe);
        let made = |entry: &Entry| -> Result<Made> {
            let (uid, gid) =
                accounts.owner(&entry.owner).with_context(|| format!("{}: {}", recipe.name, entry.path))?;
            Ok(Made { path: PathBuf::from(recipe.fill_word(&entry.path, setting)?), uid, gid, mode: entry.mode })
        };
        let mut folders = Vec::new();
        for user in USERS {
            for folder in ["", "/Maildir", "/Maildir/cur", "/Maildir/new", "/Maildir/tmp"] {
                let path = home(user) + folder;
                folders.push(made(&Entry { path, owner: user.to_owned(), mode: 0o700 })?);
            }
        }
        for folder in &recipe.folders {
            folders.push(made(folder)?);
        }
        let mut files = of_the_system(&accounts, setting);
        for (entry, text) in &recipe.files {
            files.push((made(entry)?, recipe.fill(text, setting)?));
        }
        let commands = |commands: &[Vec<String>]| -> Result<Vec<Vec<String>>> {
            commands.iter().map(|command| recipe.fill_command(command, setting)).collect()
        };
        Ok(Self {
            domain: setting.domain.clone(),
            packages: fetched.packages.clone(),
            programs: fetched.programs.clone(),
            folders,
            files,
            environment: recipe.environment.clone(),
            setup: commands(&recipe.setup)?,
            beside: commands(&recipe.beside)?,
            run: recipe.fill_command(&recipe.run, setting)?,
        })
    }

    /// The line in which the first process is told it.
    ///
    /// # Errors
    ///
    /// None is known: everything in it can be written.
    pub(super) fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// The files that every host has.
fn of_the_system(accounts: &Accounts, setting: &Setting) -> Vec<(Made, String)> {
    let (own, name) = (&setting.domain, &setting.name);
    let files = [
        ("/etc/passwd", 0o644, accounts.passwd.clone()),
        ("/etc/group", 0o644, accounts.group.clone()),
        ("/etc/shadow", 0o600, accounts.shadow.clone()),
        ("/etc/hosts", 0o644, format!("127.0.0.1 {own} localhost {name}\n")),
        ("/etc/environment", 0o644, String::new()),
        ("/etc/hostname", 0o644, format!("{own}\n")),
        ("/etc/mailname", 0o644, format!("{own}\n")),
        ("/etc/resolv.conf", 0o644, String::from("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")),
        ("/etc/nsswitch.conf", 0o644, String::from(NAME_SERVICES)),
    ];
    files.map(|(path, mode, text)| (Made { path: PathBuf::from(path), uid: 0, gid: 0, mode }, text)).into()
}

const NAME_SERVICES: &str =
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n";

/// A report of the first process, one line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// The root folder is made. The process waits for a line, so that `/dev/log` can be opened before any command is
    /// run.
    Rooted,
    /// The server is started.
    Started,
    /// Something went wrong; nothing else is reported.
    Failed(String),
    /// The server ended in this way.
    Ended(String),
    /// A command beside the server ended in another way than with exit status 0: which, and how.
    EndedBeside(String),
}

/// The file in the server's root folder with the output of all commands.
pub(super) const OUTPUT: &str = "/output";
