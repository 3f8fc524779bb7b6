//! Mail for maildirs.

use std::os::unix::fs::{MetadataExt, symlink};

use testkit::{Session, is_root};

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

/// A maildir gets one file a message, complete in `new`, nothing left in `tmp`.
#[test]
fn a_maildir_gets_a_file_for_each_message() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * maildir dir\n");
    let mut session = scratch.greeted();
    for number in 1..=3 {
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}");
        assert_eq!(messages_in(&scratch, "dir"), number);
    }
    session.quit();
    let script = "import mailbox\nfor message in mailbox.Maildir('dir', create=False):\n\
                  \x20   print(message['Return-Path'], message['Delivered-To'], message['Subject'], repr(message.get_payload()))";
    let read = scratch.python(script, &[]);
    assert_eq!(read, "<sender@client.example> fred@mx.example test 'body\\n'\n".repeat(3));
    for entry in std::fs::read_dir(scratch.path("dir").join("new")).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.nlink()), (0o600, 1));
    }
}

/// What stands in the way of a maildir is found before the command runs, which could not be taken back.
#[test]
fn odd_maildirs_are_not_delivered_to() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.smtp_failcmds 100\n\
         deliver rcpt_to command@mx.example pipe cat > seen\n\
         deliver rcpt_to * maildir dir\n",
    );
    let mut session = scratch.greeted();
    // What the sandbox is made for is what is there before the first answer.
    session.exchange("NOOP", "250 ");
    let mut fails = |what: &str, error: &str| {
        session.exchange("RSET", "250 ");
        let reply = session.deliver(&["fred@mx.example", "command@mx.example"]);
        assert!(reply.starts_with("451 4.3.0 "), "{what}: {reply}");
        let log = scratch.log();
        assert!(log.last().unwrap().contains(error), "{what}: {log:?}");
        assert!(!scratch.path("seen").exists(), "{what}");
    };
    scratch.write("dir", "");
    fails("a file", "Not a directory");
    std::fs::remove_file(scratch.path("dir")).unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    symlink("nowhere", scratch.path("dir/tmp")).unwrap();
    fails("a link that leads nowhere", "No such file or directory");
    std::fs::remove_file(scratch.path("dir/tmp")).unwrap();
    std::fs::create_dir(scratch.path("dir/tmp")).unwrap();
    scratch.run("rmdir", &["dir/new"]);
    scratch.write("dir/new", "");
    fails("a file for a folder", "Not a directory");
    assert_eq!(std::fs::read_dir(scratch.path("dir/tmp")).unwrap().count(), 0);
    std::fs::remove_file(scratch.path("dir/new")).unwrap();
    if is_root("a link of somebody else") {
        std::fs::create_dir(scratch.path("other")).unwrap();
        symlink("../other", scratch.path("dir/new")).unwrap();
        std::os::unix::fs::lchown(scratch.path("dir/new"), Some(8), Some(8)).unwrap();
        fails("a link of somebody else", "dir/new is a symbolic link of user 8");
    }
    session.quit();
}

/// A `new` to which nothing can be renamed from `tmp`, on another file system or another mount of the same one, is found
/// before the command runs.
#[test]
fn a_maildir_on_two_mounts_is_found_before_the_command_runs() {
    if !is_root("mounting") {
        return;
    }
    for mount in ["mount -t tmpfs none dir/new", "mount --bind other dir/new"] {
        let scratch = Scratch::with_config(
            "domain mx.example\ndeliver rcpt_to command@mx.example pipe cat > seen\ndeliver rcpt_to * maildir dir\n",
        );
        for folder in ["dir/tmp", "dir/new", "dir/cur", "other"] {
            std::fs::create_dir_all(scratch.path(folder)).unwrap();
        }
        let start = format!("{mount} && exec \"$@\"");
        let mut command = scratch.command("unshare", &["--mount", "sh", "-c", &start, "sh", MAILRECV]);
        command.args(["-c", CONFIG, "-l", LOG, "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        let reply = session.deliver(&["fred@mx.example", "command@mx.example"]);
        assert!(reply.starts_with("451 4.3.0 "), "{mount}: {reply}");
        let log = scratch.log();
        // EXDEV, which has other words in other C libraries.
        assert!(log.last().unwrap().contains("(os error 18)"), "{mount}: {log:?}");
        assert!(!scratch.path("seen").exists(), "{mount}");
        session.quit();
        assert_eq!(scratch.count_files("dir"), 0, "{mount}");
    }
}

/// What is no longer where it was cannot be taken back, and the administrator hears of it.
#[test]
fn a_copy_that_cannot_be_taken_back_is_logged() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to command@mx.example pipe mv dir/tmp/* taken; exit 75\n\
         deliver rcpt_to * maildir dir\n",
    );
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fred@mx.example", "command@mx.example"]);
    assert!(reply.starts_with("451 "), "{reply}");
    session.quit();
    let log = scratch.log().join("\n");
    assert!(log.contains("WARNING: dir/tmp/") && log.contains("may hold what was refused: No such file"), "{log}");
}

/// How many files lie in the folders of a maildir, also those that should not be there.
pub fn messages_in(scratch: &Scratch, folder: &str) -> usize {
    let count = |part: &str| std::fs::read_dir(scratch.path(folder).join(part)).map_or(0, Iterator::count);
    count("new") + count("cur") + count("tmp")
}
