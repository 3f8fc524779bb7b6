//! The session's part of STARTTLS (RFC 3207). The server does the handshake.
//!
//! Nothing that was said before TLS counts under it, and where TLS is required only few commands can be said before it.

use super::{Refused, Session, State, about, reply_or_close};
use crate::smtp::command::Command;
use crate::smtp::line::LineReader;
use crate::smtp::reply::{self, Reply};
use crate::smtp::{Heard, Step, TlsStatus};

impl Session<'_> {
    /// The handshake that [`Step::StartTls`] asked for is done. What was said before it is forgotten (RFC 3207, 4.2),
    /// except that a peer is refused, and how much of its limits it has used up.
    pub fn secured(&mut self) {
        self.tls = TlsStatus::On;
        self.authentication.secured();
        self.lines = LineReader::default();
        self.refused = Refused::Nothing;
        self.expects_secret = false;
        if !matches!(self.state, State::Refused(_)) {
            self.state = State::Start;
        }
    }

    /// Answers STARTTLS if TLS cannot begin, because of this fault of ours. What was said before still counts.
    pub fn not_secured(&mut self, cause: String) -> Step {
        if self.tls == TlsStatus::Required {
            self.tls = TlsStatus::Unavailable;
        }
        reply_or_close(reply::tls_not_available(cause))
    }

    /// Whether the connection is under TLS.
    pub fn is_secured(&self) -> bool {
        self.tls == TlsStatus::On
    }

    pub(super) fn offers_tls(&self) -> bool {
        match self.tls {
            TlsStatus::Offered | TlsStatus::Required | TlsStatus::Unavailable => true,
            TlsStatus::Off | TlsStatus::On => false,
        }
    }

    pub(super) fn start_tls(&mut self, heard: Heard<'_>) -> Step {
        match self.tls {
            TlsStatus::Off => self.unknown(about(reply::UNKNOWN_COMMAND, heard)),
            TlsStatus::On => self.fail(reply::TLS_IS_ON),
            TlsStatus::Offered | TlsStatus::Required | TlsStatus::Unavailable => Step::StartTls(reply::READY_FOR_TLS),
        }
    }

    /// Whether TLS is required, has not begun, and this command may not come before it (RFC 3207, section 4).
    pub(super) fn has_to_wait_for_tls(&self, command: &Command<'_>) -> bool {
        let comes_before = match command {
            Command::Ehlo(_)
            | Command::Lhlo(_)
            | Command::OtherHello
            | Command::Noop
            | Command::StartTls
            | Command::Quit
            | Command::NotImplemented
            | Command::Unknown => true,
            // Where there is no authentication, AUTH is an unknown command.
            Command::Auth(_) => self.authentication.is_off(),
            _ => false,
        };
        !comes_before && matches!(self.tls, TlsStatus::Required | TlsStatus::Unavailable)
    }

    /// Refuses a command that has to wait for TLS.
    pub(super) fn tls_first(&mut self, command: &Command<'_>) -> Step {
        // A pipelining peer has sent RCPT, DATA and BDAT before it could know that MAIL is refused.
        let is_echo = self.refused == Refused::Mail && !matches!(command, Command::Mail(..));
        if matches!(command, Command::Data | Command::Bdat(_, true)) {
            self.refused = Refused::Nothing;
        }
        // A peer that cannot begin TLS because of our fault is told to come again.
        let reply = match self.tls {
            TlsStatus::Unavailable => reply::tls_not_available("STARTTLS was answered so before"),
            _ => Reply { is_echo, ..reply::TLS_REQUIRED },
        };
        match command {
            Command::Bdat(octets, _) => {
                let behind = std::mem::take(&mut self.state);
                self.refuse_chunk(behind, *octets, reply)
            }
            _ if reply.is_our_fault => reply_or_close(reply),
            _ => self.fail(reply),
        }
    }
}
