//! The protocol, without I/O, clock or log: bytes in, [`Step`] out. RFC 5321 unless another is named.

pub mod command;
pub mod data;
pub mod line;
pub mod reply;
pub mod session;

use reply::Reply;
use session::Transaction;

/// What is to be done next.
#[derive(Debug)]
pub enum Step<'c> {
    /// Send this and go on.
    Reply(Reply),
    /// Nothing to do until more input comes.
    Wait,
    /// The message is complete: deliver it, and tell the session how that went.
    Deliver(Transaction<'c>),
    /// Send this and close the connection.
    Close(Reply),
}

/// How lines end on this connection; its first line decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnding {
    /// CRLF and nothing else: a mail program.
    Crlf,
    /// LF, a CR before it dropped: a person typing.
    Lf,
}
