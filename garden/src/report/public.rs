//! Findings about other software that are already public, so that a run can say which of its own are known.
//!
//! They are in data/public.toml, which contains only what can be read elsewhere.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{PublicName, Report};
use crate::case::Case;
use crate::case::escaped::unescape;
use crate::compare::Class;
use crate::compare::text::{find, octets_of, with_replaced};

/// The public findings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    finding: Vec<Entry>,
}

/// A public finding.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    url: String,
    /// The server, including its variants and roles.
    server: String,
    classes: Vec<Class>,
    /// Escaped octets: it applies to cases that send one of these outside CRLF `.` CRLF.
    sends: Vec<String>,
}

/// Adds to the findings of a report the names under which they are publicly known.
///
/// # Errors
///
/// The list is malformed, which a test prevents.
pub fn label(report: &mut Report) -> Result<()> {
    let known: Known = toml::from_str(include_str!("../../data/public.toml")).context("the list of public findings")?;
    let mut names = Vec::with_capacity(report.findings.len());
    for finding in &report.findings {
        let case = report.case(&finding.case).map(|entry| &entry.case);
        let mut of_finding = Vec::new();
        for entry in &known.finding {
            // The rest is the name of a variant or a role.
            let behind = finding.server.strip_prefix(&entry.server);
            let is_server = behind.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']));
            let is_class = entry.classes.contains(&finding.kind.class());
            if is_server && is_class && case.map(|case| sends(case, &entry.sends)).transpose()? == Some(true) {
                of_finding.push(PublicName { name: entry.name.clone(), url: entry.url.clone() });
            }
        }
        names.push(of_finding);
    }
    for (finding, names) in report.findings.iter_mut().zip(names) {
        finding.public = names;
    }
    Ok(())
}

fn sends(case: &Case, patterns: &[String]) -> Result<bool> {
    // The standard end of data contains LF `.` CRLF, so it is removed first.
    let octets = with_replaced(&octets_of(case), b"\r\n.\r\n", b"\r\n");
    for pattern in patterns {
        let pattern = unescape(pattern).map_err(anyhow::Error::msg)?;
        if find(&octets, &pattern).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Part, Unit};

    #[test]
    fn the_list_can_be_read_and_has_an_address_for_each() {
        let known: Known = toml::from_str(include_str!("../../data/public.toml")).unwrap();
        for entry in known.finding {
            assert!(entry.url.starts_with("https://"), "{}", entry.name);
            assert!(
                !entry.sends.is_empty() && entry.sends.iter().all(|octets| unescape(octets).is_ok()),
                "{}",
                entry.name
            );
        }
    }

    #[test]
    fn the_end_of_data_is_no_bare_line_feed() {
        let case = |octets: &[u8]| Case {
            name: "a".into(),
            units: vec![Unit::Send { part: Part::Body, octets: octets.to_vec() }],
        };
        let pattern = [r"\n.\r\n".to_owned()];
        assert!(!sends(&case(b"a\r\n.\r\nQUIT\r\n"), &pattern).unwrap());
        assert!(sends(&case(b"a\n.\r\nb\r\n.\r\n"), &pattern).unwrap());
    }
}
