//! Mail for maildirs.

use std::os::unix::fs::{MetadataExt, symlink};

use testkit::is_root;

use crate::support::Scratch;

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

/// How many files lie in the folders of a maildir, also those that should not be there.
pub fn messages_in(scratch: &Scratch, folder: &str) -> usize {
    let count = |part: &str| std::fs::read_dir(scratch.path(folder).join(part)).map_or(0, Iterator::count);
    count("new") + count("cur") + count("tmp")
}
