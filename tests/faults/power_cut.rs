//! The machine loses power: what strace saw written and synced is played onto a model of a disk, and of what was not
//! synced any part may be missing. When the 250 leaves, the message has to be there whole, whatever is missing; when a
//! refusal leaves, nothing of it may be.
//!
//! The model assumes what POSIX promises, which is less than what any file system does. The content and the length of
//! a file are durable once it was synced after they changed. A name is durable once its folder was synced after it was
//! made or removed; that the file behind it was synced does not help, nor does the sync of a folder help the folder's own
//! name. Everything else is kept or lost by itself, every `write` and every name: of a rename even the removal of the
//! old name without the new one. A lost `write` in front of one that was kept leaves zeros.
//!
//! With nothing lost the model has to be what the real disk is in the end: so it is known to be complete. And each sync
//! that counts is left out in turn: for those that a message hangs on, some loss has to be found then.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::strace::Call;
use testkit::{Form, Random};

use crate::letters::Letter;
use crate::order::{self, ACCEPTED};
use crate::places::{Destinations, Place, Tree};
use crate::readers;
use crate::report::Tally;
use crate::trace::{self, Reach};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    trace::several_at_a_time(&cases(form), progress, |case| case.run(form))
}

/// A delivery, and the cut when it is answered.
struct Case {
    route: &'static [Place],
    size: usize,
    before: Before,
}

/// What happens before that delivery.
enum Before {
    Nothing,
    /// Another one, to the same places, that strace does this to.
    Disturbed(String),
    /// Another one that is also for a command that refuses it.
    Refused,
}

fn cases(form: Form) -> Vec<Case> {
    let sizes = if form == Form::Long { &SIZES[..] } else { &SIZES[..2] };
    let mut cases = Vec::new();
    for size in sizes {
        cases.extend(ROUTES.iter().map(|route| Case { route, size: *size, before: Before::Nothing }));
    }
    // What a delivery made before it was cut short, the next one finds and relies on.
    for route in DISTURBED_ROUTES {
        let mut destinations = Destinations::new();
        let letter = destinations.letter(route, SIZES[0]);
        let (_, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
        let mut disturb = |before| cases.push(Case { route, size: SIZES[0], before });
        for call in calls.iter().filter(|call| call.concerns(&destinations.mail())) {
            let at = |what| Before::Disturbed(format!("{}:{what}:when={}", call.name, call.occurrence));
            disturb(at("signal=KILL"));
            if form == Form::Long || order::is_sync(call) {
                disturb(at("error=EIO"));
            }
        }
        disturb(Before::Refused);
    }
    cases
}

impl Case {
    fn run(&self, form: Form) -> Tally {
        let mut tally = Tally::default();
        let mut destinations = Destinations::new();
        let mut what = format!("{:?}, {} bytes", self.route, self.size);
        let mut model = Model::of(&destinations.mail());
        let injection = match &self.before {
            Before::Nothing => None,
            Before::Disturbed(injection) => Some((&**injection, None)),
            Before::Refused => Some((NO_FAULT, Some(Place::Refusing))),
        };
        if let Some((injection, place)) = injection {
            let route: Vec<_> = self.route.iter().copied().chain(place).collect();
            what = format!("{what}, after one to {route:?} with {injection}");
            let letter = destinations.letter(&route, self.size);
            let (_, calls) = trace::deliver(&destinations, &letter, Reach::Everything, Some(injection));
            tally.runs += 1;
            model = model.after(&calls);
        }
        let letter = destinations.letter(self.route, self.size);
        let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Everything, None);
        tally.runs += 1;
        tally.accepted += u64::from(attempt.accepted());
        let is_deliverable = self.route.iter().all(|place| place.accepts());
        let answer = if is_deliverable { ACCEPTED } else { "451 " };
        let Some(cut) = calls.iter().position(|call| call.sends(answer)) else {
            tally.problems.push(format!("{what}: {}", attempt.answer()));
            return tally;
        };

        // Commands answer for their files themselves.
        let places =
            self.route.iter().copied().filter(|place| !matches!(place, Place::Command | Place::Refusing)).collect();
        let judge = Judge { destinations: &destinations, letter: &letter, places, is_deliverable, form };
        let mut first_problem = None;
        for problem in judge.outcomes(&model.after(&calls[..cut])) {
            tally.faults += 1;
            match (is_deliverable, &problem) {
                (true, None) => tally.found += u64::try_from(judge.places.len()).unwrap(),
                (true, Some(_)) => tally.lost += 1,
                (false, _) => {}
            }
            first_problem = first_problem.or(problem);
        }
        tally.problems.extend(first_problem.map(|problem| format!("{what}: {problem}")));

        let end = model.after(&calls);
        let is_ours = |path: &Path| !path.starts_with(Place::Command.name());
        let disk: Tree = destinations.tree().into_iter().filter(|(path, _)| is_ours(path)).collect();
        if end.tree(|_| true) != disk {
            tally.problems.push(format!("{what}: the model has come to another end than the disk"));
        }
        tally.problems.extend(end.not_understood.iter().map(|call| format!("{what}: the model has no {call}")));

        if is_deliverable && matches!(self.before, Before::Nothing) && tally.problems.is_empty() {
            for at in order::decisive_syncs(&calls[..cut], &destinations.mail()) {
                let others = calls[..cut]
                    .iter()
                    .filter(|call| !(order::is_sync(call) && call.descriptor() == calls[at].descriptor()));
                if judge.outcomes(&model.after(others)).all(|problem| problem.is_none()) {
                    tally.problems.push(format!("{what}: nothing misses {}", calls[at].brief()));
                }
            }
        }
        tally
    }
}

/// Looks at what is left after a cut.
struct Judge<'a> {
    destinations: &'a Destinations,
    letter: &'a Letter,
    places: Vec<Place>,
    is_deliverable: bool,
    form: Form,
}

impl Judge<'_> {
    /// Cuts the power, again and again, and loses something else each time. Gives what is wrong then, or nothing.
    fn outcomes(&self, model: &Model) -> impl Iterator<Item = Option<String>> {
        losses(&model.unsynced(), self.form).into_iter().map(|lost| {
            let problem = self.problem(&model.tree(|change| !lost.contains(&change)))?;
            let lost: Vec<_> = lost.iter().map(|change| model.changes[*change].to_string()).collect();
            Some(format!("{problem} when this is lost: {}", lost.join(", ")))
        })
    }

    fn problem(&self, tree: &Tree) -> Option<String> {
        let sight = self.destinations.look(tree, &self.places);
        let number = self.letter.number;
        if let Some(problem) = sight.problems.first() {
            return Some(problem.clone());
        }
        // What an earlier delivery was killed over has no number to be told by, if there is little of it.
        if let Some((_, place, how)) = sight.torn.iter().find(|(of, ..)| *of == Some(number)) {
            return Some(format!("{how} is in {place:?}"));
        }
        let expected = usize::from(self.is_deliverable);
        let wrong = self.places.iter().find(|place| sight.count(number, **place) != expected);
        wrong.map(|place| format!("{} copies in {place:?}", sight.count(number, *place)))
    }
}

/// What may be lost together: everything in every combination, if there is little enough of it; else many of them.
fn losses(unsynced: &[usize], form: Form) -> Vec<Vec<usize>> {
    let select = |keep: &dyn Fn(usize) -> bool| -> Vec<usize> {
        unsynced.iter().enumerate().filter(|(bit, _)| keep(*bit)).map(|(_, change)| *change).collect()
    };
    if unsynced.len() <= FEW {
        return (0..1_usize << unsynced.len()).map(|bits| select(&|bit| bits >> bit & 1 == 1)).collect();
    }
    let mut losses = vec![Vec::new(), unsynced.to_vec()];
    losses.extend((0..unsynced.len()).map(|one| select(&|bit| bit == one)));
    losses.extend((0..unsynced.len()).map(|one| select(&|bit| bit != one)));
    let mut random = Random::new(u64::try_from(unsynced.len()).unwrap());
    let count = if form == Form::Long { 5000 } else { 500 };
    losses.extend((0..count).map(|_| unsynced.iter().copied().filter(|_| random.below(2) == 0).collect::<Vec<_>>()));
    losses
}

/// What a folder is before something is done in it, to see what a power cut may leave of that.
pub struct Cut(Model);

impl Cut {
    /// The folder as it is on the disk now.
    pub fn prepare(folder: &Path) -> Self {
        Self(Model::of(folder))
    }

    /// The same without a file of it that is of no interest and large.
    pub fn without(mut self, name: &Path) -> Self {
        let (Some(node), Some((folder, name))) =
            (self.0.find(&self.0.root.join(name)), self.0.place(&self.0.root.join(name)))
        else {
            return self;
        };
        for nodes in [&mut self.0.first, &mut self.0.now] {
            nodes[node] = Node::File(Vec::new());
            if let Node::Folder(names) = &mut nodes[folder] {
                names.remove(&name);
            }
        }
        self
    }

    /// The folder as these calls have left it, of which some may not be on the disk yet.
    pub fn behind(&self, calls: &[Call]) -> Self {
        Self(self.0.after(calls))
    }

    /// What may be left of it if the power is cut behind these calls: what is lost, and the files that there are then.
    pub fn outcomes(&self, calls: &[Call], form: Form) -> Vec<(String, Tree)> {
        let model = self.0.after(calls);
        let unsynced = model.unsynced();
        // What is at the end may be lost alone, or all that is behind a point; anything in the long form.
        let mut lost: Vec<Vec<usize>> = (0..=unsynced.len()).map(|kept| unsynced[kept..].to_vec()).collect();
        lost.extend(unsynced.iter().map(|one| vec![*one]));
        if form == Form::Long && unsynced.len() <= FEW {
            lost = losses(&unsynced, form);
        }
        lost.sort();
        lost.dedup();
        let shown =
            |lost: &Vec<usize>| lost.iter().map(|at| model.changes[*at].to_string()).collect::<Vec<_>>().join(", ");
        lost.iter().map(|lost| (shown(lost), model.tree(|change| !lost.contains(&change)))).collect()
    }
}

/// The files and folders below one folder, and what was done to them since.
#[derive(Clone)]
struct Model {
    root: PathBuf,
    /// What was there in the beginning, durable; what was made later is here empty.
    first: Vec<Node>,
    /// What is there for those who look now.
    now: Vec<Node>,
    changes: Vec<Change>,
    not_understood: Vec<String>,
}

#[derive(Clone)]
enum Node {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, usize>),
}

#[derive(Clone)]
struct Change {
    /// The file or folder that it is a change of.
    node: usize,
    what: What,
    synced: bool,
}

#[derive(Clone)]
enum What {
    Write(usize, Vec<u8>),
    Cut(usize),
    Name(OsString, usize),
    NoName(OsString),
}

impl Model {
    /// The folder as it is on the disk now.
    fn of(root: &Path) -> Self {
        let mut nodes = Vec::new();
        read(root, &mut nodes);
        Self {
            root: root.to_owned(),
            now: nodes.clone(),
            first: nodes,
            changes: Vec::new(),
            not_understood: Vec::new(),
        }
    }

    /// As it is after these calls; those of other processes than the first are of no interest.
    fn after<'c>(&self, calls: impl IntoIterator<Item = &'c Call>) -> Self {
        let mut model = self.clone();
        let mut receiver = None;
        for call in calls {
            if *receiver.get_or_insert(call.pid) == call.pid && call.succeeded() {
                model.play(call);
            }
        }
        model
    }

    fn play(&mut self, call: &Call) {
        let file = call.descriptor().and_then(|path| self.find(Path::new(path)));
        let argument = |number: usize| call.arguments.get(number).and_then(|number| number.parse().ok());
        match (&*call.name, file) {
            ("write" | "pwrite64", Some(node)) => {
                let Node::File(content) = &self.now[node] else { return };
                // All of them append; the model would come to another end than the disk if one did not.
                let at = if call.name == "write" { Some(content.len()) } else { argument(3) };
                match (at, call.bytes(1), call.result.map(usize::try_from)) {
                    (Some(at), Some(mut bytes), Some(Ok(length))) => {
                        bytes.truncate(length);
                        self.change(node, What::Write(at, bytes));
                    }
                    _ => self.not_understood.push(call.brief()),
                }
            }
            ("ftruncate", Some(node)) => self.change(node, What::Cut(argument(1).unwrap_or(0))),
            ("fsync" | "fdatasync", Some(node)) => {
                self.changes.iter_mut().filter(|change| change.node == node).for_each(|change| change.synced = true);
            }
            ("writev" | "pwritev" | "fallocate" | "copy_file_range" | "sendfile" | "splice", Some(_)) => {
                self.not_understood.push(call.brief());
            }
            _ if call.opens() && call.arguments.iter().any(|flags| flags.contains("O_CREAT")) => {
                self.make(call, Node::File(Vec::new()));
            }
            ("mkdir" | "mkdirat", _) => self.make(call, Node::Folder(BTreeMap::new())),
            ("rename" | "renameat" | "renameat2", _) => {
                let Some((from, to)) = call.renamed() else { return };
                let (from, to) = (Path::new(&from), Path::new(&to));
                if let (Some(node), Some((folder, name))) = (self.find(from), self.place(to)) {
                    self.change(folder, What::Name(name, node));
                    self.remove(from);
                }
            }
            ("unlink" | "unlinkat", _) => {
                if let Some(path) = call.name_of_file() {
                    self.remove(Path::new(&path));
                }
            }
            ("link" | "linkat" | "symlink" | "symlinkat", _) => self.not_understood.push(call.brief()),
            _ => {}
        }
    }

    fn change(&mut self, node: usize, what: What) {
        what.apply(node, &mut self.now);
        self.changes.push(Change { node, what, synced: false });
    }

    fn make(&mut self, call: &Call, node: Node) {
        let Some(path) = call.name_of_file().map(PathBuf::from) else { return };
        if let (None, Some((folder, name))) = (self.find(&path), self.place(&path)) {
            self.first.push(node.clone());
            self.now.push(node);
            self.change(folder, What::Name(name, self.now.len() - 1));
        }
    }

    fn remove(&mut self, path: &Path) {
        if let Some((folder, name)) = self.place(path) {
            self.change(folder, What::NoName(name));
        }
    }

    /// What has this path now.
    fn find(&self, path: &Path) -> Option<usize> {
        path.strip_prefix(&self.root).ok()?.iter().try_fold(0, |folder, name| match &self.now[folder] {
            Node::Folder(names) => names.get(name).copied(),
            Node::File(_) => None,
        })
    }

    /// The folder, and the name in it.
    fn place(&self, path: &Path) -> Option<(usize, OsString)> {
        Some((self.find(path.parent()?)?, path.file_name()?.to_owned()))
    }

    fn unsynced(&self) -> Vec<usize> {
        (0..self.changes.len()).filter(|change| !self.changes[*change].synced).collect()
    }

    /// The files that there are if only some of the changes have come to stay.
    fn tree(&self, stays: impl Fn(usize) -> bool) -> Tree {
        let mut nodes = self.first.clone();
        for (_, change) in self.changes.iter().enumerate().filter(|(number, _)| stays(*number)) {
            change.what.apply(change.node, &mut nodes);
        }
        let mut tree = Tree::new();
        collect(&nodes, 0, Path::new(""), &mut tree);
        tree
    }
}

impl What {
    fn apply(&self, node: usize, nodes: &mut [Node]) {
        match (self, &mut nodes[node]) {
            (What::Write(at, bytes), Node::File(content)) => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            (What::Cut(length), Node::File(content)) => content.resize(*length, 0),
            (What::Name(name, node), Node::Folder(names)) => drop(names.insert(name.clone(), *node)),
            (What::NoName(name), Node::Folder(names)) => drop(names.remove(name)),
            // A descriptor cannot change its kind.
            _ => unreachable!("a file is no folder"),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            What::Write(at, bytes) => write!(f, "{} bytes written at {at}", bytes.len()),
            What::Cut(length) => write!(f, "the cut to {length} bytes"),
            What::Name(name, _) => write!(f, "the name {}", name.display()),
            What::NoName(name) => write!(f, "that the name {} went", name.display()),
        }
    }
}

/// Reads what a path leads to, and all below it. Returns its number.
fn read(path: &Path, nodes: &mut Vec<Node>) -> usize {
    let number = nodes.len();
    if path.is_dir() {
        nodes.push(Node::Folder(BTreeMap::new()));
        let entry = |path: PathBuf, nodes: &mut Vec<Node>| (path.file_name().unwrap().to_owned(), read(&path, nodes));
        let names = readers::files_in(path).into_iter().map(|path| entry(path, nodes)).collect();
        nodes[number] = Node::Folder(names);
    } else {
        nodes.push(Node::File(fs::read(path).expect("a file of ours")));
    }
    number
}

fn collect(nodes: &[Node], number: usize, path: &Path, tree: &mut Tree) {
    match &nodes[number] {
        Node::File(content) => drop(tree.insert(path.to_owned(), content.clone())),
        Node::Folder(names) => names.iter().for_each(|(name, node)| collect(nodes, *node, &path.join(name), tree)),
    }
}

/// An injection that never happens.
const NO_FAULT: &str = "fsync:error=EIO:when=65535";

/// Up to so many changes, all combinations of them are tried.
const FEW: usize = 10;

/// What kinds of destinations a message goes to.
const ROUTES: &[&[Place]] = &[
    &[Place::Mbox],
    &[Place::NewMbox],
    &[Place::TornMbox],
    &[Place::Maildir],
    &[Place::NewMaildir],
    &[Place::Files],
    &[Place::Files, Place::Refusing],
    &[Place::Mbox, Place::NewMbox, Place::Maildir, Place::NewMaildir],
    &[Place::NewMbox, Place::NewMaildir, Place::Command],
    &[Place::Mbox, Place::Maildir, Place::Refusing],
    &[Place::NewMbox, Place::NewMaildir, Place::Refusing],
];

/// Those where a delivery leaves something behind that the next one uses.
const DISTURBED_ROUTES: &[&[Place]] = &[&[Place::NewMbox], &[Place::NewMaildir], &[Place::Files]];

/// Of messages, in bytes.
const SIZES: [usize; 4] = [400, 300_000, 1, 3_000_000];
