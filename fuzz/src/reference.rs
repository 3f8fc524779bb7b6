//! The rules about line ends once more, as plainly as they can be said, with the whole input at hand: what the state
//! machines of the program are compared with.

use mailrecv::deliver::mboxrd::READERS_FIELDS;
use mailrecv::smtp::LineEnding;

/// The text of a message as far as its lines are whole.
pub struct Message<'i> {
    /// The lines, without the dots that were stuffed in, each ended by LF.
    pub text: Vec<u8>,
    /// Octets as RFC 1870 counts them.
    pub size: u64,
    /// Whether a CR or LF stood alone on a CRLF connection.
    pub has_bare_newline: bool,
    /// Whether the line with nothing but a dot has come.
    pub has_ended: bool,
    /// What follows the last whole line, or the end of the message.
    pub rest: &'i [u8],
}

/// Reads a message (RFC 5321, 4.5.2): a line that is `.` ends it, any other dot at the start of a line is taken off.
pub fn message(ending: LineEnding, input: &[u8]) -> Message<'_> {
    let mut message = Message { text: Vec::new(), size: 0, has_bare_newline: false, has_ended: false, rest: input };
    while let Some((line, rest)) = line(ending, message.rest) {
        message.rest = rest;
        if line == b"." {
            message.has_ended = true;
            break;
        }
        let line = line.strip_prefix(b".").unwrap_or(line);
        message.has_bare_newline |= ending == LineEnding::Crlf && line.iter().any(|byte| b"\r\n".contains(byte));
        message.size += line.len() as u64 + 2;
        message.text.extend_from_slice(line);
        message.text.push(b'\n');
    }
    message
}

/// What BDAT says of its chunk.
pub struct Chunk {
    pub octets: u64,
    pub is_last: bool,
}

/// A command line as it is meant: people at a keyboard may have pasted it with blanks in front.
pub fn command(ending: LineEnding, line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|octet| b" \t".contains(octet)).count();
    if ending == LineEnding::Lf { &line[blanks..] } else { line }
}

/// The chunk that a line announces (RFC 3030, 2); `None` if it is no BDAT at all, `Some(None)` if it is a bad one.
pub fn chunk(line: &[u8]) -> Option<Option<Chunk>> {
    if !is_verb(line, "BDAT") {
        return None;
    }
    let Ok(line) = std::str::from_utf8(line) else { return Some(None) };
    let line = line.trim_end_matches([' ', '\t', '\r']);
    let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let is_last = match words[1..] {
        [_] => false,
        [_, last] if last.eq_ignore_ascii_case("LAST") => true,
        _ => return Some(None),
    };
    let digits = words[1];
    let sound = digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some(digits.parse().ok().filter(|_| sound).map(|octets| Chunk { octets, is_last }))
}

/// Whether a line is meant as this command.
pub fn is_verb(line: &[u8], verb: &str) -> bool {
    let word = line.get(..verb.len()).is_some_and(|word| word.eq_ignore_ascii_case(verb.as_bytes()));
    word && line.get(verb.len()).is_none_or(u8::is_ascii_whitespace)
}

/// The text that the chunks of a message make, and its size: a last line without an end gets one.
pub fn text(ending: LineEnding, chunks: &[u8]) -> (Vec<u8>, u64) {
    let (mut text, mut size, mut rest) = (Vec::new(), 0, chunks);
    while let Some((line, behind)) = line(ending, rest) {
        text.extend_from_slice(line);
        text.push(b'\n');
        size += line.len() as u64 + 2;
        rest = behind;
    }
    text.extend_from_slice(rest);
    size += rest.len() as u64;
    if !rest.is_empty() && !rest.ends_with(b"\n") {
        text.push(b'\n');
        size += 2;
    }
    (text, size)
}

/// A message that runs on behind our own header: with an empty line in front of its first line that is no part of a header
/// (RFC 5322, 2.2), unless that is empty itself. Lines like those between the messages of a mailbox, up to ten, become
/// fields if a field follows.
pub fn with_header(text: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mailbox_lines = lines.iter().take_while(|line| is_mailbox_line(line)).count();
    let (first, others) = lines.split_at(mailbox_lines);
    let is_header = mailbox_lines <= 10 && others.first().is_some_and(|line| is_field(line));
    if !is_header {
        return if text.starts_with(b"\n") { text.to_owned() } else { [b"\n", text].concat() };
    }
    let mut message: Vec<u8> = first.iter().flat_map(|line| [b"X-Mailbox-Line: ", *line].concat()).collect();
    let is_header = |line: &&&[u8]| is_field(line) || line.starts_with(b" ") || line.starts_with(b"\t");
    let (header, rest) = others.split_at(others.iter().take_while(is_header).count());
    message.extend(header.concat());
    if rest.first().is_some_and(|line| *line != b"\n") {
        message.push(b'\n');
    }
    message.extend(rest.concat());
    message
}

/// `From `, behind any number of `>`, and something more: no field.
fn is_mailbox_line(line: &[u8]) -> bool {
    let quotes = line.iter().take_while(|byte| **byte == b'>').count();
    let rest = line[quotes..].strip_prefix(b"From ").unwrap_or_default();
    let more = rest.iter().find(|byte| !b" \t".contains(byte));
    quotes + 4 <= 997 && more.is_some_and(|byte| !b":\n".contains(byte))
}

/// Whether a line begins as a field of a header: with a name, maybe blanks, and a colon.
pub fn is_field(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    let name = line[..colon].iter().rposition(|byte| !b" \t".contains(byte)).map_or(&[][..], |last| &line[..=last]);
    (1..=997).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

/// A message in whose header no field is one that readers of mailboxes keep for themselves.
pub fn with_renamed_fields(text: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let (header, body) = lines.split_at(lines.iter().take_while(|line| **line != b"\n").count());
    let rename = |line: &[u8]| {
        let end = line.iter().position(|byte| b": \t".contains(byte)).unwrap_or_default();
        let name = line[..end].to_ascii_lowercase();
        let is_readers = READERS_FIELDS.iter().any(|field| field.to_ascii_lowercase().as_bytes() == name);
        [if is_readers { &b"X-Original-"[..] } else { b"" }, line].concat()
    };
    // To some readers a CR ends a line.
    let header = header.concat();
    let header = header.split_inclusive(|byte| b"\r\n".contains(byte)).flat_map(rename);
    header.chain(body.concat()).collect()
}

/// The first line, without its end, and what follows it; `None` if the line has no end.
pub fn line(ending: LineEnding, input: &[u8]) -> Option<(&[u8], &[u8])> {
    match ending {
        LineEnding::Crlf => {
            let end = input.windows(2).position(|pair| pair == b"\r\n")?;
            Some((&input[..end], &input[end + 2..]))
        }
        LineEnding::Lf => {
            let end = input.iter().position(|byte| *byte == b'\n')?;
            let line = &input[..end];
            Some((line.strip_suffix(b"\r").unwrap_or(line), &input[end + 1..]))
        }
    }
}

/// How lines end in an input, by its first LF; `None` if there is none.
pub fn ending(input: &[u8]) -> Option<LineEnding> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    Some(if input[..end].ends_with(b"\r") { LineEnding::Crlf } else { LineEnding::Lf })
}

/// The message of an mboxrd file with one message, behind its `From ` line: the empty line at the end taken off, and one
/// `>` of every line that is `>`s and `From `.
pub fn unquoted(file: &[u8]) -> Vec<u8> {
    let body = file.strip_suffix(b"\n").expect("an empty line at the end");
    let mut text = Vec::new();
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let quotes = line.iter().take_while(|byte| **byte == b'>').count();
        let is_quoted = quotes > 0 && line[quotes..].starts_with(b"From ");
        text.extend_from_slice(&line[usize::from(is_quoted)..]);
    }
    text
}
