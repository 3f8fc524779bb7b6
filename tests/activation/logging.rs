//! What arrives in the system log, and that logrotate may move a log file away at any time.

use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use testkit::debian::{USER, chown};
use testkit::repository::{self, replaced};
use testkit::syslog::{DevLog, Syslog};
use testkit::{Client, LOOPBACK, Session, debian, succeeds, wait_until};

use crate::support::receiver::{FRED, Receiver};
use crate::support::super_server::{Listener, Service, SuperServer};

#[test]
fn the_system_log_gets_what_a_file_would_get() {
    let syslog = Syslog::start();
    for (super_server, address) in
        [SuperServer::Xinetd, SuperServer::Listen].into_iter().flat_map(|server| LOOPBACK.map(|ip| (server, ip)))
    {
        let mut receiver = Receiver::new("logfile syslog");
        receiver.logs_to(&syslog);
        let service = super_server.start(&receiver, address, "");
        let mut peer = Client::connect(service.address);
        peer.reply();
        assert_eq!(peer.offer("nobody@example.com"), "550 5.1.1 No one here by that name");
        peer.exchange("RCPT TO:<fred@example.com>", "250");
        peer.exchange("DATA", "354");
        peer.exchange("Subject: x\r\n\r\nx\r\n.", "250");
        peer.exchange("QUIT", "221");

        // The path is this installation's own.
        let delivery = format!("append '{}': delivered\n", receiver.mailbox().display());
        let log = until_logged(&syslog.traditional(), &delivery);
        let refusal = format!("[{address}] ERROR: 550 No one here by that name 'nobody@example.com'");
        let line = log.lines().rfind(|line| line.ends_with(&refusal)).unwrap_or_else(|| panic!("{log}"));
        let process = line.strip_suffix(&format!(": {refusal}")).unwrap().rsplit_once(' ').unwrap().1;
        let number = process.strip_prefix("MAILRECV[").and_then(|process| process.strip_suffix(']'));
        assert!(number.is_some_and(|number| number.parse::<u32>().is_ok()), "{line}");
        let priorities = until_logged(&syslog.priorities(), &delivery);
        assert!(priorities.contains(&format!("mail.err: {refusal}\n")), "{priorities}");
        assert!(priorities.contains(&format!("mail.info: [{address}] Mail id=")), "{priorities}");
        assert_eq!(receiver.read(receiver.log()), "");
    }
}

#[test]
fn errors_of_the_configuration_go_to_the_system_log() {
    let syslog = Syslog::start();
    let mut receiver = Receiver::new("logfile syslog\ndelivr rcpt_to a@example.com discard");
    receiver.logs_to(&syslog);
    let service = SuperServer::Xinetd.start(&receiver, LOOPBACK[0], "");
    assert!(Client::connect(service.address).rest().starts_with("421 4.3.5 "));
    until_logged(&syslog.traditional(), "mailrecv.conf:7:1: error: ");
}

#[test]
fn a_log_file_that_cannot_be_opened_is_told_to_the_system_log() {
    let syslog = Syslog::start();
    let mut receiver = Receiver::new("logfile /no/such/folder/mailrecv.log");
    receiver.logs_to(&syslog);
    let service = SuperServer::Xinetd.start(&receiver, LOOPBACK[0], "");
    let mut peer = Client::connect(service.address);
    peer.reply();
    peer.deliver_subject(FRED, "logged elsewhere");
    let log = until_logged(&syslog.traditional(), "[127.0.0.1] Mail id=");
    assert!(log.contains("WARNING: logging here, because /no/such/folder/mailrecv.log cannot be opened"), "{log}");
}

/// And where there is no system log, as in a container, to who started the session.
#[test]
fn a_log_file_that_cannot_be_opened_is_told_to_standard_error() {
    let dev_log = DevLog::new();
    let mut receiver = Receiver::new("logfile /no/such/folder/mailrecv.log");
    receiver.logs_to(&dev_log);
    let mut command = receiver.command();
    command.args(["--peer", "192.0.2.7=mail.example.net"]);
    let stderr = fs::File::create(receiver.path("stderr")).unwrap();
    let mut session = Session::start_with_stderr(receiver.launched(command), stderr.into());
    session.reply();
    session.offer("nobody@example.com");
    session.quit();
    let told = receiver.read(receiver.path("stderr"));
    let lines: Vec<&str> = told.lines().map(|line| line.split_once("]: [192.0.2.7] ").unwrap().1).collect();
    // Run by root, it warns of that in between.
    let [warning, .., refusal] = lines[..] else { panic!("{lines:?}") };
    let path = "/no/such/folder/mailrecv.log";
    assert!(warning.starts_with(&format!("WARNING: logging here, because {path} cannot be opened: ")), "{warning}");
    assert!(refusal.starts_with("ERROR: 550 "), "{refusal}");
}

/// Its socket is another one then, under the same name.
#[test]
fn a_log_daemon_that_was_restarted_is_found_again() {
    let mut syslog = Syslog::start();
    let mut receiver = Receiver::new("logfile syslog");
    receiver.logs_to(&syslog);
    let listener = Listener::start(&receiver, &["--max-per-address", "1", "127.0.0.1:0"]);
    let mut inside = listener.peer(1);
    inside.reply();
    for time in ["before", "after"] {
        inside.offer(&format!("{time}@example.com"));
        until_logged(&syslog.traditional(), &format!("[127.0.0.1] ERROR: 550 No one here by that name '{time}@"));
        let count = || receiver.read(syslog.traditional()).matches("ERROR: 421 Too many connections").count();
        let others = count();
        assert!(listener.peer(1).rest().starts_with("421 "));
        wait_until("the peer that was turned away", || (count() > others).then_some(()));
        syslog.restart();
    }
}

/// A daemon may have a stream in place of datagrams: a NUL ends each message there.
#[test]
fn a_system_log_may_be_a_stream() {
    let dev_log = DevLog::new();
    let mut receiver = Receiver::new("logfile syslog");
    receiver.logs_to(&dev_log);
    let mut command = receiver.command();
    command.args(["--peer", "192.0.2.7=mail.example.net"]);
    let bind = || {
        let _ = fs::remove_file(dev_log.socket());
        let listener = UnixListener::bind(dev_log.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let mut daemon = bind();
    let mut session = Session::start(receiver.launched(command));
    session.reply();
    for time in ["before", "after"] {
        // Enough for several messages on one connection.
        let names = ["one", "two"].map(|name| format!("{time}.{name}"));
        names.iter().for_each(|name| drop(session.offer(&format!("{name}@example.com"))));
        let mut connection = wait_until("a connection to the log daemon", || daemon.accept().ok()).0;
        // Whoever is restarted closes what it had accepted, and its socket.
        daemon = bind();
        connection.shutdown(Shutdown::Write).unwrap();
        connection.set_nonblocking(true).unwrap();
        let mut text = Vec::new();
        let _ = connection.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        // Facility mail: an error, a warning.
        assert!(text.starts_with("<19>") || text.starts_with("<20>"), "{text}");
        let messages: Vec<&str> = text.split_terminator('\0').collect();
        let refusals: Vec<&str> =
            messages.iter().filter_map(|message| message.split_once("that name '")).map(|it| it.1).collect();
        assert_eq!(refusals, names.map(|name| format!("{name}@example.com'")), "{text:?}");
    }
    session.quit();
}

#[test]
fn logrotate_needs_to_tell_nobody() {
    let receiver = Receiver::new("");
    // As the README has it.
    fs::write(receiver.log(), "").unwrap();
    chown(receiver.log(), format!("{USER}:adm"));
    let service = SuperServer::Xinetd.start(&receiver, LOOPBACK[0], "");
    let log = receiver.log().display().to_string();
    let rules = repository::text("etc/logrotate.d/mailrecv");
    let rules = replaced(&rules, &[("/var/log/mailrecv.log {", &format!("{log} {{"))]);
    let rules = receiver.write("logrotate.conf", &rules);

    refusal(&service, "first");
    let mut under_way = Client::connect(service.address);
    under_way.reply();
    assert!(under_way.offer("before@example.com").starts_with("550"));
    for rotation in ["second", "third"] {
        let mut logrotate = debian::command("logrotate", "logrotate");
        logrotate.args(["--force", "--state"]).arg(receiver.path("logrotate.state")).arg(&rules);
        succeeds(logrotate, "");
        assert_eq!(receiver.read(receiver.log()), "", "not rotated");
        refusal(&service, rotation);
        let fresh = receiver.read(receiver.log());
        assert_eq!(fresh.matches("ERROR: 550").count(), 1, "{fresh}");
        assert!(fresh.contains(&format!("'{rotation}@example.com'")), "{fresh}");
    }
    // The session that was under way still writes where it began, and that file is not lost: it is compressed by now.
    let names = ["mailrecv.log.1", "mailrecv.log.2.gz"].map(|name| receiver.path(name));
    assert!(receiver.read(&names[0]).contains("'second@example.com'"));
    assert!(names[1].exists());
    under_way.exchange("QUIT", "221");
    let made = fs::metadata(receiver.log()).unwrap();
    let owned = fs::metadata(receiver.path("")).unwrap().uid();
    assert_eq!((made.uid(), made.mode() & 0o777), (owned, 0o640));
}

/// One session that is refused a recipient.
fn refusal(service: &Service, name: &str) {
    let mut peer = Client::connect(service.address);
    peer.reply();
    assert!(peer.offer(&format!("{name}@example.com")).starts_with("550"));
    peer.exchange("QUIT", "221");
    assert_eq!(peer.rest(), "");
}

/// Waits for a line that has this; all lines.
fn until_logged(log: &Path, part: &str) -> String {
    wait_until(part, || fs::read_to_string(log).ok().filter(|log| log.contains(part)))
}
