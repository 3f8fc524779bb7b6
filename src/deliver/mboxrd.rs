//! mboxrd, the form of a mailbox that can be taken apart again (mbox(5)): a `From ` line, the message with one more `>`
//! before every line of `>`s and `From `, an empty line.

use crate::address::ReversePath;
use crate::date::Asctime;

/// The line that separates messages: sender and date (mbox(5)). What is no bare word becomes one.
pub(super) fn from_line(reverse_path: &ReversePath) -> String {
    let sender: String = match reverse_path {
        ReversePath::Null => "MAILER-DAEMON".to_owned(),
        ReversePath::Mailbox(mailbox) => {
            mailbox.to_string().chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect()
        }
    };
    format!("From {sender} {}\n", Asctime::now_utc())
}

/// Puts a `>` into every line that begins with any number of `>` and `From `, however the text is split. It goes behind
/// the `>`s that are there, which makes no difference to the result.
#[derive(Debug, Default)]
pub struct Quoting {
    /// Whether the line that has begun is known to need no `>`.
    inside_line: bool,
    /// How many bytes of `From ` have come at the line's start, and are held back.
    matched: usize,
    /// Whether `>`s have come at the line's start.
    has_quotes: bool,
}

impl Quoting {
    /// Takes the next piece of the message's text, lines ended by LF, and appends what goes to the file.
    pub fn quote(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        let mut all_lines_at_once = true;
        while let Some(&byte) = rest.first() {
            let at_line_start = !self.inside_line && self.matched == 0 && !self.has_quotes;
            if at_line_start && std::mem::take(&mut all_lines_at_once) {
                // Most texts have no `From ` anywhere, and to see that is a lot faster than to look at every line.
                let lines = memchr::memrchr(b'\n', rest).map_or(0, |end| end + 1);
                if memchr::memmem::find(&rest[..lines], FROM).is_none() {
                    out.extend_from_slice(&rest[..lines]);
                    rest = &rest[lines..];
                    continue;
                }
            }
            if self.inside_line {
                let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                out.extend_from_slice(&rest[..length]);
                self.inside_line = rest[length - 1] != b'\n';
                rest = &rest[length..];
            } else if byte == FROM[self.matched] {
                self.matched += 1;
                rest = &rest[1..];
                if self.matched == FROM.len() {
                    out.push(b'>');
                    self.release(out);
                }
            } else if byte == b'>' && self.matched == 0 {
                out.push(b'>');
                self.has_quotes = true;
                rest = &rest[1..];
            } else {
                self.release(out);
            }
        }
    }

    /// Ends the last line if the message did not, and adds the empty line behind the message.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let open = self.matched > 0 || self.inside_line || self.has_quotes;
        self.release(out);
        out.extend_from_slice(if open { b"\n\n" } else { b"\n" });
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FROM[..self.matched]);
        *self = Self { inside_line: true, ..Self::default() };
    }
}

/// What is missing of a `From ` line that begins like this; `None` if none of ours does.
pub(super) fn rest_of_from_line(torn: &[u8]) -> Option<String> {
    let date = Asctime::now_utc().to_string();
    if let Some(rest) = FROM.strip_prefix(torn) {
        return Some(format!("{}MAILER-DAEMON {date}", rest.escape_ascii()));
    }
    let mut words = torn.strip_prefix(FROM)?.splitn(2, |byte| *byte == b' ');
    let sender = words.next()?;
    let Some(begun) = words.next() else {
        return Some(if sender.is_empty() { format!("MAILER-DAEMON {date}") } else { format!(" {date}") });
    };
    let kind = |byte: u8| (byte.is_ascii_alphabetic(), byte.is_ascii_digit() || byte == b' ', byte == b':');
    let is_date = begun.len() <= date.len() && begun.iter().zip(date.bytes()).all(|(a, b)| kind(*a) == kind(b));
    is_date.then(|| date[begun.len()..].to_owned())
}

const FROM: &[u8; 5] = b"From ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_can_be_undone() {
        let text = b"From a\n>From b\n>>From c\nFrom\nFromage\n>x\n From d\n\n\n>\nFrom \n>>";
        let quoted = b">From a\n>>From b\n>>>From c\nFrom\nFromage\n>x\n From d\n\n\n>\n>From \n>>\n\n";
        for piece in 1..text.len() {
            let (mut quoting, mut out) = (Quoting::default(), Vec::new());
            text.chunks(piece).for_each(|piece| quoting.quote(piece, &mut out));
            quoting.finish(&mut out);
            assert_eq!(out, quoted, "{}", String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn the_last_line_is_always_ended() {
        for (text, quoted) in [("", "\n"), ("a\n", "a\n\n"), ("a", "a\n\n"), ("Fro", "Fro\n\n"), (">", ">\n\n")] {
            let (mut quoting, mut out) = (Quoting::default(), Vec::new());
            quoting.quote(text.as_bytes(), &mut out);
            quoting.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), quoted, "{text}");
        }
    }
}
