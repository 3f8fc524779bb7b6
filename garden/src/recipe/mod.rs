//! A recipe: what it takes to run a server, as data.
//!
//! It is the file `recipe.toml` in a folder that bears the server's name; `garden/docs/recipes.md` describes its keys.
//! Texts in it may have placeholders, `__PORT__` and the like, which stand for what is only known when the server is
//! started. A recipe can have variants: servers of their own, which differ from it in a few keys.

mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Deserialize;

use crate::session::{self, Hello};

/// What it takes to run a server.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The name: of its folder, and behind a slash that of the variant: `postfix`, `postfix/normalize`.
    pub name: String,
    /// What it is, in a few words.
    pub description: String,
    /// Why it cannot be run, of a server that people will look for and that cannot be had.
    pub missing: Option<String>,
    /// Where its programs come from.
    pub programs: Programs,
    /// System users, each with a group of the same name. `user1` and `user2`, who have mailboxes, are always there.
    pub users: Vec<String>,
    /// Groups without a user.
    pub groups: Vec<String>,
    /// Folders that are made before the files.
    pub folders: Vec<Entry>,
    /// Files that are made before anything is run.
    pub files: Vec<(Entry, Text)>,
    /// Variables of the environment of everything that is run.
    pub environment: BTreeMap<String, String>,
    /// Commands that are run one after another, before the server, each to its end.
    pub setup: Vec<Vec<String>>,
    /// Commands that are run beside the server. If one fails, that is noticed as the end of the server is.
    pub beside: Vec<Vec<String>>,
    /// The command that is the server, which does not end by itself.
    pub run: Vec<String>,
    /// What it speaks.
    pub protocol: Protocol,
    /// How it wants to be greeted.
    pub hello: Hello,
    /// Who to log in as, if it wants that.
    pub login: Option<Login>,
    /// What it does with mail.
    pub roles: BTreeSet<Role>,
    /// The only address that it passes mail on for, if it does not for any; it may have placeholders.
    pub relay_recipient: Option<String>,
    /// The only port that it passes mail on to, if it does not to any.
    pub hop_port: Option<u16>,
    /// How to see that it has nothing more to do.
    pub drained: Drained,
    /// Files that it logs to, apart from the system's log and what it prints.
    pub logs: Vec<String>,
    /// Its bounds.
    pub limits: Limits,
    /// What this recipe's own placeholders stand for: by the placeholder.
    values: BTreeMap<String, String>,
}

/// Where programs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// Debian packages, unpacked into a folder of their own.
    pub debian: Vec<String>,
    /// Python packages, in an environment of their own, `/program/pip`.
    pub pip: Vec<String>,
    /// Packages of npm, in `/program/npm/node_modules`.
    pub npm: Vec<String>,
    /// A crate with a program around it, which is `/program/crate/server`.
    pub krate: Option<Crate>,
    /// The text of a program in Go, on libraries among the Debian packages; it is `/program/go/server`.
    pub go: Option<String>,
    /// Whether it is the mailrecv of this workspace: `/program/mailrecv`.
    pub is_mailrecv: bool,
}

/// A crate with a program around it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crate {
    /// The name of the crate.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it is built with its default features.
    #[serde(default)]
    pub default_features: bool,
    /// The file in the recipe's folder that is the program; behind [`Recipe::parse`], its text.
    pub source: String,
}

/// A path with who has it and who may what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path, as the server sees it.
    pub path: String,
    /// User and group: `root`, `user1:mail`.
    pub owner: String,
    /// The permissions.
    pub mode: u32,
}

/// The text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The file that it stands in, for messages: `postfix/recipe.toml`.
    place: String,
    /// How many lines of that file are before it.
    lines_before: usize,
    text: String,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SMTP (RFC 5321).
    Smtp,
    /// LMTP (RFC 2033).
    Lmtp,
}

/// A user and the password, for AUTH PLAIN.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

/// What a server does with mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It puts mail for its own domain into Maildirs.
    Local,
    /// It passes mail for other domains on.
    Relay,
}

/// How to see that a server has nothing more to do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drained {
    /// It has answered: it keeps no queue.
    #[serde(skip)]
    AtOnce,
    /// There are no files in these folders nor below them.
    Empty(Vec<String>),
    /// This command prints this, blanks around it aside.
    Prints(Vec<String>, String),
}

/// The bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In what time it replies.
    pub reply: Duration,
    /// In what time it greets after its start.
    pub start: Duration,
}

/// What the placeholders stand for.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `__DOMAIN__`: the domain that is the server's own.
    pub domain: String,
    /// `__NAME__`: the name of the recipe, without a slash.
    pub name: String,
    /// `__PORT__`: where the server is to listen, at 127.0.0.1.
    pub port: u16,
    /// `__HOP_PORT__`: where what it passes on is taken, at 127.0.0.1.
    pub hop_port: u16,
    /// The others. A line with one of `__PEER_DOMAIN__` and `__PEER_PORT__` in it stands once for each that speaks
    /// SMTP, one with `__LMTP_PEER_DOMAIN__` and `__LMTP_PEER_PORT__` once for each that speaks LMTP.
    pub peers: Vec<PeerSetting>,
}

/// Another server that mail may be for.
#[derive(Clone, Debug)]
pub struct PeerSetting {
    /// Its own domain.
    pub domain: String,
    /// Where it listens, at 127.0.0.1.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

impl Recipe {
    /// The line that one logs in with, where it wants that.
    pub fn login(&self) -> Option<String> {
        self.login.as_ref().map(|login| session::auth_plain(&login.user, &login.password))
    }

    /// Reads the recipe with this name and its variants.
    ///
    /// `read` gives the text of another file in its folder.
    ///
    /// # Errors
    ///
    /// What is wrong with it, where, and what to do.
    pub fn parse(name: &str, text: &str, read: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Self>> {
        written::recipes(name, text, read)
    }

    /// A text of the recipe with what its placeholders stand for.
    ///
    /// # Errors
    ///
    /// A placeholder that there is not.
    pub fn fill(&self, text: &Text, setting: &Setting) -> Result<String> {
        let mut filled = String::with_capacity(text.text.len());
        for (number, line) in (text.lines_before + 1..).zip(text.text.split_inclusive('\n')) {
            self.fill_line(line, setting, &mut filled).map_err(|Unknown(word)| {
                let column = line.find(&word).map_or(1, |at| line[..at].chars().count() + 1);
                anyhow!("{}:{number}:{column}: {}", text.place, self.complaint(&word))
            })?;
        }
        Ok(filled)
    }

    /// The words of a command with what their placeholders stand for.
    ///
    /// # Errors
    ///
    /// As of [`Self::fill`].
    pub fn fill_command(&self, command: &[String], setting: &Setting) -> Result<Vec<String>> {
        command.iter().map(|word| self.fill_word(word, setting)).collect()
    }

    /// A short text with what its placeholders stand for.
    ///
    /// # Errors
    ///
    /// As of [`Self::fill`].
    pub fn fill_word(&self, word: &str, setting: &Setting) -> Result<String> {
        let mut filled = String::new();
        self.fill_line(word, setting, &mut filled)
            .map_err(|Unknown(unknown)| anyhow!("{}: `{word}`: {}", self.name, self.complaint(&unknown)))?;
        Ok(filled)
    }

    /// The recipe's own placeholders come first: what they stand for may be lines with others.
    fn fill_line(&self, line: &str, setting: &Setting, filled: &mut String) -> Result<(), Unknown> {
        let own = |word: &str| self.values.get(word).cloned();
        let mut with_values = String::with_capacity(line.len());
        replace(line, &mut with_values, |word| Ok(own(word).unwrap_or_else(|| word.to_owned())))?;
        for line in with_values.split_inclusive('\n') {
            let of = |protocol| setting.peers.iter().filter(move |peer| peer.protocol == protocol);
            if line.contains("__PEER_") {
                of(Protocol::Smtp).try_for_each(|peer| self.fill_once(line, setting, Some(peer), filled))?;
            } else if line.contains("__LMTP_PEER_") {
                of(Protocol::Lmtp).try_for_each(|peer| self.fill_once(line, setting, Some(peer), filled))?;
            } else {
                self.fill_once(line, setting, None, filled)?;
            }
        }
        Ok(())
    }

    fn complaint(&self, word: &str) -> String {
        let own: String = self.values.keys().map(|name| format!(", {name}")).collect();
        format!(
            "there is no placeholder {word}; there are __DOMAIN__, __NAME__, __PORT__, __HOP_PORT__, __PEER_DOMAIN__, \
             __PEER_PORT__, __LMTP_PEER_DOMAIN__, __LMTP_PEER_PORT__{own}, and others can be given in the table [values]"
        )
    }

    fn fill_once(
        &self,
        line: &str,
        setting: &Setting,
        peer: Option<&PeerSetting>,
        filled: &mut String,
    ) -> Result<(), Unknown> {
        replace(line, filled, |word| {
            Ok(match (word, peer) {
                ("__DOMAIN__", _) => setting.domain.clone(),
                ("__NAME__", _) => setting.name.clone(),
                ("__PORT__", _) => setting.port.to_string(),
                ("__HOP_PORT__", _) => setting.hop_port.to_string(),
                ("__PEER_DOMAIN__" | "__LMTP_PEER_DOMAIN__", Some(peer)) => peer.domain.clone(),
                ("__PEER_PORT__" | "__LMTP_PEER_PORT__", Some(peer)) => peer.port.to_string(),
                _ => return Err(Unknown(word.to_owned())),
            })
        })
    }
}

/// A placeholder that there is not.
struct Unknown(String);

/// Puts a text behind another one, with each placeholder replaced.
fn replace(text: &str, behind: &mut String, with: impl Fn(&str) -> Result<String, Unknown>) -> Result<(), Unknown> {
    let mut rest = text;
    while let Some(placeholder) = first_placeholder(rest) {
        behind.push_str(&rest[..placeholder.start]);
        behind.push_str(&with(&rest[placeholder.clone()])?);
        rest = &rest[placeholder.end..];
    }
    behind.push_str(rest);
    Ok(())
}

/// Where the first placeholder in a text is: two underscores, capitals, digits and single underscores, two underscores.
fn first_placeholder(text: &str) -> Option<Range<usize>> {
    let mut from = 0;
    while let Some(start) = text[from..].find("__").map(|at| from + at) {
        let word = &text[start + 2..];
        let is_of_it = |octet: u8| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'_';
        if let Some(length) = word.find("__").filter(|&length| length > 0 && word[..length].bytes().all(is_of_it)) {
            return Some(start..start + 2 + length + 2);
        }
        from = start + 2;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn read(file: &str) -> Result<String> {
        match file {
            "server.py" => Ok("port = __PORT__\n".to_owned()),
            _ => anyhow::bail!("there is no such file"),
        }
    }

    fn parse(text: &str) -> Result<Vec<Recipe>> {
        Recipe::parse("one", text, &read)
    }

    fn error(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    fn setting() -> Setting {
        let peer = |name: &str, port, protocol| PeerSetting { domain: format!("{name}.garden"), port, protocol };
        Setting {
            domain: "one.garden".into(),
            name: "one".into(),
            port: 2501,
            hop_port: 25,
            peers: vec![
                peer("two", 2502, Protocol::Smtp),
                peer("three", 2503, Protocol::Lmtp),
                peer("four", 2504, Protocol::Smtp),
            ],
        }
    }

    /// The texts of the files, filled in, by their paths.
    fn files(recipe: &Recipe) -> BTreeMap<String, String> {
        let filled = |(entry, text): &(Entry, Text)| (entry.path.clone(), recipe.fill(text, &setting()).unwrap());
        recipe.files.iter().map(filled).collect()
    }

    #[test]
    fn placeholders_are_replaced_and_nothing_else() {
        let recipes = parse(
            r#"
run = ["server", "--port=__PORT__"]
files."/one" = "__NAME__ at __DOMAIN__:__PORT__, next __HOP_PORT__; __name__ ____ __ __A {x} %{user.username} $1"
files."/two" = { from = "server.py", mode = 0o755, owner = "mail" }
"#,
        );
        let recipe = &recipes.unwrap()[0];
        let files = files(recipe);
        assert_eq!(files["/one"], "one at one.garden:2501, next 25; __name__ ____ __ __A {x} %{user.username} $1");
        assert_eq!(files["/two"], "port = 2501\n");
        assert_eq!(recipe.fill_command(&recipe.run, &setting()).unwrap(), ["server", "--port=2501"]);
        let modes: Vec<_> = recipe.files.iter().map(|(entry, _)| (entry.mode, entry.owner.as_str())).collect();
        assert_eq!(modes, [(0o644, "root"), (0o755, "mail")]);
    }

    #[test]
    fn a_line_about_a_peer_stands_once_for_each() {
        let recipes = parse(
            "run = ['x']\nfiles.'/x' = '''\nfirst\n__PEER_DOMAIN__ is __PEER_PORT__ for __NAME__\n\
             lmtp __LMTP_PEER_DOMAIN__:__LMTP_PEER_PORT__\nlast'''\n",
        );
        let text = &files(&recipes.unwrap()[0])["/x"];
        assert_eq!(
            text,
            "first\ntwo.garden is 2502 for one\nfour.garden is 2504 for one\nlmtp three.garden:2503\nlast"
        );
    }

    #[test]
    fn the_example_of_the_manual_is_a_recipe() {
        let manual = include_str!("../../docs/recipes.md");
        let (_, behind) = manual.split_once("\n```toml\n").unwrap();
        let recipe = &parse(behind.split("\n```\n").next().unwrap()).unwrap()[0];
        let text = &files(recipe)["/etc/my-server.conf"];
        assert!(text.starts_with("listen 127.0.0.1:2501\ndomain one.garden\n"), "{text}");
        assert!(
            text.ends_with(
                "\nroute two.garden 127.0.0.1:2502\nroute four.garden 127.0.0.1:2504\nroute * 127.0.0.1:25\n"
            ),
            "{text}"
        );
        assert_eq!((recipe.folders[0].owner.as_str(), recipe.folders[0].mode), ("mysmtp", 0o700));
    }

    #[test]
    fn a_variant_differs_in_what_it_says() {
        let recipes = parse(
            r#"
description = "One"
run = ["x"]
protocol = "lmtp"
roles = ["local"]
pip = ["a==1"]
values = { LINES = "", KEPT = "kept" }
files."/x" = "__KEPT__ __LINES__"

[variant.b]
pip = ["a==2"]
[variant.b.values]
LINES = "of __DOMAIN__\n__PEER_PORT__\n"

[variant.a]
files."/y" = ""
"#,
        )
        .unwrap();
        let names: Vec<_> = recipes.iter().map(|recipe| &*recipe.name).collect();
        assert_eq!(names, ["one", "one/a", "one/b"]);
        assert!(recipes.iter().all(|recipe| recipe.protocol == Protocol::Lmtp && recipe.hello == Hello::Lhlo));
        let pip: Vec<_> = recipes.iter().map(|recipe| &*recipe.programs.pip[0]).collect();
        assert_eq!(pip, ["a==1", "a==1", "a==2"]);
        assert_eq!(files(&recipes[0])["/x"], "kept ");
        assert_eq!(files(&recipes[1]).len(), 2);
        assert_eq!(files(&recipes[2])["/x"], "kept of one.garden\n2502\n2504\n");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let unknown = error("run = ['x']\nfile = 1\n");
        assert!(unknown.starts_with("one/recipe.toml:2:1: unknown field `file`, expected"), "{unknown}");
        assert!(unknown.ends_with("\n  file = 1\n  ^"), "{unknown}");
        let kind = error("run = 'x'\n");
        assert!(kind.starts_with("one/recipe.toml:1:7: invalid type"), "{kind}");
        let syntax = error("run = ['x'\nroles = []");
        assert!(syntax.starts_with("one/recipe.toml:"), "{syntax}");
        for (text, expected) in [
            ("", "`one` needs `run`"),
            ("run = ['x']\nfiles.'x' = ''", "`x` is no absolute path"),
            ("run = ['x']\nfiles.'/x/../y' = ''", "`/x/../y` is no absolute path"),
            ("run = ['x']\nfiles.'/x' = { mode = 0o644 }", "/x needs either `text` or `from`"),
            ("run = ['x']\nfiles.'/x' = { from = 'y' }", "`y`: there is no such file"),
            ("run = ['x']\nhello = 'EHLO'", "`hello` is \"HELO\""),
            ("run = ['x']\n[variant.a.variant.b]", "give each of them a table [variant.NAME]"),
            ("run = ['x']\nroles = ['locla']", "unknown variant `locla`, expected `local` or `relay`"),
        ] {
            let error = error(text);
            assert!(
                error.starts_with("one/recipe.toml:") && error.contains("\n  ") && error.contains(expected),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_placeholder_that_there_is_not_is_told_with_its_line() {
        let recipes = parse("run = ['__PROT__']\nfiles.'/x' = \"\"\"a\nb __HOPS__\n\"\"\"\n").unwrap();
        let (_, text) = &recipes[0].files[0];
        let error = format!("{:#}", recipes[0].fill(text, &setting()).unwrap_err());
        assert!(error.starts_with("one/recipe.toml:3:3: there is no placeholder __HOPS__; there are"), "{error}");
        let error = format!("{:#}", recipes[0].fill_command(&recipes[0].run, &setting()).unwrap_err());
        assert!(error.starts_with("one: `__PROT__`: there is no placeholder __PROT__"), "{error}");
    }

    #[test]
    fn a_server_that_cannot_be_had_needs_a_reason_only() {
        let recipe = &parse("missing = 'nobody has it'").unwrap()[0];
        assert_eq!(recipe.missing.as_deref(), Some("nobody has it"));
    }
}
