//! `pipe COMMAND`: `/bin/sh -c COMMAND` with the message on its standard input.
//!
//! Nothing the peer sent is part of the command; it is in environment variables, cleaned of control characters. The
//! command gets no descriptor of ours but two pipes, and is killed with everything it started when its time is up.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Context, failure, mboxrd};
use crate::log::{CommandEnd, Event, said};
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::signals::Signals;
use crate::smtp::reply::{self, Reply, Status};
use crate::wait::{is_ready, timeout};

/// Runs the command and turns its exit status into an answer.
pub(super) fn run(
    context: &Context<'_>,
    command: &str,
    copy: RecipientCopy<'_>,
    spool: &mut Spool,
) -> Result<(), Reply> {
    let log = context.log;
    log.event(&Event::StartingCommand(command));
    let limit = &context.config.limits.pipe_secs;
    let mut running = Running::start(context.signals, command, copy, Instant::now() + limit.value)
        .map_err(|error| failure(&error, &format!("starting '{command}'")))?;
    let ended = running.feed(context, copy, spool);
    running.output.drain();
    let output = running.output.first_line();
    match ended {
        Ok(Some(status)) => {
            log.event(&Event::CommandEnded { command, status, output });
            answer(status, || CommandEnd { command, status, output }.to_string())
        }
        Ok(None) => Err(reply::worded(&limit.refusal, reply::COMMAND_TOO_SLOW).because(format!(
            "'{command}' was killed after {} seconds{}",
            limit.value.as_secs(),
            said(output)
        ))),
        Err(error) => Err(failure(&error, &format!("running '{command}'"))),
    }
}

/// A command that was started. Dropped, it is killed with its process group, and waited for.
struct Running {
    child: Child,
    /// The command's standard input. It is closed when the whole message is written, and not before the command is
    /// killed: to see it closed would look like the end of the message.
    input: Option<ChildStdin>,
    output: Output,
    deadline: Instant,
    /// The exit status, once the child was waited for: its number may belong to somebody else then.
    status: Option<ExitStatus>,
}

impl Running {
    fn start(signals: &Signals, command: &str, copy: RecipientCopy<'_>, deadline: Instant) -> io::Result<Self> {
        // What the super-server left open is not for commands either.
        close_fds::set_fds_cloexec(3, &[]);
        let (reader, writer) = io::pipe()?;
        let mut child = signals.spawn(
            Command::new("/bin/sh")
                .args(["-c", command])
                .env_clear()
                .envs(environment(copy))
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(writer.try_clone()?)
                .stderr(writer),
        )?;
        let input = child.stdin.take();
        let output = Output { reader, first: Vec::new(), ended: false };
        let running = Self { child, input, output, deadline, status: None };
        set_nonblocking(&running.output.reader)?;
        running.input.as_ref().map_or(Ok(()), set_nonblocking)?;
        Ok(running)
    }

    /// Writes the message to the command and waits for its end. `None` if the time ran out.
    fn feed(
        &mut self,
        context: &Context<'_>,
        copy: RecipientCopy<'_>,
        spool: &mut Spool,
    ) -> io::Result<Option<ExitStatus>> {
        // As Postfix and Exim do it, and as the original did: a `From ` line, and no `>` in front of any other.
        self.write(context, mboxrd::from_line(&copy.envelope.transaction.reverse_path).as_bytes())?;
        for_each_piece(copy.reader(spool)?, |text| self.write(context, text))?;
        if !self.is_over() {
            self.input = None;
        }
        while !self.is_over() {
            self.wait(context)?;
        }
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Writes a part of the message. A command that stops reading has its reasons: its exit status decides.
    fn write(&mut self, context: &Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_over() {
            let Some(input) = &mut self.input else { return Ok(()) };
            match input.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => self.wait(context)?,
                    io::ErrorKind::BrokenPipe => self.input = None,
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Whether the command has ended or its time is up.
    fn is_over(&self) -> bool {
        self.status.is_some() || Instant::now() >= self.deadline
    }

    /// Waits until the command takes input, writes output or ends, or its time is up.
    fn wait(&mut self, context: &Context<'_>) -> io::Result<()> {
        self.status = self.child.try_wait()?;
        if self.is_over() {
            return Ok(());
        }
        let mut descriptors = vec![PollFd::new(context.signals.as_fd(), PollFlags::POLLIN)];
        if !self.output.ended {
            descriptors.push(PollFd::new(self.output.reader.as_fd(), PollFlags::POLLIN));
        }
        descriptors.extend(self.input.as_ref().map(|input| PollFd::new(input.as_fd(), PollFlags::POLLOUT)));
        match poll(&mut descriptors, timeout(self.deadline)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if is_ready(&descriptors[0]) {
            context.signals.clear();
        }
        self.output.drain();
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that ended by itself may leave others behind; one that did not is stopped with all of them.
        let group = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let (Ok(group), None) = (group, self.status) {
            let _ = killpg(group, Signal::SIGTERM);
            let patience = Instant::now() + TERM_PATIENCE;
            // The others may need longer than the first of them, whose end has to be taken note of to be one.
            while Instant::now() < patience && self.child.try_wait().is_ok() && killpg(group, None).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// What a command writes: the beginning is kept, the rest thrown away, so that it never waits for us.
struct Output {
    reader: PipeReader,
    first: Vec<u8>,
    /// Whether nobody holds the other end any more.
    ended: bool,
}

impl Output {
    /// Takes what is there, without waiting for more: a grandchild may hold the other end for as long as it likes.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        // Bounded, so that a command that never stops writing cannot hold us here.
        for _ in 0..64 {
            match self.reader.read(&mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(length) => {
                    let room = MAX_OUTPUT - self.first.len();
                    self.first.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    fn first_line(&self) -> &[u8] {
        let text = self.first.trim_ascii_start();
        text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end()
    }
}

/// The envelope, for the command. Values carry no control characters: a newline in one could end up in a header.
fn environment(copy: RecipientCopy<'_>) -> Vec<(&'static str, String)> {
    let RecipientCopy { envelope, recipient, .. } = copy;
    let local_part = recipient.local_part();
    let peer = envelope.peer;
    let variables = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("SENDER", envelope.transaction.reverse_path.to_string()),
        ("RECIPIENT", recipient.to_string()),
        ("ORIGINAL_RECIPIENT", recipient.to_string()),
        ("LOCAL", local_part.to_owned()),
        ("EXTENSION", local_part.split_once('+').map_or("", |(_, extension)| extension).to_owned()),
        ("DOMAIN", recipient.domain().to_owned()),
        ("CLIENT_ADDRESS", peer.address.to_string()),
        ("CLIENT_HOSTNAME", peer.name().to_owned()),
        ("CLIENT_HELO", envelope.transaction.hello.name.clone()),
        ("CLIENT_PROTOCOL", envelope.protocol().to_owned()),
        ("AUTH_USER", String::new()),
        ("MESSAGE_ID", envelope.id.to_owned()),
    ];
    variables.into_iter().map(|(name, value)| (name, value.chars().filter(|c| !c.is_control()).collect())).collect()
}

/// What an exit status means: sysexits(3), and qmail's 100 and 111. What is not known to be permanent is temporary.
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

fn set_nonblocking(descriptor: &impl AsFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// How much of a command's output is kept, in bytes.
const MAX_OUTPUT: usize = 1024;

/// How long a command has between SIGTERM and SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_secs(2);
