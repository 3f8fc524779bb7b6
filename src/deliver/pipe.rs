//! `pipe COMMAND` and `pipe_raw COMMAND`: runs `/bin/sh -c COMMAND` with the message on standard input, as it would
//! stand in a mailbox or as it is.
//!
//! Nothing the peer sent is part of the command; it is in environment variables, without control characters. The
//! sandbox does not let the session run programs, so a process outside it, the [`Runner`], runs the command. That
//! process was started before the first byte of the peer was read, knows the commands by number, and passes no
//! descriptor of ours to a command except two pipes. A command whose time is up is killed with everything it started.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::frames::{self, Incoming, Kind, MAX_FRAME};
use super::runner::TERM_PATIENCE;
use super::{Context, failure, mboxrd};
use crate::cli::RUN_COMMANDS;
use crate::config::{Form, PASSED, SHELL, VARIABLES};
use crate::log::{CommandEnd, Event, said};
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply, Status};
use crate::wait::{timeout, wait};

/// Has the command run, and turns its exit status into an answer to the peer.
pub(super) fn run(
    context: &Context<'_>,
    command: &str,
    form: Form,
    copy: RecipientCopy<'_>,
    hash: &str,
    spool: &mut Spool,
) -> Result<(), Reply> {
    let log = context.log;
    log.event(&Event::StartingCommand(command));
    let limit = &context.config.limits.pipe_secs;
    match context.runner.have_run(command, form, (copy, hash), spool, limit.value) {
        Ok(Answer::Ended { status, output }) => {
            log.event(&Event::CommandEnded { command, status, output: &output });
            answer(status, || CommandEnd { command, status, output: &output }.to_string())
        }
        Ok(Answer::TooSlow { output }) => Err(reply::worded(&limit.refusal, reply::COMMAND_TOO_SLOW).because(format!(
            "'{command}' was killed after {} seconds{}",
            limit.value.as_secs(),
            said(&output)
        ))),
        Ok(Answer::NotStarted(error)) => Err(failure(&error, &format!("starting {SHELL} for '{command}'"))),
        Ok(Answer::Broken(error)) | Err(error) => Err(failure(&error, &format!("running '{command}'"))),
    }
}

/// The process that runs commands, as the session sees it. It ends when this is dropped.
pub(crate) struct Runner<'a> {
    /// The commands that rules have for this peer, with the numbers that the process knows them by.
    commands: Vec<(u32, &'a str)>,
    /// The connection to the process, or why there is none: then only mail for commands cannot be delivered.
    link: io::Result<Link<'a>>,
}

/// How a command has ended, as the process reports it.
enum Answer {
    Ended { status: ExitStatus, output: Vec<u8> },
    TooSlow { output: Vec<u8> },
    NotStarted(io::Error),
    Broken(io::Error),
}

impl<'a> Runner<'a> {
    /// Starts the process, if there are commands, and tells it the commands and how long one may take. It gets only
    /// those variables of our environment that are named here, which are for the commands. Descriptors that our parent
    /// left open are closed for this process and for any program started later.
    pub(crate) fn start(signals: &'a Signals, commands: &[&'a str], time: Duration, variables: &[String]) -> Self {
        let commands: Vec<_> = (0..).zip(commands.iter().copied()).collect();
        let link = match &commands[..] {
            [] => Err(io::Error::other(OUT_OF_REACH)),
            commands => Link::start(signals, variables)
                .map_err(|error| {
                    let advice = match error.kind() {
                        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                            format!(": {SELF} has to be there, and our user has to be allowed to run it")
                        }
                        _ => String::new(),
                    };
                    io::Error::new(
                        error.kind(),
                        format!("the process that runs commands cannot be started: {error}{advice}"),
                    )
                })
                .and_then(|link| link.tell(commands, time).map(|()| link)),
        };
        Self { commands, link }
    }

    /// Tells the process that only these commands are left for the peer; they are some of those at the start, in the
    /// same order.
    pub(crate) fn keep(&mut self, commands: &[&str]) {
        let before = self.commands.len();
        let mut kept = commands.iter().peekable();
        // Commands are compared by address: two lines for different peers can have the same text.
        self.commands.retain(|(_, command)| kept.next_if(|kept| std::ptr::eq(**kept, *command)).is_some());
        let (Ok(link), true) = (&self.link, self.commands.len() < before) else { return };
        let told = if self.commands.is_empty() { link.end() } else { link.narrow(&self.commands) };
        if let Err(error) = told {
            self.link = Err(error);
        }
    }

    /// Has a command run with a message. An error means that the message could not be read or the process failed.
    fn have_run(
        &self,
        command: &str,
        form: Form,
        (copy, hash): (RecipientCopy<'_>, &str),
        spool: &mut Spool,
        time: Duration,
    ) -> io::Result<Answer> {
        let link = match &self.link {
            Ok(link) => link,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        let known = self.commands.iter().find(|(_, known)| *known == command);
        let (number, _) = known.ok_or_else(|| io::Error::other(OUT_OF_REACH))?;
        let until = Instant::now() + time + TERM_PATIENCE + PATIENCE;
        let sent = link.send_message(*number, form, (copy, hash), spool, until);
        let end = if sent.is_ok() { Kind::End } else { Kind::Abandon };
        let answer = link.send(end, b"", until).and_then(|()| link.answer(until));
        if answer.is_err() {
            // The process must not go on with this message, and its next answer would belong to this message too.
            let _ = link.end();
        }
        sent.and(answer)
    }
}

/// The connection to the process.
struct Link<'a> {
    socket: UnixStream,
    process: Child,
    signals: &'a Signals,
}

impl<'a> Link<'a> {
    fn start(signals: &'a Signals, variables: &[String]) -> io::Result<Self> {
        let variables = PASSED.into_iter().chain(variables.iter().map(String::as_str));
        close_fds::set_fds_cloexec(3, &[]);
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        // `Signals::spawn` is not used: it would start the process with signals unblocked, and one of them could end it
        // before it has blocked them itself.
        let process = Command::new(SELF)
            .arg0("mailrecv")
            .arg(RUN_COMMANDS)
            .env_clear()
            .envs(variables.filter_map(|name| Some((name, std::env::var_os(name)?))))
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { socket, process, signals })
    }

    fn tell(&self, commands: &[(u32, &str)], time: Duration) -> io::Result<()> {
        let mut list = Vec::new();
        frames::put_number(&mut list, u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        commands.iter().try_for_each(|(_, command)| frames::put_text(&mut list, command.as_bytes()))?;
        self.send(Kind::List, &list, Instant::now() + PATIENCE)
    }

    fn narrow(&self, commands: &[(u32, &str)]) -> io::Result<()> {
        let mut numbers = Vec::new();
        commands.iter().for_each(|(number, _)| frames::put_number(&mut numbers, *number));
        self.send(Kind::Only, &numbers, Instant::now() + PATIENCE)
    }

    fn send_message(
        &self,
        number: u32,
        form: Form,
        (copy, hash): (RecipientCopy<'_>, &str),
        spool: &mut Spool,
        until: Instant,
    ) -> io::Result<()> {
        let mut order = Vec::new();
        frames::put_number(&mut order, number);
        values(copy, hash).iter().try_for_each(|value| frames::put_text(&mut order, value.as_bytes()))?;
        self.send(Kind::Run, &order, until)?;
        let send = |text: &[u8]| text.chunks(MAX_FRAME).try_for_each(|piece| self.send(Kind::Piece, piece, until));
        match form {
            Form::Raw => for_each_piece(copy.reader(spool)?, send),
            Form::Mailbox => mboxrd::write(copy, spool, MAX_FRAME, send),
        }
    }

    fn send(&self, kind: Kind, payload: &[u8], until: Instant) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 5);
        frames::put(&mut frame, kind, payload)?;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match (&self.socket).write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLOUT, until)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&self, until: Instant) -> io::Result<Answer> {
        let mut incoming = Incoming::default();
        let kind = loop {
            match incoming.read(&self.socket, MAX_FRAME)? {
                Some(kind) => break kind,
                None => self.wait(PollFlags::POLLIN, until)?,
            }
        };
        let output = &mut incoming.payload();
        let number = frames::take_number(output)?.cast_signed();
        let output = output.to_vec();
        match kind {
            Kind::Ended => Ok(Answer::Ended { status: ExitStatus::from_raw(number), output }),
            Kind::TooSlow => Ok(Answer::TooSlow { output }),
            Kind::NotStarted => Ok(Answer::NotStarted(io::Error::from_raw_os_error(number))),
            Kind::Broken => Ok(Answer::Broken(io::Error::from_raw_os_error(number))),
            Kind::List | Kind::Only | Kind::Run | Kind::Piece | Kind::End | Kind::Abandon => {
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    /// Waits until the process reads or answers, or until this time. A request to stop is only noted.
    fn wait(&self, events: PollFlags, until: Instant) -> io::Result<()> {
        if Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the process that runs commands does not answer"));
        }
        wait(self.socket.as_fd(), events, Some(self.signals), until)?;
        Ok(())
    }

    /// Closes our side, so that the process sees that nothing more comes and ends.
    fn end(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        let _ = self.end();
        let until = Instant::now() + TERM_PATIENCE + PATIENCE;
        loop {
            // The process closes its side when it ends, which may take a moment.
            let mut descriptors = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
            match poll(&mut descriptors, timeout(until)) {
                Ok(0) | Err(Errno::EINTR) if Instant::now() < until => {}
                Ok(1..) => {
                    let _ = self.process.wait();
                    return;
                }
                _ => return,
            }
        }
    }
}

/// The values of [`VARIABLES`]: the envelope for the command's environment.
fn values(copy: RecipientCopy<'_>, hash: &str) -> [String; VARIABLES.len()] {
    let RecipientCopy { envelope, recipient, .. } = copy;
    let local_part = recipient.local_part();
    let (peer, transaction) = (envelope.peer, envelope.transaction);
    let accepted = transaction.recipients.iter().find(|accepted| accepted.mailbox.is_same(recipient));
    let original = accepted.and_then(|accepted| accepted.original.clone());
    [
        transaction.reverse_path.to_string(),
        recipient.to_string(),
        original.unwrap_or_else(|| recipient.to_string()),
        local_part.to_owned(),
        local_part.split_once('+').map_or("", |(_, extension)| extension).to_owned(),
        recipient.domain().to_owned(),
        peer.address.to_string(),
        peer.name().to_owned(),
        transaction.hello.name.clone(),
        envelope.protocol().to_owned(),
        envelope.user.unwrap_or_default().to_owned(),
        envelope.id.to_owned(),
        hash.to_owned(),
        envelope.tls.map_or("", |tls| tls.version).to_owned(),
        envelope.tls.map_or("", |tls| &tls.cipher).to_owned(),
    ]
}

/// Turns an exit status into an answer: sysexits(3), and qmail's 100 and 111. A status not known to be permanent is
/// temporary.
fn answer(status: ExitStatus, cause: impl FnOnce() -> String) -> Result<(), Reply> {
    if status.success() {
        return Ok(());
    }
    let cause = cause();
    let (refused, broken) = (reply::command_refused, reply::command_broken);
    Err(match status.code() {
        Some(64) => broken(Status(5, 3, 5), "The command that takes this mail was called wrongly", cause),
        Some(65) => refused(554, Status(5, 6, 0), "The message was not understood", cause),
        Some(67) => refused(550, Status(5, 1, 1), "No such user", cause),
        Some(68) => refused(550, Status(5, 1, 2), "No such host", cause),
        Some(69) => broken(Status(5, 3, 0), "Service unavailable", cause),
        Some(70) => broken(Status(5, 3, 0), "The command that takes this mail is broken", cause),
        Some(76) => refused(554, Status(5, 5, 0), "Protocol error", cause),
        Some(77) => refused(550, Status(5, 7, 1), "Permission denied", cause),
        Some(100) => refused(554, Status(5, 3, 0), "The message was refused", cause),
        _ => reply::try_again(cause),
    })
}

/// How long the process may take for everything that does not depend on a command.
const PATIENCE: Duration = Duration::from_secs(10);

/// This program as it is running, even if its file was replaced since (proc(5)).
const SELF: &str = "/proc/self/exe";

/// The reason given for a command that was not in the list at the start.
const OUT_OF_REACH: &str = "no such command was within the peer's reach when the session began";
