//! A message that goes to the next server and into a maildir, in sessions that are killed at each system call, or asked to
//! stop, or in which each system call fails once, those on the connection to the server included. With 250 it is at both; refused, it is not in
//! the maildir, and what the server may have of it is counted as `window`: the sender comes again. It does, without a fault,
//! and then the message is at both, so that nothing is ever lost.

use testkit::strace::Call;
use testkit::{Broken, Form};

use crate::inject::errors;
use crate::letters::Letter;
use crate::places::{Attempt, Destinations, Place};
use crate::report::Tally;
use crate::support::CONFIG;
use crate::trace::{self, Reach};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let mut tally = Tally::default();
    let sizes = if form == Form::Long { &[SMALL, SPOOLED][..] } else { &[SMALL] };
    let faults: Vec<Fault> = sizes.iter().flat_map(|size| plan(form, *size, &mut tally)).collect();
    tally.add(trace::several_at_a_time(&faults, progress, Fault::run));
    let missed = tally.runs - tally.faults;
    if missed * 10 > tally.runs {
        tally.problems.push(format!("{missed} of {} faults did not come about", tally.runs));
    }
    tally
}

/// What happens at one system call.
struct Fault {
    size: usize,
    /// As strace wants it.
    injection: String,
    /// The call, as it was without a fault.
    call: String,
    name: String,
    occurrence: usize,
}

/// All that can happen to a delivery: its calls are those of one without a fault.
fn plan(form: Form, size: usize, tally: &mut Tally) -> Vec<Fault> {
    let mut destinations = Destinations::new();
    let letter = destinations.letter(ROUTE, size);
    let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
    if !attempt.accepted() {
        tally.problems.push(format!("{size} bytes without a fault: {}", attempt.answer()));
    }
    let mut faults = Vec::new();
    let concerns_message = |call: &Call| {
        is_with_upstream(call)
            || call.concerns(&destinations.scratch.path("")) && !call.concerns(&destinations.scratch.path(CONFIG))
    };
    // What comes before the first word to the server is in other scenarios.
    let begins = calls.iter().position(is_with_upstream).unwrap_or(calls.len());
    if begins == calls.len() {
        tally.problems.push("no call on the connection to the server".to_owned());
    }
    for (number, call) in calls[begins..].iter().enumerate() {
        let mut outcomes: Vec<String> = Vec::new();
        if concerns_message(call) {
            let errors = if is_with_upstream(call) { upstream_errors(call) } else { errors(call) };
            let chosen = match (form, errors.len()) {
                (Form::Short, 1..) => &errors[number % errors.len()..][..1],
                _ => errors,
            };
            outcomes.extend(chosen.iter().map(|error| format!("error={error}")));
        }
        // In the short form at every other one.
        if form == Form::Long || number.is_multiple_of(2) {
            outcomes.push("signal=KILL".to_owned());
        }
        if form == Form::Long || number % 3 == 1 {
            outcomes.push("signal=TERM".to_owned());
        }
        faults.extend(outcomes.into_iter().map(|outcome| Fault {
            size,
            injection: format!("{}:{outcome}:when={}", call.name, call.occurrence),
            call: call.brief(),
            name: call.name.clone(),
            occurrence: call.occurrence,
        }));
    }
    faults
}

/// Whether the call is on the connection to the server: the peer's has descriptors 0, 1 and 2, and there are no commands here
/// whose runner would have one.
fn is_with_upstream(call: &Call) -> bool {
    let first = call.arguments.first().map_or("", String::as_str);
    let is_peer = ["0<", "1<", "2<"].iter().any(|it| first.starts_with(it));
    let is_socket = call.descriptor().is_some_and(|it| it.starts_with("socket:") || it.starts_with("TCP"));
    is_socket && !is_peer || call.name == "socket"
}

/// What a call on the connection to the server can fail with.
fn upstream_errors(call: &Call) -> &'static [&'static str] {
    match &*call.name {
        "socket" => &["EMFILE", "ENOBUFS", "EAFNOSUPPORT"],
        "connect" => &["ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EACCES", "EINTR"],
        "sendto" | "sendmsg" | "write" | "writev" => &["EPIPE", "ECONNRESET", "ENOBUFS", "ETIMEDOUT", "EINTR"],
        "recvfrom" | "recvmsg" | "read" | "readv" => &["ECONNRESET", "ETIMEDOUT", "EIO", "EINTR"],
        "setsockopt" | "getsockopt" | "fcntl" | "ioctl" => &["EINVAL", "ENOMEM"],
        "shutdown" => &["ENOTCONN"],
        _ => &[],
    }
}

impl Fault {
    fn run(&self) -> Tally {
        let mut tally = Tally { runs: 1, ..Tally::default() };
        let mut destinations = Destinations::new();
        let letter = destinations.letter(ROUTE, self.size);
        let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, Some(&self.injection));
        let is_killed = attempt.status == 128 + nix::libc::SIGKILL;
        let is_hit =
            |call: &Call| call.injected.is_some() || call.name == self.name && call.occurrence == self.occurrence;
        tally.faults += u64::from(is_killed || calls.iter().any(is_hit));
        let mut problems = judge(&destinations, &letter, &attempt, is_killed, &mut tally);

        // The sender comes again, if it has not been told 250.
        if !attempt.accepted() {
            let again = destinations.deliver(&letter, &[]);
            let sight = destinations.look(&destinations.tree(), ROUTE);
            for place in ROUTE {
                let count = sight.count(letter.number, *place);
                // Who was killed on the point of its 250 has left a copy at each.
                if !again.accepted() || count == 0 || count > 2 {
                    problems.push(format!("again it got {}, and is {count} times in {place:?}", again.answer()));
                }
            }
        }
        let (what, answer) = (format!("{} bytes, {} in {}", self.size, self.injection, self.call), attempt.answer());
        tally.problems.extend(problems.into_iter().map(|problem| format!("{what}, answered {answer}: {problem}")));
        tally
    }
}

/// Whether what is there agrees with the answer.
fn judge(
    destinations: &Destinations,
    letter: &Letter,
    attempt: &Attempt,
    is_killed: bool,
    tally: &mut Tally,
) -> Vec<String> {
    let sight = destinations.look(&destinations.tree(), ROUTE);
    let mut problems = sight.problems.clone();
    tally.accepted += u64::from(attempt.accepted());
    tally.torn += u64::try_from(sight.torn.len()).unwrap();
    problems.extend(sight.torn.iter().map(|(of, place, how)| format!("message {of:?} is torn in {place:?}: {how}")));
    for place in ROUTE {
        let count = sight.count(letter.number, *place);
        match (count, attempt.accepted()) {
            (1, true) => tally.found += 1,
            (0, true) => tally.lost += 1,
            (0, false) => {}
            (1, false) if *place == Place::Relay || is_killed => tally.window += 1,
            (1, false) => problems.push(format!("it is in {place:?} all the same")),
            (_, _) => tally.doubled += 1,
        }
    }
    if !sight.waiting.is_empty() && !is_killed {
        problems.push(format!("left behind: {:?}", sight.waiting));
    }
    match &attempt.answer {
        Ok(reply) if !reply.starts_with("250") && !reply.starts_with('4') => {
            problems.push("that is no temporary refusal".to_owned());
        }
        Err(lost) if matches!(lost.how, Broken::Silent(_)) => problems.push("it hangs".to_owned()),
        Err(_) if !is_killed => problems.push(format!("it ended with {}", attempt.status)),
        _ => {}
    }
    problems
}

const ROUTE: &[Place] = &[Place::Maildir, Place::Relay];

/// Sizes of messages in bytes: one that is kept in memory, and one that is not.
const SMALL: usize = 2_000;
const SPOOLED: usize = 300_000;
