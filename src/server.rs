//! The only loop: it gives the session its input and executes the step that comes back.
//!
//! Everything that touches the world is done here or in a function called from here: descriptors, the clock, the log,
//! deliveries. The session decides what is done.

mod confirmation;
mod deadlines;
mod mail_data;
mod opened;
mod recording;
mod tls;

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use confirmation::Confirmation;
use deadlines::Deadlines;
pub(crate) use deadlines::SCARCE;
use mail_data::{MailData, log_letter, new_spool};
pub(crate) use opened::Opened;
pub(crate) use opened::accounts;
use recording::Recording;

use crate::config::{Config, Finding, Flags, Protocol, TlsUse, Trace};
use crate::deliver::{Records, Reporter, Runner, Upstreams};
use crate::log::{Event, Log, Refusals};
use crate::message::{Lines, SpoolFile};
use crate::metrics::{Family, Tally};
use crate::net::conn::{Connection, Input};
use crate::net::tls::TlsParameters;
use crate::peer::Peer;
use crate::policy::Policy;
use crate::signals::Signals;
use crate::smtp::auth::Mechanism;
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::Session;
use crate::smtp::{Answer, Heard, Question, Step, Turn};
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
    connection: Connection<'a>,
    opened: &'a Opened,
    /// The parameters of TLS, once the connection is encrypted.
    tls: Option<TlsParameters>,
    deadlines: Deadlines<'a>,
    messages: u32,
    refusals: Refusals,
    mail_data: MailData,
    confirmation: Confirmation,
    /// Message text on its way from the session to the spool.
    text: Vec<u8>,
    /// The file for messages that are too large for memory.
    spool_file: Option<Rc<SpoolFile>>,
    /// The mail data cut into lines for the log, if flag `l` wants that.
    letter: Lines,
    /// The transcript of this session, if there is one.
    recording: Recording<'a>,
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
            connection,
            opened,
            tls: None,
            deadlines,
            messages: 0,
            refusals: Refusals::default(),
            mail_data: MailData::None,
            confirmation: Confirmation::default(),
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
                    self.log_in(&user, mechanism);
                    session.authenticated(&user);
                    policy.authenticated(&user);
                    Step::Reply(reply)
                }
                Step::Close(reply) => return self.close(&reply, end, session),
            };
        }
    }

    /// Tells everybody but session and policy who the peer is now.
    fn log_in(&mut self, user: &str, mechanism: Mechanism) {
        self.log.event(&Event::Authenticated { user, mechanism });
        self.tally.count(Family::Authentications.with_any(mechanism.name()));
        self.log.authenticated(user);
        self.recording.with(|recorder| recorder.authenticated(user, mechanism));
    }

    /// Says the last words. The session is over for this reason, unless the peer is gone by then.
    fn close(&mut self, last_words: &Reply, end: End, session: &Session<'_>) -> End {
        self.send(last_words, session.is_extended());
        if !session.has_text() {
            self.count_refused_message(last_words);
        }
        match self.connection.hang_up(Instant::now() + LAST_WORDS) {
            Ok(()) => end,
            Err(error) => broken(&error),
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
        let is_command = matches!(heard, Heard::Command(_) | Heard::Unoffered(_) | Heard::Secret);
        match heard {
            Heard::Nothing | Heard::Discarded => {}
            Heard::Command(words) => self.log.event(&Event::Command(words)),
            Heard::Secret => self.log.event(&Event::SecretLine),
            Heard::Unoffered(words) => {
                self.log.event(&Event::Command(words));
                self.log.event(&Event::UnofferedParameters(words));
            }
            Heard::Text => {
                self.mail_data.push(&self.text, || new_spool(self.config, self.records, &mut self.spool_file));
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
            self.confirmation.command_came(self.records);
        }
        step
    }

    /// Sends the queued replies and waits for more input.
    fn wait(&mut self) -> Input {
        self.recording.flush();
        if !self.connection.replies().is_empty() {
            self.confirmation.replies_leave(&mut self.connection, self.records);
        }
        let input = self.connection.fill(self.deadlines.idle());
        if matches!(input, Input::More) {
            self.confirmation.input_came();
        }
        input
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
                if let Some((id, deliveries)) = self.confirmation.unconfirmed() {
                    self.log.event(&Event::GoneUnconfirmed { how: &why, id, deliveries, is_recorded });
                }
            }
            End::PeerGone(how) => {
                if session.transaction().is_some() {
                    self.log.event(&Event::GoneInTransaction(&how));
                } else if let Some((id, deliveries)) = self.confirmation.unconfirmed() {
                    // The peer may send this message again (RFC 1047), and only `exactly_once` would recognise it.
                    self.log.event(&Event::GoneUnconfirmed { how: &how, id, deliveries, is_recorded });
                } else {
                    self.log.event(&Event::Gone(&how));
                }
            }
        }
        self.log.event(&Event::Closed(self.messages));
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

    fn flush(&mut self) -> std::io::Result<()> {
        self.connection.flush(self.deadlines.idle())
    }

    /// Logs which rules led to the last decisions, and returns these findings.
    fn log_trace<'c>(&self, policy: &mut Policy<'c>) -> Vec<Finding<'c>> {
        let findings = policy.take_trace();
        findings.iter().for_each(|finding| self.log.event(&Event::Rule(finding)));
        findings
    }
}

fn broken(error: &std::io::Error) -> End {
    End::PeerGone(format!("the connection broke: {error}"))
}

/// How long the last reply may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(10);
