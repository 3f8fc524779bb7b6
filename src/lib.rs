//! mailrecv receives mail on one connection and puts it where a rule says.
//!
//! One message, from the socket to the disk: `receive` prepares the connection and calls [`server`], the only loop, which
//! gives what comes in ([`net::conn`]) to the [`smtp`] session and executes the steps that it gets back; what the
//! session cannot know by itself, [`policy`] answers from the [`config`]; message text goes to the spool ([`message`]),
//! and at the final dot [`deliver`] takes it to every destination, or to none. Every line of the [`log`] is an event.
//! docs/architecture.md tells more.

pub mod accounts;
pub mod address;
mod check;
pub mod cli;
pub mod config;
mod date;
pub mod deliver;
mod exit;
mod explain;
mod files;
mod hexadecimal;
mod listen;
pub mod log;
pub mod message;
pub mod metrics;
pub mod net;
mod panics;
mod passwd;
pub mod peer;
pub mod policy;
mod receive;
mod replay;
mod sandbox;
pub mod scram_keys;
mod scrape;
mod server;
mod signals;
pub mod smtp;
mod system_calls;
mod systemd;
pub mod transcript;
mod unread;
pub mod untrusted;
mod user;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::Invocation;
use exit::Exit;

/// Does what the command line says. The exit status is one of sysexits(3); it is 0 also when the peer broke off.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let invocation = match cli::parse(arguments) {
        Ok(invocation) => invocation,
        Err(error) if receive::stdin_is_a_connection() => {
            return receive::cannot_start(&error).into();
        }
        Err(error) => {
            // Help goes to standard output, mistakes to standard error.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let exit = match invocation {
        Invocation::Receive(options, peer) => receive::run(&options, peer),
        Invocation::Listen(options, listen) => listen::run(&options, &listen),
        Invocation::Check(options, check) => {
            let exit = check::run(&options, &check);
            match check.transcripts {
                Some(folder) if exit != Exit::Config => replay::try_folder(&options, &folder).or(exit),
                _ => exit,
            }
        }
        Invocation::Replay(options, files, format) => replay::run(&options, &files, format),
        Invocation::Explain(options, question) => explain::run(&options, &question),
        Invocation::Metrics(options, file) => scrape::run(&options, file.as_deref()),
        Invocation::Passwd(name, kind) => passwd::run(&name, kind),
        Invocation::RunCommands => deliver::runner::run(),
    };
    exit.into()
}
