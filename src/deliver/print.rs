//! `print`: the message for people, to the place where the log is.
//!
//! Every line of it is a line of the log, with the peer's address in front and escaped like one, so that a message can
//! neither steer a terminal nor look like an event.

use std::io;
use std::time::Instant;

use super::{Context, failure};
use crate::message::{Lines, RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;

/// Copies that people have seen. Dropped before [`Shown::commit`], a line for each says that it was not delivered.
pub(super) struct Shown<'a> {
    context: &'a Context<'a>,
    ids: Vec<String>,
    /// Until when all copies together may wait for whoever reads the log.
    until: Option<Instant>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, ids: Vec::new(), until: None }
    }

    /// Shows a copy.
    pub(super) fn print(&mut self, copy: RecipientCopy<'_>, spool: &mut Spool) -> Result<(), Reply> {
        // What is begun may have been seen.
        self.ids.push(copy.envelope.id.to_owned());
        // As long as a message may take to come in without moving, it may take to go out.
        let idle = &self.context.config.limits.idle_secs;
        let until = *self.until.get_or_insert_with(|| Instant::now() + idle.value);
        show(self.context, until, copy, spool).map_err(|error| failure(&error, "printing the message to the log"))
    }

    /// Lets them stay.
    pub(super) fn commit(mut self) {
        self.ids.clear();
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            // If the log takes nothing, nobody has seen the message either, and that was waited for already.
            let _ = print(self.context, Instant::now())(format!("=== NOT DELIVERED: {id} ===").as_bytes());
        }
    }
}

fn show(context: &Context<'_>, until: Instant, copy: RecipientCopy<'_>, spool: &mut Spool) -> io::Result<()> {
    let print = print(context, until);
    let envelope = copy.envelope;
    print(b"=== NEW EMAIL ===")?;
    print(format!("Id: {}", envelope.id).as_bytes())?;
    print(format!("From: <{}>", envelope.transaction.reverse_path).as_bytes())?;
    for recipient in copy.recipients() {
        print(format!("To: <{recipient}>").as_bytes())?;
    }
    let mut lines = Lines::default();
    for_each_piece(spool.text()?, |text| lines.push(text, &print))?;
    lines.finish(&print)?;
    print(&[b'='; 40])?;
    context.log.sync()
}

fn print(context: &Context<'_>, until: Instant) -> impl Fn(&[u8]) -> io::Result<()> {
    move |line| context.log.print(line, until, context.signals)
}
