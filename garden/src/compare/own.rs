//! Removes what a server itself has put into a message.

use super::learn::{FieldPlace, Learned};
use super::outcome::{OfCase, words};
use super::text::{Field, LineEnds, Text, ends_for_some, unfolded};

/// Removes from a message what this server is known to add. Also returns the text of Return-Path, or of the first line
/// of a mailbox file, if that was on top.
///
/// Fields are removed only from the top and in the learned order. Of a completed field one line is removed, at the
/// learned place, and only if the sender did not write exactly that line: a field of the same name further down, or one
/// that some server made from text, is not the server's own. Neither is one on top that contains a CR, LF or NUL,
/// because somebody else has written into it.
pub(super) fn without_own(
    mut text: Text,
    ends: LineEnds,
    learned: &Learned,
    of_case: &OfCase,
) -> (Text, Option<Vec<u8>>) {
    let mut own = Own::new(learned, of_case);
    let sender = own.take_off_top(&mut text, ends);
    while text.fields.last().is_some_and(|field| own.has_added(field, &FieldPlace::Bottom)) {
        text.fields.pop();
    }
    let mut kept: Vec<Field> = Vec::with_capacity(text.fields.len());
    for field in text.fields.drain(..) {
        let is_own = kept.last().is_some_and(|before| own.has_added(&field, &FieldPlace::Behind(before.name.clone())));
        if !is_own {
            kept.push(field);
        }
    }
    text.fields = kept;
    if ends == LineEnds::Mailbox && of_case.hidden_lines > 0 {
        text.body = own.take_out_of_text(&text.body, ends);
    }
    (text, sender)
}

/// What a server is known to add, and what of that was found in a message so far.
struct Own<'a> {
    learned: &'a Learned,
    of_case: &'a OfCase,
    /// For each addition whether it was found.
    is_found: Vec<bool>,
}

impl<'a> Own<'a> {
    fn new(learned: &'a Learned, of_case: &'a OfCase) -> Self {
        Self { learned, of_case, is_found: vec![false; learned.additions.len()] }
    }

    /// Whether the server has added this field at this place. Each addition is found once.
    fn has_added(&mut self, field: &Field, place: &FieldPlace) -> bool {
        let additions = &self.learned.additions;
        let found = additions.iter().zip(&self.is_found).position(|(addition, is_found)| {
            !is_found
                && addition.name == field.name
                && addition.place == *place
                && (!addition.is_completion
                    || self.of_case.may_lack(&addition.name) && !is_own_word(field, &self.of_case.words))
        });
        let Some(index) = found else {
            return false;
        };
        self.is_found[index] = true;
        // A field is completed once, although that may have been seen at several places.
        for (is_found, addition) in self.is_found.iter_mut().zip(additions) {
            *is_found |= addition.is_completion && addition.name == field.name;
        }
        true
    }

    /// Takes away what is on top, and returns the text of Return-Path, or of the first line of a mailbox file.
    fn take_off_top(&mut self, text: &mut Text, ends: LineEnds) -> Option<Vec<u8>> {
        let mut sender = None;
        let mut row = self.learned.top.as_slice();
        let mut own = 0;
        for field in &text.fields {
            if unfolded(&field.octets, ends).into_iter().any(ends_for_some) {
                break;
            }
            if let Some(at) = row.iter().position(|name| *name == field.name) {
                row = &row[at + 1..];
                match field.name.as_str() {
                    "return-path" => sender = Some(field.value().to_vec()),
                    "from " if sender.is_none() => {
                        sender = field.octets.split(|&octet| octet == b' ').nth(1).map(<[u8]>::to_vec)
                    }
                    _ => {}
                }
            } else if !self.has_added(field, &FieldPlace::Top) {
                break;
            }
            own += 1;
        }
        text.fields.drain(..own);
        sender
    }

    /// The text without what was added to a header that ends later than it seems.
    fn take_out_of_text(&mut self, text: &[u8], ends: LineEnds) -> Vec<u8> {
        let mut kept = Vec::with_capacity(text.len());
        // Added fields are at most behind the last of these lines.
        let mut hidden = self.of_case.hidden_lines + 1;
        for line in text.split_inclusive(|&octet| octet == b'\n') {
            let fields = Text::parse(line, ends).fields;
            if hidden > 0 && fields.iter().any(|field| self.has_added(field, &FieldPlace::Bottom)) {
                continue;
            }
            hidden = hidden.saturating_sub(1);
            kept.extend_from_slice(line);
        }
        kept
    }
}

/// Whether this line is part of what was sent, regardless of spaces, and at a place where a line may begin: `From:
/// <a@b>` is not part of `MAIL FROM: <a@b>`.
fn is_own_word(field: &Field, all: &[u8]) -> bool {
    let line = words(field.octets.trim_ascii_end());
    memchr::memmem::find_iter(all, &line).any(|at| at == 0 || !all[at - 1].is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::super::learn::Addition;
    use super::*;
    use crate::case::{Case, Part, Unit};

    fn text(octets: &[u8]) -> Text {
        Text::parse(octets, LineEnds::Wire)
    }

    fn without(octets: &[u8], learned: &Learned, sent: &[u8]) -> String {
        let octets_of_case = [b"DATA\r\n", sent, b".\r\n"].concat();
        let units = vec![Unit::Send { part: Part::Header, octets: octets_of_case }];
        let of_case = OfCase::new(&Case { name: String::new(), units }, None);
        let (text, _) = without_own(text(octets), LineEnds::Wire, learned, &of_case);
        String::from_utf8(text.octets()).unwrap()
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_the_top_is_taken_off_and_only_in_order() {
        let learned = Learned { top: names(&["return-path", "received"]), ..Learned::default() };
        let sent = b"Received: own\r\nReturn-Path: own\r\n\r\n";
        assert_eq!(
            without(b"Return-Path: <s>\r\nReceived: s\r\nReceived: own\r\nReturn-Path: own\r\n\r\n", &learned, sent),
            "Received: own\r\nReturn-Path: own\r\n\r\n"
        );
        assert_eq!(without(b"X: 1\r\nReceived: own\r\n\r\n", &learned, sent), "X: 1\r\nReceived: own\r\n\r\n");
    }

    #[test]
    fn of_a_completed_field_one_line_goes_at_its_place() {
        let date = Addition { name: "date".into(), place: FieldPlace::Bottom, is_completion: true };
        let learned = Learned { additions: vec![date], ..Learned::default() };
        let sent = b"X: a\nDate: forged\r\n\r\n";
        // As a server that ends lines at LF has it: there is one now, and it completes none.
        assert_eq!(without(b"X: a\r\nDate: forged\r\n\r\n", &learned, sent), "X: a\r\nDate: forged\r\n\r\n");
        // As one has it that completes nevertheless: its own goes, the other stays.
        assert_eq!(
            without(b"X: a\r\nDate: forged\r\nDate: now\r\n\r\n", &learned, sent),
            "X: a\r\nDate: forged\r\n\r\n"
        );
        // Two that it wrote: one is too many.
        assert_eq!(without(b"X: a\r\nDate: now\r\nDate: then\r\n\r\n", &learned, sent), "X: a\r\nDate: now\r\n\r\n");
        // The sender wrote one: nothing is completed.
        assert_eq!(without(b"X: a\r\nDate: now\r\n\r\n", &learned, b"Date: d\r\n\r\n"), "X: a\r\nDate: now\r\n\r\n");
    }

    fn addition(name: &str, place: FieldPlace, is_completion: bool) -> Addition {
        Addition { name: name.into(), place, is_completion }
    }

    #[test]
    fn what_is_added_is_taken_away_once_and_at_its_place() {
        let completes = |places: Vec<FieldPlace>| Learned {
            additions: places.into_iter().map(|place| addition("date", place, true)).collect(),
            ..Learned::default()
        };
        let (top, bottom) = ("Date: now\r\nX: a\r\n\r\n", "X: a\r\nDate: now\r\n\r\n");
        let both = completes(vec![FieldPlace::Top, FieldPlace::Bottom]);
        assert_eq!(without(top.as_bytes(), &both, b"X: a\r\n\r\n"), "X: a\r\n\r\n");
        assert_eq!(without(bottom.as_bytes(), &both, b"X: a\r\n\r\n"), "X: a\r\n\r\n");
        let twice = "Date: now\r\nX: a\r\nDate: now\r\n\r\n";
        assert_eq!(without(twice.as_bytes(), &both, b"X: a\r\n\r\n"), bottom);
        let only_bottom = completes(vec![FieldPlace::Bottom]);
        assert_eq!(without(top.as_bytes(), &only_bottom, b"X: a\r\n\r\n"), top);
        // One that is always added, too.
        let adds = Learned { additions: vec![addition("y", FieldPlace::Bottom, false)], ..Learned::default() };
        assert_eq!(without(b"X: a\r\nY: 1\r\nY: 2\r\n\r\n", &adds, b"X: a\r\n\r\n"), "X: a\r\nY: 1\r\n\r\n");
    }

    #[test]
    fn a_line_is_the_senders_own_if_it_begins_where_one_may_begin() {
        let from = Learned { additions: vec![addition("from", FieldPlace::Bottom, true)], ..Learned::default() };
        let completed = b"X: a\r\nFrom: <a@b>\r\n\r\n";
        // It is in the command, behind a letter, and in a field, behind a CR.
        assert_eq!(without(completed, &from, b"X: MAIL FROM: <a@b>\r\n\r\n"), "X: a\r\n\r\n");
        assert_eq!(without(completed, &from, b"X: a\rFrom: <a@b>\r\n\r\n"), "X: a\r\nFrom: <a@b>\r\n\r\n");
    }
}
