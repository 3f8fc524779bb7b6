//! What `listen --json` prints: an object for each message that is taken, a line each. mailrecv(8), MESSAGES FOR PROGRAMS,
//! is the reference; fields are added, and none is renamed or removed.
//!
//! `listen` is not in the way of it: sessions inherit its standard output, and take turns by a lock that they inherit as
//! well. A message is reported when everything else about it has succeeded, and is refused if it cannot be, unless a
//! command has taken it already. Its attachments may become files (`--attachments`), which are taken back with all else.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::eml::Files;
use super::failure;
use crate::log::{Outlet, Patience, wait_for_turn};
use crate::message::{Attachment, Envelope, Letter, Spool};
use crate::signals::Signals;
use crate::smtp::reply::Reply;
use crate::smtp::transaction::Recipient;
use crate::untrusted::is_invisible;

/// Where messages are reported.
pub struct Reporter {
    output: Outlet,
    /// Who has it locked may write. It is empty unless somebody has begun a line and not ended it.
    turn: File,
    /// Where attachments become files.
    folder: Option<PathBuf>,
}

impl Reporter {
    /// The one that `listen` has for its sessions, if there is one. The descriptors are exchanged for some that commands do
    /// not inherit, and that wait for nobody.
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

    /// Words the report of a message. Its attachments are written, until `files` are taken back.
    pub(super) fn prepare<'a>(
        &'a self,
        envelope: &Envelope<'_>,
        group: &[Recipient],
        spool: &mut Spool,
        files: &mut Files<'a>,
    ) -> Result<String, Reply> {
        let (message, left_out) =
            spool.beginning(MOST).map_err(|error| failure(&error, "reading the message for its report"))?;
        let letter = Letter::parse(&message);
        let attachments = letter.attachments.iter().enumerate();
        let attachments: Result<Vec<Value>, Reply> = attachments
            .map(|(number, attachment)| self.attachment(envelope.id, number + 1, attachment, files))
            .collect();
        let transaction = envelope.transaction;
        let to: Vec<String> = group.iter().map(|recipient| recipient.mailbox.to_string()).collect();
        let headers: Vec<Value> = letter
            .header
            .fields()
            .map(|(name, raw, value)| json!({"name": name, "value": value, "raw": String::from_utf8_lossy(raw)}))
            .collect();
        let report = json!({
            "id": envelope.id,
            "peer": envelope.peer.for_programs(),
            "user": envelope.user,
            "protocol": envelope.protocol(),
            "tls": envelope.tls.is_some(),
            "envelope": {"hello": transaction.hello.name.to_string(), "from": transaction.reverse_path.to_string(), "to": to},
            "size": transaction.size,
            "subject": letter.header.value("Subject"),
            "headers": headers,
            "text": letter.plain(),
            "html": letter.html(),
            "attachments": attachments?,
            "left_out": left_out,
            "more_parts": letter.has_more_parts,
        });
        Ok(escaped(&report.to_string()))
    }

    fn attachment<'a>(
        &'a self,
        id: &str,
        number: usize,
        attachment: &Attachment<'_>,
        files: &mut Files<'a>,
    ) -> Result<Value, Reply> {
        let content = attachment.content();
        let digits = digest(&SHA256, &content);
        let sha256: String = digits.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
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

    /// Prints a report, if whoever reads them takes it until then.
    pub(super) fn print(&self, report: &str, until: Instant, signals: &Signals) -> io::Result<()> {
        wait_for_turn(until, signals, || match self.turn.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })?;
        let printed = self.write(report, &Patience::Until(until, signals));
        self.turn.unlock()?;
        printed
    }

    fn write(&self, report: &str, patience: &Patience<'_>) -> io::Result<()> {
        // Whoever came before us may have been killed in the middle of a line.
        let line_end = if self.turn.metadata()?.len() > 0 { "\n" } else { "" };
        self.turn.set_len(1)?;
        let mut outlet = self.output.try_clone()?;
        let written = outlet.write_line(format!("{line_end}{report}\n").as_bytes(), patience);
        if !outlet.is_torn() {
            self.turn.set_len(0)?;
        }
        written?;
        let output = outlet.as_file();
        if output.metadata()?.is_file() { output.sync_data() } else { Ok(()) }
    }
}

/// The same object with every character escaped that cannot be seen: standard output may be a terminal. Outside of texts
/// there are none.
fn escaped(object: &str) -> String {
    let mut escaped = String::with_capacity(object.len() + 1);
    for character in object.chars() {
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

/// What of a name that a stranger chose can be part of a file's name anywhere.
fn safe_name(name: &str) -> String {
    let is_safe = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    let safe: String =
        name.chars().take(MAX_NAME).map(|character| if is_safe(character) { character } else { '_' }).collect();
    if safe.is_empty() { "attachment".to_owned() } else { safe }
}

/// The variable of the environment by which `listen` tells a session the numbers of two descriptors: where reports go, and
/// what is locked for that.
pub(crate) const INHERITED: &str = "MAILRECV_REPORT";

/// The one that names the folder for attachments.
pub(crate) const ATTACHMENTS: &str = "MAILRECV_ATTACHMENTS";

/// How much of a message is reported, in octets: all of it, as the limit for messages is by default.
const MOST: usize = 64 * 1024 * 1024;

/// How many characters of a name are kept.
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
