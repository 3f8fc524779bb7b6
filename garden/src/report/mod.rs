//! What a run has to tell, in one piece: as JSON that is read back, as a grid for a terminal, and as a page for a browser.
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

/// The number of this layout. What reads reports refuses those with another.
pub const FORMAT: u32 = 1;

/// What a run has to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The name and the version of the program that wrote it.
    pub program: String,
    /// What the run was told of recipes, programs and packages, in the words of the command line.
    #[serde(default)]
    pub options: Vec<String>,
    /// The mutations that were made until a time was over, if it was asked for that.
    #[serde(default)]
    pub mutations: Option<Mutations>,
    /// The servers, in the order in which they are shown.
    pub servers: Vec<ServerEntry>,
    /// The cases, in the order in which they are shown, the smallest ones that were made of them behind them.
    pub cases: Vec<CaseEntry>,
    /// What stands apart each time, each once.
    pub findings: Vec<Finding>,
    /// What stood apart, but not each time.
    pub unsteady: Vec<Unsteady>,
    /// Pairs of a relay and a receiver.
    pub chains: Vec<ChainEntry>,
    /// How many there are of all that.
    pub numbers: Numbers,
}

/// Mutations, to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutations {
    /// What they were chosen by.
    pub seed: u64,
    /// How many were made, the first of this seed.
    pub made: u64,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEntry {
    /// Its name.
    pub name: String,
    /// Its version, where that is known.
    pub version: Option<String>,
    /// Why it did not take part, if it did not.
    pub absent: Option<String>,
    /// What it does to every message.
    pub learned: Option<Learned>,
}

/// A case, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseEntry {
    /// The case.
    pub case: Case,
    /// The name of the case that it was made of, by leaving out what is not needed.
    pub of: Option<String>,
    /// What the standard has come of it, where it says so.
    pub expected: Option<Expected>,
    /// What is to be said of it.
    pub judgement: Judgement,
    /// What was observed, by server.
    pub observations: Vec<Observation>,
}

/// A way in which a server stands apart, each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The server.
    pub server: String,
    /// The name of the smallest case that shows it.
    pub case: String,
    /// Whether that was made as small as it gets.
    pub is_smallest: bool,
    /// The names of the cases of the run that show it.
    pub found_in: Vec<String>,
    /// What is seen of it, in the first of those.
    pub detail: String,
    /// What it is known as, where it is public.
    pub public: Vec<PublicName>,
}

/// The name of a public finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicName {
    /// Such as a CVE number.
    pub name: String,
    /// Where one reads about it.
    pub url: String,
}

/// What stood apart, but not each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsteady {
    /// The name of the case.
    pub case: String,
    /// The server.
    pub server: String,
    /// In which way.
    pub differences: Vec<Difference>,
    /// In how many of three more sessions.
    pub again: usize,
    /// What came of another session.
    pub otherwise: Option<Observation>,
}

/// A pair of a relay and a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainEntry {
    /// Which, and with what.
    pub chain: Chain,
    /// What a real chain of the two made of it; nothing if none was held.
    pub stand: Option<Stand>,
    /// What came out of it.
    pub came_out: Option<Observation>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Cases that were held.
    pub cases: usize,
    /// Sessions, those not counted that looked again or made a case smaller.
    pub sessions: usize,
    /// Pairs of a case and a server that stands apart, if nothing is known of the servers.
    pub apart_unscreened: usize,
    /// The same, with what is learned of the servers taken away.
    pub apart: usize,
    /// Of these, those that come each time.
    pub steady: usize,
    /// Findings: the same ones told once.
    pub findings: usize,
    /// Sessions that were held to make cases smaller.
    pub shrink_sessions: usize,
}

impl Report {
    /// As JSON.
    ///
    /// # Errors
    ///
    /// None that is known: nothing in it cannot be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("writing the report as JSON")
    }

    /// From JSON.
    ///
    /// # Errors
    ///
    /// What is no report, or one with another layout.
    pub fn from_json(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Layout {
            format: u32,
        }
        let Layout { format } = serde_json::from_str(json).context("this is no report")?;
        ensure!(format == FORMAT, "the report has layout {format}, and this program reads layout {FORMAT}");
        serde_json::from_str(json).context("reading the report")
    }

    /// The names of servers, in the order in which they are shown.
    pub fn server_names(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.name.as_str())
    }

    /// The case of this name.
    pub fn case(&self, name: &str) -> Option<&CaseEntry> {
        self.cases.iter().find(|entry| entry.case.name == name)
    }

    /// What to type to hold a case of it again, but for the case and the servers. `file` is where it is kept, `program` how
    /// ours is called.
    pub fn again(&self, program: &str, file: &str) -> String {
        let words = [program, "run", "--report", file].into_iter().chain(self.options.iter().map(String::as_str));
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// What to type to hold this case again; `again` is what [`Self::again`] says.
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

/// The letters that are none of [`Kind`], each with what it means.
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

/// For a shell.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./,:@%+=".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
