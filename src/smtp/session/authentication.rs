//! The session's part of AUTH (RFC 4954). `auth.rs` reads what is in a response.
//!
//! While an exchange goes on, every line is a response, whatever it looks like, and no log may have it.

use base64ct::{Base64, Encoding};

use super::{Asked, Question, Session, State, about, reply_or_close};
use crate::config::{AuthUse, Protocol};
use crate::smtp::auth::{Exchange, MAX_RESPONSE_LINE, Mechanism, Progress};
use crate::smtp::line::Found;
use crate::smtp::reply::{self, Reply};
use crate::smtp::transaction::Hello;
use crate::smtp::{Answer, Heard, Step, Turn};

/// Who the peer has logged in as, and what a session needs to find that out.
#[derive(Debug)]
pub(super) struct Authentication {
    /// Whether peers may, or must, log in.
    wanted: AuthUse,
    /// Whether they may log in without TLS.
    is_allowed_in_the_clear: bool,
    /// Whether SCRAM-SHA-256 is offered, as found out at the last EHLO.
    takes_scram: bool,
    /// The account that the peer has logged in to.
    user: Option<String>,
    /// How many attempts to log in failed in the whole connection.
    failures: u32,
}

impl Authentication {
    /// Nobody has logged in yet.
    pub(super) fn new(wanted: AuthUse, is_allowed_in_the_clear: bool) -> Self {
        Self { wanted, is_allowed_in_the_clear, takes_scram: false, user: None, failures: 0 }
    }

    /// Whether the configuration has no authentication at all.
    pub(super) fn is_off(&self) -> bool {
        self.wanted == AuthUse::Off
    }

    /// Forgets what was said before TLS, except for how many attempts failed.
    pub(super) fn secured(&mut self) {
        (self.user, self.takes_scram) = (None, false);
    }
}

impl Session<'_> {
    /// The peer has logged in as this user: after [`Step::Authenticated`], or because `explain` asks what would be
    /// then.
    pub fn authenticated(&mut self, user: &str) {
        self.authentication.user = Some(user.to_owned());
    }

    /// The account that the peer has logged in to, if it has.
    pub fn user(&self) -> Option<&str> {
        self.authentication.user.as_deref()
    }

    /// Whether the peer may log in now.
    pub(super) fn offers_auth(&self) -> bool {
        let Authentication { is_allowed_in_the_clear, user, .. } = &self.authentication;
        !self.authentication.is_off() && user.is_none() && (*is_allowed_in_the_clear || self.is_secured())
    }

    /// The mechanisms that are offered now, the best first.
    pub(super) fn mechanisms(&self) -> Vec<Mechanism> {
        let is_offered = |mechanism: &Mechanism| match mechanism {
            Mechanism::ScramSha256 => self.authentication.takes_scram,
            Mechanism::Plain | Mechanism::Login => true,
        };
        match self.offers_auth() {
            true => Mechanism::ALL.into_iter().filter(is_offered).collect(),
            false => Vec::new(),
        }
    }

    /// Whether the peer has to log in before it may send mail.
    pub(super) fn has_to_authenticate(&self) -> bool {
        self.authentication.wanted == AuthUse::Require && self.authentication.user.is_none()
    }

    pub(super) fn auth(&mut self, argument: &str, heard: Heard<'_>) -> Step {
        if self.authentication.is_off() {
            return self.unknown(about(reply::UNKNOWN_COMMAND, heard));
        }
        let hello = match &self.state {
            State::Ready(hello) if hello.is_extended() => hello.clone(),
            State::Mail(_) | State::Chunks(..) => {
                return self.fail(reply::bad_sequence("no AUTH while a message is coming"));
            }
            _ => {
                return self.fail(reply::bad_sequence(match self.protocol {
                    Protocol::Smtp => "missing EHLO",
                    Protocol::Lmtp => "missing LHLO",
                }));
            }
        };
        if self.user().is_some() {
            return self.fail(reply::bad_sequence("authenticated already"));
        }
        if !self.offers_auth() {
            return self.fail(reply::TLS_REQUIRED_FOR_AUTH);
        }
        let mut words = argument.split_ascii_whitespace();
        let (Some(name), response, None) = (words.next(), words.next(), words.next()) else {
            return self.fail(reply::auth_syntax());
        };
        let offered = self.mechanisms();
        let Some(mechanism) = offered.into_iter().find(|mechanism| name.eq_ignore_ascii_case(mechanism.name())) else {
            return self.fail(reply::NO_SUCH_MECHANISM);
        };
        let (challenge, exchange) = Exchange::begin(mechanism);
        match response {
            None => self.challenge(hello, challenge, exchange),
            // An empty response that is there (RFC 4954, section 4).
            Some("=") => self.respond(hello, exchange, b""),
            Some(response) => self.respond(hello, exchange, response.as_bytes()),
        }
    }

    /// Takes a response, if a whole line has come.
    pub(super) fn response<'i>(&mut self, hello: Hello, exchange: Exchange, input: &'i [u8]) -> Turn<'i> {
        match self.lines.find(input, MAX_RESPONSE_LINE - 2) {
            Found::Line(b"*", used) => {
                self.state = State::Ready(hello);
                Turn { used, heard: Heard::Secret, step: self.fail(reply::AUTHENTICATION_CANCELLED) }
            }
            Found::Line(line, used) => {
                Turn { used, heard: Heard::Secret, step: self.respond(hello, exchange, line.trim_ascii_end()) }
            }
            Found::Nothing(used) => {
                self.state = State::Authenticating(hello, exchange);
                Turn { used, heard: Heard::Nothing, step: Step::Wait }
            }
            Found::TooLong(used) => {
                self.state = State::Ready(hello);
                Turn { used, heard: Heard::Secret, step: self.fail(reply::RESPONSE_TOO_LONG) }
            }
            // These are found at the beginning of a connection only.
            Found::OtherProtocol | Found::ProxyHeader => {
                self.state = State::Ready(hello);
                Turn { used: 0, heard: Heard::Nothing, step: Step::Continue }
            }
        }
    }

    fn respond(&mut self, hello: Hello, exchange: Exchange, response: &[u8]) -> Step {
        let mechanism = exchange.mechanism();
        let decoded = std::str::from_utf8(response).ok().and_then(|text| Base64::decode_vec(text).ok());
        let progress = decoded.map_or(Progress::Malformed, |response| exchange.respond(response));
        self.state = State::Ready(hello.clone());
        match progress {
            Progress::Challenge(challenge, exchange) => self.challenge(hello, &challenge, exchange),
            Progress::Password(credentials) => {
                self.state = State::Asking(Asked::Password(hello, mechanism, credentials.name.clone()));
                Step::Ask(Question::Password(credentials))
            }
            Progress::Keys(first) => {
                let name = first.name.clone();
                self.state = State::Asking(Asked::ScramKeys(hello, first));
                Step::Ask(Question::ScramKeys(name))
            }
            Progress::Authenticated(user) => Step::Authenticated(user, mechanism, reply::AUTHENTICATED),
            Progress::Failed(name) => self.not_authenticated(&name),
            Progress::Malformed => self.fail(reply::not_a_response()),
        }
    }

    /// Takes the answer to a question of EHLO or AUTH.
    pub(super) fn found_out(&mut self, asked: Asked, answer: Answer) -> Step {
        match (asked, answer) {
            (Asked::Mechanisms(hello), Answer::Mechanisms { scram }) => {
                self.authentication.takes_scram = scram;
                self.state = State::Ready(hello);
                self.extended_hello()
            }
            (Asked::Password(hello, mechanism, name), Answer::Password(is_right)) => {
                self.state = State::Ready(hello);
                match is_right {
                    true => Step::Authenticated(name, mechanism, reply::AUTHENTICATED),
                    false => self.not_authenticated(&name),
                }
            }
            (Asked::ScramKeys(hello, first), Answer::ScramKeys(keys, nonce)) => {
                let (challenge, exchange) = Exchange::with_keys(first, keys, &nonce);
                self.challenge(hello, &challenge, exchange)
            }
            (asked, answer) => self.unanswered(asked, answer),
        }
    }

    /// Ends the exchange with this user or this refusal: `replay` plays a session whose transcript does not have the
    /// responses.
    pub fn conclude(&mut self, outcome: Result<String, Reply>) -> Step {
        let (hello, exchange) = match std::mem::take(&mut self.state) {
            State::Authenticating(hello, exchange) => (hello, exchange),
            state => {
                self.state = state;
                return self.fail(reply::wrong_answer());
            }
        };
        self.state = State::Ready(hello);
        match outcome {
            Ok(user) => Step::Authenticated(user, exchange.mechanism(), reply::AUTHENTICATED),
            Err(refusal) if refusal.code == reply::not_authenticated(false).code => self.not_authenticated(""),
            Err(refusal) if refusal.is_our_fault => reply_or_close(refusal),
            Err(refusal) => self.fail(refusal),
        }
    }

    fn challenge(&mut self, hello: Hello, challenge: &str, exchange: Exchange) -> Step {
        self.state = State::Authenticating(hello, exchange);
        Step::Reply(reply::challenge(challenge))
    }

    /// Somebody who tries one password after the other has to reconnect every few times, so that fail2ban can count.
    fn not_authenticated(&mut self, name: &str) -> Step {
        self.authentication.failures += 1;
        let failed = &mut self.counters.since_message.failed;
        *failed += 1;
        let is_last = self.authentication.failures >= MAX_FAILURES || *failed > self.limits.smtp_failcmds.value;
        let reply = reply::not_authenticated(is_last).about(name);
        if is_last { Step::Close(reply) } else { Step::Reply(reply) }
    }
}

/// How many times a peer may be wrong about name or password in one connection.
const MAX_FAILURES: u32 = 3;
