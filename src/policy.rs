//! What the administrator decided, asked by the session: who may send what to whom, where it goes, and who is who.
//!
//! The session asks with a [`Question`] and waits; everything that an answer needs (rules, patterns, lines of the
//! configuration that are read again) is here or below here, and so is the trace of how it came about.

use std::collections::VecDeque;

use anyhow::Context;
use base64ct::{Base64, Encoding};
use ring::rand::{SecureRandom, SystemRandom};

use crate::accounts::Accounts;
use crate::address::Mailbox;
use crate::config::{Config, Denial, Destinations, Finding, Hop, Note, Place, Rules, Trace, Who};
use crate::deliver::Upstreams;
use crate::files;
use crate::peer::Peer;
use crate::smtp::auth::Credentials;
use crate::smtp::reply::{self, Reply, Status};
use crate::smtp::upstream::Sender;
use crate::smtp::{Answer, Question};

/// The rules, applied to one peer.
#[derive(Debug)]
pub struct Policy<'c> {
    config: &'c Config,
    accounts: Option<&'c Accounts>,
    upstreams: Option<&'c Upstreams<'c>>,
    /// What the peer said of the message that it named last.
    sender: Option<Sender>,
    peer: &'c Peer,
    is_secured: bool,
    /// Who the peer has shown to be.
    user: Option<String>,
    trace: Trace,
    /// The last decisions, the oldest first.
    remembered: VecDeque<(Question, Answer)>,
}

impl<'c> Policy<'c> {
    /// The policy for this peer; how it decides is kept in the trace, if that is wanted.
    pub fn new(config: &'c Config, peer: &'c Peer, trace: Trace) -> Self {
        let remembered = VecDeque::new();
        let (accounts, upstreams, sender, user) = (None, None, None, None);
        Self { config, accounts, upstreams, sender, peer, is_secured: false, user, trace, remembered }
    }

    /// The same policy, with these accounts.
    pub fn with_accounts(self, accounts: &'c Accounts) -> Self {
        Self { accounts: Some(accounts), ..self }
    }

    /// The same policy, which asks the servers that mail is passed on to as well.
    pub fn with_upstreams(self, upstreams: &'c Upstreams<'c>) -> Self {
        Self { upstreams: Some(upstreams), ..self }
    }

    /// The connection is under TLS: whatever was decided is decided anew, and the peer is nobody in particular.
    pub fn secured(&mut self) {
        (self.is_secured, self.user) = (true, None);
        self.remembered.clear();
    }

    /// The peer is this user: likewise.
    pub fn authenticated(&mut self, user: &str) {
        self.user = Some(user.to_owned());
        self.remembered.clear();
    }

    /// What to answer this peer if it may not talk to us at all.
    pub fn refusal(&mut self) -> Option<Reply> {
        match self.config.rules.admit(self.peer, &mut self.trace) {
            Ok(()) => None,
            Err(Denial::Broken(broken)) => {
                Some(reply::broken_pattern(self.config.rules.line(broken.line), &broken.message))
            }
            Err(_) => Some(reply::peer_refused(self.peer)),
        }
    }

    /// Answers what the session asks. What was asked a moment ago has the same answer of the rules: who is put off comes back,
    /// and who repeats itself to keep us busy costs nothing. Servers that mail is passed on to are asked each time.
    pub fn answer(&mut self, question: &Question) -> Answer {
        let answer = self.rules_answer(question);
        self.refusal_of_others(question, &answer).map_or(answer, Answer::No)
    }

    /// What others than the rules have against what these allow: servers that mail is passed on to, and the lack of room.
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

    /// What the rules, and the accounts, say to a question of the session.
    pub fn rules_answer(&mut self, question: &Question) -> Answer {
        match question {
            Question::Sender(sender) => self.sender = Some(sender.clone()),
            Question::Recipient(_) => {}
            // A password is not kept, and whoever tries it again is to find out nothing by that.
            Question::Mechanisms | Question::Password(_) | Question::ScramKeys(_) => return self.decide(question),
        }
        let is_same = |known: &Question| match (known, question) {
            // To the rules a sender is its address.
            (Question::Sender(known), Question::Sender(sender)) => known.path == sender.path,
            (known, question) => known == question,
        };
        if let Some((_, answer)) = self.remembered.iter().find(|(known, _)| is_same(known)) {
            self.trace.note(Note::as_before);
            return answer.clone();
        }
        let answer = self.decide(question);
        // What is our fault may be over soon.
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
                Err(denial) => Answer::No(denied(
                    rules,
                    denial,
                    &sender.bare(),
                    reply::SENDER_REFUSED,
                    reply::sender_not_allowed(),
                )),
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
                        reply::recipient_not_allowed(),
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

    /// What the server says against a sender that all mail of this peer would be passed on to. Where that depends on the
    /// recipient, it is asked then.
    fn upstream_refusal_of_sender(&self, sender: &Sender) -> Option<Reply> {
        let upstreams = self.upstreams?;
        upstreams.begin();
        let who = Who { peer: self.peer, is_secured: self.is_secured, user: self.user.as_deref() };
        upstreams.sender(self.config.rules.only_hop(who)?, sender).err().map(|reply| reply.about(&*sender.path.bare()))
    }

    /// What it says against this recipient.
    fn upstream_refusal(&self, destinations: &Destinations, mailbox: &Mailbox) -> Option<Reply> {
        let (upstreams, hop): (_, &Hop) = (self.upstreams?, destinations.hop()?);
        upstreams.recipient(hop, self.sender.as_ref()?, mailbox).err().map(|reply| reply.about(mailbox.bare()))
    }

    /// What the accounts say; that they cannot is no fault of the peer.
    fn of_accounts(&self, ask: impl FnOnce(&Accounts) -> anyhow::Result<Answer>) -> Answer {
        let answer = self.accounts.context("there are no accounts").and_then(ask);
        answer.unwrap_or_else(|error| Answer::No(reply::cannot_authenticate(format!("{error:#}"))))
    }

    /// What to answer if there is too little room somewhere that messages are written to.
    fn room_refusal(&self) -> Option<Reply> {
        let limit = &self.config.limits.min_free;
        if limit.value == 0 {
            return None;
        }
        let spool = self.config.spool_dir.clone().unwrap_or_else(files::temporary_folder);
        let places = self.config.rules.needs().places().iter().map(Place::path);
        places.chain([&*spool]).find_map(|path| {
            // What is not there yet is in the folder that will hold it; what is not there at all, a delivery will say.
            let room = files::room(path).or_else(|_| files::room(files::directory_of(path))).ok()?;
            (room.free < limit.value.min(room.size / SPARE_PART)).then(|| {
                let cause = format!("{} bytes are free on the file system of {}", room.free, path.display());
                Reply { is_our_fault: true, ..reply::worded(&limit.refusal, reply::NO_ROOM).because(cause) }
            })
        })
    }

    /// Hands out how the last decisions came about.
    pub fn take_trace(&mut self) -> Vec<Finding<'c>> {
        self.trace.take(&self.config.rules)
    }
}

/// Our part of what makes an exchange another each time (RFC 5802, 5.1).
fn nonce() -> anyhow::Result<String> {
    let mut octets = [0; 18];
    SystemRandom::new().fill(&mut octets).ok().context("the system gives no random numbers")?;
    Ok(Base64::encode_string(&octets))
}

/// The part of a small file system that has to be free, where that is less than `limit.min_free`: a twentieth.
const SPARE_PART: u64 = 20;

/// Room for the recipients that a transaction puts off after asking about them, and some more.
const MAX_REMEMBERED: usize = 16;

/// The reply to what one of the rules forbids to this address. `status` goes with the administrator's own words,
/// `not_allowed` are ours.
fn denied(rules: &Rules, denial: Denial<'_>, address: &str, status: Status, not_allowed: Reply) -> Reply {
    match denial {
        Denial::Refused(refusal) => reply::worded(refusal, status).about(address),
        Denial::NotAllowed => not_allowed.about(address),
        Denial::Unknown => reply::no_such_recipient().about(address),
        Denial::TwoHandOvers => reply::two_hand_overs().about(address),
        Denial::Broken(broken) => reply::broken_pattern(rules.line(broken.line), &broken.message),
        Denial::Changed { line } => reply::configuration_changed(rules.line(line)).about(address),
    }
}
