//! What the test crates share: a scratch folder, the built binary with a TCP connection as a super-server would start
//! it, and waiting with a bound for everything.
#![allow(dead_code, reason = "each test crate uses a part of this")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The binary under test.
pub const MAILRECV: &str = env!("CARGO_BIN_EXE_mailrecv");

/// The configuration's name in a [`Scratch`] folder.
pub const CONFIG: &str = "mailrecv.conf";

/// The log's name in a [`Scratch`] folder.
pub const LOG: &str = "log";

/// Nothing that works takes this long, even on a busy machine; what does not work is given up on after it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of one test, with a configuration and a log in it; it is the current folder of what the test starts.
pub struct Scratch(TempDir);

impl Scratch {
    /// An empty folder.
    pub fn new() -> Self {
        Self(TempDir::with_prefix("mailrecv-test-").expect("a temporary folder"))
    }

    /// A folder with this configuration.
    pub fn with_config(config: &str) -> Self {
        let scratch = Self::new();
        scratch.write(CONFIG, config);
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("writing into the scratch folder");
    }

    /// The content of a file, with `\xHH` for bytes that are no text; empty if there is no such file.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        bytes
            .utf8_chunks()
            .flat_map(|chunk| {
                let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                [chunk.valid().to_owned(), invalid]
            })
            .collect()
    }

    /// The lines of the log without their dates, as `[PEER] TEXT`. The warning that we run as root, which depends on who
    /// runs the tests, is left out.
    pub fn log(&self) -> Vec<String> {
        let without_prefix = |line: &str| line.split_once("]: ").map_or(line, |(_, text)| text).to_owned();
        let log = self.read(LOG);
        log.lines().map(without_prefix).filter(|line| !line.contains("WARNING: running as root")).collect()
    }

    /// The binary, told where configuration and log are.
    pub fn mailrecv(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(MAILRECV, &["-c", CONFIG, "-l", LOG]);
        command.args(arguments);
        command
    }

    /// Some program, in this folder.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// What a program says that ends by itself.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        output(self.command(program, arguments))
    }

    /// Starts the receiver with a connection from this machine; `arguments` follow those for configuration and log.
    pub fn session(&self, arguments: &[&str]) -> Session {
        Session::start(self.mailrecv(arguments))
    }

    /// Like [`Scratch::session`], with a peer of which nothing has to be looked up, and the greeting read.
    pub fn greeted(&self) -> Session {
        let mut session = self.session(&["--peer", PEER]);
        session.expect("220 ");
        session
    }
}

/// A peer with a name, so that no test depends on the machine's resolver.
pub const PEER: &str = "192.0.2.7=mail.example.net";

/// Runs a command and collects its output; one that does not end is killed, and the test fails.
pub fn output(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starting a program");
    let pid = pid_of(&child);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("the output of a program"),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            panic!("{command:?} did not end in time");
        }
    }
}

/// Runs Python with a script; it must succeed. Returns what it printed.
pub fn python(scratch: &Scratch, script: &str, arguments: &[&str]) -> String {
    let output = scratch.run("python3", &[&["-c", script], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "python3: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A running receiver and the client's end of its connection.
pub struct Session {
    process: Process,
    stream: TcpStream,
    /// What has come and is not read yet.
    buffer: Vec<u8>,
}

impl Session {
    /// Starts a command with the accepted connection as descriptors 0, 1 and 2, as xinetd does.
    pub fn start(command: Command) -> Self {
        Self::start_at(command, "127.0.0.1:0".parse().expect("an address"))
    }

    /// Like [`Session::start`], listening on this address; a wildcard address is connected to over IPv4.
    pub fn start_at(mut command: Command, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("listening on the loopback interface");
        let mut target = listener.local_addr().expect("the port that the system chose");
        if target.ip().is_unspecified() {
            target.set_ip([127, 0, 0, 1].into());
        }
        let stream = TcpStream::connect(target).expect("connecting to ourselves");
        let (accepted, _) = listener.accept().expect("accepting the connection");
        let accepted = OwnedFd::from(accepted);
        let copy = || Stdio::from(accepted.try_clone().expect("a copy of the descriptor"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let process = Process::start(command);
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { process, stream, buffer: Vec::new() }
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A receiver that has hung up is noticed by whoever reads next.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Sends as much as goes out in this time, and reads nothing; nor has the system much room for what is not read.
    pub fn send_without_reading(&mut self, bytes: &[u8], time: Duration) {
        nix::sys::socket::setsockopt(&self.stream, nix::sys::socket::sockopt::RcvBuf, &4096).expect("SO_RCVBUF");
        self.stream.set_write_timeout(Some(time)).expect("SO_SNDTIMEO");
        let _ = self.stream.write_all(bytes);
    }

    /// Sends all of it; whether the receiver took it in this time.
    pub fn send_within(&mut self, bytes: &[u8], time: Duration) -> bool {
        self.stream.set_write_timeout(Some(time)).expect("SO_SNDTIMEO");
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a command line and returns the reply.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    /// The next line without its CRLF; `None` at the end of the connection.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                let line = String::from_utf8(line).expect("a reply in UTF-8");
                return Some(line.strip_suffix("\r\n").expect("a reply that ends with CRLF").to_owned());
            }
            if !self.read_more(PATIENCE) {
                let rest = String::from_utf8_lossy(&self.buffer);
                assert!(rest.is_empty(), "the connection ended in the middle of a line: {rest:?}");
                return None;
            }
        }
    }

    /// A whole reply, its lines joined by LF.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let line = self.line().unwrap_or_else(|| panic!("the connection ended, after {reply:?}"));
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            reply.push_str(&line);
            if is_last {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Reads a reply that begins like this.
    #[track_caller]
    pub fn expect(&mut self, beginning: &str) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(beginning), "expected a reply like {beginning:?}, got {reply:?}");
        reply
    }

    /// Sends a line and reads a reply that begins like this.
    #[track_caller]
    pub fn exchange(&mut self, line: &str, beginning: &str) -> String {
        let reply = self.ask(line);
        assert!(reply.starts_with(beginning), "expected {line:?} to get {beginning:?}, got {reply:?}");
        reply
    }

    /// EHLO, MAIL, RCPT for each recipient, DATA: up to where the text follows.
    #[track_caller]
    pub fn begin_message(&mut self, recipients: &[&str]) {
        self.exchange("EHLO client.example", "250-");
        self.exchange("MAIL FROM:<sender@client.example>", "250 ");
        for recipient in recipients {
            self.exchange(&format!("RCPT TO:<{recipient}>"), "250 ");
        }
        self.exchange("DATA", "354 ");
    }

    /// Sends a short message and returns the final reply.
    #[track_caller]
    pub fn deliver(&mut self, recipients: &[&str]) -> String {
        self.begin_message(recipients);
        self.send("Subject: test\r\n\r\nbody\r\n.\r\n");
        self.reply()
    }

    /// Whether nothing comes for so long, the connection staying open.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        let before = self.buffer.len();
        let open = self.read_more(time);
        open && self.buffer.len() == before
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Breaks the connection off with a RST, as a peer that crashed does.
    pub fn reset(self) -> Process {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.stream, nix::sys::socket::sockopt::Linger, &linger).expect("SO_LINGER");
        self.process
    }

    /// Closes the connection without a word.
    pub fn hang_up(self) -> Process {
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
    pub fn end(mut self) -> (Vec<String>, i32) {
        self.half_close();
        let mut rest = Vec::new();
        while let Some(line) = self.line() {
            rest.push(line);
        }
        (rest, self.process.exit_code())
    }

    /// Whether the connection is still open; waits at most so long for something to read.
    fn read_more(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("SO_RCVTIMEO");
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(length) => {
                self.buffer.extend_from_slice(&piece[..length]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(time < PATIENCE, "no reply came, after {:?}", String::from_utf8_lossy(&self.buffer));
                true
            }
            // Bytes of ours that it had not read when it closed.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("reading a reply: {error}"),
        }
    }
}

/// A child that does not outlive its test.
pub struct Process(Child);

impl Process {
    pub fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn pid(&self) -> Pid {
        pid_of(&self.0)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("sending a signal");
    }

    /// Waits for the end. A death by signal N counts as 128 + N, as in a shell.
    pub fn exit_code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.wait();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    fn wait(&mut self) -> ExitStatus {
        wait_until("the end of a process", || self.0.try_wait().expect("waiting for a process"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// The most memory that a running process has had, in KiB.
pub fn peak_memory(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether we are root, which `what` needs. The project's own runs are root's and leave nothing out.
#[expect(clippy::print_stdout, reason = "the test harness shows it with the test")]
pub fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{what} needs root");
    if !root {
        println!("left out: {what} needs root");
    }
    root
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The files below a folder of the repository with this extension, in order.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}
