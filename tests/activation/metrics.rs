//! The metrics: numbers that are exactly what happened, read by the programs that read them, and whoever counts or fetches
//! them holds up no mail.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::daemon::free_port;
use testkit::process::{children, output, succeeds};
use testkit::repository::{self, replaced};
use testkit::tcp::is_listening;
use testkit::{Client, LOOPBACK, debian, wait_until};

use crate::support::receiver::{ACCOUNTS, FRED, Receiver};
use crate::support::super_server::{Listener, SuperServer};

#[test]
fn numbers_are_what_happened() {
    let receiver = Receiver::new("");
    let to = |name: &str| receiver.path(name).display().to_string();
    receiver.configure(&format!(
        "sandbox strict\n\
         metrics_file {}\n\
         limit.smtp_data_size 1000 552 Too large\n\
         limit.smtp_commands 100\n\
         deny remotehost ^127\\.0\\.0\\.9$\n\
         deliver rcpt_to maildir@example.com maildir {}\n\
         deliver rcpt_to pipe@example.com pipe cat >/dev/null\n\
         deliver rcpt_to later@example.com pipe cat >/dev/null; exit 75\n\
         deliver rcpt_to never@example.com pipe cat >/dev/null; exit 67\n\
         deliver rcpt_to nowhere@example.com append /nowhere/at/all\n\
         deliver rcpt_to print@example.com print\n\
         deliver rcpt_to discard@example.com discard\n\
         error rcpt_to ^odd@  459 5.1.3 Odd\n",
        to("metrics"),
        to("maildir"),
    ));
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "[::1]:0", "--metrics", "127.0.0.1:0"]);
    assert_eq!(Numbers::of(&listener).changed(), BTreeMap::new());

    let mut first = listener.peer(1);
    first.reply();
    const TEXT: &str = "Subject: x\r\n\r\nx\r\n";
    let accepted = [
        &[FRED][..],
        &[FRED, "maildir@example.com", "pipe@example.com"],
        &["print@example.com", "discard@example.com"],
    ];
    for recipients in accepted {
        first.begin_message(recipients);
        first.exchange(&format!("{TEXT}."), "250");
    }
    // What came until the end of a message is told while its session goes on.
    let until_now = Numbers::of(&listener);
    assert_eq!(until_now.get("mailrecv_messages_total{outcome=\"accepted\"}"), 3);
    assert_eq!(until_now.get("mailrecv_sessions_open"), 1);
    for (recipient, code) in
        [("later@example.com", "451"), ("never@example.com", "550"), ("nowhere@example.com", "451")]
    {
        first.begin_message(&[recipient]);
        first.exchange(&format!("{TEXT}."), code);
    }
    first.begin_message(&[FRED]);
    first.exchange(&format!("Subject: x\r\n\r\n{}\r\n.", "x".repeat(1000)), "552");
    // In chunks: one that is given up counts for nothing, one of which a chunk is refused counts once.
    first.offer(FRED);
    first.exchange("BDAT 12\r\nSubject: x", "250");
    first.exchange("RSET", "250");
    first.offer(FRED);
    first.exchange("BDAT 12\r\nSubject: x", "250");
    first.exchange(&format!("BDAT 1002\r\n{}", "x".repeat(1000)), "552");
    first.exchange("BDAT 0 LAST", "503");
    first.exchange("MAIL FROM:<a@example.net>", "250");
    for _ in 0..3 {
        first.exchange("RCPT TO:<nobody@example.com>", "550");
    }
    first.exchange("RCPT TO:<odd@example.com>", "459");
    first.exchange("EXPN x", "502");
    first.exchange("QUIT", "221");
    first.rest();
    // One that is not wanted, over IPv6 one that is gone without a word, and one that was asked to stop.
    let mut denied = listener.peer(9);
    denied.reply();
    denied.exchange("EHLO client.example", "550");
    denied.rest();
    let mut gone = Client::connect(listener.addresses[1]);
    gone.reply();
    drop(gone);
    over(&listener);
    let mut stopped = listener.peer(1);
    stopped.reply();
    kill(session_of(&listener), Signal::SIGTERM).unwrap();
    assert!(stopped.rest().starts_with("421 "));
    over(&listener);

    let numbers = Numbers::of(&listener);
    let expected = [
        ("mailrecv_connections_total{family=\"ipv4\"}", 3),
        ("mailrecv_connections_total{family=\"ipv6\"}", 1),
        ("mailrecv_sessions_total{end=\"closed\"}", 2),
        ("mailrecv_sessions_total{end=\"gone\"}", 1),
        ("mailrecv_sessions_total{end=\"stopped\"}", 1),
        ("mailrecv_session_duration_seconds_count", 4),
        ("mailrecv_messages_total{outcome=\"accepted\"}", 3),
        ("mailrecv_messages_total{outcome=\"deferred\"}", 2),
        ("mailrecv_messages_total{outcome=\"refused\"}", 3),
        ("mailrecv_accepted_bytes_total", 3 * TEXT.len() as u64),
        ("mailrecv_deliveries_total{action=\"append\"}", 2),
        ("mailrecv_deliveries_total{action=\"maildir\"}", 1),
        ("mailrecv_deliveries_total{action=\"pipe\"}", 1),
        ("mailrecv_deliveries_total{action=\"print\"}", 1),
        ("mailrecv_deliveries_total{action=\"discard\"}", 1),
        ("mailrecv_delivery_failures_total{action=\"append\"}", 1),
        ("mailrecv_delivery_failures_total{action=\"pipe\"}", 2),
        ("mailrecv_delivery_duration_seconds_count", 6),
        ("mailrecv_refusals_total{code=\"421\"}", 1),
        ("mailrecv_refusals_total{code=\"451\"}", 2),
        ("mailrecv_refusals_total{code=\"502\"}", 1),
        ("mailrecv_refusals_total{code=\"503\"}", 1),
        ("mailrecv_refusals_total{code=\"550\"}", 5),
        ("mailrecv_refusals_total{code=\"552\"}", 2),
        ("mailrecv_refusals_total{code=\"other\"}", 1),
        ("mailrecv_refusals_enhanced_total{status=\"4.3.0\"}", 2),
        ("mailrecv_refusals_enhanced_total{status=\"4.3.2\"}", 1),
        ("mailrecv_refusals_enhanced_total{status=\"5.1.1\"}", 4),
        ("mailrecv_refusals_enhanced_total{status=\"5.3.4\"}", 2),
        ("mailrecv_refusals_enhanced_total{status=\"5.5.1\"}", 2),
        ("mailrecv_refusals_enhanced_total{status=\"5.7.1\"}", 1),
        // The administrator has worded one of his own.
        ("mailrecv_refusals_enhanced_total{status=\"other\"}", 1),
    ];
    let mut others = numbers.changed();
    for (name, number) in expected {
        assert_eq!(others.remove(name), Some(number), "{name}\n{numbers:?}");
    }
    others.retain(|name, _| !name.contains("_bucket{") && !name.ends_with("_sum"));
    assert_eq!(others, BTreeMap::new(), "{numbers:?}");

    // The same in the file, but for what `listen` has counted.
    let mut of_sessions = numbers.0.clone();
    of_sessions.retain(|name, _| {
        ["mailrecv_connections", "mailrecv_sessions_open", "mailrecv_sessions_killed", "mailrecv_sessions_uncounted"]
            .iter()
            .all(|beginning| !name.starts_with(beginning))
            && name != "process_start_time_seconds"
    });
    assert_eq!(Numbers::in_file(&receiver).0, of_sessions);
}

/// A message that comes again and is not delivered again is accepted, and no delivery.
#[test]
fn what_was_delivered_before_is_counted_by_itself() {
    const TEXT: &str = "Subject: x\r\n\r\nx\r\n";
    let receiver = Receiver::new("");
    let to = |name: &str| receiver.path(name).display().to_string();
    receiver.configure(&format!(
        "exactly_once {}\ndeliver rcpt_to new@example.com append {}\ncopy rcpt_to * maildir {}",
        to("once"),
        to("other"),
        to("maildir")
    ));
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let accepted = || Numbers::of(&listener).get("mailrecv_messages_total{outcome=\"accepted\"}");
    // The sender is gone before it has read the 250, behind which it is counted.
    let send = |recipients: &[&str]| {
        let before = accepted();
        let mut peer = listener.peer(1);
        peer.reply();
        peer.begin_message(recipients);
        peer.send(format!("{TEXT}.\r\n"));
        wait_until("the 250", || (accepted() > before).then_some(()));
        peer.reset();
        over(&listener);
    };
    let deliveries = |numbers: &Numbers| {
        let get =
            |name: &str, action: &str| numbers.get(&format!("mailrecv_deliveries_{name}total{{action=\"{action}\"}}"));
        ["", "repeated_"].map(|name| ["append", "maildir"].map(|action| get(name, action)))
    };
    send(&[FRED]);
    assert_eq!(deliveries(&Numbers::of(&listener)), [[1, 1], [0, 0]]);
    send(&[FRED]);
    assert_eq!(deliveries(&Numbers::of(&listener)), [[1, 1], [1, 1]]);
    send(&[FRED, "new@example.com"]);
    let numbers = Numbers::of(&listener);
    assert_eq!(deliveries(&numbers), [[2, 2], [2, 2]]);
    // Their senders were told that they are accepted.
    assert_eq!(accepted(), 3);
    assert_eq!(numbers.get("mailrecv_accepted_bytes_total"), 3 * TEXT.len() as u64);
    assert_eq!(fs::read_to_string(receiver.mailbox()).unwrap().matches("Subject: x").count(), 1);
}

#[test]
fn logins_are_counted() {
    let receiver = Receiver::new("");
    let accounts = receiver.write("accounts", ACCOUNTS).display().to_string();
    receiver.configure(&format!("auth_file {accounts}\nauth_plaintext on"));
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    for (script, reply) in [
        ("AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm", "235 "),
        ("AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm", "235 "),
        ("AUTH LOGIN dGlt\r\ndGFuc3RhYWZ0YW5zdGFhZg==", "334 "),
        ("AUTH PLAIN AHRpbQB4", "535 "),
        ("AUTH PLAIN x", "501 "),
    ] {
        let mut peer = listener.peer(1);
        peer.reply();
        peer.exchange("EHLO client.example", "250-");
        peer.exchange(script, reply);
        if reply == "334 " {
            peer.expect("235 ");
        }
        peer.exchange("QUIT", "221");
        over(&listener);
    }
    let numbers = Numbers::of(&listener);
    for (name, number) in [
        ("mailrecv_authentications_total{mechanism=\"PLAIN\"}", 2),
        ("mailrecv_authentications_total{mechanism=\"LOGIN\"}", 1),
        ("mailrecv_authentications_total{mechanism=\"SCRAM-SHA-256\"}", 0),
        ("mailrecv_refusals_total{code=\"535\"}", 1),
        ("mailrecv_refusals_enhanced_total{status=\"5.7.8\"}", 1),
    ] {
        assert_eq!(numbers.get(name), number, "{name}\n{numbers:?}");
    }
}

/// By the library that Prometheus' own documentation recommends for Python, every line.
#[test]
fn others_can_read_them() {
    const READER: &str = "
import sys, collections
from prometheus_client.parser import text_string_to_metric_families
text = sys.stdin.read()
families = list(text_string_to_metric_families(text))
lines = [line for line in text.split('\\n') if line and not line.startswith('#')]
samples = [sample for family in families for sample in family.samples]
assert len(samples) == len(lines) > 80, (len(samples), len(lines))
assert len(set((sample.name, tuple(sorted(sample.labels.items()))) for sample in samples)) == len(samples)
for family in families:
    assert family.type in ('counter', 'gauge', 'histogram') and family.documentation, family
    if family.type == 'histogram':
        buckets = [sample.value for sample in family.samples if sample.name.endswith('_bucket')]
        count, = [sample.value for sample in family.samples if sample.name.endswith('_count')]
        assert buckets == sorted(buckets) and buckets[-1] == count == 1, family
print('read')
";
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "[::1]:0"]);
    let mut peer = listener.peer(1);
    peer.reply();
    peer.deliver(&[FRED]);
    peer.exchange("QUIT", "221");
    over(&listener);
    let mut python = debian::python_with("python3-prometheus-client");
    python.args(["-c", READER]);
    let url = format!("http://{}/metrics", listener.metrics[0]);
    assert_eq!(succeeds(python, &curl(&[&url])), "read\n");

    let head = curl(&["--head", &url]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    for (arguments, status) in [
        (&[][..], "200"),
        (&["--http1.0"], "200"),
        (&["--data", "x"], "405"),
        (&["--data-binary", "@/proc/self/exe"], "405"),
        (&["--request", "DELETE"], "405"),
        (&["--header", &format!("X: {}", "x".repeat(9000))], "431"),
    ] {
        let arguments = [arguments, &["--output", "/dev/null", "--write-out", "%{http_code}", &url]].concat();
        assert_eq!(curl(&arguments), status, "{arguments:?}");
    }
    let elsewhere = url.replace("/metrics", "/");
    assert_eq!(curl(&["--write-out", "%{http_code}", &elsewhere]).lines().last(), Some("404"));
}

/// The README's commands, pasted.
#[test]
fn the_commands_of_the_readme_work() {
    let blocks = repository::readme_commands("Metrics");
    let [commands] = &blocks[..] else { panic!("{blocks:?}") };
    let (listen, fetch) = commands.split_once('\n').unwrap();
    let receiver = Receiver::new("");
    let call = format!("exec {} -c {} ", receiver.binary().display(), receiver.config().display());
    let listen = replaced(listen, &[("mailrecv ", &call), ("127.0.0.1:9025", "127.0.0.1:0 127.0.0.1:0")]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &listen]);
    let listener = Listener::of(&receiver, shell);
    deliver_one(&listener);
    let curl = debian::program("curl", "curl").display().to_string();
    let fetch =
        replaced(fetch, &[("curl ", &format!("{curl} ")), ("127.0.0.1:9025", &listener.metrics[0].to_string())]);
    let mut shell = Command::new("sh");
    shell.args(["-ec", &fetch]);
    let told = succeeds(shell, "");
    assert!(told.contains("\nmailrecv_messages_total{outcome=\"accepted\"} 1\n"), "{told}");
}

#[test]
fn who_was_turned_away_is_counted_by_what_was_full() {
    let receiver = Receiver::new("");
    let caps = ["--max-processes", "3", "--max-per-address", "2", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let listener = Listener::start(&receiver, &caps);
    let mut inside: Vec<Client> = [1, 1].map(|host| listener.peer(host)).into();
    inside.iter_mut().for_each(|peer| assert!(peer.reply().starts_with("220 ")));
    assert!(listener.peer(1).rest().starts_with("421 "));
    inside.push(listener.peer(2));
    assert!(inside[2].reply().starts_with("220 "));
    for host in [3, 4] {
        assert!(listener.peer(host).rest().starts_with("421 "));
    }
    let numbers = Numbers::of(&listener);
    assert_eq!(numbers.get("mailrecv_sessions_open"), 3);
    assert_eq!(numbers.get("mailrecv_connections_total{family=\"ipv4\"}"), 3);
    assert_eq!(numbers.get("mailrecv_connections_refused_total{reason=\"address\"}"), 1);
    assert_eq!(numbers.get("mailrecv_connections_refused_total{reason=\"all_places\"}"), 2);
    // Both are told from the same.
    let line = "]: [listen] INFO: sessions now: 3, served: 3, turned away: 3\n";
    listener.daemon.signal(Signal::SIGUSR1);
    wait_until("the line", || receiver.read(receiver.log()).contains(line).then_some(()));
}

/// A session that is killed loses no more than what it had not handed over.
#[test]
fn a_session_that_is_killed() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let mut peer = listener.peer(1);
    peer.reply();
    peer.deliver(&[FRED]);
    peer.deliver(&[FRED]);
    peer.begin_message(&[FRED]);
    let before = Numbers::of(&listener);
    kill(session_of(&listener), Signal::SIGKILL).unwrap();
    over(&listener);
    let mut after = Numbers::of(&listener);
    assert_eq!(after.0.remove("mailrecv_sessions_killed_total"), Some(1));
    assert_eq!(after.get("mailrecv_messages_total{outcome=\"accepted\"}"), 2);
    let mut before = before;
    assert_eq!(before.0.remove("mailrecv_sessions_killed_total"), Some(0));
    assert_eq!(before.0.insert("mailrecv_sessions_open".to_owned(), 0), Some(1));
    assert_eq!(after, before);
}

#[test]
fn sessions_that_end_early() {
    let receiver = Receiver::new("limit.greet_secs 1");
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    assert!(listener.peer(1).rest().contains("\n421 "));
    over(&listener);
    // With a mistake in the configuration.
    receiver.configure("nonsense");
    wait_until("a session that cannot be served", || listener.peer(1).rest().starts_with("421 ").then_some(()));
    over(&listener);
    let numbers = Numbers::of(&listener);
    assert_eq!(numbers.get("mailrecv_sessions_total{end=\"timed_out\"}"), 1);
    assert!(numbers.get("mailrecv_sessions_total{end=\"not_served\"}") > 0);
    assert_eq!(numbers.get("mailrecv_sessions_uncounted_total"), 0);
}

#[test]
fn sessions_that_end_before_a_proxy_has_said_whose_they_are() {
    let receiver = Receiver::new("proxy_protocol from 127.0.0.1\nlimit.greet_secs 1");
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    // Whoever looks whether anybody is there.
    drop(listener.peer(1));
    over(&listener);
    assert!(listener.peer(1).rest().starts_with("421 "));
    over(&listener);
    receiver.configure("proxy_protocol from 127.0.0.1\nlimit.greet_secs 600");
    let mut stopped = listener.peer(1);
    let session = wait_until("a session", || sessions(&listener).next());
    // It has set everything up, and waits for the rest of the header.
    stopped.send("PROXY ");
    stopped.until_read();
    kill(session, Signal::SIGTERM).unwrap();
    assert!(stopped.rest().starts_with("421 "));
    over(&listener);
    listener.peer(1).exchange("EHLO client.example", "421");
    over(&listener);
    let numbers = Numbers::of(&listener);
    for end in ["gone", "timed_out", "stopped", "not_served"] {
        assert_eq!(numbers.get(&format!("mailrecv_sessions_total{{end=\"{end}\"}}")), 1, "{end}");
    }
}

/// Under a super-server that knows nothing of it.
#[test]
fn many_sessions_add_up_in_a_file() {
    const SESSIONS: u64 = 50;
    let receiver = Receiver::new("");
    let file = receiver.path("metrics");
    receiver.configure(&format!("metrics_file {}\nsandbox strict", file.display()));
    let service = SuperServer::Xinetd.start(&receiver, LOOPBACK[0], "");
    let mut peers: Vec<Client> = (0..SESSIONS).map(|_| Client::connect(service.address)).collect();
    for peer in &mut peers {
        peer.reply();
        peer.exchange("HELO client.example", "250");
    }
    std::thread::scope(|scope| {
        for peer in &mut peers {
            scope.spawn(|| {
                peer.deliver(&[FRED]);
                peer.exchange("RCPT TO:<x@example.com>", "503");
                peer.deliver(&[FRED]);
                peer.exchange("QUIT", "221");
                peer.rest();
            });
        }
    });
    let count = |numbers: &Numbers| numbers.get("mailrecv_sessions_total{end=\"closed\"}");
    let numbers = wait_until("the end of all sessions", || {
        Some(Numbers::in_file(&receiver)).filter(|numbers| count(numbers) == SESSIONS)
    });
    for (name, number) in [
        ("mailrecv_messages_total{outcome=\"accepted\"}", 2 * SESSIONS),
        ("mailrecv_deliveries_total{action=\"append\"}", 2 * SESSIONS),
        ("mailrecv_refusals_total{code=\"503\"}", SESSIONS),
        ("mailrecv_delivery_duration_seconds_count", 2 * SESSIONS),
        ("mailrecv_session_duration_seconds_count", SESSIONS),
    ] {
        assert_eq!(numbers.get(name), number, "{name}");
    }
    assert!(numbers.get("mailrecv_accepted_bytes_total").is_multiple_of(2 * SESSIONS));
    let mode = fs::metadata(&file).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o7177, 0, "others can write, or run, it");
}

/// What is in the place of the file stays as it is, and mail goes on.
#[test]
fn a_file_that_is_something_else() {
    let receiver = Receiver::new("");
    let file = receiver.path("metrics");
    receiver.configure(&format!("metrics_file {}\ndebug w", file.display()));
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    let session = || {
        let mut peer = listener.peer(1);
        peer.reply();
        peer.deliver(&[FRED]);
        peer.deliver(&[FRED]);
        peer.exchange("QUIT", "221");
        peer.rest();
        over(&listener);
    };
    session();
    let sound = fs::read(&file).unwrap();
    for (content, is_begun_anew, advice) in [
        (&b"From fred@example.com Mon Nov 23 00:00:00 2026\n"[..], false, "is no file of metrics"),
        (&sound[..sound.len() / 2], true, "counts otherwise, or damaged"),
        (&[&sound[..10], &[!sound[10]], &sound[11..]].concat(), true, "counts otherwise, or damaged"),
        (&[&sound[..sound.len() - 1], &[0xff]].concat(), true, "counts otherwise, or damaged"),
        (b"", true, ""),
        (&vec![0; sound.len()], true, ""),
    ] {
        fs::write(&file, content).unwrap();
        let mut check = receiver.command();
        check.arg("check");
        let said = String::from_utf8(output(check).stderr).unwrap();
        let is_told = said.lines().any(|line| line.contains("metrics_file") || line.contains("metrics:"));
        assert!(said.contains(advice) && is_told != advice.is_empty(), "{advice}: {said}");
        fs::write(receiver.log(), "").unwrap();
        session();
        let log = receiver.read(receiver.log());
        assert_eq!(fs::read(&file).unwrap() == content, !is_begun_anew, "{log}");
        assert_eq!(
            log.matches(&format!("is not counted in {}: ", file.display())).count(),
            usize::from(!is_begun_anew),
            "{log}"
        );
        if is_begun_anew {
            assert_eq!(Numbers::in_file(&receiver).get("mailrecv_messages_total{outcome=\"accepted\"}"), 2);
        } else {
            let mut metrics = receiver.command();
            metrics.arg("metrics");
            let output = output(metrics);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(71), 0), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(advice), "{output:?}");
        }
    }
    let mailbox = receiver.read(receiver.mailbox());
    assert_eq!(mailbox.matches("\nReceived: ").count(), 2 * 7);
}

/// Who keeps the file locked keeps no mail up, and one line tells of it.
#[test]
fn a_file_that_somebody_keeps_locked() {
    let receiver = Receiver::new("");
    let file = receiver.path("metrics");
    receiver.configure(&format!("metrics_file {}\ndebug w", file.display()));
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    deliver_one(&listener);
    over(&listener);
    let lock = File::open(&file).unwrap();
    lock.lock().unwrap();
    let before = fs::read(&file).unwrap();
    let mut peer = listener.peer(1);
    peer.reply();
    for _ in 0..20 {
        peer.deliver(&[FRED]);
    }
    peer.exchange("QUIT", "221");
    over(&listener);
    assert_eq!(fs::read(&file).unwrap(), before);
    let log = receiver.read(receiver.log());
    let line = format!("WARNING: this session is not counted in {}: somebody else has it locked\n", file.display());
    assert_eq!(log.matches(&line).count(), 1, "{log}");
    lock.unlock().unwrap();
    // What could not be added at one message is added at the next; that of the first session is there already.
    let mut peer = listener.peer(1);
    peer.reply();
    lock.lock().unwrap();
    peer.deliver(&[FRED]);
    lock.unlock().unwrap();
    peer.deliver(&[FRED]);
    peer.exchange("NOOP", "250");
    assert_eq!(Numbers::in_file(&receiver).get("mailrecv_messages_total{outcome=\"accepted\"}"), 3);
}

/// Many connect to the metrics, and say nothing, little by little or without end.
#[test]
fn slow_scrapers_hold_nobody_up() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let scrapers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(listener.metrics[0]).unwrap()).collect();
    for (number, mut scraper) in scrapers.iter().enumerate() {
        scraper.set_nonblocking(true).unwrap();
        let _ = match number % 4 {
            0 => Ok(0),
            1 => scraper.write(b"GET /me"),
            2 => scraper.write(b"GET /metrics HTTP/1.1\r\n\r\n"),
            _ => scraper.write(&[b'x'; 100_000]),
        };
    }
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(listener.metrics[0]).unwrap()).collect();
    for _ in 0..20 {
        let mut peer = listener.peer(1);
        peer.reply();
        peer.deliver(&[FRED]);
        peer.exchange("QUIT", "221");
    }
    // And there is room for another scraper, who need not wait for their end.
    assert!(Numbers::of(&listener).get("mailrecv_connections_total{family=\"ipv4\"}") >= 20);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", listener.daemon.pid())).unwrap().count();
    assert!(descriptors() < 40, "{} descriptors", descriptors());
    drop([scrapers, silent]);
    // One that goes on byte by byte has no more time than the others.
    let mut slow = TcpStream::connect(listener.metrics[0]).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut request = b"GET /metrics HTTP/1.1\r\n".iter().chain(b"X: y\r\n".iter().cycle());
    wait_until("the end of its time", || {
        let is_gone = slow.write_all(&[*request.next().unwrap()]).is_err();
        (is_gone || matches!(slow.read(&mut [0; 1]), Ok(0))).then_some(())
    });
}

/// `listen` that does nothing more does not keep its sessions from anything.
#[test]
fn sessions_do_not_wait_for_listen() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let mut peer = listener.peer(1);
    peer.reply();
    listener.daemon.signal(Signal::SIGSTOP);
    for _ in 0..100 {
        peer.deliver(&[FRED]);
    }
    peer.exchange("QUIT", "221");
    assert_eq!(peer.rest(), "");
    listener.daemon.signal(Signal::SIGCONT);
    over(&listener);
    assert_eq!(Numbers::of(&listener).get("mailrecv_messages_total{outcome=\"accepted\"}"), 100);
}

/// Where descriptors are few, half of them are for counting, and the others for mail.
#[test]
fn sessions_without_a_place_to_count_take_mail() {
    const SESSIONS: u64 = 25;
    let receiver = Receiver::new("");
    let mut prlimit = Command::new("prlimit");
    prlimit.arg("--nofile=40").arg(receiver.binary()).arg("-c").arg(receiver.config());
    prlimit.args(["listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let listener = Listener::of(&receiver, prlimit);
    let mut peers: Vec<Client> = (0..SESSIONS).map(|_| listener.peer(1)).collect();
    for peer in &mut peers {
        peer.reply();
        peer.deliver(&[FRED]);
    }
    for peer in &mut peers {
        peer.exchange("QUIT", "221");
    }
    over(&listener);
    let numbers = Numbers::of(&listener);
    assert_eq!(numbers.get("mailrecv_sessions_uncounted_total"), 5, "{numbers:?}");
    assert_eq!(numbers.get("mailrecv_messages_total{outcome=\"accepted\"}"), SESSIONS - 5);
}

/// A binary that counts something else, installed while `listen` runs, is not understood, which is told, and delivers.
#[test]
fn sessions_of_another_version() {
    let receiver = Receiver::new("");
    let file = receiver.path("metrics");
    receiver.configure(&format!("metrics_file {}\ndebug w", file.display()));
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let deliver = || {
        let mut peer = listener.peer(1);
        peer.reply();
        peer.deliver(&[FRED]);
        peer.exchange("QUIT", "221");
        peer.rest();
        over(&listener);
    };
    deliver();
    let form = fs::read(&file).unwrap()[8..16].to_owned();
    let binary = with_another_form(&receiver.binary(), &form);
    fs::write(receiver.path("new"), binary).unwrap();
    receiver.run("chmod", &["755", "new"]);
    receiver.run("mv", &["new", "mailrecv"]);
    deliver();
    let numbers = Numbers::of(&listener);
    assert_eq!(numbers.get("mailrecv_messages_total{outcome=\"accepted\"}"), 1);
    assert_eq!(numbers.get("mailrecv_sessions_uncounted_total"), 1);
    let line = "WARNING: this session is not counted in listen: it is of a version of mailrecv that counts otherwise";
    assert_eq!(receiver.read(receiver.log()).matches(line).count(), 1);
    // In the file it has begun anew.
    assert_eq!(Numbers::in_file(&receiver).get("mailrecv_messages_total{outcome=\"accepted\"}"), 1);
    assert_ne!(fs::read(&file).unwrap()[8..16], form);
}

/// What is asked for and is not there; the configuration's file may be missing, and has nothing in it then.
#[test]
fn numbers_that_there_are_not() {
    let receiver = Receiver::new("");
    let ask = |arguments: &[&str]| {
        let mut command = receiver.command();
        command.arg("metrics").args(arguments);
        let output = output(command);
        (output.status.code().unwrap(), [output.stderr, output.stdout].map(|said| String::from_utf8(said).unwrap()))
    };
    let (status, [said, shown]) = ask(&[]);
    assert!(status == 78 && said.contains("no `metrics_file`") && shown.is_empty(), "{status} {said}{shown}");
    let (status, [said, shown]) = ask(&[receiver.config().to_str().unwrap()]);
    assert!(status == 71 && said.contains("is no file of metrics") && shown.is_empty(), "{status} {said}{shown}");
    let new = receiver.path("new");
    let (status, [said, shown]) = ask(&[new.to_str().unwrap()]);
    assert!(status == 71 && said.contains("new: No such file") && shown.is_empty(), "{status} {said}{shown}");
    receiver.configure(&format!("metrics_file {}", new.display()));
    let (status, [said, shown]) = ask(&[]);
    assert_eq!((status, &*said, Numbers::read(&shown).changed()), (0, "", BTreeMap::new()));
    assert!(!new.exists());
    receiver.configure("nonsense");
    let (status, [said, shown]) = ask(&[]);
    assert!(status == 78 && said.contains(" check` shows") && shown.is_empty(), "{status} {said}{shown}");
}

#[test]
fn commands_do_not_inherit_where_their_session_counts() {
    let receiver = Receiver::new("");
    let (file, seen) = (receiver.path("metrics"), receiver.path("seen"));
    receiver.configure(&format!(
        "metrics_file {}\ndeliver rcpt_to look@example.com pipe cat >/dev/null; ls -l /proc/$$/fd >{2}; env >>{1}",
        file.display(),
        seen.display(),
        seen.display()
    ));
    let listener = Listener::start(&receiver, &["127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    // A second session must not have what belongs to the first, either.
    let [mut other, mut peer] = [(); 2].map(|()| listener.peer(1));
    for peer in [&mut other, &mut peer] {
        peer.reply();
        peer.exchange("NOOP", "250");
    }
    let records = |pid: Pid| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        links.filter(|link| fs::read_link(link.path()).is_ok_and(|to| is_record(&to))).count()
    };
    let sessions: Vec<Pid> = sessions(&listener).collect();
    assert_eq!(sessions.len(), 2);
    sessions.iter().for_each(|session| assert_eq!(records(*session), 2, "its own, and the file"));
    assert_eq!(records(listener.daemon.pid()), 2);
    peer.deliver(&["look@example.com"]);
    let seen = receiver.read(seen);
    assert!(seen.contains("pipe:") && seen.contains("SENDER="), "{seen}");
    let file = file.display().to_string();
    assert!(["memfd", "MAILRECV_", &file].iter().all(|trace| !seen.contains(trace)), "{seen}");
}

fn is_record(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with("/memfd:mailrecv-metrics") || path.ends_with("/metrics"))
}

/// systemd passes sockets for both; which is which is told by its name.
#[test]
fn a_socket_that_was_passed_for_it() {
    let receiver = Receiver::new("");
    let (smtp, metrics) = (free_port(LOOPBACK[0]), free_port(LOOPBACK[0]));
    let mut activate = debian::command("systemd", "systemd-socket-activate");
    activate.args(["-l", &smtp.to_string(), "-l", &metrics.to_string(), "--fdname=smtp:metrics"]);
    activate.arg(receiver.binary()).arg("-c").arg(receiver.config()).arg("listen");
    let mut daemon = receiver.launch(activate);
    daemon.until("listening", |_| is_listening(metrics).then_some(()));
    // It waits for the first peer before it starts anything.
    let mut peer = Client::connect(smtp);
    let line = format!("mailrecv: listening on {smtp} (smtp), metrics on {metrics}\n");
    daemon.until("the ready line", |output| output.contains(&line).then_some(()));
    assert!(peer.reply().starts_with("220 "));
    assert_eq!(Numbers::at(metrics).get("mailrecv_connections_total{family=\"ipv4\"}"), 1);
}

#[test]
fn a_port_that_cannot_be_had() {
    let receiver = Receiver::new("");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let _taken = TcpListener::bind(&taken);
    for (address, status, why) in [
        ("127.0.0.1", 64, "write ADDRESS:PORT"),
        ("192.0.2.1:0", 71, "for the metrics: cannot listen on 192.0.2.1:0: "),
        ("host.invalid:0", 71, "for the metrics: cannot listen on host.invalid:0: no host has this name"),
        (&*taken, 71, "for the metrics: cannot listen on "),
    ] {
        let _holder = TcpListener::bind(&taken);
        let mut command = receiver.command();
        command.args(["listen", "127.0.0.1:0", "--metrics", address]);
        let output = output(command);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}

/// The binary, with another number for the form of its table.
fn with_another_form(binary: &Path, form: &[u8]) -> Vec<u8> {
    let mut binary = fs::read(binary).unwrap();
    let mut found = 0;
    while let Some(at) = binary.windows(form.len()).position(|bytes| bytes == form) {
        binary[at] = !binary[at];
        found += 1;
    }
    assert!(found > 0);
    binary
}

/// The numbers of a scrape, by the names that stand before them.
#[derive(PartialEq)]
pub(crate) struct Numbers(BTreeMap<String, u64>);

impl Numbers {
    pub(crate) fn of(listener: &Listener) -> Self {
        Self::at(listener.metrics[0])
    }

    fn at(address: SocketAddr) -> Self {
        Self::read(&curl(&[&format!("http://{address}/metrics")]))
    }

    /// As `mailrecv metrics` tells them.
    fn in_file(receiver: &Receiver) -> Self {
        let mut command = receiver.command();
        command.arg("metrics");
        Self::read(&succeeds(command, ""))
    }

    /// Times in microseconds.
    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
        let number = |name: &str, number: &str| match name.ends_with("_sum") {
            true => Duration::from_secs_f64(number.parse().unwrap()).as_micros().try_into().unwrap(),
            false => number.parse().unwrap(),
        };
        Self(pairs.map(|(name, text)| (name.to_owned(), number(name, text))).collect())
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("there is no {name} in {self:?}"))
    }

    /// Those that are not 0, but for the two that never are.
    fn changed(&self) -> BTreeMap<String, u64> {
        let mut changed = self.0.clone();
        changed.retain(|name, number| {
            *number != 0 && name != "process_start_time_seconds" && !name.starts_with("mailrecv_build_info")
        });
        changed
    }
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.changed().iter().try_for_each(|(name, number)| writeln!(f, "{name} {number}"))
    }
}

fn curl(arguments: &[&str]) -> String {
    let mut curl = debian::command("curl", "curl");
    curl.args(["--silent", "--show-error", "--max-time", "180"]).args(arguments);
    succeeds(curl, "")
}

fn sessions(listener: &Listener) -> impl Iterator<Item = Pid> {
    let children = children(listener.daemon.pid());
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect::<Vec<_>>().into_iter()
}

fn session_of(listener: &Listener) -> Pid {
    sessions(listener).next().unwrap()
}

/// Waits for the end of all sessions.
fn over(listener: &Listener) {
    wait_until("the end of all sessions", || children(listener.daemon.pid()).is_empty().then_some(()));
}

/// A session with one message.
fn deliver_one(listener: &Listener) {
    let mut peer = listener.peer(1);
    peer.reply();
    peer.deliver(&[FRED]);
    peer.exchange("QUIT", "221");
    assert_eq!(peer.rest(), "");
    over(listener);
}
