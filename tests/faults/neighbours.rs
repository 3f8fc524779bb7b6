//! Other programs use a mailbox that messages are delivered to and taken back from while receivers are killed: those that
//! lock it in any of the ways there are, and those that do not. Whatever they append stays, byte for byte, and a message
//! that got 250 is in the mailbox or was taken by one of them.
//!
//! But for one case: what is appended without any lock between our last look at a refused message and the system call that
//! cuts it off goes with it. Such an append counts as in the window; a thousandth of all rounds may have one.
//!
//! They do not harm each other: each does what it does while no other does. Nor is any of them one that loses mail whatever
//! we do, as one would that reads the mailbox without a lock and empties it later.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use testkit::{Form, Random};

use crate::client::Session;
use crate::letters::{Letter, quoted};
use crate::report::Tally;
use crate::support::{CONFIG, LOG, Scratch};
use crate::{readers, trace};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let rounds = if form == Form::Long { 2000 } else { 40 };
    let rounds: Vec<u64> = (0..rounds).collect();
    let mut tally = trace::several_at_a_time(&rounds, progress, |seed| Round::new(*seed).run());
    if tally.window > 1 + tally.runs / 1000 {
        tally.problems.push(format!("{} messages that others appended were cut off", tally.window));
    }
    tally
}

/// Three neighbours and two senders for a moment, at one mailbox.
struct Round {
    scratch: Scratch,
    seed: u64,
    /// Held by a neighbour while it does something.
    turn: Mutex<()>,
    is_over: AtomicBool,
    /// What neighbours have appended, and by what right.
    appended: Mutex<Vec<(Lock, Vec<u8>)>>,
    /// What they have read and removed, mailbox by mailbox.
    taken: Mutex<Vec<Vec<u8>>>,
    /// Messages, and what became of them.
    sent: Mutex<Vec<(Letter, Fate)>>,
    number: AtomicU64,
    problems: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Refused,
    /// The receiver was killed before it answered.
    Unknown,
}

/// How a neighbour keeps others away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Flock,
    Fcntl,
    /// `FILE.lock`
    Dot,
    /// All three, as many programs do.
    All,
    None,
}

/// What it does then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Append,
    /// Takes everything and empties the file.
    Empty,
    /// Takes the file away under another name, and reads it there.
    Move,
}

impl Round {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::new();
        let mbox = scratch.path(MBOX);
        scratch.write(
            CONFIG,
            format!(
                "domain receiver.example\nlimit.smtp_failcmds 1000\n\
                 deliver rcpt_to one@receiver.example append {}\n\
                 deliver rcpt_to refusing@receiver.example pipe sleep 0.002; exit 75\n",
                mbox.display()
            ),
        );
        Self {
            scratch,
            seed,
            turn: Mutex::default(),
            is_over: AtomicBool::new(false),
            appended: Mutex::default(),
            taken: Mutex::default(),
            sent: Mutex::default(),
            number: AtomicU64::new(0),
            problems: Mutex::default(),
        }
    }

    fn run(&self) -> Tally {
        std::thread::scope(|scope| {
            for number in 0..3 {
                scope.spawn(move || self.live_beside(&mut Random::new(self.seed * 100 + number)));
            }
            let senders: Vec<_> = (3..5)
                .map(|number| scope.spawn(move || self.send(&mut Random::new(self.seed * 100 + number))))
                .collect();
            senders.into_iter().for_each(|sender| drop(sender.join()));
            self.is_over.store(true, SeqCst);
        });
        self.look()
    }

    /// A neighbour, of one kind of lock and one kind of deed, until the senders have finished.
    fn live_beside(&self, random: &mut Random) {
        let lock = [Lock::Flock, Lock::Fcntl, Lock::Dot, Lock::All, Lock::None][random.index(5)];
        let deed = match lock {
            Lock::None => [Deed::Append, Deed::Move][random.index(2)],
            _ => [Deed::Append, Deed::Empty][random.index(2)],
        };
        let mbox = self.scratch.path(MBOX);
        while !self.is_over.load(SeqCst) {
            let turn = self.turn.lock().unwrap();
            if let Some(_held) = Held::new(&mbox, lock) {
                let done = match deed {
                    Deed::Append => self.append(&mbox, lock),
                    Deed::Empty => self.empty(&mbox),
                    Deed::Move => self.take_away(&mbox),
                };
                if let Err(error) = done {
                    self.problems.lock().unwrap().push(format!("{lock:?} {deed:?}: {error}"));
                }
            }
            drop(turn);
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
        }
    }

    /// Appends a message, as is right, in one write.
    fn append(&self, mbox: &Path, lock: Lock) -> io::Result<()> {
        let number = self.number.fetch_add(1, SeqCst);
        let text = format!(
            "From they@example.org Sat Nov 21 01:32:50 2026\nSubject: theirs {number}\n\n{}\n\n",
            "t".repeat(500)
        );
        let mut file = OpenOptions::new().append(true).create(true).open(mbox)?;
        self.appended.lock().unwrap().push((lock, text.clone().into_bytes()));
        file.write_all(text.as_bytes())
    }

    fn empty(&self, mbox: &Path) -> io::Result<()> {
        let mut file = match File::options().read(true).write(true).open(mbox) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        self.taken.lock().unwrap().push(text);
        file.set_len(0)
    }

    fn take_away(&self, mbox: &Path) -> io::Result<()> {
        let number = self.number.fetch_add(1, SeqCst);
        match fs::rename(mbox, self.scratch.path(format!("{TAKEN}{number}"))) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    /// Sends messages; some are refused by a command, and some receivers are killed.
    fn send(&self, random: &mut Random) {
        for _ in 0..MESSAGES {
            let number = self.number.fetch_add(1, SeqCst);
            let is_refused = random.one_in(3);
            let recipients = if is_refused { vec!["one", "refusing"] } else { vec!["one"] };
            let letter = Letter { number, size: SMALLEST + random.size(LARGEST), recipients };
            let mut session = Session::start(&self.scratch.path(CONFIG), &[]);
            let end = random.one_in(4).then(|| Duration::from_micros(random.below(8000)));
            let answer = std::thread::scope(|scope| {
                if let Some(end) = end {
                    let pid = session.pid();
                    scope.spawn(move || {
                        std::thread::sleep(end);
                        let _ = kill(pid, Signal::SIGKILL);
                    });
                }
                session.send_message(&letter.sender(), &letter.addresses(), &letter.text())
            });
            let fate = match answer {
                Ok(reply) if reply.starts_with("250") => Fate::Accepted,
                Ok(reply) if reply.starts_with("451") => Fate::Refused,
                Err(_) if end.is_some() => Fate::Unknown,
                other => {
                    self.problems.lock().unwrap().push(format!("message {number}: {other:?}"));
                    Fate::Unknown
                }
            };
            self.sent.lock().unwrap().push((letter, fate));
        }
    }
}

impl Round {
    /// Looks for everything in the mailbox and in what was taken out of it.
    fn look(&self) -> Tally {
        readers::wait_for_processes(&self.scratch);
        let mbox = fs::read(self.scratch.path(MBOX)).unwrap_or_default();
        let moved = readers::files_in(&self.scratch.path("."))
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TAKEN)));
        let taken = self.taken.lock().unwrap();
        let moved: Vec<_> = moved.map(|path| fs::read(path).unwrap()).collect();
        let all: Vec<&[u8]> = taken.iter().chain(&moved).map(Vec::as_slice).chain([&*mbox]).collect();
        let count = |text: &[u8]| all.iter().map(|found| memchr::memmem::find_iter(found, text).count()).sum::<usize>();

        let mut tally = Tally { runs: 1, problems: self.problems.lock().unwrap().clone(), ..Tally::default() };
        for (lock, theirs) in self.appended.lock().unwrap().iter() {
            let copies = count(theirs);
            if copies == 0 && *lock == Lock::None {
                // Appended without any lock between our last look at a refused message and the cut.
                tally.window += 1;
            } else if copies != 1 {
                let subject = String::from_utf8_lossy(theirs).lines().nth(1).unwrap_or_default().to_owned();
                tally.problems.push(format!("round {}: {subject} is there {copies} times", self.seed));
            }
        }
        if all.iter().any(|found| found.contains(&0)) {
            tally.problems.push(format!("round {}: there are NULs", self.seed));
        }
        let log = self.scratch.read(LOG);
        for (letter, fate) in self.sent.lock().unwrap().iter() {
            match fate {
                Fate::Accepted => {
                    tally.accepted += 1;
                    let copies = u64::try_from(count(&quoted(&letter.text()))).unwrap();
                    tally.found += copies;
                    tally.doubled += copies.saturating_sub(1);
                    if copies == 0 {
                        tally.lost += 1;
                        tally
                            .problems
                            .push(format!("round {}: message {} got 250 and is lost", self.seed, letter.number));
                    }
                }
                Fate::Refused => {
                    // At the beginning of a line: there are letters that quote the first line of another.
                    let from_line = format!("\nFrom {} ", letter.sender());
                    let is_left = mbox.starts_with(&from_line.as_bytes()[1..])
                        || memchr::memmem::find(&mbox, from_line.as_bytes()).is_some();
                    if is_left && !log.contains("mbox may hold what was refused") {
                        tally
                            .problems
                            .push(format!("round {}: message {} was refused and is there", self.seed, letter.number));
                    }
                }
                Fate::Unknown => tally.faults += 1,
            }
        }
        tally
    }
}

/// The locks that a neighbour has; dropped, they are let go.
struct Held {
    file: Option<File>,
    lock_file: Option<PathBuf>,
}

impl Held {
    /// `None` if somebody else has them.
    fn new(mbox: &Path, lock: Lock) -> Option<Self> {
        let mut held = Held { file: None, lock_file: None };
        if matches!(lock, Lock::Dot | Lock::All) {
            let path = mbox.with_extension("lock");
            File::create_new(&path).ok()?;
            held.lock_file = Some(path);
        }
        if matches!(lock, Lock::Flock | Lock::Fcntl | Lock::All) {
            let file = OpenOptions::new().read(true).append(true).create(true).open(mbox).ok()?;
            if lock != Lock::Fcntl {
                file.try_lock().ok()?;
            }
            if lock != Lock::Flock {
                // All neighbours are one process, whose locks of the older kind would be one lock.
                let (l_type, l_whence) = (libc::F_WRLCK.try_into().unwrap(), libc::SEEK_SET.try_into().unwrap());
                let whole_file = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
                fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file)).ok()?;
            }
            let is_there = fs::metadata(mbox).is_ok_and(|there| there.ino() == file.metadata().unwrap().ino());
            held.file = Some(file).filter(|_| is_there);
            held.file.as_ref()?;
        }
        Some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(path) = &self.lock_file {
            let _ = fs::remove_file(path);
        }
    }
}

const MBOX: &str = "mbox";

/// What the names of mailboxes that were taken away begin with.
const TAKEN: &str = "taken-";

/// In a round, by each of two senders.
const MESSAGES: usize = 3;

/// In bytes.
const SMALLEST: usize = 200;
const LARGEST: u32 = 150_000;
