//! A session in memory: what src/server.rs does with the steps, without descriptors, clock and disk.

use std::io::Write;

use mailrecv::accounts::Accounts;
use mailrecv::config::{Config, Finding, Trace};
use mailrecv::peer::Peer;
use mailrecv::policy::Policy;
use mailrecv::smtp::auth::MAX_RESPONSE_LINE;
use mailrecv::smtp::reply::Reply;
use mailrecv::smtp::session::Session;
use mailrecv::smtp::{Delivery, Heard, Outcome, Step, Turn};

/// What the session is in touch with.
pub trait World {
    /// It has used so much of its input, as that.
    fn heard(&mut self, used: usize, heard: Heard<'_>);
    /// It asked for a decision, which came about like this.
    fn decided(&mut self, trace: Vec<Finding<'_>>);
    /// A message is complete. Returns what becomes of it for these of its recipients, and its name.
    fn deliver(&mut self, delivery: &Delivery, text: &[u8]) -> (Outcome, String);
    /// It answers.
    fn reply(&mut self, reply: &Reply, extended: bool);
}

/// Our side of a session, with what has come and is not used yet.
pub struct Driver<'c> {
    session: Session<'c>,
    policy: Policy<'c>,
    input: Vec<u8>,
    /// The text of the message that is coming in.
    text: Vec<u8>,
    closed: bool,
}

impl<'c> Driver<'c> {
    pub fn new(config: &'c Config, peer: &'c Peer, trace: Trace, world: &mut impl World) -> Self {
        let mut policy = Policy::new(config, peer, trace).with_accounts(ACCOUNTS.with(|accounts| *accounts));
        let refusal = policy.refusal();
        world.decided(policy.take_trace());
        let session =
            Session::new(config.protocol, &config.domain, &config.limits, peer, refusal).with_tls(config.tls().into());
        let session = session.with_auth(config.auth(), config.auth_plaintext);
        Self { session, policy, input: Vec::new(), text: Vec::new(), closed: false }
    }

    /// Whether we closed the connection.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Gives the session more input, until it has no more use for it.
    pub fn feed(&mut self, piece: &[u8], world: &mut impl World) {
        self.input.extend_from_slice(piece);
        let mut step = self.receive(world);
        while !self.closed {
            step = match step {
                Step::Wait => {
                    let waiting = self.input.len();
                    assert!(waiting <= LONGEST_REST, "{waiting} bytes wait for the end of a line");
                    return;
                }
                Step::Continue => self.receive(world),
                Step::Reply(reply) => {
                    world.reply(&reply, self.session.is_extended());
                    if !self.session.is_answering() && !self.session.has_text() {
                        self.text.clear();
                    }
                    self.receive(world)
                }
                Step::Ask(question) => {
                    let answer = self.policy.answer(&question);
                    world.decided(self.policy.take_trace());
                    self.session.answer(answer)
                }
                Step::Deliver(delivery) => {
                    let (outcome, id) = world.deliver(&delivery, &self.text);
                    self.session.delivered(outcome, &id)
                }
                Step::StartTls(reply) => {
                    world.reply(&reply, self.session.is_extended());
                    // What follows stands for what the peer sends when it has waited for that, under TLS.
                    self.session.secured();
                    self.policy.secured();
                    self.receive(world)
                }
                Step::Authenticated(user, _, reply) => {
                    self.session.authenticated(&user);
                    self.policy.authenticated(&user);
                    Step::Reply(reply)
                }
                Step::Close(reply) => {
                    world.reply(&reply, self.session.is_extended());
                    self.closed = true;
                    Step::Wait
                }
            };
        }
    }

    fn receive(&mut self, world: &mut impl World) -> Step {
        let Turn { used, heard, step } = self.session.receive(&self.input, &mut self.text);
        world.heard(used, heard);
        self.input.drain(..used);
        step
    }
}

thread_local! {
    /// Whoever may log in, whatever file a configuration names: each thread reads it for itself.
    static ACCOUNTS: &'static Accounts = {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(ACCOUNT.as_bytes()).expect("writing a temporary file");
        Box::leak(Box::new(Accounts::open(Some(file.path()))))
    };
}

/// Of the password `x`, at the least cost.
pub const ACCOUNT: &str = "tim:SCRAM-SHA-256$1:c2FsdA==$LzZnpJx9nyllHcButE6xdMfvR0D6Q/nY1+IfZB/t0N0=:DHjdQWhf2UfGb66KdZjVrwxEI6+FrasCnM9Yoswga4o=\n";

/// How much may wait for the end of a line: the longest response of AUTH, and a CR.
const LONGEST_REST: usize = MAX_RESPONSE_LINE - 1;
