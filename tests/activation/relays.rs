//! SMTP smuggling through real mail servers: a client that may send through Exim or Postfix puts into its message what
//! some receivers take for the end of a message, and behind that another one, with a sender of its choice. Whatever the
//! server makes of it: each message that the server accepted lies in the mailbox once and whole, or was refused.
//!
//! What each server does with each sequence is printed (`--nocapture` shows it).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use testkit::exim::Exim;
use testkit::postfix::Postfix;
use testkit::{debian, succeeds};

use crate::support::receiver::Receiver;
use crate::support::super_server::Listener;

#[test]
fn nothing_is_smuggled_through_exim() {
    for bare_newline in ["reject", "accept"] {
        let trial = Trial::new(bare_newline);
        let exim = Exim::new(trial.next_hop().port());
        let accepted = trial.submit(|script| exim.submit(script));
        exim.run_queue();
        let verdict = trial.judge("Exim", &accepted);
        assert_eq!(verdict.split, [REAL_END]);
    }
}

/// Addresses beyond ASCII get through servers that ask for SMTPUTF8, and come from a client that does.
#[test]
fn addresses_beyond_ascii_are_taken_from_those_who_ask() {
    let receiver = Receiver::new("");
    let directives = format!(
        "limit.smtp_ascii off\nloghex off\ndeliver rcpt_to j\u{fc}rgen@b\u{fc}cher.example append {}",
        receiver.mailbox().display()
    );
    receiver.configure(&directives);
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    let script = "EHLO client.example\r\nMAIL FROM:<\u{e9}lan@b.example> SMTPUTF8\r\n\
                  RCPT TO:<j\u{fc}rgen@b\u{fc}cher.example>\r\nDATA\r\n\
                  Subject: gr\u{fc}\u{df}e\r\n\r\nx\r\n.\r\nQUIT\r\n";
    let exim = Exim::new(listener.addresses[0].port());
    let replies = exim.submit(script);
    assert!(replies.contains("250 OK id="), "{replies}");
    exim.run_queue();
    let postfix = Postfix::start(listener.addresses[0], "smtputf8_enable = yes\n");
    let replies = postfix.submit(script);
    assert!(replies.contains("250 2.0.0 Ok: queued"), "{replies}");
    postfix.until_queue_is_empty();
    let mut python = debian::command("python3", "python3");
    let address = listener.addresses[0];
    python.args(["-c", SMTPLIB_UTF8, &address.ip().to_string(), &address.port().to_string()]);
    succeeds(python, "");
    let mailbox = receiver.read(receiver.mailbox());
    let messages: Vec<&str> = mailbox.split("\n\nFrom ").collect();
    assert_eq!(messages.len(), 3, "{mailbox}");
    assert_eq!(mailbox.matches("\nReceived: from relay.example ").count(), 2, "{mailbox}");
    for message in messages {
        assert!(message.contains("Return-Path: <\u{e9}lan@b.example>\n"), "{message}");
        assert!(message.contains("Delivered-To: j\u{fc}rgen@b\u{fc}cher.example\n"), "{message}");
        assert!(message.contains(" (mailrecv) with UTF8SMTP id "), "{message}");
        assert!(message.contains("\nSubject: gr\u{fc}\u{df}e\n"), "{message}");
    }
}

/// Exim sends chunks where they are offered. Large ones and many of them arrive as they would behind DATA.
#[test]
fn a_message_of_exim_comes_in_chunks() {
    let receiver = Receiver::new("debug s");
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    let exim = Exim::new(listener.addresses[0].port());
    let text: String = (0..20_000).map(|number| format!(".{number} \u{e9}\r\n")).collect();
    let stuffed = text.replace("\r\n.", "\r\n..");
    exim.submit(&format!(
        "EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<fred@example.com>\r\nDATA\r\n\
         Subject: chunks\r\n\r\n.{stuffed}.\r\nQUIT\r\n"
    ));
    exim.run_queue();
    let mailbox = receiver.read(receiver.mailbox());
    assert!(mailbox.ends_with(&format!("\n\n{}\n", text.replace("\r\n", "\n"))), "{} bytes", mailbox.len());
    let log = receiver.read(receiver.log());
    let chunks = log.lines().filter(|line| line.contains("SMTP cmd: 'BDAT ")).count();
    assert!(chunks > 1 && log.contains(" LAST'") && !log.contains("'DATA'"), "{log}");
}

#[test]
fn nothing_is_smuggled_through_postfix() {
    for bare_newline in ["reject", "accept"] {
        let trial = Trial::new(bare_newline);
        let postfix = Postfix::start(
            trial.next_hop(),
            "smtpd_forbid_bare_newline = yes\nsmtpd_forbid_bare_newline_exclusions =\n",
        );
        let accepted = trial.submit(|script| postfix.submit(script));
        postfix.until_queue_is_empty();
        let verdict = trial.judge("Postfix", &accepted);
        assert_eq!(verdict.split, [REAL_END]);
    }
}

/// As it was before 2024: it takes many sequences for an end, and passes on what it does not.
#[test]
fn nothing_is_smuggled_through_a_postfix_without_defences() {
    for bare_newline in ["reject", "accept"] {
        let trial = Trial::new(bare_newline);
        let postfix =
            Postfix::start(trial.next_hop(), "smtpd_forbid_bare_newline = no\ncleanup_replace_stray_cr_lf = no\n");
        let accepted = trial.submit(|script| postfix.submit(script));
        postfix.until_queue_is_empty();
        let verdict = trial.judge("Postfix without its defences", &accepted);
        // Its own mistake, which shows that the sequences are what they should be. Both messages were accepted there.
        assert!(verdict.split.contains(&"LF . LF") && verdict.split.contains(&"LF . CRLF"), "{verdict:?}");
        // Bare line ends do come through to us.
        assert_eq!(verdict.refused > 3, bare_newline == "reject", "{verdict:?}");
        assert_eq!(verdict.with_bare_cr > 3, bare_newline == "accept", "{verdict:?}");
    }
}

/// A mail server with us behind it, and what a client tries to smuggle.
struct Trial {
    // First, as the receiver's end waits for the end of all that it has started.
    listener: Listener,
    receiver: Receiver,
    bare_newline: &'static str,
}

/// What came of all sequences.
#[derive(Debug)]
struct Verdict {
    /// Those that the mail server itself took for the end of a message.
    split: Vec<&'static str>,
    /// How many messages we refused.
    refused: usize,
    /// How many messages have a bare CR in the mailbox.
    with_bare_cr: usize,
}

impl Trial {
    fn new(bare_newline: &'static str) -> Self {
        let receiver = Receiver::new(&format!("limit.bare_newline {bare_newline}"));
        let listener = Listener::start(&receiver, &["--max-per-address", "100", "127.0.0.1:0"]);
        Self { listener, receiver, bare_newline }
    }

    /// Where the mail server has to pass its mail on to.
    fn next_hop(&self) -> SocketAddr {
        self.listener.addresses[0]
    }

    /// Submits a message with each sequence in it. Returns how many messages the server accepted, by sequence.
    fn submit(&self, server: impl Fn(&str) -> String) -> Vec<usize> {
        let submission = |(number, (_, sequence)): (usize, &(&str, &str))| {
            let replies = server(&script(number, sequence));
            assert!(replies.lines().last().is_some_and(|line| line.starts_with("221 ")), "{sequence:?}: {replies}");
            // Behind 354 comes what a message was answered.
            let finals = replies.split("\r\n354 ").skip(1).filter_map(|part| part.lines().nth(1));
            finals.filter(|reply| reply.starts_with("250 ")).count()
        };
        SEQUENCES.iter().enumerate().map(submission).collect()
    }

    /// Compares what was accepted with what lies in the mailbox.
    fn judge(&self, server: &str, accepted: &[usize]) -> Verdict {
        let mailbox = self.receiver.read(self.receiver.mailbox());
        let messages = by_sender(&mailbox);
        let mut verdict = Verdict { split: Vec::new(), refused: 0, with_bare_cr: 0 };
        for (number, (name, sequence)) in SEQUENCES.iter().enumerate() {
            let delivered = |who| messages.get(&format!("{who}-{number}@mydomain.com")).map_or(&[][..], Vec::as_slice);
            let (outer, inner) = (delivered("outer"), delivered("inner"));
            self.print(server, name, accepted[number], outer);
            match accepted[number] {
                0 => assert!(outer.is_empty() && inner.is_empty(), "{server}: {sequence:?}: {mailbox}"),
                1 => {
                    assert!(inner.is_empty(), "{server}: {sequence:?} smuggled a message: {mailbox}");
                    assert!(outer.len() <= 1, "{server}: {sequence:?}: there twice: {mailbox}");
                    for message in outer {
                        // Whole: up to the last line, with what was to be smuggled as text.
                        assert!(
                            message.contains("\nRCPT TO:<fred@example.com>\n"),
                            "{server}: {sequence:?}: {message}"
                        );
                        assert!(message.ends_with("\nthe end\n\n"), "{server}: {sequence:?}: {message}");
                    }
                }
                _ => {
                    verdict.split.push(name);
                    assert!(outer.len() <= 1 && inner.len() <= 1, "{server}: {sequence:?}: {mailbox}");
                }
            }
            verdict.refused += accepted[number] - outer.len() - inner.len();
            verdict.with_bare_cr += outer.iter().filter(|message| message.contains('\r')).count();
        }
        let log = self.receiver.read(self.receiver.log());
        let logged = log.lines().filter(|line| line.contains("] ERROR: 550 Bare CR or LF in the message")).count();
        assert_eq!(verdict.refused, logged, "{server}: lost without a word, or refused without effect: {log}");
        verdict
    }

    #[expect(clippy::print_stdout, reason = "the test harness shows it on request")]
    fn print(&self, server: &str, name: &str, accepted: usize, outer: &[&str]) {
        let text = outer.first().map_or("not delivered".to_owned(), |message| {
            let after = message.split_once("\nbefore").map_or("", |(_, after)| after);
            format!("{:?}", after.split_once("MAIL FROM").map_or(after, |(between, _)| between))
        });
        println!(
            "{server}, bare_newline {}, {name}: accepted as {accepted}; in the mailbox: {text}",
            self.bare_newline
        );
    }
}

/// A session whose message has a sequence in it, and behind it another message.
fn script(number: usize, sequence: &str) -> String {
    format!(
        "EHLO client.example\r\n\
         MAIL FROM:<outer-{number}@mydomain.com>\r\n\
         RCPT TO:<fred@example.com>\r\n\
         DATA\r\n\
         Subject: outer\r\n\
         \r\n\
         before{sequence}\
         MAIL FROM:<inner-{number}@mydomain.com>\r\n\
         RCPT TO:<fred@example.com>\r\n\
         DATA\r\n\
         Subject: inner\r\n\
         \r\n\
         the end\r\n\
         .\r\n\
         QUIT\r\n"
    )
}

/// The messages of a mailbox by their Return-Path.
fn by_sender(mailbox: &str) -> BTreeMap<String, Vec<&str>> {
    let mut messages = BTreeMap::<String, Vec<&str>>::new();
    let mut start = 0;
    while start < mailbox.len() {
        let end = mailbox[start..].find("\n\nFrom ").map_or(mailbox.len(), |at| start + at + 2);
        let message = &mailbox[start..end];
        let path = message.lines().find_map(|line| line.strip_prefix("Return-Path: <")?.strip_suffix('>'));
        messages.entry(path.unwrap_or_else(|| panic!("{message}")).to_owned()).or_default().push(message);
        start = end;
    }
    messages
}

/// Python's own client, which asks for SMTPUTF8 only of a server that offers it.
const SMTPLIB_UTF8: &str = "\
import smtplib, sys
from email.message import EmailMessage
host, port = sys.argv[1:]
message = EmailMessage()
message['From'] = '\u{e9}lan@b.example'
message['To'] = 'j\u{fc}rgen@b\u{fc}cher.example'
message['Subject'] = 'gr\u{fc}\u{df}e'
message.set_content('x')
with smtplib.SMTP(host, int(port), local_hostname='client.example', timeout=180) as server:
    assert server.send_message(message) == {}
";

/// What some server somewhere has taken for the end of a message. Behind each, a line begins.
const SEQUENCES: [(&str, &str); 24] = [
    ("LF . LF", "\n.\n"),
    ("LF . CRLF", "\n.\r\n"),
    ("LF . CR", "\n.\r"),
    ("CRLF . LF", "\r\n.\n"),
    ("CRLF . CR", "\r\n.\r"),
    ("CR . CR", "\r.\r"),
    ("CR . LF", "\r.\n"),
    ("CR . CRLF", "\r.\r\n"),
    ("LFCR . LFCR", "\n\r.\n\r"),
    ("LFCR . CRLF", "\n\r.\r\n"),
    ("CRLF NUL . CRLF", "\r\n\0.\r\n"),
    ("CRLF . NUL CRLF", "\r\n.\0\r\n"),
    ("NUL . NUL", "\0.\0"),
    ("CRLF . CRCRLF", "\r\n.\r\r\n"),
    (REAL_END, "\r\r\n.\r\n"),
    ("CRCRLF . CRCRLF", "\r\r\n.\r\r\n"),
    ("CRLFCR . CRLF", "\r\n\r.\r\n"),
    ("CRLF .. CRLF", "\r\n..\r\n"),
    ("CRLF . blank CRLF", "\r\n. \r\n"),
    ("CRLF . tab CRLF", "\r\n.\t\r\n"),
    ("CRLF . VT CRLF", "\r\n.\x0b\r\n"),
    ("CRLF . NEL", "\r\n.\u{85}"),
    ("CRLF . line separator", "\r\n.\u{2028}"),
    ("VT . VT", "\x0b.\x0b"),
];

/// The one that has CRLF . CRLF in it, which is the end (RFC 5321, section 4.1.1.4).
const REAL_END: &str = "CRCRLF . CRLF";
