//! Delivery of one message to all of its destinations, or to none.
//!
//! Without a queue that takes an order: what can be taken back is written and synced first ([`mbox`], [`maildir`],
//! [`print`]), then the one destination that cannot ([`pipe`]) has its say, and only then is the rest committed, which is
//! no more than a rename. Everything prepared is taken back when its value is dropped, on every way out.
//!
//! Each phase has one `match` that knows every destination, and no `_` in it.

mod maildir;
mod mbox;
pub mod mboxrd;
mod pipe;
mod print;

use std::cmp::Ordering;
use std::io;
use std::time::{Duration, Instant};

use crate::config::{Config, HandOver, Keep};
use crate::log::{Event, Log};
use crate::message::{Envelope, RecipientCopy, Spool};
use crate::signals::Signals;
use crate::smtp::Outcome;
use crate::smtp::reply::{self, Reply};
use crate::smtp::transaction::{Recipient, Transaction};

/// What a delivery needs besides the message.
pub struct Context<'a> {
    /// Limits and names.
    pub config: &'a Config,
    /// Where events go.
    pub log: &'a Log,
    /// Where the end of a child is told.
    pub signals: &'a Signals,
    /// When the connection has to be over.
    pub deadline: Instant,
}

/// Delivers the message to these recipients, a group that has one answer: to every destination, on stable storage or
/// taken over by whoever is responsible then, or to none.
pub fn deliver(context: &Context<'_>, envelope: &Envelope<'_>, group: &[Recipient], spool: &mut Spool) -> Outcome {
    if let Some(error) = spool.failure() {
        return Err(failure(error, "receiving the message into the spool"));
    }
    if spool.hops() > MAX_HOPS {
        return Err(reply::too_many_hops(spool.hops()));
    }
    let kept = keep(context, envelope, group, spool)?;
    if group.iter().any(|recipient| recipient.destinations.are_handed_over()) {
        // What cannot be taken back should not be done for nothing.
        kept.mailboxes.verify()?;
    }
    hand_over(context, envelope, group, spool)?;
    kept.commit()?;
    for recipient in group {
        log_delivery(context, envelope, recipient);
    }
    Ok(())
}

/// Prepares everything that can be taken back.
fn keep<'a>(
    context: &'a Context<'a>,
    envelope: &'a Envelope<'a>,
    group: &'a [Recipient],
    spool: &mut Spool,
) -> Result<Kept<'a>, Reply> {
    let copies = group.iter().flat_map(|recipient| recipient.destinations.keep.iter().map(move |to| (recipient, to)));
    let mut copies: Vec<_> = copies.map(|(recipient, to)| (recipient, &to.action)).collect();
    // In the order of `Keep`.
    copies.sort_by(|(_, one), (_, other)| match (one, other) {
        (Keep::Maildir(_), Keep::Maildir(_)) => Ordering::Equal,
        (one, other) => one.cmp(other),
    });
    let mailboxes = copies.iter().filter_map(|(_, action)| match action {
        Keep::Append(path) => Some(path.as_str()),
        _ => None,
    });
    let mut kept = Kept {
        maildirs: maildir::Maildirs::new(context),
        mailboxes: mbox::Mailboxes::new(context, mailboxes),
        shown: print::Shown::new(context),
    };
    for (recipient, action) in &copies {
        let copy = RecipientCopy { envelope, recipient: &recipient.mailbox };
        let prepared = match action {
            Keep::Maildir(directory) => kept.maildirs.add(directory, copy, spool),
            Keep::Append(path) => {
                kept.mailboxes.lock().map_err(|(path, reply)| {
                    let whose =
                        copies.iter().find(|(_, action)| matches!(action, Keep::Append(other) if other == path));
                    reply.about(whose.map_or(recipient, |(whose, _)| whose).mailbox.bare())
                })?;
                kept.mailboxes.append(path, copy, spool)
            }
            Keep::Print => {
                // People see it when it is nearly certain to stay.
                kept.mailboxes.sync()?;
                kept.shown.print(copy, spool)
            }
            Keep::Discard => Ok(()),
        };
        prepared.map_err(about(recipient))?;
    }
    kept.mailboxes.sync()?;
    Ok(kept)
}

/// Gives the message to whoever will not give it back: one at the most, as the session sees to.
fn hand_over(context: &Context<'_>, envelope: &Envelope<'_>, group: &[Recipient], spool: &mut Spool) -> Outcome {
    for recipient in group {
        let Some(to) = &recipient.destinations.hand_over else { continue };
        let copy = RecipientCopy { envelope, recipient: &recipient.mailbox };
        let taken_over = match &to.action {
            HandOver::Pipe(command) => pipe::run(context, command, copy, spool),
        };
        taken_over.map_err(about(recipient))?;
    }
    Ok(())
}

/// What was prepared. Dropped before [`Kept::commit`], it is taken back.
struct Kept<'a> {
    maildirs: maildir::Maildirs<'a>,
    mailboxes: mbox::Mailboxes<'a>,
    shown: print::Shown<'a>,
}

impl Kept<'_> {
    /// Lets it stay. What can fail comes first, while everything can still be taken back.
    fn commit(self) -> Outcome {
        let Self { maildirs, mailboxes, shown } = self;
        mailboxes.verify()?;
        maildirs.commit()?;
        mailboxes.commit();
        shown.commit();
        Ok(())
    }
}

/// Says in the log whose copy it was.
fn about(recipient: &Recipient) -> impl FnOnce(Reply) -> Reply {
    |reply| reply.about(recipient.mailbox.bare())
}

fn log_delivery(context: &Context<'_>, envelope: &Envelope<'_>, recipient: &Recipient) {
    let Transaction { reverse_path, size, .. } = envelope.transaction;
    for (action, _) in recipient.destinations.shown() {
        let (id, to) = (envelope.id, &recipient.mailbox);
        context.log.event(&Event::Delivered { id, from: reverse_path, to, size, action });
    }
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
