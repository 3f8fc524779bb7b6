//! A program that serves one connection, started as a super-server starts it, and the client's end of that connection.

use std::io::{self, PipeReader, PipeWriter};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use crate::process::is_asleep;
use crate::{Client, LOOPBACK, Process, wait_until};

/// The running program and its client.
pub struct Session {
    process: Process,
    client: Client,
}

impl Session {
    /// Starts a command with an accepted connection as descriptors 0, 1 and 2, as xinetd does.
    pub fn start(command: Command) -> Self {
        Self::start_at(command, SocketAddr::new(LOOPBACK[0], 0))
    }

    /// Like [`Session::start`], listening on this address; a wildcard address is connected to over IPv4.
    pub fn start_at(mut command: Command, address: SocketAddr) -> Self {
        let (client, accepted) = connection(address);
        attach(&mut command, &accepted);
        Self { process: Process::start(command), client }
    }

    /// Like [`Session::start`], with standard error elsewhere.
    pub fn start_with_stderr(mut command: Command, stderr: Stdio) -> Self {
        let (client, accepted) = connection(SocketAddr::new(LOOPBACK[0], 0));
        attach(&mut command, &accepted);
        command.stderr(stderr);
        Self { process: Process::start(command), client }
    }

    /// Like [`Session::start`], with a connection at a Unix socket, which has this path for a moment.
    pub fn at_unix_socket(mut command: Command, path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("listening at a Unix socket");
        let client = Client::connect_unix(path);
        let (accepted, _) = listener.accept().expect("a connection");
        std::fs::remove_file(path).expect("the socket's file");
        attach(&mut command, &accepted.into());
        Self { process: Process::start(command), client }
    }

    /// Starts a command that reads from one pipe and writes into another.
    pub fn over_pipes(mut command: Command) -> Self {
        let ((input, to_command), (from_command, output)) = (pipe(), pipe());
        command.stdin(input).stdout(output);
        let process = Process::start(command);
        Self { process, client: Client::over(from_command, to_command) }
    }

    /// The process that was started.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Waits for the end of the process, with the connection left open and nothing read from it.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        self.process.exit_code()
    }

    /// Waits until the program sleeps although there is input for it: until its replies are read, it does nothing more.
    #[track_caller]
    pub fn until_replies_wait(&self) {
        wait_until("replies that wait to be read", || {
            let unread = self.client.unread().filter(|octets| *octets > 0)?;
            // Whoever had waited for input, and not woken yet, would have read it by then.
            (is_asleep(self.pid()) && self.client.unread() == Some(unread)).then_some(())
        });
    }

    /// Closes the connection without a word.
    pub fn hang_up(self) -> Process {
        self.process
    }

    /// Breaks the connection off with a RST, as a peer that crashed does.
    pub fn reset(self) -> Process {
        self.client.reset();
        self.process
    }

    /// QUIT, to the end of the process.
    #[track_caller]
    pub fn quit(mut self) {
        self.exchange("QUIT", "221 ");
        assert_eq!(self.line(), None, "nothing follows the reply to QUIT");
        assert_eq!(self.process.exit_code(), 0);
    }

    /// Half-closes, reads what still comes, waits for the process. Returns that rest and the exit status.
    #[track_caller]
    pub fn end(mut self) -> (Vec<String>, i32) {
        self.half_close();
        let mut rest = Vec::new();
        while let Some(line) = self.line() {
            rest.push(line);
        }
        (rest, self.process.exit_code())
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A connection with both its ends here: the client, and what a server would have accepted at this address.
pub fn connection(address: SocketAddr) -> (Client, OwnedFd) {
    let listener = TcpListener::bind(address).expect("listening on the loopback interface");
    let (stream, accepted) = try_connection(&listener).expect("connecting to ourselves");
    (Client::on_tcp(stream), accepted)
}

/// The same, with a listener that is there already, for those who do this often.
pub fn try_connection(listener: &TcpListener) -> io::Result<(TcpStream, OwnedFd)> {
    let mut target = listener.local_addr()?;
    if target.ip().is_unspecified() {
        target.set_ip(LOOPBACK[0]);
    }
    let stream = TcpStream::connect(target)?;
    let (accepted, _) = listener.accept()?;
    Ok((stream, OwnedFd::from(accepted)))
}

fn pipe() -> (PipeReader, PipeWriter) {
    io::pipe().expect("a pipe")
}

/// Makes a connection descriptors 0, 1 and 2 of a command.
pub fn attach(command: &mut Command, connection: &OwnedFd) {
    let copy = || Stdio::from(connection.try_clone().expect("a copy of the descriptor"));
    command.stdin(copy()).stdout(copy()).stderr(copy());
}
