//! The order of things: the sync of every destination stands before the 250, in the log of strace.
//!
//! A rule book goes through the system calls of a delivery and says what is out of order. That it would notice is a part
//! of the test: out of every log each sync that counts is taken in turn, and the rule book has to miss it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use testkit::Form;
use testkit::strace::Call;

use crate::places::{Destinations, Place};
use crate::report::Tally;
use crate::trace::{self, Reach};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let sizes = if form == Form::Long { &SIZES[..] } else { &SIZES[..2] };
    let plans: Vec<_> = sizes.iter().flat_map(|size| ROUTES.iter().map(|route| (*route, *size))).collect();
    trace::several_at_a_time(&plans, progress, |(route, size)| check(route, *size))
}

fn check(route: &[Place], size: usize) -> Tally {
    let mut tally = Tally { runs: 1, ..Tally::default() };
    let mut destinations = Destinations::new();
    let letter = destinations.letter(route, size);
    let folder = destinations.mail();
    let before: BTreeSet<PathBuf> = destinations.tree().into_keys().collect();
    let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Everything, None);
    let what = format!("{route:?}, {size} bytes");
    let is_deliverable = route.iter().all(|place| place.accepts());
    if attempt.accepted() != is_deliverable {
        tally.problems.push(format!("{what}: {}", attempt.answer()));
        return tally;
    }
    tally.accepted += u64::from(attempt.accepted());
    let sight = destinations.look(&destinations.tree(), route);
    tally.found += u64::try_from(sight.whole.len()).unwrap();
    let complaints = complaints(&calls, &folder, &before);
    let complaints = complaints.into_iter().chain(input_ended_early(&calls, size));
    tally.problems.extend(complaints.map(|complaint| format!("{what}: {complaint}")));
    // Where the end is a refusal there is no 250 that a sync could be missing from.
    for at in decisive_syncs(&calls, &folder).into_iter().filter(|_| is_deliverable) {
        let mut without = calls.clone();
        without.remove(at);
        tally.faults += 1;
        if self::complaints(&without, &folder, &before).is_empty() {
            tally.problems.push(format!("{what}: nothing misses {}", calls[at].brief()));
        }
    }
    tally
}

/// Whether a command whose time runs out sees an end of its input: it would take the beginning of the message for all of
/// it, and might be faster than the signal that stops it.
fn input_ended_early(calls: &[Call], size: usize) -> Option<String> {
    let to_command = |call: &&Call| call.name == "write" && call.descriptor().is_some_and(|to| to.starts_with("pipe:"));
    let first = calls.iter().find(to_command)?;
    let input = &first.arguments[0];
    let writes =
        calls.iter().filter(|call| call.pid == first.pid && call.name == "write" && call.arguments[0] == *input);
    let written: i64 = writes.filter(|call| call.succeeded()).filter_map(|call| call.result).sum();
    if usize::try_from(written).is_ok_and(|written| written >= size) {
        return None;
    }
    let killed = calls.iter().position(|call| call.name == "kill")?;
    let closed = calls.iter().position(|call| call.name == "close" && call.arguments.first() == Some(input))?;
    (closed < killed).then(|| format!("{} stands before {}", calls[closed].brief(), calls[killed].brief()))
}

/// Where the last sync of each file and folder is. One before it may be of no consequence.
pub fn decisive_syncs(calls: &[Call], folder: &Path) -> Vec<usize> {
    let syncs = calls.iter().enumerate().filter(|(_, call)| is_sync(call) && call.concerns(folder));
    let last: BTreeMap<_, _> = syncs.map(|(at, call)| (call.descriptor(), at)).collect();
    last.into_values().collect()
}

/// What is out of order in the calls of a delivery into files below this folder, of which these were there before.
pub fn complaints(calls: &[Call], folder: &Path, before: &BTreeSet<PathBuf>) -> Vec<String> {
    let Some(receiver) = calls.first().map(|call| call.pid) else { return vec!["nothing was traced".to_owned()] };
    let mut book = RuleBook::new(folder, before);
    // What a command does with its files is its own affair; that it has ended is ours.
    for call in calls.iter().filter(|call| call.pid == receiver && (call.succeeded() || is_of_missing_lock(call))) {
        book.read(call);
    }
    book.complaints
}

/// What has been done and not been made durable, at some point of the log.
struct RuleBook<'a> {
    folder: &'a Path,
    before: &'a BTreeSet<PathBuf>,
    /// Files with something in them that is not synced.
    written: BTreeSet<PathBuf>,
    /// Names that were made, by the folders that have not been synced since.
    names: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Which locks the receiver has.
    flocks: BTreeSet<PathBuf>,
    record_locks: BTreeSet<PathBuf>,
    /// Whether the receiver is in its sandbox; what it tells the process that runs commands before is no message.
    is_confined: bool,
    command_runs: bool,
    complaints: Vec<String>,
}

impl<'a> RuleBook<'a> {
    fn new(folder: &'a Path, before: &'a BTreeSet<PathBuf>) -> Self {
        Self {
            folder,
            before,
            written: BTreeSet::new(),
            names: BTreeMap::new(),
            flocks: BTreeSet::new(),
            record_locks: BTreeSet::new(),
            is_confined: false,
            command_runs: false,
            complaints: Vec::new(),
        }
    }

    fn read(&mut self, call: &Call) {
        let descriptor = call.descriptor().map(PathBuf::from).filter(|path| path.starts_with(self.folder));
        let name = call.name_of_file().map(PathBuf::from).filter(|path| path.starts_with(self.folder));
        match &*call.name {
            "write" | "pwrite64" | "writev" | "pwritev" | "ftruncate" => {
                if let Some(path) = descriptor {
                    self.write(path);
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = descriptor {
                    self.written.remove(&path);
                    self.names.remove(&path);
                }
            }
            "flock" if call.arguments[1].contains("LOCK_EX") => self.flocks.extend(descriptor),
            "flock" => self.flocks.retain(|path| Some(path) != descriptor.as_ref()),
            "fcntl" if call.arguments[1].starts_with("F_SETLK") || call.arguments[1].starts_with("F_OFD_SETLK") => {
                if call.arguments[2].contains("F_WRLCK") {
                    self.record_locks.extend(descriptor);
                } else {
                    self.record_locks.retain(|path| Some(path) != descriptor.as_ref());
                }
            }
            "close" => {
                // To close any descriptor of a file gives up the record locks (fcntl(2)).
                if let Some(path) = descriptor {
                    if self.written.contains(&path) {
                        self.complaints.push(format!("{} is closed before it is synced", path.display()));
                    }
                    self.record_locks.remove(&path);
                    self.flocks.remove(&path);
                }
            }
            "openat" | "openat2" | "open" | "creat" => {
                let flags = format!("{:?}", call.arguments);
                if let Some(path) = name.filter(|_| flags.contains("O_CREAT") || call.name == "creat") {
                    let is_new = !self.before.contains(path.strip_prefix(self.folder).unwrap_or(&path));
                    if is_new || flags.contains("O_EXCL") {
                        self.make(&path);
                    }
                }
            }
            "mkdir" | "mkdirat" => {
                if let Some(path) = name {
                    self.make(&path);
                }
            }
            "link" | "linkat" | "symlink" | "symlinkat" | "mknod" | "mknodat" => {
                self.complaints.push(format!("there is no rule for {}", call.brief()));
            }
            "rename" | "renameat" | "renameat2" => {
                if let Some((from, to)) = call.renamed() {
                    self.rename(Path::new(&from), Path::new(&to));
                }
            }
            "unlink" | "unlinkat" => {
                if let Some(path) = name {
                    self.forget(&path);
                    self.written.remove(&path);
                }
            }
            "landlock_restrict_self" => self.is_confined = true,
            "sendto" if trace::is_with_runner(call) && self.is_confined && !self.command_runs => {
                self.nothing_left("a command is started");
                self.command_runs = true;
            }
            "recvfrom" if trace::is_with_runner(call) => self.command_runs = false,
            _ if call.sends(ACCEPTED) => {
                if self.command_runs {
                    self.complaints.push("the 250 leaves while a command runs".to_owned());
                }
                self.nothing_left("the 250 leaves");
            }
            _ => {}
        }
    }

    fn write(&mut self, path: PathBuf) {
        // A maildir's files have names of their own, and need no locks.
        let is_locked = self.flocks.contains(&path) && self.record_locks.contains(&path);
        if path.parent() == Some(self.folder) && !is_locked {
            self.complaints.push(format!("{} is written without both locks", path.display()));
        }
        self.written.insert(path);
    }

    fn make(&mut self, path: &Path) {
        let folder = path.parent().unwrap_or(path);
        // What is in `tmp` gets its name for good when it is renamed.
        if folder.file_name().is_none_or(|name| name != "tmp") {
            self.names.entry(folder.to_owned()).or_default().insert(path.to_owned());
        }
    }

    fn forget(&mut self, path: &Path) {
        for names in self.names.values_mut() {
            names.remove(path);
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        if self.written.remove(from) {
            self.complaints.push(format!("{} gets its name before it is synced", to.display()));
            self.written.insert(to.to_owned());
        }
        if self.command_runs {
            self.complaints.push(format!("{} becomes visible while a command runs", to.display()));
        }
        self.forget(from);
        self.make(to);
    }

    fn nothing_left(&mut self, when: &str) {
        for path in &self.written {
            self.complaints.push(format!("{} is not synced when {when}", path.display()));
        }
        for (folder, names) in &self.names {
            if !names.is_empty() {
                self.complaints
                    .push(format!("{} is not synced when {when}, and has {names:?} in it", folder.display()));
            }
        }
    }
}

/// Whether it says that there is no such lock, so that the other kind alone has to do. Of all calls one fails, so that one
/// is held.
fn is_of_missing_lock(call: &Call) -> bool {
    ["flock", "fcntl"].contains(&&*call.name) && call.injected.as_deref() == Some("ENOLCK")
}

pub fn is_sync(call: &Call) -> bool {
    matches!(&*call.name, "fsync" | "fdatasync") && call.succeeded()
}

/// How the reply begins that this is all about.
pub const ACCEPTED: &str = "250 2.0.0 Message accepted";

/// What kinds of destinations a message goes to.
const ROUTES: &[&[Place]] = &[
    &[Place::Mbox],
    &[Place::NewMbox],
    &[Place::TornMbox],
    &[Place::Maildir],
    &[Place::NewMaildir],
    &[Place::Files],
    &[Place::Mbox, Place::NewMbox, Place::Maildir, Place::NewMaildir],
    &[Place::Mbox, Place::Maildir, Place::Command],
    &[Place::NewMbox, Place::NewMaildir, Place::RawCommand],
    &[Place::NewMbox, Place::NewMaildir, Place::Refusing],
    &[Place::Mbox, Place::Maildir, Place::Hanging],
];

/// Of messages, in bytes: one that is kept in memory, one in a spool file, and one that is written in many pieces.
const SIZES: [usize; 4] = [400, 300_000, 1, 3_000_000];
