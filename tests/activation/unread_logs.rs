//! A log that nobody reads: a daemon that hangs, a full pipe on standard error, a FIFO. Mail goes on, and so does
//! `listen`; what could not be written is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testkit::debian::{self, chown};
use testkit::syslog::DevLog;
use testkit::{Session, wait_until};

use crate::support::receiver::{FRED, Receiver};
use crate::support::super_server::Listener;

#[test]
fn a_log_that_nobody_reads_holds_up_no_mail() {
    for kind in Kind::ALL {
        let log = Unread::new(kind, "debug a");
        let mut session = log.session();
        session.expect("220 ");
        session.deliver_subject(FRED, "not held up");
        session.quit();
        let mailbox = log.receiver.read(log.receiver.mailbox());
        assert!(mailbox.contains("\nSubject: not held up\n"), "{kind:?}: {mailbox}");
    }
}

#[test]
fn a_session_whose_log_nobody_reads_stops_when_it_is_told_to() {
    for kind in Kind::ALL {
        let log = Unread::new(kind, "debug a");
        let mut session = log.session();
        session.expect("220 ");
        session.send("NOOP\r\n");
        kill(session.pid(), Signal::SIGTERM).unwrap();
        let (replies, status) = session.end();
        assert!(replies.last().is_some_and(|reply| reply.starts_with("421 ")), "{kind:?}: {replies:?}");
        assert_eq!(status, 0, "{kind:?}");
    }
}

/// The first line that gets through says how many did not.
#[test]
fn lines_that_were_lost_are_counted() {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Stream) {
        let log = Unread::new(kind, "debug a");
        let dialogue = |mut session: Session, after_each: &mut dyn FnMut()| {
            session.expect("220 ");
            for command in ["EHLO client.example", "NOOP", "VRFY fred", "NOPE"] {
                session.ask(command);
                after_each();
            }
            session.quit();
            after_each();
        };
        let whole = log.receiver.path("whole.log");
        dialogue(log.session_with(&["-l", whole.to_str().unwrap()]), &mut || ());
        let lines = log.receiver.read(&whole).lines().count();

        let (mut written, mut drains) = (Vec::new(), 0);
        dialogue(log.session(), &mut || {
            let ours = log.drain();
            drains += 1;
            assert!(drains > 1 || ours.is_empty(), "{kind:?}: the log was not full: {ours:?}");
            written.extend(ours);
        });
        let (_, lost) = written[0].split_once(LOST).unwrap_or_else(|| panic!("{kind:?}: {written:?}"));
        assert!(written[1..].iter().all(|line| !line.contains(LOST)), "{kind:?}: {written:?}");
        assert_eq!(lost.parse::<usize>().unwrap() + written.len() - 1, lines, "{kind:?}: {written:?}");
    }
}

/// What `listen` waits for, all peers wait for.
#[test]
fn listen_waits_for_no_log() {
    for kind in [Kind::Datagrams, Kind::Stream, Kind::Fifo, Kind::Stderr] {
        let log = Unread::new(kind, "");
        let mut listener = log.listener(&["--max-per-address", "1", "127.0.0.1:0"]);
        let mut inside = listener.peer(1);
        inside.expect("220 ");
        let turned_away = || assert!(listener.peer(1).rest().starts_with("421 "), "{kind:?}");
        (0..30).for_each(|_| turned_away());
        if kind != Kind::Stream {
            let mut written = log.drain();
            turned_away();
            let lost = |lines: &[String]| -> usize {
                lines
                    .iter()
                    .filter_map(|line| line.split_once("[listen] ")?.1.strip_prefix(LOST)?.parse::<usize>().ok())
                    .sum()
            };
            let refused = |lines: &[String]| lines.iter().filter(|line| line.contains("ERROR: 421 Too many")).count();
            // Peers are told first, so the last ones may be written now.
            wait_until("a line about each peer", || {
                written.extend(log.drain());
                (lost(&written) + refused(&written) == 31).then_some(())
            });
            assert!(lost(&written) >= 29, "{kind:?}: the log was not full: {written:?}");
            log.fill();
        }
        // It has something to say about the session that it waits for.
        listener.daemon.signal(Signal::SIGTERM);
        wait_until("the end of listening", || {
            std::net::TcpStream::connect(listener.addresses[0]).is_err().then_some(())
        });
        inside.exchange("QUIT", "221");
        assert_eq!(listener.daemon.exit_code(), 0, "{kind:?}");
    }
}

/// A log may take its time, but not between a message that is delivered and the sender who must know.
#[test]
fn the_answer_to_a_message_leaves_before_the_log_hears_of_it() {
    let receiver = Receiver::new("debug a");
    let mut command = debian::command("strace", "strace");
    command.args(["-y", "-s", "300", "-e", "trace=write,sendto", "-o"]).arg(receiver.path("calls"));
    command.arg(receiver.binary()).arg("-c").arg(receiver.config()).args(["--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    session.deliver_subject(FRED, "answered");
    session.quit();
    let calls = receiver.read("calls");
    let first = |part: &str| calls.lines().position(|call| call.contains(part)).unwrap_or_else(|| panic!("{calls}"));
    let answered = first("\"250 2.0.0 Message accepted");
    for line in ["': delivered", "DEBUG: SMTP reply: 250 Message accepted"] {
        assert!(answered < first(line), "`{line}` stands before the answer:\n{calls}");
    }
}

/// Mail that people are to see is not lost because nobody looks: the sender keeps it.
#[test]
fn print_gives_up_on_a_log_that_nobody_reads() {
    for kind in Kind::ALL {
        let log = Unread::new(kind, "limit.idle_secs 2\ndeliver rcpt_to seen@example.com print");
        let mut session = log.session();
        // In one write, so that nothing but `print` takes time.
        session.send(
            "EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<seen@example.com>\r\nDATA\r\nx\r\n.\r\nNOOP\r\nQUIT\r\n",
        );
        for reply in ["220 ", "250-", "250 ", "250 ", "354 ", "451 4.3.0 ", "250 ", "221 "] {
            session.expect(reply);
        }
        assert_eq!(session.end(), (Vec::new(), 0), "{kind:?}");
    }
}

#[test]
fn print_gives_up_when_it_is_told_to_stop() {
    for kind in [Kind::Datagrams, Kind::Stderr, Kind::StderrOfAnother, Kind::Fifo] {
        let log = Unread::new(kind, "deliver rcpt_to seen@example.com print");
        let mut session = log.session();
        session.expect("220 ");
        session.begin_message(&["seen@example.com"]);
        session.send("Subject: x\r\n\r\nx\r\n.\r\n");
        kill(session.pid(), Signal::SIGTERM).unwrap();
        let (replies, status) = session.end();
        // Or it had not come to the message yet.
        let answers: Vec<&str> = replies.iter().map(|reply| &reply[..4]).collect();
        assert!([&["451 ", "421 "][..], &["421 "]].contains(&&answers[..]), "{kind:?}: {replies:?}");
        assert_eq!(status, 0, "{kind:?}");
    }
}

/// More than a pipe has room for, and a reader who comes to it later.
#[test]
fn print_waits_for_a_slow_reader() {
    for kind in [Kind::Datagrams, Kind::Stderr, Kind::StderrOfAnother, Kind::Fifo] {
        let log = Unread::new(kind, "deliver rcpt_to seen@example.com print raw");
        let mut session = log.session();
        session.expect("220 ");
        session.begin_message(&["seen@example.com"]);
        let text: String = (0..3_000).map(|number| format!("line {number}, {}\r\n", "x".repeat(50))).collect();
        session.send(format!("Subject: x\r\n\r\n{text}.\r\n"));
        let reply = thread::spawn(move || {
            let reply = session.reply();
            session.quit();
            reply
        });
        let mut seen = Vec::new();
        while !reply.is_finished() {
            seen.extend(log.drain());
        }
        seen.extend(log.drain());
        assert!(reply.join().unwrap().starts_with("250 "), "{kind:?}");
        let lines = seen.iter().filter_map(|line| line.split_once("| line ")?.1.split_once(','));
        let numbers: Vec<usize> = lines.map(|(number, _)| number.parse().unwrap()).collect();
        assert_eq!(numbers, (0..3_000).collect::<Vec<_>>(), "{kind:?}");
    }
}

/// Why nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A log daemon does not read from its socket.
    Datagrams,
    /// A log daemon that is connected to does not accept anybody.
    Stream,
    /// Standard error is a pipe that is full.
    Stderr,
    /// It was made by another user than the one that the session becomes.
    StderrOfAnother,
    /// The log file is a FIFO that is full.
    Fifo,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Datagrams, Self::Stream, Self::Stderr, Self::StderrOfAnother, Self::Fifo];
}

/// An installation whose log is full.
struct Unread {
    receiver: Receiver,
    reader: Reader,
    _dev_log: Option<DevLog>,
}

/// Who ought to read.
enum Reader {
    Datagrams(UnixDatagram),
    Stream { _listener: UnixListener, _waiting: Vec<UnixStream> },
    Stderr(File, PipeWriter),
    Fifo(File),
}

impl Unread {
    fn new(kind: Kind, directives: &str) -> Self {
        let mut receiver = Receiver::new(directives);
        let dev_log = matches!(kind, Kind::Datagrams | Kind::Stream).then(DevLog::new);
        let (target, reader) = match (kind, &dev_log) {
            (Kind::Datagrams | Kind::Stream, None) => unreachable!("made above"),
            (Kind::Datagrams, Some(dev_log)) => {
                let socket = UnixDatagram::bind(dev_log.socket()).unwrap();
                socket.set_nonblocking(true).unwrap();
                ("syslog", Reader::Datagrams(socket))
            }
            (Kind::Stream, Some(dev_log)) => {
                let listener = UnixListener::bind(dev_log.socket()).unwrap();
                listen(&listener, Backlog::new(1).unwrap()).unwrap();
                // One more than the backlog may wait (listen(2) on Linux).
                let waiting = (0..2).map(|_| UnixStream::connect(dev_log.socket()).unwrap()).collect();
                ("syslog", Reader::Stream { _listener: listener, _waiting: waiting })
            }
            (Kind::Stderr | Kind::StderrOfAnother, _) => {
                let (reader, writer) = io::pipe().unwrap();
                set_nonblocking(&reader, true);
                ("stderr", Reader::Stderr(File::from(std::os::fd::OwnedFd::from(reader)), writer))
            }
            (Kind::Fifo, _) => {
                let path = receiver.path("fifo");
                mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
                chown(&path, debian::USER);
                let both = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
                ("fifo", Reader::Fifo(both.unwrap()))
            }
        };
        if let Some(dev_log) = &dev_log {
            receiver.logs_to(dev_log);
        }
        let target = if target == "fifo" { receiver.path("fifo").display().to_string() } else { target.to_owned() };
        let user = if kind == Kind::StderrOfAnother { format!("user {}", debian::USER) } else { String::new() };
        receiver.configure(&format!("logfile {target}\n{user}\n{directives}"));
        let unread = Self { receiver, reader, _dev_log: dev_log };
        unread.fill();
        unread
    }

    /// Leaves room for nothing.
    fn fill(&self) {
        let full = |result: io::Result<usize>| result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        match &self.reader {
            Reader::Datagrams(socket) => {
                let filler = UnixDatagram::unbound().unwrap();
                filler.set_nonblocking(true).unwrap();
                let to = socket.local_addr().unwrap();
                while !full(filler.send_to(b"filler", to.as_pathname().unwrap())) {}
            }
            Reader::Stream { .. } => {}
            Reader::Stderr(_, writer) => {
                set_nonblocking(writer, true);
                while !full((&mut &*writer).write(b"\n")) {}
                // Whoever inherits it has not asked for that.
                set_nonblocking(writer, false);
            }
            Reader::Fifo(file) => while !full((&mut &*file).write(b"\n")) {},
        }
    }

    /// Reads what is there, and returns what mailrecv wrote of it.
    fn drain(&self) -> Vec<String> {
        let mut text = Vec::new();
        let mut room = [0; 64 * 1024];
        loop {
            let read = match &self.reader {
                Reader::Datagrams(socket) => socket.recv(&mut room),
                Reader::Stream { .. } => panic!("nobody is accepted"),
                Reader::Stderr(file, _) | Reader::Fifo(file) => (&mut &*file).read(&mut room),
            };
            match read {
                Ok(length) => text.extend_from_slice(&room[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            if let Reader::Datagrams(_) = self.reader {
                text.push(b'\n');
            }
        }
        let text = String::from_utf8(text).unwrap();
        text.lines().filter(|line| line.contains("MAILRECV[")).map(str::to_owned).collect()
    }

    fn session(&self) -> Session {
        self.session_with(&[])
    }

    fn session_with(&self, arguments: &[&str]) -> Session {
        let mut command = self.receiver.command();
        command.args(["--peer", PEER]).args(arguments);
        let command = self.receiver.launched(command);
        match &self.reader {
            Reader::Stderr(_, writer) => Session::start_with_stderr(command, Stdio::from(writer.try_clone().unwrap())),
            _ => Session::start(command),
        }
    }

    fn listener(&self, arguments: &[&str]) -> Listener {
        let mut command = self.receiver.command();
        command.arg("listen").args(arguments);
        if let Reader::Stderr(_, writer) = &self.reader {
            // As it is ours; a name for it is all that the shell needs.
            let name = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(writer));
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$@\" 2>\"$0\"", &name]).arg(command.get_program()).args(command.get_args());
            command = shell;
        }
        Listener::of(&self.receiver, command)
    }
}

fn set_nonblocking(descriptor: impl AsFd, nonblocking: bool) {
    let mut flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL).unwrap());
    flags.set(OFlag::O_NONBLOCK, nonblocking);
    fcntl(&descriptor, FcntlArg::F_SETFL(flags)).unwrap();
}

/// Nothing of it has to be looked up.
const PEER: &str = "192.0.2.7=mail.example.net";

/// What a line says of those that should stand before it.
const LOST: &str = "WARNING: lines that were lost before this one: ";
