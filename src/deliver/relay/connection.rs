//! One connection to a hop: its transactions, and how anything is asked; `opening` has what comes before.
//!
//! A hop that says something unasked is out of step with us: whatever it says next could be taken for the answer to
//! something else. So before anything is sent, nothing may wait to be read.

mod opening;

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::Way;
use crate::address::Mailbox;
use crate::config::Protocol;
use crate::log::Event;
use crate::message::{Spool, for_each_piece};
use crate::net::dialogue::Dialogue;
use crate::net::patience::Patience;
use crate::smtp::reply::{self, NotAReply, Reply};
use crate::smtp::upstream::{Asked, Offered, Sender, Stuffing, accepted, passed_on, shown};
use crate::untrusted::Untrusted;

/// A connection that is past EHLO, TLS and login.
pub(super) struct Connection {
    dialogue: Dialogue,
    /// What has come and is not read yet.
    buffer: Vec<u8>,
    offered: Offered,
    transaction: Transaction,
    /// What was said to log in. A server may repeat it, and no log may have it.
    secrets: Vec<String>,
}

/// The transaction at the hop's side.
enum Transaction {
    /// None.
    Nothing,
    /// One that is to be given up before the next.
    Forgotten,
    /// It has accepted this sender, and these recipients; whether they were announced as beyond ASCII.
    Open { sender: Sender, recipients: Vec<Mailbox>, is_utf8: bool },
}

/// Why a hop does not do what it was asked.
pub(super) enum Trouble {
    /// It says so, or would; this is what the peer hears. The connection goes on.
    Refused(Reply),
    /// The connection is of no more use.
    Lost(Lost),
}

/// Why a connection is of no more use, for the log.
pub(super) enum Lost {
    /// There is none.
    Unreachable(String),
    /// The hop has ended it.
    Closed(String),
    /// What it says is no answer to what it was asked.
    Garbled(String),
    /// It has not answered in time.
    TooSlow(String),
    /// It has not shown who it is, or has no TLS.
    Insecure(String),
    /// It does not like how we speak with it.
    Misconfigured(String),
    /// It is this server.
    Circle(String),
    /// The hop has refused the text before its end; this is what the peer hears.
    Refused(Reply),
    /// The message could not be read on our side.
    Unread(io::Error),
    /// We were asked to stop.
    Stopped,
}

impl From<Lost> for Trouble {
    fn from(lost: Lost) -> Self {
        Trouble::Lost(lost)
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::Interrupted => Lost::Stopped,
            ErrorKind::TimedOut => Lost::TooSlow(error.to_string()),
            _ => Lost::Closed(error.to_string()),
        }
    }
}

impl Connection {
    /// Whether there is a transaction of this sender that recipients can be added to.
    pub(super) fn is_open_for(&self, sender: &Sender) -> bool {
        matches!(&self.transaction, Transaction::Open { sender: known, .. } if known == sender)
    }

    /// Whether it is for exactly these recipients. The size that a message has come to be is no other sender.
    pub(super) fn is_open_with(&self, sender: &Sender, recipients: &[&Mailbox]) -> bool {
        let Transaction::Open { sender: known, recipients: accepted, .. } = &self.transaction else { return false };
        known.path == sender.path && known.utf8 == sender.utf8 && accepted.iter().eq(recipients.iter().copied())
    }

    /// What was asked is about nothing any more.
    pub(super) fn forget_transaction(&mut self) {
        if let Transaction::Open { .. } = self.transaction {
            self.transaction = Transaction::Forgotten;
        }
    }

    /// Begins a transaction with this sender and these recipients, who all have to be accepted.
    pub(super) fn begin(&mut self, way: &Way<'_>, sender: &Sender, recipients: &[&Mailbox]) -> Result<(), Trouble> {
        if let Some(refusal) = self.offered.refusal(sender, recipients) {
            return Err(Trouble::Refused(refusal));
        }
        let before = std::mem::replace(&mut self.transaction, Transaction::Forgotten);
        let mut commands = Vec::with_capacity(recipients.len() + 2);
        if !matches!(before, Transaction::Nothing) {
            commands.push((None, "RSET".to_owned()));
        }
        let is_utf8 = self.offered.announces_utf8(sender, recipients);
        commands.push((Some((Asked::Mail, None)), self.offered.mail(sender, is_utf8)));
        commands.extend(recipients.iter().map(|recipient| (Some((Asked::Rcpt, Some(*recipient))), rcpt(recipient))));
        let group = if self.offered.pipelining { commands.len() } else { 1 };
        let (mut is_open, mut accepted, mut refusal) = (false, Vec::new(), None);
        for commands in commands.chunks(group) {
            let lines: Vec<&str> = commands.iter().map(|(_, line)| line.as_str()).collect();
            self.send(way, &lines, COMMAND)?;
            for (asked, _) in commands {
                let reply = self.reply(way, way.patience(COMMAND))?;
                match (asked, reply.code) {
                    (None, 200..300) => {}
                    (Some((Asked::Rcpt, recipient)), 200..300) => accepted.extend(recipient.cloned()),
                    (Some(_), 200..300) => is_open = true,
                    (Some((asked, _)), 400..) => {
                        // What follows may fail for no other reason.
                        refusal.get_or_insert_with(|| passed_on(reply, *asked, way.hop.shown()));
                    }
                    _ => return Err(Lost::Garbled(said(&reply)).into()),
                }
            }
            if refusal.is_some() {
                break;
            }
        }
        if is_open {
            self.transaction = Transaction::Open { sender: sender.clone(), recipients: accepted, is_utf8 };
        }
        refusal.map_or(Ok(()), |refusal| Err(Trouble::Refused(refusal)))
    }

    /// Adds a recipient to the transaction.
    pub(super) fn recipient(&mut self, way: &Way<'_>, sender: &Sender, recipient: &Mailbox) -> Result<(), Trouble> {
        if let Some(refusal) = self.offered.refusal(sender, &[recipient]) {
            return Err(Trouble::Refused(refusal));
        }
        if let Transaction::Open { recipients, is_utf8: false, .. } = &self.transaction
            && self.offered.announces_utf8(sender, &[recipient])
        {
            let known = recipients.clone();
            return self.begin(way, sender, &known.iter().chain([recipient]).collect::<Vec<_>>());
        }
        let reply = self.ask(way, &rcpt(recipient), COMMAND)?;
        match (reply.code, &mut self.transaction) {
            (200..300, Transaction::Open { recipients, .. }) => {
                recipients.push(recipient.clone());
                Ok(())
            }
            (400.., _) => Err(Trouble::Refused(passed_on(reply, Asked::Rcpt, way.hop.shown()))),
            _ => Err(Lost::Garbled(said(&reply)).into()),
        }
    }

    /// Has the hop wait for the text of the transaction that is open, of so many octets, `received` in front of it.
    pub(super) fn begin_text(
        &mut self,
        way: &Way<'_>,
        received: &str,
        octets: u64,
        spool: &mut Spool,
    ) -> Result<(), Trouble> {
        self.forget_transaction();
        if let Some(refusal) = self.refusal_of(received, octets, spool)? {
            return Err(Trouble::Refused(refusal));
        }
        let ready = self.ask(way, "DATA", DATA)?;
        match ready.code {
            // An answer now would be to a message that has not been sent.
            354 => self.expect_silence(way).map_err(|lost| self.early_refusal(way).unwrap_or(lost.into())),
            400.. => Err(Trouble::Refused(passed_on(ready, Asked::Text, way.hop.shown()))),
            _ => Err(Lost::Garbled(said(&ready)).into()),
        }
    }

    /// Sends the text; what the hop says when it has taken it for so many recipients.
    pub(super) fn text(
        &mut self,
        way: &Way<'_>,
        received: &str,
        recipients: usize,
        spool: &mut Spool,
    ) -> Result<Reply, Trouble> {
        if let Err(lost) = self.send_text(way, received, spool) {
            return Err(self.early_refusal(way).unwrap_or(lost.into()));
        }
        if let Err(lost) = self.expect_silence(way) {
            // Without the final dot it has no message, whatever it says.
            return Err(self.early_refusal(way).unwrap_or(lost.into()));
        }
        self.dialogue.write(b".\r\n", way.patience_to_the_end(BLOCK)).map_err(Lost::from)?;
        // In LMTP each recipient has an answer, and these are all or nothing.
        let answers = if way.hop.protocol == Protocol::Lmtp { recipients } else { 1 };
        let mut last = None;
        for _ in 0..answers {
            let reply = self.reply(way, way.patience_to_the_end(FINAL))?;
            match (reply.code, &last) {
                (400.., None | Some(Ok(_))) => last = Some(Err(reply)),
                (200..300, None | Some(Ok(_))) => last = Some(Ok(reply)),
                (200..300 | 400.., Some(Err(_))) => {}
                _ => return Err(Lost::Garbled(said(&reply)).into()),
            }
        }
        self.expect_no_second_answer()?;
        self.transaction = Transaction::Nothing;
        match last {
            Some(Ok(reply)) => Ok(accepted(reply)),
            Some(Err(reply)) => Err(Trouble::Refused(passed_on(reply, Asked::Text, way.hop.shown()))),
            None => Err(Lost::Garbled("there is nobody to answer for".to_owned()).into()),
        }
    }

    /// Why the hop cannot take this text.
    fn refusal_of(&self, received: &str, octets: u64, spool: &mut Spool) -> Result<Option<Reply>, Lost> {
        // Most texts need not be read for that.
        let is_small = self.offered.size == 0 || octets + TRACE <= self.offered.size;
        if self.offered.eight_bit && is_small {
            return Ok(None);
        }
        let (mut size, mut is_ascii) = (received.len() as u64, received.is_ascii());
        let lines = |text: &[u8]| memchr::memchr_iter(b'\n', text).count() as u64;
        size += lines(received.as_bytes());
        let text = spool.message().map_err(Lost::Unread)?;
        for_each_piece(text, |piece| {
            // RFC 1870, section 3: line ends count as two octets, and dots once.
            size += piece.len() as u64 + lines(piece);
            is_ascii = is_ascii && piece.is_ascii();
            Ok(())
        })
        .map_err(Lost::Unread)?;
        if self.offered.size != 0 && size > self.offered.size {
            return Ok(Some(reply::too_large_for_hop(size, self.offered.size)));
        }
        Ok((!is_ascii && !self.offered.eight_bit).then_some(reply::NO_EIGHT_BIT_AT_HOP))
    }

    fn send_text(&mut self, way: &Way<'_>, received: &str, spool: &mut Spool) -> Result<(), Lost> {
        let (mut stuffing, mut wire) = (Stuffing::default(), Vec::with_capacity(spool.piece() + received.len() + 64));
        stuffing.push(received.as_bytes(), &mut wire);
        let mut failed = None;
        let read = for_each_piece(spool.message().map_err(Lost::Unread)?, |piece| {
            stuffing.push(piece, &mut wire);
            let sent = self.dialogue.write(&wire, way.patience(BLOCK));
            wire.clear();
            sent.map_err(|error| {
                failed = Some(error);
                ErrorKind::Other.into()
            })
        });
        match (failed, read) {
            (Some(error), _) => return Err(error.into()),
            (None, Err(error)) => return Err(Lost::Unread(error)),
            (None, Ok(())) => {}
        }
        stuffing.finish(&mut wire);
        Ok(self.dialogue.write(&wire, way.patience(BLOCK))?)
    }

    /// What a hop said that did not hear a message to its end, if that is a refusal. Without its final dot the message can
    /// only be ended with the connection.
    fn early_refusal(&mut self, way: &Way<'_>) -> Option<Trouble> {
        let _ = self.dialogue.read_what_came(&mut self.buffer);
        let (reply, _) = self.parsed().ok()??;
        let is_refusal = reply.is_negative() && reply.code != 421;
        is_refusal.then(|| {
            self.log_reply(way, &reply);
            Lost::Refused(passed_on(reply, Asked::Text, way.hop.shown())).into()
        })
    }

    /// Takes leave.
    pub(super) fn quit(&mut self, way: &Way<'_>) {
        // Closed before its reply is read, the connection would look broken to the hop.
        let _ = self.ask(way, "QUIT", LEAVE);
        self.dialogue.close();
    }

    /// A command and the reply to it.
    fn ask(&mut self, way: &Way<'_>, line: &str, time: Duration) -> Result<Reply, Lost> {
        self.send(way, &[line], time)?;
        self.reply(way, way.patience(time))
    }

    /// The same with an end that no log may have.
    fn ask_secretly(&mut self, way: &Way<'_>, line: &str, secret: &str) -> Result<Reply, Lost> {
        self.expect_silence(way)?;
        self.secrets.extend(Some(secret.trim_start().to_owned()).filter(|secret| !secret.is_empty()));
        way.log(&Event::HopCommand { hop: way.hop.shown(), words: &format!("{line} (not shown)") });
        self.dialogue.write(format!("{line}{secret}\r\n").as_bytes(), way.patience(COMMAND))?;
        self.reply(way, way.patience(COMMAND))
    }

    fn send(&mut self, way: &Way<'_>, lines: &[&str], time: Duration) -> Result<(), Lost> {
        self.expect_silence(way)?;
        let mut wire = Vec::new();
        for line in lines {
            if line.contains(char::is_control) {
                return Err(Lost::Garbled("a command of ours has a control character".to_owned()));
            }
            way.log(&Event::HopCommand { hop: way.hop.shown(), words: line });
            wire.extend_from_slice(line.as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
        Ok(self.dialogue.write(&wire, way.patience(time))?)
    }

    /// Makes sure that the hop has said nothing that was not asked for. A farewell is one all the same.
    fn expect_silence(&mut self, way: &Way<'_>) -> Result<(), Lost> {
        let came = self.dialogue.read_what_came(&mut self.buffer);
        if self.buffer.is_empty() {
            return Ok(came?);
        }
        match self.parsed() {
            Ok(Some((reply, _))) if reply.code == 421 => {
                self.log_reply(way, &reply);
                Err(Lost::Closed(said(&reply)))
            }
            _ => Err(self.unasked()),
        }
    }

    /// Makes sure that what was taken for the answer to the final dot is the only one: of two, the first may have been to
    /// something else. Its farewell is none.
    fn expect_no_second_answer(&mut self) -> Result<(), Lost> {
        // That it ends the connection is no answer either.
        let _ = self.dialogue.read_what_came(&mut self.buffer);
        match b"421".starts_with(&self.buffer[..self.buffer.len().min(3)]) {
            true => Ok(()),
            false => Err(self.unasked()),
        }
    }

    fn unasked(&self) -> Lost {
        Lost::Garbled(format!("it says unasked '{}'", Untrusted::new(&self.veiled(&self.buffer))))
    }

    /// The next reply. 421 is the last one, whatever it is the reply to.
    fn reply(&mut self, way: &Way<'_>, patience: Patience<'_>) -> Result<Reply, Lost> {
        loop {
            match self.parsed() {
                Ok(Some((reply, used))) => {
                    self.buffer.drain(..used);
                    self.log_reply(way, &reply);
                    return if reply.code == 421 { Err(Lost::Closed(said(&reply))) } else { Ok(reply) };
                }
                Ok(None) => self.dialogue.read(&mut self.buffer, patience)?,
                Err(NotAReply) => {
                    return Err(Lost::Garbled(format!("it says '{}'", Untrusted::new(&self.veiled(&self.buffer)))));
                }
            }
        }
    }

    /// The reply that has come, if it is there as a whole, and how long it is.
    fn parsed(&self) -> Result<Option<(Reply, usize)>, NotAReply> {
        let parsed = Reply::parse(&self.buffer)?;
        Ok(parsed.map(|(reply, used)| {
            let text = String::from_utf8_lossy(&self.veiled(reply.text.as_bytes())).into_owned();
            (Reply { text: text.into(), ..reply }, used)
        }))
    }

    /// What it said, without what nobody else is to read.
    fn veiled(&self, said: &[u8]) -> Vec<u8> {
        self.secrets.iter().fold(said.to_vec(), |text, secret| {
            let mut shown = Vec::with_capacity(text.len());
            let mut rest = &text[..];
            while let Some(at) = memchr::memmem::find(rest, secret.as_bytes()) {
                shown.extend_from_slice(&rest[..at]);
                shown.extend_from_slice(b"(not shown)");
                rest = &rest[at + secret.len()..];
            }
            shown.extend_from_slice(rest);
            shown
        })
    }

    fn log_reply(&self, way: &Way<'_>, reply: &Reply) {
        way.log(&Event::HopReply { hop: way.hop.shown(), reply: &shown(reply) });
    }
}

fn rcpt(recipient: &Mailbox) -> String {
    format!("RCPT TO:<{recipient}>")
}

fn said(reply: &Reply) -> String {
    format!("it says '{}'", shown(reply))
}

/// How long a server may take, at least (RFC 5321, 4.5.3.2): for its greeting, for MAIL, RCPT and what is like them, for
/// DATA, for a piece of text to leave, and to say what became of it.
const GREETING: Duration = Duration::from_mins(5);
const COMMAND: Duration = Duration::from_mins(5);
const DATA: Duration = Duration::from_mins(2);
const BLOCK: Duration = Duration::from_mins(3);
const FINAL: Duration = Duration::from_mins(10);

/// More octets than are put in front of a text or into it.
const TRACE: u64 = 4096;

/// How long it may take for its last word, which nobody needs.
const LEAVE: Duration = Duration::from_secs(1);
