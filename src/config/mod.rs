//! The configuration: read once per connection, immutable from then on.
//!
//! Loading looks at every line once, reports every error there is, and keeps what a connection may need: most rules
//! stay text until a recipient asks for them. A file that others could have written is refused, because it holds
//! commands. mailrecv.conf(5) is the reference.

mod action;
mod address_only;
mod check;
mod compiler;
mod diagnostic;
mod directive;
mod exact;
mod flags;
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
mod rules;
mod settings;
mod shadow;
mod shell;
mod source;
mod spelling;
mod table;
mod trace;
mod value;
mod writers;

use std::path::Path;

use anyhow::{Context, anyhow};

pub use action::{Destinations, Origin};
pub(crate) use action::{HandOver, Keep};
pub use diagnostic::{Diagnostic, Severity};
use directive::Line;
pub use flags::Flags;
pub use limits::{Limit, Limits, Refusal};
pub use needs::{Needs, Place};
pub use pattern::BrokenPattern;
use places::Places;
pub use rules::{Denial, Rules};
pub use settings::{Config, Level, LogTarget, Sandbox};
pub(crate) use shell::{PASSED, PATH, SHELL, VARIABLES};
use source::{LineStart, Source};
pub(crate) use source::{Version, would_wait};
pub use trace::Trace;

use crate::{files, user};

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Unusable {
    /// Every reason why.
    pub errors: Vec<Diagnostic>,
    /// Where it wants its log, as far as that could be read: there the administrator will look for the reasons.
    pub log: LogTarget,
    /// Whom it wants to become, likewise: a log file that root made could not be written later.
    pub user: Option<String>,
}

/// Reads the file. Patterns are compiled later, at their first use; [`check`] does it beforehand.
pub fn load(path: &Path) -> Result<Config, Unusable> {
    let (config, errors) = read(path)?;
    if errors.is_empty() { Ok(config) } else { Err(Unusable { errors, log: config.log, user: config.user }) }
}

/// What was found in a file by somebody who looked for mistakes.
#[derive(Debug)]
pub struct Checked {
    /// The configuration, if it can be used.
    pub config: Option<Config>,
    /// All there is to say, in the order of the file.
    pub found: Vec<Diagnostic>,
}

/// Reads the file, compiles every pattern, and looks for what is legal but hardly meant: all of it in one round.
pub fn check(path: &Path) -> Checked {
    let (config, errors) = match read(path) {
        Ok(read) => read,
        Err(unusable) => return Checked { config: None, found: unusable.errors },
    };
    let mut found = config.check_way_to(path);
    found.extend(config.find(errors.is_empty()));
    let is_usable = errors.is_empty();
    found.extend(errors);
    found.sort_by_key(|diagnostic| diagnostic.line);
    Checked { config: is_usable.then_some(config), found }
}

/// The configuration as far as it could be read, and what is wrong with its lines.
fn read(path: &Path) -> Result<(Config, Vec<Diagnostic>), Unusable> {
    let whole_file = |error: anyhow::Error| Unusable {
        errors: vec![Diagnostic::whole_file(format!("{error:#}"))],
        log: LogTarget::Syslog,
        user: None,
    };
    let source = Source::open(path).map_err(whole_file)?;
    let mut config = Config::default();
    let mut errors = Vec::new();
    let mut says_nothing = true;
    let read = source.for_each_line(|line, at| {
        says_nothing = says_nothing && line.trim_ascii().is_empty();
        if let Err(diagnostic) = config.take_line(line, at) {
            errors.push(*diagnostic);
        }
    });
    read.context("cannot be read").map_err(whole_file)?;
    if !source.is_as_opened().context("cannot be examined").map_err(whole_file)? {
        return Err(whole_file(anyhow!("was changed while it was read")));
    }
    if says_nothing {
        return Err(whole_file(anyhow!("is empty")));
    }
    config.rules.set_source(source);
    Ok((config, errors))
}

impl Config {
    /// Compiles every pattern and looks for what is legal but hardly meant.
    pub fn check(&self) -> Vec<Diagnostic> {
        self.find(true)
    }

    /// The same. Where lines are missing because they have errors, nothing is said of what lines have to do with each other.
    fn find(&self, is_whole: bool) -> Vec<Diagnostic> {
        let spool = self.spool_dir.is_none().then(files::temporary_folder);
        let check = |user| self.rules.check(&self.domain, is_whole, Places::new(user), spool.as_deref());
        // What can be written is tried as whoever will write it.
        let trouble = self.user.as_deref().and_then(user::trouble);
        let user = self.user.as_deref().filter(|_| nix::unistd::geteuid().is_root() && trouble.is_none());
        let mut found = match user {
            Some(name) => user::as_user(name, || check(Some(name)))
                .unwrap_or_else(|error| vec![Diagnostic::whole_file(format!("{error:#}"))]),
            None => check(None),
        };
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

    /// Tells of folders and links on the way to the file that let others put another in its place.
    fn check_way_to(&self, path: &Path) -> Vec<Diagnostic> {
        let user = self.user.as_deref().and_then(user::id);
        writers::on_the_way(path, user).into_iter().map(Diagnostic::warning).collect()
    }
}

impl Config {
    fn take_line(&mut self, line: &[u8], at: LineStart) -> Result<(), Box<Diagnostic>> {
        if self.rules.add_plain(line, at).is_some() {
            return Ok(());
        }
        let text = &*source::text(line);
        let prepared = &*lexer::prepared(text).map_err(|problem| problem.cite(text, at.number))?;
        let line = directive::line(prepared).map_err(|problem| {
            // A character that looks like another explains what is said of the words.
            lexer::look_alike(prepared).unwrap_or(problem).cite(prepared, at.number)
        })?;
        match line {
            Some(Line::Setting(setting)) => self.set(setting),
            Some(Line::Limit(limit)) => self.limits.set(limit),
            Some(Line::Rule(rule)) => {
                self.rules.add(rule, at).map_err(|problem| problem.cite(prepared, at.number))?;
            }
            None => {}
        }
        Ok(())
    }
}

/// The names of all directives, for the tests that the documentation has each.
pub fn directives() -> impl Iterator<Item = &'static str> {
    directive::names()
}

/// The names of all actions, likewise.
pub fn actions() -> impl Iterator<Item = &'static str> {
    action::Action::names()
}
