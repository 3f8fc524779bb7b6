//! `mailrecv metrics`: prints the counts in `metrics_file`, for a program that passes them on to Prometheus.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::Options;
use crate::config;
use crate::exit::Exit;
use crate::metrics::{Counts, NoCounts, Record, exposition};

/// Prints the counts in this file, or in the one that the configuration names. The latter may be missing: then nothing
/// has been counted yet.
pub(crate) fn run(options: &Options, file: Option<&Path>) -> Exit {
    let told = match file.map_or_else(|| named(options), |file| Ok(file.to_owned())) {
        Ok(named) => tell(&named, file.is_none()),
        Err(error) => return failed(&error, Exit::Config),
    };
    match told {
        Ok(()) => Exit::Ok,
        Err(error) => failed(&error, Exit::OsErr),
    }
}

fn failed(error: &anyhow::Error, exit: Exit) -> Exit {
    let _ = writeln!(io::stderr(), "mailrecv: {error:#}");
    exit
}

fn tell(file: &Path, may_be_missing: bool) -> anyhow::Result<()> {
    let counts = counts(file, may_be_missing).with_context(|| file.display().to_string())?;
    io::stdout().write_all(exposition(&counts, false).as_bytes()).context("standard output")
}

fn named(options: &Options) -> anyhow::Result<PathBuf> {
    let shown = options.config.display();
    let Ok(config) = config::load(&options.config) else {
        let check = config::command(&options.config, "check");
        bail!("{shown} has errors, which `{check}` shows: mend them, or name the file with the metrics")
    };
    match config.metrics_file {
        Some(file) => Ok(file),
        None => bail!("{shown} has no `metrics_file`: sessions count nowhere"),
    }
}

fn counts(file: &Path, may_be_missing: bool) -> io::Result<Counts> {
    match Record::to_read(file).map(|record| record.read()) {
        Ok(Err(NoCounts::Empty)) => Ok(Counts::default()),
        Ok(read) => Ok(read?),
        Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => Ok(Counts::default()),
        Err(error) => Err(error),
    }
}
