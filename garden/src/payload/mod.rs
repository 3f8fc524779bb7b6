//! Payload files: cases as text that people write and read (docs/payloads.md).
//!
//! Two forms are read. The one of this program begins with the line [`HEADING`], and says what each unit is. The other is that
//! of `sendmsg.py`, a line for each piece that is sent; no such file begins with that line, for it would send it.

mod problem;
mod reader;
mod sendmsg;
mod variables;
mod writer;

pub use problem::Problem;
pub use variables::Assignments;
pub use writer::write;

use crate::case::Case;

/// The first line of a payload file.
pub const HEADING: &str = "smtp-garden payload";

/// How names of payload files end.
pub const EXTENSION: &str = "payload";

/// The cases of a payload file, of whichever form: one, or as many as the variables in it have combinations of values.
///
/// `file` is the name of the file, for what is said about it; a case that has no name of its own is called by it, without
/// folder and ending. The assignments come in place of those that the file makes for the same name.
///
/// # Errors
///
/// Everything that is wrong with the file, in the order of its lines.
pub fn read(file: &str, octets: &[u8], assignments: &Assignments) -> Result<Vec<Case>, Vec<Problem>> {
    let octets = octets.strip_prefix(BYTE_ORDER_MARK).unwrap_or(octets);
    let first = octets.split(|octet| *octet == b'\n').next().unwrap_or_default();
    match first.strip_suffix(b"\r").unwrap_or(first) == HEADING.as_bytes() {
        true => reader::read(file, octets, assignments),
        false => sendmsg::read(file, octets, assignments),
    }
}

/// Editors on Windows put it in front.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a case of this file is called that has no name of its own.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| if stem.is_empty() { name } else { stem });
    let name: String = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if name.is_empty() { "payload".to_owned() } else { name }
}

#[cfg(test)]
mod tests;
