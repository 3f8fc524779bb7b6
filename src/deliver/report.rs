//! What `listen --json` prints: a line with a JSON object for each message that is taken. mailrecv(8), MESSAGES FOR
//! PROGRAMS, is the reference. Fields may be added, but none is renamed or removed.
//!
//! Reports do not pass through `listen`: sessions inherit its standard output, and take turns by a lock that they
//! inherit too. A message is reported when everything else about it has succeeded. If it cannot be reported it is
//! refused, unless it was handed over already. Its attachments may become files (`--attachments`), which are taken back
//! with everything else.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::eml::Files;
use super::failure;
use crate::hexadecimal;
use crate::log::{LinePatience, Outlet, wait_for_turn};
use crate::message::{Attachment, Envelope, Letter, Spool};
use crate::signals::Signals;
use crate::smtp::reply::Reply;
use crate::smtp::transaction::Recipient;
use crate::untrusted::is_invisible;

/// Where and how messages are reported.
pub(crate) struct Reporter {
    output: Outlet,
    /// The session that has locked this file may write. The file is empty, except after somebody began a line and did
    /// not end it.
    turn: File,
    /// The folder for attachments, if they become files.
    folder: Option<PathBuf>,
}

impl Reporter {
    /// The reporter that `listen` has prepared for its sessions, if it has. The inherited descriptors are replaced by
    /// new ones that commands do not inherit and that do not block.
    pub(crate) fn inherited() -> Option<io::Result<Self>> {
        let numbers = std::env::var(INHERITED).ok()?;
        let (output, turn) = numbers.split_once(' ')?;
        let (output, turn): (RawFd, RawFd) = (output.parse().ok()?, turn.parse().ok()?);
        let reporter = Outlet::inherited(output).and_then(|output| {
            let turn = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{turn}"))?;
            let folder = std::env::var_os(ATTACHMENTS).map(PathBuf::from);
            Ok(Self { output, turn, folder })
        });
        [output, turn].into_iter().filter(|number| *number > 2).for_each(|number| _ = nix::unistd::close(number));
        Some(reporter)
    }

    /// The folder where attachments become files.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Prepares the report of a message. Its attachments become files, which belong to `files` until they are
    /// committed.
    pub(super) fn prepare<'a>(
        &'a self,
        envelope: &'a Envelope<'a>,
        group: &'a [Recipient],
        spool: &mut Spool,
        files: &mut Files<'a>,
    ) -> Result<Report<'a>, Reply> {
        let (message, left_out) =
            spool.beginning(MOST).map_err(|error| failure(&error, "reading the message for its report"))?;
        let letter = Letter::parse(&message);
        let attachments = letter.attachments.iter().enumerate();
        let attachments: Result<Vec<Value>, Reply> = attachments
            .map(|(number, attachment)| self.attachment(envelope.id, number + 1, attachment, files))
            .collect();
        let attachments = attachments?;
        drop(letter);
        Ok(Report { reporter: self, envelope, group, message, left_out, attachments })
    }

    fn attachment<'a>(
        &'a self,
        id: &str,
        number: usize,
        attachment: &Attachment<'_>,
        files: &mut Files<'a>,
    ) -> Result<Value, Reply> {
        let content = attachment.content();
        let digest = digest(&SHA256, &content);
        let sha256 = hexadecimal::digits(digest.as_ref());
        let file = match &self.folder {
            Some(folder) => {
                let end = format!("-{}", safe_name(attachment.name.as_deref().unwrap_or_default()));
                let path = files.add_content(folder, &format!("{id}-{number}"), &end, &content)?;
                Some(path.display().to_string())
            }
            None => None,
        };
        Ok(json!({
            "name": attachment.name,
            "type": attachment.media_type,
            "size": content.len(),
            "sha256": sha256,
            "file": file,
        }))
    }

    /// Prints a line when it is our turn, in pieces. Fails if it is not our turn, or nobody reads, until this time.
    fn print(
        &self,
        until: Instant,
        signals: &Signals,
        write: impl FnOnce(&mut ReportLine<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        wait_for_turn(until, signals, || match self.turn.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })?;
        let printed = self.print_now(&LinePatience::Until(until, signals), write);
        self.turn.unlock()?;
        printed
    }

    fn print_now(
        &self,
        patience: &LinePatience<'_>,
        write: impl FnOnce(&mut ReportLine<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        // An earlier session may have been killed in the middle of its line.
        let line_end = if self.turn.metadata()?.len() > 0 { "\n" } else { "" };
        self.turn.set_len(1)?;
        let outlet = self.output.try_clone()?;
        let mut line = ReportLine { outlet, patience, pending: line_end.to_owned(), is_begun: false };
        let written = write(&mut line).and_then(|()| line.end());
        if written.is_ok() || !line.is_begun {
            self.turn.set_len(0)?;
        }
        written?;
        let output = line.outlet.as_file();
        if output.metadata()?.is_file() { output.sync_data() } else { Ok(()) }
    }
}

/// The report of a message, ready to be printed.
pub(super) struct Report<'a> {
    reporter: &'a Reporter,
    envelope: &'a Envelope<'a>,
    group: &'a [Recipient],
    message: Vec<u8>,
    /// How many octets are missing at the end of `message`.
    left_out: usize,
    attachments: Vec<Value>,
}

impl Report<'_> {
    /// Prints the report; fails if nobody reads it until this time.
    pub(super) fn print(&self, until: Instant, signals: &Signals) -> io::Result<()> {
        self.reporter.print(until, signals, |line| self.write(line))
    }

    /// Writes the object. Large values are written in pieces, because a message may take up most of the memory that we
    /// may use.
    fn write(&self, line: &mut ReportLine<'_>) -> io::Result<()> {
        let letter = Letter::parse(&self.message);
        let Envelope { id, peer, transaction, tls, user, .. } = self.envelope;
        let to: Vec<String> = self.group.iter().map(|recipient| recipient.mailbox.to_string()).collect();
        let hello = transaction.hello.name.to_string();
        let small = [
            ("{\"id\":", json!(id)),
            (",\"peer\":", peer.for_programs()),
            (",\"user\":", json!(user)),
            (",\"protocol\":", json!(self.envelope.protocol())),
            (",\"tls\":", json!(tls.is_some())),
            (",\"envelope\":", json!({"hello": hello, "from": transaction.reverse_path.to_string(), "to": to})),
            (",\"size\":", json!(transaction.size)),
            (",\"subject\":", json!(letter.header.value("Subject"))),
            (",\"attachments\":", json!(self.attachments)),
            (",\"left_out\":", json!(self.left_out)),
            (",\"more_parts\":", json!(letter.has_more_parts)),
        ];
        for (name, value) in small {
            line.push(name)?;
            line.push(&escaped(&value.to_string()))?;
        }
        line.push(",\"headers\":[")?;
        for (number, (name, raw, value)) in letter.header.fields().enumerate() {
            line.push(if number == 0 { "{\"name\":" } else { ",{\"name\":" })?;
            line.push_texts([Cow::Owned(name)])?;
            line.push(",\"value\":")?;
            line.push_texts([Cow::Owned(value)])?;
            line.push(",\"raw\":")?;
            line.push_texts([String::from_utf8_lossy(raw)])?;
            line.push("}")?;
        }
        for (name, is_html) in [("],\"text\":", false), (",\"html\":", true)] {
            line.push(name)?;
            line.push_texts(letter.texts(is_html).map(Cow::Owned))?;
        }
        line.push("}")
    }
}

/// A line while it is printed.
struct ReportLine<'a> {
    outlet: Outlet,
    patience: &'a LinePatience<'a>,
    pending: String,
    /// Whether somebody may have read part of it.
    is_begun: bool,
}

impl ReportLine<'_> {
    /// Appends a piece of JSON.
    fn push(&mut self, json: &str) -> io::Result<()> {
        self.pending.push_str(json);
        if self.pending.len() < MAX_PENDING { Ok(()) } else { self.flush() }
    }

    /// Appends texts as one string with line ends between them, or null if there are none.
    fn push_texts<'t>(&mut self, texts: impl IntoIterator<Item = Cow<'t, str>>) -> io::Result<()> {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_none() {
            return self.push("null");
        }
        self.push("\"")?;
        for (number, text) in texts.enumerate() {
            if number > 0 {
                self.push("\\n")?;
            }
            let mut rest = &*text;
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.floor_char_boundary(MAX_PIECE));
                let quoted = escaped(&json!(piece).to_string());
                self.push(&quoted[1..quoted.len() - 1])?;
                rest = behind;
            }
        }
        self.push("\"")
    }

    fn end(&mut self) -> io::Result<()> {
        self.pending.push('\n');
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.outlet.write_line(self.pending.as_bytes(), self.patience);
        self.is_begun |= written.is_ok() || self.outlet.is_torn();
        self.pending.clear();
        written
    }
}

/// Escapes every character in this JSON that cannot be seen, because standard output may be a terminal. There are such
/// characters inside strings only.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        if is_invisible(character) {
            let units =
                character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            escaped.push_str(&units);
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// The part of a name from a stranger that is safe in a file name anywhere.
fn safe_name(name: &str) -> String {
    let is_safe = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    let safe: String =
        name.chars().take(MAX_NAME).map(|character| if is_safe(character) { character } else { '_' }).collect();
    if safe.is_empty() { "attachment".to_owned() } else { safe }
}

/// The environment variable with which `listen` tells a session two descriptor numbers: that for reports, and that of
/// the file to lock.
pub(crate) const INHERITED: &str = "MAILRECV_REPORT";

/// The environment variable that names the folder for attachments.
pub(crate) const ATTACHMENTS: &str = "MAILRECV_ATTACHMENTS";

/// How many octets of a message are reported: as many as the default limit for messages.
const MOST: usize = 64 * 1024 * 1024;

/// How many bytes are written at a time, and how many bytes of a text become JSON at a time.
const MAX_PENDING: usize = 64 * 1024;
const MAX_PIECE: usize = 16 * 1024;

/// How many characters of an attachment's name are kept.
const MAX_NAME: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        let text = "\u{1b}[31m\u{7f}\u{9b}31m\u{202e}\u{2028}\u{e0041}\u{200b} \"\\ \u{fc}\u{1f600}";
        let object = escaped(&json!({ "text": text }).to_string());
        assert!(!object.contains(is_invisible), "{object}");
        assert!(object.ends_with("\u{fc}\u{1f600}\"}"), "{object}");
        let read: Value = serde_json::from_str(&object).unwrap();
        assert_eq!(read["text"], text);
    }

    #[test]
    fn names_of_files_are_harmless() {
        for (name, safe) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("\u{fc} \n\0", "____"),
            ("", "attachment"),
        ] {
            assert_eq!(safe_name(name), safe);
        }
        assert_eq!(safe_name(&"x".repeat(1000)).len(), MAX_NAME);
    }
}
