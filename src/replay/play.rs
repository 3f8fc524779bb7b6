//! Plays a transcript on today's configuration: the peer's input goes to a session of today, and its answers are
//! compared with those in the transcript.
//!
//! Nobody is asked and nothing is delivered: what name servers, next servers and destinations answered then, and
//! whether a password was right, is taken from the transcript. If the peer is answered differently now, it would go on
//! differently, and the rest of the transcript is not compared.

use super::exchange::{Exchange, Extent, Said, Then, Told, are_among, end_of_login, exchanges};
use crate::accounts::Accounts;
use crate::config::{Config, Finding, Protocol, TlsUse, Trace, Verdict};
use crate::policy::Policy;
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::Session;
use crate::smtp::{Answer, Delivery, Question, Step, Turn};
use crate::transcript::{Octets, Piece, Ruled, Transcript, deciding, lines_of};

/// What came of playing a transcript.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// What is another way now, in the order of the lines.
    pub(super) differences: Vec<Difference>,
    /// From which line on nothing was held against anything, and why.
    pub(super) rest: Option<(usize, &'static str)>,
}

/// A place where now and then part.
#[derive(Debug)]
pub(super) struct Difference {
    /// The line of the transcript that has what the peer said.
    pub(super) line: usize,
    /// What it said, for people.
    pub(super) said: String,
    pub(super) then: Told,
    pub(super) now: Told,
    /// What was found in the line of each rule that decides now.
    pub(super) why: Vec<String>,
    /// Our last reply now.
    pub(super) reply: Option<Reply>,
    /// The directive that decides now, if it cannot be told by that reply.
    pub(super) setting: Option<&'static str>,
}

/// Plays it. How decisions come about is told only if that `is_wanted`: it takes longer.
pub(super) fn play(config: &Config, accounts: &Accounts, transcript: &Transcript, is_wanted: bool) -> Played {
    let exchanges = exchanges(transcript);
    let Some(first) = exchanges.first() else { return Played::default() };
    let peer = &transcript.header.peer;
    let check = &config.limits.fcrdns_check;
    let needs_name = peer.address.ip().is_some_and(|address| check.value.is_for(address));
    let nameless = (transcript.header.is_nameless && needs_name)
        .then(|| reply::worded(&check.refusal, reply::NO_CONFIRMED_NAME).because("..."));
    let mut policy = Policy::new(config, peer, Trace::new(is_wanted)).with_accounts(accounts);
    let mut now = Told::default();
    let refusal = nameless.or_else(|| policy.refusal());
    let findings = policy.take_trace();
    now.rules.push(match transcript.header.is_nameless && needs_name {
        true => Ruled::of_nameless_peer(),
        false => Ruled::of_peer(refusal.is_some(), &findings),
    });
    let why = deciding(&findings).map(ToString::to_string).into_iter().collect();
    let protocol = protocol_of(transcript, config);
    let session = Session::new(protocol, &config.domain, &config.limits, peer, refusal.clone())
        .with_tls(config.tls().into())
        .with_auth(config.auth(), config.auth_in_the_clear());
    let mut player = Player {
        config,
        session,
        policy,
        input: Vec::new(),
        text: Vec::new(),
        why,
        reply: refusal.clone(),
        is_over: false,
        text_is_skipped: false,
        setting: None,
        stopped_by: None,
        accounts,
        played: Played::default(),
    };
    let is_proxy = |proxy| config.rules.is_proxy(proxy, &mut Trace::default()).unwrap_or(false);
    match transcript.header.proxy.is_none_or(is_proxy) {
        true => player.begin(first, now, protocol, refusal),
        false => player.not_believe_proxy(first),
    }
    let mut at = 1;
    while at < exchanges.len() && !player.is_over {
        let exchange = &exchanges[at];
        let last = if exchange.is_auth() { end_of_login(&exchanges, at) } else { at };
        match exchange.said {
            Said::Line(octets) if exchange.is_auth() => player.log_in(octets, exchange, &exchanges[last]),
            Said::Line(octets) => player.line(octets, exchange),
            Said::Text(octets) => player.text(octets, exchange),
            Said::Nothing => {}
        }
        at = last + 1;
    }
    if let Some(exchange) = exchanges.get(at) {
        let why = player.stopped_by.unwrap_or("the session is over by now");
        player.played.rest = Some((exchange.line, why));
    }
    player.played
}

/// The protocol is that of then, because a session may be started with `--lmtp`. But who is told to speak LMTP by the
/// configuration cannot be started with SMTP.
fn protocol_of(transcript: &Transcript, config: &Config) -> Protocol {
    match (transcript.header.protocol, config.protocol) {
        (Protocol::Smtp, Protocol::Smtp) => Protocol::Smtp,
        (Protocol::Lmtp, _) | (_, Protocol::Lmtp) => Protocol::Lmtp,
    }
}

impl Difference {
    /// Whether somebody is let in who was not, or the other way round, or mail goes somewhere else: more than other words.
    pub(super) fn is_of_decision(&self) -> bool {
        let class = |told: &Told| told.replies.last().and_then(|reply| reply.bytes().next());
        !self.then.has_rules_of(&self.now) || class(&self.then) != class(&self.now)
    }
}

/// A session of today, with a peer of then.
struct Player<'c> {
    config: &'c Config,
    session: Session<'c>,
    policy: Policy<'c>,
    /// What was said and is not used yet.
    input: Vec<u8>,
    text: Vec<u8>,
    /// How the rules have come to their last decisions.
    why: Vec<String>,
    /// The last reply.
    reply: Option<Reply>,
    is_over: bool,
    /// Whether the text that follows would not have been sent.
    text_is_skipped: bool,
    /// The directive that decides now, if the reply does not show it.
    setting: Option<&'static str>,
    /// Why going on would be a guess, if it would.
    stopped_by: Option<&'static str>,
    accounts: &'c Accounts,
    played: Played,
}

impl Player<'_> {
    /// The peer has connected. What is said to it before it says anything is the greeting, and, where places were scarce,
    /// that it is not wanted.
    fn begin(&mut self, first: &Exchange<'_>, mut now: Told, protocol: Protocol, refusal: Option<Reply>) {
        let is_implicit = self.config.tls() == TlsUse::Implicit;
        // Where TLS comes first, the rules have decided before there is a greeting.
        let was_implicit = match &first.then {
            Then { rules, replies } if rules.is_empty() && replies.is_empty() => is_implicit,
            Then { replies, .. } => first.is_secured || replies.is_empty(),
        };
        if was_implicit != is_implicit {
            now.replies = vec![if is_implicit { TLS_FIRST } else { NO_TLS_FIRST }.to_owned()];
            self.setting = Some("tls");
            self.stop("TLS begins at another time");
            return self.note_difference(first, first, now);
        } else if is_implicit && !first.is_secured {
            // Nothing is known behind a handshake that failed.
            self.is_over = true;
        } else {
            now.add(&reply::greeting(&self.config.domain, protocol), false);
            if let Some(refusal) = refusal.filter(|_| first.then.replies.len() > now.replies.len()) {
                now.add(&refusal, false);
                self.is_over = true;
            }
            if is_implicit {
                self.secured();
            }
        }
        self.compare(first, first, now);
    }

    /// What the proxy said of its client would be taken for a command of its own.
    fn not_believe_proxy(&mut self, first: &Exchange<'_>) {
        let now = Told { replies: vec![NOT_A_PROXY.to_owned()], ..Told::default() };
        self.setting = Some("proxy_protocol");
        self.stop("this is the session of a proxy");
        self.compare(first, first, now);
    }

    fn line(&mut self, octets: &Octets, exchange: &Exchange<'_>) {
        self.text_is_skipped = false;
        let now = self.feed(octets, exchange);
        let (then_text, now_text) = (exchange.is_answered("354"), now.is_answered("354"));
        if exchange.begins_with(b"DATA") {
            self.text_is_skipped = then_text && !now_text;
            if now_text && !then_text {
                self.stop("there is no text to send");
            }
        }
        if exchange.is_secured && !self.session.is_secured() {
            self.stop("TLS does not begin");
        }
        // Of a line that may be a password it is not known what was wrong with it, but that it was the last one is.
        let is_unknown = octets.pieces().contains(&Piece::Secret);
        let is_last = self.is_over || exchange.extent == Extent::Closed;
        if !(is_unknown && !is_last && exchange.is_answered("5") && now.is_answered("5")) {
            self.compare(exchange, exchange, now);
        }
    }

    fn text(&mut self, octets: &Octets, exchange: &Exchange<'_>) {
        if self.text_is_skipped {
            return self.give_up_transaction();
        }
        let now = self.feed(octets, exchange);
        self.compare(exchange, exchange, now);
    }

    /// Whoever is not let send its text begins anew.
    fn give_up_transaction(&mut self) {
        if self.session.transaction().is_some() {
            self.input.extend_from_slice(b"RSET\r\n");
            let _ = self.receive();
        }
    }

    /// AUTH and all that belongs to it. What was said in it is not known, but how it ended.
    fn log_in(&mut self, octets: &Octets, exchange: &Exchange<'_>, last: &Exchange<'_>) {
        let mut now = self.feed(&without_response(octets), exchange);
        if now.is_answered("334") {
            match self.end_of(exchange, last) {
                LoginEnd::Known(outcome) => {
                    now = Told::default();
                    let step = self.session.conclude(outcome);
                    self.run(step, exchange, &mut now);
                }
                LoginEnd::NoResponse => self.stop("there is nothing to log in with"),
                LoginEnd::Cut => {
                    self.is_over = true;
                    return;
                }
            }
        }
        self.compare(exchange, last, now);
    }

    /// How an exchange ends now that began here then and ended with this last one.
    fn end_of(&mut self, exchange: &Exchange<'_>, last: &Exchange<'_>) -> LoginEnd {
        if let Some(user) = last.user {
            // Whether a password is right is not known, but whose it is.
            if self.accounts.has(user) != Some(false) {
                return LoginEnd::Known(Ok(user.to_owned()));
            }
            self.setting = Some(if self.config.auth_file.is_some() { "auth_file" } else { "auth_user" });
            return LoginEnd::Known(Err(reply::not_authenticated(false)));
        }
        let Some(then) = last.then.replies.last().filter(|_| !last.is_answered("334")) else { return LoginEnd::Cut };
        let is_then = |reply: &Reply| lines_of(reply, true).last().is_some_and(|line| line == then);
        match ends_of_exchange().into_iter().find(is_then) {
            Some(end) => LoginEnd::Known(Err(end)),
            // It was one refusal too many, whichever it was.
            None if last.line > exchange.line
                || is_then(&reply::over_limit(&self.config.limits.smtp_failcmds.refusal)) =>
            {
                LoginEnd::Known(Err(reply::not_a_response()))
            }
            None => LoginEnd::NoResponse,
        }
    }

    /// Has the session hear this; what comes of it now.
    fn feed(&mut self, octets: &Octets, exchange: &Exchange<'_>) -> Told {
        (self.reply, self.why, self.setting) = (None, Vec::new(), None);
        let mut now = Told::default();
        for piece in octets.pieces() {
            match piece {
                Piece::Shown(octets) => self.hear(octets, exchange, &mut now),
                Piece::Secret => self.hear(b"x", exchange, &mut now),
                Piece::LeftOut(octets) => {
                    let mut left = *octets;
                    while left > 0 && !self.is_over {
                        let length = usize::try_from(left).unwrap_or(usize::MAX).min(FILLER.len());
                        self.hear(&FILLER[..length], exchange, &mut now);
                        left -= length as u64;
                    }
                }
            }
        }
        self.decide_what_waits(exchange, &mut now);
        now
    }

    /// A line that may be the beginning of another protocol waits until there is more: what came was none.
    fn decide_what_waits(&mut self, exchange: &Exchange<'_>, now: &mut Told) {
        if self.input.ends_with(b"\n") && !self.is_over {
            self.input.push(b'x');
            let step = self.receive();
            self.input.pop();
            self.run(step, exchange, now);
        }
    }

    fn hear(&mut self, octets: &[u8], exchange: &Exchange<'_>, now: &mut Told) {
        if !self.is_over {
            self.input.extend_from_slice(octets);
            let step = self.receive();
            self.run(step, exchange, now);
        }
    }

    fn receive(&mut self) -> Step {
        self.text.clear();
        let Turn { used, step, .. } = self.session.receive(&self.input, &mut self.text);
        self.input.drain(..used);
        step
    }

    /// Executes one step after the other, until the session waits for more.
    fn run(&mut self, first: Step, exchange: &Exchange<'_>, now: &mut Told) {
        let mut step = first;
        let mut deliveries = exchange.deliveries.iter();
        loop {
            step = match step {
                Step::Wait => return,
                Step::Continue => self.receive(),
                Step::Reply(reply) => {
                    self.answer(reply, now);
                    self.receive()
                }
                Step::Ask(question) => {
                    let answer = self.ask(&question, exchange, now);
                    self.session.answer(answer)
                }
                Step::Deliver(Delivery { .. }) => {
                    // What was not delivered then would have been, as far as anybody knows.
                    let (outcome, id) = deliveries.next().cloned().unwrap_or((Ok(None), "..."));
                    self.session.delivered(outcome, id)
                }
                Step::StartTls(_) if exchange.is_answered(TLS_NOT_AVAILABLE) => self.session.not_secured(String::new()),
                Step::StartTls(ready) => {
                    self.answer(ready, now);
                    if !exchange.is_secured {
                        return self.stop("TLS begins");
                    }
                    return self.secured();
                }
                Step::Authenticated(user, _, reply) => {
                    self.session.authenticated(&user);
                    self.policy.authenticated(&user);
                    Step::Reply(reply)
                }
                Step::Close(reply) => {
                    self.answer(reply, now);
                    self.is_over = true;
                    return;
                }
            };
        }
    }

    fn answer(&mut self, reply: Reply, now: &mut Told) {
        now.add(&reply, self.session.is_extended());
        self.reply = Some(reply);
    }

    /// What the rules of today say; if they say what those of then said, others refuse as they did then.
    fn ask(&mut self, question: &Question, exchange: &Exchange<'_>, now: &mut Told) -> Answer {
        let answer = self.policy.rules_answer(question);
        let findings = self.policy.take_trace();
        let ruled = Ruled::of_answer(question, &answer, &findings, &self.config.rules);
        let then = &exchange.then.rules;
        // Of several destinations those matter that are new.
        let new = ruled.iter().filter(|ruled| !then.iter().any(|then| then.agrees_with(ruled)));
        let lines: Vec<&str> = new.filter_map(|ruled| ruled.by.as_deref()).collect();
        let is_new = |finding: &&Finding<'_>| {
            let line = finding.line.filter(|_| finding.verdict == Verdict::Matches).map(|line| line.to_string());
            line.is_some_and(|line| lines.contains(&&*line))
        };
        let before = self.why.len();
        self.why.extend(findings.iter().filter(is_new).map(ToString::to_string));
        if self.why.len() == before {
            self.why.extend(deciding(&findings).map(ToString::to_string));
        }
        let is_as_then = then.len() == ruled.len() && are_among(then.iter().copied(), &ruled);
        now.rules.extend(ruled);
        match exchange.asked {
            Some(refusal) if is_as_then => Answer::No(refusal.clone()),
            _ => answer,
        }
    }

    fn secured(&mut self) {
        self.session.secured();
        self.policy.secured();
    }

    /// What follows in the transcript would not have been said.
    fn stop(&mut self, why: &'static str) {
        self.is_over = true;
        self.stopped_by.get_or_insert(why);
    }

    /// Holds what is said now against what was said then, in this exchange or the one in which it ended.
    fn compare(&mut self, exchange: &Exchange<'_>, last: &Exchange<'_>, now: Told) {
        if !now.agrees_with(&last.then, last.extent) {
            self.note_difference(exchange, last, now);
        }
    }

    fn note_difference(&mut self, exchange: &Exchange<'_>, last: &Exchange<'_>, now: Told) {
        let (why, reply, setting) = (std::mem::take(&mut self.why), self.reply.take(), self.setting.take());
        let (line, said, then) = (exchange.line, exchange.said.shown(), last.then.told());
        self.played.differences.push(Difference { line, said, then, now, why, reply, setting });
    }
}

/// AUTH without the response that came with it: the exchange is concluded without one.
fn without_response(octets: &Octets) -> Octets {
    match octets.pieces() {
        [Piece::Shown(shown), Piece::Secret, Piece::Shown(end)]
            if shown.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count() == 2
                && end.trim_ascii().is_empty() =>
        {
            Octets::shown(shown.trim_ascii_end()).and(end)
        }
        _ => octets.clone(),
    }
}

/// How an exchange of AUTH ends now.
enum LoginEnd {
    /// With this user, or refused.
    Known(Result<String, Reply>),
    /// There was none then.
    NoResponse,
    /// The transcript or the session breaks off.
    Cut,
}

/// The refusals that end an exchange.
fn ends_of_exchange() -> [Reply; 6] {
    [
        reply::not_authenticated(false),
        reply::not_authenticated(true),
        reply::cannot_authenticate(String::new()),
        reply::AUTHENTICATION_CANCELLED,
        reply::not_a_response(),
        reply::RESPONSE_TOO_LONG,
    ]
}

/// What stands for octets that are left out.
static FILLER: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// The code of what is no fault of the peer at STARTTLS (RFC 3207).
const TLS_NOT_AVAILABLE: &str = "454";

/// What there is in the place of a greeting.
const TLS_FIRST: &str = "(TLS has to begin before the greeting)";
const NO_TLS_FIRST: &str = "(the greeting, without TLS)";
const NOT_A_PROXY: &str = "(no `proxy_protocol from` line names the proxy that said who this is)";
