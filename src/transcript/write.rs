//! Writes a transcript while its session goes on. Entries are kept until the session waits for its peer, so that
//! nothing waits for the transcript. Nothing is synced, because a transcript is not mail.
//!
//! This is the only place where secrets are left out, and texts of messages unless they are wanted.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::octets::{Octets, escape};
use super::read::OUR_FAULT;
use super::{Entry, FIRST_LINE, Header, NO_NAME, Ruled};
use crate::config::Transcripts;
use crate::date::Timestamp;
use crate::files;
use crate::smtp::auth::Mechanism;
use crate::smtp::credentials::{self, Word};
use crate::smtp::data::DataReader;
use crate::smtp::reply::{self, Reply};
use crate::smtp::{Heard, LineEnding, Outcome, Step};

/// Writes the transcript of one session.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    with_text: bool,
    /// The entries that are not written to the file yet.
    waiting: Vec<u8>,
    /// How the first line ended, since the connection or TLS began.
    ending: Option<LineEnding>,
    /// Whether a line that was not empty has come since then; after that no other protocol can begin.
    has_begun: bool,
    /// Whether the text that comes next ends with a dot (DATA).
    is_data: bool,
    /// What is known of the current text, if texts are left out.
    left_out: LeftOut,
    /// Whether the last chunk of the message, which was left out, ended with a CR.
    is_behind_cr: bool,
    has_ended: bool,
}

/// What is known of a text that is left out.
#[derive(Debug)]
enum LeftOut {
    Nothing,
    /// After DATA.
    Data(DataReader),
    /// After BDAT.
    Chunk(Chunk),
}

/// What is known of a chunk that is left out: what decides how its octets are taken, and those of the next chunk.
#[derive(Debug, Default)]
struct Chunk {
    octets: u64,
    /// Whether its first octet is the LF of a CR that is the last of the chunk before it.
    begins_with_lf: bool,
    /// Its last two octets, or what was before it.
    last: [u8; 2],
    /// How many LFs have no CR in front of them.
    lone_lfs: u64,
    /// Whether there is a CR with something other than LF behind it.
    has_lone_cr: bool,
}

impl Recorder {
    /// Makes a file for this session that only we can read. No peer influences its name, and an existing file is left
    /// alone.
    pub fn create(transcripts: &Transcripts) -> io::Result<Self> {
        let (time, process) = (Timestamp::now(), std::process::id());
        let file = (0..MAX_TRIES).find_map(|number| {
            let behind = if number == 0 { String::new() } else { format!("-{number}") };
            let path = transcripts.folder.join(format!("{}-{process}{behind}.{EXTENSION}", time.for_names()));
            match create(&path) {
                Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => None,
                made => Some(made),
            }
        });
        Ok(Self {
            file: file.unwrap_or_else(|| Err(Errno::EEXIST.into()))?,
            with_text: transcripts.with_text,
            waiting: Vec::new(),
            ending: None,
            has_begun: false,
            is_data: false,
            left_out: LeftOut::Nothing,
            is_behind_cr: false,
            has_ended: false,
        })
    }

    /// Writes the circumstances of the session.
    pub fn begin(&mut self, header: &Header) {
        header.write(&mut self.waiting);
    }

    /// Records an event that is not input of the peer.
    pub fn note(&mut self, entry: &Entry) {
        if let Entry::Secured(_) = entry {
            // The session has forgotten what came before.
            (self.ending, self.has_begun) = (None, false);
        }
        if let Entry::Ended(_) = entry {
            if self.has_ended {
                return;
            }
            self.has_ended = true;
            self.end_text(false);
        }
        entry.write(&mut self.waiting);
    }

    /// Records decisions of the rules.
    pub fn ruled(&mut self, ruled: impl IntoIterator<Item = Ruled>) {
        ruled.into_iter().for_each(|ruled| self.note(&Entry::Ruled(ruled)));
    }

    /// Records input. The session has used `octets`, takes them for `heard`, and goes on with `step`; `behind` is input
    /// that it has not used.
    pub fn heard(&mut self, octets: &[u8], behind: &[u8], heard: Heard<'_>, step: &Step) {
        let is_over = !matches!(step, Step::Wait);
        match heard {
            Heard::Command(words) | Heard::Unoffered(words) => self.line(octets, Some(words)),
            Heard::Secret => self.line(octets, None),
            Heard::Text if self.with_text => self.text(octets),
            Heard::Text | Heard::Discarded => self.leave_out(octets, is_over),
            // A part of a line that is too long; it may contain a password.
            Heard::Nothing if !octets.is_empty() => {
                self.has_begun = true;
                let has_end = is_over && octets.ends_with(b"\n");
                let (line, end) = if has_end { self.without_end(octets) } else { (octets, &b""[..]) };
                let verb = credentials::verb_of(line);
                let left_out = (line.len() - verb.len()) as u64;
                self.note(&Entry::Said(Octets::shown(verb).and_left_out(left_out).and(end)));
            }
            // Another protocol. Its first octets show which one, and no more is needed.
            Heard::Nothing if matches!(step, Step::Close(_)) && !self.has_begun && !behind.is_empty() => {
                self.note(&Entry::Said(Octets::shown(&behind[..behind.len().min(LONGEST_BEGINNING)])));
            }
            Heard::Nothing => {}
        }
    }

    /// Records a reply of ours.
    pub fn reply(&mut self, reply: &Reply, is_extended: bool) {
        self.is_data = reply.code == reply::START_INPUT.code;
        lines_of(reply, is_extended).into_iter().for_each(|line| self.note(&Entry::Reply(line)));
    }

    /// Records the outcome of a delivery.
    pub fn delivered(&mut self, outcome: &Outcome, id: &str) {
        self.note(&match outcome {
            Ok(words) => Entry::Delivered(id.to_owned(), words.clone()),
            Err(reply) => Entry::NotDelivered(reply.clone()),
        });
    }

    /// Records that the peer has logged in.
    pub fn authenticated(&mut self, user: &str, mechanism: Mechanism) {
        self.note(&Entry::Authenticated(user.to_owned(), mechanism.name().to_owned()));
    }

    /// Writes waiting entries to the file. After an error the recorder cannot be used any more.
    pub fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.waiting);
        self.waiting.clear();
        written
    }

    /// Whether so much is waiting that it should be written.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MUCH
    }

    /// Records a whole line. `shown` is the part that may be seen; `None` if the line may be a password.
    fn line(&mut self, octets: &[u8], shown: Option<&[u8]>) {
        let (line, end) = self.without_end(octets);
        self.has_begun |= !line.is_empty();
        // Another message begins.
        self.is_behind_cr &= !credentials::verb_of(line).eq_ignore_ascii_case(b"MAIL");
        let said = match shown {
            Some(shown) if shown.as_ptr_range().end == line.as_ptr_range().end => Octets::shown(octets),
            Some(shown) => without_secrets(line, shown).and(&like_the_worst_of(line)).and(end),
            None if line.trim_ascii().is_empty() => Octets::shown(octets),
            // The length of a password is not revealed, but whether the line is too long for one is, because the
            // session decides by that.
            None if line.len() > LONGEST_SECRET => Octets::default().and_left_out(line.len() as u64).and(end),
            None => without_secrets(line, credentials::verb_of(line)).and(&like_the_worst_of(line)).and(end),
        };
        self.note(&Entry::Said(said));
    }

    /// A whole line, or the last part of one, and its end, of which the first tells how lines end.
    fn without_end<'o>(&mut self, octets: &'o [u8]) -> (&'o [u8], &'o [u8]) {
        let (line, end) = match octets {
            [.., b'\r', b'\n'] => octets.split_at(octets.len() - 2),
            _ => octets.split_at(octets.len().saturating_sub(1)),
        };
        self.ending.get_or_insert(if end == b"\r\n" { LineEnding::Crlf } else { LineEnding::Lf });
        (line, end)
    }

    /// Records text as it came, line by line.
    fn text(&mut self, octets: &[u8]) {
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            self.note(&Entry::Text(Octets::shown(line)));
        }
    }

    fn leave_out(&mut self, octets: &[u8], is_over: bool) {
        if let LeftOut::Nothing = self.left_out {
            let ending = self.ending.unwrap_or(LineEnding::Crlf);
            self.left_out = match self.is_data {
                true => LeftOut::Data(DataReader::new(ending, 0)),
                false => LeftOut::Chunk(Chunk::behind(self.is_behind_cr)),
            };
        }
        match &mut self.left_out {
            LeftOut::Nothing => {}
            LeftOut::Data(reader) => {
                reader.read(octets, &mut Vec::new());
            }
            LeftOut::Chunk(chunk) => chunk.take(octets),
        }
        if is_over {
            self.end_text(true);
        }
    }

    /// Records a text that is left out, by a description with the same size, the same end, and a bare newline if the
    /// text had one.
    fn end_text(&mut self, is_over: bool) {
        let ending: &[u8] = if self.ending == Some(LineEnding::Lf) { b"\n" } else { b"\r\n" };
        let (text, dot) = match std::mem::replace(&mut self.left_out, LeftOut::Nothing) {
            LeftOut::Nothing => return,
            LeftOut::Data(reader) => {
                let size = reader.text().size();
                // For the size of a message each line end counts as two octets.
                let end = if size >= 2 && is_over { ending } else { b"" };
                let size = size.saturating_sub(2 * u64::from(!end.is_empty()));
                let bare = if reader.text().has_bare_newline() { &b"\n"[..] } else { b"" };
                (Octets::shown(bare).and_left_out(size.saturating_sub(bare.len() as u64)).and(end), is_over)
            }
            LeftOut::Chunk(chunk) => {
                self.is_behind_cr = chunk.last[1] == b'\r';
                (chunk.shown(self.ending.unwrap_or(LineEnding::Crlf)), false)
            }
        };
        if !text.pieces().is_empty() {
            self.note(&Entry::Text(text));
        }
        if dot {
            self.note(&Entry::Text(Octets::shown(b".").and(ending)));
        }
    }
}

impl Chunk {
    fn behind(is_cr: bool) -> Self {
        let last = [0, if is_cr { b'\r' } else { 0 }];
        Self { last, ..Self::default() }
    }

    fn take(&mut self, octets: &[u8]) {
        let Some(first) = octets.first() else { return };
        let is_behind_cr = self.last[1] == b'\r';
        if self.octets == 0 {
            self.begins_with_lf = is_behind_cr && *first == b'\n';
        } else {
            self.has_lone_cr |= is_behind_cr && *first != b'\n';
        }
        for at in memchr::memchr2_iter(b'\r', b'\n', octets) {
            match octets[at..] {
                [b'\n', ..] => {
                    let has_cr = if at == 0 { is_behind_cr } else { octets[at - 1] == b'\r' };
                    self.lone_lfs += u64::from(!has_cr);
                }
                [_, next, ..] => self.has_lone_cr |= next != b'\n',
                _ => {}
            }
        }
        self.octets += octets.len() as u64;
        for octet in &octets[octets.len().saturating_sub(2)..] {
            self.last = [self.last[1], *octet];
        }
    }

    /// As many octets, which are taken in the same way: the first and last as they are, and between them line ends that
    /// are none, or that count twice (RFC 1870).
    fn shown(&self, ending: LineEnding) -> Octets {
        let begin = if self.begins_with_lf { &b"\n"[..] } else { b"" };
        let inner = self.octets - begin.len() as u64;
        let end = match self.last {
            [b'\r', b'\n'] if inner >= 2 => &b"\r\n"[..],
            [_, b'\n'] if inner >= 1 => b"\n",
            [_, b'\r'] if inner >= 1 => b"\r",
            _ => b"",
        };
        let inner = inner - end.len() as u64;
        let lone_lfs = self.lone_lfs - u64::from(end == b"\n");
        let (marks, behind) = match (ending, lone_lfs) {
            (LineEnding::Lf, 1..) => {
                (vec![b'\n'; usize::try_from(lone_lfs).unwrap_or(MOST_LFS).min(MOST_LFS)], u64::from(end.is_empty()))
            }
            (LineEnding::Crlf, 1..) => (b"\n".to_vec(), u64::from(end.is_empty())),
            (LineEnding::Crlf, 0) if self.has_lone_cr && inner > 0 => (b"\r".to_vec(), u64::from(inner > 1)),
            _ => (Vec::new(), 0),
        };
        let before = inner.saturating_sub(marks.len() as u64 + behind);
        Octets::shown(begin).and_left_out(before).and(&marks).and_left_out(behind).and(end)
    }
}

impl Drop for Recorder {
    /// This also happens if the session ends by a fault of ours.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn create(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOCTTY;
    files::open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
}

/// What the session's answer to a secret line may depend on besides its words: a control character if the line has one,
/// and bytes beyond ASCII if it has some, valid or invalid as in the line.
fn like_the_worst_of(line: &[u8]) -> Vec<u8> {
    let has_control = line.iter().any(|octet| octet.is_ascii_control() && *octet != b'\t');
    let beyond_ascii = match std::str::from_utf8(line) {
        Err(_) => &b"\xff"[..],
        Ok(text) if !text.is_ascii() => "\u{e9}".as_bytes(),
        Ok(_) => b"",
    };
    [if has_control { &b"\0"[..] } else { b"" }, beyond_ascii].concat()
}

fn without_secrets(line: &[u8], shown: &[u8]) -> Octets {
    let mut octets = Octets::default();
    if shown.is_empty() {
        return octets.and_secret();
    }
    for word in credentials::without_secrets(line, shown) {
        let space: &[u8] = if octets.pieces().is_empty() { b"" } else { b" " };
        octets = match word {
            Word::Shown(word) => octets.and(space).and(word),
            Word::Secret => octets.and(space).and_secret(),
        };
    }
    octets
}

/// The lines of a reply as they are sent; a challenge is replaced.
pub fn lines_of(reply: &Reply, is_extended: bool) -> Vec<String> {
    if reply.code == reply::CHALLENGE {
        return vec![CHALLENGED.to_owned()];
    }
    let mut sent = Vec::with_capacity(reply.text.len() + ROOM_FOR_CODES);
    reply.encode(is_extended, &mut sent);
    String::from_utf8_lossy(&sent).lines().map(str::to_owned).collect()
}

impl Header {
    /// Writes the lines before the entries.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { time, protocol, proxy, peer, is_nameless } = self;
        out.extend_from_slice(format!("{FIRST_LINE}\n").as_bytes());
        let mut line = |key: &str, value: &str| {
            out.extend_from_slice(format!("{key}: ").as_bytes());
            escape(value.as_bytes(), out);
            out.push(b'\n');
        };
        line("time", time);
        line("protocol", &protocol.to_string());
        if let Some(proxy) = proxy {
            line("proxy", &proxy.to_string());
        }
        line("peer", &peer.address.to_string());
        if let Some(name) = peer.hostname.as_deref().or(is_nameless.then_some(NO_NAME)) {
            line("name", name);
        }
        out.push(b'\n');
    }
}

impl Entry {
    /// Writes the entry's line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let fields = |out: &mut Vec<u8>, kind: &str, fields: &[&str]| {
            out.extend_from_slice(kind.as_bytes());
            for (number, field) in fields.iter().enumerate() {
                if number > 0 {
                    out.push(b'\t');
                }
                escape(field.as_bytes(), out);
            }
        };
        let reply = |out: &mut Vec<u8>, words: &[&str], reply: &Reply| {
            let status = reply.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            let told = format!("{:03} {status} {}", reply.code, reply.text);
            let fault = reply.is_our_fault.then_some(OUR_FAULT);
            let all: Vec<&str> = words.iter().copied().chain([&*told]).chain(fault).collect();
            fields(out, "D: ", &all);
        };
        match self {
            Entry::Said(octets) => {
                out.extend_from_slice(b"C: ");
                octets.write(out);
            }
            Entry::Text(octets) => {
                out.extend_from_slice(b"T: ");
                octets.write(out);
            }
            Entry::Reply(line) => fields(out, "S: ", &[line]),
            Entry::Ruled(Ruled { about, verdict, by }) => {
                let all: Vec<&str> = [about.word(), verdict].into_iter().chain(by.as_deref()).collect();
                fields(out, "D: ", &all);
            }
            Entry::Asked(words) => reply(out, &["asked"], words),
            Entry::Delivered(id, None) => fields(out, "D: ", &["message", "delivered", id]),
            Entry::Delivered(id, Some(words)) => reply(out, &["message", "delivered", id], words),
            Entry::NotDelivered(words) => reply(out, &["message", "not delivered"], words),
            Entry::Secured(parameters) => fields(out, "N: ", &["tls", parameters]),
            Entry::Authenticated(user, mechanism) => fields(out, "N: ", &["login", user, mechanism]),
            Entry::Ended(why) => fields(out, "E: ", &[why]),
        }
        out.push(b'\n');
    }
}

/// Stands in place of a challenge, with which passwords could be guessed.
const CHALLENGED: &str = "334 (not shown)";

/// In bytes: what codes and ends of lines add to most replies.
const ROOM_FOR_CODES: usize = 128;

/// What the name of a transcript ends with.
pub(crate) const EXTENSION: &str = "transcript";

/// How many names are tried. Two processes can have the same number only in different process namespaces.
const MAX_TRIES: u32 = 1000;

/// When this many octets wait, they are written at once.
const MUCH: usize = 64 * 1024;

/// How many line ends are shown of a chunk in which a person has typed them: more than anybody types.
const MOST_LFS: usize = 1000;

/// Longer than any password, and than anything else that a client sends in an exchange of AUTH.
const LONGEST_SECRET: usize = 1000;

/// As many octets as are needed to tell which protocol it is.
const LONGEST_BEGINNING: usize = 12;
