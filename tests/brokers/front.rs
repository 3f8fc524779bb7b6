//! Postfix in front, with the shipped configurations of both sides, and a subscriber behind: only paths, ports and times are
//! replaced.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::hpfeeds::{Broker, SECRET, Subscriber};
use testkit::postfix::Postfix;
use testkit::repository::{self, replaced};
use testkit::{Client, Daemon, Folder, succeeds};

use crate::support::{MAILRECV, path};

/// A collector as it is shipped, in a folder of its own.
struct Collector {
    // First, as it is stopped before its folder goes.
    _listen: Daemon,
    address: SocketAddr,
    folder: Folder,
}

impl Collector {
    fn start(broker: &Broker) -> Self {
        let folder = Folder::new();
        // Postfix's processes, which run as other users, have to get in.
        fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        configure(&folder, broker);
        let socket = format!("unix:{}", folder.path("socket").display());
        let mut command = folder.command(MAILRECV, &["-c", "collector.conf", "listen", "127.0.0.1:0", &socket]);
        command.env("HPFEEDS_SECRET", SECRET);
        let mut listen = Daemon::start(command, folder.path("listen.out"));
        let address = listen.until("the ready line", |said| {
            let (line, _) = said.split_once('\n')?;
            line.strip_prefix("mailrecv: listening on ")?.split(' ').next()?.parse().ok()
        });
        Self { _listen: listen, address, folder }
    }

    /// How many messages the backup has.
    fn kept(&self) -> usize {
        self.folder.count_files("collected/new")
    }
}

/// Writes the shipped configuration for this broker, in one step: sessions may be reading it.
fn configure(folder: &Folder, broker: &Broker) {
    let text = repository::text("etc/mailrecv-collector.conf");
    let text = replaced(
        &text,
        &[
            ("/var/mail/collected", &folder.path("collected").display().to_string()),
            ("hpfeeds_broker localhost:10000", &format!("hpfeeds_broker {}", broker.address)),
            ("hpfeeds_ident collector", "hpfeeds_ident writer"),
            ("logfile stderr", &format!("logfile {}", folder.path("log").display())),
        ],
    );
    let new = folder.write("collector.new", text);
    fs::rename(new, folder.path("collector.conf")).unwrap();
}

/// Postfix as etc/postfix has it, but in a hurry.
fn front(collector: &Collector) -> Postfix {
    let folder = &collector.folder;
    let domains = folder.write("domains", repository::text("etc/postfix/collector-domains")).display().to_string();
    let settings = replaced(
        &repository::text("etc/postfix/collector.cf"),
        &[
            ("/etc/postfix/collector-domains", &domains),
            ("relay_transport = lmtp:inet:127.0.0.1:24", &format!("relay_transport = lmtp:inet:{}", collector.address)),
            // Not less: what comes back while the client that put it off still has its file open is never tried again.
            ("minimal_backoff_time = 1m", "minimal_backoff_time = 4s"),
            ("maximal_backoff_time = 10m", "maximal_backoff_time = 5s"),
            ("queue_run_delay = 1m", "queue_run_delay = 1s"),
        ],
    );
    // Debian's has no server for all other mail. A session has the configuration that it began with, so one that is kept for
    // the next message would go on to ask a broker that is gone.
    let settings = settings + "smtputf8_enable = no\nrelayhost =\nlmtp_connection_cache_on_demand = no\n";
    Postfix::start(collector.address, &settings)
}

/// Sends messages that are told apart by these numbers.
fn submit(postfix: &Postfix, numbers: std::ops::Range<usize>) {
    let mut client = Client::connect(postfix.address());
    client.expect("220 ");
    client.exchange("EHLO client.example", "250-");
    for number in numbers {
        client.exchange("MAIL FROM:<sender@client.example>", "250 ");
        client.exchange(&format!("RCPT TO:<victim{number}@trap.example>"), "250 ");
        client.exchange("DATA", "354 ");
        client.send(format!("Subject: spam {number};\r\n\r\nbuy\r\n.\r\n"));
        client.expect("250 ");
    }
}

/// The numbers of what was published.
fn numbers(subscribers: &[&Subscriber]) -> BTreeSet<usize> {
    let payloads = subscribers.iter().flat_map(|subscriber| subscriber.payloads());
    let number = |payload: Vec<u8>| {
        let text = String::from_utf8(payload).unwrap();
        let (_, rest) = text.split_once("Subject: spam ").unwrap_or_else(|| panic!("{text}"));
        rest.split_once(';').unwrap().0.parse().unwrap()
    };
    payloads.map(number).collect()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(3);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_broker_that_is_stopped_and_started_again_costs_no_mail() {
    a_new_broker_in_the_middle(Signal::SIGTERM);
}

#[test]
fn a_broker_that_is_killed_and_started_again_costs_no_mail() {
    a_new_broker_in_the_middle(Signal::SIGKILL);
}

const MESSAGES: usize = 200;

/// Sends messages through Postfix, ends the broker with this signal among them, and starts another: subscribers get all.
fn a_new_broker_in_the_middle(signal: Signal) {
    let mut broker = Broker::start();
    let before = broker.subscriber();
    let collector = Collector::start(&broker);
    let postfix = front(&collector);
    thread::scope(|scope| {
        for part in 0..4 {
            let postfix = &postfix;
            scope.spawn(move || submit(postfix, part * MESSAGES / 4..(part + 1) * MESSAGES / 4));
        }
        until("the first messages", || before.payloads().len() >= MESSAGES / 4);
        broker.daemon.signal(signal);
        let _ = broker.daemon.exit_code();
    });
    let at_the_end = numbers(&[&before]);
    assert!((1..MESSAGES).contains(&at_the_end.len()), "{}", at_the_end.len());
    until("messages that are put off", || postfix.log().contains("status=deferred"));
    // It is found at another port, so that nothing is published before somebody subscribes.
    let broker = Broker::start();
    let after = broker.subscriber();
    configure(&collector.folder, &broker);
    until("all messages", || postfix.log().matches("status=sent").count() >= MESSAGES);
    postfix.until_queue_is_empty();
    // The backup has what was taken, each once: what was put off was taken back.
    assert_eq!(collector.kept(), MESSAGES, "{}", collector.folder.read("log"));
    assert!(!postfix.log().contains("status=bounced"), "{}", postfix.log());
    assert!(!collector.folder.read("log").contains(SECRET));
    let all: BTreeSet<usize> = (0..MESSAGES).collect();
    // The last may be on its way to the subscriber.
    until("all payloads", || numbers(&[&before, &after]) == all);
}

/// What the host itself sends, as cron does, is for nobody else.
#[test]
fn mail_of_the_host_itself_is_not_published() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let collector = Collector::start(&broker);
    let postfix = front(&collector);
    let mut client = Client::connect(postfix.address());
    client.expect("220 ");
    client.exchange("EHLO client.example", "250-");
    client.exchange("MAIL FROM:<root@host.example>", "250 ");
    client.exchange("RCPT TO:<root@host.example>", "250 ");
    client.exchange("DATA", "354 ");
    client.exchange("Subject: spam 1;\r\n\r\npassword.\r\n.", "250 ");
    let is_over =
        |log: &str| log.lines().any(|line| line.contains("to=<root@host.example>") && line.contains("status="));
    until("what becomes of it", || is_over(&postfix.log()));
    submit(&postfix, 2..3);
    // The copy follows when it is published.
    until("the copy", || collector.kept() > 0);
    assert_eq!((numbers(&[&subscriber]), collector.kept()), (BTreeSet::from([2]), 1), "{}", postfix.log());
}

/// As the README has it.
#[test]
fn a_first_message_is_published() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let collector = Collector::start(&broker);
    let blocks = repository::readme_commands("Feeds and queues");
    let swaks = blocks.iter().flat_map(|block| block.lines()).find(|line| line.starts_with("swaks --protocol LMTP "));
    let swaks = replaced(swaks.expect("a first message"), &[("127.0.0.1:24", &collector.address.to_string())]);
    let mut shell = collector.folder.command("sh", &["-ec", &swaks]);
    shell.env("PATH", path());
    succeeds(shell, "");
    assert_eq!((subscriber.until(1).len(), collector.kept()), (1, 1));
}

/// The other way in.
#[test]
fn the_unix_socket_takes_mail_for_everybody() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let collector = Collector::start(&broker);
    let mut peer = Client::connect_unix(collector.folder.path("socket"));
    peer.expect("220 localhost LMTP");
    peer.exchange("LHLO client.example", "250-");
    peer.exchange("MAIL FROM:<>", "250 ");
    peer.exchange("RCPT TO:<anybody@anywhere.example>", "250 ");
    peer.exchange("DATA", "354 ");
    peer.exchange("Subject: spam 7;\r\n\r\n.", "250 ");
    assert_eq!(subscriber.until(1).len(), 1);
    assert_eq!((numbers(&[&subscriber]), collector.kept()), (BTreeSet::from([7]), 1));
}
