//! The process that runs the commands of one session: this program, started again before the session enters its
//! sandbox.
//!
//! It is told the commands before anything that the peer sent is read. From then on the peer may have taken over the
//! session; but all that a session can do is to name a command by its number, with values for the environment and a
//! message. Anything else ends this process. A message without its end mark is not taken for a complete one: its
//! command is killed before it sees the end of its input. This process ends with the session.

use std::convert::Infallible;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::Pid;

use super::frames::{self, Incoming, Kind, MAX_FRAME};
use crate::config::{HASH_VARIABLE, PATH, SHELL, VARIABLES};
use crate::exit::Exit;
use crate::signals::Signals;
use crate::user::Account;
use crate::wait::{is_ready, timeout};

/// Runs what the session at standard input asks for, until the session is gone.
pub(crate) fn run() -> Exit {
    let _ = nix::sys::prctl::set_name(c"mailrecv");
    // As in the session itself: both handle the same mail.
    let _ = nix::sys::prctl::set_dumpable(false);
    let Some(session) = Session::at_standard_input() else { return Exit::Usage };
    // Signals for the session may reach us too, and are ignored: the session says when it needs no more commands.
    let Ok(signals) = Signals::new() else { return Exit::OsErr };
    match serve(session, &signals) {
        Err(Trouble::Session(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Exit::Ok,
        Err(_) => Exit::Software,
    }
}

/// Why something could not be done to its end.
enum Trouble {
    /// The session is gone, or sent something that no session sends.
    Session(io::Error),
    /// The system does not let the command run to its end.
    Command(io::Error),
}

fn serve(mut session: Session, signals: &Signals) -> Result<Infallible, Trouble> {
    let mut commands = session.list()?;
    loop {
        match session.next()? {
            Kind::Only => commands.keep(session.incoming.payload()).map_err(Trouble::Session)?,
            Kind::Run => {
                let order = commands.order(session.incoming.payload()).map_err(Trouble::Session)?;
                let frame = session.carry_out(&order, signals)?;
                (&session.socket).write_all(&frame).map_err(Trouble::Session)?;
            }
            _ => return Err(hostile()),
        }
    }
}

/// The commands that the session named before it entered its sandbox.
struct Commands {
    time: Duration,
    /// Each command, and whether it may still be run.
    list: Vec<(String, bool)>,
}

/// One command to be run.
struct Order<'c> {
    command: &'c str,
    environment: Vec<(&'static str, String)>,
    deadline: Instant,
}

impl Commands {
    /// From now on only these commands may be run, if they could be run before.
    fn keep(&mut self, mut numbers: &[u8]) -> io::Result<()> {
        let mut kept = vec![false; self.list.len()];
        while !numbers.is_empty() {
            let number = usize::try_from(frames::take_number(&mut numbers)?).map_err(io::Error::other)?;
            *kept.get_mut(number).ok_or(io::ErrorKind::InvalidData)? = true;
        }
        for ((_, is_within_reach), kept) in self.list.iter_mut().zip(kept) {
            *is_within_reach &= kept;
        }
        Ok(())
    }

    fn order(&self, mut payload: &[u8]) -> io::Result<Order<'_>> {
        let number = usize::try_from(frames::take_number(&mut payload)?).map_err(io::Error::other)?;
        let Some((command, true)) = self.list.get(number) else { return Err(io::ErrorKind::InvalidData.into()) };
        // The same variables as Postfix sets (local(8)).
        let Account { name, home, shell } = Account::ours();
        let mut environment = vec![
            ("PATH", PATH.to_owned()),
            ("HOME", home),
            ("USER", name.clone()),
            ("LOGNAME", name),
            ("SHELL", shell),
        ];
        for (name, _) in VARIABLES {
            let value = std::str::from_utf8(frames::take_text(&mut payload)?).map_err(io::Error::other)?;
            if name == HASH_VARIABLE && value.is_empty() {
                continue;
            }
            // A newline could end up in a header, an escape sequence on a terminal.
            environment.push((name, value.chars().filter(|c| !c.is_control()).collect()));
        }
        if !payload.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Order { command, environment, deadline: Instant::now() + self.time })
    }
}

/// The session that asks for commands.
struct Session {
    socket: UnixStream,
    incoming: Incoming,
}

impl Session {
    /// `None` if standard input is not an unnamed local socket: a mistake in a super-server's entry must not let
    /// anybody run commands over the network, or as another user.
    fn at_standard_input() -> Option<Self> {
        use std::os::fd::AsRawFd;
        let input = io::stdin();
        let address: SockaddrStorage = getsockname(input.as_raw_fd()).ok()?;
        let has_name = address.as_unix_addr().is_some_and(|own| own.path().is_some());
        if address.family() != Some(AddressFamily::Unix) || has_name {
            return None;
        }
        let socket = UnixStream::from(input.as_fd().try_clone_to_owned().ok()?);
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, incoming: Incoming::default() })
    }

    /// Reads the first frame, the list of commands. Its length depends on the configuration, so it has no limit.
    fn list(&mut self) -> Result<Commands, Trouble> {
        if self.next_within(usize::MAX)? != Kind::List {
            return Err(hostile());
        }
        let payload = &mut self.incoming.payload();
        let mut read = || {
            let time = Duration::from_secs(frames::take_number(payload)?.into());
            let mut list = Vec::new();
            while !payload.is_empty() {
                let command = String::from_utf8(frames::take_text(payload)?.to_owned()).map_err(io::Error::other)?;
                list.push((command, true));
            }
            Ok(Commands { time, list })
        };
        read().map_err(Trouble::Session)
    }

    /// Waits for the next frame.
    fn next(&mut self) -> Result<Kind, Trouble> {
        self.next_within(MAX_FRAME)
    }

    fn next_within(&mut self, longest: usize) -> Result<Kind, Trouble> {
        loop {
            if let Some(kind) = self.incoming.read(&self.socket, longest).map_err(Trouble::Session)? {
                return Ok(kind);
            }
            let mut descriptors = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Trouble::Session(error.into())),
            }
        }
    }

    /// Runs a command with the message that follows its order; returns the frame that answers.
    fn carry_out(&mut self, order: &Order<'_>, signals: &Signals) -> Result<Vec<u8>, Trouble> {
        let mut has_come = false;
        let answer = match Running::start(signals, order) {
            Err(error) => answer(Kind::NotStarted, code(&error), b""),
            Ok(mut running) => {
                let ended = running.feed(self, &mut has_come);
                running.output.drain();
                match ended {
                    Ok(Some(status)) => answer(Kind::Ended, status.into_raw(), running.output.first_line()),
                    Ok(None) => answer(Kind::TooSlow, 0, running.output.first_line()),
                    Err(Trouble::Command(error)) => answer(Kind::Broken, code(&error), b""),
                    Err(trouble) => return Err(trouble),
                }
            }
        };
        // Skips the rest of a message that the command did not read.
        while !has_come {
            match self.next()? {
                Kind::Piece => {}
                Kind::End | Kind::Abandon => has_come = true,
                _ => return Err(hostile()),
            }
        }
        answer.map_err(Trouble::Session)
    }
}

fn hostile() -> Trouble {
    Trouble::Session(io::ErrorKind::InvalidData.into())
}

fn answer(kind: Kind, number: i32, output: &[u8]) -> io::Result<Vec<u8>> {
    let mut frame = Vec::new();
    frames::put(&mut frame, kind, &[&number.to_le_bytes()[..], output].concat())?;
    Ok(frame)
}

/// The number of a system error; the session turns it into words.
fn code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}

/// A command that was started. If this is dropped before the command has ended, its process group is killed.
struct Running<'s> {
    signals: &'s Signals,
    child: Child,
    /// The command's standard input. It is closed when the whole message is written, or when the command was killed,
    /// but not before: a command that sees it closed takes the message for complete.
    input: Option<ChildStdin>,
    output: Output,
    deadline: Instant,
    /// The exit status, once the child was waited for. From then on its process id may belong to another process.
    status: Option<ExitStatus>,
}

/// What to wait for besides the end of the command and its output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitFor {
    /// Input from the session.
    Session,
    /// Room in the command's standard input.
    Room,
    /// Nothing else.
    End,
}

impl<'s> Running<'s> {
    fn start(signals: &'s Signals, order: &Order<'_>) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let mut child = signals.spawn(
            Command::new(SHELL)
                .args(["-c", order.command])
                // Our own environment has only what the session has passed on.
                .envs(order.environment.iter().map(|(name, value)| (name, value)))
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(writer.try_clone()?)
                .stderr(writer),
        )?;
        let input = child.stdin.take();
        let output = Output { reader, first: Vec::new(), ended: false };
        let running = Self { signals, child, input, output, deadline: order.deadline, status: None };
        set_nonblocking(&running.output.reader)?;
        running.input.as_ref().map_or(Ok(()), set_nonblocking)?;
        Ok(running)
    }

    /// Passes the message from the session to the command and waits for the command's end; `None` if the time ran out.
    /// `has_come` becomes true when the session has sent the end of the message.
    fn feed(&mut self, session: &mut Session, has_come: &mut bool) -> Result<Option<ExitStatus>, Trouble> {
        while !self.is_over() && !*has_come {
            match session.incoming.read(&session.socket, MAX_FRAME).map_err(Trouble::Session)? {
                None => self.wait(session.socket.as_fd(), WaitFor::Session)?,
                Some(Kind::Piece) => self.write(session)?,
                Some(Kind::End) => {
                    *has_come = true;
                    self.input = None;
                }
                Some(Kind::Abandon) => {
                    *has_come = true;
                    return Err(Trouble::Command(Errno::ECANCELED.into()));
                }
                Some(_) => return Err(hostile()),
            }
        }
        while !self.is_over() {
            self.wait(session.socket.as_fd(), WaitFor::End)?;
        }
        if self.status.is_none() {
            self.status = self.child.try_wait().map_err(Trouble::Command)?;
        }
        Ok(self.status)
    }

    /// Writes a piece of the message. If a command stops reading, its exit status decides what that means.
    fn write(&mut self, session: &Session) -> Result<(), Trouble> {
        let mut rest = session.incoming.payload();
        while !rest.is_empty() && !self.is_over() {
            let Some(input) = &mut self.input else { return Ok(()) };
            match input.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => self.wait(session.socket.as_fd(), WaitFor::Room)?,
                    io::ErrorKind::BrokenPipe => self.input = None,
                    _ => return Err(Trouble::Command(error)),
                },
            }
        }
        Ok(())
    }

    /// Whether the command has ended or its time is up.
    fn is_over(&self) -> bool {
        self.status.is_some() || Instant::now() >= self.deadline
    }

    /// Waits until the wanted event happens, the command writes or ends, or its time is up. It is an error if the
    /// session is gone, because then nobody hears how the command ends.
    fn wait(&mut self, session: BorrowedFd<'_>, wait_for: WaitFor) -> Result<(), Trouble> {
        self.status = self.child.try_wait().map_err(Trouble::Command)?;
        if self.is_over() {
            return Ok(());
        }
        // The session's end is noticed even while nothing is read from it.
        let gone = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let of_session = if wait_for == WaitFor::Session { gone | PollFlags::POLLIN } else { gone };
        let mut descriptors =
            vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(session, of_session)];
        if !self.output.ended {
            descriptors.push(PollFd::new(self.output.reader.as_fd(), PollFlags::POLLIN));
        }
        if wait_for == WaitFor::Room {
            descriptors.extend(self.input.as_ref().map(|input| PollFd::new(input.as_fd(), PollFlags::POLLOUT)));
        }
        match poll(&mut descriptors, timeout(self.deadline)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Trouble::Command(error.into())),
        }
        if is_ready(&descriptors[0]) {
            self.signals.clear();
        }
        // `None` is POLLRDHUP, which nix has no name for.
        if descriptors[1].revents().is_none_or(|events| events.intersects(!PollFlags::POLLIN)) {
            return Err(Trouble::Session(io::ErrorKind::UnexpectedEof.into()));
        }
        self.output.drain();
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A command that ended by itself may leave other processes behind; one that did not is killed with all of its
        // group.
        let group = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let (Ok(group), None) = (group, self.status) {
            let _ = killpg(group, Signal::SIGTERM);
            let patience = Instant::now() + TERM_PATIENCE;
            // The others may take longer than the first one. That one has to be reaped, or its group would seem to
            // exist still.
            while Instant::now() < patience && self.child.try_wait().is_ok() && killpg(group, None).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// What a command writes: the beginning is kept and the rest thrown away, so that the command never waits for us.
struct Output {
    reader: PipeReader,
    first: Vec<u8>,
    /// Whether the other end is closed.
    ended: bool,
}

impl Output {
    /// Reads what is there without waiting for more: a grandchild may keep the other end open for any time.
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

fn set_nonblocking(descriptor: &impl AsFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// How much of a command's output is kept, in bytes.
const MAX_OUTPUT: usize = 1024;

/// How long a command has between SIGTERM and SIGKILL.
pub(super) const TERM_PATIENCE: Duration = Duration::from_secs(2);
