//! The built binary with a peer that sends prepared bytes, in pieces that stay pieces.
//!
//! A socket pair of the kind SOCK_SEQPACKET keeps the cuts: each write is one read of the receiver's, so nothing has to
//! wait for the receiver to have read the first piece. Over a stream everything is there before the receiver starts.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::LazyLock;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{User, geteuid};
use regex::Regex;
use testkit::session::attach;
use testkit::{Broken, Client, PATIENCE, Process, repository};

use crate::cuts::RECORD;
use crate::driver::ACCOUNT;
use crate::support::{CONFIG, LOG, PEER, Scratch};
use crate::{case, log, mailbox};

/// A folder with one of the configurations of tests/hostile, to run the binary in again and again.
pub struct Receiver(Scratch);

/// How the peer ends its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It says that nothing more will come, and reads all replies.
    HalfClose,
    /// It is gone.
    Close,
}

/// What came of one run.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The lines of replies.
    pub replies: Vec<String>,
    /// The files that were left, each as its messages, or as one text if it is no mailbox.
    files: BTreeMap<String, Vec<String>>,
}

impl Run {
    /// One message in the usual mailbox.
    pub fn of_one_message(replies: impl IntoIterator<Item = &'static str>, message: &str) -> Self {
        let files = [("inbox".to_owned(), vec![message.to_owned()])].into();
        Self { replies: replies.into_iter().map(str::to_owned).collect(), files }
    }

    /// How many messages there are, in all files.
    pub fn copies(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// Whether the files are those of the other run, or what they were before some of its messages came.
    pub fn is_beginning_of(&self, other: &Run) -> bool {
        self.files.iter().all(|(name, messages)| other.files.get(name).is_some_and(|all| all.starts_with(messages)))
    }
}

/// In the form that the files of the corpus have.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.replies.iter().try_for_each(|line| writeln!(f, "< {line}"))?;
        for (name, messages) in &self.files {
            for message in messages {
                writeln!(f, "{name}:")?;
                write_lines(f, &message.lines().collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }
}

/// Lines behind `|`; several of the same are one behind `|*NUMBER`.
fn write_lines(f: &mut fmt::Formatter<'_>, lines: &[&str]) -> fmt::Result {
    for same in lines.chunk_by(|one, other| one == other) {
        match same.len() {
            1 => writeln!(f, "{}", format!("| {}", same[0]).trim_end())?,
            times => writeln!(f, "{}", format!("|*{times} {}", same[0]).trim_end())?,
        }
    }
    Ok(())
}

impl Receiver {
    pub fn new(config: &str) -> Self {
        let scratch = Scratch::with_config(&repository::text(&format!("tests/hostile/{config}.conf")));
        std::fs::create_dir(scratch.path(SPOOL)).unwrap();
        scratch.write(ACCOUNTS, ACCOUNT);
        Self(scratch)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// A peer whose every byte is there before the receiver is.
    pub fn early(&self, input: &[u8]) -> Result<Run, String> {
        self.run(SockType::Stream, &[input], Ending::HalfClose)
    }

    /// A peer whose pieces are read one by one.
    pub fn pieces(&self, pieces: &[&[u8]], ending: Ending) -> Result<Run, String> {
        let pieces: Vec<&[u8]> = pieces.iter().flat_map(|piece| piece.chunks(RECORD)).collect();
        self.run(SockType::SeqPacket, &pieces, ending)
    }

    /// A peer at the other end of a TCP connection.
    pub fn network(&self, input: &[u8]) -> Result<Run, String> {
        let mut session = self.0.session(&["--peer", PEER]);
        let pid = session.pid();
        session.send(input);
        let (replies, exit_code) = session.end();
        let replies = replies.into_iter().map(|line| line + "\r\n").collect::<String>();
        self.examine(pid.as_raw(), exit_code, Some(replies.as_bytes()))
    }

    fn run(&self, kind: SockType, pieces: &[&[u8]], ending: Ending) -> Result<Run, String> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let mut peer = Client::on(ours);
        // What the socket has no room for has to wait until there is somebody to read it.
        let is_early = pieces.iter().map(|piece| 2 * piece.len() + RECORD_COST).sum::<usize>() <= SOCKET_ROOM;
        let mut process = None;
        if is_early {
            say(&mut peer, pieces, ending);
        } else {
            process = Some(self.start(&theirs));
            say(&mut peer, pieces, ending);
        }
        let mut process = process.unwrap_or_else(|| self.start(&theirs));
        drop(theirs);
        let replies = match ending {
            Ending::Close => {
                drop(peer);
                None
            }
            Ending::HalfClose => Some(all_replies(&mut peer)?),
        };
        let pid = process.pid();
        self.examine(pid.as_raw(), process.exit_code(), replies.as_deref())
    }

    fn start(&self, connection: &OwnedFd) -> Process {
        let mut command = self.0.mailrecv(&["--peer", PEER]);
        attach(&mut command, connection);
        Process::start(command)
    }

    /// Looks at everything that a run has left, and clears it away for the next.
    fn examine(&self, pid: i32, exit_code: i32, replies: Option<&[u8]>) -> Result<Run, String> {
        let log = std::fs::read(self.path(LOG)).unwrap_or_default();
        let files = self.take_files()?;
        if exit_code != 0 {
            return Err(format!("the exit status is {exit_code}"));
        }
        let in_log = |error| format!("{error}; in the log:\n{}", String::from_utf8_lossy(&log));
        let lines = replies.map(reply_lines).transpose().map_err(in_log)?;
        log::check(&log, pid, lines.as_deref())?;
        Ok(Run { replies: lines.unwrap_or_default(), files })
    }

    fn take_files(&self) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut files = BTreeMap::new();
        if std::fs::read_dir(self.path(SPOOL)).unwrap().next().is_some() {
            return Err("there is something left in the spool".to_owned());
        }
        for entry in std::fs::read_dir(self.path("")).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if [ACCOUNTS, CONFIG, SPOOL].contains(&name.as_str()) {
                continue;
            }
            let content = std::fs::read(self.path(&name)).unwrap();
            std::fs::remove_file(self.path(&name)).unwrap();
            match name.as_str() {
                LOG => {}
                "inbox" | "other" => {
                    files.insert(name, mailbox::messages(&content)?);
                }
                "given" => {
                    files.insert(name, environments(&content));
                }
                _ => return Err(format!("there is a file {name}")),
            }
        }
        Ok(files)
    }
}

/// What the commands wrote down of their environments, an empty line behind each; without what depends on who runs the
/// tests, and where.
fn environments(content: &[u8]) -> Vec<String> {
    let us = User::from_uid(geteuid()).unwrap().expect("a user with a line in /etc/passwd");
    let mut ours = vec![format!("HOME={}", us.dir.display()), format!("SHELL={}", us.shell.display())];
    ours.extend(["USER", "LOGNAME"].map(|name| format!("{name}={}", us.name)));
    ours.extend(["TZ", "LANG"].into_iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))));
    let lines = content.split(|byte| *byte == b'\n').map(case::shown);
    let text = lines.filter(|line| !ours.iter().any(|known| known == line)).collect::<Vec<_>>().join("\n");
    text.split_terminator("\n\n").map(without_id).collect()
}

fn say(peer: &mut Client, pieces: &[&[u8]], ending: Ending) {
    // A receiver that has hung up is noticed when its replies are read.
    let _ = pieces.iter().all(|piece| peer.send_within(piece, PATIENCE));
    if ending == Ending::HalfClose {
        peer.half_close();
    }
}

fn all_replies(peer: &mut Client) -> Result<Vec<u8>, String> {
    match peer.try_rest() {
        // It has closed with bytes of ours unread. That is told once, and its own come behind it.
        Err(Broken::Reset) => peer.try_rest(),
        replies => replies,
    }
    .map_err(|broken| format!("no end of the connection: {broken}"))
}

/// The lines of replies, if they are well-formed (RFC 5321, 4.2): code, blank or hyphen, printable text, CRLF, at most
/// 512 octets; the lines of one reply with one code, and the last reply ended.
pub fn reply_lines(replies: &[u8]) -> Result<Vec<String>, String> {
    // To compile a pattern takes longer than a session.
    static LINE: LazyLock<Regex> = LazyLock::new(|| Regex::new("^([2-5][0-5][0-9])([ -])[ -~]*$").unwrap());
    let text = std::str::from_utf8(replies).map_err(|_| "replies that are no text".to_owned())?;
    let Some(text) = text.strip_suffix("\r\n") else { return Err(format!("no whole line at the end of {text:?}")) };
    let mut continued = None;
    for found in text.split("\r\n") {
        let captures = LINE.captures(found).filter(|_| found.len() + 2 <= 512);
        let captures = captures.ok_or_else(|| format!("not a line of a reply: {found:?}"))?;
        let code = captures[1].to_owned();
        if continued.is_some_and(|before| before != code) {
            return Err(format!("another code in the middle of a reply: {found:?}"));
        }
        continued = (&captures[2] == "-").then_some(code);
    }
    match continued {
        Some(code) => Err(format!("the reply {code} has no last line")),
        None => Ok(text.split("\r\n").map(without_id).collect()),
    }
}

fn without_id(text: &str) -> String {
    static ID: LazyLock<Regex> = LazyLock::new(|| Regex::new("(, id|MESSAGE_ID)=[0-9a-f.]+").unwrap());
    ID.replace_all(text, "${1}=<ID>").into_owned()
}

/// Who may log in, where the configuration lets anybody.
const ACCOUNTS: &str = "accounts";

const SPOOL: &str = "spool";

/// What the kernel counts for a record beside twice its bytes, at most; and what a socket has room for, at least.
const RECORD_COST: usize = 1024;
const SOCKET_ROOM: usize = 160 * 1024;
