//! Servers that are made up for tests: a small one that keeps to the standard, with habits that a comparison has to
//! learn, and with a fault that it has to find.

#![allow(dead_code, unreachable_pub, reason = "each test uses its own part of this")]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use smtp_garden::case::{Case, Part, Placeholder, Unit};
use smtp_garden::compare::{Expected, ExpectedMessage, Learned, controls, learn, text};
use smtp_garden::examine::{Bounds, examine, gather};
use smtp_garden::observation::{Envelope, Event, Message, Observation, Place, Reply, Servers};
use smtp_garden::report::{Report, ServerEntry};

/// Servers, and how many sessions were held with them.
#[derive(Default)]
pub struct Scripted {
    pub servers: Vec<Server>,
    pub sessions: usize,
}

impl Scripted {
    pub fn new(servers: Vec<Server>) -> Self {
        Self { servers, sessions: 0 }
    }
}

/// A server.
#[derive(Clone, Default)]
pub struct Server {
    pub name: &'static str,
    pub fault: Fault,
    pub habits: Habits,
    /// What it puts in the place of what, in all that comes out of any session but those of the controls: a fault that
    /// nothing was learned of.
    pub tampers: &'static [(&'static [u8], &'static [u8])],
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// A line with a NUL in it does not come out.
    DropsNulLines,
    /// A line of the header that ends with a space swallows the end of its line.
    JoinsHeaderLines,
    /// Data ends at LF `.` LF as well.
    EndsAtLfDotLf,
    /// A header with an octet that is not ASCII gets a field.
    AddsField,
    /// A line that begins with a dot gets another one.
    DoublesDots,
    /// As [`Fault::DropsNulLines`], but only in every other session.
    DropsNulLinesAtTimes,
    /// What came is delivered later than anybody waits.
    Delivers,
    /// No answer to MAIL.
    IsSilent,
    /// Any line with a NUL is taken, and bounced.
    BouncesNul,
    /// Refuses a text with a NUL in it.
    RefusesNul,
    /// A line with a NUL in it loses the CR of its end.
    DropsCr,
    /// Refuses a text with an LF that has no CR before it.
    RefusesLf,
    /// A CR alone ends a line of the header.
    EndsHeaderLineAtCr,
    /// The second recipient of a message is refused.
    RefusesSecondRecipient,
}

/// What a server does to each message, wrong or not.
#[derive(Clone, Default)]
pub struct Habits {
    /// Fields that it puts on top; `From ` is the line of a mailbox file.
    pub top: &'static [&'static str],
    /// Fields that it adds where they are missing.
    pub completes: &'static [(&'static str, At)],
    /// Fields that it takes away.
    pub removes: &'static [&'static str],
    /// A field that it gives another name.
    pub renames: Option<(&'static str, &'static str)>,
    pub output: Output,
    pub drops_last_line_end: bool,
    pub quotes_from: bool,
    /// Addresses, folded lines and parts are written anew, the same in other octets.
    pub writes_anew: bool,
    /// Lines that are passed on end with LF, but for the last one.
    pub passes_on_lf: bool,
    /// EHLO is refused; it serves nevertheless.
    pub refuses_greeting: bool,
    /// One reply to each recipient's copy.
    pub is_lmtp: bool,
    /// A field that gets a value of the server's own.
    pub rewrites: Option<&'static str>,
    /// Another sender is passed on, in which the sender is.
    pub rewrites_sender: bool,
    /// Other recipients are passed on, in which the recipients are.
    pub rewrites_recipients: bool,
    /// The last recipient is passed on first.
    pub reverses_recipients: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Output {
    #[default]
    MailboxLf,
    MailboxCrLf,
    Wire,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum At {
    Top,
    Bottom,
    Behind(&'static str),
}

/// What is learned of each of these servers.
pub fn learn_all(servers: &mut Scripted) -> BTreeMap<String, Learned> {
    let names = servers.names();
    names.into_iter().map(|name| (name.clone(), learn(&servers.hold(&name, &controls()).unwrap()))).collect()
}

/// What each of them makes of a case.
pub fn observe(servers: &mut Scripted, case: &Case) -> Vec<Observation> {
    let names = servers.names();
    names.iter().flat_map(|name| servers.hold(name, std::slice::from_ref(case)).unwrap()).collect()
}

impl Servers for Scripted {
    fn names(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.name.to_owned()).collect()
    }

    fn hold(&mut self, server: &str, cases: &[Case]) -> Result<Vec<Observation>> {
        let server = self.servers.iter().find(|known| known.name == server).context("no such server")?;
        let mut observations = Vec::new();
        for case in cases {
            self.sessions += 1;
            observations.push(server.hold(case, self.sessions));
        }
        Ok(observations)
    }
}

impl Server {
    /// One that keeps to the standard.
    pub fn sound(name: &'static str, habits: Habits) -> Self {
        Self { name, habits, ..Self::default() }
    }

    pub fn faulty(name: &'static str, fault: Fault) -> Self {
        Self { name, fault, ..Self::default() }
    }

    fn hold(&self, case: &Case, number: usize) -> Observation {
        let token = format!("token{number:06}");
        let domain = format!("{}.garden", self.name);
        let address = |user: &str| format!("{user}@{domain}");
        let filled: BTreeMap<String, String> = [
            ("__SOURCE__", "sender@elsewhere.example".to_owned()),
            ("__DEST__", address("user1")),
            ("__DEST2__", address("user2")),
            ("__DOMAIN__", domain.clone()),
            // What stands for one placeholder may stand for another, and may be a part of it.
            ("__HOST__", domain.clone()),
            ("__USER__", "user1".to_owned()),
        ]
        .into_iter()
        .map(|(placeholder, value)| (placeholder.to_owned(), value))
        .collect();
        let mut session = Session { number, ..Session::default_of(self) };
        session.is_tampered_with = !case.name.starts_with("control/");
        let mut transcript = vec![Event::Reply(Reply { code: 220, lines: vec!["made up".into()], unit: None })];
        let mut is_over = false;
        for (unit, step) in case.units.iter().enumerate() {
            match step {
                Unit::Send { octets, .. } => {
                    let mut octets = octets.clone();
                    let token = (Placeholder::Token.text().to_owned(), token.clone());
                    for (placeholder, value) in filled.iter().map(|(a, b)| (a.clone(), b.clone())).chain([token]) {
                        octets = text::with_replaced(&octets, placeholder.as_bytes(), value.as_bytes());
                    }
                    session.take(&octets);
                    transcript.push(Event::Sent(octets));
                }
                Unit::StartTls => {}
                Unit::Expect { code } => {
                    if session.replies.is_empty() {
                        transcript.push(if session.is_closed { Event::Closed } else { Event::TimedOut });
                        is_over = true;
                    } else {
                        let reply = session.replies.remove(0);
                        is_over = !reply.to_string().starts_with(code);
                        transcript.push(answer(reply, unit));
                    }
                }
                Unit::Pause(_) => transcript.extend(session.replies.drain(..).map(|code| answer(code, unit))),
            }
            if is_over {
                break;
            }
        }
        if !is_over {
            let last = case.units.len().saturating_sub(1);
            transcript.extend(session.replies.drain(..).map(|code| answer(code, last)));
            transcript.push(if session.is_closed { Event::Closed } else { Event::TimedOut });
        }
        let is_late = self.fault == Fault::Delivers && session.messages.iter().any(|message| has_nul(&message.octets));
        let mut messages = session.messages;
        messages.retain(|message| !is_late && text::find(&message.octets, token.as_bytes()).is_some());
        Observation {
            case: case.name.clone(),
            server: self.name.into(),
            token,
            filled,
            transcript,
            messages,
            log: vec![format!("{}: session {number} was held", self.name)],
            is_alive: true,
            ended: None,
            is_drained: !is_late,
        }
    }
}

fn answer(code: u16, unit: usize) -> Event {
    Event::Reply(Reply { code, lines: vec!["so it is".into()], unit: Some(unit) })
}

struct Session<'s> {
    server: &'s Server,
    number: usize,
    unread: Vec<u8>,
    is_in_data: bool,
    is_closed: bool,
    is_tampered_with: bool,
    sender: Option<String>,
    recipients: Vec<String>,
    replies: Vec<u16>,
    messages: Vec<Message>,
}

impl<'s> Session<'s> {
    fn default_of(server: &'s Server) -> Self {
        Self {
            server,
            number: 0,
            unread: Vec::new(),
            is_in_data: false,
            is_closed: false,
            is_tampered_with: false,
            sender: None,
            recipients: Vec::new(),
            replies: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn take(&mut self, octets: &[u8]) {
        self.unread.extend_from_slice(octets);
        while !self.is_closed {
            let goes_on = if self.is_in_data { self.data() } else { self.command() };
            if !goes_on {
                break;
            }
        }
    }

    fn command(&mut self) -> bool {
        let Some(end) = self.unread.iter().position(|&octet| octet == b'\n') else {
            return false;
        };
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        let upper = line.to_ascii_uppercase();
        if upper.starts_with("EHLO") || upper.starts_with("HELO") {
            self.replies.push(if self.server.habits.refuses_greeting { 500 } else { 250 });
        } else if upper.starts_with("MAIL FROM:") {
            if self.server.fault == Fault::IsSilent {
                return true;
            }
            self.sender = Some(argument(&line));
            self.recipients.clear();
            self.replies.push(250);
        } else if upper.starts_with("RCPT TO:")
            && self.server.fault == Fault::RefusesSecondRecipient
            && self.recipients.len() == 1
        {
            self.replies.push(550);
        } else if upper.starts_with("RCPT TO:") && self.sender.is_some() {
            self.recipients.push(argument(&line));
            self.replies.push(250);
        } else if upper == "DATA" && !self.recipients.is_empty() {
            self.is_in_data = true;
            self.replies.push(354);
        } else if upper == "QUIT" {
            self.replies.push(221);
            self.is_closed = true;
        } else if upper == "DATA" || upper.starts_with("RCPT TO:") {
            self.replies.push(503);
        } else {
            self.replies.push(500);
        }
        true
    }

    fn data(&mut self) -> bool {
        let mut ends: Vec<&[u8]> = vec![b"\r\n.\r\n"];
        if self.server.fault == Fault::EndsAtLfDotLf {
            ends.push(b"\n.\n");
        }
        let mut found = self.unread.starts_with(b".\r\n").then_some((0, 3));
        for end in ends {
            let at = self.unread.windows(end.len()).position(|window| window == end);
            let line_end = end.iter().position(|&octet| octet == b'.').unwrap_or_default();
            let here = at.map(|at| (at + line_end, at + end.len()));
            found = match (found, here) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        let Some((text, behind)) = found else {
            return false;
        };
        let raw: Vec<u8> = self.unread.drain(..behind).collect();
        let text = text::unstuffed(&raw[..text], text::LineEnds::Wire);
        self.is_in_data = false;
        self.receive(&text);
        true
    }

    fn receive(&mut self, text: &[u8]) {
        let habits = &self.server.habits;
        let recipients = std::mem::take(&mut self.recipients);
        let sender = self.sender.take().unwrap_or_default();
        let is_refused = match self.server.fault {
            Fault::RefusesNul => has_nul(text),
            Fault::RefusesLf => {
                text.iter().filter(|&&octet| octet == b'\n').count()
                    > text.windows(2).filter(|pair| *pair == b"\r\n").count()
            }
            _ => false,
        };
        if is_refused {
            self.replies.push(554);
            return;
        }
        let answers = if habits.is_lmtp { recipients.len() } else { 1 };
        self.replies.extend(std::iter::repeat_n(250, answers));
        let mut text = with_fault(text, self.server.fault, self.number);
        if self.server.fault == Fault::BouncesNul && has_nul(&text) {
            let head = b"Content-Type: multipart/report; report-type=delivery-status\r\n\r\nIt did not arrive:\r\n";
            text = [&head[..], &text].concat();
        }
        let mut text = with_habits(&text, habits, &sender, self.number);
        if self.is_tampered_with {
            for (what, with) in self.server.tampers {
                text = text::with_replaced(&text, what, with);
            }
        }
        if habits.output == Output::Wire {
            let mut octets = Vec::new();
            let mut is_line_start = true;
            for (at, &octet) in text.iter().enumerate() {
                if is_line_start && octet == b'.' {
                    octets.push(b'.');
                }
                octets.push(octet);
                is_line_start = octet == b'\n' && at > 0 && text[at - 1] == b'\r';
            }
            octets.extend_from_slice(if is_line_start { b".\r\n" } else { b"\r\n.\r\n" });
            if habits.passes_on_lf {
                let end = octets.len() - 5;
                let lines = text::with_replaced(&octets[..end], b"\r\n", b"\n");
                octets.splice(..end, lines);
            }
            let envelope = Some(envelope(habits, sender, recipients));
            self.messages.push(Message { place: Place::Wire, envelope, octets });
            return;
        }
        for recipient in recipients {
            let user = recipient.split('@').next().unwrap_or_default().to_owned();
            let octets = match habits.output {
                Output::MailboxCrLf => text.clone(),
                _ => text::with_replaced(&text, b"\r\n", b"\n"),
            };
            self.messages.push(Message { place: Place::Mailbox(user), envelope: None, octets });
        }
    }
}

/// What is passed on, as with SRS where it is another.
fn envelope(habits: &Habits, sender: String, mut recipients: Vec<String>) -> Envelope {
    let mail = match sender.split_once('@') {
        Some((user, domain)) if habits.rewrites_sender => format!("SRS0=abcd=ef={domain}={user}@relay.example"),
        _ => sender,
    };
    if habits.rewrites_recipients {
        recipients
            .iter_mut()
            .for_each(|recipient| *recipient = format!("{}@next.example", recipient.replace('@', "=")));
    }
    if habits.reverses_recipients {
        recipients.reverse();
    }
    Envelope { mail, recipients }
}

fn argument(line: &str) -> String {
    let from = line.find(':').map_or(line.len(), |at| at + 1);
    line[from..].trim().trim_start_matches('<').split('>').next().unwrap_or_default().to_owned()
}

fn has_nul(octets: &[u8]) -> bool {
    octets.contains(&0)
}

fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|&octet| octet == b'\n').map(<[u8]>::to_vec).collect()
}

fn parted(text: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let lines = lines(text);
    let end = lines.iter().position(|line| line == b"\r\n").unwrap_or(lines.len());
    (lines[..end].to_vec(), lines[end..].to_vec())
}

fn with_fault(text: &[u8], fault: Fault, number: usize) -> Vec<u8> {
    let (mut header, mut body) = parted(text);
    match fault {
        Fault::DropsNulLines => body.retain(|line| !has_nul(line)),
        Fault::DropsNulLinesAtTimes if number.is_multiple_of(2) => body.retain(|line| !has_nul(line)),
        Fault::DropsCr => {
            for line in body.iter_mut().filter(|line| has_nul(line) && line.ends_with(b"\r\n")) {
                line.remove(line.len() - 2);
            }
        }
        Fault::JoinsHeaderLines => {
            for line in &mut header {
                if line.ends_with(b" \r\n") {
                    line.truncate(line.len() - 2);
                }
            }
        }
        Fault::AddsField if header.iter().any(|line| !line.is_ascii()) => {
            header.push(b"X-Charset: unknown\r\n".to_vec())
        }
        Fault::EndsHeaderLineAtCr => {
            for line in &mut header {
                let end = line.len().saturating_sub(2);
                let inner = text::with_replaced(&line[..end], b"\r", b"\r\n");
                *line = [&inner, &line[end..]].concat();
            }
        }
        Fault::DoublesDots => {
            for line in body.iter_mut().filter(|line| line.starts_with(b".")) {
                line.insert(0, b'.');
            }
        }
        _ => {}
    }
    [header.concat(), body.concat()].concat()
}

fn with_habits(text: &[u8], habits: &Habits, sender: &str, number: usize) -> Vec<u8> {
    let (header, body) = parted(text);
    let name = |line: &[u8]| String::from_utf8_lossy(line).split(':').next().unwrap_or_default().to_ascii_lowercase();
    // Fields, folded lines with what they belong to.
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in header {
        match fields.last_mut() {
            Some(field) if line.starts_with(b" ") || line.starts_with(b"\t") => field.extend(line),
            _ => fields.push(line),
        }
    }
    fields.retain(|field| !habits.removes.iter().any(|removed| name(field) == removed.to_ascii_lowercase()));
    if let Some((from, to)) = habits.renames {
        for field in &mut fields {
            if name(field) == from.to_ascii_lowercase() {
                *field = [to.as_bytes(), &field[from.len()..]].concat();
            }
        }
    }
    if let Some(rewritten) = habits.rewrites {
        for field in &mut fields {
            if name(field) == rewritten.to_ascii_lowercase() {
                *field = format!("{rewritten}: rewritten in session {number}\r\n").into_bytes();
            }
        }
    }
    let mut body = body.concat();
    if habits.writes_anew {
        body = written_anew(&mut fields, body);
    }
    let mut on_top = Vec::new();
    for (added, at) in habits.completes {
        if fields.iter().any(|field| name(field) == added.to_ascii_lowercase()) {
            continue;
        }
        let line = format!("{added}: completed in session {number}\r\n").into_bytes();
        match at {
            At::Top => on_top.push(line),
            At::Bottom => fields.push(line),
            At::Behind(before) => {
                let at = fields.iter().position(|field| name(field) == before.to_ascii_lowercase());
                fields.insert(at.map_or(fields.len(), |at| at + 1), line);
            }
        }
    }
    let mut all = Vec::new();
    for added in habits.top {
        all.extend(
            match *added {
                "From " => format!("From <{sender}> Fri Nov 27 09:00:{:02} 2026\r\n", number % 60),
                "Return-Path" => format!("Return-Path: <{sender}>\r\n"),
                "Received" => {
                    format!("Received: from client\r\n\tby here with ESMTP id {number};\r\n\tFri, 27 Nov 2026\r\n")
                }
                other => format!("{other}: of session {number}\r\n"),
            }
            .into_bytes(),
        );
    }
    all.extend(on_top.concat());
    all.extend(fields.concat());
    if habits.quotes_from {
        body = text::with_replaced(&body, b"\nFrom ", b"\n>From ");
    }
    all.extend(body);
    if habits.drops_last_line_end && all.ends_with(b"\r\n") {
        all.truncate(all.len() - 2);
    }
    all
}

/// Addresses without names, folds of one space, other boundaries, and no word of what goes without saying.
fn written_anew(fields: &mut Vec<Vec<u8>>, body: Vec<u8>) -> Vec<u8> {
    let mut body = body;
    fields.retain(|field| !field.to_ascii_lowercase().starts_with(b"content-transfer-encoding: 7bit"));
    for field in fields {
        let text = String::from_utf8_lossy(field).into_owned();
        let Some((name, value)) = text.split_once(':') else { continue };
        let mut value = value.split_ascii_whitespace().collect::<Vec<_>>().join("\r\n ");
        match name.to_ascii_lowercase().as_str() {
            "from" | "sender" | "reply-to" | "to" | "cc" => {
                let Ok(addresses) = mailparse::addrparse(&value.replace("\r\n", "")) else { continue };
                let addresses = addresses.iter().flat_map(|address| match address {
                    mailparse::MailAddr::Single(one) => vec![one.addr.clone()],
                    mailparse::MailAddr::Group(group) => group.addrs.iter().map(|one| one.addr.clone()).collect(),
                });
                value = addresses.collect::<Vec<_>>().join(",");
            }
            "content-type" => {
                let kind = mailparse::parse_content_type(&value.replace("\r\n", ""));
                if let Some(boundary) = kind.params.get("boundary") {
                    let (old, new) = (format!("--{boundary}"), b"--anew");
                    body = text::with_replaced(&body, old.as_bytes(), new);
                    value = format!("{}; boundary=anew", kind.mimetype);
                }
            }
            "comments" | "references" | "in-reply-to" | "x-folded" | "mime-version" => {}
            _ => continue,
        }
        *field = format!("{}: {value}\r\n", name.to_ascii_lowercase()).into_bytes();
    }
    body
}

/// A session with one message: each step waits for its reply.
pub fn case(name: &str, header: &[u8], body: &[u8]) -> Case {
    let mut units = opening();
    units.push(Unit::Send { part: Part::Header, octets: header.to_vec() });
    units.push(Unit::Send { part: Part::Body, octets: [b"\r\n", body].concat() });
    units.extend(closing());
    Case { name: name.into(), units }
}

/// What comes of a case at servers that read it as the standard does.
pub fn expected(case: &Case) -> Expected {
    let message = |sent: text::Sent| ExpectedMessage { octets: sent.octets, copies: sent.recipients };
    let messages: Vec<_> = text::sent(case).into_iter().map(message).collect();
    let at_most = Some(messages.iter().map(|message| message.copies).sum());
    Expected { messages, may_refuse: false, at_most }
}

/// What comes before the text.
pub fn opening() -> Vec<Unit> {
    let mut units = Vec::new();
    for (part, line, code) in [
        (Part::Helo, "EHLO client.example\r\n", ""),
        (Part::Mail, "MAIL FROM:<__SOURCE__>\r\n", "2"),
        (Part::Rcpt, "RCPT TO:<__DEST__>\r\n", "2"),
        (Part::Data, "DATA\r\n", "354"),
    ] {
        units.push(Unit::Send { part, octets: line.as_bytes().to_vec() });
        units.push(Unit::Expect { code: code.into() });
    }
    units
}

/// What comes behind it.
pub fn closing() -> Vec<Unit> {
    vec![
        Unit::Send { part: Part::End, octets: b".\r\n".to_vec() },
        Unit::Expect { code: String::new() },
        Unit::Send { part: Part::Quit, octets: b"QUIT\r\n".to_vec() },
        Unit::Expect { code: String::new() },
    ]
}

/// Servers that are all sound, and no two of them alike.
pub fn ten_sound_servers() -> Vec<Server> {
    let completes_bottom: &[_] = &[("From", At::Bottom), ("Date", At::Bottom), ("Message-Id", At::Bottom)];
    let completes_top: &[_] = &[("Date", At::Top), ("Message-ID", At::Top)];
    let completes_behind: &[_] = &[("Date", At::Behind("Subject")), ("To", At::Bottom)];
    vec![
        Server::sound("plain", Habits { output: Output::MailboxCrLf, ..Habits::default() }),
        Server::sound("wire", Habits { output: Output::Wire, top: &["Received"], ..Habits::default() }),
        Server::sound(
            "two-received",
            Habits { output: Output::Wire, top: &["Received", "Received"], ..Habits::default() },
        ),
        Server::sound(
            "postal",
            Habits {
                top: &["Return-Path", "X-Original-To", "Delivered-To", "Received"],
                completes: completes_bottom,
                removes: &["Return-Path", "Bcc", "Resent-Bcc", "Content-Length"],
                ..Habits::default()
            },
        ),
        Server::sound(
            "on-top",
            Habits { top: &["Return-path", "Envelope-to", "Received"], completes: completes_top, ..Habits::default() },
        ),
        Server::sound(
            "renaming",
            Habits {
                top: &["Delivered-To", "Return-Path", "Received"],
                completes: completes_behind,
                renames: Some(("Return-Path", "Old-Return-Path")),
                ..Habits::default()
            },
        ),
        Server::sound(
            "old",
            Habits { top: &["From ", "Return-Path", "Received"], quotes_from: true, ..Habits::default() },
        ),
        Server::sound("short", Habits { drops_last_line_end: true, ..Habits::default() }),
        Server::sound(
            "lmtp",
            Habits { is_lmtp: true, top: &["Return-Path", "Delivered-To", "Received"], ..Habits::default() },
        ),
        Server::sound(
            "helo",
            Habits {
                refuses_greeting: true,
                output: Output::Wire,
                top: &["Received"],
                removes: &["Bcc"],
                ..Habits::default()
            },
        ),
    ]
}

/// A second message in a text, behind what may end it; paced, so that a server that ends there answers.
pub fn smuggling(name: &str, end: &[u8]) -> Case {
    let mut units = opening();
    units.push(Unit::Send {
        part: Part::Header,
        octets: b"Subject: __TOKEN__\r\nFrom: __SOURCE__\r\nX-First: 1\r\n".to_vec(),
    });
    units.push(Unit::Send { part: Part::Body, octets: b"\r\n__TOKEN__".to_vec() });
    units.push(Unit::Send { part: Part::End, octets: end.to_vec() });
    units.push(Unit::Pause(Duration::from_millis(10)));
    let tail =
        b"MAIL FROM:<forged@elsewhere.example>\r\nRCPT TO:<__DEST__>\r\nDATA\r\nSubject: forged\r\n\r\n__TOKEN__\r\n";
    units.push(Unit::Send { part: Part::Tail, octets: tail.to_vec() });
    units.extend(closing());
    Case { name: name.into(), units }
}

/// A report with something of every kind: fifteen servers and one that did not take part, nine cases.
pub fn example() -> Report {
    static EXAMPLE: OnceLock<Report> = OnceLock::new();
    EXAMPLE.get_or_init(make_example).clone()
}

fn make_example() -> Report {
    let mut servers = ten_sound_servers();
    servers.push(Server::faulty("nul", Fault::DropsNulLines));
    servers.push(Server::faulty("joins", Fault::JoinsHeaderLines));
    servers.push(Server::faulty("ends", Fault::EndsAtLfDotLf));
    servers.push(Server::faulty("dots", Fault::DoublesDots));
    servers.push(Server::faulty("at-times", Fault::DropsNulLinesAtTimes));
    let header: &[u8] = b"Subject: __TOKEN__\r\nFrom: __SOURCE__\r\n";
    let cases = [
        case("ordinary/text", header, b"__TOKEN__\r\nand text\r\n"),
        case("ordinary/dots", header, b"__TOKEN__\r\na line.\r\n.. begins with a dot\r\n"),
        case("ordinary/dots-more", header, b"__TOKEN__\r\n...\r\nmore\r\n..\r\n"),
        case("octets/NUL", header, b"__TOKEN__\r\nbefore \0 behind\r\nlast\r\n"),
        case("octets/NUL-and-more", header, b"__TOKEN__\r\n\0\r\n<script>alert(1)</script> \xe9\r\nlast\r\n"),
        case("header/space-at-end", b"Subject: __TOKEN__\r\nX-First: a \r\nX-Second: b\r\n", b"__TOKEN__\r\n"),
        case("end-of-data/LF.LF/blob", header, b"__TOKEN__\r\nfirst\n.\nMAIL\r\n"),
        smuggling("end-of-data/LF.LF/paced", b"\n.\n"),
        smuggling("end-of-data/CR.CR/paced", b"\r.\r"),
    ];
    let mut servers = Scripted::new(servers);
    let gathered = gather(&mut servers, &cases).unwrap();
    let mut report = examine(&mut servers, gathered, &|_| None, Bounds::default(), &mut |_| {}).unwrap();
    report.servers.push(ServerEntry {
        name: "james".into(),
        version: None,
        absent: Some("no package of it is to be had".into()),
        learned: None,
    });
    report
}
