//! File systems that cannot do what others can: CIFS and folders shared with a virtual machine's host, where no folder can
//! be synced, and those where one kind of lock does not exist. strace says so in their place.

use testkit::{Session, debian};

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
