//! The trace headers that are put in front of the text of a copy (RFC 5321, 4.4).

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
    /// The message's identifier, in headers, replies and the log.
    pub id: &'a str,
    /// Our own name.
    pub domain: &'a str,
    /// Whom it came from.
    pub peer: &'a Peer,
    /// When the message was complete; the same in all copies.
    pub received_at: SystemTime,
    /// Sender and recipients.
    pub transaction: &'a Transaction,
    /// The parameters of TLS, if it came encrypted.
    pub tls: Option<&'a TlsParameters>,
    /// The account that the peer has logged in to (AUTH), if it has. Commands get it, headers do not show it.
    pub user: Option<&'a str>,
}

impl Envelope<'_> {
    /// The name of the protocol in RFC 5321 (4.4), RFC 3848 and RFC 6531 (4.3). There is none for HELO under TLS or
    /// after AUTH.
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
    /// The recipient that this copy is for.
    pub recipient: &'a Mailbox,
    /// The other recipients whose mail goes to the same place, so that they share this copy.
    pub others: &'a [&'a Mailbox],
}

impl<'a> RecipientCopy<'a> {
    /// All recipients of this copy.
    pub fn recipients(&self) -> impl Iterator<Item = &'a Mailbox> {
        std::iter::once(self.recipient).chain(self.others.iter().copied())
    }

    /// A reader of headers and text from the beginning, lines ended by LF.
    pub fn reader<'s>(&self, spool: &'s mut Spool) -> io::Result<impl BufRead + 's> {
        Ok(io::Read::chain(Cursor::new(self.headers()), spool.message()?))
    }

    /// The headers that we put in front.
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

    /// The one header that a server adds which passes a message on: Return-Path and Delivered-To are for the final
    /// delivery.
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
        // In LMTP each recipient has a copy of its own.
        if recipients.len() == 1 || hello.is_lmtp() {
            let _ = write!(headers, "\n\tfor <{recipient}>");
        }
        let _ = writeln!(headers, "; {}", HeaderDate::of(envelope.received_at));
    }
}
