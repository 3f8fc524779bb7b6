//! `print`: the message for people, to the place where the log is.
//!
//! Every line of it is a line of the log, with the peer's address in front and escaped like one, so that a message can
//! neither steer a terminal nor look like an event.

use std::io;

use super::{Context, failure};
use crate::message::{Lines, RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;

/// Copies that people have seen. Dropped before [`Shown::commit`], a line for each says that it was not delivered.
pub(super) struct Shown<'a> {
    context: &'a Context<'a>,
    ids: Vec<String>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, ids: Vec::new() }
    }

    /// Shows one recipient's copy.
    pub(super) fn print(&mut self, copy: RecipientCopy<'_>, spool: &mut Spool) -> Result<(), Reply> {
        // What is begun may have been seen.
        self.ids.push(copy.envelope.id.to_owned());
        show(self.context, copy, spool).map_err(|error| failure(&error, "printing the message to the log"))
    }

    /// Lets them stay.
    pub(super) fn commit(mut self) {
        self.ids.clear();
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            // If the log takes nothing, nobody has seen the message either.
            let _ = self.context.log.print(format!("=== NOT DELIVERED: {id} ===").as_bytes());
        }
    }
}

fn show(context: &Context<'_>, copy: RecipientCopy<'_>, spool: &mut Spool) -> io::Result<()> {
    let log = context.log;
    let envelope = copy.envelope;
    log.print(b"=== NEW EMAIL ===")?;
    log.print(format!("Id: {}", envelope.id).as_bytes())?;
    log.print(format!("From: <{}>", envelope.transaction.reverse_path).as_bytes())?;
    for recipient in copy.recipients() {
        log.print(format!("To: <{recipient}>").as_bytes())?;
    }
    let mut lines = Lines::default();
    for_each_piece(spool.text()?, |text| lines.push(text, |line| log.print(line)))?;
    lines.finish(|line| log.print(line))?;
    log.print(&[b'='; 40])?;
    log.sync()
}
