//! File systems that cannot do what others can: CIFS and folders shared with a virtual machine's host, where no folder can
//! be synced, and those where one kind of lock does not exist. strace says so in their place.

use std::time::Duration;

use testkit::{Process, Session, debian, wait_until};

use crate::send_to_fred;
use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

/// Where a folder cannot be synced, what is in it was; a disk that fails is another matter.
#[test]
fn a_folder_that_cannot_be_synced_takes_mail() {
    for (error, is_taken) in [
        ("EINVAL", true),
        ("EBADF", true),
        ("EOPNOTSUPP", true),
        ("EIO", false),
        ("ENOSPC", false),
        ("EDQUOT", false),
        ("EROFS", false),
    ] {
        for (action, folders) in
            [("append mail/inbox", &["mail"][..]), ("maildir mail/dir", &["mail", "mail/dir", "mail/dir/new"])]
        {
            let scratch = Scratch::with_config(&format!("domain mx.example\ndebug w\ndeliver rcpt_to * {action}\n"));
            std::fs::create_dir(scratch.path("mail")).unwrap();
            let mut session = failing(&scratch, folders, &format!("fsync:error={error}"));
            for copies in [1, 2] {
                let reply = send_to_fred(&mut session, b"Subject: x\r\n\r\ntext\r\n");
                assert_eq!(reply.starts_with("250 "), is_taken, "{error}, {action}: {reply}");
                assert!(is_taken || reply.starts_with('4'), "{error}, {action}: {reply}");
                assert_eq!(messages(&scratch, action), if is_taken { copies } else { 0 }, "{error}, {action}");
            }
            session.quit();
            let cannot = |line: &&String| line.contains("WARNING: ") && line.contains(" cannot sync folders ");
            let said = scratch.log().iter().filter(cannot).count();
            // Once for each folder, of which a maildir has some while it is made.
            assert_eq!(said, if is_taken { folders.len() } else { 0 }, "{error}, {action}: {:?}", scratch.log());
        }
    }
}

/// Of two kinds of lock one will do. With neither, nobody could tell who else writes to the file.
#[test]
fn one_kind_of_lock_is_enough() {
    for (calls, error, answer) in [
        ("flock", "ENOLCK", "250 "),
        ("flock", "EOPNOTSUPP", "250 "),
        ("fcntl", "ENOLCK", "250 "),
        ("fcntl", "EINVAL", "250 "),
        ("flock,fcntl", "ENOLCK", "451 4.3.0 "),
        ("flock", "EIO", "451 4.3.0 "),
        ("fcntl", "EIO", "451 4.3.0 "),
    ] {
        let scratch = Scratch::with_config("domain mx.example\ndebug w\ndeliver rcpt_to * append inbox\n");
        scratch.write("inbox", "");
        let mut session = failing(&scratch, &["inbox"], &format!("{calls}:error={error}"));
        for _ in 0..2 {
            let reply = send_to_fred(&mut session, b"Subject: x\r\n\r\ntext\r\n");
            assert!(reply.starts_with(answer), "{calls} {error}: {reply}");
        }
        session.quit();
        let copies = scratch.read("inbox").matches("Delivered-To: ").count();
        assert_eq!(copies, if answer == "250 " { 2 } else { 0 }, "{calls} {error}");
        let log = scratch.log();
        let missing = log.iter().filter(|line| line.contains("WARNING: inbox has no ")).count();
        assert_eq!(missing, usize::from(answer == "250 "), "{calls} {error}: {log:?}");
        let advises = log.iter().any(|line| line.contains("deliver into a maildir there"));
        assert_eq!(advises, calls.contains(','), "{calls} {error}: {log:?}");
    }
}

/// A program that holds the one lock that there is is waited for.
#[test]
fn the_only_kind_of_lock_is_respected() {
    const HOLDER: &str = "import fcntl, os, sys, time\n\
        mailbox = open('inbox', 'a')\n\
        {'flock': fcntl.flock, 'fcntl': fcntl.lockf}[sys.argv[1]](mailbox, fcntl.LOCK_EX)\n\
        open('locked', 'w').close()\n\
        while not os.path.exists('release'): time.sleep(0.01)\n";
    for (failing_call, held) in [("flock", "fcntl"), ("fcntl", "flock")] {
        let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * append inbox\n");
        scratch.write("inbox", "");
        let mut holder = Process::start(scratch.command(debian::program("python3", "python3"), &["-c", HOLDER, held]));
        wait_until("the lock", || scratch.path("locked").exists().then_some(()));
        let mut session = failing(&scratch, &["inbox"], &format!("{failing_call}:error=ENOLCK"));
        session.begin_message(&["fred@mx.example"]);
        session.send("Subject: x\r\n\r\nours\r\n.\r\n");
        assert!(session.is_silent_for(Duration::from_millis(500)), "{held}: written into a locked mailbox");
        assert_eq!(scratch.read("inbox"), "", "{held}");
        scratch.write("release", "");
        session.expect("250 2.0.0 ");
        session.quit();
        assert_eq!(holder.exit_code(), 0);
    }
}

/// How many messages are where the action puts them.
fn messages(scratch: &Scratch, action: &str) -> usize {
    if action.starts_with("append") {
        return std::fs::read_to_string(scratch.path("mail/inbox"))
            .unwrap_or_default()
            .matches("Delivered-To: ")
            .count();
    }
    std::fs::read_dir(scratch.path("mail/dir/new")).map_or(0, Iterator::count)
}

/// A session in which calls that have to do with these files or folders fail; `injection` is what strace does to them.
fn failing(scratch: &Scratch, paths: &[&str], injection: &str) -> Session {
    let mut command = scratch.command(debian::program("strace", "strace"), &["--quiet=all", "-o", "calls"]);
    // As the kernel names them.
    let folder = std::fs::canonicalize(scratch.path("")).unwrap();
    paths.iter().for_each(|path| _ = command.arg("-P").arg(folder.join(path)));
    command.args(["-e", &format!("inject={injection}"), MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    session
}
