//! Replies, of which those that put the peer off again and again make few lines.
//!
//! A refusal for good has a line of its own each time, because fail2ban counts those. A peer that names thousands of
//! recipients too many is put off (4xx) thousands of times for one reason. The first times make a line each; then one at
//! every power of ten says how often it was, and so does one at the end. Each says what the reason is.

use super::{Event, Log};
use crate::config::Flags;
use crate::smtp::reply::Reply;

/// The replies of one session.
#[derive(Default)]
pub struct Refusals {
    kinds: Vec<Kind>,
}

/// Replies that say the same.
struct Kind {
    /// One of them.
    reply: Reply,
    count: u64,
    /// How many of them the log knows of.
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

    /// Says at the end of the session how often it was in all.
    pub fn finish(&mut self, log: &Log) {
        for Kind { reply, count, told } in self.kinds.drain(..) {
            if told < count {
                log.event(&Event::RefusedAgain { reply: &Reply { subject: None, ..reply }, count });
            }
        }
    }

    /// The kind of a reply that is counted: the peer is told to come again, and for the reason that the reply gives, not for
    /// something that has happened here.
    fn kind(&mut self, reply: &Reply) -> Option<&mut Kind> {
        if reply.code / 100 != 4 || reply.cause.is_some() {
            return None;
        }
        let known = self.kinds.iter().position(|kind| kind.reply.code == reply.code && kind.reply.text == reply.text);
        let place = known.or_else(|| {
            // There are a few limits, and few texts of an administrator's.
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

/// How many refusals of a kind make a line each.
const FIRST: u64 = 10;

/// How many kinds are counted; what is beyond makes a line each time.
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
