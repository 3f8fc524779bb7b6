//! The command line: what may be typed, and what it asks for.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::ground::first_process;
use crate::packages::Cache;
use crate::recipes::Recipes;
use crate::{servers, terminal, up};

/// Puts real mail servers side by side and shows what each makes of the same bytes.
#[derive(Debug, Parser)]
#[command(name = "smtp-garden", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows which servers there are, or why not.
    Servers(Shared),
    /// Keeps servers running, for you to play with; Ctrl-C ends them.
    Up {
        #[command(flatten)]
        shared: Shared,
        /// Their names; without any, all that can be had.
        #[arg(value_name = "SERVER")]
        servers: Vec<String>,
    },
    /// The first process of a server; nobody types that.
    #[command(hide = true)]
    FirstProcess,
}

/// What goes for all commands that have to do with servers.
#[derive(Debug, Args)]
struct Shared {
    /// A folder with recipes, to be added to ours or to replace those of the same name.
    #[arg(long, value_name = "FOLDER")]
    recipes: Option<PathBuf>,
    /// Where packages are kept, in place of ~/.cache/smtp-garden.
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// The mailrecv to look at, in place of the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    mailrecv: Option<PathBuf>,
}

impl Shared {
    fn open(self) -> Result<(Recipes, Cache)> {
        Ok((Recipes::read(self.recipes.as_deref())?, Cache::open(self.cache, self.mailrecv)?))
    }
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::FirstProcess => return first_process::run(),
        Command::Servers(shared) => shared.open().and_then(|(recipes, cache)| servers::show(&recipes, &cache)),
        Command::Up { shared, servers } => {
            shared.open().and_then(|(recipes, cache)| up::keep(&recipes, &cache, &servers))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("smtp-garden: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
