//! No room: a file system of 1 MiB, one without a free inode, a limit on the size of files, a device that is full.
//!
//! A message that does not fit is answered `452 4.3.1` and leaves not one byte; a smaller one arrives; and the first
//! arrives too once there is room. The file systems are mounted in a mount namespace that ends with its case, so that
//! nothing can stay mounted; needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Form, Process, Random, output, wait_until};

use crate::places::{Attempt, Destinations, Place, Tree, tree_of};
use crate::readers;
use crate::report::Tally;
use crate::trace;

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    trace::several_at_a_time(&cases(form), progress, Case::run)
}

/// Something that leaves no room for a message.
struct Case {
    shortage: Shortage,
    route: Vec<Place>,
    size: usize,
    /// Whether it is known that the message does not fit.
    fits: Fits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    /// Destinations on a file system of 1 MiB.
    Destinations,
    /// Destinations on a file system with so many inodes left.
    Inodes(usize),
    /// Spool files on a file system of 1 MiB.
    Spool,
    /// No file may grow larger than this (RLIMIT_FSIZE).
    FileSize(usize),
    /// What is full is one of the destinations.
    Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    No,
    Perhaps,
}

fn cases(form: Form) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |shortage, route: &[Place], size, fits| {
        cases.push(Case { shortage, route: route.to_vec(), size, fits });
    };
    for place in FILES {
        add(Shortage::Destinations, &[place], LARGE, Fits::No);
        add(Shortage::Spool, &[place], LARGE, Fits::No);
        add(Shortage::FileSize(100_000), &[place], 200_000, Fits::No);
        add(Shortage::FileSize(100_000), &[place], 400_000, Fits::No);
        add(Shortage::Device, &[place, Place::Full], SMALL, Fits::No);
        add(Shortage::Device, &[Place::Full, place], LARGE, Fits::No);
    }
    // Each copy would fit, but not both.
    for route in [[Place::Mbox, Place::Maildir], [Place::NewMbox, Place::NewMaildir], [Place::Mbox, Place::NewMbox]] {
        add(Shortage::Destinations, &route, 600_000, Fits::No);
    }
    add(Shortage::Destinations, &[Place::Mbox, Place::Maildir, Place::Command], 600_000, Fits::No);
    add(Shortage::Inodes(0), &[Place::NewMbox], SMALL, Fits::No);
    add(Shortage::Inodes(0), &[Place::Mbox, Place::Maildir], SMALL, Fits::No);
    // The maildir, its three folders, the message.
    for left in 0..5 {
        add(Shortage::Inodes(left), &[Place::Mbox, Place::NewMaildir], SMALL, Fits::No);
    }

    // A limit in the middle of everything that is written.
    let step = if form == Form::Long { 1 } else { 53 };
    for place in FILES {
        let before = place.before().map_or(0, <[u8]>::len);
        for more in (0..SMALL + 350).step_by(step) {
            add(Shortage::FileSize(before + more), &[place], SMALL, Fits::Perhaps);
        }
    }
    let mut random = Random::new(1);
    for _ in 0..if form == Form::Long { 300 } else { 10 } {
        let size = 400_000 + random.index(300_000);
        add(Shortage::Destinations, &[Place::Mbox, Place::Maildir], size, Fits::Perhaps);
    }
    cases
}

impl Case {
    fn run(&self) -> Tally {
        let mut tally = Tally { faults: 1, ..Tally::default() };
        let mut problems = Vec::new();
        let mut destinations = Destinations::new();
        let mut disk = Disk::new(self.shortage, &destinations);
        let what = format!("{:?}, {:?}, {} bytes", self.shortage, self.route, self.size);

        let letter = destinations.letter(&self.route, self.size);
        let attempt = destinations.deliver(&letter, &disk.wrapper);
        if self.fits == Fits::No || !attempt.accepted() {
            let is_right = matches!(&attempt.answer, Ok(reply) if reply.starts_with("452 4.3.1 "));
            if !is_right {
                problems.push(format!("answered {}", attempt.answer()));
            }
        }
        self.judge(&destinations, &disk, letter.number, &attempt, &mut tally, &mut problems);
        let was_refused = !attempt.accepted();

        // There is room for something small, but for inodes and where the limit is smaller still.
        if was_refused && matches!(self.shortage, Shortage::Destinations | Shortage::Spool) {
            let letter = destinations.letter(&self.route, SMALL);
            let attempt = destinations.deliver(&letter, &disk.wrapper);
            if !attempt.accepted() {
                problems.push(format!("a small message: {}", attempt.answer()));
            }
            self.judge(&destinations, &disk, letter.number, &attempt, &mut tally, &mut problems);
        }

        if was_refused && self.shortage != Shortage::Device {
            disk.make_room();
            let letter = destinations.letter(&self.route, self.size);
            let attempt = destinations.deliver(&letter, &disk.wrapper);
            if !attempt.accepted() {
                problems.push(format!("when there is room: {}", attempt.answer()));
            }
            self.judge(&destinations, &disk, letter.number, &attempt, &mut tally, &mut problems);
        }
        tally.problems.extend(problems.into_iter().map(|problem| format!("{what}: {problem}")));
        tally
    }

    /// Whether the disk agrees with the answer.
    fn judge(
        &self,
        destinations: &Destinations,
        disk: &Disk,
        number: u64,
        attempt: &Attempt,
        tally: &mut Tally,
        problems: &mut Vec<String>,
    ) {
        let tree = disk.tree();
        let sight = destinations.look(&tree, &self.route);
        tally.runs += 1;
        tally.accepted += u64::from(attempt.accepted());
        tally.torn += u64::try_from(sight.torn.len()).unwrap();
        problems.extend(sight.torn.iter().map(|(of, place, how)| format!("{of:?} is torn in {place:?}: {how}")));
        problems.extend(sight.waiting.iter().map(|path| format!("{} is left behind", path.display())));
        for place in self.route.iter().filter(|place| place.accepts()) {
            match (sight.count(number, *place), attempt.accepted()) {
                (0, true) => tally.lost += 1,
                (1, true) => tally.found += 1,
                (0, false) => {}
                (1, false) => problems.push(format!("message {number} is in {place:?} all the same")),
                (_, _) => tally.doubled += 1,
            }
            if attempt.accepted() {
                let missing = place.missing_folders(&disk.view);
                problems.extend(missing.iter().map(|folder| format!("there is no {}", folder.display())));
            }
            let is_untouched = |before| tree.get(Path::new(place.name())).map_or(&b""[..], |content| content) == before;
            if sight.whole.is_empty() && place.before().is_some_and(|before| !is_untouched(before)) {
                problems.push(format!("{place:?} is not as it was"));
            }
        }
        problems.extend(sight.problems);
    }
}

/// Where the shortage is.
struct Disk {
    /// How the receiver is started so that it is short of room.
    wrapper: Vec<String>,
    /// Where we see its destinations.
    view: PathBuf,
    /// The process that keeps the mount namespace, and where in it something is mounted.
    namespace: Option<(Process, PathBuf)>,
}

impl Disk {
    fn new(shortage: Shortage, destinations: &Destinations) -> Self {
        let mail = destinations.mail();
        let (place, options) = match shortage {
            Shortage::Destinations => (mail.clone(), "size=1m".to_owned()),
            Shortage::Inodes(left) => {
                // The file system's root has one too.
                let inodes = 1 + count(&mail) + left;
                (mail.clone(), format!("size=1m,nr_inodes={inodes}"))
            }
            Shortage::Spool => (destinations.scratch.path("spool"), "size=1m".to_owned()),
            Shortage::FileSize(limit) => {
                let wrapper = ["prlimit".to_owned(), format!("--fsize={limit}")].to_vec();
                return Self { wrapper, view: mail, namespace: None };
            }
            Shortage::Device => return Self { wrapper: Vec::new(), view: mail, namespace: None },
        };
        let ready = destinations.scratch.path("mounted");
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-ec", MOUNT, "sh", &options]).arg(&place).arg(&ready);
        // Its own folder would look like a command's that has not ended.
        command.current_dir("/");
        let keeper = Process::start(command);
        wait_until("a mounted file system", || ready.exists().then_some(()));
        let pid = keeper.pid();
        let folder = destinations.scratch.path("");
        let wrapper = vec![
            "nsenter".to_owned(),
            format!("--target={pid}"),
            "--mount".to_owned(),
            format!("--wd={}", folder.display()),
        ];
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let view = if place == mail { root.join(mail.strip_prefix("/").expect("an absolute path")) } else { mail };
        Self { wrapper, view, namespace: Some((keeper, place)) }
    }

    fn tree(&self) -> Tree {
        tree_of(&self.view)
    }

    fn make_room(&mut self) {
        match &self.namespace {
            Some((keeper, place)) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--target={}", keeper.pid())).args(["--mount", "mount", "-o", ROOM]).arg(place);
                let output = output(command);
                assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
            }
            None => self.wrapper.clear(),
        }
    }
}

/// How many files and folders there are below a folder.
fn count(folder: &Path) -> usize {
    readers::files_in(folder).iter().map(|path| 1 + count(path)).sum()
}

/// Mounts a file system with the options `$1` on `$2`, with everything in it that was there before; then makes the file
/// `$3`. The namespace lasts as long as the process, which is killed long before it ends by itself.
const MOUNT: &str = r#"
cp -a "$2" "$2.before"
mount -t tmpfs -o "$1" tmpfs "$2"
cp -a "$2.before/." "$2"
touch "$3"
exec sleep 300
"#;

/// Enough of it.
const ROOM: &str = "remount,size=64m,nr_inodes=1000";

/// Places that have to do with files.
const FILES: [Place; 6] =
    [Place::Mbox, Place::NewMbox, Place::TornMbox, Place::Maildir, Place::NewMaildir, Place::Files];

/// Sizes of messages in bytes.
const SMALL: usize = 500;
const LARGE: usize = 2_000_000;
