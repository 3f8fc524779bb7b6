//! Who is measured, and one connection to it: a child started as a super-server starts it, and the peer's end.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use testkit::{Client, PATIENCE};

use crate::Result;
use crate::peer::{Opening, Peer, Protocol, Tls};

#[derive(Clone)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    /// Absolute, so that no figure contains a search of PATH.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Where its mail must lie afterwards, where we know it: a refused mail is fast, and no result.
    pub(crate) mailbox: Option<PathBuf>,
    /// How a session with it begins.
    pub(crate) opening: Opening,
}

impl Contestant {
    pub(crate) fn from_command(command: &str) -> Result<Self> {
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next().ok_or("--against: no command")?;
        let program = if program.contains('/') {
            fs::canonicalize(&program).map_err(|problem| format!("--against {program}: {problem}"))?
        } else {
            find_program(&program).map_err(|problem| format!("--against {problem}"))?
        };
        Ok(Self {
            name: command.to_owned(),
            program,
            arguments: words.collect(),
            mailbox: None,
            opening: Opening::default(),
        })
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub(crate) fn opened_by(self, opening: Opening) -> Self {
        Self { opening, ..self }
    }

    /// The same, watched by a tool that is given the program to start behind its options.
    pub(crate) fn under(&self, tool: &Path, options: &[&str]) -> Self {
        let program = self.program.display().to_string();
        let options = options.iter().map(|option| (*option).to_owned());
        let arguments = options.chain([program]).chain(self.arguments.clone()).collect();
        Self { program: tool.to_owned(), arguments, ..self.clone() }
    }

    pub(crate) fn mailbox_length(&self) -> u64 {
        self.mailbox.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |data| data.len())
    }

    /// Some bytes may be missing, since an mbox has bare LF.
    pub(crate) fn check_mailbox_grew(&self, from: u64, mail: usize) -> Result<()> {
        let grown = self.mailbox_length().saturating_sub(from);
        if self.mailbox.is_some() && grown < u64::try_from(mail)? / 10 * 9 {
            return Err(format!("{mail} bytes of mail were accepted, and the mailbox grew by {grown}").into());
        }
        Ok(())
    }

    /// Synced, so that the disk does not do this work while somebody is being measured.
    pub(crate) fn empty_mailbox(&self) -> Result<()> {
        if let Some(path) = &self.mailbox {
            fs::File::create(path)?.sync_all()?;
        }
        Ok(())
    }
}

/// A child and the other end of its connection.
pub(crate) struct Session {
    child: Child,
    peer: Peer,
    opening: Opening,
    /// Of the message that was offered last.
    recipients: usize,
    pub(crate) connected: Instant,
    pub(crate) started: Instant,
    /// From `started` to the last byte of the greeting.
    pub(crate) to_greeting: Duration,
}

impl Session {
    pub(crate) fn open(contestant: &Contestant, listener: &TcpListener) -> Result<Self> {
        let opening = contestant.opening.clone();
        let connected = Instant::now();
        let peer = TcpStream::connect(listener.local_addr()?)?;
        let accepted = OwnedFd::from(listener.accept()?.0);
        let peer = Peer::Clear(Client::on_tcp(peer.try_clone()?), peer);

        let mut command = Command::new(&contestant.program);
        command.args(&contestant.arguments).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.stdin(accepted.try_clone()?).stdout(accepted).stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().map_err(|problem| format!("{}: {problem}", contestant.program.display()))?;
        drop(command); // and with it our copy of the child's end

        let mut session = Self { child, peer, opening, recipients: 0, connected, started, to_greeting: Duration::ZERO };
        if let Some(Tls::Implicit(handshake)) = &session.opening.tls {
            session.peer.begin_tls(handshake)?;
        }
        session.expect("220")?;
        session.to_greeting = session.started.elapsed();
        Ok(session)
    }

    /// Everything up to where MAIL may follow.
    pub(crate) fn hello(&mut self) -> Result<()> {
        self.say_hello()?;
        self.start_tls()?;
        self.opening.login.map_or(Ok(()), |login| login.log_in(self))
    }

    pub(crate) fn say_hello(&mut self) -> Result<()> {
        let verb = match self.opening.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        self.command(&format!("{verb} bench.localhost"), "250")
    }

    /// STARTTLS, the handshake and EHLO, if that is how a session with it begins.
    pub(crate) fn start_tls(&mut self) -> Result<()> {
        if let Some(Tls::StartTls(handshake)) = self.opening.tls.clone() {
            self.command("STARTTLS", "220")?;
            self.peer.begin_tls(&handshake)?;
            self.say_hello()?;
        }
        Ok(())
    }

    /// EHLO to RCPT.
    pub(crate) fn offer(&mut self, recipients: &[&str]) -> Result<()> {
        self.hello()?;
        self.command("MAIL FROM:<bench@localhost>", "250")?;
        self.recipients = recipients.len();
        recipients.iter().try_for_each(|recipient| self.command(&format!("RCPT TO:<{recipient}>"), "250"))
    }

    pub(crate) fn data(&mut self, message: &[u8]) -> Result<()> {
        self.command("DATA", "354")?;
        self.peer.send(message);
        let replies = match self.opening.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => self.recipients,
        };
        (0..replies).try_for_each(|_| self.expect("250").map(drop))
    }

    /// Returns when the child has exited.
    pub(crate) fn quit(&mut self) -> Result<()> {
        self.say_quit()?;
        self.reap()
    }

    /// The same, and how many pages the child had to ask for (those that needed no disk).
    pub(crate) fn quit_and_count_faults(&mut self) -> Result<f64> {
        self.say_quit()?;
        let stat = self.at_exit("stat")?;
        // proc_pid_stat(5): the tenth field; the second is a name in parentheses.
        let faults = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(7));
        self.reap()?;
        Ok(faults.ok_or("no minflt in /proc/PID/stat")?.parse()?)
    }

    /// Sends these commands, a bounded number at a time, and takes whatever it is answered, until it is hung up on or says
    /// QUIT. Returns the octets that were answered and the microseconds that the child spent on a processor.
    pub(crate) fn spend(&mut self, commands: impl Iterator<Item = String>) -> Result<(f64, f64)> {
        let (mut octets, mut commands) = (0, commands.chain(["QUIT\r\n".to_owned()]).peekable());
        'session: while commands.peek().is_some() {
            let batch: Vec<String> = commands.by_ref().take(100).collect();
            self.peer.send(batch.concat());
            for command in batch {
                let reply = self.peer.try_reply().map_err(|problem| format!("{command}: {problem}"))?;
                octets += command.len();
                if reply.starts_with("421") {
                    break 'session;
                }
            }
        }
        // It may have been closed with input unread.
        let _ = self.peer.try_rest();
        // Documentation/scheduler/sched-stats: nanoseconds, first.
        let statistics = self.at_exit("schedstat")?;
        self.reap()?;
        let nanoseconds: f64 = statistics.split_whitespace().next().ok_or("an empty /proc/PID/schedstat")?.parse()?;
        Ok((f64::from(u32::try_from(octets)?), nanoseconds / 1e3))
    }

    /// A file in /proc when the child has exited: its figures are final then, and there until it is reaped.
    fn at_exit(&self, file: &str) -> Result<String> {
        let child = Id::Pid(Pid::from_raw(i32::try_from(self.child.id())?));
        waitid(child, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    fn say_quit(&mut self) -> Result<()> {
        self.command("QUIT", "221")?;
        self.peer.try_rest()?;
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        // The end of file is the last that one sees of a process before it can be reaped, so this does not spin long.
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("QUIT: {status}").into()),
                None => thread::yield_now(),
            }
        }
        Err("did not exit after QUIT".into())
    }

    fn command(&mut self, command: &str, code: &str) -> Result<()> {
        self.ask(command, code).map(drop)
    }

    /// Sends a line and returns the reply, which has to begin with this code.
    pub(crate) fn ask(&mut self, line: &str, code: &str) -> Result<String> {
        self.peer.send(format!("{line}\r\n"));
        self.expect(code).map_err(|problem| format!("{line}: {problem}").into())
    }

    fn expect(&mut self, code: &str) -> Result<String> {
        let reply = self.peer.try_reply().map_err(|problem| format!("{problem}, where {code} was expected"))?;
        if reply.starts_with(code) { Ok(reply) } else { Err(format!("expected {code}, got {reply}").into()) }
    }

    /// A figure in KiB from the child's `file` in /proc.
    pub(crate) fn memory(&self, file: &str, field: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let value =
            text.lines().find_map(|line| line.strip_prefix(field)).and_then(|rest| rest.split_whitespace().next());
        Ok(value.ok_or_else(|| format!("no {field} in /proc/PID/{file}"))?.parse()?)
    }
}

/// A session that failed must not outlive the benchmark.
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is, administrators' ones included.
pub(crate) fn find_program(name: &str) -> Result<PathBuf> {
    let search = env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let found = env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{name}: not found in {search}").into())
}

/// Builds the program as the README has it installed. The one that cargo built together with this benchmark is not quite
/// that: what development dependencies want of crates that it has in common with them is in it, too.
pub(crate) fn build_mailrecv() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "--bin", "mailrecv"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !build.status()?.success() {
        return Err("mailrecv could not be built (see above)".into());
    }
    // Where cargo puts it whatever it was built for.
    Ok(env!("CARGO_BIN_EXE_mailrecv").into())
}

/// Compiles the yardstick.
pub(crate) fn build_do_nothing(folder: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/do_nothing.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("do_nothing");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    let status = command.args(["-O2", "-static", "-o"]).args([&program, &source]).status().map_err(|problem| {
        format!("{compiler}: {problem}; the benchmark needs a C compiler (Debian: gcc, libc6-dev)")
    })?;
    if !status.success() {
        return Err(format!("{compiler} could not compile {} (see above)", source.display()).into());
    }
    install(&program, folder, "do_nothing")
}

/// A copy, which is what runs on a real system too. It matters: the page cache holds a file that a linker wrote here
/// and there in smaller pieces than one that was copied, and mapping these takes a tenth of mailrecv's start. Copies
/// made at other times differ as much, so all are made now.
pub(crate) fn install(program: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let copy = folder.join(name);
    fs::copy(program, &copy).map_err(|problem| format!("{}: {problem}", program.display()))?;
    Ok(copy)
}
