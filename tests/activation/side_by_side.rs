//! The same bytes to mailrecv, Exim and Postfix: docs/senders.md has what each of them answered, and a reason wherever
//! mailrecv alone refuses.
//!
//! `BLESS=1` writes down what they answer now; reasons are kept, and missing ones fail.

use std::net::SocketAddr;

use regex::Regex;
use testkit::exim::Exim;
use testkit::postfix::Postfix;
use testkit::{Client, LOOPBACK, repository};

use crate::support::receiver::Receiver;
use crate::support::super_server::Listener;

#[test]
#[ignore = "takes a minute or two: some hundred sessions with each of three servers"]
fn mailrecv_refuses_nothing_that_others_take_without_a_reason() {
    let receiver = Receiver::new("domain mx.example\ndeliver rcpt_to * discard");
    let mailrecv = Listener::start(&receiver, &["--max-per-address", "100", "127.0.0.1:0"]);
    let nowhere = SocketAddr::new(LOOPBACK[0], 9);
    let exim = Exim::new(nowhere.port());
    let postfix = Postfix::start(nowhere, "smtpd_error_sleep_time = 0\ndefer_transports = smtp\n");
    let text = repository::text(TABLE);
    let (mut asked, mut wrong, mut table) = (0, Vec::new(), String::new());
    for line in text.lines() {
        let Some(row) = Row::parse(line) else {
            table += &format!("{line}\n");
            continue;
        };
        let codes = [
            row.ask(&mut Client::connect(mailrecv.addresses[0])),
            row.ask(&mut exim.connect()),
            row.ask(&mut Client::connect(postfix.address())),
        ];
        let is_alone = is_no(&codes[0]) && !codes[1..].iter().all(|code| is_no(code));
        if is_alone && row.reason.is_empty() {
            wrong.push(format!("no reason for {}: {codes:?}", row.input));
        }
        let now = format!("| {} | {} | {} |", row.input, codes.join(" | "), row.reason);
        let now = now.replace("|  |", "| |");
        if now != line && !blesses() {
            wrong.push(format!("{line}\nis now\n{now}"));
        }
        table += &format!("{now}\n");
        asked += 1;
    }
    if blesses() {
        std::fs::write(repository::path(TABLE), table).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked > 100, "only {asked} rows");
}

fn blesses() -> bool {
    std::env::var_os("BLESS").is_some()
}

fn is_no(code: &str) -> bool {
    !code.starts_with(['2', '3'])
}

/// A line of the table.
struct Row<'t> {
    input: &'t str,
    reason: &'t str,
}

impl<'t> Row<'t> {
    /// `| INPUT | CODE | CODE | CODE | REASON |`, where the input is in backticks.
    fn parse(line: &'t str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [input, _, _, _, reason] = cells[..] else { return None };
        input.starts_with('`').then_some(Self { input, reason })
    }

    /// Sends what stands in backticks, a command each, behind what has to come before them; the code of the last reply.
    fn ask(&self, client: &mut Client) -> String {
        client.expect("220");
        let spans = Regex::new("`([^`]+)`").unwrap();
        let spans: Vec<&str> = spans.captures_iter(self.input).map(|found| found.extract::<1>().1[0]).collect();
        let first = spans[0].to_ascii_uppercase();
        let before: &[&str] = match first.trim_start_matches("\\X20") {
            first if first.starts_with("EHLO") || first.starts_with("HELO") => &[],
            first if first.starts_with("RCPT") => &[EHLO, MAIL],
            first if first.starts_with("DATA") => &[EHLO, MAIL, RCPT],
            _ => &[EHLO],
        };
        let mut code = String::new();
        for command in before.iter().chain(&spans) {
            client.send(bytes_of(command));
            code = client.reply().get(..3).unwrap_or("gone").to_owned();
        }
        code
    }
}

/// What a cell stands for, with CRLF behind it: `\\xHH`, `\\r`, `\\n`, `\\t` as in C, `<x*70>` for 70 times `x`.
fn bytes_of(text: &str) -> Vec<u8> {
    let repetition = Regex::new(r"<([^<>*]+)\*([0-9]+)>").unwrap();
    let repeat = |found: &regex::Captures<'_>| found[1].repeat(found[2].parse().unwrap());
    let text = repetition.replace_all(text, repeat);
    let escape = regex::bytes::Regex::new(r"(?-u)\\(?:x([0-9a-f]{2})|([rnt]))").unwrap();
    let unescape = |found: &regex::bytes::Captures<'_>| match (found.get(1), found.get(2)) {
        (Some(digits), _) => {
            vec![u8::from_str_radix(std::str::from_utf8(digits.as_bytes()).unwrap(), 16).unwrap()]
        }
        (None, Some(letter)) => match letter.as_bytes() {
            b"r" => vec![b'\r'],
            b"n" => vec![b'\n'],
            _ => vec![b'\t'],
        },
        (None, None) => Vec::new(),
    };
    let mut bytes = escape.replace_all(text.as_bytes(), unescape).into_owned();
    bytes.extend(b"\r\n");
    bytes
}

const TABLE: &str = "docs/senders.md";

const EHLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<a@b.example>";
const RCPT: &str = "RCPT TO:<fred@mx.example>";
