//! `mailrecv check`: shows the errors and warnings about a configuration to a person at a terminal.

use std::io::Write;
use std::path::Path;

use crate::cli::{Check, Options, Verbosity};
use crate::config::{self, Checked, Config, Diagnostic, Level, Made, Severity};
use crate::exit::Exit;
use crate::sandbox;

/// `mailrecv check`: every error and warning with its line; 78 for errors, 71 if an index cannot be made, 1 for warnings if
/// it `is_strict`, else 0.
pub(crate) fn run(options: &Options, check: &Check) -> Exit {
    let &Check { verbosity, is_strict, makes_indexes, .. } = check;
    let checked = config::check(&options.config, makes_indexes);
    let (errors, warnings): (Vec<_>, Vec<_>) = checked.found.iter().partition(|d| d.severity == Severity::Error);
    let loaded = &checked.config;
    report(&options.config, checked.found.iter());
    if !errors.is_empty() {
        return Exit::Config;
    }
    let is_required = loaded.as_ref().is_some_and(|config| config.sandbox.is_required);
    let is_wanted = is_required || verbosity == Verbosity::Verbose;
    let shortcomings: Vec<_> = loaded.iter().filter(|_| is_wanted).flat_map(sandbox::shortcomings).collect();
    if is_required && !shortcomings.is_empty() {
        let message = format!(
            "{}: error: no mail would be taken, because the configuration requires a sandbox: {}\n",
            options.config.display(),
            shortcomings.join("; ")
        );
        let _ = std::io::stderr().write_all(message.as_bytes());
        return Exit::Config;
    }
    if verbosity == Verbosity::Verbose {
        let mut out = std::io::stdout();
        let (count, plural) = (warnings.len(), if warnings.len() == 1 { "" } else { "s" });
        let _ = writeln!(out, "{}: no errors, {count} warning{plural}", options.config.display());
        let included: Vec<_> = loaded.iter().flat_map(Config::included).collect();
        if !included.is_empty() {
            let _ = writeln!(out, "It includes {}", included.join(", "));
        }
        let _ = writeln!(out, "Before it listens to its peer, a session gives up everything but:");
        for line in loaded.iter().flat_map(sandbox::describe) {
            let _ = writeln!(out, "  {line}");
        }
        let is_tried = loaded.as_ref().is_some_and(|config| config.sandbox.level != Level::Off);
        let all = (is_tried && shortcomings.is_empty()).then(|| "all of it is enforced".to_owned());
        for line in shortcomings.into_iter().chain(all) {
            let _ = writeln!(out, "Tried on this system: {line}");
        }
    }
    let made = if makes_indexes { tell_of_indexes(options, &checked) } else { Exit::Ok };
    made.or(if is_strict && !warnings.is_empty() { Exit::Refused } else { Exit::Ok })
}

/// Says which indexes were made, and which could not be.
fn tell_of_indexes(options: &Options, checked: &Checked) -> Exit {
    let mut exit = Exit::Ok;
    let mut out = std::io::stdout();
    for index in &checked.indexes {
        match index {
            Ok(Made { path, size, rules }) => {
                let _ = writeln!(out, "{}: index of {rules} rules, {size} bytes", path.display());
            }
            Err((file, error)) => {
                let message = format!("{}: error: its index cannot be made: {error}\n", file.display());
                let _ = std::io::stderr().write_all(message.as_bytes());
                exit = Exit::OsErr;
            }
        }
    }
    if checked.indexes.is_empty() {
        let _ = writeln!(out, "{}: no index needed: there are few plain `deliver` lines", options.config.display());
    }
    exit
}

/// Shows findings to the person at the terminal.
pub(crate) fn report<'d>(file: &Path, diagnostics: impl Iterator<Item = &'d Diagnostic>) {
    let file = file.display().to_string();
    for diagnostic in diagnostics {
        // Written at once and not in pieces, because there may be thousands.
        let _ = std::io::stderr().write_all(diagnostic.cited(&file).to_string().as_bytes());
    }
}
