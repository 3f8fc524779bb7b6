//! Makes cases: tables of what is known to be read in different ways, combinations of parts of a mail, mutations, and
//! files in folders.
//!
//! Every message has its token in its Subject and in its text, if it has these.

mod addresses;
mod bdat;
mod controls;
pub mod corpus;
mod draft;
mod end_of_data;
mod header;
mod lines;
pub mod listing;
mod mutations;
mod octets;
mod pairs;
mod pipelining;

use std::fmt;
use std::str::FromStr;

pub use controls::controls;
pub use draft::{FORGED_SENDER, FORGED_SUBJECT, SUBJECT};
pub use mutations::mutation;

use crate::case::Case;
use crate::compare::text::octets_of;

/// A set of cases, with its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// Clean mails of ordinary kinds.
    Controls,
    /// Octets that may be taken for the end of a text.
    EndOfData,
    /// CR, LF, NUL, other control characters, eight bits.
    Octets,
    /// Long lines, dots, unusual texts.
    Lines,
    /// Unusual headers.
    Header,
    /// Fields that occur twice.
    Duplicates,
    /// Forms of addresses, parameters, names of clients.
    Addresses,
    /// Commands that are pipelined, too early, out of order, or in pieces.
    Pipelining,
    /// Messages in chunks.
    Bdat,
    /// Every combination of two alternatives of different parts.
    Pairs,
    /// Cases of the other sets with random changes.
    Mutations,
    /// Some of end-of-data, octets and duplicates, for a run of one or two minutes.
    Short,
    /// All of them.
    All,
}

/// Options for sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The seed of the mutations.
    pub seed: u64,
    /// The number of mutations.
    pub mutations: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, mutations: 200 }
    }
}

impl Set {
    /// All sets, in the order in which they are listed.
    pub const EVERY: [Self; 13] = [
        Self::Controls,
        Self::EndOfData,
        Self::Octets,
        Self::Lines,
        Self::Header,
        Self::Duplicates,
        Self::Addresses,
        Self::Pipelining,
        Self::Bdat,
        Self::Pairs,
        Self::Mutations,
        Self::Short,
        Self::All,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Controls => "controls",
            Self::EndOfData => "end-of-data",
            Self::Octets => "octets",
            Self::Lines => "lines",
            Self::Header => "header",
            Self::Duplicates => "duplicates",
            Self::Addresses => "addresses",
            Self::Pipelining => "pipelining",
            Self::Bdat => "bdat",
            Self::Pairs => "pairs",
            Self::Mutations => "mutations",
            Self::Short => "short",
            Self::All => "all",
        }
    }

    /// What it contains, for a list.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Controls => "clean mails, and one for each missing field",
            Self::EndOfData => {
                "19 forms of an end of the data, in one piece and with a pause, below a header with CRLF and with LF"
            }
            Self::Octets => "lone CR, LF and NUL in every place; control characters; eight bits, announced and not",
            Self::Lines => "long lines and commands, dots in front of lines, odd shapes of texts",
            Self::Header => "fields and headers of odd forms",
            Self::Duplicates => "fields that come twice, and those that only a delivery writes",
            Self::Addresses => "forms of senders, recipients, parameters and names of clients",
            Self::Pipelining => "commands together, too early, out of order, in pieces, of other protocols",
            Self::Bdat => "messages in chunks",
            Self::Pairs => "every two alternatives of different parts of a mail",
            Self::Mutations => "cases of the other sets, changed at random by --seed",
            Self::Short => {
                "end-of-data below a CRLF header, lone CR, LF and NUL, and duplicates: for a run of a minute or two"
            }
            Self::All => "all of these",
        }
    }

    /// Its cases.
    pub fn cases(self, options: Options) -> Vec<Case> {
        match self {
            Self::Controls => controls(),
            Self::EndOfData => end_of_data::cases(),
            Self::Octets => octets::cases(),
            Self::Lines => lines::cases(),
            Self::Header => header::cases(),
            Self::Duplicates => header::duplicates(),
            Self::Addresses => addresses::cases(),
            Self::Pipelining => pipelining::cases(),
            Self::Bdat => bdat::cases(),
            Self::Pairs => pairs::cases(),
            Self::Mutations => {
                let base = mutation_base();
                (0..options.mutations).map(|number| mutation(&base, options.seed, number)).collect()
            }
            Self::Short => [end_of_data::short(), octets::short(), header::short()].concat(),
            Self::All => Self::EVERY
                .into_iter()
                .filter(|set| !matches!(set, Self::Short | Self::All))
                .flat_map(|set| set.cases(options))
                .collect(),
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::EVERY.into_iter().find(|set| set.name() == text);
        known.ok_or_else(|| format!("`{text}` is no set of cases: they are {}", Self::EVERY.map(Self::name).join(", ")))
    }
}

/// The cases from the tables, which are the base of [`mutation`].
pub fn mutation_base() -> Vec<Case> {
    let made = [Set::Pairs, Set::Mutations, Set::Short, Set::All];
    let tables = Set::EVERY.into_iter().filter(|set| !made.contains(set));
    let cases = tables.flat_map(|set| set.cases(Options::default()));
    // Large cases are slow with any change, and without a token their messages cannot be recognised.
    cases.filter(|case| octets_of(case).len() <= LARGEST_BASE && mutations::has_token(&case.units)).collect()
}

const LARGEST_BASE: usize = 10_000;

/// The cases that these words name, in this order and each once. A word is a set, a case, or a prefix of several names
/// up to a `/` (`end-of-data/LF.LF`). Mutations beyond the number in the options can be named as
/// `mutations/SEED/NUMBER`.
///
/// # Errors
///
/// A word that names nothing, with what there is.
pub fn select(words: &[String], options: Options) -> Result<Vec<Case>, String> {
    let mut selected: Vec<Case> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for word in words {
        let found = match (word.parse::<Set>(), mutation_of(word)) {
            (Ok(set), _) => set.cases(options),
            (Err(_), Some(case)) => vec![case],
            (Err(_), None) => {
                // The first part of a name is that of its set.
                let set = word.split('/').next().unwrap_or_default().parse::<Set>();
                let prefix = format!("{}/", word.trim_end_matches('/'));
                let is_meant = |case: &Case| case.name == *word || case.name.starts_with(&prefix);
                set.map(|set| set.cases(options)).unwrap_or_default().into_iter().filter(is_meant).collect()
            }
        };
        if found.is_empty() {
            let sets = Set::EVERY.map(Set::name).join(", ");
            return Err(format!(
                "`{word}` names no case: name a set ({sets}), a case, or what the names of several begin with up to a `/`"
            ));
        }
        selected.extend(found.into_iter().filter(|case| names.insert(case.name.clone())));
    }
    Ok(selected)
}

fn mutation_of(word: &str) -> Option<Case> {
    let (seed, number) = word.strip_prefix("mutations/")?.split_once('/')?;
    Some(mutation(&mutation_base(), seed.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests;
