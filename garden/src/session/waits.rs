//! How long a reply is waited for.

use std::time::Duration;

use crate::case::{Case, Unit};
use crate::compare::text::sent_in;

/// How long to wait for replies.
#[derive(Clone, Debug)]
pub struct Waits {
    /// For a reply that is due.
    pub(super) patience: Duration,
    /// The units in which no reply is due according to the standard, because what was sent until then ends no line or
    /// text.
    pub(super) not_due: Vec<usize>,
}

/// How long to wait for a reply that only a server gives which sees an end where there is none.
const NOT_DUE: Duration = Duration::from_secs(2);

impl Waits {
    /// The waits in this case, if a reply that is due may take this long.
    pub fn of(case: &Case, patience: Duration) -> Self {
        let mut octets = Vec::new();
        let mut not_due = Vec::new();
        for (index, unit) in case.units.iter().enumerate() {
            match unit {
                Unit::Send { octets: piece, .. } => octets.extend_from_slice(piece),
                Unit::Expect { .. } if !octets.ends_with(b"\r\n") || is_within_a_text(&octets) => not_due.push(index),
                Unit::Expect { .. } | Unit::Pause(_) | Unit::StartTls => {}
            }
        }
        Self { patience, not_due }
    }

    /// For this unit.
    pub(super) fn at(&self, unit: usize) -> Duration {
        if self.not_due.contains(&unit) { self.patience.min(NOT_DUE) } else { self.patience }
    }
}

fn is_within_a_text(octets: &[u8]) -> bool {
    let is_command = octets.len() >= 6 && octets[octets.len() - 6..].eq_ignore_ascii_case(b"DATA\r\n");
    !is_command && sent_in(octets).last().is_some_and(|message| !message.is_ended)
}
