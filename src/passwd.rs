//! `mailrecv passwd`: makes a line for the file of accounts from a password that is typed or piped, and a line with the
//! secret if the file has none.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::accounts;
use crate::accounts::hash::{Kind, LONGEST};
use crate::exit::Exit;
use crate::unread::Unread;
use crate::wait::is_ready;

/// Reads a password from standard input, and writes `NAME:HASH` to standard output.
pub(crate) fn run(name: &str, kind: Kind) -> Exit {
    match lines(name, kind).and_then(|lines| io::stdout().write_all(lines.as_bytes()).context("standard output")) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mailrecv: {error:#}");
            Exit::Refused
        }
    }
}

fn lines(name: &str, kind: Kind) -> anyhow::Result<String> {
    let line = line(name, kind)?;
    // A pipe or a terminal gets one line only, because nobody knows which file it is added to.
    let secret = match file_of_standard_output() {
        Some(file) if !accounts::has_secret(&file) => accounts::secret_line()?,
        _ => String::new(),
    };
    Ok(secret + &line)
}

/// The content of the file that standard output goes to, if it is a file and readable.
fn file_of_standard_output() -> Option<Vec<u8>> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned().ok()?);
    file.metadata().ok().filter(Metadata::is_file)?;
    // The shell has opened it for writing only, so it is opened again.
    Unread::open(Path::new("/proc/self/fd/1")).read().ok()
}

fn line(name: &str, kind: Kind) -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() { typed_twice(name)? } else { next_line()? };
    if let Some(why) = unfit(&password, kind) {
        bail!(why);
    }
    Ok(format!("{name}:{}\n", kind.hash(&password)?))
}

/// Why this cannot be a password, if so.
fn unfit(password: &[u8], kind: Kind) -> Option<String> {
    if password.is_empty() {
        return Some("the password is empty: type one, or pipe one line with it".to_owned());
    }
    if password.len() > LONGEST {
        return Some(format!("the password has {} octets, and {LONGEST} are the most", password.len()));
    }
    if password.iter().any(u8::is_ascii_control) {
        return Some("the password has a control character, which clients cannot send: choose another".to_owned());
    }
    // For other characters clients would have to agree on SASLprep (RFC 4013), which they do not.
    (kind == Kind::ScramSha256 && !password.is_ascii()).then(|| {
        "with scram-sha-256 a password has ASCII characters only, as clients do not agree about others: choose another, \
         or --hash argon2id"
            .to_owned()
    })
}

/// Asks for the password twice, without showing it.
fn typed_twice(name: &str) -> anyhow::Result<Vec<u8>> {
    let silence = Silence::begin()?;
    let ask = |prompt: &str| {
        let _ = io::stderr().write_all(prompt.as_bytes());
        silence.until_typed()?;
        next_line()
    };
    let password = ask(&format!("Password for {name}: "))?;
    ensure!(ask("The same again: ")? == password, "the two are not the same: nothing is written");
    Ok(password)
}

/// Reads a line from standard input, without its end.
fn next_line() -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line).context("standard input")?;
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

/// While this exists, the terminal does not show what is typed, except for line ends, and signals wait until the
/// terminal is restored.
struct Silence {
    terminal: Termios,
    mask: SigSet,
    waiting: SignalFd,
}

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP]);
        let waiting = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("waiting for signals")?;
        let terminal = tcgetattr(io::stdin()).context("the terminal")?;
        let mut silent = terminal.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        let mask = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("blocking signals")?;
        let silence = Self { terminal, mask, waiting };
        // Input that was typed before the prompt is discarded.
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent).context("the terminal")?;
        Ok(silence)
    }

    /// Waits until there is a line to read. A signal that comes first is an error.
    fn until_typed(&self) -> anyhow::Result<()> {
        let stdin = io::stdin();
        let mut ready = [&self.waiting.as_fd(), &stdin.as_fd()].map(|it| PollFd::new(*it, PollFlags::POLLIN));
        poll(&mut ready, PollTimeout::NONE).context("the terminal")?;
        ensure!(!is_ready(&ready[0]), "nothing is written");
        Ok(())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.terminal);
        let _ = self.mask.thread_set_mask();
    }
}
