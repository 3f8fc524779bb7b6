//! What TLS costs: the handshake, by the kind of key and whether the peer has a ticket from before, and mail under it.
//!
//! The peer's half of a handshake is in these times too; `--only counts` has what mailrecv's takes.

use std::fs;
use std::time::Instant;

use rustls::HandshakeKind;
use testkit::TlsClient;
use testkit::certificates::{Authority, Key, Request};

use crate::Result;
use crate::bench::Bench;
use crate::contest::{Contestant, Session};
use crate::peer::{Handshake, Opening, Tls};
use crate::sessions::{self, ONE_RULE, RECIPIENT, message, milliseconds};
use crate::table::{Figure, Unit};

pub(crate) fn tls(bench: &mut Bench) -> Result<()> {
    let authority = Authority::new();
    for key in [Key::P256, Key::Rsa] {
        let secured = Secured::new(bench, &authority, key)?;
        let what = format!("STARTTLS to the next EHLO's reply, {}", name(key));
        let figures = [Figure::new(&what, Unit::Milliseconds, None)];
        bench.measure(figures, bench.runs(), &[secured.anew, secured.resumed], |contestant, listener| {
            let mut session = Session::open(contestant, listener)?;
            session.say_hello()?;
            let began = Instant::now();
            session.start_tls()?;
            let handshake = began.elapsed();
            session.quit()?;
            Ok([milliseconds(handshake)])
        });
    }

    let secured = Secured::new(bench, &authority, Key::P256)?;
    let figures = [Figure::new("TLS before the greeting, exec to greeting", Unit::AddedMilliseconds, None)];
    let contestants = [secured.implicit, secured.in_the_clear.clone()];
    bench.measure(figures, bench.runs(), &contestants, sessions::time_to_greeting);

    let mail = message(1_000);
    for (what, contestant) in [("TLS", secured.anew.clone()), ("TLS with a ticket", secured.resumed)] {
        let what = format!("one small mail under {what}, connect to exit");
        let figures = [Figure::new(&what, Unit::AddedMilliseconds, None)];
        let contestants = [contestant, secured.in_the_clear.clone()];
        bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
            sessions::time_of_mail(contestant, listener, &[RECIPIENT], &mail)
        });
    }

    let mail = message(50_000_000);
    let figures = [
        Figure::new("50 MB to a file under TLS, rate", Unit::MegabytesPerSecond, None),
        Figure::new("50 MB to a file under TLS, peak memory", Unit::Kibibytes, None),
    ];
    let contestants = [secured.anew, secured.in_the_clear];
    bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
        sessions::rate_and_memory(contestant, listener, &mail)
    });
    Ok(())
}

/// As it stands in the table.
pub(crate) fn name(key: Key) -> &'static str {
    match key {
        Key::P256 => "ECDSA P-256",
        Key::Rsa => "RSA-2048",
    }
}

/// Mailrecv with a certificate, by how the peer begins.
pub(crate) struct Secured {
    /// By STARTTLS, with a whole handshake.
    pub(crate) anew: Contestant,
    /// The same with a ticket from the session before.
    pub(crate) resumed: Contestant,
    /// With a whole handshake in front of the greeting.
    implicit: Contestant,
    pub(crate) in_the_clear: Contestant,
}

impl Secured {
    pub(crate) fn new(bench: &Bench, authority: &Authority, key: Key) -> Result<Self> {
        authority.issue(&bench.scratch, "own", &Request { key, ..Request::of(&[NAME]) });
        fs::write(bench.scratch.join("tickets"), [7; 32])?;
        let rules = format!("tls_certificate \"{{dir}}/own.pem\"\ntls_key \"{{dir}}/own.key\"\n{ONE_RULE}");
        let mailrecv = bench.mailrecv(&rules)?;
        let with_tickets = bench.mailrecv(&format!("{rules}tls_ticket_key \"{{dir}}/tickets\"\n"))?;
        let before_greeting = bench.mailrecv(&format!("{rules}tls implicit\n"))?;
        // One client each: it offers every ticket once.
        let client = || TlsClient::new(&authority.root(), NAME);
        let opening = |tls| Opening { tls: Some(tls), ..Opening::default() };
        let whole = || Handshake { client: client(), kind: HandshakeKind::Full };
        let first = whole();
        let next = Handshake { kind: HandshakeKind::Resumed, ..first.clone() };
        bench.try_out(&with_tickets.clone().opened_by(opening(Tls::StartTls(first))))?;
        Ok(Self {
            anew: mailrecv.clone().opened_by(opening(Tls::StartTls(whole()))),
            resumed: with_tickets.opened_by(opening(Tls::StartTls(next))).named("mailrecv, with a ticket"),
            implicit: before_greeting.opened_by(opening(Tls::Implicit(whole()))),
            in_the_clear: mailrecv.named("mailrecv, in the clear"),
        })
    }
}

/// The host that the certificate is for.
const NAME: &str = "localhost";
