//! Whole sessions: each command and each message has one reply, and how the input arrives makes no difference.
//!
//! An input is a digit, which chooses a configuration, and what a peer sends.

use mailrecv::config::{Config, Protocol};
use mailrecv::smtp::LineEnding;
use mailrecv::smtp::command::{self, Command, Dialect};

use super::conversation::{self, Conversation};
use super::{config, pieces, reference};

thread_local! {
    static CONFIGS: Vec<Config> = CONFIG_TEXTS
        .iter()
        .map(|text| config::load(text.as_bytes()).unwrap_or_else(|unusable| panic!("{text}: {:?}", unusable.errors)))
        .collect();
}

/// Holds the session in three ways.
pub fn check(input: &[u8]) {
    if let Some((choice, sent)) = input.split_first() {
        let choice = usize::from(choice.wrapping_sub(b'0'));
        check_ways(choice, sent, &pieces::three_ways(sent));
        check_secrets(choice, sent);
    }
}

/// What a peer sends behind AUTH is in no line of the log, unless it is a command that names a host or an address.
pub fn check_secrets(choice: usize, sent: &[u8]) {
    let line: Vec<u8> = sent.iter().copied().filter(|byte| *byte != b'\n').take(LONGEST_SECRET).collect();
    for announcement in
        [&b"AUTH LOGIN"[..], b" auth\tplain x", b"PASS x", b"FOO\rAUTH x", &[b"AUTH ", &[b'x'; 3000][..]].concat()]
    {
        for secret in [[&line[..], SECRET].concat(), [SECRET, &line].concat()] {
            let dialects = [Protocol::Smtp, Protocol::Lmtp].map(|protocol| [(protocol, true), (protocol, false)]);
            let commands: Vec<Command<'_>> = dialects
                .concat()
                .into_iter()
                .filter_map(|(protocol, ascii)| {
                    command::parse(&secret, Dialect { protocol, ascii, own_domain: "mx.example" }).ok()
                })
                .collect();
            let is_shown = commands.iter().any(|command| {
                matches!(
                    command,
                    Command::Helo(_)
                        | Command::Ehlo(_)
                        | Command::Lhlo(_)
                        | Command::OtherHello
                        | Command::Mail(..)
                        | Command::Rcpt(..)
                )
            });
            // Behind a command nothing more is expected to be a secret.
            let is_command = commands.iter().any(Command::is_known);
            let again = if is_command { Vec::new() } else { [&secret[..], b"\r\n"].concat() };
            let input = [b"EHLO x\r\n", announcement, b"\r\n", &secret, b"\r\n", &again, b"QUIT\r\n"].concat();
            let conversation = CONFIGS.with(|configs| conversation::hold(&configs[choice % configs.len()], &[&input]));
            let shown =
                conversation.log.iter().find(|line| line.as_bytes().windows(SECRET.len()).any(|text| text == SECRET));
            assert!(is_shown || shown.is_none(), "{shown:?} behind {:?}", announcement.escape_ascii().to_string());
        }
    }
}

/// What no line of the log shows.
const SECRET: &[u8] = b"c2VjcmV0";
const LONGEST_SECRET: usize = 2500;

/// Holds the session in these ways under one of the configurations.
pub fn check_ways(choice: usize, sent: &[u8], ways: &[Vec<&[u8]>]) {
    CONFIGS.with(|configs| {
        let config = &configs[choice % configs.len()];
        let mut conversations = ways.iter().map(|reads| conversation::hold(config, reads));
        let first = conversations.next().expect("a way");
        check_against_reference(&first, config.protocol, sent);
        conversations.for_each(|other| assert_eq!(other, first, "the reads make a difference"));
    });
}

/// Walks through the input with the replies at hand: what each of them answers is there, and nothing is left unanswered.
fn check_against_reference(conversation: &Conversation, protocol: Protocol, sent: &[u8]) {
    let mut ending = reference::ending(sent).unwrap_or(LineEnding::Crlf);
    let mut rest = sent;
    // Lines begin anew under TLS.
    let mut begun = sent;
    let mut told = 0;
    let mut in_message = false;
    let mut in_exchange = false;
    // How many RCPT commands were accepted, and so how many answers LMTP has for a message (RFC 2033, 4.2).
    let mut recipients = 0;
    // The chunks of a message that were accepted.
    let mut chunks: Vec<u8> = Vec::new();
    let mut replies = conversation.replies[1..].iter().peekable();
    while let Some(reply) = replies.next() {
        let is_of_another = reply.contains(&format!("it speaks {protocol} only"));
        // The second is what a header of the PROXY protocol gets, and a peer about whom a broken pattern has to decide.
        if is_of_another || reply.starts_with("421 4.3.5 ") && is_start(begun, rest) {
            assert!(is_start(begun, rest) && conversation.closed, "other protocols are seen at the start only");
            return;
        }
        let mut answers = vec![reply];
        if in_message {
            let message = reference::message(ending, rest);
            assert!(message.has_ended, "{reply:?} before the message was over");
            rest = message.rest;
            in_message = false;
            if protocol == Protocol::Lmtp {
                answers.extend(replies.by_ref().take(recipients - 1));
            }
            check_answers(conversation, protocol, recipients, &answers, (&message.text, message.size), &mut told);
            continue;
        }
        let (line, behind) = reference::line(ending, rest).unwrap_or_else(|| panic!("nothing asked for {reply:?}"));
        rest = behind;
        if reply.contains("where a command belongs") {
            assert!(reference::is_field(line) && conversation.closed, "only a field ends a session so");
            return;
        }
        in_message = reply.starts_with("354 ");
        // What follows a challenge is a response, whatever it looks like (RFC 4954, section 4).
        let is_response = std::mem::replace(&mut in_exchange, reply.starts_with("334 "));
        if is_response {
            continue;
        }
        if reply.contains("Ready to start TLS") {
            ending = reference::ending(rest).unwrap_or(LineEnding::Crlf);
            begun = rest;
            continue;
        }
        if reply.ends_with(" Recipient ok\r\n") {
            recipients += 1;
        } else if reply.ends_with(" Sender ok\r\n") {
            recipients = 0;
        }
        let command = reference::command(ending, line);
        let Some(chunk) = reference::chunk(command) else {
            let keeps_chunks =
                ["5", "252", "214"].iter().any(|code| reply.starts_with(code)) || reference::is_verb(command, "NOOP");
            if !keeps_chunks {
                chunks.clear();
            }
            continue;
        };
        if conversation.closed && replies.peek().is_none() && !reply.starts_with("250 ") {
            return;
        }
        let chunk = chunk.unwrap_or_else(|| panic!("{reply:?} to a chunk of which nobody knows where it ends"));
        let octets = usize::try_from(chunk.octets).ok().filter(|octets| *octets <= rest.len());
        let (octets, behind) = rest.split_at(octets.unwrap_or_else(|| panic!("{reply:?} before the chunk was there")));
        rest = behind;
        if chunk.is_last && reply.starts_with("250 ") {
            chunks.extend_from_slice(octets);
            let (text, size) = reference::text(ending, &chunks);
            check_answers(conversation, protocol, recipients, &answers, (&text, size), &mut told);
            chunks.clear();
        } else if reply.starts_with("250 ") {
            chunks.extend_from_slice(octets);
        } else {
            chunks.clear();
        }
    }
    assert_eq!(conversation.messages.len(), told, "a message was delivered and nobody was told");
    // A first line that may become the preamble of the PROXY protocol waits until that is known.
    let waits = is_start(begun, rest) && PROXY_2.starts_with(rest);
    if !conversation.closed && !waits {
        let unanswered = match in_message {
            true => reference::message(ending, rest).has_ended,
            false if in_exchange => reference::line(ending, rest).is_some(),
            false => reference::line(ending, rest).is_some_and(|(line, behind)| {
                match reference::chunk(reference::command(ending, line)) {
                    Some(Some(chunk)) => chunk.octets <= behind.len() as u64,
                    Some(None) | None => true,
                }
            }),
        };
        assert!(!unanswered, "no reply to {:?}", rest.escape_ascii().to_string());
    }
}

/// The answers to a message are as many as there have to be, and each that says so is about a message that was delivered,
/// with this text and size. `told` is how many messages were told of so far.
fn check_answers(
    conversation: &Conversation,
    protocol: Protocol,
    recipients: usize,
    answers: &[&String],
    (text, size): (&[u8], u64),
    told: &mut usize,
) {
    if protocol == Protocol::Lmtp {
        let is_closed = answers.last().is_some_and(|last| last.starts_with("421 "));
        assert!(answers.len() == recipients || is_closed, "{answers:?} for {recipients} recipients");
    }
    for answer in answers.iter().filter(|answer| answer.starts_with("250 ")) {
        let name = answer.trim_end().rsplit_once("=id").and_then(|(_, number)| number.parse().ok());
        let number: usize = name.unwrap_or_else(|| panic!("no name in {answer:?}"));
        let delivered = conversation.messages.get(number);
        let delivered = delivered.unwrap_or_else(|| panic!("{answer:?}, and nothing was delivered"));
        assert_eq!(delivered.text.escape_ascii().to_string(), text.escape_ascii().to_string());
        assert_eq!(delivered.size, size);
        // Who is named twice is told twice.
        assert!(number == *told || (number < *told && protocol == Protocol::Lmtp), "{answer:?} behind {told}");
        *told = (*told).max(number + 1);
    }
}

/// Whether nothing but empty lines stands before the rest.
fn is_start(sent: &[u8], rest: &[u8]) -> bool {
    sent[..sent.len() - rest.len()].iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// What the PROXY protocol, version 2, begins with, behind two empty lines.
const PROXY_2: &[u8] = b"\0\r\nQUIT\n";

/// An ordinary configuration, a generous one, one with tight limits, two that refuse the peer; two of LMTP; one that
/// requires TLS; two with accounts.
const CONFIG_TEXTS: [&str; 10] = [
    "domain mx.example
deliver rcpt_to fred append fred
deliver rcpt_to busy@mx.example append defer
deliver rcpt_to gone@mx.example maildir fail
deliver rcpt_to robot@mx.example pipe robot
deliver rcpt_to other@mx.example pipe other
error rcpt_to ^old@ 550 5.2.1 Has left
error mail_from ^spam@ 451 Not today
allowgroup +near near\\.example$
deliver allowgroup +near rcpt_to near@mx.example discard
copy rcpt_to *@mx.example print
",
    "domain mx.example
limit.smtp_commands 1000
limit.smtp_unknowncmd 1000
limit.smtp_failcmds 1000
limit.smtp_data_size 0
limit.smtp_ascii off
limit.bare_newline accept
deliver rcpt_to /.*/ discard
",
    "domain mx.example
limit.smtp_commands 8 451 That is enough
limit.smtp_unknowncmd 1
limit.smtp_failcmds 2 550 5.7.0 So is that
limit.smtp_data_size 20
limit.smtp_rcpt_to 2
allow mail_from @b$
deadletter_file dead
",
    "deny remotehost ^192\\.0\\.2\\.\n",
    "allow remotehost (unfinished\n",
    "protocol lmtp
domain mx.example
deliver rcpt_to fred append fred
deliver rcpt_to busy@mx.example append defer
deliver rcpt_to gone@mx.example maildir fail
deliver rcpt_to robot@mx.example pipe robot
deliver rcpt_to other@mx.example pipe other
error rcpt_to ^old@ 550 5.2.1 Has left
copy rcpt_to *@mx.example print
",
    "protocol lmtp
domain mx.example
limit.smtp_failcmds 2
limit.smtp_data_size 20
limit.bare_newline reject
limit.copies_size 40
limit.smtp_rcpt_to 3
deliver rcpt_to busy@mx.example append defer
deliver rcpt_to *@mx.example append all
",
    "domain mx.example
tls require
tls_certificate own.pem
tls_key own.key
allowgroup +secured tls
deliver allowgroup +secured rcpt_to fred append fred
deliver rcpt_to other@mx.example append other
",
    "domain mx.example
auth_file accounts
auth_plaintext on
limit.smtp_unknowncmd 1000
limit.smtp_failcmds 1000
allowgroup +users auth ^tim$
deliver allowgroup +users rcpt_to fred append fred
deliver rcpt_to other@mx.example append other
",
    "domain mx.example
protocol lmtp
auth_file accounts
auth require
auth_plaintext on
deliver rcpt_to fred append fred
",
];
