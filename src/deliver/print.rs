//! `print`: the message for people, to the place where the log is.
//!
//! Every line of it is a line of the log, with the peer's address in front and escaped like one, so that a message can
//! neither steer a terminal nor look like an event.

use super::{Context, failure};
use crate::message::{Envelope, Spool};
use crate::smtp::address::Mailbox;
use crate::smtp::reply::Reply;

pub(super) fn print(
    context: &Context<'_>,
    recipient: &Mailbox,
    envelope: &Envelope<'_>,
    spool: &mut Spool,
) -> Result<(), Reply> {
    let mut print = || {
        let log = context.log;
        log.print(b"=== NEW EMAIL ===")?;
        log.print(format!("Id: {}", envelope.id).as_bytes())?;
        log.print(format!("From: <{}>", envelope.transaction.reverse_path).as_bytes())?;
        log.print(format!("To: <{recipient}>").as_bytes())?;
        let mut line = Vec::new();
        spool.copy_to(|text| {
            let mut lines = text.split(|byte| *byte == b'\n').peekable();
            while let Some(part) = lines.next() {
                line.extend_from_slice(part);
                // A line without an end is shown in parts, so that memory stays bounded.
                if lines.peek().is_some() || line.len() > MAX_LINE {
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
    };
    print().map_err(|error| failure(&error, "printing the message to the log"))
}

/// How much of an endless line is shown at a time, in bytes.
const MAX_LINE: usize = 64 * 1024;
