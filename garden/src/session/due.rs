//! Follows which reply answers what. Over LMTP the end of a text has a reply for each recipient that was accepted
//! (RFC 2033, 4.2), where cases, which are written for SMTP, wait for one. How many there are is known when the replies
//! to RCPT have come, whether each was waited for or all were sent in one piece.

use std::collections::VecDeque;

/// What was sent over LMTP and is not answered yet.
#[derive(Default)]
pub(super) struct Due {
    /// Over SMTP everything has one reply, and nothing is followed.
    is_lmtp: bool,
    reading: Reading,
    /// The part of a line, or of a text, that was sent so far.
    begun: Vec<u8>,
    unanswered: VecDeque<Sent>,
    /// How many recipients were accepted in this transaction.
    recipients: usize,
}

/// How a server takes the next octets.
#[derive(Default)]
enum Reading {
    #[default]
    Commands,
    /// Up to CRLF `.` CRLF.
    Text,
    /// This many octets of BDAT (RFC 3030, 2).
    Chunk(usize),
}

/// Something that has one reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// A command that, if it is accepted, begins or ends a transaction.
    Start,
    Recipient,
    Data,
    /// A message that is complete. This stands for its first recipient.
    Message,
    /// The same for each further recipient.
    Copy,
    Other,
}

impl Due {
    /// Notes the octets that are sent in one piece.
    pub(super) fn sent(&mut self, octets: &[u8]) {
        self.is_lmtp |= octets.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"LHLO "));
        if !self.is_lmtp {
            return;
        }
        for &octet in octets {
            self.begun.push(octet);
            match self.reading {
                Reading::Commands if octet == b'\n' => self.command(),
                Reading::Text if self.begun == b".\r\n" || self.begun.ends_with(b"\r\n.\r\n") => {
                    self.unanswered.push_back(Sent::Message);
                    self.expect_commands();
                }
                Reading::Chunk(0 | 1) => self.expect_commands(),
                Reading::Chunk(left) => self.reading = Reading::Chunk(left - 1),
                Reading::Commands | Reading::Text => {}
            }
        }
    }

    /// Notes that a reply with this code has come.
    pub(super) fn came(&mut self, code: u16) {
        let is_accepted = (200..300).contains(&code);
        match self.unanswered.pop_front() {
            Some(Sent::Start) if is_accepted => self.recipients = 0,
            Some(Sent::Recipient) if is_accepted => self.recipients += 1,
            Some(Sent::Data) if !(300..400).contains(&code) => self.refuse_text(),
            Some(Sent::Message) => {
                for _ in 1..std::mem::take(&mut self.recipients) {
                    self.unanswered.push_front(Sent::Copy);
                }
            }
            _ => {}
        }
    }

    /// How many replies belong to the one that has just come, if the case waits for this many more before it sends
    /// anything. Those are for what else is unanswered, and then for copies: a case may wait for each of them.
    pub(super) fn copies(&self, waits: usize) -> usize {
        let copies = self.unanswered.iter().take_while(|sent| **sent == Sent::Copy).count();
        copies.min(self.unanswered.len().saturating_sub(waits))
    }

    fn command(&mut self) {
        let line = String::from_utf8_lossy(&self.begun).to_ascii_uppercase();
        self.begun.clear();
        let mut words = line.split([' ', ':', '\r', '\n']);
        let sent = match words.next().unwrap_or_default() {
            "LHLO" | "MAIL" | "RSET" => Sent::Start,
            "RCPT" => Sent::Recipient,
            "DATA" => {
                self.reading = Reading::Text;
                Sent::Data
            }
            "BDAT" => {
                let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
                if size > 0 {
                    self.reading = Reading::Chunk(size);
                }
                if words.next() == Some("LAST") { Sent::Message } else { Sent::Other }
            }
            _ => Sent::Other,
        };
        self.unanswered.push_back(sent);
    }

    fn expect_commands(&mut self) {
        self.reading = Reading::Commands;
        self.begun.clear();
    }

    /// DATA was refused. A text that was sent with it is no message, and what follows is commands.
    fn refuse_text(&mut self) {
        if let Some(at) = self.unanswered.iter().position(|sent| *sent == Sent::Message) {
            self.unanswered.remove(at);
        } else if matches!(self.reading, Reading::Text) {
            self.expect_commands();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a session, in which `< CODE` is a reply, and all else is sent. Returns how many replies belong to each
    /// one that has come, if there is no further wait.
    fn copies(session: &[&str]) -> Vec<usize> {
        let mut due = Due::default();
        let mut copies = Vec::new();
        for step in session {
            match step.strip_prefix("< ") {
                Some(code) => {
                    due.came(code.parse().unwrap());
                    copies.push(due.copies(0));
                    (0..due.copies(0)).for_each(|_| due.came(250));
                }
                None => due.sent(step.as_bytes()),
            }
        }
        copies
    }

    const HELLO: [&str; 2] = ["LHLO me\r\n", "< 250"];
    const TWO: [&str; 4] = ["MAIL FROM:<>\r\nRCPT TO:<a>\r\nrcpt to:<b>\r\n", "< 250", "< 250", "< 250"];
    const TEXT: [&str; 4] = ["DATA\r\n", "< 354", "x\r\n.\r\n", "< 250"];

    #[test]
    fn a_message_has_a_reply_for_each_recipient_that_was_accepted() {
        let of = |steps: &[&[&str]]| copies(&[&HELLO[..], &steps.concat()].concat())[1..].to_vec();
        assert_eq!(of(&[&TWO, &TEXT]), [0, 0, 0, 0, 1]);
        // Twice, and behind what forgets the recipients, or does not.
        assert_eq!(of(&[&TWO, &TEXT, &TWO, &TEXT]), [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(of(&[&TWO, &["RSET\r\n", "< 250"], &TWO, &TEXT]), [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(of(&[&TWO, &["MAIL FROM:<>\r\n", "< 503"], &TEXT]), [0, 0, 0, 0, 0, 1]);
        assert_eq!(of(&[&TWO, &["RCPT TO:<c>\r\n", "< 550"], &TEXT]), [0, 0, 0, 0, 0, 1]);
        // A text in pieces, one that is empty, and one with the dot of another line.
        assert_eq!(of(&[&TWO, &["DATA\r\n", "< 354", "RCPT\r\n.", "\r\n", "< 250"]]), [0, 0, 0, 0, 1]);
        assert_eq!(of(&[&TWO, &["DATA\r\n", "< 354", ".\r\n", "< 250"]]), [0, 0, 0, 0, 1]);
        assert_eq!(of(&[&TWO, &["DATA\r\n", "< 354", "x\n.\r\nRCPT\r\n.\r\n", "< 250"]]), [0, 0, 0, 0, 1]);
        // All in one piece, with what comes behind it.
        let all = ["MAIL\r\nRCPT\r\nRCPT\r\nRCPT\r\nDATA\r\n\r\n.\r\nNOOP\r\n"];
        let replies = ["< 250", "< 250", "< 550", "< 250", "< 354", "< 250", "< 250"];
        assert_eq!(of(&[&all, &replies]), [0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_message_of_chunks_has_them_behind_the_last() {
        let chunks = ["BDAT 6\r\nRCPT\r\n", "< 250", "BDAT 0\r\n", "< 250", "bdat 2 last\r\n\r\n", "< 250"];
        let session = [&HELLO[..], &TWO, &chunks, &TWO, &TEXT].concat();
        assert_eq!(copies(&session)[4..], [0, 0, 1, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_text_that_is_refused_is_no_message() {
        let early = ["DATA\r\nx\r\n.\r\n", "< 503"];
        assert_eq!(copies(&[&HELLO[..], &early, &TWO, &TEXT].concat())[1..], [0, 0, 0, 0, 0, 1]);
        let late = ["DATA\r\n", "< 503"];
        assert_eq!(copies(&[&HELLO[..], &late, &TWO, &TEXT].concat())[1..], [0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn over_smtp_everything_has_one_reply() {
        assert_eq!(copies(&[&["EHLO me\r\n", "< 250"][..], &TWO, &TEXT].concat()), [0; 6]);
    }

    #[test]
    fn who_waits_for_each_reply_gets_each() {
        let mut due = Due::default();
        due.sent(b"LHLO me\r\nMAIL\r\nRCPT\r\nRCPT\r\nRCPT\r\nDATA\r\n.\r\nQUIT\r\n");
        [250, 250, 250, 250, 250, 354, 250].into_iter().for_each(|code| due.came(code));
        // One wait is that for the reply to QUIT.
        assert_eq!([0, 1, 2, 3, 4].map(|waits| due.copies(waits)), [2, 2, 1, 0, 0]);
    }
}
