//! haproxy in front of `mailrecv listen`: whoever comes through it is known by his own address, everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use testkit::daemon::free_port;
use testkit::repository::{self, replaced};
use testkit::tcp::is_listening;
use testkit::{Client, Daemon, Folder, debian, wait_until};

use crate::bans::hits;
use crate::support::receiver::{FRED, Receiver};
use crate::support::super_server::Listener;

/// A haproxy in front of one server.
struct Haproxy {
    address: SocketAddr,
    _daemon: Daemon,
    _folder: Folder,
}

impl Haproxy {
    /// It listens on this address, and speaks to the server with these options.
    fn start(address: IpAddr, server: SocketAddr, options: &str) -> Self {
        let folder = Folder::new();
        let address = free_port(address);
        // As mailrecv.conf(5) has it.
        let manual = repository::page_example("etc/man/mailrecv.conf.5", "# haproxy.cfg; ");
        let (_, listen) = manual.split_once("\nlisten ").expect("a listener");
        let (bind, server) = (format!("bind {address}"), format!("{server} {options}"));
        let listen = replaced(
            listen,
            &[("bind :25", &bind), ("192.0.2.25:25 send-proxy-v2", &server), ("connect 5s", "connect 1m")],
        );
        let config = folder.write("haproxy.cfg", format!("global\n    maxconn 100\nlisten {listen}"));
        let mut command = debian::command("haproxy", "haproxy");
        command.arg("-db").arg("-f").arg(config);
        let mut daemon = Daemon::start(command, folder.path("output"));
        daemon.until("haproxy listens", |_| is_listening(address).then_some(()));
        Self { address, _daemon: daemon, _folder: folder }
    }

    fn client(&self, source: IpAddr) -> Client {
        Client::connect_from(source, self.address)
    }
}

#[test]
fn a_client_behind_haproxy_is_known_by_its_own_address() {
    let options = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy check inter 100ms fall 1000 check-send-proxy",
        "send-proxy-v2 check inter 100ms fall 1000 check-send-proxy",
    ];
    for options in options {
        for client in [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7)), Ipv6Addr::LOCALHOST.into()] {
            let receiver = Receiver::new("proxy_protocol from 127.0.0.1\nlimit.dns_secs 1\ndebug w");
            let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
            let own = if client.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { client };
            let haproxy = Haproxy::start(own, listener.addresses[0], options);
            let mut peer = haproxy.client(client);
            peer.expect("220 ");
            let hello = peer.ask("EHLO client.example");
            assert!(hello.contains(&format!("[{client}]")), "{options}: {hello}");
            peer.exchange("MAIL FROM:<a@b.example>", "250");
            peer.exchange("RCPT TO:<nobody@example.com>", "550");
            peer.exchange("RSET", "250");
            assert!(peer.deliver(&[FRED]).starts_with("250"));
            peer.exchange("QUIT", "221");
            let literal = if client.is_ipv4() { format!("[{client}]") } else { format!("[IPv6:{client}]") };
            let mailbox = receiver.read(receiver.mailbox());
            assert!(mailbox.contains(&format!(" {literal})\n")), "{options}: {mailbox}");
            if options.contains(" check ") {
                // It has often gone before the session can ask who it is.
                let is_there = |log: String| ["[127.0.0.1] ", "[unknown] "].iter().any(|peer| log.contains(peer));
                wait_until("a health check", || is_there(receiver.read(receiver.log())).then_some(()));
            }
            let log = receiver.read(receiver.log());
            assert!(log.contains(&format!("]: [{client}] ERROR: 550 No one here")), "{options}: {log}");
            // A health check is nothing that anybody does wrong.
            assert!(!log.contains("[127.0.0.1] ERROR: ") && !log.contains("[unknown] ERROR: "), "{options}: {log}");
            let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban/filter.d/mailrecv.conf");
            assert_eq!(
                hits(&receiver.log(), &filter).into_iter().collect::<Vec<_>>(),
                [(client, 1)],
                "{options}: {log}"
            );
        }
    }
}

/// Whoever set up one side of it only loses no mail, and has nobody banned.
#[test]
fn a_mistake_about_a_proxy_puts_its_clients_off() {
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban/filter.d/mailrecv.conf");
    for (directive, options) in
        [("", "send-proxy"), ("", "send-proxy-v2"), ("proxy_protocol from 127.0.0.1\nlimit.greet_secs 1", "")]
    {
        let receiver = Receiver::new(&format!("{directive}\nlimit.dns_secs 1"));
        let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
        let haproxy = Haproxy::start(Ipv4Addr::LOCALHOST.into(), listener.addresses[0], options);
        let replies = haproxy.client(Ipv4Addr::new(127, 0, 0, 7).into()).rest();
        assert!(replies.ends_with("421 4.3.5 Cannot receive messages at this time, try again later\r\n"), "{replies}");
        wait_until("the log", || receiver.read(receiver.log()).contains("proxy").then_some(()));
        assert!(hits(&receiver.log(), &filter).is_empty(), "{}", receiver.read(receiver.log()));
    }
}

/// The cap for one address is none for a proxy, which stands for many peers; the cap for all holds.
#[test]
fn a_proxy_may_have_all_places() {
    let receiver = Receiver::new("proxy_protocol from 127.0.0.1\nlimit.dns_secs 1");
    let arguments = ["--max-processes", "4", "--max-per-address", "1", "127.0.0.1:0"];
    let listener = Listener::start(&receiver, &arguments);
    let haproxy = Haproxy::start(Ipv4Addr::LOCALHOST.into(), listener.addresses[0], "send-proxy");
    let mut clients: Vec<Client> =
        (11..=15).map(|host| haproxy.client(Ipv4Addr::new(127, 0, 0, host).into())).collect();
    let mut replies: Vec<String> = clients.iter_mut().map(|client| client.reply()[..4].to_owned()).collect();
    replies.sort();
    assert_eq!(replies, ["220 ", "220 ", "220 ", "220 ", "421 "]);
}
