//! Delivery of one message to all of its destinations, or to none.
//!
//! Without a queue that takes an order: what can be taken back is written and synced first ([`mbox`], [`maildir`],
//! [`print`]), then the one destination that cannot ([`pipe`]) has its say, and only then is the rest committed, which is
//! no more than a rename. Everything prepared is taken back when its value is dropped, on every way out.

mod maildir;
pub mod mbox;
mod pipe;
mod print;

use std::time::Duration;
use std::{fmt, io};

use crate::config::{Action, Config, Flags};
use crate::log::Log;
use crate::message::{Envelope, Spool};
use crate::signals::Signals;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::{Outcome, Recipient};

/// What a delivery needs besides the message.
pub struct Context<'a> {
    /// Limits and names.
    pub config: &'a Config,
    /// Where events go.
    pub log: &'a Log,
    /// Where the end of a child is told.
    pub signals: &'a Signals,
}

/// Delivers the message. It is [`Outcome::Delivered`] only when every copy is on stable storage or taken over by a command.
pub fn deliver(context: &Context<'_>, envelope: &Envelope<'_>, spool: &mut Spool) -> Outcome {
    match attempt(context, envelope, spool) {
        Ok(()) => Outcome::Delivered,
        Err(reply) if reply.code / 100 == 5 => Outcome::Fail(reply),
        Err(reply) => Outcome::Defer(reply),
    }
}

fn attempt(context: &Context<'_>, envelope: &Envelope<'_>, spool: &mut Spool) -> Result<(), Reply> {
    if let Some(error) = spool.failure() {
        return Err(failure(&error, "receiving the message into the spool"));
    }
    if spool.hops() > MAX_HOPS {
        return Err(reply::too_many_hops(spool.hops()));
    }
    let mut copies: Vec<(&Recipient<'_>, &Action<'_>)> = Vec::new();
    for recipient in &envelope.transaction.recipients {
        copies.extend(recipient.destinations.iter().map(|destination| (recipient, &destination.action)));
    }

    let mut maildirs = maildir::Maildirs::new(context);
    for (recipient, action) in &copies {
        if let Action::Maildir(directory) = action {
            maildirs.add(directory, &recipient.mailbox, envelope, spool).map_err(about(recipient))?;
        }
    }
    let mut files: Vec<_> = copies
        .iter()
        .filter_map(|(recipient, action)| match action {
            Action::Append(path) => Some((&**path, *recipient)),
            _ => None,
        })
        .collect();
    // Every process locks files in the same order, so that no two wait for each other.
    files.sort_by_key(|(path, _)| *path);
    let mut mailboxes = mbox::Mailboxes::new(context);
    for (path, recipient) in files {
        mailboxes.append(path, &recipient.mailbox, envelope, spool).map_err(about(recipient))?;
    }
    mailboxes.sync()?;
    let mut shown = Vec::new();
    for (recipient, action) in &copies {
        if let Action::Print = action {
            shown.push(print::print(context, &recipient.mailbox, envelope, spool).map_err(about(recipient))?);
        }
    }

    for (recipient, action) in &copies {
        if let Action::Pipe(command) = action {
            pipe::run(context, command, &recipient.mailbox, envelope, spool).map_err(about(recipient))?;
        }
    }

    maildirs.commit()?;
    mailboxes.commit();
    shown.into_iter().for_each(print::Shown::commit);

    for (recipient, action) in &copies {
        log_delivery(context, envelope, recipient, action);
    }
    Ok(())
}

/// Says in the log whose copy it was.
fn about(recipient: &Recipient<'_>) -> impl FnOnce(Reply) -> Reply {
    |reply| reply.about(recipient.mailbox.bare())
}

fn log_delivery(context: &Context<'_>, envelope: &Envelope<'_>, recipient: &Recipient<'_>, action: &Action<'_>) {
    if context.log.wants(Flags::DELIVERIES) {
        let transaction = envelope.transaction;
        let sender = &transaction.reverse_path;
        context.log.always(format_args!(
            "{}",
            log_line(context.log, envelope.id, sender, &recipient.mailbox, &transaction.size, action)
        ));
    }
}

/// What the log says of a copy with flag `+`.
pub(crate) fn log_line(
    log: &Log,
    id: &str,
    sender: &ReversePath,
    recipient: &Mailbox,
    size: &dyn fmt::Display,
    action: &Action<'_>,
) -> String {
    format!(
        "Mail id={id} from=<{}> to=<{}> size={size} {action}: delivered",
        log.untrusted(sender.to_string().as_bytes()).in_angles(),
        log.untrusted(recipient.to_string().as_bytes()).in_angles(),
    )
}

/// The reply to an error of the system: the sender keeps the mail, whatever it is.
fn failure(error: &io::Error, doing: &str) -> Reply {
    let cause = format!("{doing}: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            reply::no_room(cause)
        }
        _ => reply::try_again(cause),
    }
}

/// A message that more servers than this have handled goes in circles (RFC 5321, 6.3).
const MAX_HOPS: usize = 100;

/// How long another program's lock on a mailbox is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
