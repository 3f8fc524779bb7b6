//! Started into misery (cases B.8 and B.9): with hardly any descriptors, memory or processes, with closed descriptors, in
//! a folder that is gone, with an odd command line or environment. Whatever happens, the peer sees SMTP or nothing, what
//! was answered 250 lies in the mailbox, and what was not does not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use testkit::process::{children, copy_program};
use testkit::{Broken, Session, debian, is_root, output};

const DESTINATIONS: &str = "domain mx.example\n\
    deliver rcpt_to file@mx.example append inbox\n\
    deliver rcpt_to folder@mx.example maildir dir\n\
    deliver rcpt_to command@mx.example pipe cat >piped\n";

/// Every recipient, and where its mail goes.
const RECIPIENTS: [(&str, &str); 3] =
    [("file@mx.example", "inbox"), ("folder@mx.example", "dir/new"), ("command@mx.example", "piped")];

/// Small, and large enough to be spooled in a file.
const SIZES: [usize; 2] = [100, 1_000_000];

#[test]
fn few_descriptors() {
    let mut not_enough = 0;
    for descriptors in [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20, 24] {
        for (recipient, place) in RECIPIENTS {
            for size in SIZES {
                let trial = Trial::new(DESTINATIONS, &["prlimit", &format!("--nofile={descriptors}")]);
                let accepted = trial.deliver(recipient, size);
                trial.assert_true(accepted, place, &format!("{descriptors} descriptors, {recipient}, {size}"));
                // Unless the last descriptor was needed for something else.
                let logged = trial.scratch.read(LOG).contains("] ERROR: 4");
                assert!(
                    logged != accepted || matches!(descriptors, 3..=5),
                    "{descriptors} descriptors, {recipient}, {size}"
                );
                not_enough = if accepted { not_enough } else { descriptors };
            }
        }
    }
    assert!((8..20).contains(&not_enough), "{not_enough} are not enough");
}

/// A super-server can leave signals blocked or ignored in what it starts. Commands find them unblocked and not ignored.
#[test]
fn signals_left_blocked_or_ignored() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.pipe_secs 60\n\
         deliver rcpt_to command@mx.example pipe exec >&- 2>&-; cat > piped; sleep 0.2\n\
         deliver rcpt_to signals@mx.example pipe exec grep -e ^SigBlk -e ^SigIgn /proc/self/status > signals\n",
    );
    for left in ["--block-signal=CHLD,TERM,INT,HUP,XFSZ", "--ignore-signal=CHLD,TERM,INT,HUP,XFSZ"] {
        let start = || {
            let options = [left, MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER];
            let mut session = Session::start(scratch.command("env", &options));
            session.expect("220 ");
            session
        };
        let mut session = start();
        for recipient in ["command@mx.example", "signals@mx.example"] {
            let reply = session.deliver(&[recipient]);
            assert!(reply.starts_with("250 "), "{left}: {reply}");
        }
        session.quit();
        for line in scratch.read("signals").lines() {
            let (what, signals) = line.split_once(':').unwrap();
            let ours = u64::from_str_radix(signals.trim(), 16).unwrap() & 0x0101_4003; // HUP, INT, TERM, CHLD, XFSZ
            assert_eq!(ours, 0, "{left}: {what}");
        }
        let mut session = start();
        session.exchange("EHLO client.example", "250-");
        nix::sys::signal::kill(session.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
        session.expect("421 ");
    }
}

/// A log that cannot be had holds up no mail: a FIFO that nobody reads, one that nobody empties, somebody else's link.
#[test]
fn logs_that_take_nothing() {
    let config = format!("debug a\n{DESTINATIONS}");
    for log in ["unread", "full", "foreign"] {
        let scratch = Scratch::with_config(&config);
        assert!(scratch.run("mkfifo", &["unread", "full"]).status.success());
        let mut options = std::fs::OpenOptions::new();
        let mut reader =
            options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(scratch.path("full")).unwrap();
        while reader.write(&[b'x'; 4096]).is_ok() {}
        std::os::unix::fs::symlink("target", scratch.path("foreign")).unwrap();
        if is_root("a link of somebody else") {
            std::os::unix::fs::lchown(scratch.path("foreign"), Some(8), Some(8)).unwrap();
        }
        let start = Instant::now();
        let mut session = Session::start(scratch.command(MAILRECV, &["-c", CONFIG, "-l", log, "--peer", PEER]));
        session.expect("220 ");
        let reply = session.deliver(&["file@mx.example"]);
        assert!(reply.starts_with("250 "), "{log}: {reply}");
        session.quit();
        // A second for all of its two dozen lines is what it may take, and not one for each.
        assert!(start.elapsed() < Duration::from_secs(15), "{log} held up the mail");
        assert!(scratch.read("inbox").contains("Delivered-To: file@mx.example"), "{log}");
        assert!(!scratch.path("target").exists() || !is_root("a link of somebody else"), "{log}");
    }
}

/// A thousand messages through a command leave neither zombies nor descriptors behind.
#[test]
fn a_thousand_deliveries_in_one_session() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * pipe cat > last\n");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    let runner = Pid::from_raw(children(session.pid()).trim().parse().expect("one child, which runs the commands"));
    let descriptors = |pid: Pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let mut before = None;
    for number in 0..1000 {
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        session.exchange("RCPT TO:<command@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.exchange(&format!("Subject: {number}\r\n."), "250 ");
        assert_eq!(children(session.pid()).trim(), runner.to_string(), "after message {number}");
        assert_eq!(children(runner), "", "after message {number}");
        let open = (descriptors(session.pid()), descriptors(runner));
        assert_eq!(*before.get_or_insert(open), open, "after message {number}");
    }
    session.quit();
    assert!(scratch.read("last").contains("Subject: 999\n"));
}

/// Whether that is said by what runs before `main` of the program; the panic has an empty line in front.
fn is_before_the_beginning(text: &str) -> bool {
    text == "\n" || text.starts_with("Fatal glibc error: ") || text.contains("/std/src/sys/pal/unix/stack_overflow.rs:")
}

#[test]
fn little_address_space() {
    let mut not_enough = 0;
    for mebibytes in [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 32] {
        for (recipient, place) in RECIPIENTS {
            for size in SIZES {
                let limit = format!("--as={}", mebibytes * 1024 * 1024);
                let trial = Trial::new(DESTINATIONS, &["prlimit", &limit]);
                let accepted = trial.deliver(recipient, size);
                trial.assert_true(accepted, place, &format!("{mebibytes} MiB, {recipient}, {size}"));
                not_enough = if accepted { not_enough } else { mebibytes };
            }
        }
    }
    assert!((1..32).contains(&not_enough), "{not_enough} MiB are not enough");
}

/// A large configuration takes memory at a time when the greeting is not out.
#[test]
fn no_memory_for_the_configuration() {
    let rules: String = (0..100_000).map(|n| format!("deliver rcpt_to nobody-{n}@mx.example discard\n")).collect();
    let config = format!("{DESTINATIONS}{rules}");
    let mut accepted = Vec::new();
    for kibibytes in (4096..=8192).step_by(512).chain([64 * 1024]) {
        let trial = Trial::new(&config, &["prlimit", &format!("--as={}", kibibytes * 1024)]);
        accepted.push(trial.deliver("file@mx.example", 100));
        trial.assert_true(accepted[accepted.len() - 1], "inbox", &format!("{kibibytes} KiB"));
    }
    assert_eq!((accepted[0], accepted[accepted.len() - 1]), (false, true), "{accepted:?}");
}

/// Root may always start processes; so this is about another user.
#[test]
fn no_more_processes() {
    if !is_root("to become another user") {
        return;
    }
    let trial = Trial::new(&format!("{DESTINATIONS}user mail\n"), &["prlimit", "--nproc=0"]);
    debian::chown(trial.scratch.path(""), debian::USER);
    for (recipient, place, expected) in [
        ("file@mx.example", "inbox", true),
        ("folder@mx.example", "dir/new", true),
        ("command@mx.example", "piped", false),
    ] {
        let accepted = trial.deliver(recipient, 100);
        assert_eq!(accepted, expected, "{recipient}");
        trial.assert_true(accepted, place, recipient);
    }
    let log = trial.scratch.log();
    assert!(log.iter().any(|line| line.contains("ERROR: 451 ")), "{log:?}");
}

/// What is closed may be opened again by chance: no file may take the place of the connection.
#[test]
fn closed_descriptors() {
    let dialogue =
        "HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<file@mx.example>\r\nDATA\r\nSubject: x\r\n.\r\nQUIT\r\n";
    for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        for peer in [&["--peer", PEER][..], &[]] {
            let what = format!("{closed} {peer:?}");
            let scratch = Scratch::with_config(DESTINATIONS);
            scratch.write("dialogue", dialogue);
            let mut command = scratch.command("sh", &["-c", &format!("exec \"$@\" {closed}"), "sh", MAILRECV]);
            command.args(["-c", CONFIG, "-l", LOG]).args(peer);
            command.stdin(Stdio::from(std::fs::File::open(scratch.path("dialogue")).unwrap()));
            let output = output(command);
            // What is closed is /dev/null to it: a peer that says nothing, or one that we cannot see.
            assert_eq!(output.status.code(), Some(if peer.is_empty() { 64 } else { 0 }), "{what}: {output:?}");
            assert_is_smtp(&String::from_utf8_lossy(&output.stdout), &what);
            let delivered = scratch.read("inbox");
            assert_eq!(
                delivered.matches("Subject: x").count(),
                usize::from(!peer.is_empty() && !closed.contains('<')),
                "{what}"
            );
            for file in ["inbox", LOG] {
                assert!(!scratch.read(file).contains("220 mx.example"), "{what}: {}", scratch.read(file));
            }
        }
    }
}

/// What a session holds is in no core dump, and no other process of its user can look into it.
#[test]
fn a_session_is_closed_to_processes_of_its_user() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = Scratch::with_config(DESTINATIONS);
    copy_program(MAILRECV, scratch.path("mailrecv"));
    std::fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    let user = ["--reuid", "8", "--regid", "8", "--clear-groups", "./mailrecv", "-c", CONFIG, "--peer", PEER];
    let mut session = Session::start(scratch.command("setpriv", &user));
    session.expect("220 ");
    // The files of a process that can be dumped belong to its user (proc(5)).
    assert_eq!(std::fs::metadata(format!("/proc/{}/mem", session.pid())).unwrap().uid(), 0);
    session.quit();
}

#[test]
fn a_folder_that_is_gone() {
    let scratch = Scratch::new();
    let inbox = scratch.path("inbox").display().to_string();
    scratch.write(
        CONFIG,
        format!(
            "domain mx.example\n\
             deliver rcpt_to absolute@mx.example append {inbox}\n\
             deliver rcpt_to relative@mx.example append inbox\n\
             deliver rcpt_to command@mx.example pipe cat >>{inbox}\n"
        ),
    );
    let gone = "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"";
    let mut command = scratch.command("sh", &["-c", gone, "sh", MAILRECV, "--peer", PEER]);
    command.arg("-c").arg(scratch.path(CONFIG)).arg("-l").arg(scratch.path(LOG));
    let mut session = Session::start(command);
    session.expect("220 ");
    for (recipient, reply) in [("absolute", "250 "), ("relative", "451 "), ("command", "250 ")] {
        let said = session.deliver(&[&format!("{recipient}@mx.example")]);
        assert!(said.starts_with(reply), "{recipient}: {said}");
    }
    session.quit();
    assert_eq!(scratch.read("inbox").matches("Subject: test").count(), 2);
    assert_eq!(scratch.log().iter().filter(|line| line.contains("ERROR: ")).count(), 1, "{:?}", scratch.log());
}

#[test]
fn odd_environments_and_names() {
    let odd: [(&str, Change); 5] = [
        ("a megabyte of environment", |command| {
            for number in 0..10 {
                command.env(format!("LARGE_{number}"), "x".repeat(100_000));
            }
        }),
        ("nothing in the environment", |command| {
            command.env_clear();
        }),
        ("no name", |command| {
            command.arg0("");
        }),
        ("a name with everything", |command| {
            command.arg0("[8.8.8.8] ERROR: 550 \r\n\u{202e}");
        }),
        // A super-server's word, and anybody's: only the connection says who the peer is.
        ("somebody else's address", |command| {
            for name in ["TCPREMOTEIP", "TCPREMOTEHOST", "REMOTE_HOST", "REMOTE_ADDR", "SSH_CLIENT"] {
                command.env(name, "8.8.8.8\nX");
            }
        }),
    ];
    for (what, change) in odd {
        let scratch = Scratch::with_config(DESTINATIONS);
        let mut command = scratch.mailrecv(&["--peer", PEER]);
        change(&mut command);
        let mut session = Session::start(command);
        session.expect("220 ");
        for (recipient, place) in RECIPIENTS {
            let reply = session.deliver(&[recipient]);
            assert!(reply.starts_with("250 "), "{what}: {reply}");
            assert_eq!(delivered(&scratch, place), 1, "{what}: {place}");
        }
        session.exchange("MAIL FROM:<>", "250 ");
        session.exchange("RCPT TO:<nobody@mx.example>", "550 ");
        session.quit();
        assert_eq!(scratch.log(), ["[192.0.2.7] ERROR: 550 No one here by that name 'nobody@mx.example'"], "{what}");
    }
}

/// What is odd about a command.
type Change = fn(&mut Command);

/// A message too large for memory has nowhere to wait.
#[test]
fn nowhere_to_spool() {
    let scratch = Scratch::with_config(&format!("{DESTINATIONS}spool_dir /no/such/folder\n"));
    let mut session = scratch.greeted();
    let small = session.deliver(&["file@mx.example"]);
    assert!(small.starts_with("250 "), "{small}");
    session.begin_message(&["file@mx.example"]);
    session.send("x\r\n".repeat(1_000_000));
    session.send(".\r\n");
    session.expect("45");
    session.quit();
    assert_eq!(delivered(&scratch, "inbox"), 1);
    assert_eq!(scratch.log().iter().filter(|line| line.contains("ERROR: 45")).count(), 1, "{:?}", scratch.log());
}

/// A receiver that is started through another program.
struct Trial {
    scratch: Scratch,
    launcher: Vec<String>,
}

impl Trial {
    fn new(config: &str, launcher: &[&str]) -> Self {
        Self {
            scratch: Scratch::with_config(config),
            launcher: launcher.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    /// Tries to deliver a message of about this size; whether it was accepted.
    fn deliver(&self, recipient: &str, size: usize) -> bool {
        let mut command = self.scratch.command(&self.launcher[0], &[]);
        command.args(&self.launcher[1..]).args([MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
        let mut session = Session::start(command);
        let text = "x".repeat(70) + "\r\n";
        let text = format!("Subject: test\r\n\r\n{}.", text.repeat(size.div_ceil(text.len())));
        let recipient = format!("RCPT TO:<{recipient}>");
        let steps = [
            ("", "220 "),
            ("HELO x", "250 "),
            ("MAIL FROM:<>", "250 "),
            (&*recipient, "250 "),
            ("DATA", "354 "),
            (&*text, "250 "),
        ];
        let mut accepted = true;
        for (line, wanted) in steps {
            if !line.is_empty() {
                session.send(format!("{line}\r\n"));
            }
            let reply = match session.try_line() {
                // It may have no memory for a last word.
                Ok(reply) => reply.unwrap_or_default(),
                Err(Broken::Reset) => String::new(),
                // With less than its own memory takes, the C library ends it before it begins, or Rust's own beginning
                // does, and says so on standard error, which is the peer's here.
                Err(Broken::Garbled(text)) if line.is_empty() && is_before_the_beginning(&text) => return false,
                Err(broken) => panic!("{line:.20}: {broken}"),
            };
            assert!(reply.is_empty() || reply.starts_with(wanted) || reply.starts_with('4'), "{line:.20}: {reply}");
            accepted = reply.starts_with(wanted);
            if !accepted {
                break;
            }
        }
        let (rest, _) = session.end();
        assert!(rest.is_empty(), "{rest:?}");
        accepted
    }

    /// Whether the answer was true, and what was not accepted is in the log.
    fn assert_true(&self, accepted: bool, place: &str, what: &str) {
        assert_eq!(delivered(&self.scratch, place), usize::from(accepted), "{what}: {:?}", self.scratch.log());
        assert!(!self.scratch.read(LOG).contains("panicked"), "{what}: {:?}", self.scratch.log());
    }
}

/// How many messages there are in a file or folder.
fn delivered(scratch: &Scratch, place: &str) -> usize {
    match std::fs::read_dir(scratch.path(place)) {
        Ok(files) => files.count(),
        Err(_) => scratch.read(place).lines().filter(|line| *line == "Subject: test").count(),
    }
}

/// Each line is a reply's.
fn assert_is_smtp(said: &str, what: &str) {
    for line in said.split_terminator("\r\n") {
        let code = line.get(..3).is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(code && !line.contains('\n'), "{what}: {said}");
    }
}
