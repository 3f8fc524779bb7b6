//! A thousand connections at once: as many as may get in are served to their end, the others are told to come back
//! later, and `mailrecv listen` is afterwards what it was before.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use testkit::process::{children, memory};
use testkit::{Client, LOOPBACK, debian, is_root, network, succeeds, wait_until};

use crate::metrics::Numbers;
use crate::support::receiver::{FRED, Receiver};
use crate::support::super_server::Listener;

#[test]
fn a_crowd_gets_as_much_as_the_caps_allow() {
    allow_many_descriptors();
    // Those inside are silent until all have come.
    let receiver = Receiver::new("limit.greet_secs 300");
    let (most, most_per_address) = (MAX_PROCESSES.to_string(), MAX_PER_ADDRESS.to_string());
    let listener =
        Listener::start(&receiver, &["--max-processes", &most, "--max-per-address", &most_per_address, "127.0.0.1:0"]);
    // What is allocated once and for all is there after the first session.
    one_mail(&listener, "before");
    let memory = resident_memory(&listener);

    let mut inside = a_crowd(&listener);
    for (number, peer) in inside.iter_mut().enumerate() {
        peer.deliver_subject(FRED, &format!("inside {number}."));
    }
    for mut peer in inside {
        peer.exchange("QUIT", "221");
        assert_eq!(peer.rest(), "");
    }
    let mailbox = receiver.read(receiver.mailbox());
    for number in 0..MAX_PROCESSES {
        assert_eq!(mailbox.matches(&format!("\nSubject: inside {number}.\n")).count(), 1, "{number}");
    }
    let log = receiver.read(receiver.log());
    let turned_away = log.lines().filter(|line| line.contains("] ERROR: 421 Too many connections")).count();
    assert_eq!(turned_away, usize::from(SOURCES) * CONNECTIONS_PER_SOURCE - MAX_PROCESSES);

    // Zombies are children as well.
    wait_until("the end of all sessions", || children(listener.daemon.pid()).is_empty().then_some(()));
    one_mail(&listener, "after");
    wait_until("the end of the last session", || children(listener.daemon.pid()).is_empty().then_some(()));
    let grown = resident_memory(&listener).saturating_sub(memory);
    assert!(grown <= 128, "listen has grown by {grown} KiB");
}

/// More connections than there may be at all, which say nothing, from ten networks of one customer of a provider. The port
/// stays open for others.
#[test]
fn one_customer_does_not_shut_the_port() {
    if !is_root("a network of a test's own") {
        return;
    }
    let server = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
    let peer = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7));
    let networks: [IpAddr; 10] =
        std::array::from_fn(|number| Ipv6Addr::from_bits(CUSTOMER | (number as u128) << 64 | 7).into());
    network::with_addresses(&[&networks[..], &[server, peer]].concat(), || {
        let receiver = Receiver::new("limit.greet_secs 300");
        let address = format!("[{server}]:0");
        let listener = Listener::start(&receiver, &[&address, "--metrics", &address]);
        let silent = networks.iter().flat_map(|source| std::iter::repeat_n(*source, 25));
        let mut silent: Vec<Client> =
            silent.map(|source| Client::connect_from(source, listener.addresses[0])).collect();

        let mut peer = Client::connect_from(peer, listener.addresses[0]);
        let reply = peer.reply();
        assert!(reply.starts_with("220 "), "{reply}");
        peer.deliver_subject(FRED, "through the crowd");
        peer.exchange("QUIT", "221");

        let inside = silent.iter_mut().filter_map(|peer| peer.reply().starts_with("220 ").then_some(())).count();
        assert_eq!(inside, 100);
        let refused = Numbers::of(&listener).get("mailrecv_connections_refused_total{reason=\"network\"}");
        assert_eq!(refused, 150);
    });
}

/// His network, of 48 bits.
const CUSTOMER: u128 = 0x2001_0db8_0001_u128 << 80;

const MAX_PROCESSES: usize = 50;
const MAX_PER_ADDRESS: usize = 20;
const SOURCES: u8 = 10;
const CONNECTIONS_PER_SOURCE: usize = 100;

/// Connects from all sources, each after the other, and then reads what all are told. Returns those that got in.
fn a_crowd(listener: &Listener) -> Vec<Client> {
    let sources = (1..=SOURCES).map(|host| Ipv4Addr::new(127, 0, 1, host));
    let connections: Vec<(Ipv4Addr, Client)> = sources
        .flat_map(|source| std::iter::repeat_n(source, CONNECTIONS_PER_SOURCE))
        .map(|source| (source, Client::connect_from(source.into(), listener.addresses[0])))
        .collect();
    let mut inside = Vec::new();
    let mut inside_by_source = BTreeMap::new();
    for (source, mut peer) in connections {
        let reply = peer.reply();
        if reply.starts_with("220 ") {
            *inside_by_source.entry(source).or_insert(0) += 1;
            inside.push(peer);
        } else {
            assert!(reply.starts_with("421 4.7.0 "), "{reply}");
            assert_eq!(peer.rest(), "");
        }
    }
    assert_eq!(inside.len(), MAX_PROCESSES);
    assert_eq!(inside_by_source.values().max(), Some(&MAX_PER_ADDRESS), "{inside_by_source:?}");
    inside
}

fn one_mail(listener: &Listener, subject: &str) {
    let mut peer = listener.peer(1);
    assert!(peer.reply().starts_with("220 "), "{subject}");
    peer.deliver_subject(FRED, subject);
    peer.exchange("QUIT", "221");
    assert_eq!(peer.rest(), "");
}

/// As many as a mail server with a full queue sends at once.
#[test]
fn messages_from_many_sessions_at_once_arrive_once() {
    const MESSAGES: usize = 200;
    for address in LOOPBACK {
        let receiver = Receiver::new("");
        let listener =
            Listener::start(&receiver, &["--max-per-address", "50", &SocketAddr::new(address, 0).to_string()]);
        let mut smtp_source = debian::postfix("smtp-source");
        smtp_source.args(["-s", "20", "-m", &MESSAGES.to_string(), "-l", "5000", "-M", "mydomain.com"]);
        smtp_source.args(["-f", "me@mydomain.com", "-t", "fred@example.com"]).arg(listener.addresses[0].to_string());
        succeeds(smtp_source, "");
        let mailbox = receiver.read(receiver.mailbox());
        let mut identities: Vec<&str> = mailbox.lines().filter(|line| line.starts_with("Message-Id: ")).collect();
        assert_eq!(identities.len(), MESSAGES, "{address}");
        identities.sort_unstable();
        identities.dedup();
        assert_eq!(identities.len(), MESSAGES, "{address}: some are there twice");
        let messages: Vec<&str> = mailbox.strip_prefix("From ").unwrap().split("\nFrom ").collect();
        assert_eq!(messages.len(), MESSAGES, "{address}");
        for message in messages {
            let text = message.split_once("\n\n").map_or("", |(_, text)| text);
            // Lines of x, each numbered, and the blank line that ends a message.
            assert!(text.len() > 4500 && text.trim_end().ends_with('X'), "{address}: {message}");
        }
    }
}

/// Each connection takes two descriptors here; many systems give a process 1024 unless it asks for more.
fn allow_many_descriptors() {
    let raised = Command::new("prlimit").args(["--nofile=4096:", "--pid"]).arg(std::process::id().to_string()).status();
    assert!(
        raised.is_ok_and(|status| status.success()),
        "a thousand connections need more descriptors than we may have"
    );
}

/// In KiB, without what it shares with its binary's file.
fn resident_memory(listener: &Listener) -> u64 {
    memory(listener.daemon.pid(), "status", "RssAnon").expect("a running process")
}
