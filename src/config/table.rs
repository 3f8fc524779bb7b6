//! Addresses in a file of their own, one a line: `table:FILE` in the place of a pattern.
//!
//! The file is opened with the configuration, because later a session cannot open it, and read only when a recipient asks.

use std::path::Path;

use super::exact::{is_same_address, unquoted};
use super::lexer;
use super::source::{self, Source};

/// A file of addresses.
#[derive(Debug)]
pub(super) struct Table {
    /// The name of the file.
    name: Box<str>,
    /// The file, or why it cannot be used.
    source: Result<Source, String>,
}

impl Table {
    /// The name of the file, if this is a table.
    pub(super) fn name_in(recipient: &str) -> Option<&str> {
        recipient.strip_prefix(PREFIX).filter(|name| !name.is_empty())
    }

    pub(super) fn open(name: &str) -> Self {
        // Not waiting for the end of an edit, which few recipients have to do with.
        Self { name: name.into(), source: Source::open_table(Path::new(name)).map_err(|error| format!("{error:#}")) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the address is one of those in the file.
    pub(super) fn has(&self, full: &str, local_part: Option<&str>) -> Result<bool, String> {
        if self.source.as_ref().is_ok_and(Source::is_being_written) {
            return Err(format!("the table {} is just being written", self.name));
        }
        let mut found = false;
        self.for_each(|_, address| {
            let address = unquoted(address);
            found = found || is_same_address(&address, full, local_part);
        })?;
        Ok(found)
    }

    /// Calls `each` with the number of each line that has an address, and with that.
    pub(super) fn for_each(&self, mut each: impl FnMut(u32, &str)) -> Result<(), String> {
        let trouble = |why: &str| format!("the table {} {why}", self.name);
        let source = self.source.as_ref().map_err(|why| trouble(why))?;
        let read = source.for_each_line(|line, at| {
            let text = source::text(line);
            let address = lexer::without_comment(&text).trim();
            if !address.is_empty() {
                each(at.number, address);
            }
        });
        read.map_err(|error| trouble(&format!("cannot be read: {error}")))?;
        match source.has_content_as_opened() {
            true => Ok(()),
            false => Err(trouble("was changed since this connection began")),
        }
    }
}

/// What stands in front of the file's name.
const PREFIX: &str = "table:";
