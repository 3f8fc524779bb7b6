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
use std::os::unix::fs::{lchown, symlink};

use support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use testkit::{Session, debian, is_root};

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

/// A link of somebody else opens no folder to the session.
#[test]
fn a_link_of_somebody_else_allows_nothing() {
    if !is_root("a link of somebody else") {
        return;
    }
    let scratch = Scratch::with_config(
        "spool_dir spool\ndeliver rcpt_to fred@mx.example append mail/inbox\ndeliver rcpt_to jim@mx.example maildir mail/dir\n\
         deliver rcpt_to tom@mx.example append mail/folder/inbox\n",
    );
    for folder in ["mail", "spool", "elsewhere/tmp", "elsewhere/new"] {
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
    assert!(trace.contains("/spool>") && !trace.contains("elsewhere"), "{trace}");
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

/// What a command needs nobody knows, so a peer that can reach one is not confined by us.
#[test]
fn peers_with_commands_are_left_to_the_unit() {
    let scratch = with_mailbox("deliver rcpt_to robot@mx.example pipe cat > robot\n");
    let reply = deliver_elsewhere(&scratch);
    assert!(reply.starts_with("250 "), "{reply}");

    let scratch = with_mailbox(
        "allowgroup +trusted net 198.51.100.0/24\ndeliver allowgroup +trusted rcpt_to robot@mx.example pipe cat > robot\n",
    );
    let reply = deliver_elsewhere(&scratch);
    assert!(reply.starts_with("451 "), "the command is not for this peer: {reply}");

    let mut session = scratch.session(&["--peer", "198.51.100.7=mail.example.org"]);
    session.expect("220 ");
    let reply = session.deliver(&["robot@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert!(scratch.read("robot").contains("body"));
}

#[test]
fn the_sandbox_stands_before_the_first_byte_is_read() {
    let scratch = with_mailbox("");
    let calls = ["-o", "trace", "-e", "trace=read,recvfrom,prctl,landlock_restrict_self,execve,openat,openat2"];
    let mut session = Session::start(traced(&scratch, &calls));
    session.expect("220 ");
    session.quit();
    let trace = scratch.read("trace");
    let at = |call: &str| trace.find(call).unwrap_or_else(|| panic!("no {call} in:\n{trace}"));
    assert!(at("prctl(PR_SET_NO_NEW_PRIVS, 1") < at("landlock_restrict_self("));
    assert!(at("landlock_restrict_self(") < at("read(0, "), "{trace}");
    let confined = &trace[at("landlock_restrict_self(")..];
    assert!(confined.lines().next().unwrap().ends_with("= 0"), "{confined}");
    assert!(!confined.contains("openat"), "a session without mail opens nothing more:\n{confined}");
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
        "mailrecv.conf: no errors, 0 warnings\n\
         Before it listens to its peer, a session gives up everything but:\n\
         \x20 mail/: make, read, append to and cut back files\n\
         \x20 /dev/null: write\n\
         \x20 ./: make folders, make, move and remove files\n\
         \x20 spool: missing; mail that needs it would be deferred\n\
         \x20 nothing else: no other file, no program, no TCP connection, no signal; no new privileges\n\
         \x20 not for peers in +trusted: a pipe command is within reach and keeps what it may need; \
         confine it in the super-server's unit\n"
    );
}

/// More destinations than the sandbox has rules, and no folder above them all but one.
#[test]
fn check_says_when_the_sandbox_holds_no_files_back() {
    let rules = (0..13).map(|n| format!("deliver rcpt_to user{n}@mx.example maildir /no-such-{n}/maildir\n"));
    let scratch = Scratch::with_config(&format!("domain mx.example\nspool_dir spool\n{}", rules.collect::<String>()));
    fs::create_dir(scratch.path("spool")).unwrap();
    let output = String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]).stdout).unwrap();
    let allowed: Vec<&str> = output.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(
        allowed,
        [
            "  /: make folders, make, read, write, move and remove files",
            "  spool/: make, read, write and remove files, for large messages",
            "  / is where the folders of all destinations meet: fewer folders would make a better sandbox",
            "  nothing else: no program, no TCP connection, no signal; no new privileges",
        ],
        "{output}"
    );
}
