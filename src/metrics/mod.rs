//! The metrics, for Prometheus and similar programs: all of them in one table.
//!
//! Adding a metric takes one row here and its use. The rows determine where its numbers are in a [`record`], what is
//! told to those who ask ([`text`]), and what a test expects in the manual page. Label values are a closed set: no text
//! from a peer becomes one, so no peer can increase the number of metrics.

mod record;
mod tally;
mod text;

use std::time::Duration;

pub(crate) use record::{INHERITED, NoCounts, Record};
pub use tally::Tally;
pub(crate) use text::{CONTENT_TYPE, exposition};

/// Turns each row into a variant of [`Family`] and an entry of [`FAMILIES`]. A row is: its name here, who counts it,
/// its public name with the unit, its form, and a description for people.
macro_rules! families {
    ($($family:ident $counter:ident $name:literal $form:expr, $help:literal;)+) => {
        /// A metric, or several that differ by a label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(dead_code, reason = "nobody counts versions")]
        pub(crate) enum Family {
            $(#[doc = $help] $family),+
        }

        const FAMILIES: &[Facts] =
            &[$(Facts { name: $name, help: $help, form: $form, counted_by: CountedBy::$counter }),+];
    };
}

families! {
    Version Both "mailrecv_build_info" Form::Version, "The version that says this; always 1.";
    StartTime Listen "process_start_time_seconds" Form::Gauge, "When `mailrecv listen` was started, since 1970.";
    SessionsOpen Listen "mailrecv_sessions_open" Form::Gauge, "Sessions now.";
    Connections Listen "mailrecv_connections_total" Form::By("family", &["ipv4", "ipv6", "unix"]),
        "Connections for which a session was started, by the peer's address.";
    ConnectionsRefused Listen "mailrecv_connections_refused_total"
        Form::By("reason", &["all_places", "address", "network", "not_started"]),
        "Connections that were told to come again later, by what was full, or because no session could be started.";
    SessionsKilled Listen "mailrecv_sessions_killed_total" Form::Counter, "Sessions that were ended by a signal.";
    SessionsUncounted Listen "mailrecv_sessions_uncounted_total" Form::Counter,
        "Sessions that ended without a count: there was no room for one, or their version counts otherwise.";
    Sessions Session "mailrecv_sessions_total"
        Form::By("end", &["closed", "gone", "timed_out", "stopped", "no_tls", "not_served", "fault"]),
        "Sessions that have ended, by how.";
    SessionTime Session "mailrecv_session_duration_seconds"
        Form::Histogram(&[50_000, 250_000, 1_000_000, 5_000_000, 30_000_000, 120_000_000, 600_000_000]),
        "How long sessions took.";
    Messages Session "mailrecv_messages_total" Form::By("outcome", &["accepted", "deferred", "refused"]),
        "Messages that came, whole or up to a chunk that was refused, by whether they were answered 2xx, 4xx or 5xx.";
    MessagesRepeated Session "mailrecv_messages_repeated_total" Form::Counter,
        "Accepted messages that all of their recipients had already (exactly_once).";
    AcceptedOctets Session "mailrecv_accepted_bytes_total" Form::Counter, "Size of the accepted messages.";
    Deliveries Session "mailrecv_deliveries_total" ACTIONS,
        "Deliveries, one for each recipient and destination of an accepted message that had not been delivered there.";
    DeliveriesRepeated Session "mailrecv_deliveries_repeated_total" ACTIONS,
        "Deliveries of an accepted message that had been done before and were not done again (exactly_once).";
    NotExactlyOnce Session "mailrecv_exactly_once_failures_total" Form::Counter,
        "Sessions in which exactly_once could not be used, or not for every message.";
    DeliveryFailures Session "mailrecv_delivery_failures_total" ACTIONS,
        "Destinations that kept a message from being accepted.";
    DeliveryTime Session "mailrecv_delivery_duration_seconds"
        Form::Histogram(&[1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000, 60_000_000]),
        "How long it took to deliver a message to all of its destinations, or to fail.";
    Authentications Session "mailrecv_authentications_total"
        Form::By("mechanism", &["SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        "Peers that have shown who they are, by how; who has not is among the refusals, with code 535.";
    Refusals Session "mailrecv_refusals_total"
        Form::By("code", &["421", "450", "451", "452", "454", "500", "501", "502", "503", "504", "530", "535", "538", "550", "551", "552", "553", "554",
            "555", "other"]),
        "Replies that said no, by reply code.";
    EnhancedRefusals Session "mailrecv_refusals_enhanced_total"
        Form::By("status", &["4.2.0", "4.3.0", "4.3.1", "4.3.2", "4.3.5", "4.4.2", "4.5.3", "4.7.0", "4.7.1", "4.7.25",
            "5.1.1", "5.1.3", "5.1.7", "5.3.4", "5.4.6", "5.5.1", "5.5.2", "5.5.4", "5.5.6", "5.6.11", "5.7.0", "5.7.1", "5.7.8", "5.7.11",
            "other"]),
        "The same replies, by enhanced code.";
}

/// The destinations of mail (mailrecv.conf(5), ACTIONS); a test compares these with the actions in the configuration.
const ACTIONS: Form = Form::By(
    "action",
    &["append", "maildir", "eml", "pipe", "pipe_raw", "hpfeeds", "amqp", "relay", "print", "discard"],
);

/// What a row says about a family.
struct Facts {
    name: &'static str,
    help: &'static str,
    form: Form,
    counted_by: CountedBy,
}

/// Who counts a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountedBy {
    /// Each session.
    Session,
    /// `listen`.
    Listen,
    /// Nobody, because it is not a count.
    Both,
}

/// Which numbers a family consists of.
enum Form {
    /// A number that only grows.
    Counter,
    /// A number that can grow and shrink.
    Gauge,
    /// A counter for each value of a label. Values not in the list count as the last one.
    By(&'static str, &'static [&'static str]),
    /// How many observations took up to so many microseconds each, and their sum.
    Histogram(&'static [u64]),
    /// No number: the version of this program.
    Version,
}

impl Form {
    /// How many numbers that is.
    const fn numbers(&self) -> usize {
        match self {
            Form::Counter | Form::Gauge => 1,
            Form::By(_, values) => values.len(),
            // Plus those that took longer than the last bound, and the sum.
            Form::Histogram(bounds) => bounds.len() + 2,
            Form::Version => 0,
        }
    }
}

impl Family {
    const fn facts(self) -> &'static Facts {
        &FAMILIES[self as usize]
    }

    /// The index of its first number.
    const fn first(self) -> usize {
        numbers_before(self as usize)
    }

    /// The only counter, or gauge, of this family.
    pub(crate) const fn counter(self) -> Counter {
        match self.facts().form {
            Form::Counter | Form::Gauge => Counter(self.first()),
            _ => panic!("this family has several counters"),
        }
    }

    /// The counter for this value of the label. Used in a `const` block, so that an unknown value does not compile.
    pub(crate) const fn with(self, value: &str) -> Counter {
        match place_of(value, self.values()) {
            Some(place) => Counter(self.first() + place),
            None => panic!("the label has no such value"),
        }
    }

    /// The same for a value that is known at run time only; unknown values count as the last one.
    pub(crate) fn with_any(self, value: &str) -> Counter {
        let values = self.values();
        Counter(self.first() + place_of(value, values).unwrap_or(values.len().saturating_sub(1)))
    }

    /// All values of its label.
    pub(crate) const fn values(self) -> &'static [&'static str] {
        match self.facts().form {
            Form::By(_, values) => values,
            _ => &[],
        }
    }
}

/// The index of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter(usize);

/// All numbers of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts([u64; NUMBERS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; NUMBERS])
    }
}

impl Counts {
    pub(crate) fn add(&mut self, counter: Counter, number: u64) {
        // At its end a counter starts again from 0, which Prometheus expects.
        self.0[counter.0] = self.0[counter.0].wrapping_add(number);
    }

    pub(crate) fn set(&mut self, gauge: Counter, number: u64) {
        self.0[gauge.0] = number;
    }

    /// Adds an observation that took so long.
    pub(crate) fn observe(&mut self, family: Family, time: Duration) {
        let Form::Histogram(bounds) = family.facts().form else { return };
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = bounds.iter().position(|bound| micros <= *bound).unwrap_or(bounds.len());
        self.add(Counter(family.first() + bucket), 1);
        self.add(Counter(family.first() + bounds.len() + 1), micros);
    }

    /// Counts a negative reply.
    pub(crate) fn refusal(&mut self, code: u16, status: Option<impl std::fmt::Display>) {
        self.add(Family::Refusals.with_any(&code.to_string()), 1);
        let status = status.map_or_else(String::new, |status| status.to_string());
        self.add(Family::EnhancedRefusals.with_any(&status), 1);
    }

    /// Adds the counts of sessions, but only of families that sessions count.
    pub(crate) fn take_in(&mut self, of_sessions: &Self) {
        let mut first = 0;
        for facts in FAMILIES {
            let numbers = first..first + facts.form.numbers();
            first = numbers.end;
            if facts.counted_by == CountedBy::Session {
                numbers.for_each(|number| self.add(Counter(number), of_sessions.0[number]));
            }
        }
    }

    /// The difference to earlier counts.
    fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|number| self.0[number].wrapping_sub(earlier.0[number])))
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter.0]
    }

    /// The sum over all numbers of a family.
    pub(crate) fn sum(&self, family: Family) -> u64 {
        self.of(family).iter().fold(0, |sum, number| sum.wrapping_add(*number))
    }

    fn of(&self, family: Family) -> &[u64] {
        &self.0[family.first()..][..family.facts().form.numbers()]
    }
}

/// The name of every metric with the values of its label, for the test of the manual page.
pub fn described() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    FAMILIES.iter().map(|facts| match facts.form {
        Form::By(_, values) => (facts.name, values),
        _ => (facts.name, &[][..]),
    })
}

/// How many numbers the table has.
const NUMBERS: usize = numbers_before(FAMILIES.len());

const fn numbers_before(family: usize) -> usize {
    let (mut numbers, mut number) = (0, 0);
    while number < family {
        numbers += FAMILIES[number].form.numbers();
        number += 1;
    }
    numbers
}

const fn place_of(value: &str, values: &[&str]) -> Option<usize> {
    let mut place = 0;
    while place < values.len() {
        if is_same(value.as_bytes(), values[place].as_bytes()) {
            return Some(place);
        }
        place += 1;
    }
    None
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_those_of_prometheus() {
        let names: BTreeSet<&str> = FAMILIES.iter().map(|facts| facts.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for Facts { name, form, .. } in FAMILIES {
            let grows = matches!(form, Form::Counter | Form::By(..));
            assert_eq!(name.ends_with("_total"), grows, "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            if let Form::Histogram(bounds) = form {
                assert!(bounds.is_sorted() && name.ends_with("_seconds"), "{name}");
            }
            if let Form::By(_, values) = form {
                assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len(), "{name}");
            }
        }
    }

    #[test]
    fn every_number_has_a_place_of_its_own() {
        assert_eq!(Family::Version.first(), 0);
        assert_eq!(Family::SessionTime.first(), Family::Sessions.with("fault").0 + 1);
        let mut counts = Counts::default();
        counts.add(const { Family::Messages.with("refused") }, 2);
        counts.refusal(550, Some("5.1.1"));
        counts.refusal(559, Some("5.999.1"));
        counts.refusal(550, None::<&str>);
        assert_eq!(counts.of(Family::Messages), [0, 0, 2]);
        assert_eq!(counts.0[Family::Refusals.with("550").0], 2);
        assert_eq!(counts.0[Family::Refusals.with("other").0], 1);
        assert_eq!(counts.0[Family::EnhancedRefusals.with("other").0], 2);
        assert_eq!(counts.sum(Family::EnhancedRefusals), 3);
    }

    #[test]
    fn a_time_is_in_one_bucket_and_in_the_sum() {
        let mut counts = Counts::default();
        for micros in [0, 1_000, 1_001, 60_000_000, 60_000_001] {
            counts.observe(Family::DeliveryTime, Duration::from_micros(micros));
        }
        assert_eq!(counts.of(Family::DeliveryTime), [2, 1, 0, 0, 0, 0, 0, 1, 1, 120_002_002]);
    }

    #[test]
    fn what_is_not_the_sessions_to_count_is_not_taken_from_them() {
        let (mut ours, theirs) = (Counts::default(), Counts([3; NUMBERS]));
        ours.take_in(&theirs);
        for family in [Family::StartTime, Family::SessionsOpen, Family::Connections, Family::SessionsKilled] {
            assert_eq!(ours.sum(family), 0, "{family:?}");
        }
        assert_eq!(ours.sum(Family::Messages), 9);
    }
}
