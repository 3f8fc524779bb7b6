//! The only loop: it gives the session its input and executes the step that comes back.
//!
//! Everything that touches the world is done here or in a function called from here: descriptors, the clock, the log,
//! deliveries. The session decides what is done.

mod deadlines;
mod opened;
mod recording;
mod tls;

use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deadlines::Deadlines;
pub(crate) use deadlines::SCARCE;
pub(crate) use opened::Opened;
pub(crate) use opened::accounts;
use recording::Recording;

use crate::config::{Config, Finding, Flags, Protocol, TlsUse, Trace};
use crate::deliver::{self, Context, Records, Reporter, Runner, Upstreams};
use crate::log::{Event, Log, Refusals};
use crate::message::{Envelope, Lines, Spool, SpoolFile};
use crate::metrics::{Family, Tally};
use crate::net::conn::{Connection, Input};
use crate::net::tls::TlsParameters;
use crate::peer::Peer;
use crate::policy::Policy;
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::Session;
use crate::smtp::{Answer, Delivery, Heard, Question, Step, Turn};
use crate::transcript::{Entry, Header, Recorder, Ruled};

/// What a session gets from the stages before it.
#[derive(Clone, Copy)]
pub(crate) struct Groundwork<'a> {
    /// What is to be done.
    pub(crate) config: &'a Config,
    /// The file that says so.
    pub(crate) config_file: &'a Path,
    /// Where events go.
    pub(crate) log: &'a Log,
    /// Where requests to stop arrive.
    pub(crate) signals: &'a Signals,
    /// What this process counts.
    pub(crate) tally: &'a Tally,
    /// Files for TLS, AUTH, and other servers.
    pub(crate) opened: &'a Opened,
    /// Where messages are reported, if `listen --json` wants that.
    pub(crate) reporter: Option<&'a Reporter>,
}

/// Serves one peer on standard input and output.
pub(crate) struct Server<'a> {
    config: &'a Config,
    log: &'a Log,
    signals: &'a Signals,
    tally: &'a Tally,
    reporter: Option<&'a Reporter>,
    /// Which messages were delivered already, so that one that comes again is recognised (`exactly_once`).
    records: Option<&'a Records>,
    /// Whether the peer's next command proves that it has read our replies, because it had not sent anything ahead.
    next_command_confirms: bool,
    /// Whether input has come since the last message was answered; until then, commands were sent ahead.
    has_input_come: bool,
    connection: Connection<'a>,
    opened: &'a Opened,
    /// The parameters of TLS, once the connection is encrypted.
    tls: Option<TlsParameters>,
    deadlines: Deadlines<'a>,
    messages: u32,
    refusals: Refusals,
    mail_data: MailData,
    /// The last message that was delivered, until the peer's next command shows that the 250 has arrived: its
    /// identifier and deliveries.
    unconfirmed: Option<(String, Vec<Delivery>)>,
    /// Message text on its way from the session to the spool.
    text: Vec<u8>,
    /// The file for messages that are too large for memory.
    spool_file: Option<Rc<SpoolFile>>,
    /// The mail data cut into lines for the log, if flag `l` wants that.
    letter: Lines,
    /// The transcript of this session, if there is one.
    recording: Recording<'a>,
}

/// The mail data of the current transaction (RFC 5321, 4.1.1.4). The spool is boxed: it goes from state to state.
#[derive(Default)]
enum MailData {
    /// None has come.
    #[default]
    None,
    /// It is coming, or it is complete and refused as a whole.
    Coming(Box<Spool>),
    /// It is complete and being delivered, while its recipients are answered.
    Processing(Message),
}

/// A message that is being delivered.
struct Message {
    id: String,
    spool: Box<Spool>,
    /// Whether any recipient has it.
    is_delivered: bool,
    /// Whether any of them had not had it before.
    is_new: bool,
    /// A delivery that is neither counted nor logged yet.
    unlogged: Option<Delivery>,
}

/// What a step may need besides the session: the peer, what runs commands, and the servers that mail is passed on to.
#[derive(Clone, Copy)]
struct Outside<'o> {
    peer: &'o Peer,
    /// What runs commands.
    runner: &'o Runner<'o>,
    upstreams: &'o Upstreams<'o>,
}

/// Why the session is over.
enum End {
    /// One side has ended the session in the regular way: QUIT, or a reply that closes.
    Closed,
    /// The peer's time was over.
    TimedOut,
    /// We were asked to stop.
    Stopped,
    /// The peer is gone; the text says how we know.
    PeerGone(String),
    /// TLS cannot begin with anybody, because there is no usable key, and `tls implicit` lets nothing be said without
    /// it.
    NoKey,
    /// The handshake with this peer failed for this reason, so there is no way to tell it anything.
    NotSecured(String),
}

impl<'a> Server<'a> {
    /// Sends the greeting over this connection, unless `tls implicit` makes it wait for the handshake. The time for the
    /// first message runs from here.
    pub(crate) fn greet(groundwork: Groundwork<'a>, connection: Connection<'a>) -> Self {
        let Groundwork { config, log, signals, tally, opened, reporter, .. } = groundwork;
        let deadlines = Deadlines::new(&config.limits);
        if config.protocol == Protocol::Lmtp {
            connection.send_at_once();
        }
        let mut server = Self {
            config,
            log,
            signals,
            tally,
            reporter,
            records: None,
            next_command_confirms: false,
            has_input_come: false,
            connection,
            opened,
            tls: None,
            deadlines,
            messages: 0,
            refusals: Refusals::default(),
            mail_data: MailData::None,
            unconfirmed: None,
            text: Vec::new(),
            spool_file: None,
            letter: Lines::default(),
            recording: Recording::none(log),
        };
        if config.tls() != TlsUse::Implicit {
            server.send(&reply::greeting(&config.domain, config.protocol), false);
            // If the peer is gone already, waiting for its first command will tell.
            let _ = server.flush();
        }
        server
    }

    /// From now on a message that `records` knows is not delivered again.
    pub(crate) fn recognise(&mut self, records: &'a Records) {
        self.records = Some(records);
    }

    /// Opens the file for large messages now, because a session in its sandbox could not.
    pub(crate) fn open_spool_file(&mut self) {
        self.spool_file = Some(Rc::new(SpoolFile::open(self.config.spool_dir.as_ref())));
    }

    /// From now on the session is recorded; `header` is what is known of it so far.
    pub(crate) fn record(&mut self, recorder: Recorder, header: &Header) {
        self.recording.begin(recorder, header);
        if self.config.tls() != TlsUse::Implicit {
            let greeting = reply::greeting(&self.config.domain, self.config.protocol);
            self.recording.with(|recorder| recorder.reply(&greeting, false));
        }
    }

    /// When the peer's time is over if no message is accepted before.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadlines.message()
    }

    /// Talks until one side ends the session. `refusal` is the answer to the first command of a peer that the rules do
    /// not want; `runner` runs commands.
    pub(crate) fn serve(&mut self, peer: &Peer, refusal: Option<Reply>, runner: &Runner<'_>) {
        let trace = Trace::new(self.log.wants(Flags::RULES) || self.recording.is_on());
        let upstreams = Upstreams::new(self.config, &self.opened.relay, self.log, self.signals);
        let mut policy =
            Policy::new(self.config, peer, trace).with_accounts(&self.opened.accounts).with_upstreams(&upstreams);
        let is_nameless = refusal.is_some();
        let refusal = refusal.or_else(|| policy.refusal());
        let findings = self.log_trace(&mut policy);
        self.recording.with(|recorder| {
            recorder.note(&Entry::Ruled(match is_nameless {
                true => Ruled::of_nameless_peer(),
                false => Ruled::of_peer(refusal.is_some(), &findings),
            }));
        });
        // Waiting for the first command of a peer whose answer is known would only keep others from this place. So the
        // answer goes out before the command, and the peer reads the same lines in the same order. A 421, which may
        // come unasked (RFC 5321, 3.8), would not tell the sender or the log that the refusal is permanent.
        let ahead = refusal.clone().filter(|_| self.deadlines.is_scarce());
        let Config { protocol, domain, limits, .. } = self.config;
        let tls = self.config.tls().into();
        let mut session = Session::new(*protocol, domain, limits, peer, refusal)
            .with_tls(tls)
            .with_auth(self.config.auth(), self.config.auth_in_the_clear());
        // What we did since the greeting, such as looking up the peer's name, must not count as silence of the peer.
        self.deadlines.not_idle();
        let greeted = match self.config.tls() {
            TlsUse::Implicit => self.greet_under_tls(&mut session, &mut policy),
            TlsUse::Off | TlsUse::Offer | TlsUse::Require => Ok(()),
        };
        let first = match ahead {
            Some(refusal) => Step::Close(refusal),
            None if self.connection.buffered().is_empty() => Step::Wait,
            // Input came together with the header of a proxy.
            None => Step::Continue,
        };
        let end = match greeted {
            Ok(()) => self.converse(first, &mut session, &mut policy, Outside { peer, runner, upstreams: &upstreams }),
            Err(end) => end,
        };
        upstreams.close();
        self.finish(end, &session);
    }

    /// Executes one step after the other; returns why the session is over.
    fn converse<'s>(
        &mut self,
        first: Step,
        session: &mut Session<'s>,
        policy: &mut Policy<'s>,
        outside: Outside<'_>,
    ) -> End {
        let (mut step, mut end) = (first, End::Closed);
        loop {
            step = match step {
                Step::Wait => match self.wait() {
                    Input::More => self.receive(session),
                    Input::End => return End::PeerGone("the peer closed the connection without QUIT".to_owned()),
                    Input::Gone(error) => return broken(&error),
                    Input::Stop => {
                        end = End::Stopped;
                        self.recording.note_end(&end);
                        Step::Close(reply::shutting_down(&self.config.domain))
                    }
                    Input::TimedOut => {
                        end = End::TimedOut;
                        self.recording.note_end(&end);
                        Step::Close(self.deadlines.refusal())
                    }
                },
                Step::Continue => self.receive(session),
                Step::Reply(reply) => {
                    if let Err(error) = self.answer(&reply, session) {
                        return broken(&error);
                    }
                    self.receive(session)
                }
                Step::Ask(question) => {
                    outside.upstreams.set_deadline(self.deadlines.message());
                    let answer = self.ask(&question, policy);
                    let step = session.answer(answer);
                    if session.transaction().is_some_and(|open| !open.recipients.is_empty()) {
                        self.deadlines.recipient_accepted();
                    }
                    step
                }
                // We were asked to stop: recipients without an answer get none, and the sender will send them the
                // message again.
                Step::Deliver(delivery) if delivery.group.start > 0 && self.signals.is_stopping() => {
                    self.recording.note_end(&End::Stopped);
                    Step::Close(reply::shutting_down(&self.config.domain))
                }
                Step::Deliver(delivery) => self.deliver(session, delivery, outside),
                Step::StartTls(ready) => match self.start_tls(&ready, session, policy) {
                    Ok(step) => step,
                    Err(end) => return end,
                },
                Step::Authenticated(user, mechanism, reply) => {
                    self.log.event(&Event::Authenticated { user: &user, mechanism });
                    self.tally.count(Family::Authentications.with_any(mechanism.name()));
                    self.log.authenticated(&user);
                    self.recording.with(|recorder| recorder.authenticated(&user, mechanism));
                    session.authenticated(&user);
                    policy.authenticated(&user);
                    Step::Reply(reply)
                }
                Step::Close(reply) => {
                    self.send(&reply, session.is_extended());
                    if !session.has_text() {
                        self.count_refused_message(&reply);
                    }
                    return match self.connection.hang_up(Instant::now() + LAST_WORDS) {
                        Ok(()) => end,
                        Err(error) => broken(&error),
                    };
                }
            };
        }
    }

    /// Answers the session's question: by the rules first, then by servers that mail is passed on to.
    fn ask(&mut self, question: &Question, policy: &mut Policy<'_>) -> Answer {
        let answer = policy.rules_answer(question);
        let refusal = policy.refusal_of_others(question, &answer);
        // The time that others took to answer is not the peer's.
        self.deadlines.not_idle();
        let findings = self.log_trace(policy);
        self.recording.with(|recorder| {
            recorder.ruled(Ruled::of_answer(question, &answer, &findings, &self.config.rules));
            if let Some(refusal) = &refusal {
                recorder.note(&Entry::Asked(refusal.clone()));
            }
        });
        refusal.map_or(answer, Answer::No)
    }

    /// Gives the session the input that has come, and the spool the message text that the session made of it.
    fn receive<'s>(&mut self, session: &mut Session<'s>) -> Step {
        self.text.clear();
        let Turn { used, heard, step } = session.receive(self.connection.buffered(), &mut self.text);
        self.recording.with(|recorder| {
            let (octets, behind) = self.connection.buffered().split_at(used);
            recorder.heard(octets, behind, heard, &step);
        });
        let is_command = match heard {
            Heard::Command(_) | Heard::Unoffered(_) | Heard::Secret => true,
            Heard::Nothing | Heard::Text | Heard::Discarded => false,
        };
        match heard {
            Heard::Nothing | Heard::Discarded => {}
            Heard::Command(words) => self.log.event(&Event::Command(words)),
            Heard::Secret => self.log.event(&Event::SecretLine),
            Heard::Unoffered(words) => {
                self.log.event(&Event::Command(words));
                self.log.event(&Event::UnofferedParameters(words));
            }
            Heard::Text => {
                let mut spool = match std::mem::take(&mut self.mail_data) {
                    MailData::Coming(spool) => spool,
                    MailData::None | MailData::Processing(_) => {
                        new_spool(self.config, self.records, &mut self.spool_file)
                    }
                };
                spool.push(&self.text);
                self.mail_data = MailData::Coming(spool);
                // Text that is thrown away because the message is too large already earns no further time.
                self.deadlines.text_came(self.text.len());
                if self.log.wants(Flags::LETTERS) {
                    let has_ended = !session.has_text();
                    log_letter(self.log, &mut self.letter, &self.text, has_ended);
                }
            }
        }
        // A piece of an endless line is no progress.
        if heard != Heard::Nothing || !matches!(step, Step::Wait) {
            self.deadlines.not_idle();
        }
        self.connection.consume(used);
        if is_command {
            self.note_command();
        }
        step
    }

    /// Delivers the message to a group of its recipients; the session turns the outcome into the next step.
    /// It is kept out of its caller, whose stack would otherwise have room for a delivery in each session.
    #[inline(never)]
    fn deliver<'s>(&mut self, session: &mut Session<'s>, delivery: Delivery, outside: Outside<'_>) -> Step {
        let Outside { peer, runner, upstreams } = outside;
        let mut message = match std::mem::take(&mut self.mail_data) {
            MailData::Processing(message) => message,
            MailData::Coming(spool) => self.new_message(spool),
            MailData::None => {
                let spool = new_spool(self.config, self.records, &mut self.spool_file);
                self.new_message(spool)
            }
        };
        let tls = self.tls.as_ref();
        let (domain, user, transaction) = (&self.config.domain, session.user(), &delivery.transaction);
        let received_at = SystemTime::now();
        let envelope = Envelope { id: &message.id, domain, peer, received_at, transaction, tls, user };
        let Self { config, log, signals, tally, reporter, records, opened, .. } = *self;
        let context = Context {
            config,
            log,
            signals,
            tally,
            deadline: self.deadlines.message(),
            runner,
            brokers: &opened.brokers,
            upstreams,
            reporter,
            records,
        };
        upstreams.set_deadline(context.deadline);
        let began = Instant::now();
        let outcome = deliver::deliver(&context, &envelope, delivery.recipients(), &mut message.spool);
        self.deadlines.not_idle();
        tally.observe(Family::DeliveryTime, began);
        let is_delivered = outcome.is_ok();
        self.recording.with(|recorder| recorder.delivered(&outcome, &message.id));
        let step = session.delivered(outcome, &message.id);
        if is_delivered {
            self.deadlines.message_accepted();
            match &mut self.unconfirmed {
                Some((_, deliveries)) if message.is_delivered => deliveries.push(delivery.clone()),
                unconfirmed => {
                    self.messages += 1;
                    tally.count(const { Family::Messages.with("accepted") });
                    tally.add(Family::AcceptedOctets.counter(), delivery.transaction.size);
                    *unconfirmed = Some((message.id.clone(), vec![delivery.clone()]));
                }
            }
            message.is_delivered = true;
            message.unlogged = Some(delivery);
        }
        self.mail_data = MailData::Processing(message);
        step
    }

    /// Sends the queued replies and waits for more input.
    fn wait(&mut self) -> Input {
        self.recording.flush();
        if !self.connection.replies().is_empty() {
            self.look_for_input_ahead();
        }
        let input = self.connection.fill(self.deadlines.idle());
        self.has_input_come |= matches!(input, Input::More);
        input
    }

    /// Takes note of a whole command: unless it was sent ahead, the peer has read the replies before it. A part of a
    /// command shows nothing, because nobody knows where its sender broke off.
    fn note_command(&mut self) {
        if !self.has_input_come {
            return;
        }
        self.unconfirmed = None;
        if let (Some(records), true) = (self.records, self.next_command_confirms) {
            records.forget_confirmed();
        }
    }

    /// Takes note, before replies leave, of whether the peer has sent anything ahead (RFC 2920): such input does not
    /// show that it has read them.
    fn look_for_input_ahead(&mut self) {
        if self.records.is_some_and(Records::has_unconfirmed) {
            self.next_command_confirms = self.connection.is_quiet();
        }
    }

    /// Counts how the session has ended, and logs what the log does not know yet.
    fn finish(&mut self, end: End, session: &Session<'_>) {
        self.recording.note_end(&end);
        self.recording.flush();
        self.refusals.finish(self.log);
        // Completes the last line of a message that broke off.
        log_letter(self.log, &mut self.letter, &[], true);
        self.tally.end(match end {
            End::Closed => const { Family::Sessions.with("closed") },
            End::TimedOut => const { Family::Sessions.with("timed_out") },
            End::Stopped => const { Family::Sessions.with("stopped") },
            End::PeerGone(_) => const { Family::Sessions.with("gone") },
            End::NoKey | End::NotSecured(_) => const { Family::Sessions.with("no_tls") },
        });
        let is_recorded = self.records.is_some_and(Records::will_recognise);
        match end {
            End::Closed | End::TimedOut | End::Stopped | End::NoKey => {}
            End::NotSecured(why) => {
                self.log.event(&Event::NotSecured(&why));
                // The peer may have sent STARTTLS right behind the message, so it may not have read the 250.
                if let Some((id, deliveries)) = &self.unconfirmed {
                    self.log.event(&Event::GoneUnconfirmed { how: &why, id, deliveries, is_recorded });
                }
            }
            End::PeerGone(how) => {
                if session.transaction().is_some() {
                    self.log.event(&Event::GoneInTransaction(&how));
                } else if let Some((id, deliveries)) = &self.unconfirmed {
                    // The peer may send this message again (RFC 1047), and only `exactly_once` would recognise it.
                    self.log.event(&Event::GoneUnconfirmed { how: &how, id, deliveries, is_recorded });
                } else {
                    self.log.event(&Event::Gone(&how));
                }
            }
        }
        self.log.event(&Event::Closed(self.messages));
    }

    /// Sends a reply, or queues it if it is not the answer to a message and few others are queued. The answer to a
    /// message leaves at once, even if the peer has sent more already: until it leaves, the message is delivered and
    /// the peer does not know. So it also comes before freeing the spool and, if it is a 250, before writing to the
    /// log, which may take time.
    fn answer(&mut self, reply: &Reply, session: &Session<'_>) -> std::io::Result<()> {
        let enhanced = session.is_extended();
        let (sent, mail_data) = match std::mem::take(&mut self.mail_data) {
            MailData::Processing(Message { id, spool, is_delivered, is_new, unlogged: Some(delivery) }) => {
                self.recording.with(|recorder| recorder.reply(reply, enhanced));
                reply.encode(enhanced, self.connection.replies());
                self.look_for_input_ahead();
                self.has_input_come = false;
                let sent = self.flush();
                let repeated = self.records.map(Records::take_repeated).unwrap_or_default();
                let is_new = deliver::count_delivery(self.tally, &delivery, &repeated) || is_new;
                deliver::log_delivery(self.log, &id, &delivery, reply, &repeated);
                self.log.event(&Event::Reply(reply));
                (sent, MailData::Processing(Message { id, spool, is_delivered, is_new, unlogged: None }))
            }
            mail_data => {
                self.send(reply, enhanced);
                // This is not the answer to a message.
                if matches!(mail_data, MailData::None) || session.has_text() {
                    self.mail_data = mail_data;
                    let may_wait = self.connection.replies().len() < MAX_QUEUED_REPLIES;
                    return if may_wait { Ok(()) } else { self.flush() };
                }
                (self.flush(), mail_data)
            }
        };
        let is_processed = matches!(mail_data, MailData::Processing(_));
        self.mail_data = mail_data;
        if !session.is_answering() {
            self.count_refused_message(reply);
            if matches!(&self.mail_data, MailData::Processing(Message { is_delivered: true, is_new: false, .. })) {
                self.tally.count(Family::MessagesRepeated.counter());
            }
            self.give_up_text();
            // If this session is killed later, what happened until here has been counted.
            if is_processed && let Some(why) = self.tally.hand_over() {
                self.log.event(&Event::NotCounted(&why));
            }
        }
        sent
    }

    /// Queues a reply, and logs it.
    fn send(&mut self, reply: &Reply, enhanced: bool) {
        self.recording.with(|recorder| recorder.reply(reply, enhanced));
        reply.encode(enhanced, self.connection.replies());
        if reply.is_negative() {
            self.tally.refusal(reply.code, reply.status);
        }
        self.refusals.log(self.log, reply);
    }

    /// Frees the text of a message that is answered, or that the peer gave up between its chunks.
    fn give_up_text(&mut self) {
        self.mail_data = MailData::None;
        log_letter(self.log, &mut self.letter, &[], true);
    }

    /// Counts a refused message: text of one has come, nobody has it, and this last reply about it says no.
    fn count_refused_message(&self, last_word: &Reply) {
        let nobody_has_it = match &self.mail_data {
            MailData::None => false,
            MailData::Coming(_) => true,
            MailData::Processing(message) => !message.is_delivered,
        };
        if nobody_has_it && last_word.is_negative() {
            self.tally.count(match last_word.is_permanent() {
                true => const { Family::Messages.with("refused") },
                false => const { Family::Messages.with("deferred") },
            });
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.connection.flush(self.deadlines.idle())
    }

    /// Logs which rules led to the last decisions, and returns these findings.
    fn log_trace<'c>(&self, policy: &mut Policy<'c>) -> Vec<Finding<'c>> {
        let findings = policy.take_trace();
        findings.iter().for_each(|finding| self.log.event(&Event::Rule(finding)));
        findings
    }

    /// The message has an identifier that is unique on this machine: the time, this process, and a count.
    fn new_message(&self, spool: Box<Spool>) -> Message {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, micros, process) = (now.as_secs(), now.subsec_micros(), std::process::id());
        let id = format!("{seconds:x}.{micros:05x}.{process:x}.{:x}", self.messages);
        Message { id, spool, is_delivered: false, is_new: false, unlogged: None }
    }
}

fn broken(error: &std::io::Error) -> End {
    End::PeerGone(format!("the connection broke: {error}"))
}

fn new_spool(config: &Config, records: Option<&Records>, file: &mut Option<Rc<SpoolFile>>) -> Box<Spool> {
    let file = file.get_or_insert_with(|| Rc::new(SpoolFile::open(config.spool_dir.as_ref())));
    let spool = Spool::new(Rc::clone(file));
    Box::new(if records.is_some() { spool.with_hash() } else { spool })
}

/// Logs the lines that end in this piece of a message, and at the message's end the rest as well.
fn log_letter(log: &Log, letter: &mut Lines, text: &[u8], has_ended: bool) {
    let mut log_line = |line: &[u8]| {
        log.event(&Event::Letter(line));
        Ok::<(), Infallible>(())
    };
    let _ = letter.push(text, &mut log_line);
    if has_ended {
        let _ = letter.finish(log_line);
    }
}

/// When this many octets of replies are queued they leave, although there is more input: 64 KiB of input can be `HELP`
/// ten thousand times. Replies to a group of commands that sends mail need far less (RFC 2920, 3.2).
const MAX_QUEUED_REPLIES: usize = 64 * 1024;

/// How long the last reply may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(10);
