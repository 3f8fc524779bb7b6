//! A page for a browser in a single file: it loads nothing from elsewhere, so it can be sent and kept.

use std::io::Write as _;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::{CaseEntry, ChainEntry, Finding, Numbers, OTHER_LETTERS, Report, ServerEntry, Unsteady};
use crate::case::Case;
use crate::compare::{Class, Expected, Judgement, Kind};
use crate::observation::Observation;

/// The page, with the command to hold each case again; `again` is the result of [`Report::again`].
///
/// # Errors
///
/// None is known: everything in a report can be written.
pub fn page(report: &Report, again: &str) -> Result<String> {
    #[derive(Serialize)]
    struct Letter {
        letter: char,
        class: Option<Class>,
        kind: Option<Kind>,
        meaning: &'static str,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        report: Shown<'a>,
        again: &'a str,
        letters: Vec<Letter>,
        classes: [Class; 8],
    }
    let others = OTHER_LETTERS.into_iter().map(|(letter, meaning)| Letter { letter, class: None, kind: None, meaning });
    let kinds = Kind::ALL.into_iter().map(|kind| Letter {
        letter: kind.letter(),
        class: Some(kind.class()),
        kind: Some(kind),
        meaning: kind.meaning(),
    });
    let data = Data { report: Shown::of(report)?, again, letters: others.chain(kinds).collect(), classes: Class::ALL };
    let json = serde_json::to_string(&data).context("writing the report for the page")?;
    // So that text from a server cannot end the element that it is in, or begin a comment.
    let json = json.replace('<', r"\u003c");
    Ok(include_str!("page.html").replace("{{data}}", &json))
}

/// A report with compressed observations: they are a hundred times as large as the rest, and are unpacked only for
/// cases that somebody opens.
#[derive(Serialize)]
struct Shown<'a> {
    program: &'a str,
    servers: &'a [ServerEntry],
    cases: Vec<ShownCase<'a>>,
    findings: &'a [Finding],
    unsteady: &'a [Unsteady],
    chains: &'a [ChainEntry],
    numbers: Numbers,
}

#[derive(Serialize)]
struct ShownCase<'a> {
    case: &'a Case,
    of: Option<&'a str>,
    expected: Option<&'a Expected>,
    judgement: &'a Judgement,
    /// The servers that were asked, in the order of their observations.
    asked: Vec<&'a str>,
    packed: String,
}

impl<'a> Shown<'a> {
    fn of(report: &'a Report) -> Result<Self> {
        Ok(Self {
            program: &report.program,
            servers: &report.servers,
            cases: report.cases.iter().map(ShownCase::of).collect::<Result<_>>()?,
            findings: &report.findings,
            unsteady: &report.unsteady,
            chains: &report.chains,
            numbers: report.numbers,
        })
    }
}

impl<'a> ShownCase<'a> {
    fn of(entry: &'a CaseEntry) -> Result<Self> {
        Ok(Self {
            case: &entry.case,
            of: entry.of.as_deref(),
            expected: entry.expected.as_ref(),
            judgement: &entry.judgement,
            asked: entry.observations.iter().map(|observation| observation.server.as_str()).collect(),
            packed: packed(&entry.observations)?,
        })
    }
}

/// The observations as JSON, compressed with gzip (RFC 1952), which browsers can unpack, in base64.
fn packed(observations: &[Observation]) -> Result<String> {
    let what = "packing what was observed";
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(&serde_json::to_vec(observations).context(what)?).context(what)?;
    Ok(STANDARD.encode(packer.finish().context(what)?))
}
