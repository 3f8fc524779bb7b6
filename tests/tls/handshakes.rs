//! Which handshakes there are: versions, ciphers, kinds of keys, names, tickets; openssl(1) is the peer.

use std::net::SocketAddr;
use std::process::Command;

use testkit::certificates::{Key, Request};
use testkit::tls::Agreed;
use testkit::{Daemon, TlsClient, debian, output, wait_until};

use crate::support::{CONFIG, LOG, MAILRECV, Scratch};
use crate::{AUTHORITY, NAME, client, scratch, warnings};

/// A handshake on a session of its own.
fn agreed(scratch: &Scratch, client: &TlsClient) -> Agreed {
    let mut session = scratch.greeted();
    let agreed = session.start_tls(client);
    session.exchange("NOOP", "250 OK");
    session.quit();
    agreed
}

#[test]
fn both_kinds_of_keys_serve_with_both_versions() {
    for key in [Key::P256, Key::Rsa] {
        let scratch = scratch("");
        AUTHORITY.issue(&scratch.path(""), "own", &Request { key, ..Request::of(&[NAME]) });
        for (version, name) in [(&rustls::version::TLS12, "TLSv1_2"), (&rustls::version::TLS13, "TLSv1_3")] {
            let client = TlsClient::with_versions(&AUTHORITY.root(), NAME, &[version]);
            assert_eq!(agreed(&scratch, &client).version, name, "{key:?}");
        }
        let log = scratch.log();
        let shown = |text: &str| log.iter().filter(|line| line.contains(text)).count();
        assert_eq!(
            (shown("DEBUG: TLSv1.2 with cipher TLS_ECDHE_"), shown("DEBUG: TLSv1.3 with cipher TLS_AES_256")),
            (1, 1)
        );
    }
}

/// Of several certificates a peer gets the one for the name that it asks for, and else the first.
#[test]
fn a_name_chooses_the_certificate() {
    let scratch = scratch("tls_certificate other.pem\ntls_key other.key\ntls_certificate rsa.pem\ntls_key rsa.key\n");
    let folder = scratch.path("");
    AUTHORITY.issue(&folder, "other", &Request::of(&["*.other.example", "other.example"]));
    AUTHORITY.issue(&folder, "rsa", &Request { key: Key::Rsa, ..Request::of(&[NAME]) });
    let first_of = |stem: &str| {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_file(scratch.path(stem)).unwrap().to_vec()
    };
    for (name, stem) in [(NAME, "own.pem"), ("a.other.example", "other.pem"), ("other.example", "other.pem")] {
        let agreed = agreed(&scratch, &TlsClient::new(&AUTHORITY.root(), name));
        assert_eq!(agreed.certificate, first_of(stem), "{name}");
    }
    // No name, an unknown one, and a client that does not know ECDSA.
    let server = Server::start(&scratch);
    for (arguments, subject) in [
        (&["-noservername"][..], "subject=CN = own"),
        (&["-servername", "unknown.example"], "subject=CN = own"),
        (&["-servername", "b.other.example"], "subject=CN = other"),
        (&["-tls1_2", "-sigalgs", "RSA+SHA256:RSA-PSS+SHA256", "-servername", NAME], "subject=CN = rsa"),
    ] {
        let said = server.handshake(arguments);
        assert!(said.contains(subject), "{arguments:?}: {said}");
    }
}

#[test]
fn a_name_is_shown_as_what_a_stranger_chose() {
    let scratch = scratch("");
    let server = Server::start(&scratch);
    // Whatever is no name of a host is refused by the handshake or escaped by the log.
    for name in ["[8.8.8.8]", "x' ERROR: 550 y", "\u{fc}.example", "a..b"] {
        server.handshake(&["-servername", name]);
    }
    let log = scratch.read(LOG);
    assert!(!log.contains("[8.8.8.8]") && !log.contains("ERROR") && log.is_ascii(), "{log}");
}

/// With a ticket of one process the next does not need the whole handshake.
#[test]
fn tickets_are_taken_by_other_processes() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let scratch = scratch("tls_ticket_key tickets\n");
        scratch.write("tickets", [7; 32]);
        let client = TlsClient::with_versions(&AUTHORITY.root(), NAME, &[version]);
        assert!(!agreed(&scratch, &client).is_resumed);
        assert!(agreed(&scratch, &client).is_resumed, "{version:?}");
        assert!(agreed(&scratch, &client).is_resumed, "{version:?}");
        assert_eq!(scratch.log().iter().filter(|line| line.ends_with(", resumed")).count(), 2);
        // With another key there is nothing to take up.
        scratch.write("tickets", [8; 32]);
        assert!(!agreed(&scratch, &client).is_resumed, "{version:?}");
    }
}

#[test]
fn without_a_key_there_are_no_tickets() {
    let scratch = scratch("");
    let client = client();
    assert!(!agreed(&scratch, &client).is_resumed);
    assert!(!agreed(&scratch, &client).is_resumed);
    let said = Server::start(&scratch).s_client(&["-tls1_2"]);
    assert!(!said.contains("TLS session ticket:"), "{said}");
}

#[test]
fn openssl_resumes_a_session_and_verifies_the_chain() {
    let scratch = scratch("tls_ticket_key tickets\n");
    scratch.write("tickets", [7; 32]);
    let server = Server::start(&scratch);
    let root = AUTHORITY.root();
    for version in ["-tls1_2", "-tls1_3"] {
        let verified = [version, "-CAfile", root.to_str().unwrap(), "-verify_return_error", "-verify_hostname", NAME];
        let first = server.s_client(&[&verified[..], &["-sess_out", "session"]].concat());
        assert!(first.contains("Verify return code: 0 (ok)") && first.contains("New, TLS"), "{version}: {first}");
        let second = server.s_client(&[&verified[..], &["-sess_in", "session"]].concat());
        assert!(second.contains("Reused, TLS"), "{version}: {second}");
    }
}

/// Old versions and weak ciphers are for nobody.
#[test]
fn nothing_old_or_weak_is_agreed_on() {
    let scratch = scratch("");
    AUTHORITY.issue(&scratch.path(""), "own", &Request { key: Key::Rsa, ..Request::of(&[NAME]) });
    let server = Server::start(&scratch);
    for version in ["-tls1", "-tls1_1"] {
        let said = server.handshake(&[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(said.contains("(NONE)"), "{version}: {said}");
    }
    let list = Command::new(debian::program("openssl", "openssl"))
        .args(["ciphers", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"])
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let ciphers: Vec<&str> = list.trim().split(':').filter(|cipher| !cipher.starts_with("TLS_")).collect();
    assert!(ciphers.len() > 40, "{list}");
    let agreed = |cipher: &&str| {
        let said = server.handshake(&["-tls1_2", "-cipher", &format!("{cipher}:@SECLEVEL=0")]);
        let is_agreed = said.contains(&format!("Cipher is {cipher}\n"));
        assert!(is_agreed || said.contains("Cipher is (NONE)"), "{cipher}: {said}");
        is_agreed
    };
    let mut expected =
        vec!["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"];
    let mut found: Vec<&str> = ciphers.into_iter().filter(agreed).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(!warnings(&scratch).iter().any(|line| line.contains("ERROR")), "{:#?}", warnings(&scratch));
}

/// Why there is no TLS stands in the log in words, and the peer hears which side has to do something.
#[test]
fn both_sides_hear_why_a_handshake_fails() {
    let scratch = scratch("");
    let server = Server::start(&scratch);
    for (arguments, alert, why) in [
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..],
            "alert handshake failure",
            "we have no cipher, curve or signature in common (peer is incompatible: NoCipherSuitesInCommon)",
        ),
        (
            &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"],
            "alert handshake failure",
            "we have no cipher, curve or signature in common (peer is incompatible: NoSignatureSchemesInCommon)",
        ),
        (
            &["-groups", "P-521"],
            "alert handshake failure",
            "we have no cipher, curve or signature in common (peer is incompatible: NoKxGroupsInCommon)",
        ),
        (
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            "alert handshake failure",
            "the peer's TLS is too old (peer is incompatible: SignatureAlgorithmsExtensionRequired)",
        ),
        (
            &["-tls1_2", "-verify_return_error"],
            "certificate verify failed",
            "the peer does not trust our certificate (received fatal alert: UnknownCA)",
        ),
    ] {
        let said = server.handshake(arguments);
        assert!(said.contains(alert), "{arguments:?}: {said}");
        let line = format!("[127.0.0.1] WARNING: no TLS with this peer: {why}");
        wait_until(&line, || scratch.log().contains(&line).then_some(()));
    }
}

/// A peer that asks for new keys again and again, or once for another handshake, gets no further.
#[test]
fn a_peer_that_asks_for_new_keys_all_the_time_is_stopped() {
    // `K` asks us for new keys, too; `R` asks for a new handshake.
    for (version, commands, stopped) in [
        ("-tls1_3", "K\n".repeat(100), "peer misbehaved: TooManyKeyUpdateRequests"),
        ("-tls1_2", "R\n".to_owned(), "HandshakeFailure"),
    ] {
        let scratch = scratch("");
        let said = Server::start(&scratch).s_client_with(&[version], &commands);
        let log = scratch.log();
        assert!(
            log.iter().any(|line| line.contains("WARNING: the connection broke") && line.contains(stopped)),
            "{log:#?} {said}"
        );
    }
}

/// mailrecv behind a port, for programs that connect by themselves.
pub(crate) struct Server<'s> {
    scratch: &'s Scratch,
    pub(crate) port: String,
    _daemon: Daemon,
}

impl<'s> Server<'s> {
    /// Starts it, to wait for connections of this machine.
    pub(crate) fn start(scratch: &'s Scratch) -> Self {
        let address = testkit::daemon::free_port(testkit::LOOPBACK[0]);
        let command = scratch
            .command(MAILRECV, &["-c", CONFIG, "-l", LOG, "listen", "--max-per-address", "100", &address.to_string()]);
        let mut daemon = Daemon::start(command, scratch.path("listen.out"));
        daemon.until("listening", |_| testkit::tcp::is_listening(address).then_some(()));
        Self { scratch, port: address.port().to_string(), _daemon: daemon }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(testkit::LOOPBACK[0], self.port.parse().unwrap())
    }

    /// What openssl says of a handshake, behind which it has nothing to say.
    fn handshake(&self, arguments: &[&str]) -> String {
        self.run("exec \"$@\" 2>&1", arguments)
    }

    /// The same, and QUIT.
    fn s_client(&self, arguments: &[&str]) -> String {
        self.s_client_with(arguments, "QUIT\n")
    }

    /// The same with these lines, one after the other: openssl takes one for a command only if it comes alone.
    fn s_client_with(&self, arguments: &[&str], input: &str) -> String {
        self.scratch.write("input", input);
        let typing = "sleep 0.3; while read -r line; do echo \"$line\"; sleep 0.01; done < input; sleep 0.3";
        self.run(&format!("({typing}) | \"$@\" 2>&1"), arguments)
    }

    fn run(&self, script: &str, arguments: &[&str]) -> String {
        let connect = format!("127.0.0.1:{}", self.port);
        let mut command = self.scratch.command("sh", &["-c", script, "sh"]);
        command.arg(debian::program("openssl", "openssl"));
        command.args(["s_client", "-connect", &connect, "-starttls", "smtp", "-crlf"]).args(arguments);
        String::from_utf8_lossy(&output(command).stdout).into_owned()
    }
}
