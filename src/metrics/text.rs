//! Writes the metrics in Prometheus's text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::{self, Write};
use std::time::Duration;

use super::{CountedBy, Counts, FAMILIES, Facts, Form};

/// The media type of this format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, or only those that sessions count.
pub(crate) fn exposition(counts: &Counts, with_listen: bool) -> String {
    let mut text = String::new();
    let mut rest = &counts.0[..];
    for facts in FAMILIES {
        let (numbers, behind) = rest.split_at(facts.form.numbers());
        rest = behind;
        if with_listen || facts.counted_by != CountedBy::Listen {
            // Writing to a String cannot fail.
            let _ = write_family(&mut text, facts, numbers);
        }
    }
    text
}

fn write_family(out: &mut String, facts: &Facts, numbers: &[u64]) -> fmt::Result {
    let Facts { name, help, form, .. } = facts;
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", kind(form))?;
    match form {
        Form::Counter | Form::Gauge => numbers.iter().try_for_each(|number| writeln!(out, "{name} {number}")),
        Form::By(label, values) => values
            .iter()
            .zip(numbers)
            .try_for_each(|(value, number)| writeln!(out, "{name}{{{label}=\"{value}\"}} {number}")),
        Form::Histogram(bounds) => write_histogram(out, name, bounds, numbers),
        Form::Version => writeln!(out, "{name}{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    }
}

/// Each bucket includes the ones before it.
fn write_histogram(out: &mut String, name: &str, bounds: &[u64], numbers: &[u64]) -> fmt::Result {
    let mut count: u64 = 0;
    for (place, number) in numbers.iter().enumerate() {
        let bound = bounds.get(place).map(|bound| seconds(*bound).to_string());
        if place > bounds.len() {
            writeln!(out, "{name}_sum {}\n{name}_count {count}", seconds(*number))?;
        } else {
            count = count.wrapping_add(*number);
            writeln!(out, "{name}_bucket{{le=\"{}\"}} {count}", bound.as_deref().unwrap_or("+Inf"))?;
        }
    }
    Ok(())
}

fn kind(form: &Form) -> &'static str {
    match form {
        Form::Counter | Form::By(..) => "counter",
        Form::Gauge | Form::Version => "gauge",
        Form::Histogram(_) => "histogram",
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Family;

    #[test]
    fn as_it_is_written() {
        let mut counts = Counts::default();
        counts.observe(Family::DeliveryTime, Duration::from_millis(2));
        counts.observe(Family::DeliveryTime, Duration::from_secs(90));
        counts.add(Family::AcceptedOctets.counter(), 7);
        let text = exposition(&counts, true);
        let histogram = "# TYPE mailrecv_delivery_duration_seconds histogram\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"0.001\"} 0\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"0.005\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"0.025\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"0.1\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"0.5\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"2.5\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"10\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"60\"} 1\n\
            mailrecv_delivery_duration_seconds_bucket{le=\"+Inf\"} 2\n\
            mailrecv_delivery_duration_seconds_sum 90.002\n\
            mailrecv_delivery_duration_seconds_count 2\n";
        for part in
            [histogram, "\nmailrecv_accepted_bytes_total 7\n", "\nmailrecv_messages_total{outcome=\"refused\"} 0\n"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.contains("\nmailrecv_sessions_open 0\n"));
        assert!(!exposition(&counts, false).contains("sessions_open"));
    }
}
