//! The results of a run in one structure: as JSON, which can be read back, as a grid for a terminal, and as a page for
//! a browser.
//!
//! The layout of the JSON is in docs/report.md; [`FORMAT`] changes with it.

mod grid;
mod page;
pub mod public;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::compare::{Chain, Difference, Expected, Judgement, Kind, Learned, Stand, Verdict};
use crate::observation::Observation;

pub use grid::grid;
pub use page::page;

/// The version of this layout. Reports with another one are refused.
pub const FORMAT: u32 = 1;

/// The results of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The name and the version of the program that wrote it.
    pub program: String,
    /// The options of the run about recipes, programs and packages, as they were typed.
    #[serde(default)]
    pub options: Vec<String>,
    /// The mutations that were made in a limited time, if the run did that.
    #[serde(default)]
    pub mutations: Option<Mutations>,
    /// The servers, in the order of display.
    pub servers: Vec<ServerEntry>,
    /// The cases, in the order of display; the smallest ones that were derived from them come last.
    pub cases: Vec<CaseEntry>,
    /// Differences that come each time, each once.
    pub findings: Vec<Finding>,
    /// Differences that did not come each time.
    pub unsteady: Vec<Unsteady>,
    /// Pairs of a relay and a receiver.
    pub chains: Vec<ChainEntry>,
    /// Totals.
    pub numbers: Numbers,
}

/// What is needed to make the same mutations again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutations {
    /// Their seed.
    pub seed: u64,
    /// How many were made, beginning with the first of this seed.
    pub made: u64,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEntry {
    /// Its name.
    pub name: String,
    /// Its version, where that is known.
    pub version: Option<String>,
    /// Why it did not take part, if so.
    pub absent: Option<String>,
    /// What it does to every message.
    pub learned: Option<Learned>,
}

/// A case and its results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseEntry {
    /// The case.
    pub case: Case,
    /// The name of the case from which it was derived by leaving out what is not needed.
    pub of: Option<String>,
    /// The outcome according to the standard, if it is determined.
    pub expected: Option<Expected>,
    /// What is to be said of it.
    pub judgement: Judgement,
    /// The observations, one for each server.
    pub observations: Vec<Observation>,
}

/// A difference of a server that comes each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// The server.
    pub server: String,
    /// The name of the smallest case that shows it.
    pub case: String,
    /// Whether nothing more can be left out of that case.
    pub is_smallest: bool,
    /// The names of the run's cases that show it.
    pub found_in: Vec<String>,
    /// The difference in words, from the first of those cases.
    pub detail: String,
    /// Names under which it is publicly known.
    pub public: Vec<PublicName>,
}

/// The name of a public finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicName {
    /// Such as a CVE number.
    pub name: String,
    /// A page about it.
    pub url: String,
}

/// A difference that did not come each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsteady {
    /// The name of the case.
    pub case: String,
    /// The server.
    pub server: String,
    /// The differences.
    pub differences: Vec<Difference>,
    /// In how many of three more sessions they came.
    pub again: usize,
    /// An observation of a session without them.
    pub otherwise: Option<Observation>,
}

/// A pair of a relay and a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainEntry {
    /// The pair, with the case.
    pub chain: Chain,
    /// The result of a real chain of the two; `None` if none was held.
    pub stand: Option<Stand>,
    /// The observation of that chain.
    pub came_out: Option<Observation>,
}

/// Totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Cases that were held.
    pub cases: usize,
    /// Sessions, not counting those that confirmed differences or made cases smaller.
    pub sessions: usize,
    /// Pairs of a case and a server that differs, before what was learned of servers is taken into account.
    pub apart_unscreened: usize,
    /// The same, after it is taken into account.
    pub apart: usize,
    /// Those of them that come each time.
    pub steady: usize,
    /// Findings: equal differences are counted once.
    pub findings: usize,
    /// Sessions that were used to make cases smaller.
    pub shrink_sessions: usize,
}

impl Report {
    /// As JSON.
    ///
    /// # Errors
    ///
    /// None is known: everything in it can be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("writing the report as JSON")
    }

    /// From JSON.
    ///
    /// # Errors
    ///
    /// The text is not a report, or has another layout.
    pub fn from_json(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Layout {
            format: u32,
        }
        let Layout { format } = serde_json::from_str(json).context("this is no report")?;
        ensure!(format == FORMAT, "the report has layout {format}, and this program reads layout {FORMAT}");
        serde_json::from_str(json).context("reading the report")
    }

    /// The names of servers, in the order of display.
    pub fn server_names(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.name.as_str())
    }

    /// The case of this name.
    pub fn case(&self, name: &str) -> Option<&CaseEntry> {
        self.cases.iter().find(|entry| entry.case.name == name)
    }

    /// The command to hold a case again, without the case and the servers. `file` is the report's path, `program` the
    /// name of this program.
    pub fn again(&self, program: &str, file: &str) -> String {
        let words = [program, "run", "--report", file].into_iter().chain(self.options.iter().map(String::as_str));
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// The command to hold this case again; `again` is the result of [`Self::again`].
    pub fn command(again: &str, case: &str, servers: &[&str]) -> String {
        format!("{again} --case {} --servers {}", quoted(case), quoted(&servers.join(",")))
    }
}

/// The letter of a verdict in a grid.
pub const fn letter(stand: &Stand) -> char {
    match stand {
        Stand::WithTheOthers => '.',
        Stand::Refuses => '-',
        Stand::Unknown(_) => '?',
        Stand::Unsteady { .. } => '~',
        Stand::Apart(differences) => match differences.as_slice() {
            [first, ..] => first.kind.letter(),
            [] => '.',
        },
    }
}

/// The letters for what is not a [`Kind`], with their meanings.
pub const OTHER_LETTERS: [(char, &str); 5] = [
    ('.', "as it should be, or as most have it"),
    ('-', "refused, which is as good"),
    ('~', "stood apart, but not each time"),
    ('?', "unknown: still in a queue, or the server's controls do not come out"),
    (' ', "was not asked"),
];

fn verdict_of<'a>(entry: &'a CaseEntry, server: &str) -> Option<&'a Verdict> {
    entry.judgement.verdict(server)
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./,:@%+=".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
