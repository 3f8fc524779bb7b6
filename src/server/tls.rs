//! TLS begins: when the peer asks for it (STARTTLS, RFC 3207), or before anything is said (`tls implicit`, RFC 8314).
//!
//! What was said in the clear counts for nothing then, to session, policy and log alike.

use std::time::Instant;

use super::{End, LAST_WORDS, Server};
use crate::log::Event;
use crate::net::conn::Input;
use crate::net::tls::Acceptor;
use crate::policy::Policy;
use crate::smtp::Step;
use crate::smtp::reply::{self, Reply};
use crate::smtp::session::Session;
use crate::transcript::Entry;

impl Server<'_> {
    /// Does the handshake, then sends the greeting (RFC 8314, 3.3).
    pub(super) fn greet_under_tls(&mut self, session: &mut Session<'_>, policy: &mut Policy<'_>) -> Result<(), End> {
        let acceptor = self.opened.keys.acceptor().map_err(|error| {
            self.log.event(&Event::NoKey(&error));
            End::NoKey
        })?;
        // What came behind the header of a proxy is the beginning of the handshake.
        self.secure(acceptor, session, policy)?;
        self.send(&reply::greeting(&self.config.domain, self.config.protocol), false);
        Ok(())
    }

    /// Tells the peer to begin the handshake, and does it; or returns the session's answer if there is no usable key.
    pub(super) fn start_tls(
        &mut self,
        ready: &Reply,
        session: &mut Session<'_>,
        policy: &mut Policy<'_>,
    ) -> Result<Step, End> {
        let acceptor = match self.opened.keys.acceptor() {
            Ok(acceptor) => acceptor,
            Err(error) => return Ok(session.not_secured(format!("{error:#}"))),
        };
        // What came behind STARTTLS in the clear may be from somebody in between (RFC 3207, section 6).
        let thrown_away = self.connection.buffered().len();
        if thrown_away > 0 {
            self.connection.consume(thrown_away);
            self.log.event(&Event::PlaintextThrownAway(thrown_away));
        }
        self.send(ready, session.is_extended());
        self.secure(acceptor, session, policy)?;
        Ok(Step::Wait)
    }

    /// Does the handshake: session and policy begin anew.
    fn secure(&mut self, acceptor: Acceptor, session: &mut Session<'_>, policy: &mut Policy<'_>) -> Result<(), End> {
        self.opened.keys.begin();
        if let Err(input) = self.connection.start_tls(acceptor, self.deadlines.idle()) {
            // An alert that tells the peer may still have to leave.
            let _ = self.connection.hang_up(Instant::now() + LAST_WORDS);
            return Err(match input {
                Input::Gone(error) => End::NotSecured(error.to_string()),
                Input::TimedOut => End::NotSecured("the handshake takes too long".to_owned()),
                Input::End | Input::More => {
                    End::NotSecured("the peer closed the connection in the handshake".to_owned())
                }
                Input::Stop => {
                    self.log.event(&Event::NotSecured(&"we were asked to stop"));
                    End::Stopped
                }
            });
        }
        self.tls = self.connection.tls_parameters();
        if let Some(parameters) = &self.tls {
            self.log.event(&Event::Secured(parameters));
            self.recording.with(|recorder| recorder.note(&Entry::Secured(parameters.to_string())));
        }
        self.deadlines.not_idle();
        self.confirmation.secured();
        self.give_up_text();
        self.log.secured();
        session.secured();
        policy.secured();
        Ok(())
    }
}
