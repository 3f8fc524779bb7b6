//! Golden dialogs: each file of tests/dialogs is held with the built binary over a TCP connection, and afterwards the
//! mailboxes and the log are looked at. tests/dialogs/README describes the format.
//!
//! Beside what a file spells out, this holds of every one: each reply is well-formed, each reply that says no has one
//! line in the log with the same words, the log is ASCII with the process and the peer in each line, and no file lies
//! about that the dialog does not name. `DIALOG=part-of-a-name cargo test --test dialogs` runs some of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;
use support::{CONFIG, LOG, PEER, Scratch};
use testkit::{Session, a_few_at_a_time, panic_text, repository};

#[test]
fn every_dialog_goes_as_written() {
    let wanted = std::env::var("DIALOG").unwrap_or_default();
    let mut files = repository::files("tests/dialogs", "txt");
    files.retain(|file| file.to_string_lossy().contains(&wanted));
    assert!(!files.is_empty(), "no dialog has `{wanted}` in its name");
    let failures: Vec<String> = a_few_at_a_time(&files, |file| failure(file)).into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} of {} dialogs:\n{}", failures.len(), files.len(), failures.join("\n"));
}

fn failure(file: &Path) -> Option<String> {
    match catch_unwind(|| run(file)) {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("{}: {}", file.display(), panic_text(&*panic))),
    }
}

fn run(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut dialog = Dialog::new(file);
    for (number, line) in repeated(&text) {
        dialog.line(number, &line)?;
    }
    dialog.end()
}

/// The lines with their numbers, those between `repeat N` and `end` N times, with `{n}` counting from 1.
fn repeated(text: &str) -> Vec<(usize, String)> {
    let (mut lines, mut block, mut times) = (Vec::new(), Vec::new(), None);
    for (number, line) in (1..).zip(text.lines()) {
        match (times, line.strip_prefix("repeat ")) {
            (None, Some(count)) => times = Some(count.parse().expect("a number behind `repeat`")),
            (None, None) => lines.push((number, line.to_owned())),
            (Some(count), _) if line == "end" => {
                for n in 1..=count {
                    lines.extend(block.iter().map(|(number, line): &(usize, String)| {
                        let line: String = line.replace("{n}", &usize::to_string(&n));
                        (*number, line)
                    }));
                }
                block.clear();
                times = None;
            }
            (Some(_), _) => block.push((number, line.to_owned())),
        }
    }
    lines
}

/// A dialog that is being held.
struct Dialog<'f> {
    file: &'f Path,
    /// The line of the file that is being carried out.
    number: usize,
    scratch: Scratch,
    config: Vec<String>,
    /// `--peer`, or none: then the connection tells.
    peer: Option<String>,
    /// Whether that is at a Unix socket.
    is_unix: bool,
    /// Whom a header of the PROXY protocol makes the peer of this session.
    client: Option<String>,
    address: SocketAddr,
    line_end: &'static str,
    session: Option<Session>,
    /// What is to be sent with the next write.
    outgoing: Vec<u8>,
    /// What the replies that said no said.
    refusals: Vec<String>,
    /// The log lines that this session is expected to leave, if the dialog says so.
    expected_log: Option<Vec<(usize, String)>>,
    /// How much of the log earlier sessions wrote, in bytes.
    log_seen: usize,
    exit_code: i32,
    /// The file whose lines are being compared, and its lines that have not been.
    open_file: Option<Vec<String>>,
    known_files: BTreeSet<PathBuf>,
    ids: BTreeMap<String, String>,
}

impl<'f> Dialog<'f> {
    fn new(file: &'f Path) -> Self {
        let known_files = [CONFIG, LOG].map(PathBuf::from).into();
        Self {
            file,
            number: 0,
            scratch: Scratch::new(),
            config: Vec::new(),
            peer: Some(PEER.to_owned()),
            is_unix: false,
            client: None,
            address: "127.0.0.1:0".parse().unwrap(),
            line_end: "\r\n",
            session: None,
            outgoing: Vec::new(),
            refusals: Vec::new(),
            expected_log: None,
            log_seen: 0,
            exit_code: 0,
            open_file: None,
            known_files,
            ids: BTreeMap::new(),
        }
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if let Some(content) = line.strip_prefix('|') {
            self.number = number;
            return self.file_line(&bytes_of(content.strip_prefix(' ').unwrap_or(content)));
        }
        self.end_of_file()?;
        self.number = number;
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (word, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match word {
            "config" => {
                self.config.push(repetitions(value));
                self.scratch.write(CONFIG, self.config.join("\n") + "\n");
            }
            "peer" => {
                self.is_unix = value == "unix";
                self.peer = (value != "socket" && !self.is_unix).then(|| repetitions(value));
            }
            "client" => self.client = Some(value.to_owned()),
            "address" => self.address = value.parse().map_err(|error| self.error(&format!("`{value}`: {error}")))?,
            "exit" => self.exit_code = value.parse().map_err(|_| self.error("`exit` and a number"))?,
            "lines" => self.line_end = if value == "LF" { "\n" } else { "\r\n" },
            "C" if value == "<EOF>" => {
                self.flush();
                self.session().half_close();
            }
            "C" => {
                let bytes = [bytes_of(value), self.line_end.into()].concat();
                self.outgoing.extend(bytes);
            }
            "raw" => self.outgoing.extend(bytes_of(value)),
            "pause" => {
                self.flush();
                self.session().until_read();
            }
            "S" => self.reply(value)?,
            "log" => {
                let lines = self.expected_log.get_or_insert_default();
                if value != "nothing" {
                    lines.push((number, repetitions(value)));
                }
            }
            "session" => self.end_session()?,
            _ if word.starts_with("put ") => {
                let name = &word["put ".len()..];
                let before = if self.scratch.path(name).exists() { self.scratch.read(name) } else { String::new() };
                self.scratch.write(name, before + value + "\n");
                self.known_files.insert(name.into());
            }
            _ => match (word.strip_prefix("mailbox ").or(word.strip_prefix("file ")), value) {
                (Some(name), "absent") if self.scratch.path(name).exists() => {
                    return Err(self.error("the file is there"));
                }
                (Some(_), "absent") => {}
                (Some(name), _) => self.open_file(name)?,
                (None, _) => return Err(self.error("not a directive of a dialog")),
            },
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), String> {
        self.end_of_file()?;
        self.end_session()?;
        let there = std::fs::read_dir(self.scratch.path("")).unwrap();
        let names = there.map(|entry| PathBuf::from(entry.unwrap().file_name()));
        match names.filter(|name| !self.known_files.contains(name)).collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            unknown => Err(self.error(&format!("files that the dialog does not name: {unknown:?}"))),
        }
    }

    /// The running session; the first use starts it.
    fn session(&mut self) -> &mut Session {
        let (scratch, peer, is_unix, address) = (&self.scratch, &self.peer, self.is_unix, self.address);
        self.session.get_or_insert_with(|| {
            let mut command = scratch.mailrecv(&[]);
            if let Some(peer) = peer {
                command.args(["--peer", peer]);
            }
            command.env("DIALOG_VALUE", "from.the.environment");
            command.env("DIALOG_UID", nix::unistd::geteuid().to_string());
            match is_unix {
                true => Session::at_unix_socket(command, &scratch.path("socket")),
                false => Session::start_at(command, address),
            }
        })
    }

    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.outgoing);
        if !bytes.is_empty() {
            self.session().send(bytes);
        }
    }

    fn reply(&mut self, expected: &str) -> Result<(), String> {
        self.flush();
        let got = self.session().line();
        let Some(got) = got else {
            return if expected == "<EOF>" { Ok(()) } else { Err(self.mismatch(expected, "<EOF>")) };
        };
        static WELL_FORMED: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[2-5][0-5][0-9][ -]").unwrap());
        if !WELL_FORMED.is_match(&got) || got.len() + 2 > 512 {
            return Err(self.error(&format!("not a line of a reply: `{got}`")));
        }
        if matches!(got.as_bytes()[0], b'4' | b'5') {
            self.refusals.push(got.clone());
        }
        self.compare(&text_of(expected), &got)
    }

    /// Ends the session and looks at what it left in the log.
    fn end_session(&mut self) -> Result<(), String> {
        self.flush();
        let Some(session) = self.session.take() else { return Ok(()) };
        let pid = session.pid();
        let (rest, exit_code) = session.end();
        if !rest.is_empty() {
            return Err(self.error(&format!("more replies than expected: {rest:?}")));
        }
        if exit_code != self.exit_code {
            return Err(self.error(&format!("exit status {exit_code} in place of {}", self.exit_code)));
        }
        self.line_end = "\r\n";
        let log = self.scratch.read(LOG);
        let own = log[self.log_seen..].to_owned();
        self.log_seen = log.len();
        let address = self.client.take().or_else(|| self.peer.clone()).unwrap_or_else(|| self.address.ip().to_string());
        // What listens at the IPv6 wildcard address sees our IPv4 connection as one from a mapped address.
        let address = address.split('=').next().unwrap_or_default().replace("::ffff:", "");
        let address = if address == "::" { "127.0.0.1".to_owned() } else { address };
        let address = if self.is_unix { format!("local:{}", nix::unistd::geteuid()) } else { address };
        let prefix = Regex::new(&format!(
            r"^[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] [0-9:]{{8}} [0-9]{{4}} MAILRECV\[{pid}\]: (\[{}\] .*)$",
            regex::escape(&address)
        ));
        let prefix = prefix.unwrap();
        let mut lines = Vec::new();
        for line in own.lines() {
            let captures =
                prefix.captures(line).ok_or_else(|| self.error(&format!("an odd line in the log: `{line}`")))?;
            let is_ascii = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if !is_ascii && !self.config.iter().any(|line| line == "loghex off") {
                return Err(self.error(&format!("a line of the log that is not ASCII: `{line}`")));
            }
            if !line.contains("WARNING: running as root") {
                lines.push(captures[1].to_owned());
            }
        }
        self.compare_refusals(&lines)?;
        self.compare_log(&lines)
    }

    /// Refusals are always logged; the text stands without the enhanced code, and its brackets may be escaped.
    fn compare_refusals(&mut self, log: &[String]) -> Result<(), String> {
        let kinds = ["] ERROR: ", "] WARNING: "];
        let text = |line| kinds.into_iter().find_map(|kind| Some(str::split_once(line, kind)?.1));
        let logged: Vec<&str> = log.iter().filter_map(|line| text(line)).collect();
        let logged: Vec<&str> = logged.into_iter().filter(|text| text.as_bytes()[0].is_ascii_digit()).collect();
        let refusals = std::mem::take(&mut self.refusals);
        for at in 0..refusals.len().max(logged.len()) {
            let said = refusals.get(at).map_or("<nothing>", String::as_str);
            let log = logged.get(at).copied().unwrap_or("<nothing>").replace("<0x5b>", "[").replace("<0x5d>", "]");
            if !log.starts_with(said) && !log.starts_with(&without_enhanced_code(said)) {
                return Err(self.error(&format!(
                    "refusal {} was
  {said}
and is in the log as
  {log}",
                    at + 1
                )));
            }
        }
        Ok(())
    }

    fn compare_log(&mut self, log: &[String]) -> Result<(), String> {
        let Some(expected) = self.expected_log.take() else { return Ok(()) };
        for (at, (number, line)) in expected.iter().enumerate() {
            self.number = *number;
            self.compare(line, log.get(at).map_or("<nothing more>", String::as_str))?;
        }
        match log.get(expected.len()) {
            None => Ok(()),
            Some(line) => Err(self.mismatch("<nothing more>", line)),
        }
    }

    fn open_file(&mut self, name: &str) -> Result<(), String> {
        if !self.scratch.path(name).exists() {
            return Err(self.error("the file is not there"));
        }
        self.known_files.insert(name.into());
        let text = self.scratch.read(name);
        let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        } else {
            lines.push("<no line end>".to_owned());
        }
        lines.reverse();
        self.open_file = Some(lines);
        Ok(())
    }

    fn file_line(&mut self, expected: &[u8]) -> Result<(), String> {
        let expected = String::from_utf8_lossy(expected).into_owned();
        let Some(lines) = &mut self.open_file else { return Err(self.error("this line belongs to no file")) };
        let got = lines.pop().unwrap_or_else(|| "<end of the file>".to_owned());
        if expected != "<TRACE>" {
            return self.compare(&expected, &got);
        }
        let rest = [lines.pop(), lines.pop()].map(Option::unwrap_or_default);
        while lines.last().is_some_and(|line| line.starts_with('\t')) {
            lines.pop();
        }
        let got = format!("{got} {} {}", rest[0], rest[1]);
        self.compare("Return-Path: <...> Delivered-To: ... Received: from ...", &got)
    }

    fn end_of_file(&mut self) -> Result<(), String> {
        match self.open_file.take().and_then(|mut lines| lines.pop()) {
            None => Ok(()),
            Some(line) => Err(self.mismatch("<end of the file>", &line)),
        }
    }

    /// Compares a line with what the dialog expects, in which `...`, `<ID>`, `<DATE>` and `<ASCTIME>` stand for more.
    fn compare(&mut self, expected: &str, got: &str) -> Result<(), String> {
        static TOKEN: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\.\.\.|<ID[0-9]?>|<DATE>|<ASCTIME>|<N>").unwrap());
        let (mut pattern, mut at, mut unbound) = ("^".to_owned(), 0, Vec::new());
        for found in TOKEN.find_iter(expected) {
            pattern += &regex::escape(&expected[at..found.start()]);
            at = found.end();
            pattern += &match found.as_str() {
                "..." => ".*".to_owned(),
                "<N>" => "[0-9]+".to_owned(),
                "<DATE>" => "[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} [+-][0-9]{4}".to_owned(),
                "<ASCTIME>" => "[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}".to_owned(),
                id => match self.ids.get(id) {
                    Some(value) => regex::escape(value),
                    None => {
                        unbound.push(id.to_owned());
                        "([0-9a-f.]+)".to_owned()
                    }
                },
            };
        }
        pattern += &regex::escape(&expected[at..]);
        let Some(captures) = Regex::new(&(pattern + "$")).unwrap().captures(got) else {
            return Err(self.mismatch(expected, got));
        };
        for (number, id) in unbound.into_iter().enumerate() {
            self.ids.insert(id, captures[number + 1].to_owned());
        }
        Ok(())
    }

    fn mismatch(&self, expected: &str, got: &str) -> String {
        self.error(&format!("\n  expected: {expected}\n  got:      {}", got.escape_debug()))
    }

    fn error(&self, text: &str) -> String {
        format!("{}:{}: {text}", self.file.display(), self.number)
    }
}

/// `550 5.1.1 No one` is `550 No one` in the log. (An enhanced code that belongs to the text is there as well.)
fn without_enhanced_code(line: &str) -> String {
    static CODES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^([0-9]{3}) [245]\.[0-9]{1,3}\.[0-9]{1,3} ").unwrap());
    CODES.replace(line, "$1 ").into_owned()
}

/// A value of the dialog with `<x*3>` written out as `xxx`.
fn repetitions(value: &str) -> String {
    static REPETITION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<([^<>*]+)\*([0-9]+)>").unwrap());
    let repeat = |found: &regex::Captures<'_>| found[1].repeat(found[2].parse().expect("a number of times"));
    REPETITION.replace_all(value, repeat).into_owned()
}

/// A value of the dialog with its escapes resolved as well.
fn bytes_of(value: &str) -> Vec<u8> {
    let value = repetitions(value);
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == b'\\') {
            (byte, false) => byte,
            _ => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'x') => {
                    let digits = [rest.next(), rest.next()].map(|digit| char::from(digit.expect("two digits")));
                    u8::from_str_radix(&String::from_iter(digits), 16).expect("two hexadecimal digits")
                }
                Some(other) => other,
                None => b'\\',
            },
        });
    }
    bytes
}

fn text_of(value: &str) -> String {
    String::from_utf8(bytes_of(value)).expect("UTF-8")
}
