//! Keeps replies that put a peer off again and again from filling the log.
//!
//! Each permanent refusal has a line, because fail2ban counts them. But a peer that names thousands of recipients too
//! many is put off (4xx) thousands of times for one reason. The first few of these make a line each; after that there
//! is one line at every power of ten, and one at the end, which say the reason and how many there were.

use super::{Event, Log};
use crate::config::Flags;
use crate::smtp::reply::Reply;

/// The replies of one session.
#[derive(Default)]
pub struct Refusals {
    kinds: Vec<Kind>,
}

/// Replies with the same code and text.
struct Kind {
    /// One of them.
    reply: Reply,
    count: u64,
    /// How many of them the last line has told the log.
    told: u64,
}

impl Refusals {
    /// Logs a reply.
    pub fn log(&mut self, log: &Log, reply: &Reply) {
        let Some(kind) = self.kind(reply) else { return log.event(&Event::Reply(reply)) };
        kind.count += 1;
        let count = kind.count;
        if count > FIRST && is_power_of_ten(count) {
            log.event(&Event::RefusedAgain { reply, count });
        } else if count <= FIRST || log.wants(Flags::DIALOGUE) {
            log.event(&Event::Reply(reply));
        } else {
            return;
        }
        kind.told = count;
    }

    /// Logs the final numbers at the end of the session.
    pub fn finish(&mut self, log: &Log) {
        for Kind { reply, count, told } in self.kinds.drain(..) {
            if told < count {
                log.event(&Event::RefusedAgain { reply: &Reply { subject: None, ..reply }, count });
            }
        }
    }

    /// The kind of a reply that is counted. These are 4xx replies that are explained by their text; a cause on our side
    /// is logged each time.
    fn kind(&mut self, reply: &Reply) -> Option<&mut Kind> {
        if reply.code / 100 != 4 || reply.cause.is_some() {
            return None;
        }
        let known = self.kinds.iter().position(|kind| kind.reply.code == reply.code && kind.reply.text == reply.text);
        let place = known.or_else(|| {
            // There are few limits, so few different texts.
            (self.kinds.len() < MAX_KINDS).then(|| {
                self.kinds.push(Kind { reply: reply.clone(), count: 0, told: 0 });
                self.kinds.len() - 1
            })
        })?;
        self.kinds.get_mut(place)
    }
}

fn is_power_of_ten(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|exponent| count == 10_u64.pow(exponent))
}

/// How many refusals of a kind have a line of their own.
const FIRST: u64 = 10;

/// How many kinds are counted; further ones have a line each time.
const MAX_KINDS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten() {
        let powers: Vec<u64> = (0..=10_000).filter(|count| is_power_of_ten(*count)).collect();
        assert_eq!(powers, [1, 10, 100, 1000, 10_000]);
    }
}
