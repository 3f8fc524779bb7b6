//! What publishing needs of files, opened before the session confines itself, and how it fails.

use std::time::Instant;

use anyhow::Context as _;

use super::Context;
use crate::config::{Config, secret};
use crate::net::client::{Client, ClientFiles, Endpoint};
use crate::smtp::reply::{self, Reply};
use crate::unread::Unread;

/// The files of those brokers that rules publish with.
#[derive(Debug, Default)]
pub struct Brokers(Option<Opened>);

#[derive(Debug)]
struct Opened {
    files: ClientFiles,
    hpfeeds_secret: Option<Unread>,
    amqp_password: Option<Unread>,
}

impl Brokers {
    /// Opens them. What cannot be opened is told when it is needed.
    pub(crate) fn open(config: &Config) -> Self {
        Self(config.publishes().then(|| Opened {
            files: ClientFiles::open(config.ca_file.as_deref()),
            hpfeeds_secret: config.hpfeeds_secret_file.as_deref().map(Unread::open),
            amqp_password: config.amqp_password_file.as_deref().map(Unread::open),
        }))
    }

    /// Connects to one of them.
    pub(super) fn connect(&self, broker: &Endpoint, uses_tls: bool, until: Instant) -> anyhow::Result<Client> {
        Client::connect(broker, uses_tls, &self.opened()?.files, until)
    }

    /// The secret that is in a file.
    pub(super) fn hpfeeds_secret(&self) -> anyhow::Result<String> {
        self.opened()?.hpfeeds_secret.as_ref().context(NOT_OPENED)?.parsed(secret)
    }

    /// The password that is in a file.
    pub(super) fn amqp_password(&self) -> anyhow::Result<String> {
        self.opened()?.amqp_password.as_ref().context(NOT_OPENED)?.parsed(secret)
    }

    fn opened(&self) -> anyhow::Result<&Opened> {
        self.0.as_ref().context(NOT_OPENED)
    }
}

/// Does what has to be over in time. Whatever goes wrong, the sender keeps the mail.
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
