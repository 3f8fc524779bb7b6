//! A recipe as it is written: the keys of `recipe.toml`, which become a [`Recipe`] and its variants; and what is told
//! of a mistake, with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Deserialize;

use super::{Crate, Drained, Entry, Limits, Login, Programs, Protocol, Recipe, Role, Text};
use crate::session::Hello;

/// The recipe with this name and its variants, from the text of its file; `read` gives that of another one in its
/// folder.
pub(super) fn recipes(name: &str, text: &str, read: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Recipe>> {
    let place = format!("{name}/recipe.toml");
    let mut base: Keys = toml::from_str(text).map_err(|error| told(&place, text, error.span(), error.message()))?;
    let variants = mem::take(&mut base.variant);
    let source = Source { folder: name, place: &place, text, read };
    let mut recipes = vec![base.clone().recipe(name, &source)?];
    for (variant, changes) in variants {
        if !changes.variant.is_empty() {
            let message = format!("the variant `{variant}` has variants; give each of them a table [variant.NAME]");
            return Err(source.at(&variant, &message));
        }
        recipes.push(changes.over(base.clone()).recipe(&format!("{name}/{variant}"), &source)?);
    }
    Ok(recipes)
}

/// The keys of a recipe or of a variant, as they are written.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Keys {
    description: Option<String>,
    missing: Option<String>,
    packages: Option<Vec<String>>,
    pip: Option<Vec<String>>,
    npm: Option<Vec<String>>,
    #[serde(rename = "crate")]
    krate: Option<Crate>,
    go: Option<String>,
    mailrecv: Option<bool>,
    users: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    folders: Option<BTreeMap<String, WrittenFolder>>,
    files: BTreeMap<String, WrittenFile>,
    values: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    setup: Option<Vec<Vec<String>>>,
    beside: Option<Vec<Vec<String>>>,
    run: Option<Vec<String>>,
    protocol: Option<Protocol>,
    hello: Option<String>,
    login: Option<Login>,
    roles: Option<BTreeSet<Role>>,
    relay_recipient: Option<String>,
    hop_port: Option<u16>,
    drained: Option<Drained>,
    logs: Option<Vec<String>>,
    reply_seconds: Option<u64>,
    start_seconds: Option<u64>,
    variant: BTreeMap<String, Keys>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenFolder {
    owner: Option<String>,
    mode: Option<u32>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum WrittenFile {
    Text(String),
    Full(FullFile),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FullFile {
    text: Option<String>,
    from: Option<String>,
    owner: Option<String>,
    mode: Option<u32>,
}

impl Keys {
    /// These keys, and for those that are not given the base's. Of tables, each key by itself.
    fn over(self, base: Self) -> Self {
        let merged = |mut base: BTreeMap<String, String>, over| {
            base.extend(over);
            base
        };
        let mut files = base.files;
        files.extend(self.files);
        Self {
            description: self.description.or(base.description),
            missing: self.missing.or(base.missing),
            packages: self.packages.or(base.packages),
            pip: self.pip.or(base.pip),
            npm: self.npm.or(base.npm),
            krate: self.krate.or(base.krate),
            go: self.go.or(base.go),
            mailrecv: self.mailrecv.or(base.mailrecv),
            users: self.users.or(base.users),
            groups: self.groups.or(base.groups),
            folders: self.folders.or(base.folders),
            files,
            values: merged(base.values, self.values),
            environment: merged(base.environment, self.environment),
            setup: self.setup.or(base.setup),
            beside: self.beside.or(base.beside),
            run: self.run.or(base.run),
            protocol: self.protocol.or(base.protocol),
            hello: self.hello.or(base.hello),
            login: self.login.or(base.login),
            roles: self.roles.or(base.roles),
            relay_recipient: self.relay_recipient.or(base.relay_recipient),
            hop_port: self.hop_port.or(base.hop_port),
            drained: self.drained.or(base.drained),
            logs: self.logs.or(base.logs),
            reply_seconds: self.reply_seconds.or(base.reply_seconds),
            start_seconds: self.start_seconds.or(base.start_seconds),
            variant: BTreeMap::new(),
        }
    }

    fn recipe(self, name: &str, source: &Source<'_>) -> Result<Recipe> {
        let run = self.run.unwrap_or_default();
        if run.is_empty() && self.missing.is_none() {
            let message =
                format!("`{name}` needs `run`, the command that is the server, or `missing`, why there is none");
            return Err(source.at("", &message));
        }
        let protocol = self.protocol.unwrap_or(Protocol::Smtp);
        let hello = match (protocol, self.hello.as_deref()) {
            (Protocol::Lmtp, None) => Hello::Lhlo,
            (Protocol::Smtp, None) => Hello::AsItIs,
            (Protocol::Smtp, Some("HELO")) => Hello::Helo,
            _ => {
                let message = "`hello` is \"HELO\", of an SMTP server that has no EHLO, or is left out";
                return Err(source.at("hello", message));
            }
        };
        let mut files = Vec::new();
        for (path, written) in self.files {
            let FullFile { text, from, owner, mode } = match written {
                WrittenFile::Text(text) => FullFile { text: Some(text), from: None, owner: None, mode: None },
                WrittenFile::Full(full) => full,
            };
            let text = match (text, from) {
                (Some(text), None) => source.inline(&path, text),
                (None, Some(from)) => Text {
                    place: format!("{}/{from}", source.folder),
                    lines_before: 0,
                    text: source.read(&path, &from)?,
                },
                _ => {
                    let message = format!("{path} needs either `text` or `from`, the name of a file beside the recipe");
                    return Err(source.at(&path, &message));
                }
            };
            files.push((source.entry(path, owner, mode.unwrap_or(0o644))?, text));
        }
        let folders = self.folders.unwrap_or_default().into_iter();
        let go = self.go.map(|file| source.read(&file, &file));
        let mut krate = self.krate;
        if let Some(krate) = &mut krate {
            krate.source = source.read(&krate.source, &krate.source)?;
        }
        Ok(Recipe {
            name: name.to_owned(),
            description: self.description.unwrap_or_default(),
            missing: self.missing,
            programs: Programs {
                debian: self.packages.unwrap_or_default(),
                pip: self.pip.unwrap_or_default(),
                npm: self.npm.unwrap_or_default(),
                krate,
                go: go.transpose()?,
                is_mailrecv: self.mailrecv.unwrap_or_default(),
            },
            users: self.users.unwrap_or_default(),
            groups: self.groups.unwrap_or_default(),
            folders: folders
                .map(|(path, folder)| source.entry(path, folder.owner, folder.mode.unwrap_or(0o755)))
                .collect::<Result<_>>()?,
            files,
            environment: self.environment,
            setup: self.setup.unwrap_or_default(),
            beside: self.beside.unwrap_or_default(),
            run,
            protocol,
            hello,
            login: self.login,
            roles: self.roles.unwrap_or_default(),
            relay_recipient: self.relay_recipient,
            hop_port: self.hop_port,
            drained: self.drained.unwrap_or(Drained::AtOnce),
            logs: self.logs.unwrap_or_default(),
            limits: Limits {
                reply: Duration::from_secs(self.reply_seconds.unwrap_or(10)),
                start: Duration::from_secs(self.start_seconds.unwrap_or(60)),
            },
            values: self.values.into_iter().map(|(name, value)| (format!("__{name}__"), value)).collect(),
        })
    }
}

/// What a recipe is read from.
struct Source<'s> {
    folder: &'s str,
    place: &'s str,
    text: &'s str,
    read: &'s dyn Fn(&str) -> Result<String>,
}

impl Source<'_> {
    /// A message about where this stands first.
    fn at(&self, what: &str, message: &str) -> anyhow::Error {
        told(self.place, self.text, self.text.find(what).map(|at| at..at), message)
    }

    /// A text in the recipe itself, with where it stands, if that can be told.
    fn inline(&self, path: &str, text: String) -> Text {
        let before = self.text.find(&text).filter(|_| text.contains('\n'));
        match before {
            Some(at) => {
                Text { place: self.place.to_owned(), lines_before: self.text[..at].matches('\n').count(), text }
            }
            None => Text { place: format!("{}, {path}", self.place), lines_before: 0, text },
        }
    }

    /// The text of another file in the folder, which is named where this stands.
    fn read(&self, what: &str, file: &str) -> Result<String> {
        (self.read)(file).map_err(|error| self.at(what, &format!("`{file}`: {error:#}")))
    }

    fn entry(&self, path: String, owner: Option<String>, mode: u32) -> Result<Entry> {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            let message = format!("`{path}` is no absolute path; write where the server is to see it, from / on");
            return Err(self.at(&path, &message));
        }
        Ok(Entry { path, owner: owner.unwrap_or_else(|| "root".to_owned()), mode })
    }
}

/// A message with where in the file it belongs, and the line there.
fn told(place: &str, text: &str, span: Option<Range<usize>>, message: &str) -> anyhow::Error {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else {
        return anyhow!("{place}: {message}");
    };
    let number = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&character| character != '\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    anyhow!("{place}:{number}:{column}: {}\n  {line}\n  {:>column$}", message.trim_end(), "^")
}
