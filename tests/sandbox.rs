//! What a session gives up before it hears its peer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{lchown, symlink};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use testkit::process::children;
use testkit::{Process, Session, debian, is_root, output};

/// A config with a mailbox in a folder of its own.
fn with_mailbox(more: &str) -> Scratch {
    let scratch = Scratch::with_config(&format!(
        "debug w\nspool_dir spool\ndeliver rcpt_to fred@mx.example append mail/inbox\n{more}"
    ));
    ["mail", "spool"].iter().for_each(|folder| fs::create_dir(scratch.path(folder)).unwrap());
    scratch
}

/// A session in which the mailbox has become a symbolic link of ours to a file elsewhere, after the greeting: the reply
/// to a message for it.
fn deliver_elsewhere(scratch: &Scratch) -> String {
    let mut session = scratch.greeted();
    session.exchange("NOOP", "250 ");
    symlink(scratch.path("elsewhere"), scratch.path("mail/inbox")).unwrap();
    let reply = session.deliver(&["fred@mx.example"]);
    session.quit();
    reply
}

#[test]
fn a_session_writes_to_its_destinations_and_nowhere_else() {
    let scratch = with_mailbox("");
    let reply = deliver_elsewhere(&scratch);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    assert!(!scratch.path("elsewhere").exists());
    let log = scratch.log();
    assert!(log[0].contains("(opening mail/inbox: Permission denied"), "{log:?}");
}

/// A link that is there beforehand is part of the configuration.
#[test]
fn mailboxes_behind_links_are_delivered_to() {
    let scratch = with_mailbox("");
    fs::create_dir(scratch.path("other")).unwrap();
    symlink(scratch.path("other/inbox"), scratch.path("mail/inbox")).unwrap();
    fs::write(scratch.path("other/inbox"), "").unwrap();
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert!(scratch.read("other/inbox").contains("body"));
}

/// What a process has open is that file alone, wherever it lies.
#[test]
fn standard_error_can_be_a_mailbox() {
    let scratch = Scratch::with_config("debug w\nspool_dir spool\ndeliver rcpt_to * append /dev/stderr\n");
    for folder in ["spool", "other"] {
        fs::create_dir(scratch.path(folder)).unwrap();
    }
    let stderr = fs::File::create(scratch.path("other/stderr")).unwrap();
    let mut session = Session::start_with_stderr(scratch.mailrecv(&["--peer", PEER]), stderr.into());
    session.expect("220 ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply} {:?}", scratch.log());
    session.quit();
    assert!(scratch.read("other/stderr").contains("body"));
}

/// A link of somebody else opens no folder to the session.
#[test]
fn a_link_of_somebody_else_allows_nothing() {
    if !is_root("a link of somebody else") {
        return;
    }
    let scratch = Scratch::with_config(
        "spool_dir spool\ndeliver rcpt_to fred@mx.example append mail/inbox\ndeliver rcpt_to jim@mx.example maildir mail/dir\n\
         deliver rcpt_to tom@mx.example append mail/folder/inbox\ndeliver rcpt_to me@mx.example append own/inbox\n",
    );
    for folder in ["mail", "own", "spool", "elsewhere/tmp", "elsewhere/new"] {
        fs::create_dir_all(scratch.path(folder)).unwrap();
    }
    scratch.write("elsewhere/inbox", "");
    for (target, link) in
        [("../elsewhere/inbox", "mail/inbox"), ("../elsewhere", "mail/dir"), ("../elsewhere", "mail/folder")]
    {
        symlink(target, scratch.path(link)).unwrap();
        lchown(scratch.path(link), Some(8), Some(8)).unwrap();
    }
    let output = String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]).stdout).unwrap();
    for link in ["mail: mail/inbox", "mail/dir: mail/dir", "mail/folder: mail/folder"] {
        let line = format!("  {link} is a symbolic link of user 8, who is neither root nor the user we run as; mail");
        assert!(output.contains(&line), "{output}");
    }
    let calls = ["-y", "-o", "trace", "-e", "trace=landlock_add_rule"];
    let mut session = Session::start(traced(&scratch, &calls));
    session.expect("220 ");
    session.quit();
    let trace = scratch.read("trace");
    assert!(trace.contains("/own>") && !trace.contains("elsewhere"), "{trace}");
}

/// Whatever there is of a maildir beforehand, the rest can be made.
#[test]
fn maildirs_are_made_and_delivered_to() {
    for there in ["", "dir", "dir/new", "dir/tmp"] {
        let scratch = Scratch::with_config("spool_dir spool\ndeliver rcpt_to * maildir dir\n");
        fs::create_dir_all(scratch.path(there)).unwrap();
        let mut session = scratch.greeted();
        let reply = session.deliver(&["fred@mx.example"]);
        let log = scratch.log();
        assert!(reply.starts_with("250 "), "{there}: {reply} {log:?}");
        session.quit();
    }
}

/// Commands are run outside, so that a peer that can reach one is inside like any other.
#[test]
fn peers_with_commands_are_inside_too() {
    let scratch = with_mailbox("deliver rcpt_to robot@mx.example pipe cat > robot\n");
    let mut session = scratch.greeted();
    session.exchange("NOOP", "250 ");
    symlink(scratch.path("elsewhere"), scratch.path("mail/inbox")).unwrap();
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    let reply = session.deliver(&["robot@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert!(!scratch.path("elsewhere").exists());
    assert!(scratch.read("robot").contains("body"));
}

/// The process that runs commands is there for peers that can reach one, and gone with their session.
#[test]
fn commands_have_a_process_while_they_are_within_reach() {
    let scratch = with_mailbox(
        "allowgroup +trusted net 198.51.100.0/24\ndeliver allowgroup +trusted rcpt_to robot@mx.example pipe cat > robot\n",
    );
    for (peer, count) in [(PEER, 0), ("198.51.100.7=mail.example.org", 1)] {
        let mut session = scratch.session(&["--peer", peer]);
        session.expect("220 ");
        session.exchange("NOOP", "250 ");
        let runners = children(session.pid());
        let runners: Vec<i32> = runners.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(runners.len(), count, "{peer}");
        session.quit();
        for runner in runners {
            assert_eq!(kill(Pid::from_raw(runner), None), Err(Errno::ESRCH), "its session has waited for it");
        }
    }
}

/// How many variables a command gets.
const VALUES: usize = 15;

/// What a session in the peer's hands could say to the process that runs its commands.
#[test]
fn the_process_that_runs_commands_does_what_it_was_told_beforehand_and_nothing_else() {
    let list = frame(LIST, &[&10_u32.to_le_bytes()[..], &text(b"env > first"), &text(b"env > second")].concat());
    let values = |value: &[u8]| text(value).repeat(VALUES);
    let order = |number: u32, values: &[u8]| frame(RUN, &[&number.to_le_bytes()[..], values].concat());
    let only =
        |numbers: &[u32]| frame(ONLY, &numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>());
    let (piece, end) = (frame(PIECE, b"text"), frame(END, b""));
    let good = [order(1, &values(b"x\ny\x1b")), piece.clone(), end.clone()].concat();
    for (what, frames, files) in [
        ("an order", good.clone(), &["second"][..]),
        ("two orders", [good.clone(), order(0, &values(b"x")), end.clone()].concat(), &["first", "second"]),
        ("one that is no longer within reach", [only(&[0]), good.clone()].concat(), &[]),
        ("one that is put back within reach", [only(&[0]), only(&[0, 1]), good.clone()].concat(), &[]),
        ("a number behind the list", [order(2, &values(b"x")), end.clone()].concat(), &[]),
        ("a number behind the list within reach", [only(&[2]), good.clone()].concat(), &[]),
        ("another list", [list.clone(), good.clone()].concat(), &[]),
        ("a value too few", [order(1, &text(b"x").repeat(VALUES - 1)), end.clone()].concat(), &[]),
        ("a value too many", [order(1, &text(b"x").repeat(VALUES + 1)), end.clone()].concat(), &[]),
        ("a value that is no text", [order(1, &values(b"\xff")), end.clone()].concat(), &[]),
        ("a value that is longer than all of it", order(1, &u32::MAX.to_le_bytes()), &[]),
        ("a frame that is too long", [&[RUN][..], &100_000_u32.to_le_bytes(), &[0; 100_000]].concat(), &[]),
        ("a message without an order", [piece.clone(), end.clone()].concat(), &[]),
        ("a kind that there is not", frame(99, b""), &[]),
        ("an answer", frame(ENDED, &[0; 4]), &[]),
    ] {
        let scratch = Scratch::new();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut command = scratch.command(MAILRECV, &["--run-commands"]);
        command.stdin(OwnedFd::from(theirs));
        let mut runner = Process::start(command);
        // It may end before it has taken everything.
        let _ = ours.write_all(&[&list[..], &frames].concat());
        let good = files.len();
        let mut answers = vec![0; good * 9];
        ours.read_exact(&mut answers).unwrap();
        assert!(answers.chunks(9).all(|answer| answer == frame(ENDED, &[0; 4])), "{what}: {answers:?}");
        if good > 0 {
            ours.shutdown(Shutdown::Both).unwrap();
        }
        assert_eq!(runner.exit_code(), if good > 0 { 0 } else { 70 }, "{what}");
        let there: Vec<&str> = ["first", "second"].into_iter().filter(|name| scratch.path(name).exists()).collect();
        assert_eq!(there, files, "{what}");
        if good == 1 {
            assert!(scratch.read("second").contains("CLIENT_HELO=xy\n"), "{}", scratch.read("second"));
        }
    }
}

/// A super-server's entry that says so by mistake does not make a shell of port 25.
#[test]
fn nobody_but_a_session_has_commands_run() {
    let scratch = Scratch::new();
    let mut session = Session::start(scratch.command(MAILRECV, &["--run-commands"]));
    session.send(frame(LIST, &[&10_u32.to_le_bytes()[..], &text(b"touch taken")].concat()));
    session.send(frame(RUN, &[&0_u32.to_le_bytes()[..], &text(b"x").repeat(VALUES)].concat()));
    session.send(frame(END, b""));
    assert_eq!(session.hang_up().exit_code(), 64);
    assert!(!scratch.path("taken").exists());
}

/// As src/deliver/frames.rs numbers them.
const LIST: u8 = 0;
const ONLY: u8 = 1;
const RUN: u8 = 2;
const PIECE: u8 = 3;
const END: u8 = 4;
const ENDED: u8 = 6;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &text(payload)].concat()
}

/// Bytes behind their length.
fn text(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat()
}

#[test]
fn the_sandbox_stands_before_the_first_byte_is_read() {
    let scratch = with_mailbox("");
    let calls = ["-o", "trace", "-e", "trace=read,recvfrom,prctl,landlock_restrict_self,execve,/^open"];
    let mut session = Session::start(traced(&scratch, &calls));
    session.expect("220 ");
    session.quit();
    let trace = scratch.read("trace");
    let at = |call: &str| trace.find(call).unwrap_or_else(|| panic!("no {call} in:\n{trace}"));
    assert!(at("prctl(PR_SET_NO_NEW_PRIVS, 1") < at("landlock_restrict_self("));
    assert!(at("landlock_restrict_self(") < at("read(0, "), "{trace}");
    let confined = &trace[at("landlock_restrict_self(")..];
    assert!(confined.lines().next().unwrap().ends_with("= 0"), "{confined}");
    assert!(!confined.contains("\nopen"), "a session without mail opens nothing more:\n{confined}");
}

/// With a list of system calls, all destinations are delivered to, and nothing that is tried is forbidden.
#[test]
fn a_strict_session_does_all_that_it_has_to() {
    let scratch = with_mailbox(
        "sandbox strict required\ndebug a\nlimit.fcrdns_check off\ndeliver rcpt_to folder@mx.example maildir dir\n\
         deliver rcpt_to shown@mx.example print\ndeliver rcpt_to robot@mx.example pipe cat > robot\n\
         deliver rcpt_to /^a[1-9]+b*@mx\\.example$/ append mail/inbox\n",
    );
    let mut session = Session::start(traced(&scratch, &["-o", "trace"]));
    session.expect("220 ");
    let recipients = ["fred@mx.example", "folder@mx.example", "shown@mx.example", "robot@mx.example", "a7b@mx.example"];
    for recipient in recipients {
        let reply = session.deliver(&[recipient]);
        assert!(reply.starts_with("250 "), "{recipient}: {reply}");
    }
    // Too large to be kept in memory.
    session.begin_message(&["fred@mx.example", "folder@mx.example", "robot@mx.example"]);
    session.send(format!("{}\r\n", "x".repeat(70)).repeat(5_000));
    session.send(".\r\n");
    session.expect("250 ");
    session.quit();
    let trace = scratch.read("trace");
    let at = |call: &str| trace.find(call).unwrap_or_else(|| panic!("no {call} in:\n{trace}"));
    assert!(at("landlock_restrict_self(") < at("seccomp(SECCOMP_SET_MODE_FILTER"));
    assert!(at("seccomp(SECCOMP_SET_MODE_FILTER") < at("read(0, "), "before the first byte is read");
    let forbidden: Vec<_> = trace.lines().filter(|line| line.contains("= -1 EPERM")).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// A kernel without seccomp, or a unit that does not let it be used.
#[test]
fn a_list_of_system_calls_that_cannot_be_had_is_told_or_refuses() {
    for (sandbox, reply) in [("strict", "250 "), ("strict required", "421 4.3.5 ")] {
        let scratch = with_mailbox(&format!("debug -\nsandbox {sandbox}\n"));
        let mut session = Session::start(traced(&scratch, &["-o", "trace", "-e", "inject=seccomp:error=EINVAL"]));
        session.expect("220 ");
        session.send("HELO client.example\r\n");
        session.expect(reply);
        let log = scratch.log();
        assert!(log[0].contains("the sandbox is not strict: "), "{log:?}");
    }
}

/// A large message waits in a file that was opened before, so no folder for temporary files is left to the session.
#[test]
fn large_messages_need_no_folder() {
    let scratch = Scratch::with_config("domain mx.example\nspool_dir spool\ndeliver rcpt_to * print raw\n");
    fs::create_dir(scratch.path("spool")).unwrap();
    let calls = ["-y", "-o", "trace", "-e", "trace=/^open,landlock_add_rule,landlock_restrict_self"];
    let mut session = Session::start(traced(&scratch, &calls));
    session.expect("220 ");
    for letter in ["x", "y"] {
        session.begin_message(&["fred@mx.example"]);
        session.send(format!("Subject: {letter}\r\n\r\n{}", format!("{}\r\n", letter.repeat(70)).repeat(5_000)));
        session.send(".\r\n");
        session.expect("250 ");
    }
    session.quit();
    let log = scratch.read(LOG);
    assert!(["x", "y"].iter().all(|letter| log.matches(&format!("| {}\n", letter.repeat(70))).count() == 5_000));
    let trace = scratch.read("trace");
    assert!(!trace.contains("landlock_add_rule("), "{trace}");
    let (before, confined) = trace.split_once("landlock_restrict_self(").unwrap();
    assert!(before.contains("O_TMPFILE"), "{trace}");
    assert!(!confined.contains("open"), "{trace}");
    assert_eq!(fs::read_dir(scratch.path("spool")).unwrap().count(), 0);
}

/// Messages are written to one file, one after the other: what cannot be cut off the file behind one is in none of the
/// next.
#[test]
fn nothing_of_a_large_message_gets_into_the_next() {
    let scratch = with_mailbox("");
    let calls = ["-o", "trace", "-e", "inject=ftruncate:error=EIO"];
    let mut session = Session::start(traced(&scratch, &calls));
    session.expect("220 ");
    for (letter, lines) in [("x", 20_000), ("y", 5_000)] {
        session.begin_message(&["fred@mx.example"]);
        session.send(format!("Subject: {letter}\r\n\r\n{}", format!("{}\r\n", letter.repeat(70)).repeat(lines)));
        session.send(".\r\n");
        session.expect("250 ");
    }
    session.quit();
    let inbox = scratch.read("mail/inbox");
    let count = |letter: &str| inbox.matches(&format!("\n{}", letter.repeat(70))).count();
    assert_eq!((count("x"), count("y")), (20_000, 5_000));
}

/// Nothing that would be an administrator's business to know depends on a flag.
#[test]
fn where_a_sandbox_is_required_and_not_to_be_had_no_mail_is_taken() {
    for required in ["sandbox required", "sandbox on required"] {
        let scratch = with_mailbox(&format!("debug -\n{required}\n"));
        let without = ["-o", "trace", "-e", "inject=landlock_create_ruleset:error=EOPNOTSUPP"];
        let mut session = Session::start(traced(&scratch, &without));
        session.expect("220 ");
        session.expect("421 4.3.5 Cannot receive messages at this time, try again later");
        assert_eq!(session.end(), (Vec::new(), 71));
        let [line] = &scratch.log()[..] else { panic!("one line: {:?}", scratch.log()) };
        assert!(line.starts_with("[192.0.2.7] ERROR: 421 ") && line.contains("no sandbox: Landlock is not"), "{line}");
        // And `check` says so beforehand.
        let mut check = scratch.command(debian::program("strace", "strace"), &without);
        check.args(["-f", MAILRECV, "-c", CONFIG, "check"]);
        let check = output(check);
        let said = String::from_utf8_lossy(&check.stderr);
        assert!(
            said.contains(": error: no mail would be taken, because the configuration requires a sandbox: "),
            "{said}"
        );
        assert_eq!(check.status.code(), Some(78));
        let mut session = scratch.greeted();
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "where it can be had: {reply}");
        session.quit();
    }
}

/// Whoever can make a link in a folder of mailboxes does not keep mail from the others there.
#[test]
fn a_mailbox_that_leads_elsewhere_costs_the_others_nothing() {
    if !is_root("a link of somebody else") {
        return;
    }
    let scratch = with_mailbox("deliver rcpt_to jim@mx.example append mail/jim\n");
    symlink("elsewhere", scratch.path("mail/inbox")).unwrap();
    lchown(scratch.path("mail/inbox"), Some(8), Some(8)).unwrap();
    let mut session = scratch.greeted();
    let reply = session.deliver(&["jim@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}: {:?}", scratch.log());
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("451 "), "{reply}");
    session.quit();
}

#[test]
fn without_a_sandbox_everything_is_possible() {
    let scratch = with_mailbox("sandbox off\n");
    let reply = deliver_elsewhere(&scratch);
    assert!(reply.starts_with("250 "), "{reply}");
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with("gives up everything but:\n  everything: the configuration says `sandbox off`\n"), "{said}");
}

#[test]
fn check_tries_the_sandbox() {
    let scratch = with_mailbox("");
    let check = |inject: &[&str]| {
        let mut command = scratch.command(debian::program("strace", "strace"), &["-f", "-o", "trace"]);
        command.args(inject).args([MAILRECV, "-c", CONFIG, "check", "-v"]);
        let said = String::from_utf8(output(command).stdout).unwrap();
        said.lines().filter_map(|line| line.strip_prefix("Tried on this system: ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(check(&[]), "all of it is enforced");
    assert_eq!(
        check(&["-e", "inject=landlock_create_ruleset:error=ENOSYS"]),
        "no sandbox: this kernel has no Landlock"
    );
    // The second Landlock, which Debian 12 has.
    assert_eq!(
        check(&["-e", "inject=landlock_create_ruleset:retval=2:when=1"]),
        "the sandbox is not whole: this kernel's Landlock cannot forbid cutting files back, TCP connections, \
         device controls, signals to others and abstract sockets"
    );
    // It says that it does, and does not.
    assert_eq!(
        check(&["-e", "inject=landlock_restrict_self:retval=0"]),
        "a TCP connection is not held back\na program is not held back"
    );
    scratch.write(CONFIG, "domain mx.example\nsandbox strict\nspool_dir spool\n");
    assert_eq!(check(&[]), "all of it is enforced");
    assert!(check(&["-e", "inject=seccomp:error=EINVAL"]).starts_with("the sandbox is not strict: "));
    assert_eq!(check(&["-e", "inject=seccomp:retval=0"]), "UDP is not held back\na program in memory is not held back");
}

#[test]
fn kernels_without_landlock_get_a_warning_and_deliver() {
    let scratch = with_mailbox("");
    let mut session =
        Session::start(traced(&scratch, &["-o", "trace", "-e", "inject=landlock_create_ruleset:error=ENOSYS"]));
    session.expect("220 ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert_eq!(scratch.log(), ["[192.0.2.7] WARNING: no sandbox: this kernel has no Landlock"]);
}

/// A container's filter says EPERM, or ENOSYS as an old kernel does: it is not the kernel then that has to be replaced.
#[test]
fn a_filter_that_keeps_landlock_away_is_told_from_an_old_kernel() {
    let scratch = with_mailbox("");
    // The filter is the thread's own affair, and that of what it starts.
    std::thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            let rules = [(nix::libc::SYS_landlock_create_ruleset, Vec::new())].into_iter().collect();
            let denied = SeccompAction::Errno(nix::libc::EPERM.unsigned_abs());
            let architecture = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture).unwrap();
            seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
            let mut session = scratch.greeted();
            let reply = session.deliver(&["fred@mx.example"]);
            assert!(reply.starts_with("250 "), "{reply}");
            session.quit();
        });
        filtered.join().unwrap();
    });
    let why = "Landlock cannot be used: a seccomp filter keeps it from us, that of a container or of a unit, or this \
               kernel has none";
    assert_eq!(scratch.log(), [format!("[192.0.2.7] WARNING: no sandbox: {why}")]);
}

/// The receiver under strace.
fn traced(scratch: &Scratch, options: &[&str]) -> std::process::Command {
    let mut command = scratch.command(debian::program("strace", "strace"), options);
    command.args([MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
    command
}

#[test]
fn check_says_what_is_allowed() {
    let scratch = Scratch::with_config(
        "domain mx.example\nspool_dir spool\nallowgroup +trusted net 198.51.100.0/24\n\
         deliver rcpt_to postmaster append mail/postmaster\ndeliver rcpt_to fred@mx.example append mail/fred\n\
         deliver rcpt_to jim@mx.example append /dev/null\ndeliver rcpt_to list@mx.example maildir list\n\
         deliver allowgroup +trusted rcpt_to robot@mx.example pipe cat > robot\n",
    );
    fs::create_dir(scratch.path("mail")).unwrap();
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "mailrecv.conf: no errors, 4 warnings\n\
         Before it listens to its peer, a session gives up everything but:\n\
         \x20 mail/: make, read, append to and cut back files\n\
         \x20 /dev/null: write\n\
         \x20 ./: make folders, make, move and remove files\n\
         \x20 spool: No such file or directory (os error 2); messages of more than 1 MiB would be deferred\n\
         \x20 nothing else: no other file, no program, no TCP connection, no signal; no new privileges\n\
         \x20 but what Landlock does not know: UDP, MPTCP, local sockets, programs in memory, modes and owners\n\
         \x20 commands of a pipe, for peers in +trusted: run by a process outside; confine them in the \
         super-server's unit\n\
         Tried on this system: all of it is enforced\n"
    );
}

/// More destinations than the sandbox has rules, and no folder above them all but one.
#[test]
fn check_says_when_the_sandbox_holds_no_files_back() {
    let rules = (0..13).map(|n| format!("deliver rcpt_to user{n}@mx.example maildir /no-such-{n}/maildir\n"));
    let settings = "domain mx.example\nspool_dir spool\nexactly_once ./once\nmetrics_file ./counts";
    let scratch = Scratch::with_config(&format!("{settings}\n{}", rules.collect::<String>()));
    fs::create_dir(scratch.path("spool")).unwrap();
    let output = String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]).stdout).unwrap();
    let allowed: Vec<&str> = output.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(
        allowed,
        [
            "  /: make folders, make, read, write, move and remove files",
            "  one file without a name, opened before in spool, for large messages",
            "  one file in ./once, opened before, for `exactly_once`",
            "  ./counts, opened before, to count",
            "  / is where the folders of all destinations meet: fewer folders would make a better sandbox",
            "  nothing else: no program, no TCP connection, no signal; no new privileges",
            "  but what Landlock does not know: UDP, MPTCP, local sockets, programs in memory, modes and owners",
        ],
        "{output}"
    );
}
