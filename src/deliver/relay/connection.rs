//! One connection to a hop: greeting, EHLO, TLS, login, transactions.
//!
//! A hop that says something unasked is out of step with us: whatever it says next could be taken for the answer to
//! something else. So before anything is sent, nothing may wait to be read.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};

use super::Way;
use crate::address::Mailbox;
use crate::config::{HopPlace, HopTls, Protocol};
use crate::log::Event;
use crate::message::{Spool, for_each_piece};
use crate::net::client::Endpoint;
use crate::net::dialogue::{Believed, CONNECTING, Dialogue};
use crate::net::patience::Patience;
use crate::smtp::reply::{self, NotAReply, Reply};
use crate::smtp::upstream::{Asked, Login, Offered, Sender, Stuffing, accepted, passed_on, shown};
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

impl Lost {
    /// The same with the address in its text, behind the failures of the addresses before, if another address of the
    /// host may do better.
    fn of(self, address: SocketAddr, failures: &mut String) -> Self {
        let mut told = |why: String| {
            let separator = if failures.is_empty() { "" } else { "; " };
            _ = write!(failures, "{separator}{address}: {why}");
            failures.clone()
        };
        match self {
            Lost::Unreachable(why) => Lost::Unreachable(told(why)),
            Lost::Closed(why) => Lost::Closed(told(why)),
            Lost::Garbled(why) => Lost::Garbled(told(why)),
            Lost::TooSlow(why) => Lost::TooSlow(told(why)),
            Lost::Insecure(why) => Lost::Insecure(told(why)),
            Lost::Misconfigured(why) => Lost::Misconfigured(told(why)),
            lost @ (Lost::Circle(_) | Lost::Refused(_) | Lost::Unread(_) | Lost::Stopped) => lost,
        }
    }

    /// Whether no other address of the host would do better.
    fn is_final(&self) -> bool {
        match self {
            Lost::Unreachable(_)
            | Lost::Closed(_)
            | Lost::Garbled(_)
            | Lost::TooSlow(_)
            | Lost::Insecure(_)
            | Lost::Misconfigured(_) => false,
            Lost::Circle(_) | Lost::Refused(_) | Lost::Unread(_) | Lost::Stopped => true,
        }
    }
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
    /// Connects and does all that comes before a transaction, with the first of the host's addresses where that works: one
    /// that turns us away is as good as one where nobody is.
    pub(super) fn open(way: &Way<'_>) -> Result<Self, Lost> {
        let mut connection = match &way.hop.place {
            HopPlace::Unix(path) => {
                if way.own_address.is_some_and(|own| own.is_socket(path)) {
                    return Err(in_circle(&path.display()));
                }
                let dialogue = Dialogue::connect_unix(path).map_err(unreachable)?;
                Self::over(dialogue).introduced(way).map_err(NotReady::into_lost)?
            }
            HopPlace::Tcp(server) => Self::at_some_address(way, server)?,
        };
        // A password that is wrong is so everywhere, and to try it again and again may lock an account.
        if let Some(user) = way.config.user_at(way.hop) {
            connection.log_in(way, user)?;
        }
        Ok(connection)
    }

    fn at_some_address(way: &Way<'_>, server: &Endpoint) -> Result<Self, Lost> {
        let files = way.files.of(way.hop).map_err(unreachable)?;
        let addresses = server.addresses(files, way.patience(CONNECTING)).map_err(unreachable)?;
        let (count, until) = (u32::try_from(addresses.len()).unwrap_or(u32::MAX), Instant::now() + OPENING);
        let (mut failures, mut last) = (String::new(), Lost::Unreachable("it has no address".to_owned()));
        for (address, left) in addresses.into_iter().zip((1..=count).rev()) {
            // One that nobody answers from must leave time for the next.
            let share = way.until.min(until).saturating_duration_since(Instant::now()) / left;
            let way = Way { until: Instant::now() + share, ..*way };
            last = match Self::at(&way, address, CONNECTING / count) {
                Ok(connection) => return Ok(connection),
                Err(lost) if lost.is_final() => return Err(lost),
                Err(lost) => lost.of(address, &mut failures),
            };
        }
        Err(last)
    }

    /// The same at one address. Where TLS is a matter of opportunity, a handshake that fails leads to another connection
    /// without it.
    fn at(way: &Way<'_>, address: SocketAddr, connecting: Duration) -> Result<Self, Lost> {
        match Self::connect(way, address, connecting)?.introduced(way) {
            Err(NotReady::NoHandshake(why)) if way.tls == HopTls::Opportunistic => {
                way.log(&Event::HopNotSecured { hop: way.hop.shown(), why: &why });
                let way = &Way { tls: HopTls::Off, ..*way };
                Self::connect(way, address, connecting)?.introduced(way).map_err(NotReady::into_lost)
            }
            opened => opened.map_err(NotReady::into_lost),
        }
    }

    fn connect(way: &Way<'_>, address: SocketAddr, connecting: Duration) -> Result<Self, Lost> {
        // Each session would ask the next at MAIL, long before there is a header in which hops could be counted.
        let is_own = |address: SocketAddr| way.own_address.is_some_and(|own| own.is_at(address));
        if is_own(address) {
            return Err(in_circle(&address));
        }
        let dialogue = Dialogue::connect_to(&address, way.patience(connecting));
        let dialogue = dialogue.map_err(|error| unreachable(error.into()))?;
        way.log(&Event::HopConnected { hop: way.hop.shown(), address });
        // There are addresses that lead to others, as 0.0.0.0.
        match dialogue.peer_address().filter(|there| is_own(*there)) {
            Some(there) => Err(in_circle(&there)),
            None => Ok(Self::over(dialogue)),
        }
    }

    fn over(dialogue: Dialogue) -> Self {
        let (offered, transaction) = (Offered::default(), Transaction::Nothing);
        Self { dialogue, buffer: Vec::new(), offered, transaction, secrets: Vec::new() }
    }

    /// Greeting, EHLO, TLS.
    fn introduced(mut self, way: &Way<'_>) -> Result<Self, NotReady> {
        if way.tls == HopTls::Implicit {
            self.handshake(way).map_err(NotReady::into_lost)?;
        }
        let greeting = self.reply(way, way.patience(GREETING)).map_err(|lost| match lost {
            Lost::Closed(why) => Lost::Unreachable(why),
            lost => lost,
        })?;
        if greeting.code != 220 {
            return Err(Lost::Unreachable(said(&greeting)).into());
        }
        self.hello(way)?;
        match way.tls {
            HopTls::Off | HopTls::Implicit => {}
            HopTls::Opportunistic | HopTls::Require => self.begin_tls(way)?,
        }
        Ok(self)
    }

    fn hello(&mut self, way: &Way<'_>) -> Result<(), Lost> {
        let (verb, domain) = (if way.hop.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" }, &way.config.domain);
        let reply = self.ask(way, &format!("{verb} {domain}"), COMMAND)?;
        if reply.code == 250 {
            self.offered = Offered::parse(&reply);
            return Ok(());
        }
        // The server may be older than EHLO (RFC 5321, 3.2). Then it has neither TLS nor a login.
        if reply.is_permanent() && way.hop.protocol == Protocol::Smtp {
            self.offered = Offered::default();
            if self.ask(way, &format!("HELO {domain}"), COMMAND)?.code == 250 {
                return Ok(());
            }
        }
        Err(unwelcome(&reply))
    }

    fn begin_tls(&mut self, way: &Way<'_>) -> Result<(), NotReady> {
        let is_required = way.tls == HopTls::Require;
        if !self.offered.tls {
            return if is_required { Err(Lost::Insecure("it has no TLS".to_owned()).into()) } else { Ok(()) };
        }
        let reply = self.ask(way, "STARTTLS", COMMAND)?;
        if reply.code != 220 {
            return if is_required { Err(Lost::Insecure(said(&reply)).into()) } else { Ok(()) };
        }
        // Somebody on the way may have added text in the clear, so that we would take it for text under TLS (RFC 3207,
        // section 5).
        self.expect_silence(way).map_err(|lost| match lost {
            Lost::Closed(why) if self.buffer.is_empty() => NotReady::NoHandshake(why),
            lost => lost.into(),
        })?;
        self.handshake(way)?;
        // What was said in the clear counts for nothing.
        self.offered = Offered::default();
        Ok(self.hello(way)?)
    }

    fn handshake(&mut self, way: &Way<'_>) -> Result<(), NotReady> {
        let HopPlace::Tcp(server) = &way.hop.place else { return Ok(()) };
        let believed = match way.tls {
            HopTls::Off | HopTls::Opportunistic => Believed::Anybody,
            HopTls::Require | HopTls::Implicit => {
                let authorities = way.files.of(way.hop).and_then(|files| files.authorities());
                Believed::From(authorities.map_err(|error| Lost::Insecure(format!("{error:#}")))?)
            }
        };
        self.dialogue.start_tls(&server.host, believed, way.patience(COMMAND)).map_err(|error| {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(ErrorKind::Interrupted) => Lost::Stopped.into(),
                Some(ErrorKind::TimedOut) => Lost::TooSlow(format!("TLS: {error:#}")).into(),
                _ => NotReady::NoHandshake(format!("{error:#}")),
            }
        })?;
        way.log(&Event::HopSecured { hop: way.hop.shown() });
        Ok(())
    }

    fn log_in(&mut self, way: &Way<'_>, user: &str) -> Result<(), Lost> {
        let password = match &way.hop.password {
            Some(password) => password.reveal().to_owned(),
            None => way.files.password(way.config).map_err(|error| Lost::Misconfigured(format!("{error:#}")))?,
        };
        // TLS has begun by now if the URL wants it; this guards against later changes of that.
        if way.tls != HopTls::Off && !self.dialogue.is_under_tls() {
            return Err(Lost::Insecure("no password is sent in the clear".to_owned()));
        }
        let encoded = |text: &str| Base64::encode_string(text.as_bytes());
        let reply = if self.offered.auth.contains(&Login::Plain) {
            self.ask_secretly(way, "AUTH PLAIN", &format!(" {}", encoded(&format!("\0{user}\0{password}"))))?
        } else if self.offered.auth.contains(&Login::Login) {
            let mut reply = self.ask(way, "AUTH LOGIN", COMMAND)?;
            for answer in [user, &password] {
                if reply.code == 334 {
                    reply = self.ask_secretly(way, "", &encoded(answer))?;
                }
            }
            reply
        } else {
            return Err(Lost::Misconfigured("it offers neither AUTH PLAIN nor AUTH LOGIN".to_owned()));
        };
        if reply.code == 235 { Ok(()) } else { Err(unwelcome(&reply)) }
    }

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
                        // Later refusals may only follow from this one.
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
            // An answer now would be about a message that has not been sent.
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
        // LMTP has one answer for each recipient, and we need all of them to be positive.
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
        Ok((!is_ascii && !self.offered.eight_bit).then(reply::no_eight_bit_at_hop))
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

    /// Makes sure that the hop has sent nothing unasked. If it has sent 421, it has closed the connection.
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

    /// Makes sure that there is only one answer to the final dot: of two, the first may have been to something else. A
    /// 421 does not count as an answer.
    fn expect_no_second_answer(&mut self) -> Result<(), Lost> {
        // The end of the connection does not count either.
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

/// Why a connection cannot be used for transactions.
enum NotReady {
    /// The handshake has failed, for this reason.
    NoHandshake(String),
    Lost(Lost),
}

impl NotReady {
    fn into_lost(self) -> Lost {
        match self {
            NotReady::NoHandshake(why) => Lost::Insecure(why),
            NotReady::Lost(lost) => lost,
        }
    }
}

impl From<Lost> for NotReady {
    fn from(lost: Lost) -> Self {
        NotReady::Lost(lost)
    }
}

fn rcpt(recipient: &Mailbox) -> String {
    format!("RCPT TO:<{recipient}>")
}

/// It refuses us, and not a sender: for good, or now.
fn unwelcome(reply: &Reply) -> Lost {
    if reply.is_permanent() { Lost::Misconfigured(said(reply)) } else { Lost::Unreachable(said(reply)) }
}

/// There is no connection, for this reason.
fn unreachable(error: anyhow::Error) -> Lost {
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(ErrorKind::Interrupted) => Lost::Stopped,
        _ => Lost::Unreachable(format!("{error:#}")),
    }
}

/// The hop is at this place, and so are we.
fn in_circle(place: &dyn fmt::Display) -> Lost {
    Lost::Circle(format!("{place} is where this connection came in"))
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

/// How long it may take until one of a host's addresses has let us in: who waits for our reply to MAIL or RCPT does not wait
/// longer either (RFC 5321, 4.5.3.2).
const OPENING: Duration = Duration::from_mins(6);

/// More octets than are put in front of a text or into it.
const TRACE: u64 = 4096;

/// How long it may take for its last word, which nobody needs.
const LEAVE: Duration = Duration::from_secs(1);
