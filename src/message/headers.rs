//! What is put in front of the text: the trace headers of a copy (RFC 5321, 4.4).

use std::fmt::Write as _;
use std::io::{self, BufRead, Cursor};
use std::net::IpAddr;
use std::time::SystemTime;

use super::Spool;
use crate::address::Mailbox;
use crate::date::HeaderDate;
use crate::net::tls::TlsParameters;
use crate::peer::{Address, Peer};
use crate::smtp::transaction::{HelloVerb, Transaction};

/// Everything about a message but its text: what headers and the environment of commands are made from.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Our name for the message, in headers, replies and the log.
    pub id: &'a str,
    /// Who we are.
    pub domain: &'a str,
    /// Whom it came from.
    pub peer: &'a Peer,
    /// When it had come: the same in all copies.
    pub received_at: SystemTime,
    /// Sender and recipients.
    pub transaction: &'a Transaction,
    /// What TLS it came under, if it did.
    pub tls: Option<&'a TlsParameters>,
    /// Who sent it, if the peer has shown that (AUTH): for commands, and in no header.
    pub user: Option<&'a str>,
}

impl Envelope<'_> {
    /// What RFC 5321 (4.4), RFC 3848 and RFC 6531 (4.3) call it. There is no word for HELO under TLS, or behind AUTH.
    pub fn protocol(&self) -> &'static str {
        let (is_utf8, is_lmtp) = (self.transaction.utf8, self.transaction.hello.is_lmtp());
        if self.transaction.hello.verb == HelloVerb::Helo {
            return "SMTP";
        }
        match (is_utf8, is_lmtp, self.tls.is_some(), self.user.is_some()) {
            (false, false, false, false) => "ESMTP",
            (false, false, false, true) => "ESMTPA",
            (false, false, true, false) => "ESMTPS",
            (false, false, true, true) => "ESMTPSA",
            (false, true, false, false) => "LMTP",
            (false, true, false, true) => "LMTPA",
            (false, true, true, false) => "LMTPS",
            (false, true, true, true) => "LMTPSA",
            (true, false, false, false) => "UTF8SMTP",
            (true, false, false, true) => "UTF8SMTPA",
            (true, false, true, false) => "UTF8SMTPS",
            (true, false, true, true) => "UTF8SMTPSA",
            (true, true, false, false) => "UTF8LMTP",
            (true, true, false, true) => "UTF8LMTPA",
            (true, true, true, false) => "UTF8LMTPS",
            (true, true, true, true) => "UTF8LMTPSA",
        }
    }
}

/// The message as a recipient gets it.
#[derive(Debug, Clone, Copy)]
pub struct RecipientCopy<'a> {
    /// What it is made from.
    pub envelope: &'a Envelope<'a>,
    /// Whose copy it is.
    pub recipient: &'a Mailbox,
    /// Who else has it, because it goes to the same place.
    pub others: &'a [&'a Mailbox],
}

impl<'a> RecipientCopy<'a> {
    /// All whose copy it is.
    pub fn recipients(&self) -> impl Iterator<Item = &'a Mailbox> {
        std::iter::once(self.recipient).chain(self.others.iter().copied())
    }

    /// Headers and text, lines ended by LF, from the beginning: as much of it as is asked for at a time.
    pub fn reader<'s>(&self, spool: &'s mut Spool) -> io::Result<impl BufRead + 's> {
        Ok(io::Read::chain(Cursor::new(self.headers()), spool.message()?))
    }

    /// The headers that are ours.
    pub fn headers(&self) -> String {
        let mut headers = String::with_capacity(400);
        // Writing to a String cannot fail.
        let _ = writeln!(headers, "Return-Path: <{}>", self.envelope.transaction.reverse_path);
        for recipient in self.recipients() {
            let _ = writeln!(headers, "Delivered-To: {recipient}");
        }
        self.write_received(&mut headers);
        headers
    }

    /// The one that a server puts in front which passes a message on: the others are for where its way ends.
    pub fn received(&self) -> String {
        let mut header = String::with_capacity(300);
        self.write_received(&mut header);
        header
    }

    fn write_received(&self, headers: &mut String) {
        let (envelope, recipient) = (self.envelope, self.recipient);
        let Transaction { hello, recipients, .. } = envelope.transaction;
        let _ = write!(headers, "Received: from {} ({}", hello.name, envelope.peer.name());
        let _ = match envelope.peer.address {
            Address::Ip(address @ IpAddr::V4(_)) => writeln!(headers, " [{address}])"),
            Address::Ip(address @ IpAddr::V6(_)) => writeln!(headers, " [IPv6:{address}])"),
            Address::Local(Some(uid)) => writeln!(headers, " user {uid})"),
            Address::Local(None) => writeln!(headers, ")"),
        };
        if let Some(tls) = envelope.tls {
            let _ = writeln!(headers, "\t(using {tls})");
        }
        let _ = write!(headers, "\tby {} (mailrecv) with {} id {}", envelope.domain, envelope.protocol(), envelope.id);
        // In LMTP each recipient has a copy to itself.
        if recipients.len() == 1 || hello.is_lmtp() {
            let _ = write!(headers, "\n\tfor <{recipient}>");
        }
        let _ = writeln!(headers, "; {}", HeaderDate::of(envelope.received_at));
    }
}
