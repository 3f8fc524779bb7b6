//! What comes before the transactions of a connection: one of the host's addresses, the greeting, EHLO, TLS, the login.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};

use super::{COMMAND, Connection, GREETING, Lost, Transaction, said};
use crate::config::{HopAddress, HopTls, Protocol};
use crate::deliver::relay::Way;
use crate::log::Event;
use crate::net::client::Endpoint;
use crate::net::dialogue::{Believed, CONNECTING, Dialogue};
use crate::smtp::reply::Reply;
use crate::smtp::upstream::{Login, Offered};

impl Connection {
    /// Connects and does all that comes before a transaction, with the first of the host's addresses where that works: one
    /// that turns us away is as good as one where nobody is.
    pub(in crate::deliver::relay) fn open(way: &Way<'_>) -> Result<Self, Lost> {
        let mut connection = match &way.hop.address {
            HopAddress::Unix(path) => {
                if way.own_address.is_some_and(|own| own.is_socket(path)) {
                    return Err(in_circle(&path.display()));
                }
                let dialogue = Dialogue::connect_unix(path).map_err(unreachable)?;
                Self::over(dialogue).introduced(way).map_err(NotReady::into_lost)?
            }
            HopAddress::Tcp(server) => Self::at_some_address(way, server)?,
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
        // It may be older than extensions (RFC 5321, 3.2). Then there is neither TLS nor a login.
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
        // Somebody in between may have put it there, to be taken for said under TLS (RFC 3207, section 5).
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
        let HopAddress::Tcp(server) = &way.hop.address else { return Ok(()) };
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
        // What the URL says of TLS has been seen to by now; this is in case that changes.
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

impl Lost {
    /// The same as said of one address, if another address of the host may do better: behind what was wrong with those before.
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

/// How long it may take until one of a host's addresses has let us in: who waits for our reply to MAIL or RCPT does not wait
/// longer either (RFC 5321, 4.5.3.2).
const OPENING: Duration = Duration::from_mins(6);
