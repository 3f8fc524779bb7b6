//! Answers the session's questions from what the administrator configured: who may send what to whom, where it goes,
//! and who may log in.
//!
//! The session asks a [`Question`] and waits. Everything that an answer needs (rules, patterns, lines of the
//! configuration that are read again) is used here or in functions called from here, and so is the trace of how it came
//! about.

use std::collections::VecDeque;

use anyhow::Context;
use base64ct::{Base64, Encoding};
use ring::rand::{SecureRandom, SystemRandom};

use crate::accounts::Accounts;
use crate::address::Mailbox;
use crate::config::{Config, Denial, Destinations, Finding, Hop, MailPlace, Note, Rules, Trace, Who};
use crate::deliver::Upstreams;
use crate::files;
use crate::peer::Peer;
use crate::smtp::auth::Credentials;
use crate::smtp::reply::{self, Reply, Status};
use crate::smtp::upstream::Sender;
use crate::smtp::{Answer, Question};

/// The configuration, applied to one peer.
#[derive(Debug)]
pub struct Policy<'c> {
    config: &'c Config,
    accounts: Option<&'c Accounts>,
    upstreams: Option<&'c Upstreams<'c>>,
    /// The sender of the current message, with what the peer announced about the message.
    sender: Option<Sender>,
    peer: &'c Peer,
    is_secured: bool,
    /// The account that the peer has logged in to.
    user: Option<String>,
    trace: Trace,
    /// The last questions with their answers, the oldest first.
    remembered: VecDeque<(Question, Answer)>,
}

impl<'c> Policy<'c> {
    /// The policy for this peer. The trace keeps how it decides, if that is wanted.
    pub fn new(config: &'c Config, peer: &'c Peer, trace: Trace) -> Self {
        let remembered = VecDeque::new();
        let (accounts, upstreams, sender, user) = (None, None, None, None);
        Self { config, accounts, upstreams, sender, peer, is_secured: false, user, trace, remembered }
    }

    /// The same policy with these accounts.
    pub fn with_accounts(self, accounts: &'c Accounts) -> Self {
        Self { accounts: Some(accounts), ..self }
    }

    /// The same policy, which also asks the servers that mail is passed on to.
    pub(crate) fn with_upstreams(self, upstreams: &'c Upstreams<'c>) -> Self {
        Self { upstreams: Some(upstreams), ..self }
    }

    /// TLS has begun: the peer is no longer logged in, and remembered answers are dropped.
    pub fn secured(&mut self) {
        (self.is_secured, self.user) = (true, None);
        self.remembered.clear();
    }

    /// The peer has logged in: remembered answers are dropped.
    pub fn authenticated(&mut self, user: &str) {
        self.user = Some(user.to_owned());
        self.remembered.clear();
    }

    /// The reply to a peer that may not talk to us at all.
    pub fn refusal(&mut self) -> Option<Reply> {
        match self.config.rules.admit(self.peer, &mut self.trace) {
            Ok(()) => None,
            Err(Denial::Broken(broken)) => {
                Some(reply::broken_pattern(self.config.rules.line(broken.line), &broken.message))
            }
            Err(_) => Some(reply::peer_refused(self.peer)),
        }
    }

    /// Answers a question of the session. The rules' answers to the last questions are remembered: a peer that was put
    /// off asks again, and a peer that repeats itself to keep us busy costs nothing. Servers that mail is passed on to
    /// are asked each time.
    pub fn answer(&mut self, question: &Question) -> Answer {
        let answer = self.rules_answer(question);
        self.refusal_of_others(question, &answer).map_or(answer, Answer::No)
    }

    /// Why others refuse what the rules allow: servers that mail is passed on to, or too little room on the disk.
    pub fn refusal_of_others(&self, question: &Question, answer: &Answer) -> Option<Reply> {
        match (question, answer) {
            (Question::Sender(sender), Answer::Admitted) => {
                self.room_refusal().or_else(|| self.upstream_refusal_of_sender(sender))
            }
            (Question::Recipient(mailbox), Answer::Destinations(destinations)) => {
                self.upstream_refusal(destinations, mailbox)
            }
            _ => None,
        }
    }

    /// The answer of rules and accounts.
    pub fn rules_answer(&mut self, question: &Question) -> Answer {
        match question {
            Question::Sender(sender) => self.sender = Some(sender.clone()),
            Question::Recipient(_) => {}
            // Passwords are not remembered, so that trying one again takes as long as the first time.
            Question::Mechanisms | Question::Password(_) | Question::ScramKeys(_) => return self.decide(question),
        }
        let is_same = |known: &Question| match (known, question) {
            // For the rules a sender is only its address.
            (Question::Sender(known), Question::Sender(sender)) => known.path == sender.path,
            (known, question) => known == question,
        };
        if let Some((_, answer)) = self.remembered.iter().find(|(known, _)| is_same(known)) {
            self.trace.note(Note::as_before);
            return answer.clone();
        }
        let answer = self.decide(question);
        // If it is our fault, the cause may go away soon.
        if !matches!(&answer, Answer::No(reply) if reply.is_our_fault || reply.code == 421) {
            if self.remembered.len() == MAX_REMEMBERED {
                self.remembered.pop_front();
            }
            self.remembered.push_back((question.clone(), answer.clone()));
        }
        answer
    }

    fn decide(&mut self, question: &Question) -> Answer {
        let rules = &self.config.rules;
        match question {
            Question::Sender(Sender { path: sender, .. }) => match rules.sender(sender, &mut self.trace) {
                Ok(()) => Answer::Admitted,
                Err(denial) => {
                    Answer::No(denied(rules, denial, &sender.bare(), reply::SENDER_REFUSED, reply::SENDER_NOT_ALLOWED))
                }
            },
            Question::Recipient(mailbox) => {
                let who = Who { peer: self.peer, is_secured: self.is_secured, user: self.user.as_deref() };
                match rules.route(mailbox, who, &self.config.domain, &mut self.trace) {
                    Ok(destinations) => Answer::Destinations(destinations),
                    Err(denial) => Answer::No(denied(
                        rules,
                        denial,
                        &mailbox.bare(),
                        reply::RECIPIENT_REFUSED,
                        reply::RECIPIENT_NOT_ALLOWED,
                    )),
                }
            }
            Question::Mechanisms => Answer::Mechanisms { scram: self.accounts.is_some_and(Accounts::takes_scram) },
            Question::Password(Credentials { name, password }) => {
                self.of_accounts(|accounts| accounts.is_password(name, password).map(Answer::Password))
            }
            Question::ScramKeys(name) => {
                self.of_accounts(|accounts| Ok(Answer::ScramKeys(accounts.scram_keys(name)?, nonce()?)))
            }
        }
    }

    /// The refusal of the next server, if all mail of this peer goes to the same one. Otherwise the server is asked
    /// when the recipient is known.
    fn upstream_refusal_of_sender(&self, sender: &Sender) -> Option<Reply> {
        let upstreams = self.upstreams?;
        upstreams.begin();
        let who = Who { peer: self.peer, is_secured: self.is_secured, user: self.user.as_deref() };
        upstreams.sender(self.config.rules.only_hop(who)?, sender).err().map(|reply| reply.about(&*sender.path.bare()))
    }

    /// The refusal of this recipient by the next server.
    fn upstream_refusal(&self, destinations: &Destinations, mailbox: &Mailbox) -> Option<Reply> {
        let (upstreams, hop): (_, &Hop) = (self.upstreams?, destinations.hop()?);
        upstreams.recipient(hop, self.sender.as_ref()?, mailbox).err().map(|reply| reply.about(mailbox.bare()))
    }

    /// The answer of the accounts. If they cannot be read, that is not the peer's fault.
    fn of_accounts(&self, ask: impl FnOnce(&Accounts) -> anyhow::Result<Answer>) -> Answer {
        let answer = self.accounts.context("there are no accounts").and_then(ask);
        answer.unwrap_or_else(|error| Answer::No(reply::cannot_authenticate(format!("{error:#}"))))
    }

    /// The refusal if a file system that messages are written to has too little room.
    fn room_refusal(&self) -> Option<Reply> {
        let limit = &self.config.limits.min_free;
        if limit.value == 0 {
            return None;
        }
        let spool = self.config.spool_dir.clone().unwrap_or_else(files::temporary_folder);
        let places = self.config.rules.needs().places().iter().map(MailPlace::path);
        places.chain([&*spool]).find_map(|path| {
            // A missing file will be made in its folder. If the folder is missing too, the delivery will fail and say
            // so.
            let room = files::room(path).or_else(|_| files::room(files::directory_of(path))).ok()?;
            (room.free < limit.value.min(room.size / SPARE_PART)).then(|| {
                let cause = format!("{} bytes are free on the file system of {}", room.free, path.display());
                Reply { is_our_fault: true, ..reply::worded(&limit.refusal, reply::NO_ROOM).because(cause) }
            })
        })
    }

    /// Takes the trace of the last decisions.
    pub fn take_trace(&mut self) -> Vec<Finding<'c>> {
        self.trace.take(&self.config.rules)
    }
}

/// Our part of the nonce, which makes each exchange different (RFC 5802, 5.1).
fn nonce() -> anyhow::Result<String> {
    let mut octets = [0; 18];
    SystemRandom::new().fill(&mut octets).ok().context("the system gives no random numbers")?;
    Ok(Base64::encode_string(&octets))
}

/// On a small file system one part in so many has to be free, if that is less than `limit.min_free`.
const SPARE_PART: u64 = 20;

/// Enough for the recipients of a transaction that are asked about and put off, and some more.
const MAX_REMEMBERED: usize = 16;

/// The reply if a rule forbids this address. `status` goes with the administrator's words; `not_allowed` is the reply
/// in our own words.
fn denied(rules: &Rules, denial: Denial<'_>, address: &str, status: Status, not_allowed: Reply) -> Reply {
    match denial {
        Denial::Refused(refusal) => reply::worded(refusal, status).about(address),
        Denial::NotAllowed => not_allowed.about(address),
        Denial::Unknown => reply::NO_SUCH_RECIPIENT.about(address),
        Denial::TwoHandOvers => reply::two_hand_overs().about(address),
        Denial::Broken(broken) => reply::broken_pattern(rules.line(broken.line), &broken.message),
        Denial::Changed { line } => reply::configuration_changed(rules.line(line)).about(address),
    }
}
