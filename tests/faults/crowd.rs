//! Many sessions at a time write into one mbox and one maildir, while Python's `mailbox` reads and deletes there: each
//! message is there once, whole, among what was taken and what is left.
//!
//! The long form also measures what the crowd costs: many writers to one mbox against one.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use testkit::{Form, Process, Random, debian};

use crate::client::Session;
use crate::letters::{Copy, Format, Letter, examine};
use crate::readers;
use crate::report::Tally;
use crate::support::{CONFIG, Scratch};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let (writers, messages) = if form == Form::Long { (64, 5000) } else { (32, 1000) };
    let crowd = Crowd::new(messages);
    let mut reader = crowd.start_reader();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|_| scope.spawn(|| crowd.write())).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            progress(crowd.next.load(Relaxed).min(messages), messages);
        }
    });
    crowd.scratch.write(STOP, "");
    let status = reader.exit_code();
    let mut tally = crowd.look();
    if status != 0 {
        tally.problems.push(format!("the reader: exit status {status}: {}", crowd.scratch.read(READER_ERRORS)));
    }
    if form == Form::Long {
        tally.notes.push(throughput());
    }
    tally
}

struct Crowd {
    scratch: Scratch,
    messages: u64,
    /// The number of the next message.
    next: AtomicU64,
    sessions: AtomicU64,
    /// What got 250.
    accepted: Mutex<BTreeMap<u64, Letter>>,
    deferred: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl Crowd {
    fn new(messages: u64) -> Self {
        let scratch = Scratch::new();
        let (mbox, maildir) = (scratch.path(MBOX), scratch.path(MAILDIR));
        scratch.write(
            CONFIG,
            format!(
                "domain receiver.example\n\
                 deliver rcpt_to one@receiver.example append {}\n\
                 deliver rcpt_to dir@receiver.example maildir {}\n",
                mbox.display(),
                maildir.display()
            ),
        );
        for folder in [TAKEN_FROM_MBOX, TAKEN_FROM_MAILDIR] {
            std::fs::create_dir(scratch.path(folder)).expect("a folder");
        }
        Self {
            scratch,
            messages,
            next: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            accepted: Mutex::default(),
            deferred: AtomicU64::new(0),
            problems: Mutex::default(),
        }
    }

    fn start_reader(&self) -> Process {
        let mut command = self.scratch.command(debian::program("python3", "python3"), &["-c", READER]);
        command.args([MBOX, MAILDIR, TAKEN_FROM_MBOX, TAKEN_FROM_MAILDIR, STOP]);
        let errors = std::fs::File::create(self.scratch.path(READER_ERRORS)).expect("a file");
        command.stdout(Stdio::null()).stderr(errors);
        Process::start(command)
    }

    /// Sends messages, some in a session, until there are none left to send.
    fn write(&self) {
        while self.next.load(Relaxed) < self.messages {
            self.sessions.fetch_add(1, Relaxed);
            let mut session = Session::start(&self.scratch.path(CONFIG), &[]);
            for _ in 0..MESSAGES_PER_SESSION {
                let number = self.next.fetch_add(1, Relaxed);
                if number >= self.messages {
                    break;
                }
                if let Err(problem) = self.send(&mut session, number) {
                    self.problems.lock().unwrap().push(problem);
                    return;
                }
            }
            match session.quit() {
                Ok((reply, 0)) if reply.starts_with("221") => {}
                other => self.problems.lock().unwrap().push(format!("QUIT: {other:?}")),
            }
        }
    }

    /// Sends one message, again and again if it is deferred: whoever waits long enough for the lock gets it.
    fn send(&self, session: &mut Session, number: u64) -> Result<(), String> {
        let size = Random::new(number).size(LARGEST);
        let letter = Letter { number, size, recipients: vec!["one", "dir"] };
        for _ in 0..3 {
            match session.send_message(&letter.sender(), &letter.addresses(), &letter.text()) {
                Ok(reply) if reply.starts_with("250") => {
                    self.accepted.lock().unwrap().insert(number, letter);
                    return Ok(());
                }
                Ok(reply) if reply.starts_with("451") => drop(self.deferred.fetch_add(1, Relaxed)),
                other => return Err(format!("message {number}: {other:?}")),
            }
        }
        Err(format!("message {number} was deferred three times"))
    }

    /// Counts every message in what was taken and in what is left.
    fn look(&self) -> Tally {
        let accepted = self.accepted.lock().unwrap();
        let scratch = &self.scratch;
        let read = |folder: &str| {
            readers::files_in(&scratch.path(folder)).into_iter().map(|path| std::fs::read(path).unwrap())
        };
        let left = readers::python_mbox(scratch, &scratch.path(MBOX));
        let in_mbox: Vec<_> = left.into_iter().chain(read(TAKEN_FROM_MBOX)).collect();
        let left = readers::maildir(&scratch.path(MAILDIR)).into_iter().map(|(_, raw)| raw);
        let in_maildir: Vec<_> = left.chain(read(TAKEN_FROM_MAILDIR)).collect();

        let mut tally = Tally {
            runs: self.sessions.load(Relaxed),
            accepted: u64::try_from(accepted.len()).unwrap(),
            problems: self.problems.lock().unwrap().clone(),
            ..Tally::default()
        };
        for (place, recipient, format, messages) in
            [(MBOX, "one", Format::Mboxrd, in_mbox), (MAILDIR, "dir", Format::Bare, in_maildir)]
        {
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            for raw in &messages {
                match examine(raw, format, |number| accepted.get(&number)) {
                    Copy::Whole { number, recipients } if recipients == [recipient] => {
                        tally.found += 1;
                        *counts.entry(number).or_default() += 1;
                    }
                    other => {
                        tally.torn += 1;
                        tally.problems.push(format!("{place}: {other:?}"));
                    }
                }
            }
            for number in accepted.keys() {
                match counts.get(number) {
                    Some(1) => {}
                    None => {
                        tally.lost += 1;
                        tally.problems.push(format!("{place}: message {number} got 250 and is lost"));
                    }
                    Some(more) => {
                        tally.doubled += more - 1;
                        tally.problems.push(format!("{place}: message {number} is there {more} times"));
                    }
                }
            }
            let left = if place == MBOX { TAKEN_FROM_MBOX } else { TAKEN_FROM_MAILDIR };
            let taken = readers::files_in(&scratch.path(left)).len();
            tally
                .notes
                .push(format!("{place}: {taken} of {} messages were read and deleted meanwhile", messages.len()));
        }
        let deferred = self.deferred.load(Relaxed);
        if deferred > 0 {
            tally.notes.push(format!("{deferred} messages were deferred with 451 and sent again"));
        }
        tally
    }
}

/// Messages a second into one mbox, one writer and many of them, turn and turn about; medians. Every session is open
/// before the clock starts, so that only deliveries count.
fn throughput() -> String {
    let (mut alone, mut together): (Vec<f64>, Vec<f64>) = (0..5).map(|_| (rate(1, 300), rate(64, 20))).unzip();
    alone.sort_by(f64::total_cmp);
    together.sort_by(f64::total_cmp);
    let (alone, together) = (alone[2], together[2]);
    format!(
        "one mbox, 1 KB messages: {alone:.0}/s from 1 writer, {together:.0}/s from 64 writers: {:.0} %",
        together / alone * 100.0
    )
}

fn rate(writers: u64, messages_each: u64) -> f64 {
    let crowd = Crowd::new(0);
    let (ready, config) = (Barrier::new(usize::try_from(writers + 1).unwrap()), crowd.scratch.path(CONFIG));
    let mut started = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (ready, config) = (&ready, &config);
            scope.spawn(move || {
                let mut session = Session::start(config, &[]);
                session.introduce().expect("a receiver");
                let texts: Vec<_> = (0..messages_each)
                    .map(|number| Letter {
                        number: writer * messages_each + number,
                        size: 1000,
                        recipients: Vec::new(),
                    })
                    .map(|letter| (letter.sender(), letter.text()))
                    .collect();
                ready.wait();
                for (sender, text) in &texts {
                    let reply = session.send_message(sender, &["one@receiver.example"], text).expect("a reply");
                    assert!(reply.starts_with("250"), "{reply}");
                }
            });
        }
        ready.wait();
        started = Instant::now();
    });
    let messages = u32::try_from(writers * messages_each).unwrap();
    f64::from(messages) / started.elapsed().as_secs_f64()
}

/// Reads and deletes most of what there is, over and over, until there is a file `stop`. What it takes it writes down
/// before it deletes it.
const READER: &str = r"
import itertools, mailbox, os, random, sys, time
mbox, maildir, taken_mbox, taken_maildir, stop = sys.argv[1:]
numbers = itertools.count()
chance = random.Random(1)

def take(folder, raw):
    with open(os.path.join(folder, str(next(numbers))), 'xb') as file:
        file.write(raw)

def read_mbox():
    try:
        box = mailbox.mbox(mbox, create=False)
    except mailbox.NoSuchMailboxError:
        return
    for attempt in range(3000):
        try:
            box.lock()
            break
        except mailbox.ExternalClashError:
            time.sleep(0.002)
    else:
        sys.exit('the lock on the mbox is not to be had')
    for key in box.keys():
        if chance.random() < 0.7:
            take(taken_mbox, box.get_bytes(key, from_=True))
            box.remove(key)
    try:
        box.flush()
    except mailbox.ExternalClashError as error:
        # The new file is in place, and somebody had locked it before this program could. That is no harm. But if the
        # old file had changed under the lock, that is somebody who does not respect it.
        if 'lock unavailable' not in str(error):
            raise
    finally:
        box.unlock()
    box.close()

def read_maildir():
    try:
        box = mailbox.Maildir(maildir, create=False)
        keys = box.keys()
    except (mailbox.NoSuchMailboxError, FileNotFoundError):
        return
    for key in keys:
        if chance.random() < 0.7:
            take(taken_maildir, box.get_bytes(key))
            box.remove(key)

while not os.path.exists(stop):
    read_mbox()
    read_maildir()
    time.sleep(chance.random() * 0.01)
";

const MBOX: &str = "mbox";
const MAILDIR: &str = "maildir";
const TAKEN_FROM_MBOX: &str = "taken-from-mbox";
const TAKEN_FROM_MAILDIR: &str = "taken-from-maildir";
const STOP: &str = "stop";
const READER_ERRORS: &str = "reader-errors";

const MESSAGES_PER_SESSION: usize = 7;

/// In bytes.
const LARGEST: u32 = 30_000;
