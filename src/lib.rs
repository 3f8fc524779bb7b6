//! mailrecv receives mail on one connection and puts it where a rule says.
//!
//! One message, from the socket to the disk: [`run`] loads the [`config`], names the [`peer`] and calls [`server`]; the
//! server reads lines and data ([`conn`]) and gives them to the [`smtp`] session, which decides and answers with steps;
//! message text goes to the spool ([`message`]), and at the final dot [`deliver`] takes it to every destination, or to
//! none. Refusals and deliveries go to the [`log`].

pub mod cli;
pub mod config;
pub mod conn;
mod date;
pub mod deliver;
mod dns;
mod explain;
mod files;
mod listen;
pub mod log;
pub mod message;
pub mod peer;
mod sandbox;
pub mod server;
mod session_process;
pub mod signals;
pub mod smtp;
mod user;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use cli::{Invocation, Options, Verbosity};

/// Does what the command line says. Exit status: 0 also when the peer broke off; else sysexits(3).
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let invocation = match cli::parse(arguments) {
        Ok(invocation) => invocation,
        Err(error) if session_process::stdin_is_a_connection() => {
            return ExitCode::from(session_process::cannot_start(&error));
        }
        Err(error) => {
            // Help goes to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    let status = match invocation {
        Invocation::Receive(options, peer) => session_process::run(&options, peer),
        Invocation::Listen(options, listen) => listen::run(&options, &listen),
        Invocation::Check(options, verbosity) => check(&options, verbosity),
        Invocation::Explain(options, question) => explain::run(&options, &question),
    };
    ExitCode::from(status)
}

/// `mailrecv check`: every error and warning with its line; 0 or 78.
fn check(options: &Options, verbosity: Verbosity) -> u8 {
    let loaded = config::load(&options.config);
    let (errors, warnings) = match &loaded {
        Ok(config) => config.check().into_iter().partition(|d| d.severity == config::Severity::Error),
        Err(unusable) => (unusable.errors.clone(), Vec::new()),
    };
    report(&options.config, errors.iter().chain(&warnings));
    if !errors.is_empty() {
        return EX_CONFIG;
    }
    if verbosity == Verbosity::Verbose {
        let mut out = std::io::stdout();
        let (count, plural) = (warnings.len(), if warnings.len() == 1 { "" } else { "s" });
        let _ = writeln!(out, "{}: no errors, {count} warning{plural}", options.config.display());
        let _ = writeln!(out, "Before it listens to its peer, a session gives up everything but:");
        for line in loaded.iter().flat_map(sandbox::describe) {
            let _ = writeln!(out, "  {line}");
        }
    }
    0
}

/// Shows findings to the person at the terminal.
fn report<'d>(file: &Path, diagnostics: impl Iterator<Item = &'d config::Diagnostic>) {
    let file = file.display().to_string();
    for diagnostic in diagnostics {
        let _ = write!(std::io::stderr(), "{}", diagnostic.cited(&file));
    }
}

/// sysexits(3): called wrongly.
const EX_USAGE: u8 = 64;
/// Something in this program is broken.
const EX_SOFTWARE: u8 = 70;
/// The system does not give what we need.
const EX_OSERR: u8 = 71;
/// The configuration cannot be used.
const EX_CONFIG: u8 = 78;
