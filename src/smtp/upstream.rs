//! The client's side of SMTP and LMTP, as far as it needs no I/O: what the next server offers, what to ask it, whose
//! fault a refusal of it is, and the text as it goes over the wire (RFC 5321).

use std::fmt::Write as _;

use super::reply::{self, Reply, Status};
use crate::address::{Mailbox, ReversePath};

/// What the peer says of a message before it sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Whom to tell if something goes wrong.
    pub path: ReversePath,
    /// Octets, as announced (RFC 1870); 0 if they were not.
    pub size: u64,
    /// Whether it asked for SMTPUTF8 (RFC 6531).
    pub utf8: bool,
}

/// What a server can do beyond RFC 5321, as its answer to EHLO or LHLO says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offered {
    /// The most octets of a message (RFC 1870); 0 if there is no limit, or none is known.
    pub size: u64,
    /// Whether it offers SIZE at all.
    pub knows_size: bool,
    /// Bytes beyond ASCII in messages (RFC 6152).
    pub eight_bit: bool,
    /// Addresses beyond ASCII (RFC 6531).
    pub utf8: bool,
    /// Commands that do not wait for the replies to others (RFC 2920).
    pub pipelining: bool,
    /// TLS (RFC 3207).
    pub tls: bool,
    /// The mechanisms that it offers and we know (RFC 4954).
    pub auth: Vec<Login>,
}

/// A mechanism by which we can log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// RFC 4616.
    Plain,
    /// LOGIN, which was never made a standard.
    Login,
}

impl Offered {
    /// Reads the lines behind the first one.
    pub fn parse(hello: &Reply) -> Self {
        let mut offered = Self::default();
        for line in hello.text.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "SIZE" => {
                    offered.knows_size = true;
                    offered.size = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
                }
                "8BITMIME" => offered.eight_bit = true,
                "SMTPUTF8" => offered.utf8 = true,
                "PIPELINING" => offered.pipelining = true,
                "STARTTLS" => offered.tls = true,
                "AUTH" => {
                    let known = words.filter_map(|word| match word.to_ascii_uppercase().as_str() {
                        "PLAIN" => Some(Login::Plain),
                        "LOGIN" => Some(Login::Login),
                        _ => None,
                    });
                    offered.auth.extend(known);
                }
                _ => {}
            }
        }
        offered
    }

    /// Whether MAIL has to announce SMTPUTF8 for this sender and these recipients. A peer may use an address beyond
    /// ASCII without having announced it itself (`smtp_ascii off`).
    pub fn announces_utf8(&self, sender: &Sender, recipients: &[&Mailbox]) -> bool {
        self.utf8 && (sender.utf8 || !are_ascii(sender, recipients))
    }

    /// The MAIL command for this sender, with those parameters that the server offers.
    pub fn mail(&self, sender: &Sender, is_utf8: bool) -> String {
        let mut command = format!("MAIL FROM:<{}>", sender.path);
        if self.knows_size && sender.size > 0 {
            // Writing to a String cannot fail.
            let _ = write!(command, " SIZE={}", sender.size);
        }
        if self.eight_bit {
            command.push_str(" BODY=8BITMIME");
        }
        if is_utf8 {
            command.push_str(" SMTPUTF8");
        }
        command
    }

    /// Why the server cannot take a message of this sender for these recipients, as far as its offers tell.
    pub fn refusal(&self, sender: &Sender, recipients: &[&Mailbox]) -> Option<Reply> {
        if self.size != 0 && sender.size > self.size {
            return Some(reply::too_large_for_hop(sender.size, self.size));
        }
        (!self.utf8 && (sender.utf8 || !are_ascii(sender, recipients))).then_some(reply::NO_UTF8_AT_HOP)
    }
}

fn are_ascii(sender: &Sender, recipients: &[&Mailbox]) -> bool {
    sender.path.to_string().is_ascii() && recipients.iter().all(|recipient| recipient.to_string().is_ascii())
}

/// Which command a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// MAIL
    Mail,
    /// RCPT
    Rcpt,
    /// DATA, or the text behind it.
    Text,
}

/// The next server's refusal as a reply of ours, in its words. If it is about the way we speak with that server, it is
/// our configuration's fault and the sender is told so.
pub fn passed_on(mut refusal: Reply, asked: Asked, hop: &str) -> Reply {
    // RFC 821 used 552 for "too many recipients": the sender can offer the others again later (RFC 5321, 4.5.3.1.10).
    if asked == Asked::Rcpt && refusal.code == 552 && refusal.status.is_none_or(|status| status == Status(5, 5, 3)) {
        (refusal.code, refusal.status) = (452, Some(Status(4, 5, 3)));
    }
    let subject = refusal.status.map(|Status(_, subject, _)| subject);
    let is_about_us = match refusal.code {
        // Syntax errors of ours, except for those in an address, which is the sender's.
        500..=504 | 555 => subject != Some(ADDRESSING),
        // We have to log in first, with TLS, or by another mechanism (RFC 4954, section 6; RFC 3207, section 4).
        530 | 534 | 535 | 538 => true,
        _ => false,
    };
    if is_about_us {
        return reply::hop_misconfigured(format!("{hop} says '{}'", shown(&refusal)));
    }
    let class = refusal.code / 100;
    // SMTP replies have no greater second digit (RFC 5321, 4.2), and our peer may accept no other.
    if refusal.code / 10 % 10 > 5 {
        refusal.code = class * 100 + 50;
    }
    // A loop that is found before there is a message comes from our configuration or theirs.
    let is_in_circles = asked != Asked::Text && refusal.status == Some(reply::IN_CIRCLES);
    let status = refusal.status.unwrap_or(match (asked, class) {
        (Asked::Mail, 5) => Status(5, 7, 1),
        (Asked::Rcpt, 5) if refusal.code == 550 => Status(5, 1, 1),
        _ => Status(class, 0, 0),
    });
    let is_our_fault = refusal.is_our_fault || is_in_circles;
    Reply { status: Some(status), is_our_fault, ..in_its_words(refusal) }.because(format!("so says {hop}"))
}

/// The next server's positive reply to the message, as a reply of ours.
pub fn accepted(reply: Reply) -> Reply {
    let status = reply.status.unwrap_or(Status(2, 0, 0));
    Reply { code: 250, status: Some(status), ..in_its_words(reply) }
}

/// The same reply with a text that can stand in ours: a bounded number of lines, and printable ASCII only.
fn in_its_words(reply: Reply) -> Reply {
    let printable = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
    let lines: Vec<String> =
        reply.text.lines().take(MAX_LINES).map(|line| line.chars().map(printable).collect()).collect();
    Reply { text: lines.join("\n").into(), ..reply }
}

/// A reply for the log, in one line.
pub fn shown(reply: &Reply) -> String {
    let status = reply.status.map_or_else(String::new, |status| format!("{status} "));
    format!("{} {status}{}", reply.code, in_its_words(reply.clone()).text.replace('\n', " / "))
}

/// Message text as it goes over the wire: every line ends with CRLF (2.3.8), and a line that begins with a dot gets
/// another one (4.5.2). A CR within a line becomes a blank, as with Postfix (cleanup_replace_stray_cr_lf), so that no
/// server behind us can take it for a line end.
#[derive(Debug, Default)]
pub struct Stuffing {
    /// Whether the last piece ended within a line.
    is_within_line: bool,
}

impl Stuffing {
    /// Adds a piece of a text whose lines end with LF.
    pub fn push(&mut self, piece: &[u8], into: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(first) = rest.first() {
            if !self.is_within_line && *first == b'.' {
                into.push(b'.');
            }
            let length = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            into.extend_from_slice(&rest[..length]);
            self.is_within_line = true;
            match rest.get(length) {
                Some(b'\n') => {
                    into.extend_from_slice(b"\r\n");
                    self.is_within_line = false;
                }
                Some(_) => into.push(b' '),
                None => return,
            }
            rest = &rest[length + 1..];
        }
    }

    /// Completes the last line, if its end is missing. The final dot is not added.
    pub fn finish(&mut self, into: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_within_line) {
            into.extend_from_slice(b"\r\n");
        }
    }
}

/// The subject of enhanced codes that are about an address (RFC 3463, 3.2).
const ADDRESSING: u16 = 1;

/// How many lines of a reply are passed on.
const MAX_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reply: &str) -> Reply {
        Reply::parse(reply.replace('\n', "\r\n").as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn what_is_offered_is_asked_for() {
        let sender = |size, utf8| Sender { path: ReversePath::Mailbox(Mailbox::parse("a@b").unwrap()), size, utf8 };
        let offered = Offered::parse(&read(
            "250-x Hello SIZE\n250-size 1000\n250-8bitmime\n250-AUTH CRAM-MD5 login PLAIN\n250-STARTTLS\n250-PIPELINING\n250 SMTPUTF8\n",
        ));
        let all = Offered {
            size: 1000,
            knows_size: true,
            eight_bit: true,
            utf8: true,
            pipelining: true,
            tls: true,
            auth: vec![Login::Login, Login::Plain],
        };
        assert_eq!(offered, all);
        assert_eq!(offered.mail(&sender(999, true), true), "MAIL FROM:<a@b> SIZE=999 BODY=8BITMIME SMTPUTF8");
        assert_eq!(offered.mail(&sender(0, false), false), "MAIL FROM:<a@b> BODY=8BITMIME");
        assert_eq!(offered.refusal(&sender(1000, true), &[]), None);
        assert_eq!(offered.refusal(&sender(1001, true), &[]).unwrap().code, 552);
        let nothing = Offered::parse(&read("250 SIZE 5\n"));
        assert_eq!(nothing, Offered::default());
        assert_eq!(nothing.mail(&sender(999, false), false), "MAIL FROM:<a@b>");
        let status =
            |sender: &Sender, to: &[&Mailbox]| nothing.refusal(sender, to).map(|it| (it.code, it.status.unwrap()));
        assert_eq!(status(&sender(9, false), &[]), None);
        assert_eq!(status(&sender(9, true), &[]), Some((550, Status(5, 6, 7))));
        let beyond_ascii = Mailbox::parse("\u{fc}@b").unwrap();
        assert_eq!(status(&sender(9, false), &[&beyond_ascii]), Some((550, Status(5, 6, 7))));
        for (sender, to, is_utf8) in [
            (sender(9, false), &[][..], false),
            (sender(9, true), &[], true),
            (sender(9, false), &[&beyond_ascii], true),
        ] {
            assert_eq!((all.announces_utf8(&sender, to), nothing.announces_utf8(&sender, to)), (is_utf8, false));
        }
        assert_eq!(Offered::parse(&read("250-x\n250 SIZE much\n")), Offered { knows_size: true, ..Offered::default() });
        let null = Sender { path: ReversePath::Null, size: 0, utf8: false };
        assert_eq!(nothing.mail(&null, false), "MAIL FROM:<>");
    }

    #[test]
    fn refusals_are_passed_on_unless_they_are_about_us() {
        use Asked::{Mail, Rcpt, Text};
        for (theirs, asked, ours) in [
            ("550 5.1.1 No \"[one]\"\n", Rcpt, "550 5.1.1 No \"[one]\""),
            ("550 No one\n", Rcpt, "550 5.1.1 No one"),
            ("550 No\n", Mail, "550 5.7.1 No"),
            ("550 5.7.1 Spam\n", Text, "550 5.7.1 Spam"),
            ("554-No\n554 never\n", Text, "554 5.0.0 No / never"),
            ("450 4.2.0 Greylisted\n", Rcpt, "450 4.2.0 Greylisted"),
            ("452 Full\n", Text, "452 4.0.0 Full"),
            ("552 Too many recipients\n", Rcpt, "452 4.5.3 Too many recipients"),
            ("552 5.5.3 Too many recipients\n", Rcpt, "452 4.5.3 Too many recipients"),
            ("552 5.2.2 Full\n", Rcpt, "552 5.2.2 Full"),
            ("552 Too large\n", Text, "552 5.0.0 Too large"),
            ("450 5.1.1 Odd\n", Rcpt, "450 4.0.0 5.1.1 Odd"),
            ("501 5.1.3 Bad recipient address syntax\n", Rcpt, "501 5.1.3 Bad recipient address syntax"),
            ("553 5.1.8 \u{fc}\u{1b}\n", Mail, "553 5.1.8 ??"),
            ("599 Odd\n", Rcpt, "550 5.1.1 Odd"),
            ("461 4.7.1 Odd\n", Text, "450 4.7.1 Odd"),
        ] {
            assert_eq!(shown(&passed_on(read(theirs), asked, "x")), ours, "{theirs}");
        }
        for theirs in
            ["500 What\n", "501 Syntax\n", "503 5.5.1 Order\n", "504 5.7.4 No\n", "530 5.7.0 Log in\n", "555 5.5.4 x\n"]
        {
            let ours = passed_on(read(theirs), Mail, "x");
            assert_eq!((ours.code, ours.status, ours.is_our_fault), (451, Some(Status(4, 3, 5)), true), "{theirs}");
        }
        for (asked, is_our_fault) in [(Mail, true), (Rcpt, true), (Text, false)] {
            let ours = passed_on(read("554 5.4.6 In circles\n"), asked, "x");
            assert_eq!((ours.code, ours.is_our_fault), (554, is_our_fault));
        }
        assert_eq!(shown(&accepted(read("252 2.6.0 <a> Queued\n"))), "250 2.6.0 <a> Queued");
        assert_eq!(shown(&accepted(read("250 Ok\n"))), "250 2.0.0 Ok");
    }

    #[test]
    fn lines_end_with_crlf_however_the_text_is_split() {
        for (text, wire) in [
            (&b""[..], &b""[..]),
            (b"a", b"a\r\n"),
            (b".\n", b"..\r\n"),
            (b"a\n.b\n..c\nd.\n", b"a\r\n..b\r\n...c\r\nd.\r\n"),
            (b"a\r\n.\r\nb", b"a \r\n.. \r\nb\r\n"),
            (b"\r.\r\r\n", b" .  \r\n"),
            (b"a\r", b"a \r\n"),
            (b"\n\n.", b"\r\n\r\n..\r\n"),
            (b"\0\xff\n", b"\0\xff\r\n"),
        ] {
            for size in 1..=text.len().max(1) {
                let (mut stuffing, mut sent) = (Stuffing::default(), Vec::new());
                text.chunks(size).for_each(|piece| stuffing.push(piece, &mut sent));
                stuffing.finish(&mut sent);
                assert_eq!(sent, wire, "{text:?} in pieces of {size}");
            }
        }
    }
}
