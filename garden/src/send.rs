//! `send`: holds the sessions of a payload file with any server, and shows the dialogue.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::case::Case;
use crate::case::escaped::escape;
use crate::observation::Event;
use crate::payload::{self, Assignments};
use crate::report::Report;
use crate::session::{self, Filling, Hello, Waits};
use crate::terminal;

/// The server, and the values of placeholders.
#[derive(Debug)]
pub(crate) struct To {
    /// Host and port.
    pub(crate) server: String,
    /// How it has to be greeted.
    pub(crate) hello: Hello,
    /// The user and password to log in with.
    pub(crate) login: Option<(String, String)>,
    /// The values of placeholders; each case gets a new token.
    pub(crate) filling: Filling,
    /// How long to wait for a reply.
    pub(crate) patience: Duration,
}

/// Holds a session for each case.
///
/// # Errors
///
/// The server cannot be reached. If a session ends early because a reply is not the expected one, that is an error
/// after the last case.
pub(crate) fn send(cases: &[Case], to: &To) -> Result<()> {
    let has_many = cases.len() > 1;
    let mut cut_short = 0_usize;
    for (number, case) in cases.iter().enumerate() {
        if has_many {
            terminal::print(&format!("# {}", case.name));
        }
        cut_short += usize::from(!hold(case, number, to)?);
    }
    if cut_short > 0 {
        bail!("{cut_short} of {} sessions ended before their end", cases.len());
    }
    Ok(())
}

/// The cases of a payload file, in our form or that of sendmsg.py.
///
/// # Errors
///
/// The file cannot be read, is a report, or has errors, all of which are listed.
pub(crate) fn read(file: &Path, assignments: &Assignments) -> Result<Vec<Case>> {
    let octets = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    // Every file that is not in our form is one for sendmsg.py, but nobody wants to send a report line by line.
    if str::from_utf8(&octets).is_ok_and(|text| text.starts_with('{') && Report::from_json(text).is_ok()) {
        bail!("{} is a report: `run --report` takes its cases, `send --case` takes one of them", file.display());
    }
    payload::read(&file.display().to_string(), &octets, assignments).map_err(|problems| {
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", shown.join("\n"))
    })
}

/// Whether the session was held to its end.
fn hold(case: &Case, number: usize, to: &To) -> Result<bool> {
    let what = || format!("connecting to {}", to.server);
    let mut addresses = to.server.to_socket_addrs().with_context(what)?;
    let stream = addresses
        .find_map(|address| TcpStream::connect_timeout(&address, to.patience).ok())
        .with_context(|| format!("connecting to {}: nobody answers there", to.server))?;
    let login = to.login.as_ref().map(|(user, password)| session::auth_plain(user, password));
    let (adapted, _) = session::adapt(case, to.hello, login.as_deref());
    let filling = Filling { token: format!("send{number:05}"), ..to.filling.clone() };
    let mut show = |event: &Event| match event {
        Event::Sent(octets) => terminal::print(&format!("> {}", escape(octets))),
        Event::Reply(reply) => {
            let last = reply.lines.len().saturating_sub(1);
            for (at, line) in reply.lines.iter().enumerate() {
                let separator = if at == last { ' ' } else { '-' };
                terminal::print(&format!("< {}{separator}{}", reply.code, escape(line.as_bytes())));
            }
        }
        Event::Garbage(octets) => terminal::print(&format!("? {}", escape(octets))),
        Event::Secured => terminal::print("= encrypted from here on"),
        Event::TimedOut => terminal::print(&format!("= no reply within {} ms", to.patience.as_millis())),
        Event::Closed => terminal::print("= closed by the server"),
    };
    let events = session::hold(stream, &adapted, &filling, &Waits::of(&adapted, to.patience), &mut show)?;
    Ok(session::is_whole(&adapted, &events))
}
