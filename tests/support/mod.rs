//! What is particular to mailrecv in its tests: where the binary is, how it is told its configuration and its log, and
//! what that log looks like. Everything else is in testkit/.
#![allow(dead_code, reason = "each test crate uses a part of this")]

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use testkit::client::Reply;
use testkit::{Folder, Session, debian, wait_until};

/// The binary under test.
pub const MAILRECV: &str = env!("CARGO_BIN_EXE_mailrecv");

/// The configuration's name in a [`Scratch`] folder.
pub const CONFIG: &str = "mailrecv.conf";

/// The log's name in a [`Scratch`] folder.
pub const LOG: &str = "log";

/// A peer with a name, so that no test depends on the machine's resolver.
pub const PEER: &str = "192.0.2.7=mail.example.net";

/// `PATH` for whoever pastes commands: the binary under test, and what they need of Debian.
pub fn path() -> String {
    let programs = [PathBuf::from(MAILRECV), debian::program("swaks", "swaks"), debian::program("jq", "jq")];
    let folders = programs.iter().filter_map(|program| program.parent());
    folders.map(|folder| folder.display().to_string() + ":").collect::<String>() + "/usr/bin:/bin"
}

/// How long a file has to be left alone to count as written (`src/config/source.rs`).
const QUIET: Duration = Duration::from_millis(100);

/// A folder of one test, with a configuration and a log in it; it is the current folder of what the test starts.
pub struct Scratch(Folder);

impl Scratch {
    /// An empty folder.
    pub fn new() -> Self {
        Self(Folder::new())
    }

    /// A folder with this configuration.
    pub fn with_config(config: &str) -> Self {
        let scratch = Self::new();
        scratch.write(CONFIG, config);
        scratch
    }

    /// The lines of the log without their dates, as `[PEER] TEXT`. The warning that we run as root, which depends on who
    /// runs the tests, is left out.
    pub fn log(&self) -> Vec<String> {
        let without_prefix = |line: &str| line.split_once("]: ").map_or(line, |(_, text)| text).to_owned();
        let log = self.read(LOG);
        log.lines().map(without_prefix).filter(|line| !line.contains("WARNING: running as root")).collect()
    }

    /// The binary, told where configuration and log are.
    pub fn mailrecv(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(MAILRECV, &["-c", CONFIG, "-l", LOG]);
        command.args(arguments);
        command
    }

    /// Starts the receiver with a connection from this machine; `arguments` follow those for configuration and log.
    pub fn session(&self, arguments: &[&str]) -> Session {
        Session::start(self.mailrecv(arguments))
    }

    /// What sessions answer while somebody edits the configuration, which is not fit for use meanwhile: so many, each asked
    /// beside an edit of its own. An edit that takes longer than sessions wait for, because the machine is busy, does not
    /// count.
    pub fn replies_beside(&self, edit: impl Fn(), times: usize, ask: impl Fn() -> Reply + Sync) -> Vec<Reply> {
        let mut replies = Vec::new();
        wait_until("quick edits", || {
            // The session may begin before.
            thread::sleep(2 * QUIET);
            thread::scope(|scope| {
                let asked = scope.spawn(&ask);
                let begun = Instant::now();
                edit();
                let took = begun.elapsed();
                let reply = asked.join().unwrap();
                // File systems' clocks are some milliseconds behind.
                if took < QUIET * 9 / 10 {
                    replies.push(reply);
                }
            });
            (replies.len() == times).then_some(())
        });
        replies
    }

    /// Like [`Scratch::session`], with a peer of which nothing has to be looked up, and the greeting read.
    pub fn greeted(&self) -> Session {
        let mut session = self.session(&["--peer", PEER]);
        session.expect("220 ");
        session
    }
}

impl Deref for Scratch {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.0
    }
}
