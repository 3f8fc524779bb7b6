//! Messages as octets: line ends, header fields, dots; and what a case sends according to the standard.
//!
//! Nothing is repaired here: whatever can be distinguished stays distinct, and every octet is in a field or in the
//! body.

use std::borrow::Cow;

use memchr::memmem;

use crate::case::{Case, Unit};

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnds {
    /// CRLF and nothing else, as on the wire (RFC 5321, 2.3.8).
    Wire,
    /// LF, with or without a CR before it, because files may have either.
    Mailbox,
}

/// A message, split into header and body.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Text {
    /// Up to the first empty line.
    pub fields: Vec<Field>,
    /// From the first empty line on, including that line; empty if there is none.
    pub body: Vec<u8>,
}

/// A field of a header, or a line in place of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in lower case, without trailing spaces; `from ` for the first line of a mailbox file; empty if the line
    /// is not a field.
    pub name: String,
    /// The whole field: name, colon, lines, ends of lines.
    pub octets: Vec<u8>,
}

impl Field {
    /// The text behind the colon, without white space around it.
    pub fn value(&self) -> &[u8] {
        let from = self.octets.iter().position(|&octet| octet == b':').map_or(0, |at| at + 1);
        self.octets[from..].trim_ascii()
    }

    /// Its name with the colon, as it was written but in lower case.
    pub(super) fn label(&self) -> Vec<u8> {
        let colon = self.octets.iter().position(|&octet| octet == b':').map_or(0, |at| at + 1);
        self.octets[..colon].to_ascii_lowercase()
    }

    /// The text behind the colon, without the end of its last line, with a single space for each run of white space.
    ///
    /// White space means spaces, tabs, and line ends that are followed by one of these. A bare CR or LF is not white
    /// space anywhere: for some servers it ends the field.
    pub(super) fn unfolded(&self, ends: LineEnds) -> Vec<u8> {
        let from = self.octets.iter().position(|&octet| octet == b':').map_or(0, |at| at + 1);
        unfolded(&self.octets[from..], ends)
    }
}

impl Text {
    /// Splits a message whose lines end in this way. In a mailbox every CRLF is first made an LF.
    pub fn parse(octets: &[u8], ends: LineEnds) -> Self {
        let octets = canonical(octets, ends);
        let mut fields: Vec<Field> = Vec::new();
        let mut rest = &octets[..];
        while !rest.is_empty() {
            let (line, behind) = rest.split_at(line_length(rest, ends));
            if line == end_of(ends) {
                return Self { fields, body: rest.to_vec() };
            }
            match fields.last_mut() {
                Some(last) if line.starts_with(b" ") || line.starts_with(b"\t") => last.octets.extend_from_slice(line),
                last => {
                    let name = name(line, last.is_none());
                    fields.push(Field { name, octets: line.to_vec() });
                }
            }
            rest = behind;
        }
        Self { fields, body: Vec::new() }
    }

    /// The octets of the message.
    pub fn octets(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        for field in &self.fields {
            octets.extend_from_slice(&field.octets);
        }
        octets.extend_from_slice(&self.body);
        octets
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// The value of the first field of this name.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.name == name).map(Field::value)
    }
}

/// Octets in a form for comparison: in a mailbox, any number of CRs followed by LF is an LF. Some servers write LF for
/// CRLF there and some do not, so of CR CRLF some keep a CRLF; the result has to be the same for both.
pub fn canonical(octets: &[u8], ends: LineEnds) -> Cow<'_, [u8]> {
    if ends == LineEnds::Wire {
        return Cow::Borrowed(octets);
    }
    let mut replaced = Vec::with_capacity(octets.len());
    for &octet in octets {
        if octet == b'\n' {
            while replaced.last() == Some(&b'\r') {
                replaced.pop();
            }
        }
        replaced.push(octet);
    }
    Cow::Owned(replaced)
}

/// A value with a single space for each run of white space: see [`Field`].
pub(super) fn unfolded(value: &[u8], ends: LineEnds) -> Vec<u8> {
    let end = end_of(ends);
    let value = with_replaced(value.strip_suffix(end).unwrap_or(value), end, b" ");
    let words = value.split(|octet| matches!(octet, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(&b' ')
}

/// Whether this octet may end a line or a text for some reader.
pub(super) const fn ends_for_some(octet: u8) -> bool {
    matches!(octet, b'\r' | b'\n' | 0)
}

/// What a line ends with.
pub const fn end_of(ends: LineEnds) -> &'static [u8] {
    match ends {
        LineEnds::Wire => b"\r\n",
        LineEnds::Mailbox => b"\n",
    }
}

/// The octets with every one of these replaced, from the left.
pub fn with_replaced(octets: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    if what.is_empty() {
        return octets.to_vec();
    }
    let mut replaced = Vec::with_capacity(octets.len());
    let mut from = 0;
    for at in memmem::find_iter(octets, what) {
        replaced.extend_from_slice(&octets[from..at]);
        replaced.extend_from_slice(with);
        from = at + what.len();
    }
    replaced.extend_from_slice(&octets[from..]);
    replaced
}

/// The position of the first occurrence.
pub fn find(octets: &[u8], what: &[u8]) -> Option<usize> {
    memmem::find(octets, what)
}

/// The text of what was on the wire between the reply to DATA and the final dot, with stuffed dots removed at the
/// beginning of lines (RFC 5321, 4.5.2).
pub fn unstuffed(octets: &[u8], ends: LineEnds) -> Vec<u8> {
    let end = match end_of_data(octets) {
        Some((text, _)) => text,
        None => octets.len(),
    };
    let mut text = Vec::with_capacity(end);
    let mut is_line_start = true;
    for (at, &octet) in octets[..end].iter().enumerate() {
        if !(is_line_start && octet == b'.') {
            text.push(octet);
        }
        is_line_start = octet == b'\n' && (ends == LineEnds::Mailbox || at > 0 && octets[at - 1] == b'\r');
    }
    text
}

/// Where the text ends, and where the octets behind the final dot begin, according to the standard.
fn end_of_data(octets: &[u8]) -> Option<(usize, usize)> {
    if octets.starts_with(b".\r\n") {
        return Some((0, 3));
    }
    find(octets, b"\r\n.\r\n").map(|at| (at + 2, at + 5))
}

fn line_length(octets: &[u8], ends: LineEnds) -> usize {
    let end = end_of(ends);
    find(octets, end).map_or(octets.len(), |at| at + end.len())
}

fn name(line: &[u8], is_first: bool) -> String {
    if is_first && line.starts_with(b"From ") {
        return "from ".into();
    }
    let Some(colon) = line.iter().position(|&octet| octet == b':') else {
        return String::new();
    };
    let name = line[..colon].trim_ascii_end();
    if !name.iter().all(|octet| (33..=126).contains(octet)) {
        return String::new();
    }
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// A message in a case, read as the standard says: data ends at CRLF `.` CRLF and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The argument of MAIL FROM, brackets and parameters included.
    pub sender: Vec<u8>,
    /// The number of RCPT TO commands.
    pub recipients: usize,
    /// The text without stuffed dots.
    pub octets: Vec<u8>,
    /// Whether its end was sent.
    pub is_ended: bool,
}

/// The messages in a case, with placeholders. One without an end is included, because a server that ends it elsewhere
/// has to be compared with it.
pub fn sent(case: &Case) -> Vec<Sent> {
    sent_in(&octets_of(case))
}

/// The same for octets.
pub fn sent_in(octets: &[u8]) -> Vec<Sent> {
    let mut rest = octets;
    let mut messages = Vec::new();
    let mut open = Sent { sender: Vec::new(), recipients: 0, octets: Vec::new(), is_ended: true };
    let mut chunks: Option<Vec<u8>> = None;
    while !rest.is_empty() {
        let length = line_length(rest, LineEnds::Mailbox);
        let line = rest[..length].trim_ascii_end();
        rest = &rest[length..];
        if let Some(sender) = argument(line, b"MAIL FROM:") {
            open = Sent { sender: sender.to_vec(), recipients: 0, octets: Vec::new(), is_ended: true };
            chunks = None;
        } else if argument(line, b"RCPT TO:").is_some() {
            open.recipients += 1;
        } else if line.eq_ignore_ascii_case(b"DATA") {
            let end = end_of_data(rest);
            let (text, behind) = rest.split_at(end.map_or(rest.len(), |(_, behind)| behind));
            messages.push(Sent { octets: unstuffed(text, LineEnds::Wire), is_ended: end.is_some(), ..open.clone() });
            rest = behind;
        } else if let Some(arguments) = argument(line, b"BDAT ") {
            let arguments = String::from_utf8_lossy(arguments).to_ascii_uppercase();
            let mut words = arguments.split_ascii_whitespace();
            let length = words.next().and_then(|word| word.parse().ok()).unwrap_or(0).min(rest.len());
            chunks.get_or_insert_default().extend_from_slice(&rest[..length]);
            rest = &rest[length..];
            if words.next() == Some("LAST") {
                messages.push(Sent { octets: chunks.take().unwrap_or_default(), ..open.clone() });
            }
        }
    }
    messages
}

/// Everything that a case sends, in one piece.
pub fn octets_of(case: &Case) -> Vec<u8> {
    let mut octets = Vec::new();
    for unit in &case.units {
        if let Unit::Send { octets: piece, .. } = unit {
            octets.extend_from_slice(piece);
        }
    }
    octets
}

/// What a text contains of a second transaction: the senders of MAIL FROM at the beginning of anything that some server
/// may take for a line, and the subjects behind those.
pub fn embedded(octets: &[u8]) -> Embedded {
    let mut embedded = Embedded::default();
    for line in octets.split(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
        if let Some(sender) = argument(line, b"MAIL FROM:") {
            embedded.senders.push(address(sender).to_vec());
        } else if let (false, Some(subject)) = (embedded.senders.is_empty(), argument(line, b"Subject:")) {
            embedded.subjects.push(subject.trim_ascii().to_vec());
        }
    }
    embedded
}

/// See [`embedded`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Embedded {
    /// Addresses, without brackets.
    pub senders: Vec<Vec<u8>>,
    /// Values of Subject.
    pub subjects: Vec<Vec<u8>>,
}

/// The text between the brackets, or before the first space if there are none.
pub fn address(argument: &[u8]) -> &[u8] {
    let argument = argument.trim_ascii();
    match (argument.strip_prefix(b"<"), find(argument, b">")) {
        (Some(inside), Some(end)) => &inside[..end.saturating_sub(1)],
        _ => argument.split(|&octet| octet == b' ').next().unwrap_or_default(),
    }
}

fn argument<'a>(line: &'a [u8], verb: &[u8]) -> Option<&'a [u8]> {
    let start = line.get(..verb.len())?;
    start.eq_ignore_ascii_case(verb).then(|| &line[verb.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Part;

    fn case(octets: &[u8]) -> Case {
        Case { name: "a".into(), units: vec![Unit::Send { part: Part::Body, octets: octets.to_vec() }] }
    }

    #[test]
    fn every_octet_is_in_a_field_or_in_the_body() {
        for octets in [
            &b"A: 1\r\n b\r\nno field\r\n\r\nbody\r\n"[..],
            b" begins with space\r\nA: 1\r\n",
            b"\r\nbody alone\r\n",
            b"",
            b"A: 1\nB: 2\n\nbody",
        ] {
            assert_eq!(Text::parse(octets, LineEnds::Wire).octets(), octets);
        }
    }

    #[test]
    fn a_bare_lf_ends_a_field_in_a_mailbox_and_not_on_the_wire() {
        let octets = b"A: 1\nB: 2\r\n\r\n";
        assert_eq!(Text::parse(octets, LineEnds::Wire).fields.len(), 1);
        assert_eq!(Text::parse(octets, LineEnds::Mailbox).fields.len(), 2);
    }

    #[test]
    fn names_are_without_the_space_before_the_colon_and_only_of_printable_octets() {
        let text = Text::parse(b"X-Odd : 1\r\nNu\0l: 2\r\nTwo words: 3\r\n\r\n", LineEnds::Wire);
        let names: Vec<_> = text.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["x-odd", "", ""]);
    }

    #[test]
    fn a_field_goes_on_where_a_line_begins_with_white_space() {
        let text = Text::parse(b"From me Fri\nA: 1\n 2\n\t3\nFrom : 4\nFrom me\n\n", LineEnds::Mailbox);
        let names: Vec<_> = text.fields.iter().map(|field| field.name.as_str()).collect();
        // Only the first line can be that of a mailbox file.
        assert_eq!(names, ["from ", "a", "from", ""]);
        assert_eq!(text.fields[1].octets, b"A: 1\n 2\n\t3\n");
    }

    #[test]
    fn dots_are_taken_away_behind_crlf_alone() {
        assert_eq!(unstuffed(b"..a\r\n..\r\nb\n..c\r\n.\r\nbehind", LineEnds::Wire), b".a\r\n.\r\nb\n..c\r\n");
        assert_eq!(unstuffed(b".\r\n", LineEnds::Wire), b"");
        assert_eq!(unstuffed(b"no end", LineEnds::Wire), b"no end");
    }

    #[test]
    fn a_case_is_read_as_the_standard_has_it() {
        let messages = sent(&case(
            b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\nA: 1\r\n\r\n..x\r\n\n.\nMAIL FROM:<no@no>\r\n.\r\n\
              mail from:<>\r\nDATA\r\nB\r\r\n.\r\nQUIT\r\n",
        ));
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].is_ended, messages[1].is_ended), (true, true));
        assert!(!sent(&case(b"DATA\r\na\n.\n.\r\n"))[0].is_ended);
        assert_eq!(messages[0].recipients, 2);
        assert_eq!(messages[0].octets, b"A: 1\r\n\r\n.x\r\n\n.\nMAIL FROM:<no@no>\r\n");
        assert_eq!((&messages[1].sender[..], &messages[1].octets[..]), (&b"<>"[..], &b"B\r\r\n"[..]));
    }

    #[test]
    fn chunks_are_counted() {
        let messages = sent(&case(b"MAIL FROM:<a>\r\nBDAT 5\r\nDATA\nBDAT 3 LAST\r\n.\r\nQUIT\r\n"));
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].octets, b"DATA\n.\r\n");
        // Those of a transaction that another one takes the place of are none of its.
        let messages = sent(&case(b"MAIL FROM:<a>\r\nBDAT 2\r\nabMAIL FROM:<b>\r\nBDAT 2 LAST\r\ncd"));
        assert_eq!((messages.len(), &messages[0].octets[..], &messages[0].sender[..]), (1, &b"cd"[..], &b"<b>"[..]));
    }

    #[test]
    fn a_second_transaction_in_a_text_is_seen() {
        let found = embedded(b"Subject: own\r\n\r\na\r.\rMAIL FROM:<x@y> SIZE=1\r\nDATA\r\nSubject: forged \r\n");
        assert_eq!(found.senders, [b"x@y"]);
        assert_eq!(found.subjects, [b"forged"]);
        for end in ["\0", "\r", "\n"] {
            let found = embedded(format!("a{end}MAIL FROM:<x@y>{end}subject: forged{end}b").as_bytes());
            assert_eq!((found.senders, found.subjects), (vec![b"x@y".to_vec()], vec![b"forged".to_vec()]), "{end:?}");
        }
        // Without a sender before it, a subject is the message's own.
        assert_eq!(embedded(b"Subject: own\r\n\r\nSubject: quoted\r\n"), Embedded::default());
    }
}
