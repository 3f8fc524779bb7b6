//! `print`: shows the message to people, where the log goes: as a mail program would show it, or as it is.
//!
//! What people have seen cannot be taken back, so if the message is refused after all, a line says so. Reading the log
//! slowly must not hold up others, so messages are shown before any mailbox is locked. Only the beginning of a message
//! is looked at ([`MOST`]), so that neither memory nor time grow with it.

use std::io;
use std::time::Instant;

use super::{Context, failure};
use crate::config::View;
use crate::log::{Line, NEW, Printer};
use crate::message::{Attachment, Envelope, Letter, Lines, RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;

/// The copies that people have seen. If this is dropped before [`Shown::commit`], a line for each says that it was not
/// delivered.
pub(super) struct Shown<'a> {
    context: &'a Context<'a>,
    ids: Vec<String>,
    /// Until when all copies together may wait for the reader of the log.
    until: Option<Instant>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, ids: Vec::new(), until: None }
    }

    /// Shows a copy.
    pub(super) fn show(&mut self, view: View, copy: RecipientCopy<'_>, spool: &mut Spool) -> Result<(), Reply> {
        // From here on people may have seen some of it.
        self.ids.push(copy.envelope.id.to_owned());
        // Output gets as much time to go out as input may take without progress.
        let idle = &self.context.config.limits.idle_secs;
        let until = *self.until.get_or_insert_with(|| Instant::now() + idle.value);
        show(self.context, until, view, copy, spool).map_err(|error| failure(&error, "printing the message to the log"))
    }

    /// The copies are delivered, so nothing more is said of them.
    pub(super) fn commit(mut self) {
        self.ids.clear();
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            // If the log takes no line now, people have not seen the message either, and waiting was done already.
            let mut printer = self.context.log.printer(Instant::now(), self.context.signals);
            let _ = printer.print(&Line::Frame(format!("=== NOT DELIVERED: {id} ==="))).and_then(|()| printer.finish());
        }
    }
}

fn show(
    context: &Context<'_>,
    until: Instant,
    view: View,
    copy: RecipientCopy<'_>,
    spool: &mut Spool,
) -> io::Result<()> {
    let mut printer = context.log.printer(until, context.signals);
    printer.take_turn()?;
    envelope_lines(copy).iter().try_for_each(|line| printer.print(line))?;
    match view {
        View::Letter => {
            let (beginning, left_out) = spool.beginning(MOST)?;
            let most_lines = usize::try_from(context.config.print_lines).unwrap_or(usize::MAX);
            letter_lines(&beginning, left_out, most_lines).iter().try_for_each(|line| printer.print(line))?;
        }
        View::Raw => show_raw(&mut printer, spool)?,
    }
    printer.print(&Line::Frame("=".repeat(40)))?;
    printer.finish()
}

fn envelope_lines(copy: RecipientCopy<'_>) -> Vec<Line> {
    let Envelope { id, peer, transaction, .. } = copy.envelope;
    let mut recipients: Vec<String> =
        copy.recipients().take(MAX_RECIPIENTS).map(|recipient| format!("<{recipient}>")).collect();
    if let more @ 1.. = copy.recipients().count().saturating_sub(MAX_RECIPIENTS) {
        recipients.push(format!("and {more} more"));
    }
    let address = peer.address.to_string();
    let peer = match &peer.hostname {
        Some(name) => format!("{address} ({name})"),
        None => address,
    };
    vec![
        Line::Frame(NEW.to_owned()),
        Line::Field("Envelope sender", format!("<{}>", transaction.reverse_path)),
        Line::Field("Envelope recipients", recipients.join(", ")),
        Line::Field("Peer", peer),
        Line::Field("Size", format!("{} bytes", transaction.size)),
        Line::Field("Id", (*id).to_owned()),
    ]
}

/// The lines that a mail program would show of a message. `left_out` octets are missing at its end.
pub fn letter_lines(message: &[u8], left_out: usize, most_lines: usize) -> Vec<Line> {
    let letter = Letter::parse(message);
    let mut lines = Vec::new();
    for name in ["From", "To", "Cc", "Subject", "Date"] {
        match letter.header.value(name) {
            Some(value) => lines.push(Line::Field(name, without_fillers(&value))),
            // A reader expects these, so it is said that they are missing.
            None if name != "Cc" => lines.push(Line::Field(name, "(none)".to_owned())),
            None => {}
        }
    }
    lines.push(Line::Text(Vec::new()));
    let text = without_fillers(&letter.text());
    let mut text_lines = text.trim_end().lines().flat_map(in_parts);
    let shown = text_lines.by_ref().take(most_lines).map(|line| Line::Text(without_frame(line.as_bytes())));
    lines.extend(shown);
    let mut notes = Vec::new();
    if let more @ 1.. = text_lines.count() {
        notes.push(format!("{more} more {} of text (print_lines)", if more == 1 { "line" } else { "lines" }));
    }
    if let left_out @ 1.. = letter.html_left_out() {
        notes.push(format!("{left_out} more bytes of HTML, which were not looked at"));
    }
    if let also_in_html @ 1.. = letter.also_in_html() {
        notes.push(format!("Also in HTML: {also_in_html} bytes"));
    }
    notes.extend(letter.attachments.iter().map(|attachment| attachment_note(attachment, left_out > 0)));
    if letter.has_more_parts {
        notes.push("More parts than are looked at".to_owned());
    }
    if left_out > 0 {
        notes.push(format!("{left_out} more bytes, which were not looked at"));
    }
    // No line of the text begins with `===`.
    lines.extend(notes.into_iter().map(|note| Line::Note(format!("=== {note}"))));
    lines
}

fn attachment_note(attachment: &Attachment<'_>, is_cut: bool) -> String {
    let Attachment { name, media_type, is_last, .. } = attachment;
    let name = name.as_deref().map_or_else(|| "(no name)".to_owned(), without_fillers);
    let more_than = if is_cut && *is_last { "more than " } else { "" };
    format!("Attachment: {name}, {media_type}, {more_than}{} bytes", attachment.content().len())
}

/// Cuts a line into parts that are short enough for a screen and a datagram.
fn in_parts(line: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = line;
    while rest.len() > MAX_LINE {
        let (part, behind) = rest.split_at(rest.floor_char_boundary(MAX_LINE));
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    parts
}

/// A line that cannot be mistaken for one of ours, which begin with `===`.
fn without_frame(line: &[u8]) -> Vec<u8> {
    if line.starts_with(b"===") { [b" ", line].concat() } else { line.to_vec() }
}

/// Removes characters that take up no room: newsletters contain hundreds of them, and escaped they would fill the
/// screen. Characters that change the direction of text stay, and are shown escaped.
fn without_fillers(text: &str) -> String {
    let is_filler = |character: char| {
        matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
    };
    text.chars().filter(|character| !is_filler(*character)).collect()
}

fn show_raw(printer: &mut Printer<'_>, spool: &mut Spool) -> io::Result<()> {
    printer.print(&Line::Text(Vec::new()))?;
    let mut print = |line: &[u8]| printer.print(&Line::Text(without_frame(line)));
    let mut lines = Lines::default();
    for_each_piece(spool.text()?, |text| lines.push(text, &mut print))?;
    lines.finish(&mut print)
}

/// How many octets of a message are looked at.
const MOST: usize = 1024 * 1024;

/// How many recipients are named.
const MAX_RECIPIENTS: usize = 20;

/// The longest part of a line, in bytes.
const MAX_LINE: usize = 1000;
