//! `exactly_once` and real servers with queues: a session is killed when their message is stored and before they can know
//! it, they send it again, and it is there once; without `exactly_once`, twice.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

use testkit::debian;
use testkit::exim::Exim;
use testkit::opensmtpd::OpenSmtpd;
use testkit::postfix::Postfix;
use testkit::session::attach;
use testkit::{Client, LOOPBACK, Process, wait_until};

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

/// How the message is cut off that is stored: what strace does to the session that has it.
const ENDS: &[&str] = &[
    // The first write behind the sync: to say in its record that the message is delivered, or else its answer.
    "pwrite64:signal=KILL:when=2",
    "fdatasync:signal=KILL:when=2",
];

/// The same without records: the sync of the mailbox.
const END_WITHOUT: &str = "fdatasync:signal=KILL:when=1";

/// A receiver that serves connection after connection, the first of them under strace, with this injection.
struct Receiver {
    scratch: Scratch,
    listener: TcpListener,
}

impl Receiver {
    fn new(more: &str) -> Self {
        let rules = "deliver rcpt_to *@final.example append inbox\n";
        let scratch = Scratch::with_config(&format!("domain final.example\ndebug +w\nsandbox off\n{rules}{more}"));
        if !more.is_empty() {
            // The table is there before, so that its making is no part of what is counted.
            let mut session = scratch.greeted();
            session.exchange("NOOP", "250 ");
            session.quit();
        }
        Self { scratch, listener: TcpListener::bind((LOOPBACK[0], 0)).unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Serves one connection, to its end; the exit status, 128 + N after a signal N.
    fn serve(&self, injection: Option<&str>) -> i32 {
        // Whoever waits here has the other side's reason told, if that one gives up.
        self.listener.set_nonblocking(true).unwrap();
        let (connection, _) = wait_until("a connection", || self.listener.accept().ok());
        connection.set_nonblocking(false).unwrap();
        let mut command = match injection {
            None => Command::new(MAILRECV),
            Some(injection) => {
                let mut strace = debian::command("strace", "strace");
                strace.args(["-o", "/dev/null", "-e", &format!("inject={injection}"), MAILRECV]);
                strace
            }
        };
        let folder = self.scratch.path("");
        command.arg("-c").arg(CONFIG).arg("-l").arg(LOG).args(["--peer", PEER]).current_dir(folder);
        attach(&mut command, &OwnedFd::from(connection));
        command.stderr(Stdio::null());
        Process::start(command).exit_code()
    }

    fn messages(&self) -> Vec<Vec<u8>> {
        let text = self.scratch.read("inbox");
        let mut messages: Vec<Vec<u8>> = Vec::new();
        for line in text.split_inclusive('\n') {
            if line.starts_with("From ") {
                messages.push(Vec::new());
            }
            messages.last_mut().unwrap().extend_from_slice(line.as_bytes());
        }
        messages
    }
}

/// What was sent, without what we put in front of it.
fn as_sent(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let at = text.find("Received: from relay.example").unwrap();
    let own_end = text[at..].find("; ").unwrap() + at;
    text[own_end..].split_once('\n').unwrap().1.to_owned()
}

const MESSAGE: &str = "EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<fred@final.example>\r\nDATA\r\n\
                       Subject: once\r\n\r\nFrom here\r\nto there\r\n.\r\nQUIT\r\n";

/// A Postfix that tries again soon, but not while its client may still have the file open: such a message it passes over.
const HASTY: &str = "minimal_backoff_time = 3s\nqueue_run_delay = 1s\n";

const ONCE: &str = "exactly_once once\n";

/// Runs a server's part beside the receiver's; how the first session of the receiver ended.
fn first_and_second(receiver: &Receiver, injection: &str, send: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let sender = scope.spawn(send);
        assert_eq!(receiver.serve(Some(injection)), 128 + 9, "{injection}");
        assert_eq!(receiver.serve(None), 0, "{injection}");
        sender.join().unwrap();
    });
}

fn judge(receiver: &Receiver, is_recognised: bool, what: &str) {
    let messages = receiver.messages();
    assert_eq!(messages.len(), if is_recognised { 1 } else { 2 }, "{what}");
    let log = receiver.scratch.read(LOG);
    assert_eq!(log.contains("delivered before as "), is_recognised, "{what}: {log}");
    if let [one, other] = &messages[..] {
        assert_eq!(as_sent(one), as_sent(other), "{what}: it is not the same that comes again");
    }
}

#[test]
fn postfix_sends_again_and_it_is_there_once() {
    for (more, injection) in ENDS.iter().map(|end| (ONCE, *end)).chain([("", END_WITHOUT)]) {
        let receiver = Receiver::new(more);
        let next = receiver.listener.local_addr().unwrap();
        first_and_second(&receiver, injection, || {
            let postfix = Postfix::start(next, HASTY);
            assert!(postfix.submit(MESSAGE).contains("250 2.0.0 Ok: queued"));
            wait_until("the second try", || postfix.log().contains("status=sent").then_some(()));
            postfix.until_queue_is_empty();
            assert!(postfix.log().contains("status=deferred"), "{}", postfix.log());
        });
        judge(&receiver, !more.is_empty(), &format!("{more}{injection}"));
    }
}

#[test]
fn exim_sends_again_and_it_is_there_once() {
    for (more, injection) in ENDS.iter().map(|end| (ONCE, *end)).chain([("", END_WITHOUT)]) {
        let receiver = Receiver::new(more);
        let port = receiver.port();
        first_and_second(&receiver, injection, || {
            // Without a rule for it, it tries nothing twice.
            let exim = Exim::with_transport(&format!("driver = smtp\n  port = {port}\nbegin retry\n* * F,1h,1s"));
            exim.submit(MESSAGE);
            let log = exim.try_queue();
            assert!(log.contains(" defer (-18) "), "{log}");
            exim.run_queue();
        });
        judge(&receiver, !more.is_empty(), &format!("{more}{injection}"));
    }
}

#[test]
fn opensmtpd_sends_again_and_it_is_there_once() {
    for (more, injection) in ENDS.iter().map(|end| (ONCE, *end)).chain([("", END_WITHOUT)]) {
        let receiver = Receiver::new(more);
        let next = receiver.listener.local_addr().unwrap();
        first_and_second(&receiver, injection, || {
            let opensmtpd = OpenSmtpd::start(next);
            // It has no PIPELINING.
            let mut session = Client::connect(opensmtpd.address());
            session.expect("220 ");
            session.deliver(&["fred@final.example"]);
            wait_until("the first try", || opensmtpd.log().contains("result=\"TempFail\"").then_some(()));
            opensmtpd.run_queue();
            wait_until("the second try", || opensmtpd.log().contains("result=\"Ok\"").then_some(()));
        });
        judge(&receiver, !more.is_empty(), &format!("{more}{injection}"));
    }
}
