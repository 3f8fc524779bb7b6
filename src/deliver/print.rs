//! `print`: the message for people, to the place where the log is.
//!
//! Every line of it is a line of the log, with the peer's address in front and escaped like one, so that a message can
//! neither steer a terminal nor look like an event.

use std::io;

use super::{Context, failure};
use crate::address::Mailbox;
use crate::message::{Envelope, Spool};
use crate::smtp::reply::Reply;

/// A message that people have seen. Dropped before [`Shown::commit`], a line says that it was not delivered.
pub(super) struct Shown<'a> {
    context: &'a Context<'a>,
    id: &'a str,
    stays: bool,
}

/// Shows one recipient's copy.
pub(super) fn print<'a>(
    context: &'a Context<'a>,
    recipient: &Mailbox,
    envelope: &Envelope<'a>,
    spool: &mut Spool,
) -> Result<Shown<'a>, Reply> {
    let shown = Shown { context, id: envelope.id, stays: false };
    show(context, recipient, envelope, spool).map_err(|error| failure(&error, "printing the message to the log"))?;
    Ok(shown)
}

fn show(context: &Context<'_>, recipient: &Mailbox, envelope: &Envelope<'_>, spool: &mut Spool) -> io::Result<()> {
    let log = context.log;
    log.print(b"=== NEW EMAIL ===")?;
    log.print(format!("Id: {}", envelope.id).as_bytes())?;
    log.print(format!("From: <{}>", envelope.transaction.reverse_path).as_bytes())?;
    log.print(format!("To: <{recipient}>").as_bytes())?;
    let mut line = Vec::new();
    spool.copy_to(|text| {
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            let content = part.strip_suffix(b"\n").unwrap_or(part);
            line.extend_from_slice(content);
            // A line without an end is shown in parts, so that memory stays bounded and the system log takes them.
            while line.len() > MAX_LINE {
                log.print(&line[..MAX_LINE])?;
                line.drain(..MAX_LINE);
            }
            if content.len() < part.len() {
                log.print(&line)?;
                line.clear();
            }
        }
        Ok(())
    })?;
    if !line.is_empty() {
        log.print(&line)?;
    }
    log.print(&[b'='; 40])?;
    log.sync()
}

impl Shown<'_> {
    pub(super) fn commit(mut self) {
        self.stays = true;
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if !self.stays {
            // If the log takes nothing, nobody has seen the message either.
            let _ = self.context.log.print(format!("=== NOT DELIVERED: {} ===", self.id).as_bytes());
        }
    }
}

/// How much of an endless line is shown at a time, in bytes. All of them escaped fit into a datagram to the system log.
const MAX_LINE: usize = 8 * 1024;
