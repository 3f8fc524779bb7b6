//! `mailrecv passwd`: makes a line for the file of accounts out of a password that is typed or piped.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, bail, ensure};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::accounts::hash::{Kind, LONGEST};
use crate::exit::Exit;

/// Reads a password from standard input, and writes `NAME:HASH` to standard output.
pub(crate) fn run(name: &str, kind: Kind) -> Exit {
    match line(name, kind).and_then(|line| io::stdout().write_all(line.as_bytes()).context("standard output")) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mailrecv: {error:#}");
            Exit::Refused
        }
    }
}

fn line(name: &str, kind: Kind) -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() { typed_twice(name)? } else { next_line()? };
    if let Some(why) = unfit(&password, kind) {
        bail!(why);
    }
    Ok(format!("{name}:{}\n", kind.hash(&password)?))
}

/// Why this can be nobody's password.
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
    // Clients would have to agree on SASLprep (RFC 4013), and do not.
    (kind == Kind::ScramSha256 && !password.is_ascii()).then(|| {
        "with scram-sha-256 a password has ASCII characters only, as clients do not agree about others: choose another, \
         or --hash argon2id"
            .to_owned()
    })
}

/// Asks twice, without showing what is typed.
fn typed_twice(name: &str) -> anyhow::Result<Vec<u8>> {
    let _silence = Silence::begin()?;
    let ask = |prompt: &str| {
        let _ = io::stderr().write_all(prompt.as_bytes());
        next_line()
    };
    let password = ask(&format!("Password for {name}: "))?;
    ensure!(ask("The same again: ")? == password, "the two are not the same: nothing is written");
    Ok(password)
}

/// A line of standard input, without its end.
fn next_line() -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line).context("standard input")?;
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

/// While there is one, the terminal shows nothing of what is typed but the ends of lines.
struct Silence(Termios);

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("the terminal")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        // What was typed too early is not meant for this.
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent).context("the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}
