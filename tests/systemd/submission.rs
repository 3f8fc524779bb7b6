//! Ports 587 and 465, for those who log in: each is what its unit says, whatever the environment says; who may connect how
//! often the environment does say; and what only root can read is handed over.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use testkit::certificates::{Authority, Request};
use testkit::{Client, LOOPBACK, Machine, TlsClient, repository, wait_until};

use crate::support::{UNITS, install};

#[test]
fn each_port_begins_tls_in_its_way() {
    let (machine, authority) = boot("RELAY_HOST=next.example\nUSE_TLS=True\nSTARTTLS=off\n", "etc/mailrecv");
    let mut peer = connect(&machine, 587);
    peer.expect("220 False.vm.next.example ");
    peer.exchange("EHLO client.example", "250-");
    peer.exchange("MAIL FROM:<a@b.example>", "530 5.7.0 ");
    peer.start_tls(&TlsClient::new(&authority.root(), NAME));
    peer.deliver(&["anybody@example.com"]);
    let mut peer = connect(&machine, 465);
    peer.begin_tls(&TlsClient::new(&authority.root(), NAME));
    peer.expect("220 True.vm.next.example ");
    peer.deliver(&["anybody@example.com"]);
    peer.exchange("MAIL FROM:<a@b.example>", "250 ");
    peer.exchange("RCPT TO:<nobody@example.net>", "550 ");
    // As the fail2ban filter finds it in the journal.
    let refusals = machine.journal(&["--output=cat", "SYSLOG_IDENTIFIER=MAILRECV", "_UID=8", "--priority=err"]);
    assert!(
        refusals.ends_with("\n[127.0.0.1] ERROR: 550 No one here by that name 'nobody@example.net'\n"),
        "{refusals}"
    );
    for service in SERVICES {
        machine.run("systemd-analyze", &["security", "--no-pager", "--threshold=15", service]);
    }
}

/// Also where the environment says the opposite.
#[test]
fn port_465_is_never_in_the_clear() {
    let (machine, authority) = boot("USE_TLS=False\nSTARTTLS=off\n", "etc/mailrecv");
    let mut peer = connect(&machine, 465);
    peer.begin_tls(&TlsClient::new(&authority.root(), NAME));
    peer.expect("220 True.vm.example ");
}

#[test]
fn the_environment_says_how_many_may_connect() {
    let (machine, _) = boot("MAX_CONNECTIONS=3\nMAX_CONNECTIONS_PER_ADDRESS=2\n", "etc/mailrecv");
    let mut inside: Vec<Client> = (0..2).map(|_| connect(&machine, 587)).collect();
    inside.iter_mut().for_each(|peer| _ = peer.expect("220 "));
    connect(&machine, 587).expect("421 4.7.0 ");
    let mut other = machine
        .in_its_network(|| Client::connect_from("127.0.0.2".parse().unwrap(), SocketAddr::new(LOOPBACK[0], 587)));
    other.expect("220 ");
    let mut third = machine
        .in_its_network(|| Client::connect_from("127.0.0.3".parse().unwrap(), SocketAddr::new(LOOPBACK[0], 587)));
    third.expect("421 4.7.0 ");
}

/// With the lines of the unit's comment; there is nothing at the path of the unit itself.
#[test]
fn the_certificate_of_certbot() {
    let folder = "etc/letsencrypt/live/mail.example.com";
    let (machine, authority) = boot("", folder);
    let unit = repository::text("systemd-socket/mailrecv-submission.service");
    let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("#   LoadCredential=")).collect();
    assert_eq!(lines.len(), 3);
    let lines: String = lines.iter().map(|line| format!("LoadCredential={line}\n")).collect();
    let edit = machine.root().join(UNITS).join("mailrecv-submission.service.d");
    fs::create_dir(&edit).unwrap();
    fs::write(edit.join("override.conf"), format!("[Service]\n{lines}")).unwrap();
    machine.systemctl(&["daemon-reload"]);
    let mut peer = connect(&machine, 587);
    peer.expect("220 ");
    peer.exchange("EHLO client.example", "250-");
    peer.start_tls(&TlsClient::new(&authority.root(), NAME));
}

/// A service without a certificate is not there, and says why, until there is one; then who waits is served.
#[test]
fn without_a_certificate_nobody_is_served() {
    let (machine, authority) = boot("", "etc/elsewhere");
    let mut peer = connect(&machine, 587);
    wait_until("a word", || machine.journal(&[]).contains("Failed to set up credentials: ").then_some(()));
    let root = machine.root();
    fs::rename(root.join("etc/elsewhere"), root.join("etc/mailrecv")).unwrap();
    peer.expect("220 ");
    peer.exchange("EHLO client.example", "250-");
    peer.start_tls(&TlsClient::new(&authority.root(), NAME));
}

/// A machine with both, with this environment, and a certificate in this folder whose key only root can read.
fn boot(environment: &str, folder: &str) -> (Machine, Authority) {
    let authority = Authority::new();
    let machine = Machine::boot(|root| {
        install(root, "");
        fs::write(root.join("etc/mailrecv-relay.conf"), CONFIG).unwrap();
        for_root(&root.join("etc/mailrecv-relay.env"), environment.as_bytes());
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        let (chain, key) = authority.issue(&folder, "new", &Request::of(&[NAME]));
        fs::rename(chain, folder.join("fullchain.pem")).unwrap();
        let text = fs::read(&key).unwrap();
        fs::remove_file(key).unwrap();
        for_root(&folder.join("privkey.pem"), &text);
    });
    machine.systemctl(&["start", "mailrecv-submission.socket", "mailrecv-submissions.socket"]);
    (machine, authority)
}

fn for_root(file: &Path, text: &[u8]) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn connect(machine: &Machine, port: u16) -> Client {
    machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[0], port)))
}

const SERVICES: [&str; 2] = ["mailrecv-submission.service", "mailrecv-submissions.service"];

const NAME: &str = "mail.example.com";

/// What the units leave to the configuration.
const CONFIG: &str = "domain ${USE_TLS}.${HOSTNAME}.${RELAY_HOST:-example}\n\
    limit.fcrdns_check off\n\
    tls_certificate ${TLS_CERT_FILE}\n\
    tls_key ${TLS_KEY_FILE}\n\
    tls ${STARTTLS:-implicit}\n\
    deliver rcpt_to *@example.com discard\n\
    logfile stderr\n";
