//! The processes of a server: the first one, which makes the others, and what is heard of them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};

use super::plan::{OUTPUT, Word};
use crate::children;
use crate::device_log::DeviceLog;
use crate::recipe::Recipe;

/// The processes of a server. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    first_process: Child,
    /// The first process lives as long as this is open.
    told: ChildStdin,
    words: Receiver<Word>,
    log: Option<DeviceLog>,
    /// How much of each log was read.
    read: BTreeMap<PathBuf, u64>,
    /// What has ended beside the server, and how.
    ended: Option<String>,
}

/// How long to wait before connecting again to a server that is starting.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

impl Running {
    /// Starts them as the plan says, and waits until the server greets at this port.
    pub(super) fn start(program: &Path, plan: &str, recipe: &Recipe, port: u16) -> Result<Self> {
        let mut first_process = start_first_process(program)?;
        let mut told = first_process.stdin.take().context("a pipe to the first process")?;
        let said = first_process.stdout.take().context("a pipe from the first process")?;
        let words = words(said)?;
        // If the first process ended at once, its report says why.
        let _ = told.write_all(plan.as_bytes());
        let mut running = Self { first_process, told, words, log: None, read: BTreeMap::new(), ended: None };
        let end = Instant::now() + recipe.limits.start;
        match running.bring_up(recipe, port, end) {
            Ok(()) => Ok(running),
            Err(error) => {
                let log = running.take_log(recipe);
                let last = &log[log.len().saturating_sub(LINES_TOLD)..];
                Err(match last {
                    [] => error,
                    _ => anyhow!("{error:#}; the last it said:\n    {}", last.join("\n    ")),
                })
            }
        }
    }

    /// The number of the first one on the host.
    pub(super) fn first_process(&self) -> u32 {
        self.first_process.id()
    }

    fn bring_up(&mut self, recipe: &Recipe, port: u16, end: Instant) -> Result<()> {
        self.wait_for(end, "its root folder", |word| matches!(word, Word::Rooted))?;
        let socket = self.root().join("dev/log");
        self.log = Some(DeviceLog::start(&socket)?);
        fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
        self.told.write_all(b"\n").context("telling the first process to go on")?;
        self.wait_for(end, "its setup", |word| matches!(word, Word::Started))?;
        while !greets(port, recipe.limits.reply) {
            match self.words.recv_timeout(BETWEEN_TRIES) {
                Ok(word) => self.note(word)?,
                Err(RecvTimeoutError::Disconnected) => bail!("its first process ended"),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                    bail!("it does not greet within {} s", recipe.limits.start.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(())
    }

    fn wait_for(&mut self, end: Instant, what: &str, is_it: impl Fn(&Word) -> bool) -> Result<()> {
        loop {
            match self.words.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(word) if is_it(&word) => return Ok(()),
                Ok(word) => self.note(word)?,
                Err(RecvTimeoutError::Timeout) => bail!("{what} is not ready in time"),
                Err(RecvTimeoutError::Disconnected) => bail!("its first process ended before {what} was ready"),
            }
        }
    }

    fn note(&mut self, word: Word) -> Result<()> {
        match word {
            Word::Rooted | Word::Started => Ok(()),
            Word::Failed(reason) => bail!("{reason}"),
            Word::Ended(how) => bail!("it ended at once: {how}"),
            Word::EndedBeside(how) => bail!("beside: {how}"),
        }
    }

    /// The files of the server, as seen by everybody who may look into other users' processes.
    pub(super) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.first_process.id()))
    }

    /// What has ended beside the server, and how.
    pub(super) fn ended(&mut self) -> Option<String> {
        for word in self.words.try_iter() {
            if let Word::EndedBeside(how) = word {
                self.ended.get_or_insert(how);
            }
        }
        self.ended.clone()
    }

    /// What was logged or printed since the last call.
    pub(super) fn take_log(&mut self, recipe: &Recipe) -> Vec<String> {
        let mut lines = self.log.as_ref().map(DeviceLog::take).unwrap_or_default();
        for file in recipe.logs.iter().map(String::as_str).chain([OUTPUT]) {
            let file = self.root().join(file.trim_start_matches('/'));
            let from = self.read.entry(file.clone()).or_default();
            // A log that does not exist yet has no lines.
            if let Ok(text) = read_from(&file, *from) {
                let whole = text.iter().rposition(|&octet| octet == b'\n').map_or(0, |at| at + 1);
                *from += whole as u64;
                lines.extend(String::from_utf8_lossy(&text[..whole]).lines().map(str::to_owned));
            }
        }
        lines
    }

    pub(super) fn end(&mut self) {
        // The end of the first process ends all others. It may have ended already.
        let _ = self.first_process.kill();
        let _ = self.first_process.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many lines of a log are quoted about a server that does not start.
const LINES_TOLD: usize = 12;

/// Starts it in namespaces that only it and its children are in.
fn start_first_process(program: &Path) -> Result<Child> {
    let started = || -> Result<Child> {
        let flags =
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
        unshare(flags).context("making namespaces for a server")?;
        let mut command = Command::new(program);
        // Ctrl-C should reach only us.
        command.arg("first-process").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        children::start(&mut command).with_context(|| format!("running {}", program.display()))
    };
    // The namespaces are those of the thread.
    thread::scope(|scope| scope.spawn(started).join()).unwrap_or_else(|_| bail!("starting a process ended in a panic"))
}

/// Receives the reports of the first process.
fn words(said: ChildStdout) -> Result<Receiver<Word>> {
    let (sender, words) = channel();
    thread::Builder::new().name("words".into()).spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let Ok(word) = serde_json::from_str(&line) else { break };
            if sender.send(word).is_err() {
                break;
            }
        }
    })?;
    Ok(words)
}

/// Whether somebody greets with 220 at this port.
fn greets(port: u16, patience: Duration) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 3];
    let is_read = stream.set_read_timeout(Some(patience)).is_ok() && (&stream).read_exact(&mut greeting).is_ok();
    // Servers log clients that leave without a word.
    let _ = (&stream).write_all(b"QUIT\r\n");
    is_read && greeting == *b"220"
}

fn read_from(file: &Path, from: u64) -> Result<Vec<u8>> {
    let mut file = fs::File::open(file)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}
