//! fail2ban on real logs: every refusal counts against the peer that caused it, and nothing that a peer sends counts
//! against anybody else.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Encoding};
use regex::Regex;

use crate::hostile::{self, LineEnd};
use crate::hostile_at_random;
use testkit::process::succeeds_within;
use testkit::repository::{self, replaced};
use testkit::syslog::Syslog;
use testkit::{Client, Daemon, LOOPBACK, Random, debian, wait_until};

use crate::support::receiver::{ACCOUNTS, FRED, Receiver};
use crate::support::super_server::{Service, SuperServer};

/// How often each address was hit.
pub(crate) type Hits = BTreeMap<IpAddr, usize>;

#[test]
fn the_filters_find_every_refusal_and_nothing_else_in_a_log_file() {
    for log_options in LOG_OPTIONS {
        let receiver = Receiver::new(&format!("{}{log_options}", hostile::EVERYTHING_IS_LOGGED));
        let expected = hostile_sessions(&receiver);
        assert_filters_find(&receiver, &receiver.log(), &expected);
    }
}

#[test]
fn the_filters_find_every_refusal_and_nothing_else_in_the_system_log() {
    let syslog = Syslog::start();
    let mut receiver = Receiver::new(&format!("{}logfile syslog", hostile::EVERYTHING_IS_LOGGED));
    receiver.logs_to(&syslog);
    let expected = hostile_sessions(&receiver);
    // rsyslogd writes in its own time; each session ends with a line that says so.
    for log in [syslog.traditional(), syslog.precise()] {
        wait_until("the last line", || {
            (receiver.read(&log).matches("INFO: connection closed").count() == expected.sessions).then_some(())
        });
        assert_filters_find(&receiver, &log, &expected);
    }
}

#[test]
fn the_filters_find_every_refusal_of_random_sessions() {
    random_sessions(4_000);
}

/// A mail for people may say anything, also what this program or the original says of a peer.
#[test]
fn what_is_printed_bans_nobody() {
    let receiver = Receiver::new("deliver rcpt_to * print\ncopy rcpt_to * print raw");
    let service = SuperServer::Listen.start(&receiver, LOOPBACK[0], "");
    let mut peer = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2).into(), service.address);
    peer.expect("220 ");
    peer.begin_message(&["shown@example.com"]);
    let victim = hostile::VICTIM;
    for line in [
        format!("Subject: MAILRECV[1]: [{victim}] ERROR: 550 No one here by that name"),
        format!("From: [{victim}] ERROR: [{victim}] 550 x <a@b.example>"),
        String::new(),
        format!("Sat Nov 21 01:32:50 2026 MAILRECV[1]: [{victim}] ERROR: 550 No one here by that name 'x@example.com'"),
        format!("[{victim}] ERROR: 550 No one here by that name"),
        "[localhost] ERROR: 550 No one here by that name".to_owned(),
        "brackets [as] they 'are'\tand tabs".to_owned(),
        ".".to_owned(),
    ] {
        peer.send(format!("{line}\r\n"));
    }
    peer.expect("250 ");
    peer.exchange("QUIT", "221 ");
    let log = receiver.read(receiver.log());
    assert_eq!(log.matches("| brackets [as] they 'are'\tand tabs\n").count(), 2, "{log}");
    let original = receiver.write("original.conf", ORIGINAL_FILTER);
    let shipped = repository::path("etc/fail2ban/filter.d/mailrecv.conf");
    for filter in [&shipped, &original] {
        // Names would be looked up, as fail2ban does unless it is told otherwise.
        assert_eq!(hits_with_names(&receiver.log(), filter, "yes"), Hits::new(), "{}: {log}", filter.display());
    }
}

/// Takes some minutes: `tests/run --test activation -- --ignored`.
#[test]
#[ignore = "takes some minutes"]
fn the_filters_find_every_refusal_of_very_many_random_sessions() {
    random_sessions(100_000);
}

/// Random sessions until the logs have so many lines together. MAILRECV_SEED repeats those of an earlier run.
#[expect(clippy::print_stdout, reason = "the test harness shows it with a test that fails")]
fn random_sessions(lines: usize) {
    let seed = std::env::var("MAILRECV_SEED").ok().map(|seed| seed.parse().expect("MAILRECV_SEED is a number"));
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("MAILRECV_SEED={seed}");
    let mut random = Random::new(seed);
    for log_options in LOG_OPTIONS {
        let receiver = Receiver::new(&format!("{}{log_options}", hostile::EVERYTHING_IS_LOGGED));
        let mut expected = Expected { refusals: Hits::new(), unknown_recipients: Hits::new(), sessions: 0 };
        while receiver.read(receiver.log()).lines().count() < lines / LOG_OPTIONS.len() {
            for _ in 0..10 {
                let (peer, replies) = hostile_at_random::session(&receiver, &mut random);
                expected.count(peer, &replies);
            }
        }
        let refusals: usize = expected.refusals.values().sum();
        assert!(refusals > lines / 10 && expected.refusals.len() > 3, "{:?}", expected.refusals);
        println!("{log_options:?}: {} sessions, {refusals} refusals", expected.sessions);
        assert_filters_find(&receiver, &receiver.log(), &expected);
    }
}

/// Who is put off is no offender, but for somebody who is a thousand times in one session.
#[test]
fn the_filter_finds_a_peer_that_is_put_off_a_thousand_times() {
    let receiver = Receiver::new("deliver rcpt_to *@example.com append inbox");
    let service = SuperServer::Listen.start(&receiver, LOOPBACK[0], "");
    for (host, surplus) in [(2, 1_000), (3, 900)] {
        let mut peer = Client::connect_from(Ipv4Addr::new(127, 0, 0, host).into(), service.address);
        peer.expect("220 ");
        peer.exchange("HELO client.example", "250 ");
        peer.exchange("MAIL FROM:<a@b.example>", "250 ");
        for number in 0..100 + surplus {
            let expected = if number < 100 { "250 " } else { "452 " };
            peer.exchange(&format!("RCPT TO:<r{number}@example.com>"), expected);
        }
        peer.exchange("QUIT", "221 ");
        assert_eq!(peer.rest(), "");
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban/filter.d/mailrecv.conf");
    wait_until("the end of both sessions", || {
        (receiver.read(receiver.log()).matches(" such refusals until now)").count() == 4).then_some(())
    });
    let log = receiver.read(receiver.log());
    // Ten of each, then one at a hundred, and the last one.
    assert_eq!(log.lines().filter(|line| line.contains("ERROR: 452 ")).count(), 2 * 12, "{log}");
    assert_eq!(hits(&receiver.log(), &shipped), Hits::from([(OFFENDER, 1)]), "{log}");
}

/// Whatever names they try, in whichever way. Where the accounts cannot be read nobody is an offender.
#[test]
fn the_filter_finds_every_failed_login_once() {
    for log_options in LOG_OPTIONS {
        let receiver = Receiver::new("");
        let accounts = receiver.path("accounts");
        receiver.configure(&format!(
            "{}auth_plaintext on\nauth_file {}\n{log_options}",
            hostile::EVERYTHING_IS_LOGGED,
            accounts.display()
        ));
        let service = SuperServer::Listen.start(&receiver, LOOPBACK[0], "");
        let put_off = failed_logins(&service);
        receiver.write("accounts", ACCOUNTS);
        let refused = failed_logins(&service);
        let count = |replies: &[String], beginning| replies.iter().filter(|reply| reply.starts_with(beginning)).count();
        // NUL separates what is in one response, and is in no name.
        let (failed, malformed) = (count(&refused, "535 5.7.8 "), count(&refused, "501 5.5.2 "));
        assert!(failed > 60 && malformed == 3 && failed + malformed == refused.len(), "{refused:#?}");
        assert_eq!((count(&put_off, "454 4.7.0 "), count(&put_off, "501 5.5.2 ")), (failed, malformed), "{put_off:#?}");
        let sessions = 2 * refused.len() / TRIES;
        wait_until("the end of all sessions", || {
            let log = receiver.read(receiver.log());
            (log.matches("INFO: connection closed").count() == sessions).then_some(())
        });
        let refusals = Hits::from([(OFFENDER, failed + 2 * malformed)]);
        assert_filters_find(
            &receiver,
            &receiver.log(),
            &Expected { refusals, unknown_recipients: Hits::new(), sessions },
        );
    }
}

/// Whoever has logged in is known: a slip of somebody in an office bans nobody there. That is over with STARTTLS, before
/// which anybody may have said who it is.
#[test]
fn what_a_user_is_refused_bans_nobody() {
    let receiver = Receiver::new("");
    receiver.write("accounts", ACCOUNTS);
    receiver.configure(&format!(
        "auth_plaintext on
         auth_file {}
         allow mail_from *@{{b.example}} 550 Sender domain not allowed
         error rcpt_to *@evil.example 550 Recipient domain(s) not allowed
         deliver rcpt_to r*@example.com append inbox
         limit.smtp_rcpt_to 1
         debug F",
        receiver.path("accounts").display()
    ));
    let service = SuperServer::Listen.start(&receiver, LOOPBACK[0], "");
    let known: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    let others: IpAddr = Ipv4Addr::new(127, 0, 0, 3).into();
    for (peer, password) in [(known, "tanstaaftanstaaf"), (others, "wrong")] {
        let mut client = Client::connect_from(peer, service.address);
        client.expect("220 ");
        client.exchange("EHLO client.example", "250-");
        let plain = Base64::encode_string(format!("\0tim\0{password}").as_bytes());
        client.exchange(&format!("AUTH PLAIN {plain}"), if peer == known { "235 " } else { "535 " });
        client.exchange("MAIL FROM:<a@c.example>", "550 5.7.1 Sender domain not allowed");
        client.exchange("MAIL FROM:<a@b.example>", "250 ");
        client.exchange("RCPT TO:<x@evil.example>", "550 5.1.1 Recipient domain(s) not allowed");
        client.exchange("RCPT TO:<nobody@example.com>", "550 5.1.1 ");
        client.exchange("RCPT TO:<r@example.com>", "250 ");
        for number in 0..1_000 {
            client.exchange(&format!("RCPT TO:<r{number}@example.com>"), "452 ");
        }
        client.exchange("FOO", "500 ");
        client.exchange("QUIT", "221 ");
        assert_eq!(client.rest(), "");
    }
    wait_until("the end of both sessions", || {
        (receiver.read(receiver.log()).matches("INFO: connection closed").count() == 2).then_some(())
    });
    let log = receiver.read(receiver.log());
    for line in [
        "WARNING: 550 Sender domain not allowed 'a@c.example' (user 'tim')",
        "WARNING: 550 Recipient domain(s) not allowed 'x@evil.example' (user 'tim')",
        "WARNING: 550 No one here by that name 'nobody@example.com' (user 'tim')",
        "(1000 such refusals until now)",
    ] {
        assert_eq!(
            log.lines().filter(|it| it.contains(&format!("[{known}] ")) && it.contains(line)).count(),
            1,
            "{log}"
        );
    }
    // 535, three of 550, 500, and the thousandth 452.
    let shipped = repository::path("etc/fail2ban/filter.d/mailrecv.conf");
    assert_eq!(hits(&receiver.log(), &shipped), Hits::from([(others, 6)]), "{log}");
    let original = receiver.write("original.conf", ORIGINAL_FILTER);
    assert_eq!(hits(&receiver.log(), &original), Hits::from([(others, 1)]), "{log}");
}

/// Tries to log in by all kinds of names; what each try was answered.
fn failed_logins(service: &Service) -> Vec<String> {
    let mut replies = Vec::new();
    let encoded = |text: &[u8]| Base64::encode_string(text);
    let long = format!("[8.8.8.8] ERROR: 535 {}", "x".repeat(9_000)).into_bytes();
    let others = [long, "j\u{f6}rg [192.0.2.1] '\"".into(), b"fred".into()];
    // What is no UTF-8 is no name.
    let names = hostile::payloads().into_iter().chain(others).filter_map(|name| String::from_utf8(name).ok());
    for name in names {
        let mut peer = Client::connect_from(OFFENDER, service.address);
        peer.expect("220 ");
        peer.exchange("EHLO client.example", "250-");
        let plain = format!("AUTH PLAIN\r\n{}", encoded(format!("\0{name}\0wrong").as_bytes()));
        let login = format!("AUTH LOGIN\r\n{}\r\n{}", encoded(name.as_bytes()), encoded(b"wrong"));
        for (line, challenges) in [(&plain, 1), (&login, 2), (&plain, 1)] {
            // A name that is none ends the exchange.
            let line = if name.contains('\0') { &plain } else { line };
            let challenges = if name.contains('\0') { 1 } else { challenges };
            peer.send(format!("{line}\r\n"));
            (0..challenges).for_each(|_| drop(peer.expect("334 ")));
            replies.push(peer.reply());
        }
    }
    replies
}

/// How often [`failed_logins`] tries each name, in a session of its own.
const TRIES: usize = 3;

#[test]
fn a_running_server_bans_from_the_log_file() {
    let receiver = Receiver::new("");
    fs::write(receiver.log(), "").unwrap();
    let service = SuperServer::Listen.start(&receiver, LOOPBACK[0], "");
    assert_bans(&receiver, &service, &receiver.log());
}

#[test]
fn a_running_server_bans_from_the_system_log() {
    let syslog = Syslog::start();
    for log in [syslog.traditional(), syslog.precise()] {
        let mut receiver = Receiver::new("logfile syslog");
        receiver.logs_to(&syslog);
        fs::write(&log, "").unwrap();
        let service = SuperServer::Listen.start(&receiver, LOOPBACK[0], "");
        assert_bans(&receiver, &service, &log);
    }
}

/// What has to be found.
struct Expected {
    /// Permanent refusals of every kind.
    refusals: Hits,
    /// Those for recipients that do not exist.
    unknown_recipients: Hits,
    sessions: usize,
}

impl Expected {
    /// One more session of this peer, with these replies.
    fn count(&mut self, peer: IpAddr, replies: &str) {
        let (refusals, unknown_recipients) = hostile::refusals(replies);
        for (hits, more) in [(&mut self.refusals, refusals), (&mut self.unknown_recipients, unknown_recipients)] {
            if more > 0 {
                *hits.entry(peer).or_default() += more;
            }
        }
        self.sessions += 1;
    }
}

/// Lets peers do their worst. What they were answered is what has to be found in the log.
fn hostile_sessions(receiver: &Receiver) -> Expected {
    let mut expected = Expected { refusals: Hits::new(), unknown_recipients: Hits::new(), sessions: 0 };
    for address in LOOPBACK {
        let service = SuperServer::Listen.start(receiver, address, "");
        let source = if address.is_ipv4() { OFFENDER } else { address };
        for line_end in [LineEnd::Crlf, LineEnd::Lf] {
            let replies = hostile::session(source, service.address, line_end);
            let (refusals, unknown_recipients) = hostile::refusals(&replies);
            assert!(refusals > 500 && unknown_recipients > 10, "{line_end:?}: {refusals} {unknown_recipients}");
            expected.count(source, &replies);
        }
    }
    expected
}

fn assert_filters_find(receiver: &Receiver, log: &Path, expected: &Expected) {
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains(hostile::VICTIM), "the peers' text is not in the log");
    // Before any filter: every line is one of ours, with nothing in it that ends a line or hides, and a bracketed
    // address is the peer's.
    let ours = Regex::new(r"^[\w .:+-]+ MAILRECV\[\d+\]: \[([0-9a-f.:]+)\] ").unwrap();
    for line in text.split_terminator('\n') {
        let peer = ours.captures(line).and_then(|captures| captures[1].parse().ok());
        assert!(peer.is_some_and(|peer| expected.refusals.contains_key(&peer)), "{line:?}");
        // In mail for people a tab is a tab.
        let is_tab = |c| c == '\t' && line.contains("] | ");
        assert!(
            !line.contains(|c: char| !is_tab(c) && (c.is_control() || matches!(c, '\u{2028}' | '\u{202e}'))),
            "{line:?}"
        );
        for part in [format!("[{}", hostile::VICTIM), format!("{}]", hostile::VICTIM)] {
            assert!(!line.contains(&part), "{line:?}");
        }
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban/filter.d/mailrecv.conf");
    assert_eq!(hits(log, &shipped), expected.refusals);
    let original = receiver.write("original.conf", ORIGINAL_FILTER);
    assert_eq!(hits(log, &original), expected.unknown_recipients);
    // Whatever somebody might write: any address in brackets, anywhere in a line, the last one and the first one.
    for careless in [r"^.*\[<ADDR>\]", r"\[<ADDR>\].*ERROR", r"^.* \[<HOST>\]:? .*5\d\d"] {
        let filter = receiver.write("careless.conf", format!("[Definition]\nfailregex = {careless}\n"));
        let found = hits(log, &filter);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.refusals.keys().collect::<Vec<_>>(), "{careless}");
    }
}

/// What a filter finds in a log.
pub(crate) fn hits(log: &Path, filter: &Path) -> Hits {
    hits_with_names(log, filter, "no")
}

/// The same, with what is done about the names of hosts (usedns in jail.conf(5)).
fn hits_with_names(log: &Path, filter: &Path, use_dns: &str) -> Hits {
    let mut regex = debian::fail2ban("fail2ban-regex");
    regex.args(["--out", "ip", "--usedns", use_dns]).args([log, filter]);
    let mut hits = Hits::new();
    for address in succeeds_within(regex, "", LONGEST_SEARCH).split_whitespace() {
        let address = address.parse().unwrap_or_else(|_| panic!("{}: `{address}` was hit", filter.display()));
        *hits.entry(address).or_default() += 1;
    }
    hits
}

/// Starts fail2ban with the shipped jail on this log. A peer is banned by its last refusal that is needed for that, and
/// not before; another peer's mail is no reason.
fn assert_bans(receiver: &Receiver, service: &Service, log: &Path) {
    let fail2ban = Fail2ban::start(receiver, log);
    let needed = fail2ban.refusals_needed;
    let mut peer = Client::connect(service.address);
    peer.reply();
    peer.deliver_subject(FRED, "[127.0.0.3] ERROR: 550 No one here");
    // One in a session: more than a few would end it.
    let refusal = || {
        let mut peer = Client::connect_from(OFFENDER, service.address);
        peer.reply();
        assert!(peer.offer("nobody@example.com").starts_with("550 "));
        // Sent before the refusal was read, as mail servers do: it counts once.
        peer.exchange("DATA", "503");
    };
    (1..needed).for_each(|_| refusal());
    wait_until("all refusals but one", || (fail2ban.found() == needed - 1).then_some(()));
    assert_eq!(fail2ban.banned(), "", "after {} of {needed} refusals", needed - 1);
    refusal();
    wait_until("the ban", || (!fail2ban.banned().is_empty()).then_some(()));
    assert_eq!(fail2ban.banned(), format!("{OFFENDER}\n"));
}

/// A running fail2ban server with folders of its own, and an action that writes down who was banned.
struct Fail2ban {
    _daemon: Daemon,
    log: PathBuf,
    banned: PathBuf,
    refusals_needed: usize,
}

impl Fail2ban {
    fn start(receiver: &Receiver, log: &Path) -> Self {
        let folder = receiver.path("fail2ban");
        let path = |name: &str| folder.join(name);
        let (own_log, banned, ready) = (path("fail2ban.log"), path("banned"), path("socket"));
        for name in ["filter.d", "jail.d", "action.d"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let jail = repository::text("etc/fail2ban/jail.d/mailrecv.conf");
        let refusals_needed = jail.lines().find_map(|line| line.strip_prefix("maxretry = ")).unwrap().parse().unwrap();
        // Of the two logs that the jail names, a machine may have only one.
        let (log, none) = (log.display().to_string(), path("none").display().to_string());
        let jail = replaced(
            &jail,
            &[("/var/log/mailrecv.log\n", &format!("{log}\n")), ("/var/log/mail.log\n", &format!("{none}\n"))],
        );
        for (name, text) in [
            ("jail.d/mailrecv.conf", jail),
            ("filter.d/mailrecv.conf", repository::text("etc/fail2ban/filter.d/mailrecv.conf")),
            ("jail.conf", "[DEFAULT]\naction = record\n".to_owned()),
            ("action.d/record.conf", format!("[Definition]\nactionban = echo <ip> >>{}\n", banned.display())),
            (
                "fail2ban.conf",
                format!(
                    "[Definition]\nloglevel = INFO\nlogtarget = {}\nsyslogsocket = auto\nsocket = {}\npidfile = {}\n\
                     dbfile = {}\ndbpurgeage = 1d\nallowipv6 = auto\n",
                    own_log.display(),
                    ready.display(),
                    path("pid").display(),
                    path("database").display()
                ),
            ),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let mut server = debian::fail2ban("fail2ban-server");
        server.arg("-c").arg(&folder).arg("-s").arg(&ready).arg("-p").arg(path("pid")).args(["-xf", "start"]);
        let mut daemon = Daemon::start(server, path("server.out"));
        daemon.until("the jail", |_| receiver.read(&own_log).contains("Jail 'mailrecv' started").then_some(()));
        Self { _daemon: daemon, log: own_log, banned, refusals_needed }
    }

    /// How many refusals it has read.
    fn found(&self) -> usize {
        fs::read_to_string(&self.log).unwrap().matches("] Found ").count()
    }

    /// The addresses it has banned, one a line.
    fn banned(&self) -> String {
        fs::read_to_string(&self.banned).unwrap_or_default()
    }
}

/// Both ways in which peers' text is written.
const LOG_OPTIONS: [&str; 2] = ["loghex on", "loghex off\nlimit.smtp_ascii off"];

/// A hundred thousand lines take minutes.
const LONGEST_SEARCH: Duration = Duration::from_mins(20);

/// The peer that offends.
const OFFENDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// The filter of the original's document.
const ORIGINAL_FILTER: &str = r"
# Ban clients sending email to non-existant addresses. Errors of the form:
# ERROR: [1.2.3.4] 550 No one here by that name..
[Definition]
    failregex   = ^.* \[<HOST>\] ERROR: 550 No one here
    ignoreregex =
";
