//! `table:FILE` in place of a pattern: a file of addresses, one in each line.
//!
//! The file is opened together with the configuration, because a session cannot open it later, and read only when a
//! recipient needs it.

use std::path::Path;

use super::exact::{Addressee, unquoted};
use super::lexer;
use super::source::{self, Source};

/// A file of addresses.
#[derive(Debug)]
pub(super) struct Table {
    /// The name of the file.
    name: Box<str>,
    /// The open file, or why it cannot be used.
    source: Result<Source, String>,
}

impl Table {
    /// The name of the file, if a recipient is a table.
    pub(super) fn name_in(recipient: &str) -> Option<&str> {
        recipient.strip_prefix(PREFIX).filter(|name| !name.is_empty())
    }

    pub(super) fn open(name: &str) -> Self {
        // The end of an edit is not waited for, because few recipients need the table.
        Self { name: name.into(), source: Source::open_table(Path::new(name)).map_err(|error| format!("{error:#}")) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file contains the address.
    pub(super) fn has(&self, addressee: Addressee<'_>) -> Result<bool, String> {
        if self.source.as_ref().is_ok_and(Source::is_being_written) {
            return Err(format!("the table {} is just being written", self.name));
        }
        let mut found = false;
        self.for_each(|_, address| {
            let address = unquoted(address);
            found = found || addressee.is(&address);
        })?;
        Ok(found)
    }

    /// Calls `each` with the number and the address of each line that has one.
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

/// Precedes the name of the file.
const PREFIX: &str = "table:";
