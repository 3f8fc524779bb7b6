//! `mailrecv replay` and `mailrecv check --replay`: what would be different today in sessions that were recorded.
//! Nothing is delivered, looked up or logged, and no other server is asked.
//!
//! Each transcript is played on the real session with the real rules ([`play`]); what came of it is told for people or for
//! programs ([`tell`]), or counted ([`Summary`]).

mod exchange;
mod play;
mod settings;
mod tell;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::accounts::Accounts;
use crate::check::report;
use crate::cli::{Format, Options};
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::server;
use crate::transcript::{EXTENSION, Transcript};
use play::{Difference, Played, play};
use settings::Settings;

/// Plays these transcripts. Returns 0 if nothing is different now, 1 if something is, 65 if a file is not a transcript,
/// 66 if it cannot be read, and 78 if the configuration has errors.
pub(crate) fn run(options: &Options, files: &[PathBuf], format: Format) -> Exit {
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(unusable) => {
            report(&options.config, unusable.errors.iter());
            return Exit::Config;
        }
    };
    let (accounts, settings) = (server::accounts(&config), Settings::new(&config));
    let (mut differing, mut told, mut trouble) = (0, 0, None);
    for file in files {
        match played(&config, &accounts, file) {
            Ok(None) => {}
            Ok(Some((transcript, played))) => {
                told += 1;
                differing += usize::from(!played.differences.is_empty());
                let text = match format {
                    Format::Text => tell::for_people(&settings, file, &played),
                    Format::Json => tell::for_programs(&settings, file, &transcript, &played),
                };
                let _ = std::io::stdout().write_all(text.as_bytes());
            }
            Err(flaw) => {
                let _ = std::io::stderr().write_all(format!("{flaw}\n").as_bytes());
                trouble = trouble.or(Some(flaw.exit));
            }
        }
    }
    if let Format::Text = format {
        let text = format!("{}\n", counted(told, differing));
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
    trouble.unwrap_or(if differing > 0 { Exit::Refused } else { Exit::Ok })
}

/// Plays every transcript of a folder, and prints what that comes to; the status is that of [`run`].
pub(crate) fn try_folder(options: &Options, folder: &Path) -> Exit {
    let Ok(mut config) = config::load(&options.config) else { return Exit::Config };
    let files = match transcripts_in(folder) {
        Ok(files) if !files.is_empty() => files,
        found => {
            let error = match found {
                Ok(_) => format!("no transcript is in it: their names end in `.{EXTENSION}`"),
                Err(error) if error.kind() == ErrorKind::NotADirectory && folder.is_file() => {
                    "this is a file: it is played by `replay`".to_owned()
                }
                Err(error) => error.to_string(),
            };
            let _ = std::io::stderr().write_all(format!("{}: error: {error}\n", folder.display()).as_bytes());
            return Exit::NoInput;
        }
    };
    config.rules.expect_many_questions();
    let (accounts, settings, mut summary) = (server::accounts(&config), Settings::new(&config), Summary::default());
    files.iter().for_each(|file| summary.add(&config, &accounts, &settings, file));
    let _ = std::io::stdout().write_all(summary.text(folder).as_bytes());
    for flaw in &summary.flaws {
        let _ = std::io::stderr().write_all(format!("{flaw}\n").as_bytes());
    }
    match summary.flaws.first() {
        Some(flaw) => flaw.exit,
        None if summary.differing > 0 => Exit::Refused,
        None => Exit::Ok,
    }
}

/// A file that cannot be played.
#[derive(Debug)]
struct NotPlayed {
    file: PathBuf,
    message: String,
    exit: Exit,
}

impl std::fmt::Display for NotPlayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: error: {}", self.file.display(), self.message)
    }
}

/// Reads and plays a file; `None` if it has nothing in it yet.
fn played(config: &Config, accounts: &Accounts, file: &Path) -> Result<Option<(Transcript, Played)>, NotPlayed> {
    let flaw = |message: String, exit| NotPlayed { file: file.to_owned(), message, exit };
    let text = File::open(file).and_then(Transcript::text).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => {
            flaw("this is a folder: its transcripts are played by `check --replay`".to_owned(), Exit::NoInput)
        }
        _ => flaw(error.to_string(), Exit::NoInput),
    })?;
    let transcript = Transcript::parse(&text).map_err(|malformed| flaw(malformed.to_string(), Exit::DataErr))?;
    let Some(transcript) = transcript else { return Ok(None) };
    let mut played = play(config, accounts, &transcript, false);
    if !played.differences.is_empty() {
        // It is worth knowing how that comes about.
        played = play(config, accounts, &transcript, true);
    }
    Ok(Some((transcript, played)))
}

/// The transcripts in a folder, by their names, and so in the order of their beginnings.
fn transcripts_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    Ok(files)
}

/// A summary of the transcripts in a folder.
#[derive(Debug, Default)]
struct Summary {
    sessions: usize,
    differing: usize,
    /// How many sessions differ in the same way, with the first of them and its line.
    groups: HashMap<String, (usize, PathBuf, usize)>,
    flaws: Vec<NotPlayed>,
}

impl Summary {
    fn add(&mut self, config: &Config, accounts: &Accounts, settings: &Settings<'_>, file: &Path) {
        // Nobody may ever write to a FIFO.
        if file.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            let (file, message) = (file.to_owned(), "this is no ordinary file".to_owned());
            self.flaws.push(NotPlayed { file, message, exit: Exit::NoInput });
            return;
        }
        match played(config, accounts, file) {
            Ok(None) => {}
            Ok(Some((transcript, Played { differences, .. }))) => {
                self.sessions += 1;
                // A difference in wording counts only if there is no other one.
                let decisive = differences.iter().find(|difference| difference.is_of_decision());
                let Some(first) = decisive.or(differences.first()) else { return };
                self.differing += 1;
                let group = tell::kind_of(settings, &transcript.header.peer, first);
                let (count, ..) = self.groups.entry(group).or_insert((0, file.to_owned(), first.line));
                *count += 1;
            }
            Err(flaw) => self.flaws.push(flaw),
        }
    }

    fn text(&self, folder: &Path) -> String {
        let mut text = format!("{}: {}\n", folder.display(), counted(self.sessions, self.differing));
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by(|(_, one), (_, other)| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        for (group, (count, example, line)) in groups.iter().take(MOST_GROUPS) {
            let _ = write!(text, "{count} as in {}:{line}: {group}", example.display());
        }
        if groups.len() > MOST_GROUPS {
            let _ = writeln!(text, "and {} other kinds of differences", groups.len() - MOST_GROUPS);
        }
        text
    }
}

fn counted(sessions: usize, differing: usize) -> String {
    let plural = if sessions == 1 { "" } else { "s" };
    match differing {
        0 if sessions == 0 => "0 sessions: there is nothing to play".to_owned(),
        0 => format!("{sessions} session{plural}, none of which would be another today"),
        _ => format!("{sessions} session{plural}, {differing} of which would be another today"),
    }
}

/// How many kinds of differences are shown.
const MOST_GROUPS: usize = 20;
