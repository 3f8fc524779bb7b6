//! Payload files: cases as text that people read and write (docs/payloads.md).
//!
//! Two forms are read. Our own begins with the line [`HEADING`] and says what each unit is. The form of `sendmsg.py`
//! has a line for each piece that is sent; no such file begins with the heading, because it would be sent.

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

/// The extension of payload files.
pub const EXTENSION: &str = "payload";

/// The cases of a payload file in either form: one, or one for each combination of values of its variables.
///
/// `file` is the name of the file for messages; a case without a name gets it, without folder and extension. These
/// assignments replace those in the file for the same names.
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

/// Editors on Windows put this in front.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The name of a case that has none, from the name of its file.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| if stem.is_empty() { name } else { stem });
    let name: String = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if name.is_empty() { "payload".to_owned() } else { name }
}

#[cfg(test)]
mod tests;
