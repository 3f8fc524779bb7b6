//! Every system call of a delivery fails once, or has SIGTERM behind it, by strace's hand; each time the reply and the
//! disk agree: with a 250 the message is at every destination, whole, once; without it is at none.
//!
//! The calls are taken from the log of the same delivery without a fault. Calls on the connection are left alone: what
//! fails there is the peer. After each fault a second message, undisturbed, has to arrive. One of the deliveries is done
//! under TLS, where certificate and key are read as well.
//!
//! Two things no program could make good: what fails may be the undoing itself; and a command, which cannot be asked to
//! give back what it has taken, may have taken it before the fault. Then a copy is left of a message without 250, which
//! comes again: no loss, counted as `window`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use testkit::strace::Call;
use testkit::{Broken, Form};

use crate::order;
use crate::places::{Attempt, Destinations, Place, Sight};
use crate::report::Tally;
use crate::support::CONFIG;
use crate::trace::{self, Reach};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let mut tally = Tally::default();
    let sizes = if form == Form::Long { &[SMALL, SPOOLED][..] } else { &[SMALL] };
    let mut faults = Vec::new();
    let mut routes: Vec<_> = sizes.iter().flat_map(|size| ROUTES.iter().map(move |route| (*route, *size))).collect();
    if form == Form::Short {
        routes.push((SPOOLED_ROUTE, SPOOLED));
    }
    let mut seen = HashMap::new();
    let in_the_clear = routes.iter().map(|(route, size)| (*route, *size, false));
    for (route, size, is_secured) in in_the_clear.chain([(ROUTES[0], SMALL, true)]) {
        match plan(form, route, size, is_secured, &mut seen) {
            // In the short form, of a large message only what is different.
            Ok(planned) if form == Form::Short && size == SPOOLED => {
                faults.extend(planned.into_iter().filter(|fault| fault.is_of_the_spool));
            }
            Ok(planned) => faults.extend(planned),
            Err(problem) => tally.problems.push(problem),
        }
    }
    tally.add(trace::several_at_a_time(&faults, progress, Fault::run));
    let mut notes: BTreeMap<String, usize> = BTreeMap::new();
    std::mem::take(&mut tally.notes).into_iter().for_each(|note| *notes.entry(note).or_default() += 1);
    tally.notes = notes.into_iter().map(|(note, count)| format!("{count} x {note}")).collect();
    // How often the connection is read, and with it how often the spool is written, is not the same every time, least of
    // all on a busy machine.
    let missed = tally.runs - tally.faults;
    if missed * 10 > tally.runs {
        tally.problems.push(format!("{missed} of {} faults did not come about", tally.runs));
    }
    tally
}

/// One fault in one delivery.
struct Fault {
    route: &'static [Place],
    size: usize,
    /// Whether it comes under TLS.
    is_secured: bool,
    /// The call, as it was in the delivery without a fault.
    call: String,
    /// As strace wants it.
    injection: String,
    name: String,
    occurrence: usize,
    is_signal: bool,
    is_of_the_spool: bool,
}

/// What to do to a delivery: its calls, and what can happen to each. `seen` is how many calls of each name have had
/// something done to them.
fn plan(
    form: Form,
    route: &'static [Place],
    size: usize,
    is_secured: bool,
    seen: &mut HashMap<String, usize>,
) -> Result<Vec<Fault>, String> {
    let mut destinations = destinations(is_secured);
    let letter = destinations.letter(route, size);
    let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
    if attempt.accepted() != is_deliverable(route) {
        return Err(format!("{route:?}, {size} bytes, without a fault: {}", attempt.answer()));
    }
    let mut faults = Vec::new();
    // What comes before and after a delivery is the same for all, so that in the short form one is enough. A session does
    // not know where its message will go before its peer has said more than who it is.
    let starts_runner = |call: &Call| call.name == "socketpair" || call.name.starts_with("clone");
    let is_of_this_route = |call: &Call| {
        starts_runner(call)
            || trace::is_with_runner(call)
            || call.concerns(&destinations.scratch.path("")) && !call.concerns(&destinations.scratch.path(CONFIG))
    };
    let hello = calls.iter().position(|call| call.sends("250")).unwrap_or_default();
    let is_first = route == ROUTES[0] && !is_secured;
    let is_wanted = |(at, call): &(usize, &Call)| {
        let is_new = *at > hello || starts_runner(call) || concerns_tls(call);
        form == Form::Long || is_first || is_new && (is_secured || is_of_this_route(call))
    };
    let calls = calls.iter().enumerate().filter(is_wanted).map(|(_, call)| call);
    for call in calls {
        let number = seen.entry(call.name.clone()).or_default();
        let mut outcomes: Vec<_> = errors(call).iter().map(|error| (format!("error={error}"), false)).collect();
        if form == Form::Short && !outcomes.is_empty() {
            // Each call once, but another error each time; a signal behind some.
            outcomes = vec![outcomes.swap_remove(*number % outcomes.len())];
        }
        let can_be_interrupted = !["execve", "exit_group"].contains(&&*call.name);
        if can_be_interrupted && (form == Form::Long || number.is_multiple_of(4)) {
            outcomes.push(("signal=TERM".to_owned(), true));
        }
        *number += 1;
        for (outcome, is_signal) in outcomes {
            faults.push(Fault {
                route,
                size,
                is_secured,
                call: call.brief(),
                injection: format!("{}:{outcome}:when={}", call.name, call.occurrence),
                name: call.name.clone(),
                occurrence: call.occurrence,
                is_signal,
                is_of_the_spool: call.concerns(&destinations.scratch.path("spool")),
            });
        }
    }
    Ok(faults)
}

/// Whether it has to do with the certificate or its key.
fn concerns_tls(call: &Call) -> bool {
    let name = call.descriptor().map(str::to_owned).or_else(|| call.name_of_file());
    name.is_some_and(|name| name.ends_with(".pem") || name.ends_with(".key"))
}

fn destinations(is_secured: bool) -> Destinations {
    let destinations = Destinations::new();
    if is_secured { destinations.under_tls() } else { destinations }
}

/// What a call can fail with; nothing if it is none of those that can, or on the connection.
pub fn errors(call: &Call) -> &'static [&'static str] {
    let descriptor = call.descriptor().unwrap_or_default();
    if trace::is_with_runner(call) {
        return if call.name == "sendto" { &["ENOBUFS", "EINTR"] } else { &["EIO", "EINTR"] };
    }
    if descriptor.starts_with("socket:") || descriptor.starts_with("anon_inode:") {
        return &[];
    }
    match &*call.name {
        // A call that strace lets fail does not happen, so that the other end would never see the end of a connection.
        "close" if !descriptor.starts_with('/') => &[],
        "fcntl" if call.arguments.get(1).is_some_and(|command| command.contains("LK")) => &["ENOLCK", "EIO", "EINTR"],
        "fcntl" => &["EMFILE"],
        "write" | "pwrite64" | "writev" | "open" | "openat" | "openat2" => &["ENOSPC", "EIO", "EDQUOT", "EINTR"],
        "fsync" | "fdatasync" | "close" => &["EIO", "ENOSPC", "EDQUOT", "EINTR"],
        "rename" | "renameat" | "renameat2" | "mkdir" | "mkdirat" => &["ENOSPC", "EIO", "EDQUOT"],
        "ftruncate" => &["EIO", "EINTR"],
        "flock" => &["ENOLCK", "EIO", "EINTR"],
        "read" | "pread64" => &["EIO", "EINTR"],
        "lseek" | "unlink" | "unlinkat" | "stat" | "fstat" | "lstat" | "statx" | "newfstatat" | "fadvise64" => &["EIO"],
        "socketpair" => &["EMFILE", "ENFILE"],
        "clone" | "clone3" | "vfork" => &["EAGAIN", "ENOMEM"],
        _ => &[],
    }
}

impl Fault {
    fn run(&self) -> Tally {
        let mut tally = Tally { runs: 1, ..Tally::default() };
        let mut problems = Vec::new();
        let mut destinations = destinations(self.is_secured);
        let before: BTreeSet<PathBuf> = destinations.tree().into_keys().collect();
        let letter = destinations.letter(self.route, self.size);
        let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, Some(&self.injection));
        // A signal that waits until it is read leaves no other sign than the call that it was sent with.
        let is_sent_with = |call: &Call| call.name == self.name && call.occurrence == self.occurrence;
        let hit = calls.iter().position(|call| call.injected.is_some() || self.is_signal && is_sent_with(call));
        tally.faults += u64::from(hit.is_some());
        if hit.is_none() && calls.iter().any(is_sent_with) {
            problems.push("the call was made, and the fault did not come about".to_owned());
        }
        let excuse = hit.map_or(Excuse::None, |at| Excuse::new(&calls[..at], &calls[at]));
        let first = self.judge(&destinations, letter.number, &attempt, &excuse, &mut tally, &mut problems);
        if attempt.accepted() {
            problems.extend(order::complaints(&calls, &destinations.mail(), &before));
        }
        problems.extend(hit.and_then(|at| suspicious(&attempt, &calls[at], &destinations.scratch.path(CONFIG))));

        // Whatever happened, mail goes on.
        let letter = destinations.letter(self.route, SMALL);
        let attempt_after = destinations.deliver(&letter, &[]);
        if attempt_after.accepted() != is_deliverable(self.route) {
            problems.push(format!("the message after it: {}", attempt_after.answer()));
        }
        let second = self.judge(&destinations, letter.number, &attempt_after, &excuse, &mut tally, &mut problems);
        if first.whole.iter().any(|copy| !second.whole.contains(copy)) {
            problems.push("when another message has come the first is not what it was".to_owned());
        }
        if tally.lost + tally.doubled + tally.torn > 0 {
            problems.push(format!("{} lost, {} doubled, {} torn", tally.lost, tally.doubled, tally.torn));
        }
        problems.dedup();
        let tls = if self.is_secured { " under TLS" } else { "" };
        let what = format!("{:?}, {} bytes{tls}, {} in {}", self.route, self.size, self.injection, self.call);
        let answer = attempt.answer();
        tally.problems.extend(problems.into_iter().map(|problem| format!("{what}, answered {answer}: {problem}")));
        tally
    }

    /// Whether the disk agrees with the answer.
    fn judge(
        &self,
        destinations: &Destinations,
        number: u64,
        attempt: &Attempt,
        excuse: &Excuse,
        tally: &mut Tally,
        problems: &mut Vec<String>,
    ) -> Sight {
        let tree = destinations.tree();
        let sight = destinations.look(&tree, self.route);
        // Seen again after the next message it is still the same.
        tally.torn = tally.torn.max(u64::try_from(sight.torn.len()).unwrap());
        for (of, place, how) in &sight.torn {
            problems.push(format!("message {of:?} is torn in {place:?}: {how}"));
        }
        problems.extend(sight.problems.iter().cloned());
        if !sight.waiting.is_empty() && *excuse != Excuse::NotRemoved {
            problems.push(format!("left behind: {:?}", sight.waiting));
        }
        tally.accepted += u64::from(attempt.accepted());
        for place in self.route {
            match (sight.count(number, *place), attempt.accepted()) {
                (0, true) => tally.lost += 1,
                (1, true) => tally.found += 1,
                (0, false) => {}
                (1, false) if excuse.covers(*place) => {
                    tally.window += 1;
                    let call = self.injection.split(':').next().unwrap_or_default();
                    tally.notes.push(format!("{place:?} keeps a refused message, {excuse:?} when {call} failed"));
                }
                (1, false) => problems.push(format!("message {number} is in {place:?} all the same")),
                (_, _) => tally.doubled += 1,
            }
            if attempt.accepted() {
                let missing = place.missing_folders(&destinations.mail());
                problems.extend(missing.iter().map(|folder| format!("there is no {}", folder.display())));
            }
            // A refused message leaves not one byte.
            let is_first = sight.whole.iter().all(|(of, _)| *of == number);
            if let (false, true, Some(before)) = (attempt.accepted(), is_first, place.before())
                && !excuse.covers(*place)
                && tree.get(Path::new(place.name())).map_or(&b""[..], |content| content) != before
            {
                problems.push(format!("{place:?} is not as it was"));
            }
        }
        sight
    }
}

/// Why a copy may be left of a message without 250.
#[derive(Debug, PartialEq, Eq)]
pub enum Excuse {
    None,
    /// A file could not be cut back.
    NotCutBack,
    /// A file could not be removed.
    NotRemoved,
    /// A command had taken the message before.
    Taken,
}

impl Excuse {
    pub fn new(before: &[Call], hit: &Call) -> Self {
        let has_failed = hit.injected.is_some();
        let has_answer = |call: &Call| call.name == "recvfrom" && trace::is_with_runner(call);
        let has_ended = |call: &Call| has_answer(call) && call.result.is_some_and(|length| length > 0);
        match &*hit.name {
            "ftruncate" if has_failed => Excuse::NotCutBack,
            "unlink" | "unlinkat" if has_failed => Excuse::NotRemoved,
            _ if has_failed && (before.iter().any(has_ended) || has_answer(hit)) => Excuse::Taken,
            _ => Excuse::None,
        }
    }

    pub fn covers(&self, place: Place) -> bool {
        match self {
            Excuse::None | Excuse::NotRemoved => false,
            Excuse::NotCutBack => place.before().is_some(),
            Excuse::Taken => matches!(place, Place::Command | Place::RawCommand),
        }
    }
}

/// What is wrong with the answer, whatever is on the disk.
fn suspicious(attempt: &Attempt, hit: &Call, config: &Path) -> Option<String> {
    let failed_for_good = hit.injected.as_deref().is_some_and(|error| error != "EINTR");
    let reads = hit.opens() || ["read", "pread64", "lseek"].contains(&&*hit.name);
    let reads_config = reads && hit.concerns(config);
    match &attempt.answer {
        Ok(reply) if reply.starts_with("250") && failed_for_good && reads_config => {
            Some("mail is taken by a configuration that was not read".to_owned())
        }
        // The message can work another time: nothing here is its fault.
        Ok(reply) if !reply.starts_with("250") && !reply.starts_with('4') => {
            Some("that is no temporary refusal".to_owned())
        }
        Err(lost) if matches!(lost.how, Broken::Silent(_)) => Some("it hangs".to_owned()),
        _ if DISGRACEFUL.contains(&attempt.status) => Some(format!("it ended with {}", attempt.status)),
        _ => None,
    }
}

fn is_deliverable(route: &[Place]) -> bool {
    route.iter().all(|place| place.accepts())
}

/// Statuses of a panic that was caught, one that was not, an abort, and a bad access to memory.
const DISGRACEFUL: [i32; 4] = [70, 101, 134, 139];

/// What kinds of destinations a message goes to.
const ROUTES: &[&[Place]] = &[
    &[Place::Mbox],
    &[Place::NewMbox],
    &[Place::TornMbox],
    &[Place::Maildir],
    &[Place::NewMaildir],
    &[Place::Files],
    &[Place::Files, Place::Maildir, Place::Mbox],
    &[Place::Files, Place::Refusing],
    &[Place::Mbox, Place::Maildir, Place::Command],
    &[Place::NewMbox, Place::NewMaildir, Place::Refusing],
];

/// The one that a spooled message goes to in the short form.
const SPOOLED_ROUTE: &[Place] = &[Place::Mbox, Place::Maildir, Place::RawCommand];

/// Sizes of messages in bytes: one that is kept in memory, and one that is not.
const SMALL: usize = 400;
const SPOOLED: usize = 300_000;
