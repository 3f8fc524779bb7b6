//! Certificates as certbot keeps them, for root alone, and sessions that are never root: what the manual page says to do.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use testkit::certificates::{Authority, Request};
use testkit::{Client, LOOPBACK, TlsClient, repository};

use crate::support::{CONFIG, Installation, Pair};

const NAME: &str = "mail.example.com";

const LINEAGE: &str = "/etc/letsencrypt/live/mail.example.com";

/// Boots with certificate and key in this folder, as the configuration has it; the authority that issued them.
fn boot(pair: Pair, folder: &str, settings: &str) -> (Installation, Authority) {
    let tls = format!("tls_certificate {folder}/fullchain.pem\ntls_key {folder}/privkey.pem\n{CONFIG}");
    let installation = Installation::boot_with(pair, &tls, settings);
    let (authority, lineage) = (Authority::new(), installation.path(LINEAGE));
    fs::create_dir_all(&lineage).unwrap();
    fs::set_permissions(lineage.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    let (chain, key) = authority.issue(&lineage, "new", &Request::of(&[NAME]));
    fs::rename(chain, lineage.join("fullchain.pem")).unwrap();
    fs::rename(key, lineage.join("privkey.pem")).unwrap();
    fs::set_permissions(lineage.join("privkey.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    (installation, authority)
}

/// A session with mail under TLS.
#[track_caller]
fn deliver_under_tls(installation: &Installation, authority: &Authority) {
    let mut peer = installation.connect(LOOPBACK[0]);
    peer.expect("220 ");
    peer.exchange("EHLO client.example", "250-");
    peer.start_tls(&TlsClient::new(&authority.root(), NAME));
    peer.deliver_subject("append@mail.example.com", "under TLS");
    peer.exchange("QUIT", "221 ");
}

/// A literal part of the manual page, from the line that begins with this, as it is shown.
fn of_the_manual(beginning: &str) -> String {
    let manual = repository::text("etc/man/mailrecv.conf.5");
    let (_, rest) = manual.split_once(&format!(".Bd -literal -offset 2n\n{beginning}")).unwrap();
    format!("{beginning}{}", rest.split_once(".Ed\n").unwrap().0).replace("\\e", "\\")
}

#[test]
fn a_hook_of_certbot_copies_the_key_for_sessions() {
    for pair in Pair::ALL {
        let (installation, authority) = boot(pair, "/etc/mailrecv", "");
        let hook = installation.path("/etc/hook");
        fs::write(&hook, of_the_manual("#!/bin/sh\n")).unwrap();
        let run = |lineage: &str| {
            installation.machine.run("env", &[&format!("RENEWED_LINEAGE={lineage}"), "sh", "/etc/hook"]);
        };
        // One of another server on this machine.
        run("/etc/letsencrypt/live/www.example.com");
        assert!(!installation.path("/etc/mailrecv").exists());
        run(LINEAGE);
        deliver_under_tls(&installation, &authority);
    }
}

#[test]
fn systemd_hands_the_key_to_sessions() {
    for pair in Pair::ALL {
        let settings = of_the_manual("LoadCredential=");
        let folder = format!("${{CREDENTIALS_DIRECTORY:-{LINEAGE}}}");
        assert!(repository::text("etc/man/mailrecv.conf.5").contains(&format!("tls_key {folder}/privkey.pem\n")));
        let (installation, authority) = boot(pair, &folder, &settings);
        deliver_under_tls(&installation, &authority);
        // Who checks it by hand has no such folder, and sees the files themselves.
        installation.machine.run("mailrecv", &["check"]);
    }
}

#[test]
fn a_second_pair_of_units_has_implicit_tls() {
    let (installation, authority) = boot(Pair::OneService, "/etc/mailrecv", "");
    fs::rename(installation.path(LINEAGE), installation.path("/etc/mailrecv")).unwrap();
    installation.machine.run("chgrp", &["mail", "/etc/mailrecv/privkey.pem"]);
    installation.machine.run("chmod", &["640", "/etc/mailrecv/privkey.pem"]);
    // The package has its units there, and this machine where an administrator puts them.
    let commands = of_the_manual("printf 'include").replace("/lib/systemd/system", "/etc/systemd/system");
    installation.machine.run("sh", &["-e", "-c", &commands]);
    let mut peer = installation.machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[0], 465)));
    peer.begin_tls(&TlsClient::new(&authority.root(), NAME));
    peer.expect("220 ");
    peer.deliver_subject("append@mail.example.com", "under TLS");
    peer.exchange("QUIT", "221 ");
    deliver_under_tls(&installation, &authority);
}

/// Why any of this is needed.
#[test]
fn sessions_cannot_read_the_key_of_certbot() {
    let (installation, _) = boot(Pair::OneService, LINEAGE, "");
    let mut peer = installation.connect(LOOPBACK[0]);
    peer.expect("220 ");
    peer.exchange("EHLO client.example", "250-");
    peer.exchange("STARTTLS", "454 4.7.0 ");
    // As the user of sessions sees it, and as root does.
    let (said, is_sound) = installation.machine.try_run("runuser", &["-u", "mail", "--", "mailrecv", "check"]);
    assert!(!is_sound && said.contains("privkey.pem cannot be opened: Permission denied"), "{said}");
    installation.machine.run("mailrecv", &["check"]);
}
