//! The configuration: read once per connection, immutable from then on.
//!
//! Loading looks at every line once, reports all errors, and keeps what a connection may need: most rules stay text in
//! the file until a recipient needs them. A file that others could have written is refused, because it contains
//! commands. mailrecv.conf(5) is the reference.

mod action;
mod address_only;
mod amqp_url;
mod auth;
mod brokers;
mod bytes;
mod check;
mod compiler;
mod diagnostic;
mod directive;
mod domains;
mod exact;
mod fingerprint;
mod flags;
mod include;
mod index;
mod lexer;
mod limits;
mod lines;
mod literal;
mod needs;
mod network;
mod ordered;
mod pattern;
mod peers;
mod perl;
mod places;
mod plain;
mod reader;
mod relay_url;
mod rules;
mod secrets;
mod setting_lines;
mod settings;
mod shadow;
mod shell;
mod source;
mod sources;
mod spelling;
mod table;
mod tls;
mod trace;
mod url;
mod value;
mod variables;
mod writers;

use std::io;
use std::path::{Path, PathBuf};

pub use action::{Destinations, Facts, Origin};
pub(crate) use action::{Form, HandOver, Keep, Topic, View};
pub use amqp_url::AmqpUrl;
pub(crate) use brokers::{Connections, secret};
pub use diagnostic::{Diagnostic, Severity};
pub use flags::Flags;
pub use index::Made;
pub use limits::{Limit, Limits, Refusal};
pub use needs::{MailPlace, Needs};
pub use pattern::BrokenPattern;
pub use peers::Who;
use places::Places;
use reader::{Indexes, Reader};
pub use relay_url::Hop;
pub(crate) use relay_url::{HopAddress, HopTls};
pub use rules::{Denial, Rules};
pub use settings::{AuthUse, Config, Level, LogTarget, Payload, Protocol, Sandbox, TlsUse, Transcripts};
pub(crate) use shell::{HASH_VARIABLE, PASSED, PATH, SHELL, VARIABLES};
pub(crate) use source::{Version, would_wait};
pub use sources::LineName;
pub(crate) use sources::Versions;
pub(crate) use trace::Note;
pub use trace::{Finding, Trace, Verdict};
pub use value::Secret;

use crate::{files, user};

/// The configuration if no other is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/mailrecv.conf";

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Unusable {
    /// All errors.
    pub errors: Vec<Diagnostic>,
    /// The log that it names, as far as it could be read; the administrator will look for the errors there.
    pub log: LogTarget,
    /// The user that it names, as far as it could be read: a log file that root made could not be written later.
    pub user: Option<String>,
    /// The files that it includes, as far as they could be read.
    pub(crate) included: Versions,
}

/// Reads the file and what it includes. Patterns are compiled at their first use; [`check`] compiles all of them.
pub fn load(path: &Path) -> Result<Box<Config>, Unusable> {
    let mut reader = Reader::new(true, Indexes::Used);
    let read = reader.read(path);
    loaded(reader, read)
}

/// The same, but does not wait for the end of an edit: `None` if somebody is writing one of the files.
pub(crate) fn load_settled(path: &Path) -> Option<Result<Box<Config>, Unusable>> {
    let mut reader = Reader::new(false, Indexes::Used);
    let read = reader.read(path);
    (!reader.is_unsettled).then(|| loaded(reader, read))
}

fn loaded(reader: Reader, read: Result<(), Diagnostic>) -> Result<Box<Config>, Unusable> {
    let Reader { config, mut errors, .. } = reader;
    let sources = &config.rules.sources;
    let included = sources.versions();
    if let Err(error) = read {
        return Err(Unusable { errors: vec![error], log: LogTarget::Syslog, user: None, included });
    }
    sources.locate(&mut errors);
    if errors.is_empty() { Ok(config) } else { Err(Unusable { errors, log: config.log, user: config.user, included }) }
}

/// The result of [`check`].
#[derive(Debug)]
pub struct Checked {
    /// The configuration, if it can be used.
    pub config: Option<Config>,
    /// All findings, in the order of the text.
    pub found: Vec<Diagnostic>,
    /// The indexes that were made, and those that could not be, with the reason.
    pub indexes: Vec<Result<Made, (PathBuf, io::Error)>>,
}

/// Reads the file, compiles every pattern, and looks for what is legal but hardly meant: all of it in one round. Makes the
/// indexes of the files if that is wanted and they can be used.
pub fn check(path: &Path, makes_indexes: bool) -> Checked {
    let mut reader = Reader::new(true, if makes_indexes { Indexes::Made } else { Indexes::PassedOver });
    if let Err(error) = reader.read(path) {
        return Checked { config: None, found: vec![error], indexes: Vec::new() };
    }
    let Reader { config, errors, makers, .. } = reader;
    let is_usable = errors.is_empty();
    let mut found = config.check_ways_to(path);
    found.extend(config.find(is_usable));
    found.extend(config.check_broker_addresses());
    found.extend(errors);
    let indexes = if is_usable { config.make_indexes(makers) } else { Vec::new() };
    if is_usable && !makes_indexes {
        found.extend(config.check_indexes(path));
    }
    // Those that have a file of their own already come last.
    found.sort_by_key(|diagnostic| (diagnostic.file.is_some() && diagnostic.line > 0, diagnostic.line));
    config.rules.sources.locate(&mut found);
    Checked { config: is_usable.then_some(*config), found, indexes }
}

impl Config {
    /// Compiles every pattern, and finds what is allowed but probably not meant.
    pub fn check(&self) -> Vec<Diagnostic> {
        let mut found = self.find(true);
        self.rules.sources.locate(&mut found);
        found
    }

    /// The same, with lines numbered through all files. If lines are missing because they have errors (`is_whole` is
    /// false), nothing is said about how lines fit together.
    fn find(&self, is_whole: bool) -> Vec<Diagnostic> {
        let spool = self.spool_dir.is_none().then(files::temporary_folder);
        let is_public = self.auth() != AuthUse::Require;
        let check = |user| self.rules.check(&self.domain, is_whole, is_public, Places::new(user), spool.as_deref());
        // Whether files can be written is tried as the user who will write them.
        let trouble = self.user.as_deref().and_then(user::trouble);
        let user = self.user.as_deref().filter(|_| nix::unistd::geteuid().is_root() && trouble.is_none());
        let mut found = match user {
            Some(name) => user::as_user(name, || check(Some(name)))
                .unwrap_or_else(|error| vec![Diagnostic::whole_file(format!("{error:#}"))]),
            None => check(None),
        };
        // A session opens these files before it becomes that user, so they are checked as the current one.
        found.extend(self.check_tls());
        found.extend(self.check_auth(is_whole));
        found.extend(self.check_brokers());
        found.splice(0..0, trouble.map(Diagnostic::whole_file));
        if let Some(name) = self.user.as_deref().filter(|name| user::is_us(name) == Some(false)) {
            found.insert(
                0,
                Diagnostic::warning(format!(
                    "`user {name}` does nothing unless root starts mailrecv; run `check` as root to see what that user may do"
                )),
            );
        }
        found
    }

    /// Warnings about folders and links on the way to the files, where others could replace something.
    fn check_ways_to(&self, path: &Path) -> Vec<Diagnostic> {
        let user = self.user.as_deref().and_then(user::id);
        let warnings = |path: &Path| writers::on_the_way(path, user).into_iter().map(Diagnostic::warning);
        let mut found: Vec<Diagnostic> = warnings(path).collect();
        for path in self.rules.sources.included() {
            for warning in warnings(path) {
                // Most files are in the same folder, so that each warning would be repeated.
                if found.iter().all(|known| known.message != warning.message) {
                    found.push(Diagnostic { file: Some(sources::shown(path)), ..warning });
                }
            }
        }
        found
    }

    /// Writes the indexes that were prepared.
    fn make_indexes(&self, makers: Vec<(usize, index::Maker)>) -> Vec<Result<Made, (PathBuf, io::Error)>> {
        let sources = &self.rules.sources;
        let make = |(file, maker): (usize, index::Maker)| {
            let path = sources.path(file);
            maker.write(path, &sources.source(file)).map_err(|error| (path.to_owned(), error)).transpose()
        };
        makers.into_iter().filter_map(make).collect()
    }

    /// Tells of indexes that a session would not use.
    fn check_indexes(&self, path: &Path) -> Vec<Diagnostic> {
        let files = [path].into_iter().chain(self.rules.sources.included());
        if !files.filter_map(index::beside).any(|index| index.symlink_metadata().is_ok()) {
            return Vec::new();
        }
        let mut session = Reader::new(true, Indexes::Used);
        let _ = session.read(path);
        let unused = session.config.rules.unused_indexes.into_iter();
        let tell = |(index, why): (PathBuf, String)| {
            let index = sources::shown(&index);
            let command = command(path, "check --index");
            Diagnostic::warning(format!("the index {index} is of no use: {why}; run `{command}` to make it anew"))
        };
        unused.map(tell).collect()
    }

    /// The files that it includes, in the order of the text, for people.
    pub fn included(&self) -> impl Iterator<Item = String> {
        self.rules.sources.included().map(sources::shown)
    }

    /// The included files with their versions when they were read.
    pub(crate) fn included_versions(&self) -> Versions {
        self.rules.sources.versions()
    }
}

/// What to type at a shell to have this subcommand look at this file.
pub(crate) fn command(file: &Path, subcommand: &str) -> String {
    let shown = sources::shown(file);
    let is_plain = shown.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c));
    let name = if is_plain && !shown.is_empty() { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) };
    match file == Path::new(DEFAULT_FILE) {
        true => format!("mailrecv {subcommand}"),
        false => format!("mailrecv -c {name} {subcommand}"),
    }
}

/// The names of all directives, for the tests that the documentation has each.
pub fn directives() -> impl Iterator<Item = &'static str> {
    directive::names()
}

/// The names of all actions, for the same tests.
pub fn actions() -> impl Iterator<Item = &'static str> {
    action::Action::names()
}
