//! The same over LMTP, where each recipient has a reply of its own: sessions are killed while one recipient after the other
//! is delivered for, and each system call of such a delivery fails once. Each time what got 250 is at its destination,
//! whole, once, and what got another reply is at none.
//!
//! Who has no reply when a session is killed is offered the message again: the first of these may have it already, or a
//! part of it (RFC 1047), and no other. What fails for one recipient holds nobody else up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use testkit::client::Reply;
use testkit::strace::Call;
use testkit::{Broken, Form, Random};

use crate::client::Session;
use crate::inject::{Excuse, errors};
use crate::letters::Letter;
use crate::places::{Destinations, Place};
use crate::readers;
use crate::report::Tally;
use crate::support::CONFIG;
use crate::trace::{self, Reach};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let mut tally = Tally::default();
    let calls = undisturbed(&mut tally);
    let mut faults: Vec<Fault> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let errors = errors(call);
        let chosen = if form == Form::Long { errors } else { &errors[..errors.len().min(1)] };
        // In the short form half of the calls; which half is another one in each kind of call.
        if form == Form::Long || number.is_multiple_of(2) {
            faults.extend(chosen.iter().map(|error| Fault::Call {
                injection: format!("{}:error={error}:when={}", call.name, call.occurrence),
            }));
        }
    }
    let kills = if form == Form::Long { 1000 } else { 60 };
    faults.extend((0..kills).map(Fault::Kill));
    let typical = AtomicU64::new(100_000);
    tally.add(trace::several_at_a_time(&faults, progress, |fault| fault.run(&typical)));
    tally
}

/// What happens to a delivery.
#[derive(Debug)]
enum Fault {
    /// A system call fails, as strace is told.
    Call { injection: String },
    /// The session is killed or asked to stop, at a moment that depends on this number.
    Kill(u64),
}

/// One message for everybody, and what was answered.
struct Delivery {
    destinations: Destinations,
    letter: Letter,
}

impl Delivery {
    fn new() -> Self {
        let mut destinations = Destinations::new();
        let config = destinations.scratch.read(CONFIG);
        destinations.scratch.write(CONFIG, format!("protocol lmtp\n{config}"));
        let letter = destinations.letter(ROUTE, SIZE);
        Self { destinations, letter }
    }

    /// Sends the message, with a session that is started through this wrapper; `dot_sent` is given its process.
    fn send(
        &self,
        wrapper: &[String],
        dot_sent: &mut dyn FnMut(nix::unistd::Pid),
    ) -> (Result<Vec<Reply>, Broken>, i32) {
        let mut session = Session::start(&self.destinations.scratch.path(CONFIG), wrapper);
        let pid = session.pid();
        let (from, to) = (self.letter.sender(), self.letter.addresses());
        let replies = session.send_by_lmtp(&from, &to, &self.letter.text(), &mut || dot_sent(pid));
        let _ = session.ask("QUIT");
        let status = session.wait();
        readers::wait_for_processes(&self.destinations.scratch);
        (replies, status)
    }

    /// Holds the replies against the disk. `is_killed`: a reply may be missing that was on its way.
    fn judge(&self, replies: &[Reply], is_killed: bool, excuse: &Excuse, tally: &mut Tally) -> Vec<String> {
        let mut problems = Vec::new();
        let sight = self.destinations.look(&self.destinations.tree(), ROUTE);
        problems.extend(sight.problems.iter().cloned());
        let (number, on_its_way) = (self.letter.number, is_killed.then_some(replies.len()));
        for (at, place) in ROUTE.iter().enumerate() {
            let count = sight.count(number, *place);
            let reply = replies.get(at).map_or("nothing", String::as_str);
            let is_accepted = reply.starts_with("250");
            tally.accepted += u64::from(is_accepted);
            tally.found += u64::try_from(count).unwrap();
            match (is_accepted, count) {
                (true, 1) | (false, 0) => {}
                (true, 0) => tally.lost += 1,
                (false, 1) if on_its_way == Some(at) || excuse.covers(*place) => tally.window += 1,
                (false, 1) => problems.push(format!("{place:?} has the message, and its reply was {reply}")),
                (_, _) => tally.doubled += 1,
            }
        }
        for (_, place, how) in &sight.torn {
            if on_its_way.and_then(|at| ROUTE.get(at)) != Some(place) {
                tally.torn += 1;
                problems.push(format!("{place:?} has a part of the message: {how}"));
            }
        }
        problems
    }
}

/// A delivery without a fault; its system calls.
fn undisturbed(tally: &mut Tally) -> Vec<Call> {
    let delivery = Delivery::new();
    let ((replies, status), calls) = trace::under_strace(&delivery.destinations, Reach::Receiver, None, |wrapper| {
        delivery.send(wrapper, &mut |_| {})
    });
    let replies = replies.unwrap_or_default();
    let expected: Vec<bool> = ROUTE.iter().map(|place| place.accepts()).collect();
    let got: Vec<bool> = replies.iter().map(|reply| reply.starts_with("250")).collect();
    if got != expected || status != 0 {
        tally.problems.push(format!("without a fault: {replies:?}, exit status {status}"));
    }
    let problems = delivery.judge(&replies, false, &Excuse::None, tally);
    tally.problems.extend(problems);
    calls
}

impl Fault {
    fn run(&self, typical: &AtomicU64) -> Tally {
        let mut tally = Tally { runs: 1, ..Tally::default() };
        let delivery = Delivery::new();
        let (problems, replies) = match self {
            Fault::Call { injection } => delivery.with_failing_call(injection, &mut tally),
            Fault::Kill(number) => delivery.with_signal(*number, typical, &mut tally),
        };
        tally.problems.extend(problems.into_iter().map(|problem| format!("{self:?}, answered {replies:?}: {problem}")));
        tally
    }
}

impl Delivery {
    fn with_failing_call(&self, injection: &str, tally: &mut Tally) -> (Vec<String>, Vec<Reply>) {
        let ((replies, _), calls) =
            trace::under_strace(&self.destinations, Reach::Receiver, Some(injection), |wrapper| {
                self.send(wrapper, &mut |_| {})
            });
        let hit = calls.iter().position(|call| call.injected.is_some());
        tally.faults += u64::from(hit.is_some());
        let excuse = hit.map_or(Excuse::None, |at| Excuse::new(&calls[..at], &calls[at]));
        let replies = replies.unwrap_or_default();
        // How often the text is read, and so how often something is sent, is not the same every time: the call that failed may
        // be that of a reply, which was on its way then.
        let is_reply = |call: &Call| call.name == "sendto" && !trace::is_with_runner(call);
        let mut problems = self.judge(&replies, hit.is_some_and(|at| is_reply(&calls[at])), &excuse, tally);
        // What fails at one destination is the affair of its recipient, once the sandbox has been made for all of them.
        let is_confined = |call: &Call| call.name == "landlock_restrict_self";
        let hit = hit.filter(|at| !calls[*at..].iter().any(is_confined)).map(|at| &calls[at]);
        let concerns =
            |place: &Place| hit.is_some_and(|call| call.concerns(&self.destinations.mail().join(place.name())));
        if ROUTE.iter().any(concerns) {
            for (place, reply) in ROUTE.iter().zip(&replies).filter(|(place, _)| !concerns(place)) {
                if reply.starts_with("250") != place.accepts() {
                    problems.push(format!("{place:?}, where nothing failed: {reply}"));
                }
            }
        }
        (problems, replies)
    }

    fn with_signal(&self, number: u64, typical: &AtomicU64, tally: &mut Tally) -> (Vec<String>, Vec<Reply>) {
        let mut random = Random::new(number);
        let signal = if number.is_multiple_of(2) { Signal::SIGKILL } else { Signal::SIGTERM };
        let delay = Duration::from_micros(random.below(typical.load(Relaxed) * 11 / 10 + 1));
        let (mut killer, mut sent_at) = (None, Instant::now());
        let (replies, status) = self.send(&[], &mut |pid| {
            sent_at = Instant::now();
            killer = Some(std::thread::spawn(move || {
                std::thread::sleep(delay);
                let _ = kill(pid, signal);
            }));
        });
        if let Some(killer) = killer {
            killer.join().unwrap();
        }
        let replies = replies.unwrap_or_default();
        if replies.len() == ROUTE.len() && !replies.iter().any(|reply| reply.starts_with("421")) {
            let took = u64::try_from(sent_at.elapsed().as_micros()).unwrap();
            typical.store((typical.load(Relaxed) * 3 + took) / 4, Relaxed);
        } else {
            tally.faults += 1;
        }
        let is_killed = status == 128 + Signal::SIGKILL as i32;
        let mut problems = self.judge(&replies, is_killed, &Excuse::None, tally);
        let is_told = replies.len() == ROUTE.len() || replies.last().is_some_and(|last| last.starts_with("421"));
        if signal == Signal::SIGTERM && (!is_told || status != 0) {
            problems.push(format!("asked to stop, it ended with status {status} and no 421"));
        }
        (problems, replies)
    }
}

/// A recipient for each kind of destination, one who is refused among them.
const ROUTE: &[Place] = &[
    Place::Mbox,
    Place::Maildir,
    Place::Command,
    Place::Refusing,
    Place::NewMbox,
    Place::TornMbox,
    Place::NewMaildir,
    Place::Files,
];

/// The size of a message in bytes: one that does not stay in memory.
const SIZE: usize = 300_000;
