//! `exactly_once`: whatever happens to a session, a message whose sender sends it again until it has a 250 is at each of
//! its destinations once.
//!
//! A session is killed at each of its system calls, from the end of the text on, by strace's hand, and the message sent
//! again, to a session that is killed as well or not, and that a command refuses it in or not; each of these calls fails;
//! many sessions at a time are killed at random, or lose their client, and their messages are sent again; the power is cut
//! at each of these system calls, with anything lost that was not synced, and the message is sent again to what is left
//! on the disk; and the power is cut when a message that was sent again behind a kill has its 250. Without `exactly_once`
//! the same is counted beside, in the long form.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use testkit::Form;
use testkit::strace::Call;

use crate::inject;
use crate::kill::{self, Client};
use crate::letters::Letter;
use crate::places::{Destinations, ONCE, Place, Tree};
use crate::power_cut::Cut;
use crate::report::Tally;
use crate::trace::{self, Reach};

/// A session is killed at each of its system calls.
pub fn calls(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let sizes = if form == Form::Long { &SIZES[..] } else { &SIZES[..2] };
    let routes = ROUTES.iter().flat_map(|route| sizes.iter().map(move |size| (*route, *size)));
    // A large message differs in what is written to mailboxes.
    let routes = routes.filter(|(route, size)| *size == SIZES[0] || route.contains(&Place::Mbox));
    let cases: Vec<_> = routes.flat_map(|(route, size)| twice(plan(route, size, form), form)).collect();
    trace::several_at_a_time(&cases, progress, Case::run)
}

/// One of these calls fails. What is refused for it is nowhere; then it is sent again, and is there once.
pub fn errors(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let failures: Vec<_> = ROUTES.iter().flat_map(|route| Failure::plan(route, form)).collect();
    trace::several_at_a_time(&failures, progress, Failure::run)
}

/// A session is killed at each of its system calls, and when the message comes again a command refuses it: it is
/// nowhere.
pub fn refusals(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let cases: Vec<_> = REFUSED_ROUTES.iter().flat_map(|route| twice(plan(route, SIZES[0], form), form)).collect();
    trace::several_at_a_time(&cases, progress, Case::run_and_refuse)
}

/// The power is cut at each of these.
pub fn cuts(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let cuts: Vec<_> = CUT_ROUTES.iter().map(|route| (*route, form)).collect();
    trace::several_at_a_time(&cuts, progress, |(route, form)| cut(route, *form))
}

/// A session is killed at each of its system calls, the message is sent again and accepted, and then the power is cut.
pub fn kills_and_cuts(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let cases: Vec<_> = KEPT_ROUTES.iter().flat_map(|route| plan(route, SIZES[0], form)).collect();
    trace::several_at_a_time(&cases, progress, |case| case.run_and_cut(form))
}

/// Many sessions at a time are killed at random, or lose their client.
pub fn kills(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let kills = if form == Form::Long { 5000 } else { 60 };
    let mut recognised = kill::run_as(Client::Retries { exactly_once: true }, kills, form, progress);
    if form == Form::Long {
        let not_recognised = kill::run_as(Client::Retries { exactly_once: false }, kills, form, progress);
        for (what, it) in [("with", summary(&recognised)), ("without", summary(&not_recognised))] {
            recognised.notes.push(format!("{what} exactly_once: {it}"));
        }
        recognised.problems.extend(not_recognised.problems);
    }
    recognised
}

fn summary(tally: &Tally) -> String {
    let Tally { faults, accepted, found, lost, doubled, torn, window, .. } = tally;
    format!(
        "{faults} kills and clients gone, {accepted} messages accepted, {found} copies, {lost} lost, {doubled} doubled, \
         {torn} torn; {window} doubled where nobody can look, by commands and the next server"
    )
}

/// A delivery, and where its session is killed.
struct Case {
    route: &'static [Place],
    size: usize,
    /// As strace wants it.
    injection: String,
    /// Where the session is killed in which the message comes again, if it is.
    second: Option<String>,
}

/// One for each system call from the end of the text on; in the short form, for those that change something.
fn plan(route: &'static [Place], size: usize, form: Form) -> Vec<Case> {
    let mut destinations = Destinations::new().exactly_once();
    let letter = destinations.letter(route, size);
    let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
    assert_eq!(attempt.accepted(), !route.contains(&Place::Refusing), "{route:?}: {}", attempt.answer());
    let text = calls.iter().position(|call| call.sends("354")).expect("an answer to DATA");
    let final_answer = if attempt.accepted() { "250 " } else { "451 " };
    let answer = calls.iter().rposition(|call| call.sends(final_answer)).expect("an answer to the message");
    let killed = |call: &Call| format!("{}:signal=KILL:when={}", call.name, call.occurrence);
    let calls = calls[text..=answer].iter().filter(|call| form == Form::Long || changes_something(call));
    calls.map(|call| Case { route, size, injection: killed(call), second: None }).collect()
}

/// These, and with a second session that is killed as well, at a call that stands elsewhere among them: each, or in the
/// short form every third.
fn twice(mut cases: Vec<Case>, form: Form) -> Vec<Case> {
    let (strides, step) = if form == Form::Long { (&STRIDES[..], 1) } else { (&STRIDES[..1], 3) };
    let once: Vec<String> = cases.iter().map(|case| case.injection.clone()).collect();
    let Some(Case { route, size, .. }) = cases.first() else { return cases };
    let (route, size) = (*route, *size);
    for stride in strides {
        let second = |number: usize| Some(once[(number + stride) % once.len()].clone());
        let pairs = once.iter().enumerate().step_by(step).map(|(number, first)| (first.clone(), second(number)));
        cases.extend(pairs.map(|(injection, second)| Case { route, size, injection, second }));
    }
    cases
}

impl Case {
    fn shown(&self) -> String {
        let Self { route, size, injection, second } = self;
        let second = second.as_ref().map(|second| format!(", then {second}")).unwrap_or_default();
        format!("{route:?}, {size} bytes, {injection}{second}")
    }

    /// Sends the message in the sessions that are killed; whether it was accepted all the same.
    fn kill(&self, destinations: &Destinations, letter: &Letter, tally: &mut Tally) -> bool {
        [Some(&self.injection), self.second.as_ref()].into_iter().flatten().any(|injection| {
            let (attempt, _) = trace::deliver(destinations, letter, Reach::Receiver, Some(injection));
            tally.runs += 1;
            tally.faults += u64::from(attempt.status == 128 + 9);
            attempt.accepted()
        })
    }

    fn run(&self) -> Tally {
        let Self { route, size, .. } = self;
        let mut tally = Tally::default();
        let mut destinations = Destinations::new().exactly_once();
        let letter = destinations.letter(route, *size);
        let mut accepted = self.kill(&destinations, &letter, &mut tally);
        if !accepted {
            accepted = destinations.deliver(&letter, &[]).accepted();
            tally.runs += 1;
        }
        let what = self.shown();
        judge(&destinations, &destinations.tree(), (letter.number, route), accepted, &what, &mut tally);
        tally
    }
}

impl Case {
    /// Whatever the session that was killed had left, the one that refuses the message leaves nothing.
    fn run_and_refuse(&self) -> Tally {
        let Self { route, size, .. } = self;
        let mut tally = Tally { runs: 1, ..Tally::default() };
        let mut destinations = Destinations::new().exactly_once();
        let letter = destinations.letter(route, *size);
        self.kill(&destinations, &letter, &mut tally);
        let attempt = destinations.deliver(&letter, &[]);
        let what = format!("{}, then {}", self.shown(), attempt.answer());
        if attempt.accepted() {
            tally.problems.push(format!("{what}: that is no refusal"));
        }
        let sight = destinations.look(&destinations.tree(), route);
        tally.problems.extend(sight.problems.iter().map(|problem| format!("{what}: {problem}")));
        // Line ends that close off what was torn before may stay.
        let torn = sight.torn.iter().filter(|(of, ..)| *of == Some(letter.number));
        tally.problems.extend(torn.map(|(_, place, how)| format!("{what}: {how} is in {place:?}")));
        for place in route.iter().filter(|place| sight.count(letter.number, **place) > 0) {
            tally.problems.push(format!("{what}: it is in {place:?} all the same"));
        }
        tally
    }
}

impl Case {
    /// What has the second 250 must be there whatever of both sessions was not synced when it left.
    fn run_and_cut(&self, form: Form) -> Tally {
        let Self { route, size, injection, .. } = self;
        let mut tally = Tally { runs: 2, ..Tally::default() };
        let mut destinations = Destinations::new().exactly_once();
        let before = Cut::prepare(&destinations.mail()).without(&Path::new(ONCE).join("records"));
        let letter = destinations.letter(route, *size);
        let (first, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, Some(injection));
        if first.accepted() {
            return tally;
        }
        let killed = before.behind(&calls);
        let (second, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
        let answer = calls.iter().position(|call| call.sends("250 2.0.0 ")).expect("a 250");
        for (lost, tree) in killed.outcomes(&calls[..answer], form) {
            tally.faults += 1;
            let what = format!("{route:?}, {injection}, then a 250 and a cut, lost: {lost}");
            judge(&destinations, &tree, (letter.number, route), second.accepted(), &what, &mut tally);
        }
        tally
    }
}

/// A delivery, and which of its system calls fails.
struct Failure {
    route: &'static [Place],
    /// As strace wants it.
    injection: String,
}

impl Failure {
    /// One or more for each call of a delivery that can fail; in the short form, for those that change something.
    fn plan(route: &'static [Place], form: Form) -> Vec<Self> {
        let mut destinations = Destinations::new().exactly_once();
        let letter = destinations.letter(route, SIZES[0]);
        let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
        assert!(attempt.accepted(), "{route:?}, without a fault: {}", attempt.answer());
        let text = calls.iter().position(|call| call.sends("354")).expect("an answer to DATA");
        let mut failures = Vec::new();
        for (number, call) in calls[text..].iter().enumerate() {
            let errors = inject::errors(call);
            let errors = match form {
                Form::Long => errors,
                Form::Short if !errors.is_empty() && (changes_something(call) || call.name == "fcntl") => {
                    &errors[number % errors.len()..][..1]
                }
                Form::Short => &[],
            };
            let failure = |error: &&str| format!("{}:error={error}:when={}", call.name, call.occurrence);
            failures.extend(errors.iter().map(|error| Self { route, injection: failure(error) }));
        }
        failures
    }

    fn run(&self) -> Tally {
        let Self { route, injection } = self;
        let mut tally = Tally { runs: 1, ..Tally::default() };
        let mut destinations = Destinations::new().exactly_once();
        let letter = destinations.letter(route, SIZES[0]);
        let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, Some(injection));
        tally.faults += u64::from(calls.iter().any(|call| call.injected.is_some()));
        let what = format!("{route:?}, {injection}, answered {}", attempt.answer());
        let mut accepted = attempt.accepted();
        if !accepted {
            let sight = destinations.look(&destinations.tree(), route);
            let is_left = |place: &&Place| sight.count(letter.number, **place) > 0 && can_take_back(**place);
            for place in route.iter().filter(is_left) {
                tally.problems.push(format!("{what}: it is in {place:?} all the same"));
            }
            accepted = destinations.deliver(&letter, &[]).accepted();
            tally.runs += 1;
        }
        judge(&destinations, &destinations.tree(), (letter.number, route), accepted, &what, &mut tally);
        tally
    }
}

/// Whether a message that was sent until it was accepted is at each place once.
fn judge(
    destinations: &Destinations,
    tree: &Tree,
    (number, route): (u64, &[Place]),
    accepted: bool,
    what: &str,
    tally: &mut Tally,
) {
    tally.accepted += u64::from(accepted);
    if !accepted {
        tally.problems.push(format!("{what}: no 250 the second time"));
    }
    let sight = destinations.look(tree, route);
    tally.problems.extend(sight.problems.iter().map(|problem| format!("{what}: {problem}")));
    for (of, place, how) in &sight.torn {
        if *of == Some(number) {
            tally.torn += 1;
            tally.problems.push(format!("{what}: {how} is in {place:?}"));
        }
    }
    for place in route {
        let found = sight.count(number, *place) as u64;
        tally.found += found;
        match found {
            1 => {}
            0 => {
                tally.lost += 1;
                tally.problems.push(format!("{what}: it is not in {place:?}"));
            }
            // Nobody can look there.
            found if !can_take_back(*place) => tally.window += found - 1,
            found => {
                tally.doubled += found - 1;
                tally.problems.push(format!("{what}: it is {found} times in {place:?}"));
            }
        }
    }
}

/// Whether what is there can be looked at and taken back.
fn can_take_back(place: Place) -> bool {
    !matches!(place, Place::Command | Place::RawCommand | Place::Relay)
}

/// Cuts the power at each call, loses what may be lost, and sends the message again.
fn cut(route: &'static [Place], form: Form) -> Tally {
    let mut tally = Tally::default();
    let mut destinations = Destinations::new().exactly_once();
    let before = Cut::prepare(&destinations.mail());
    let letter = destinations.letter(route, SIZES[0]);
    let (attempt, calls) = trace::deliver(&destinations, &letter, Reach::Receiver, None);
    assert!(attempt.accepted(), "{route:?}, without a fault: {}", attempt.answer());
    let answer = calls.iter().rposition(|call| call.sends("250 ")).expect("a 250");
    let is_change = |call: &Call| changes_something(call) && call.concerns(&destinations.mail());
    // That the next server has it must be known when the 250 leaves; before that, nobody can tell.
    let is_handed_over = route.contains(&Place::Relay);
    let cuts = if is_handed_over { answer..=answer } else { 0..=answer };
    let cuts: Vec<usize> = cuts.filter(|at| is_handed_over || is_change(&calls[*at])).collect();
    for at in cuts {
        for (lost, tree) in before.outcomes(&calls[..=at], form) {
            restore(&destinations, &tree);
            let accepted = destinations.deliver(&letter, &[]).accepted();
            tally.runs += 1;
            tally.faults += 1;
            let what = format!("{route:?}, a cut behind {}, lost: {lost}", calls[at].brief());
            judge(&destinations, &destinations.tree(), (letter.number, route), accepted, &what, &mut tally);
            if tally.window > 0 {
                tally.problems.push(format!("{what}: the next server has it again"));
            }
        }
    }
    tally
}

/// Makes the disk what it would be after the cut.
fn restore(destinations: &Destinations, tree: &Tree) {
    let mail = destinations.mail();
    for (path, _) in destinations.tree().iter().filter(|(path, _)| !tree.contains_key(*path)) {
        fs::remove_file(mail.join(path)).expect("removing a file");
    }
    for (path, content) in tree {
        let path = mail.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let file = fs::File::options().create(true).truncate(false).write(true).open(&path).expect("a file");
        let now = fs::read(&path).expect("a file of ours");
        file.set_len(content.len() as u64).expect("a length");
        // Of the table nearly all is as it is, and would have to be synced.
        for (number, piece) in content.chunks(PAGE).enumerate() {
            if now.get(number * PAGE..).is_none_or(|rest| !rest.starts_with(piece)) {
                file.write_all_at(piece, (number * PAGE) as u64).expect("writing");
            }
        }
    }
}

/// Whether it changes something on the disk, or for somebody else.
fn changes_something(call: &Call) -> bool {
    let makes = || call.opens() && call.arguments.iter().any(|flags| flags.contains("O_CREAT"));
    CHANGING.contains(&&*call.name) || makes()
}

/// System calls that change something on the disk, or for somebody else.
const CHANGING: &[&str] =
    &["write", "pwrite64", "fsync", "fdatasync", "renameat", "renameat2", "unlinkat", "ftruncate", "mkdirat", "sendto"];

/// What kinds of destinations a message goes to.
const ROUTES: &[&[Place]] = &[
    &[Place::Mbox],
    &[Place::NewMbox],
    &[Place::TornMbox],
    &[Place::Maildir],
    &[Place::NewMaildir],
    &[Place::Files],
    &[Place::Relay, Place::Mbox],
    &[Place::Mbox, Place::NewMbox, Place::Maildir, Place::Files, Place::Command],
];

/// Those that a command refuses when the rest is prepared.
const REFUSED_ROUTES: &[&[Place]] = &[
    &[Place::Mbox, Place::Refusing],
    &[Place::NewMbox, Place::TornMbox, Place::Refusing],
    &[Place::Maildir, Place::Files, Place::Mbox, Place::Refusing],
];

/// Those of which a power cut may leave some part; and the next server, of which the record may be lost.
const CUT_ROUTES: &[&[Place]] = &[
    &[Place::Mbox],
    &[Place::Maildir],
    &[Place::Files],
    &[Place::Mbox, Place::Maildir],
    &[Place::Relay],
    &[Place::Relay, Place::Mbox],
];

/// Those where a message is looked for.
const KEPT_ROUTES: &[&[Place]] = &[
    &[Place::Mbox],
    &[Place::NewMbox],
    &[Place::TornMbox],
    &[Place::Maildir],
    &[Place::NewMaildir],
    &[Place::Files],
    &[Place::Mbox, Place::Maildir],
];

/// How many calls behind the first kill the second one comes, in the session after it.
const STRIDES: [usize; 6] = [3, 0, 1, 7, 12, 19];

/// How much is compared at a time, in bytes.
const PAGE: usize = 4096;

/// Of messages, in bytes; a large one is written in several pieces.
const SIZES: [usize; 3] = [400, 300_000, 3_000_000];
