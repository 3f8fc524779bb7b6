//! The first process of a server, in namespaces of its own: makes the root folder, runs the server, and reaps orphans.
//!
//! It lives as long as the pipe on its standard input is open, even if the server ends, so that what the server left
//! can be examined.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::process::{Child, Command, ExitCode, Stdio, exit};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, sethostname};

use super::plan::{OUTPUT, Plan, Word};
use super::root;

/// Where programs are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Follows the plan on standard input, and reports on standard output.
pub fn run() -> ExitCode {
    match follow() {
        Ok(never) => never,
        Err(error) => {
            // Nobody may be reading any more.
            let _ = say(&Word::Failed(format!("{error:#}")));
            // What the server has printed is examined now.
            let _ = io::stdin().read_line(&mut String::new());
            ExitCode::FAILURE
        }
    }
}

fn follow() -> Result<ExitCode> {
    let plan: Plan = serde_json::from_str(&hear()?).context("the plan")?;
    sethostname(&plan.domain).context("setting the host's name")?;
    root::make(&plan)?;
    say(&Word::Rooted)?;
    hear()?;
    let output = OpenOptions::new().append(true).create(true).open(OUTPUT).context(OUTPUT)?;
    for argv in &plan.setup {
        let status = command(argv, &plan.environment, &output)?.status();
        match status.with_context(|| format!("setup: running `{}`", argv.join(" ")))? {
            status if status.success() => {}
            status => bail!("setup: `{}`: {status}", argv.join(" ")),
        }
    }
    let mut beside = BTreeMap::new();
    for argv in &plan.beside {
        let child = command(argv, &plan.environment, &output)?
            .spawn()
            .with_context(|| format!("beside: running `{}`", argv.join(" ")))?;
        beside.insert(pid_of(&child)?, argv.join(" "));
    }
    let server = command(&plan.run, &plan.environment, &output)?
        .spawn()
        .with_context(|| format!("run: running `{}`", plan.run.join(" ")))?;
    say(&Word::Started)?;
    thread::spawn(|| {
        // Nothing comes any more until the pipe is closed.
        while hear().is_ok() {}
        exit(0);
    });
    let server = pid_of(&server)?;
    loop {
        let (pid, how) = match wait() {
            Ok(WaitStatus::Exited(pid, 0)) if pid != server => continue,
            Ok(WaitStatus::Exited(pid, status)) => (pid, format!("exit status {status}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string()),
            Ok(_) => continue,
            // No child is left.
            Err(_) => loop {
                thread::park();
            },
        };
        if pid == server {
            say(&Word::Ended(how))?;
        } else if let Some(command) = beside.remove(&pid) {
            say(&Word::EndedBeside(format!("`{command}` ended: {how}")))?;
        }
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(child.id().try_into().context("a process id")?))
}

fn command(argv: &[String], environment: &BTreeMap<String, String>, output: &File) -> Result<Command> {
    let (program, arguments) = argv.split_first().context("a command without words")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root"), ("LANG", "C.UTF-8")])
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    Ok(command)
}

fn hear() -> Result<String> {
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line)? {
        0 => bail!("nobody is there any more"),
        _ => Ok(line),
    }
}

fn say(word: &Word) -> Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, word)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}
