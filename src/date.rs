//! Dates in the formats of mail and logs.

use std::fmt;
use std::time::SystemTime;

use time::{OffsetDateTime, UtcOffset};

/// `Sat Nov 21 01:32:50 2026`: asctime(3), in the log and in the `From ` line of an mbox.
pub(crate) struct Asctime(OffsetDateTime);

/// `Sat, 21 Nov 2026 01:32:50 +0000`: RFC 5322, 3.3, in headers.
pub(crate) struct HeaderDate(OffsetDateTime);

impl Asctime {
    /// The current local time, or UTC if the local time zone is unknown.
    pub(crate) fn now_local() -> Self {
        Self(now_local())
    }

    /// This time in UTC.
    pub(crate) fn in_utc(time: SystemTime) -> Self {
        Self(OffsetDateTime::from(time))
    }
}

impl HeaderDate {
    /// This time in the local time zone.
    pub(crate) fn of(time: SystemTime) -> Self {
        Self(in_local_time(OffsetDateTime::from(time)))
    }
}

impl fmt::Display for Asctime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        let (weekday, month) = names(t);
        write!(f, "{weekday} {month} {:2} {:02}:{:02}:{:02} {}", t.day(), t.hour(), t.minute(), t.second(), t.year())
    }
}

impl fmt::Display for HeaderDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        let (weekday, month) = names(t);
        let (hours, minutes, _) = t.offset().as_hms();
        let sign = if t.offset().is_negative() { '-' } else { '+' };
        write!(f, "{weekday}, {} {month} {} {:02}:{:02}:{:02} ", t.day(), t.year(), t.hour(), t.minute(), t.second())?;
        write!(f, "{sign}{:02}{:02}", hours.unsigned_abs(), minutes.unsigned_abs())
    }
}

/// A moment in UTC, to the microsecond: `2026-11-21T01:32:50.000000Z` (RFC 3339).
pub(crate) struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The current time.
    pub(crate) fn now() -> Self {
        Self(OffsetDateTime::now_utc())
    }

    /// The time in a form for file names: `20261121T013250.000000Z`.
    pub(crate) fn for_names(&self) -> String {
        self.to_string().replace(['-', ':'], "")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        write!(f, "{:04}-{:02}-{:02}T", t.year(), u8::from(t.month()), t.day())?;
        write!(f, "{:02}:{:02}:{:02}.{:06}Z", t.hour(), t.minute(), t.second(), t.microsecond())
    }
}

/// Reads the file with the local time zone, before the sandbox makes that impossible.
pub(crate) fn learn_time_zone() {
    now_local();
}

fn now_local() -> OffsetDateTime {
    in_local_time(OffsetDateTime::now_utc())
}

fn in_local_time(time: OffsetDateTime) -> OffsetDateTime {
    time.to_offset(UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC))
}

/// The abbreviated English names of day and month.
fn names(t: OffsetDateTime) -> (&'static str, &'static str) {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let day = usize::from(t.weekday().number_days_from_monday());
    let month = usize::from(u8::from(t.month()) - 1);
    (DAYS[day], MONTHS[month])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let t = OffsetDateTime::from_unix_timestamp(1_793_928_770).unwrap();
        assert_eq!(Asctime(t).to_string(), "Fri Nov  6 01:32:50 2026");
        assert_eq!(Timestamp(t).to_string(), "2026-11-06T01:32:50.000000Z");
        assert_eq!(Timestamp(t).for_names(), "20261106T013250.000000Z");
        let t = t.to_offset(UtcOffset::from_hms(-3, -30, 0).unwrap());
        assert_eq!(HeaderDate(t).to_string(), "Thu, 5 Nov 2026 22:02:50 -0330");
    }
}
