//! What can be done with a message: the last words of a `deliver` or `copy` line.
//!
//! What can be taken back and what cannot are two types, because delivery without a queue depends on the difference: a
//! recipient has any number of [`Keep`]s and at most one [`HandOver`]. A new action needs a variant, its [`Facts`] and
//! a row of [`ACTIONS`] here, and an arm in src/deliver/mod.rs; without the variant's arms it does not compile.

use std::fmt;
use std::path::Path;

use super::lexer::{Problem, Word, Words};
use super::relay_url::Hop;
use super::spelling::{closest, listed};
use super::value;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// To a place of ours, where it can be taken back.
    Keep(Keep),
    /// To somebody else, where it cannot be taken back.
    HandOver(HandOver),
}

/// A destination that is prepared first, and can be taken back until it is committed. Destinations are prepared in the
/// order of these variants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keep {
    /// A file of its own in this maildir.
    Maildir(String),
    /// A file of its own in this folder.
    Eml(String),
    /// Show in the log, for people.
    Print(View),
    /// Append to this file in mboxrd form.
    Append(String),
    /// Take and drop.
    Discard,
}

/// How a message is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    /// As a mail program would: decoded, its text and what is attached.
    Letter,
    /// As it is.
    Raw,
}

/// A destination that cannot be undone. It gets the message when everything else is prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HandOver {
    /// Give to this shell command on its standard input.
    Pipe(Form, String),
    /// Publish in this channel of the hpfeeds broker.
    Hpfeeds(String),
    /// Publish with the AMQP broker.
    Amqp(Topic),
    /// Pass on to this server, while the peer waits.
    Relay(Box<Hop>),
}

/// In which form a command gets the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As `append` would write it, so that the command can add it to a mailbox.
    Mailbox,
    /// As it is, for programs that deliver or examine one message.
    Raw,
}

/// Where an AMQP broker should put a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    /// The exchange; empty for the default exchange, which knows every queue by its name.
    pub(crate) exchange: String,
    /// The routing key.
    pub(crate) key: String,
}

/// What is known of an action, except how to do it. Its `Display` is the action as the configuration writes it, with
/// operands in quotes.
pub struct Facts<'a> {
    /// Its name in the configuration.
    pub name: &'static str,
    /// What follows the name: a file, a folder, a command, a server, or where a broker should put a message.
    pub operands: [Option<&'a str>; 2],
    /// What the sandbox must allow for it.
    need: Need<'a>,
}

/// What a destination needs of the system, for the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// A file that is appended to, or made.
    Mailbox(&'a Path),
    /// A maildir, or another folder for files of messages; it is made if it is missing.
    Maildir(&'a Path),
    /// This command, which is run outside the sandbox.
    Command(&'a str),
    /// A connection to this broker.
    Broker(Broker),
    /// A connection to this server.
    Hop(&'a Hop),
    /// Nothing special.
    Nothing,
}

/// A kind of broker; other lines of the configuration say where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broker {
    /// `hpfeeds_broker`
    Hpfeeds,
    /// `amqp_url`
    Amqp,
}

impl Keep {
    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &'static str {
        self.facts().name
    }

    /// What there is to know of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        match self {
            Keep::Maildir(folder) => Facts::new("maildir", Some(folder), Need::Maildir(Path::new(folder))),
            Keep::Eml(folder) => Facts::new("eml", Some(folder), Need::Maildir(Path::new(folder))),
            Keep::Append(file) => Facts::new("append", Some(file), Need::Mailbox(Path::new(file))),
            Keep::Print(View::Letter) => Facts::new("print", None, Need::Nothing),
            Keep::Print(View::Raw) => Facts::new("print", Some("raw"), Need::Nothing),
            Keep::Discard => Facts::new("discard", None, Need::Nothing),
        }
    }
}

impl HandOver {
    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &'static str {
        self.facts().name
    }

    /// What there is to know of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        match self {
            HandOver::Pipe(Form::Mailbox, command) => Facts::new("pipe", Some(command), Need::Command(command)),
            HandOver::Pipe(Form::Raw, command) => Facts::new("pipe_raw", Some(command), Need::Command(command)),
            HandOver::Hpfeeds(channel) => Facts::new("hpfeeds", Some(channel), Need::Broker(Broker::Hpfeeds)),
            HandOver::Amqp(Topic { exchange, key }) => {
                Facts { name: "amqp", operands: [Some(exchange), Some(key)], need: Need::Broker(Broker::Amqp) }
            }
            HandOver::Relay(hop) => Facts::new("relay", Some(hop.shown()), Need::Hop(hop)),
        }
    }
}

/// Reads the operands of an action.
type Parser = fn(&mut Words<'_>) -> Result<Action, Problem>;

/// Every action: its name, its operands as shown in messages, and their parser.
const ACTIONS: &[(&str, &str, Parser)] = &[
    ("append", " FILE", |words| Ok(Action::Keep(Keep::Append(words.path("the file to append to")?.text.to_owned())))),
    ("maildir", " DIR", |words| {
        Ok(Action::Keep(Keep::Maildir(words.path("the folder of the maildir")?.text.to_owned())))
    }),
    ("eml", " DIR", |words| Ok(Action::Keep(Keep::Eml(words.path("the folder for the files")?.text.to_owned())))),
    ("pipe", " COMMAND", |words| Ok(Action::HandOver(HandOver::Pipe(Form::Mailbox, command(words)?)))),
    ("pipe_raw", " COMMAND", |words| Ok(Action::HandOver(HandOver::Pipe(Form::Raw, command(words)?)))),
    ("hpfeeds", " CHANNEL", |words| Ok(Action::HandOver(HandOver::Hpfeeds(channel(words)?)))),
    ("amqp", " EXCHANGE KEY", |words| Ok(Action::HandOver(HandOver::Amqp(topic(words)?)))),
    ("relay", " URL", |words| Ok(Action::HandOver(HandOver::Relay(Box::new(Hop::parse(words)?))))),
    ("print", " [raw]", |words| Ok(Action::Keep(Keep::Print(view(words))))),
    ("discard", "", |_| Ok(Action::Keep(Keep::Discard))),
];

/// Reads `raw`, if it is there.
fn view(words: &mut Words<'_>) -> View {
    let mut behind = *words;
    match behind.next_word().is_some_and(|word| word.text == "raw") {
        true => {
            *words = behind;
            View::Raw
        }
        false => View::Letter,
    }
}

/// Reads a command, which is the rest of the line.
fn command(words: &mut Words<'_>) -> Result<String, Problem> {
    let has_values = words.has_values();
    let command = words.rest("the shell command")?;
    // Variables behind `pipe` are left to the shell, which is not recognised if `pipe` itself comes from a variable.
    match has_values {
        true => {
            Err(command.problem("write `pipe` in the place of its variable: nothing is replaced in a command then"))
        }
        false => Ok(command.text.to_owned()),
    }
}

/// Reads the name of a channel, whose length has to fit into one byte of the protocol.
fn channel(words: &mut Words<'_>) -> Result<String, Problem> {
    value::short_text(words.expect("the channel")?)
}

/// Reads an exchange, which may be `""`, and a routing key.
fn topic(words: &mut Words<'_>) -> Result<Topic, Problem> {
    let exchange = words.next_word().ok_or_else(|| words.missing("the exchange"))?;
    let (exchange, key) = (value::short_text(exchange)?, value::short_text(words.expect("the routing key")?)?);
    Ok(Topic { exchange, key })
}

impl Action {
    /// Reads an action and its operands.
    pub(super) fn parse(words: &mut Words<'_>) -> Result<Self, Problem> {
        let name = words.expect(fmt::from_fn(|f| {
            let forms = ACTIONS.iter().map(|(name, operand, _)| format!("{name}{operand}"));
            write!(f, "what to do: {}", listed(forms))
        }))?;
        match ACTIONS.iter().find(|(known, ..)| *known == name.text) {
            Some((_, _, parse)) => parse(words),
            None => Err(unknown(name)),
        }
    }

    /// Whether this is `append`.
    pub(super) fn is_append(&self) -> bool {
        matches!(self, Action::Keep(Keep::Append(_)))
    }

    /// The names of all actions.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        ACTIONS.iter().map(|(name, ..)| *name)
    }

    /// What the sandbox must allow for it.
    pub(super) fn needs(&self) -> Need<'_> {
        match self {
            Action::Keep(keep) => keep.facts().need,
            Action::HandOver(hand_over) => hand_over.facts().need,
        }
    }
}

fn unknown(name: Word<'_>) -> Problem {
    let names = listed(Action::names().map(str::to_owned));
    let meant = match closest(name.text, Action::names()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("write {names}"),
    };
    name.problem(format!("unknown action `{}`: {meant}", name.text))
}

impl<'a> Facts<'a> {
    fn new(name: &'static str, operand: Option<&'a str>, need: Need<'a>) -> Self {
        Self { name, operands: [operand, None], need }
    }
}

impl fmt::Display for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.operands.into_iter().flatten().try_for_each(|operand| write!(f, " '{operand}'"))
    }
}

/// The destinations of one recipient's mail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destinations {
    /// Those that can be taken back.
    pub(crate) keep: Vec<Destination<Keep>>,
    /// The one that cannot, if there is one.
    pub(crate) hand_over: Option<Destination<HandOver>>,
    /// How many of `keep` come before `hand_over` in the configuration; only for showing them.
    handed_over_behind: usize,
}

/// A destination, and where it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination<A> {
    /// What to do.
    pub(crate) action: A,
    /// Which part of the configuration names it.
    origin: Origin,
}

impl Destination<Keep> {
    fn shown(&self) -> (Facts<'_>, Origin) {
        (self.action.facts(), self.origin)
    }
}

impl Destination<HandOver> {
    fn shown(&self) -> (Facts<'_>, Origin) {
        (self.action.facts(), self.origin)
    }
}

/// Where in the configuration a destination was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The line with this number, counted over all files ([`super::Rules::origin`]).
    Line(u32),
    /// The dead letter file.
    DeadLetterFile,
}

/// A recipient would have two destinations that cannot be taken back: one of them could fail when the other is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecondHandOver;

impl Destinations {
    /// Adds the destination of a line.
    pub(super) fn add(&mut self, action: Action, origin: Origin) -> Result<(), SecondHandOver> {
        match action {
            Action::Keep(action) => self.keep.push(Destination { action, origin }),
            Action::HandOver(action) if self.hand_over.is_none() => {
                self.hand_over = Some(Destination { action, origin });
                self.handed_over_behind = self.keep.len();
            }
            Action::HandOver(_) => return Err(SecondHandOver),
        }
        Ok(())
    }

    /// Whether one destination cannot be taken back.
    pub fn are_handed_over(&self) -> bool {
        self.hand_over.is_some()
    }

    /// Whether both have the same destination that cannot be taken back, so that the message is handed over once: a
    /// channel, whose subscribers do not see recipients, or a server that takes one message for all recipients.
    pub fn share_hand_over(&self, other: &Self) -> bool {
        match (self.handed_to(), other.handed_to()) {
            (Some(HandOver::Hpfeeds(own)), Some(HandOver::Hpfeeds(others))) => own == others,
            (Some(HandOver::Relay(own)), Some(HandOver::Relay(others))) => own.is_shared() && own == others,
            _ => false,
        }
    }

    fn handed_to(&self) -> Option<&HandOver> {
        self.hand_over.as_ref().map(|destination| &destination.action)
    }

    /// The server that the mail is passed on to, if it is.
    pub(crate) fn hop(&self) -> Option<&Hop> {
        match self.handed_to()? {
            HandOver::Relay(hop) => Some(hop),
            HandOver::Pipe(..) | HandOver::Hpfeeds(_) | HandOver::Amqp(_) => None,
        }
    }

    /// How many of these places the others do not have. A command counts for each recipient.
    pub fn places_beyond<'a>(&self, others: impl Iterator<Item = &'a Self> + Clone) -> u64 {
        let is_new = |place: &&Destination<Keep>| {
            !others.clone().flat_map(|others| &others.keep).any(|other| other.action == place.action)
        };
        let is_handed_over = self.are_handed_over() && !others.clone().any(|other| self.share_hand_over(other));
        self.keep.iter().filter(is_new).count() as u64 + u64::from(is_handed_over)
    }

    /// All destinations in the order of the configuration, with the line that names each.
    pub fn shown(&self) -> impl Iterator<Item = (Facts<'_>, Origin)> {
        let (before, behind) = self.keep.split_at(self.handed_over_behind);
        let hand_over = self.hand_over.iter().map(Destination::<HandOver>::shown);
        before
            .iter()
            .map(Destination::<Keep>::shown)
            .chain(hand_over)
            .chain(behind.iter().map(Destination::<Keep>::shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::directive;
    use crate::config::lexer::prepared;
    use crate::metrics::Family;

    #[test]
    fn every_action_is_counted_by_its_name() {
        let names: Vec<&str> = ACTIONS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, Family::Deliveries.values());
    }

    #[test]
    fn variables_in_commands_are_the_shells() {
        for (name, operand, _) in ACTIONS {
            let line = format!("deliver rcpt_to a@b {name} run ${{NO_SUCH_VARIABLE_IS_SET}}");
            assert_eq!(prepared(&line).is_ok(), *operand == " COMMAND", "{line}");
        }
    }

    /// What the environment has is no part of a command, however the action comes about.
    #[test]
    fn no_value_gets_into_a_command() {
        for (line, is_taken) in [
            ("deliver rcpt_to a@b pipe echo ${PATH}", true),
            ("when on deliver rcpt_to a@b pipe echo ${PATH}", true),
            ("deliver rcpt_to ${NO_SUCH_VARIABLE_IS_SET:-a@b} ${NO_SUCH_VARIABLE_IS_SET:-pipe} echo", true),
            ("deliver rcpt_to a@b ${NO_SUCH_VARIABLE_IS_SET:-pipe} echo ${PATH}", false),
            ("deliver rcpt_to ${NO_SUCH_VARIABLE_IS_SET:-a@b pipe_raw} ${PATH}", false),
        ] {
            let prepared = prepared(line).unwrap();
            assert_eq!(directive::line(&prepared).is_ok(), is_taken, "{line}");
        }
    }
}
