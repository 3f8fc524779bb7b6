//! Receivers killed at random moments: with SIGKILL, which they cannot help, and with the signals that ask them to stop.
//!
//! Several clients at a time send numbered messages to every kind of destination. Then all destinations are read, by
//! other programs too: a message with 250 is at each of its destinations, whole, once. One without is nowhere - but for
//! the one message that a session was killed over after its final dot: it may be there (RFC 1047), or its beginning may
//! be, in an mbox as a message of its own. A session that was asked to stop has no such excuse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::client::{Reply, on_the_wire};
use testkit::upstream::Message;
use testkit::{Form, Random, TlsClient, Upstream};

use crate::client::{Lost, Moment, Session, offer_tls};
use crate::letters::{Copy, Format, Letter, examine, without_separator};
use crate::readers;
use crate::report::Tally;
use crate::support::{CONFIG, Scratch};

pub fn run(form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let faults = if form == Form::Long { 5000 } else { 150 };
    run_as(Client::GivesUp, faults, form, progress)
}

/// What a client does whose message got no 250.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Nothing.
    GivesUp,
    /// It sends the message again, until it gets one; of the receiver, whether it has `exactly_once`.
    Retries { exactly_once: bool },
}

/// So many faults.
pub fn run_as(client: Client, faults: u64, form: Form, progress: &mut dyn FnMut(u64, u64)) -> Tally {
    let batch = if form == Form::Long { 100 } else { 30 };
    let (next_run, habits) = (AtomicU64::new(0), Habits::default());
    let (mut tally, mut rests) = (Tally::default(), 0);
    let deadline = Instant::now() + if form == Form::Long { LONGEST_LONG } else { LONGEST_SHORT };
    while tally.faults < faults {
        if Instant::now() > deadline {
            tally.problems.push(format!("only {} of {faults} kills in the time there is", tally.faults));
            break;
        }
        let done = tally.faults;
        let batch = Batch::new(client, (faults - done).min(batch), &next_run, &habits);
        let found = batch.run(&mut |kills| progress(done + kills, faults));
        rests += found.rests;
        tally.add(found.tally);
        if tally.problems.len() > 100 {
            break;
        }
    }
    tally.notes.push(format!("{rests} beginnings of messages without 250 lie about, each one apart from all others"));
    tally
}

/// Some sessions at a time with the same destinations, and then a look at these.
struct Batch<'a> {
    client: Client,
    scratch: Scratch,
    /// The next server, for those whose mail is passed on.
    upstream: Upstream,
    tls: TlsClient,
    /// How many sessions are to be hit by a signal.
    faults: u64,
    hits: AtomicU64,
    runs: AtomicU64,
    next_run: &'a AtomicU64,
    habits: &'a Habits,
    sent: Mutex<BTreeMap<u64, Sent>>,
    problems: Mutex<Vec<String>>,
}

/// A message that was sent, at least in part.
struct Sent {
    letter: Letter,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    /// The receiver was killed, and the final dot may have reached it before.
    KilledOver,
    /// Refused, never sent whole, or given up by a receiver that was asked to stop.
    NotAccepted,
}

/// How a session went.
#[derive(Default)]
struct Course {
    /// Whether a greeting had come.
    greeted: bool,
    /// The message whose final dot was sent, and which was not answered any more.
    cut_off: Option<u64>,
    /// The reply behind the last 250.
    last_reply: Option<Reply>,
}

/// What a look at all destinations showed.
struct Findings {
    tally: Tally,
    /// Beginnings of messages that a receiver was killed over.
    rests: u64,
}

impl<'a> Batch<'a> {
    fn new(client: Client, faults: u64, next_run: &'a AtomicU64, habits: &'a Habits) -> Self {
        let (scratch, upstream) = (Scratch::new(), Upstream::polite());
        let (mut config, mail) = ("domain receiver.example\n".to_owned(), scratch.path("mail"));
        std::fs::create_dir(&mail).expect("a folder");
        std::fs::create_dir(mail.join(PIPED)).expect("a folder");
        for (recipient, places) in RECIPIENTS {
            for (directive, place) in ["deliver", "copy"].iter().zip(*places) {
                let path = mail.join(place);
                let path = path.display();
                let action = match *place {
                    MBOX | OTHER_MBOX => format!("append {path}"),
                    MAILDIR => format!("maildir {path}"),
                    FILES => format!("eml {path}"),
                    UPSTREAM => format!("relay smtp://{}", upstream.address),
                    _ => format!(
                        "pipe cd {path} && dd of=.$MESSAGE_ID bs=64k conv=fsync status=none && mv .$MESSAGE_ID $MESSAGE_ID"
                    ),
                };
                writeln!(config, "{directive} rcpt_to {recipient}@receiver.example {action}").unwrap();
            }
        }
        if client == (Client::Retries { exactly_once: true }) {
            config.push_str("exactly_once once\n");
        }
        let tls = offer_tls(&scratch, &mut config);
        scratch.write(CONFIG, config);
        Self {
            client,
            scratch,
            upstream,
            tls,
            faults,
            hits: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            next_run,
            habits,
            sent: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    fn run(self, progress: &mut dyn FnMut(u64)) -> Findings {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        while self.hits.load(Relaxed) < self.faults && self.problems.lock().unwrap().len() < 20 {
                            let run = self.next_run.fetch_add(1, Relaxed);
                            match self.client {
                                Client::GivesUp => self.session(run),
                                Client::Retries { .. } => self.message_until_accepted(run),
                            }
                        }
                    })
                })
                .collect();
            while !clients.iter().all(|client| client.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
                progress(self.hits.load(Relaxed));
            }
        });
        readers::wait_for_processes(&self.scratch);
        // Whatever the last kill left at the end of a mailbox, the next message behind it is a message of its own.
        self.undisturbed_session();
        self.look()
    }

    /// One session with one to three messages, into which a signal comes.
    fn session(&self, run: u64) {
        let mut random = Random::new(run);
        let letters: Vec<_> = (0..=random.below(3)).map(|n| self.letter(run * 8 + n, &mut random)).collect();
        let plan = Plan::new(&mut random, &letters, self.habits);
        let mut session = Session::start(&self.scratch.path(CONFIG), &[]);
        // Every other one of those that are not asked first: in a handshake there is no way to say 421.
        if plan.signal == Signal::SIGKILL && run.is_multiple_of(2) {
            session = session.secured(&self.tls);
        }
        let mut killer = Killer { pid: session.pid(), signal: plan.signal, thread: None };
        if plan.point == Point::Start {
            killer.strike_after(plan.delay);
        }
        let mut course = self.converse(&mut session, &letters, &plan, &mut killer);
        if course.last_reply.is_none() && course.cut_off.is_none() {
            // The signal may still be on its way: into a session that waits for a command.
            course.last_reply = session.remaining_replies().pop();
        }
        killer.wait();
        let status = session.wait();
        if let (Some(number), true) = (course.cut_off, status == 128 + Signal::SIGKILL as i32) {
            self.sent.lock().unwrap().get_mut(&number).expect("it was sent").fate = Fate::KilledOver;
        }
        self.runs.fetch_add(1, Relaxed);
        self.judge(&plan, &course, status, run);
    }

    /// One message in as many sessions as it takes. Most of them are killed, or lose their client.
    fn message_until_accepted(&self, run: u64) {
        let mut random = Random::new(run);
        let letter = self.letter(run * 8, &mut random);
        let mut accepted = false;
        for attempt in 0.. {
            if attempt == MOST_ATTEMPTS {
                self.problems.lock().unwrap().push(format!("message {}: no 250 in {attempt} sessions", letter.number));
                break;
            }
            let mut session = Session::start(&self.scratch.path(CONFIG), &[]);
            if random.below(4) == 0 {
                session = session.secured(&self.tls);
            }
            let plan = Plan::new(&mut random, std::slice::from_ref(&letter), self.habits);
            self.runs.fetch_add(1, Relaxed);
            match random.below(6) {
                // Only what was sent in the end is undisturbed, and not always.
                0 if attempt > 0 => {}
                // The client is gone, and did not read what came.
                1 => {
                    session.send_and_vanish(&letter, plan.delay);
                    self.hits.fetch_add(1, Relaxed);
                    continue;
                }
                _ => {
                    let mut killer = Killer { pid: session.pid(), signal: Signal::SIGKILL, thread: None };
                    if plan.point == Point::Start {
                        killer.strike_after(plan.delay);
                    }
                    let answer = self.send_watched(&mut session, &letter, &plan, &mut killer);
                    accepted = answer.is_ok_and(|reply| reply.starts_with("250"));
                    killer.wait();
                    self.hits.fetch_add(u64::from(session.wait() == 128 + Signal::SIGKILL as i32), Relaxed);
                    if accepted {
                        break;
                    }
                    continue;
                }
            }
            let answer = session.send_message(&letter.sender(), &letter.addresses(), &letter.text());
            accepted = answer.is_ok_and(|reply| reply.starts_with("250"));
            let _ = session.quit();
            if accepted {
                break;
            }
        }
        let fate = if accepted { Fate::Accepted } else { Fate::KilledOver };
        self.sent.lock().unwrap().insert(letter.number, Sent { letter, fate });
    }

    fn send_watched(
        &self,
        session: &mut Session,
        letter: &Letter,
        plan: &Plan,
        killer: &mut Killer,
    ) -> Result<Reply, Lost> {
        let mut dot_sent_at = Instant::now();
        let mut watch = |moment| {
            if moment == Moment::AfterDot {
                dot_sent_at = Instant::now();
            }
            if plan.point.is_reached(moment) && killer.thread.is_none() {
                killer.strike_after(plan.delay);
            }
        };
        let answer = session.send_message_watched(&letter.sender(), &letter.addresses(), &letter.text(), &mut watch);
        if answer.is_ok() {
            self.habits.answered(letter.size, dot_sent_at.elapsed());
        }
        answer
    }

    /// Sends the letters, as far as that goes, and sees to it that the killer strikes where it is planned.
    fn converse(&self, session: &mut Session, letters: &[Letter], plan: &Plan, killer: &mut Killer) -> Course {
        let started = Instant::now();
        let mut course = Course::default();
        for (index, letter) in letters.iter().enumerate() {
            let text = letter.text();
            let mut dot_sent_at = Instant::now();
            let mut watch = |moment| {
                if moment == Moment::AfterDot {
                    dot_sent_at = Instant::now();
                }
                if index == plan.message && plan.point.is_reached(moment) && killer.thread.is_none() {
                    killer.strike_after(plan.delay);
                }
            };
            let answer = session.send_message_watched(&letter.sender(), &letter.addresses(), &text, &mut watch);
            let accepted = matches!(&answer, Ok(reply) if reply.starts_with("250"));
            let fate = if accepted { Fate::Accepted } else { Fate::NotAccepted };
            self.sent.lock().unwrap().insert(letter.number, Sent { letter: letter.clone(), fate });
            match answer {
                Ok(_) if accepted => {
                    course.greeted = true;
                    self.habits.answered(letter.size, dot_sent_at.elapsed());
                }
                Ok(reply) => return Course { greeted: true, last_reply: Some(reply), ..course },
                Err(lost) => {
                    let cut_off = lost.dot_sent.then_some(letter.number);
                    return Course { greeted: course.greeted || lost.greeted, cut_off, ..course };
                }
            }
        }
        self.habits.ended(started.elapsed());
        course
    }

    /// Whether the session ended as the signal, if it came in time, wants it.
    fn judge(&self, plan: &Plan, course: &Course, status: i32, run: u64) {
        let (signalled, greeted) = (128 + plan.signal as i32, course.greeted);
        let problem = match (plan.signal, &course.last_reply) {
            (Signal::SIGKILL, Some(reply)) => Some(format!("`{reply}` without a reason")),
            (Signal::SIGKILL, None) => (status != signalled).then(|| format!("exit status {status}")),
            (_, Some(reply)) if reply.starts_with("421") => {
                (status != 0).then(|| format!("421, and exit status {status}"))
            }
            (_, Some(reply)) => Some(format!("`{reply}` where 421 or 250 was due")),
            // Before it had taken the signals over, and said a word.
            (_, None) if !greeted && status == signalled => None,
            (_, None) if greeted => Some(format!("no 421, exit status {status}")),
            (_, None) => Some(format!("no greeting, exit status {status}")),
        };
        if status == signalled || plan.signal != Signal::SIGKILL {
            self.hits.fetch_add(1, Relaxed);
        }
        if let Some(problem) = problem {
            self.problems.lock().unwrap().push(format!("session {run}, {plan:?}: {problem}"));
        }
    }

    /// A message to every destination, with nobody disturbing. It has to be taken.
    fn undisturbed_session(&self) {
        let number = self.next_run.fetch_add(1, Relaxed) * 8;
        let recipients = RECIPIENTS.iter().map(|(recipient, _)| *recipient).collect();
        let letter = Letter { number, size: 1000, recipients: together(recipients) };
        let mut session = Session::start(&self.scratch.path(CONFIG), &[]);
        let answer = session.send_message(&letter.sender(), &letter.addresses(), &letter.text());
        let accepted = matches!(&answer, Ok(reply) if reply.starts_with("250"));
        let fate = if accepted { Fate::Accepted } else { Fate::NotAccepted };
        self.sent.lock().unwrap().insert(number, Sent { letter, fate });
        let ended = session.quit();
        self.runs.fetch_add(1, Relaxed);
        if !accepted || !matches!(&ended, Ok((reply, 0)) if reply.starts_with("221")) {
            self.problems.lock().unwrap().push(format!("undisturbed, and yet: {answer:?}, {ended:?}"));
        }
    }

    fn letter(&self, number: u64, random: &mut Random) -> Letter {
        let mut left: Vec<_> = RECIPIENTS.iter().map(|(recipient, _)| *recipient).collect();
        let recipients = (0..=random.below(4)).map(|_| left.remove(random.index(left.len()))).collect();
        Letter { number, size: random.size(LARGEST), recipients: together(recipients) }
    }

    /// Reads all destinations and compares them with what was sent.
    fn look(self) -> Findings {
        let mut problems = self.problems.into_inner().unwrap();
        let mut copies: Vec<(&str, Copy)> = Vec::new();
        let sent = self.sent.into_inner().unwrap();
        let letter = |number| sent.get(&number).map(|sent: &Sent| &sent.letter);
        for place in [MBOX, OTHER_MBOX] {
            let path = self.scratch.path("mail").join(place);
            let messages = readers::python_mbox(&self.scratch, &path);
            let examined: Vec<_> = messages.iter().map(|raw| examine(raw, Format::Mboxrd, letter)).collect();
            let by_formail = readers::formail(&self.scratch, &path);
            if let Some(difference) = first_difference(&messages, &examined, &by_formail) {
                problems.push(format!("{place}: Python's mailbox and formail do not agree: {difference}"));
            }
            copies.extend(examined.into_iter().map(|copy| (place, copy)));
        }
        for (path, raw) in readers::maildir(&self.scratch.path("mail").join(MAILDIR)) {
            if !path.to_string_lossy().ends_with(&format!(",S={}", raw.len())) {
                problems.push(format!("{}: its size is {}", path.display(), raw.len()));
            }
            copies.push((MAILDIR, examine(&raw, Format::Bare, letter)));
        }
        for path in readers::files_in(&self.scratch.path("mail").join(FILES)) {
            // A name with a dot in front: its session was killed.
            if !path.file_name().unwrap().to_string_lossy().starts_with('.') {
                copies.push((FILES, examine(&std::fs::read(path).unwrap(), Format::Bare, letter)));
            }
        }
        for path in readers::files_in(&self.scratch.path("mail").join(PIPED)) {
            // A name with a dot in front: `dd` was killed by the end of its own session, or failed.
            if !path.file_name().unwrap().to_string_lossy().starts_with('.') {
                let raw = std::fs::read(path).unwrap();
                copies.push((PIPED, examine(without_separator(&raw, Format::Mboxrd), Format::Mboxrd, letter)));
            }
        }
        for message in self.upstream.messages() {
            copies.push((UPSTREAM, examine_relayed(&message, &sent)));
        }
        let mut findings = account(self.client, &sent, copies);
        findings.tally.problems.extend(problems);
        findings.tally.runs = self.runs.into_inner();
        findings.tally.faults = self.hits.into_inner();
        findings
    }
}

/// Those of some recipients whose mail can come in one transaction: only one of two can hand it over.
fn together(mut recipients: Vec<&'static str>) -> Vec<&'static str> {
    let is_handed_over = |recipient: &str| places(recipient).iter().any(|place| [PIPED, UPSTREAM].contains(place));
    let first = recipients.iter().position(|recipient| is_handed_over(recipient));
    let mut at = 0..;
    recipients.retain(|recipient| at.next() == first || !is_handed_over(recipient));
    recipients
}

/// What a message turns out to be that the next server has: as it was on the wire, behind the trace that we put in front.
fn examine_relayed(message: &Message, sent: &BTreeMap<u64, Sent>) -> Copy {
    let mut letters = sent.values().map(|sent| &sent.letter);
    let of_sender = |letter: &&Letter| message.sender.starts_with(&format!("<{}>", letter.sender()));
    match letters.find(of_sender) {
        Some(letter) if message.text.ends_with(&on_the_wire(&letter.text())) => {
            let name = |path: &String| path.trim_start_matches('<').split('@').next().unwrap_or_default().to_owned();
            Copy::Whole { number: letter.number, recipients: message.recipients.iter().map(name).collect() }
        }
        letter => {
            Copy::Mangled { number: letter.map(|letter| letter.number), about: format!("from {}", message.sender) }
        }
    }
}

/// Compares what should be somewhere with what is.
fn account(client: Client, sent: &BTreeMap<u64, Sent>, copies: Vec<(&str, Copy)>) -> Findings {
    let (mut tally, mut rests) = (Tally::default(), 0);
    let mut whole: BTreeMap<(u64, String, &str), u64> = BTreeMap::new();
    for (place, copy) in copies {
        match copy {
            Copy::Whole { number, recipients } => {
                tally.found += 1;
                for recipient in recipients {
                    *whole.entry((number, recipient, place)).or_default() += 1;
                }
            }
            Copy::Beginning { number, recipient, .. } => {
                let fate = number.and_then(|number| sent.get(&number)).map(|sent| sent.fate);
                // A number that was cut off is that of a session which was killed, or there would be more of the line.
                let may_be_left = fate.is_none_or(|fate| fate == Fate::KilledOver) || client != Client::GivesUp;
                if !matches!(place, MAILDIR | FILES) && may_be_left {
                    rests += 1;
                } else {
                    tally.torn += 1;
                    tally.problems.push(format!("{place}: a part of {number:?} for {recipient:?} ({fate:?})"));
                }
            }
            Copy::Mangled { about, .. } => {
                tally.torn += 1;
                tally.problems.push(format!("{place}: {about}"));
            }
        }
    }
    for (number, Sent { letter, fate }) in sent {
        tally.accepted += u64::from(*fate == Fate::Accepted);
        for recipient in &letter.recipients {
            for place in places(recipient) {
                let found = whole.remove(&(*number, (*recipient).to_owned(), *place)).unwrap_or(0);
                let copy = format!("{place}: message {number} for {recipient} ({} bytes)", letter.size);
                match (fate, found) {
                    (Fate::Accepted, 1) | (Fate::KilledOver | Fate::NotAccepted, 0) => {}
                    (Fate::Accepted, 0) => {
                        tally.lost += 1;
                        tally.problems.push(format!("{copy} got 250 and is lost"));
                    }
                    (Fate::KilledOver, 1) => tally.window += 1,
                    // A session was killed before it could write down that they have it.
                    (Fate::Accepted, found)
                        if client == (Client::Retries { exactly_once: true }) && [PIPED, UPSTREAM].contains(place) =>
                    {
                        tally.window += found - 1;
                    }
                    (Fate::Accepted, found) if client == (Client::Retries { exactly_once: false }) => {
                        tally.doubled += found - 1;
                    }
                    (Fate::Accepted | Fate::KilledOver, found) => {
                        tally.doubled += found - 1;
                        tally.problems.push(format!("{copy} is there {found} times"));
                    }
                    (Fate::NotAccepted, _) => tally.problems.push(format!("{copy} is there and did not get 250")),
                }
            }
        }
    }
    let strays = whole.into_keys();
    tally
        .problems
        .extend(strays.map(|(number, recipient, place)| format!("{place}: a stray {number} for {recipient}")));
    Findings { tally, rests }
}

/// Where two readers of one mbox disagree. To `formail`, a `From ` line begins a message only if two header fields follow
/// it: a shorter beginning of a message is a part of the one before it, with a `>` in front.
fn first_difference(python: &[Vec<u8>], examined: &[Copy], formail: &[Vec<u8>]) -> Option<String> {
    let is_seen = |copy: &Copy| !matches!(copy, Copy::Beginning { header_fields: ..2, .. });
    let mut others = formail.iter();
    for (index, message) in python.iter().enumerate().filter(|(index, _)| is_seen(&examined[*index])) {
        let is_followed_by_too_little = examined.get(index + 1).is_some_and(|next| !is_seen(next));
        match others.next() {
            Some(other) if other == message => {}
            Some(other) if is_followed_by_too_little && other.starts_with(message) => {}
            other => return Some(format!("message {index}, {:?}: {:?}", examined[index], other.map(Vec::len))),
        }
    }
    others.next().map(|other| format!("formail has more: {:?}", String::from_utf8_lossy(&other[..other.len().min(80)])))
}

/// When a signal comes.
#[derive(Debug)]
struct Plan {
    signal: Signal,
    /// In which of the session's messages.
    message: usize,
    point: Point,
    /// How long after that point.
    delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// The start of the process.
    Start,
    /// So much of the text was sent.
    Text(usize),
    BeforeDot,
    AfterDot,
}

impl Plan {
    fn new(random: &mut Random, letters: &[Letter], habits: &Habits) -> Self {
        let signal = match random.below(10) {
            0 => Signal::SIGTERM,
            1 => Signal::SIGINT,
            2 => Signal::SIGHUP,
            _ => Signal::SIGKILL,
        };
        let message = random.index(letters.len());
        let size = letters[message].size;
        let (point, longest) = match random.below(10) {
            0..3 => (Point::Start, habits.session()),
            3 => (Point::Text(random.index(size)), Duration::from_millis(2)),
            4 => (Point::BeforeDot, Duration::from_micros(300)),
            _ => (Point::AfterDot, habits.answer(size).mul_f64(1.2)),
        };
        Self { signal, message, point, delay: longest.mul_f64(random.fraction()) }
    }
}

impl Point {
    fn is_reached(self, moment: Moment) -> bool {
        match self {
            Point::Start => false,
            Point::Text(wanted) => matches!(moment, Moment::Text(sent) if sent >= wanted),
            Point::BeforeDot => moment == Moment::BeforeDot,
            Point::AfterDot => moment == Moment::AfterDot,
        }
    }
}

/// Sends a process a signal, once. The process must not have been waited for before.
struct Killer {
    pid: Pid,
    signal: Signal,
    thread: Option<JoinHandle<()>>,
}

impl Killer {
    fn strike_after(&mut self, delay: Duration) {
        let (pid, signal) = (self.pid, self.signal);
        self.thread = Some(std::thread::spawn(move || {
            std::thread::sleep(delay);
            kill(pid, signal).expect("sending a signal");
        }));
    }

    fn wait(self) {
        self.thread.into_iter().for_each(|thread| thread.join().expect("the thread that sends the signal"));
    }
}

/// How long things take on this machine, as far as is known yet: signals are to come at every point of that time.
#[derive(Default)]
struct Habits {
    /// From start to the last answer, in microseconds.
    session: AtomicU64,
    /// From the final dot to its answer, for messages of about 2^n bytes.
    answers: [AtomicU64; 24],
}

impl Habits {
    fn session(&self) -> Duration {
        Self::read(&self.session)
    }

    fn answer(&self, size: usize) -> Duration {
        Self::read(&self.answers[magnitude(size)])
    }

    fn ended(&self, time: Duration) {
        Self::learn(&self.session, time);
    }

    fn answered(&self, size: usize, time: Duration) {
        Self::learn(&self.answers[magnitude(size)], time);
    }

    fn read(value: &AtomicU64) -> Duration {
        match value.load(Relaxed) {
            0 => Duration::from_millis(20),
            known => Duration::from_micros(known),
        }
    }

    /// A mean in which the latest counts for a quarter. That two may learn at once does no harm.
    fn learn(value: &AtomicU64, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap().max(1);
        let known = value.load(Relaxed);
        value.store(if known == 0 { time } else { (3 * known + time) / 4 }, Relaxed);
    }
}

fn magnitude(size: usize) -> usize {
    usize::try_from(size.max(1).ilog2()).unwrap().min(23)
}

fn places(recipient: &str) -> &'static [&'static str] {
    RECIPIENTS.iter().find(|(known, _)| *known == recipient).map_or(&[], |(_, places)| places)
}

/// Who gets mail, and where: the place of the `deliver` line, and that of the `copy` line.
const RECIPIENTS: &[(&str, &[&str])] = &[
    ("one", &[MBOX]),
    ("other", &[OTHER_MBOX]),
    ("alias", &[MBOX]),
    ("dir", &[MAILDIR]),
    ("files", &[FILES]),
    ("copied", &[OTHER_MBOX, MAILDIR]),
    ("second", &[MAILDIR]),
    ("command", &[PIPED]),
    ("relayed", &[UPSTREAM, MAILDIR]),
];
const MBOX: &str = "mbox";
const OTHER_MBOX: &str = "other-mbox";
const MAILDIR: &str = "maildir";
const FILES: &str = "files";
const PIPED: &str = "piped";
const UPSTREAM: &str = "upstream";

/// Better to fail than to send for ever.
const MOST_ATTEMPTS: u32 = 60;

/// In bytes.
const LARGEST: u32 = 5_000_000;

/// Sessions at a time.
const CLIENTS: usize = 4;

/// Better to fail than to hang.
const LONGEST_SHORT: Duration = Duration::from_secs(3600);
const LONGEST_LONG: Duration = Duration::from_secs(4 * 3600);
