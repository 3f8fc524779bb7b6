//! The message: its text while it is received, and what each recipient gets of it.

mod amend;
mod headers;
mod html;
mod letter;
mod lines;
mod markup;
pub(crate) mod payload;
mod spool;

pub use headers::{Envelope, RecipientCopy};
pub use letter::{Attachment, Letter};
pub use lines::Lines;
pub use spool::{Spool, SpoolFile};

use std::io::{self, BufRead};

/// Gives what a reader has left to `take`, piece by piece.
pub fn for_each_piece(mut reader: impl BufRead, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    loop {
        let piece = match reader.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(());
        }
        take(piece)?;
        let length = piece.len();
        reader.consume(length);
    }
}
