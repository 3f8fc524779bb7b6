//! A page for a browser, in one file: nothing is loaded from elsewhere, so it can be sent and kept.

use anyhow::{Context, Result};
use serde::Serialize;

use super::{OTHER_LETTERS, Report};
use crate::compare::{Class, Kind};

/// The page, with the line to type to hold a case again: `again` is what [`Report::again`] says.
///
/// # Errors
///
/// None that is known: nothing in a report cannot be written.
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
        report: &'a Report,
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
    let data = Data { report, again, letters: others.chain(kinds).collect(), classes: Class::ALL };
    let json = serde_json::to_string(&data).context("writing the report for the page")?;
    // So that nothing that a server said ends the element that it stands in, or begins a comment.
    let json = json.replace('<', r"\u003c");
    Ok(include_str!("page.html").replace("{{data}}", &json))
}
