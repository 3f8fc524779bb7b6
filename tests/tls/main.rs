//! TLS with the built binary: handshakes, what a session under TLS forgets and what it says, peers that break off, who
//! logs in, and the programs that people send mail with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod breaking_off;
mod checks;
mod files;
mod handshakes;
mod logins;
mod once;
mod programs;
mod readme;
mod rules;
mod sessions;
#[path = "../support/mod.rs"]
mod support;

use std::sync::LazyLock;

use support::{PEER, Scratch};
use testkit::certificates::{Authority, Request};
use testkit::{Session, TlsClient};

/// One authority for all tests, which is made once.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// The name that our certificate is for.
const NAME: &str = "mx.example";

/// A folder with a certificate and its key, and a configuration that uses them: `directives` follow.
fn scratch(directives: &str) -> Scratch {
    let scratch = Scratch::with_config(&format!(
        "domain {NAME}\n\
         debug sw+F\n\
         deliver rcpt_to fred@{NAME} append inbox\n\
         tls_certificate own.pem\n\
         tls_key own.key\n\
         {directives}"
    ));
    AUTHORITY.issue(&scratch.path(""), "own", &Request::of(&[NAME]));
    scratch
}

fn client() -> TlsClient {
    TlsClient::new(&AUTHORITY.root(), NAME)
}

/// A session that is under TLS.
fn secured(scratch: &Scratch) -> Session {
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.start_tls(&client());
    session
}

/// A session that begins with the handshake, greeted.
fn implicit(scratch: &Scratch) -> Session {
    let mut session = scratch.session(&["--peer", PEER]);
    session.begin_tls(&client());
    session.expect("220 mx.example ESMTP");
    session
}

/// The log without what is usual.
fn warnings(scratch: &Scratch) -> Vec<String> {
    scratch.log().into_iter().filter(|line| line.contains("WARNING") || line.contains("ERROR")).collect()
}
