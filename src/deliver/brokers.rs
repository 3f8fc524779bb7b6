//! What both kinds of brokers have in common: files, opened before the session enters its sandbox, the connection, and
//! how failures are answered.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use anyhow::Context as _;

use super::Context;
use crate::config::{Config, secret};
use crate::net::client::{ClientFiles, Endpoint};
use crate::net::dialogue::{Believed, Dialogue};
use crate::net::patience::Patience;
use crate::smtp::reply::{self, Reply};
use crate::unread::Unread;

/// The files for brokers, if a rule publishes.
#[derive(Debug, Default)]
pub(crate) struct Brokers(Option<Opened>);

#[derive(Debug)]
struct Opened {
    files: ClientFiles,
    hpfeeds_secret: Option<Unread>,
    amqp_password: Option<Unread>,
}

impl Brokers {
    /// Opens them. A file that cannot be opened is an error only when it is needed.
    pub(crate) fn open(config: &Config) -> Self {
        Self(config.publishes().then(|| Opened {
            files: ClientFiles::open(config.ca_file.as_deref()),
            hpfeeds_secret: config.hpfeeds_secret_file.as_deref().map(Unread::open),
            amqp_password: config.amqp_password_file.as_deref().map(Unread::open),
        }))
    }

    /// Connects to a broker; with TLS its certificate has to be for this host.
    pub(super) fn connect(&self, broker: &Endpoint, uses_tls: bool, until: Instant) -> anyhow::Result<Connection> {
        let (files, patience) = (&self.opened()?.files, Connection::patience(until));
        let mut dialogue = Dialogue::connect(broker, files, patience)?;
        if uses_tls {
            dialogue.start_tls(&broker.host, Believed::From(files.authorities()?), patience)?;
        }
        Ok(Connection { dialogue, came: Vec::new(), until })
    }

    /// The hpfeeds secret, read from its file.
    pub(super) fn hpfeeds_secret(&self) -> anyhow::Result<String> {
        self.opened()?.hpfeeds_secret.as_ref().context(NOT_OPENED)?.parsed(secret)
    }

    /// The AMQP password, read from its file.
    pub(super) fn amqp_password(&self) -> anyhow::Result<String> {
        self.opened()?.amqp_password.as_ref().context(NOT_OPENED)?.parsed(secret)
    }

    fn opened(&self) -> anyhow::Result<&Opened> {
        self.0.as_ref().context(NOT_OPENED)
    }
}

/// A connection to a broker. Reading and writing fail with [`ErrorKind::TimedOut`] when the deadline has passed. A
/// request to stop does not interrupt them: once we have begun to publish, we have to hear what became of it.
pub(super) struct Connection {
    dialogue: Dialogue,
    /// What has come and is not read yet.
    came: Vec<u8>,
    until: Instant,
}

impl Connection {
    /// Sets another deadline.
    pub(super) fn set_deadline(&mut self, until: Instant) {
        self.until = until;
    }

    /// Whether something has come that was not read. It cannot be the answer to what is asked next.
    pub(super) fn has_spoken(&mut self) -> bool {
        // An error of the connection shows up again when it is used next.
        let _ = self.dialogue.read_what_came(&mut self.came);
        !self.came.is_empty()
    }

    fn patience(until: Instant) -> Patience<'static> {
        Patience { until, signals: None }
    }
}

impl Read for Connection {
    /// Returns 0 if the broker has closed the connection.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.came.is_empty() {
            match self.dialogue.read(&mut self.came, Self::patience(self.until)) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => read?,
            }
        }
        let length = self.came.as_slice().read(buffer)?;
        self.came.drain(..length);
        Ok(length)
    }
}

impl Write for Connection {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.dialogue.write(text, Self::patience(self.until)).map(|()| text.len())
    }

    /// Nothing is buffered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Publishes within the time limit. Every failure is temporary, so that the sender keeps the mail.
pub(super) fn in_time(context: &Context<'_>, publish: impl FnOnce(Instant) -> anyhow::Result<()>) -> Result<(), Reply> {
    let limit = &context.config.limits.broker_secs;
    let until = Instant::now() + limit.value;
    publish(until).map_err(|error| {
        let cause = format!("{error:#}");
        match Instant::now() < until {
            true => reply::try_again(cause),
            false => reply::worded(&limit.refusal, reply::BROKER_TOO_SLOW).because(cause),
        }
    })
}

const NOT_OPENED: &str = "no file was opened for this broker when the session began";
