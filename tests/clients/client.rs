//! The clients: how each is told to send a message, and what it does not send, or not as it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use testkit::process::output_of_input;
use testkit::{Folder, Form, repository};

use crate::messages::Kind;

/// A program or library that sends mail.
pub struct Client {
    /// Its name in the table.
    pub name: &'static str,
    /// In which form of the test it is.
    pub form: Form,
    /// What it wants at the end of a line.
    pub line_end: LineEnd,
    /// Sends a message with it. Returns what it told its user: on its standard output and error, or in its log.
    pub send: fn(&Mail<'_>) -> String,
    /// What it does not send as it is given. Every other kind of message has to go over the wire as it is.
    pub deviations: &'static [(Kind, Deviation)],
}

/// How lines end in what a client is given.
#[derive(Debug, Clone, Copy)]
pub enum LineEnd {
    /// As in files: it is for the client to make CRLF of it.
    Lf,
    /// As on the wire.
    Crlf,
}

/// A message for a client.
pub struct Mail<'m> {
    /// Where it goes.
    pub server: SocketAddr,
    /// The address for MAIL.
    pub sender: &'m str,
    /// The addresses for RCPT.
    pub recipients: &'m [&'m str],
    /// Header and text.
    pub message: String,
    /// A folder for whatever the client needs.
    pub folder: &'m Folder,
}

/// What a client does not do as it is told.
#[derive(Debug)]
pub enum Deviation {
    /// It sends something else, for this reason.
    Changes(&'static str),
    /// It sends nothing, and says these words.
    Cannot(&'static str),
}

impl LineEnd {
    /// The message of this kind, in which lines end like this.
    pub fn applied_to(self, kind: Kind) -> String {
        match self {
            Self::Crlf if kind != Kind::Lf => kind.message().replace('\n', "\r\n"),
            Self::Crlf | Self::Lf => kind.message(),
        }
    }
}

impl Mail<'_> {
    /// Runs a program that reads the message from its standard input; what it said.
    pub fn feed(&self, command: Command) -> String {
        run(command, &self.message)
    }

    /// The same for one of [`program`]s: HOST PORT SENDER RECIPIENT... are its arguments.
    pub fn feed_program(&self, mut command: Command) -> String {
        command.args([self.server.ip().to_string(), self.server.port().to_string()]);
        command.arg(self.sender).args(self.recipients);
        self.feed(command)
    }

    /// The text alone, for those that write the header themselves.
    pub fn text(&self) -> &str {
        let parts = self.message.split_once("\n\n").filter(|(header, _)| header.starts_with("From: "));
        parts.map_or(&self.message, |(_, text)| text)
    }
}

/// Runs a program with this on its standard input; what it said.
pub fn run(command: Command, input: &str) -> String {
    let output = output_of_input(command, input.as_bytes(), LONGEST);
    let said = [&output.stdout[..], &output.stderr].concat();
    format!("{}{}", String::from_utf8_lossy(&said), output.status)
}

/// A program of ours around a library or a daemon.
pub fn program(name: &str) -> PathBuf {
    repository::path("tests/clients/programs").join(name)
}

/// What was built of that, or fetched for it by `tests/run`.
pub fn built(name: &str) -> PathBuf {
    repository::path("target/clients").join(name)
}

/// How long a client may take for a message.
const LONGEST: Duration = Duration::from_mins(10);
