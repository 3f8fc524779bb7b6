//! `exactly_once`, with trouble: sessions that make the table at the same time or are killed over it, folders and tables
//! that cannot be used, and configurations that share one. In doubt a message is delivered.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::unistd::{Uid, chown};
use testkit::{Session, debian, is_root, wait_until};

use crate::SLOW;
use crate::once::{TEXT, again, begun, killed, to_fred, unread};
use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

const FRED: &[&str] = &["fred@mx.example"];

fn messages(scratch: &Scratch, mailbox: &str) -> usize {
    let mailbox = fs::read_to_string(scratch.path(mailbox)).unwrap_or_default();
    mailbox.lines().filter(|line| *line == "Subject: once").count()
}

fn warnings(scratch: &Scratch) -> Vec<String> {
    scratch.log().into_iter().filter(|line| line.contains("exactly_once")).collect()
}

/// In how many sessions the metrics have it failing.
fn failures(scratch: &Scratch) -> usize {
    let counted = scratch.command(MAILRECV, &["metrics", "-c", CONFIG]).output().unwrap().stdout;
    let counted = String::from_utf8(counted).unwrap();
    counted.lines().find_map(|line| line.strip_prefix("mailrecv_exactly_once_failures_total ")?.parse().ok()).unwrap()
}

/// A session that other programs start, whose command line begins like this; greeted.
fn behind(scratch: &Scratch, wrapper: &[impl AsRef<OsStr>]) -> Session {
    let (program, arguments) = wrapper.split_first().unwrap();
    let mut command = scratch.command(program, &[]);
    command.args(arguments).args([MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
    let mut session = Session::start_with_stderr(command, Stdio::null());
    session.expect("220 ");
    session
}

fn strace() -> String {
    debian::program("strace", "strace").display().to_string()
}

/// What can be wrong with folder and table without anybody having written a wrong record: there is a warning, and the
/// message is delivered.
#[test]
fn a_table_that_cannot_be_trusted_is_not_used() {
    if !is_root("files of other users") {
        return;
    }
    type Trouble = fn(&Path);
    let troubles: [(&str, Trouble, &str); 9] = [
        (
            "a link in place of the table",
            |folder| {
                fs::rename(folder.join("records"), folder.join("elsewhere")).unwrap();
                symlink("elsewhere", folder.join("records")).unwrap();
            },
            "`records` in it cannot be opened: Too many symbolic links",
        ),
        (
            "a second name",
            |folder| fs::hard_link(folder.join("records"), folder.join("other")).unwrap(),
            "no file that is ours alone",
        ),
        (
            "a FIFO",
            |folder| {
                fs::remove_file(folder.join("records")).unwrap();
                nix::unistd::mkfifo(&folder.join("records"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            },
            "no file that is ours alone",
        ),
        (
            "a folder in its place",
            |folder| {
                fs::remove_file(folder.join("records")).unwrap();
                fs::create_dir(folder.join("records")).unwrap();
            },
            "Is a directory",
        ),
        (
            "a file in place of the folder",
            |folder| {
                fs::remove_dir_all(folder).unwrap();
                fs::write(folder, "").unwrap();
            },
            "Not a directory",
        ),
        (
            "a table that is cut",
            |folder| fs::File::options().write(true).open(folder.join("records")).unwrap().set_len(1 << 20).unwrap(),
            "not of this form",
        ),
        (
            "another's folder",
            |folder| chown(folder, Some(Uid::from_raw(65534)), None).unwrap(),
            "it belongs to another user",
        ),
        (
            "another's table",
            |folder| chown(&folder.join("records"), Some(Uid::from_raw(65534)), None).unwrap(),
            "no file that is ours alone",
        ),
        (
            "another's link to the folder",
            |folder| {
                fs::rename(folder, folder.with_file_name("elsewhere")).unwrap();
                symlink("elsewhere", folder).unwrap();
                Command::new("chown").args(["-h", "nobody"]).arg(folder).status().unwrap();
            },
            "is a symbolic link of user 65534",
        ),
    ];
    for (what, trouble, said) in troubles {
        let scratch = to_fred("append inbox");
        unread(&scratch, FRED, "");
        trouble(&scratch.path("once"));
        let reply = again(&scratch, FRED);
        assert!(reply.contains("delivery, id="), "{what}: {reply}");
        assert_eq!(messages(&scratch, "inbox"), 2, "{what}");
        let warnings = warnings(&scratch);
        assert!(warnings.len() == 1 && warnings[0].contains(said), "{what}: {warnings:?}");
        assert_eq!(failures(&scratch), 1, "{what}");
    }
    // A link of ours is a way to name a folder.
    let scratch = to_fred("append inbox");
    fs::create_dir(scratch.path("elsewhere")).unwrap();
    symlink("elsewhere", scratch.path("once")).unwrap();
    unread(&scratch, FRED, "");
    assert!(again(&scratch, FRED).contains("delivery before, id="));
}

/// A file system that is read-only, or full, or takes no file of this size.
#[test]
fn where_nothing_can_be_written_mail_is_taken() {
    if !is_root("file systems of its own") {
        return;
    }
    let mounting =
        |mount: &str| ["unshare", "-m", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"].map(str::to_owned);
    let limited = |size: &str| vec!["prlimit".to_owned(), format!("--fsize={size}")];
    for (what, wrapper, said) in [
        ("read-only", mounting("mount -t tmpfs -o mode=700,ro tmpfs once").to_vec(), "Read-only file system"),
        ("full", mounting("mount -t tmpfs -o mode=700,size=1m tmpfs once").to_vec(), "No space left"),
        ("no large files", limited("1000000"), "File too large"),
    ] {
        let scratch = to_fred("append inbox");
        fs::create_dir(scratch.path("once")).unwrap();
        fs::set_permissions(scratch.path("once"), fs::Permissions::from_mode(0o700)).unwrap();
        for number in 1..=2 {
            let mut session = behind(&scratch, &wrapper);
            session.begin_message(FRED);
            session.send(format!("{TEXT}.\r\n"));
            assert!(session.expect("250 ").contains("delivery, id="), "{what}");
            // As it is seen by the session.
            let folder = format!("/proc/{}/root{}", session.pid(), scratch.path("once").display());
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "{what}");
            session.reset().exit_code();
            assert_eq!(messages(&scratch, "inbox"), number, "{what}");
            let warnings = warnings(&scratch);
            assert!(warnings.len() == number && warnings[number - 1].contains(said), "{what}: {warnings:?}");
        }
    }
    // The table is there, and can be read and not be written to.
    for (what, wrapper, said) in [
        (
            "read-only",
            mounting("mount --bind once once && mount -o remount,bind,ro once").to_vec(),
            "Read-only file system",
        ),
        ("no large files", limited("4500"), "File too large"),
    ] {
        let scratch = to_fred("append inbox");
        unread(&scratch, FRED, "");
        let first = messages(&scratch, "inbox");
        let mut session = behind(&scratch, &wrapper);
        session.begin_message(FRED);
        session.send(format!("X{TEXT}.\r\n"));
        assert!(session.expect("250 ").contains("delivery, id="), "{what}");
        assert_eq!(session.hang_up().exit_code(), 0, "{what}");
        // Nothing says that it will be recognised.
        let last = scratch.log().pop();
        assert!(last.as_ref().is_some_and(|line| line.ends_with(" it will send it again")), "{what}: {last:?}");
        assert_eq!(scratch.read("inbox").matches("Subject: once").count(), first + 1, "{what}");
        let warnings = warnings(&scratch);
        assert!(warnings.len() == 1 && warnings[0].contains(said), "{what}: {warnings:?}");
        assert_eq!(failures(&scratch), 1, "{what}");
    }
}

/// A session that is killed while it makes the table leaves nothing behind that stays.
#[test]
fn a_session_that_is_killed_over_the_new_table_leaves_no_garbage() {
    let scratch = to_fred("append inbox");
    for kill in [
        "fsync:signal=KILL:when=1",
        "fsync:signal=KILL:when=2",
        "write:signal=KILL:when=100",
        "renameat,renameat2:signal=KILL:when=1",
    ] {
        let _ = fs::remove_dir_all(scratch.path("once"));
        let inject = format!("inject={kill}");
        for _ in 0..2 {
            let mut session = behind(&scratch, &[&strace(), "-o", "/dev/null", "-e", &inject]);
            assert_eq!(session.exit_code(), 128 + 9, "{kill}");
        }
        unread(&scratch, FRED, "");
        assert!(again(&scratch, FRED).contains("delivery before, id="), "{kill}");
        let names: Vec<_> = fs::read_dir(scratch.path("once")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["records"], "{kill}");
    }
}

/// What a killed session has left in a maildir is durable before it is answered for, wherever a reader has moved it.
#[test]
fn what_is_found_in_a_maildir_is_synced() {
    // Dovecot adds the size with CRs to a name.
    for (moved_to, expected) in [
        (None, "dir/new>)"),
        (Some(("cur", ":2,S")), "dir/cur>)"),
        (Some(("cur", "")), "dir/cur>)"),
        (Some(("cur", ",W=400:2,S")), "dir/cur>)"),
    ] {
        let scratch = to_fred("maildir dir");
        // The folders are made.
        again(&scratch, &["fred@mx.example"]);
        let old = fs::read_dir(scratch.path("dir/new")).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(old).unwrap();
        let new = scratch.path("dir/new").display().to_string();
        let kill = "inject=fsync:signal=KILL:when=1";
        let mut session = behind(&scratch, &[&strace(), "-o", "/dev/null", "-P", &new, "-e", kill]);
        session.begin_message(FRED);
        session.send(format!("{TEXT}.\r\n"));
        assert_eq!(session.exit_code(), 128 + 9);
        let message = fs::read_dir(&new).unwrap().next().unwrap().unwrap();
        if let Some((folder, more)) = moved_to {
            let name = message.file_name().into_string().unwrap() + more;
            fs::rename(message.path(), scratch.path("dir").join(folder).join(name)).unwrap();
        }
        let mut session = behind(&scratch, &[&strace(), "-o", "strace", "-e", "trace=fsync,sendto", "-y"]);
        session.begin_message(FRED);
        session.send(format!("{TEXT}.\r\n"));
        assert!(session.expect("250 ").contains("delivery before, id="));
        session.quit();
        let calls = scratch.read("strace");
        let synced = calls.lines().position(|call| call.starts_with("fsync(") && call.contains(expected));
        let answered = calls.lines().position(|call| call.contains("\"250 2.0.0 "));
        assert!(synced.is_some() && synced < answered, "{calls}");
    }
}

/// A session is killed when its mailbox has the message; before that comes again, somebody does something to the mailbox.
/// The message is there then, and not a byte of what was there is gone.
#[test]
fn whatever_became_of_the_mailbox_nothing_is_lost_or_cut() {
    type Change = fn(&Path);
    fn write(inbox: &Path, change: impl FnOnce(String) -> String) {
        let text = change(fs::read_to_string(inbox).unwrap());
        fs::write(inbox, text).unwrap();
    }
    const OLD: &str = "From old@client.example Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n";
    let changes: [(&str, Change, &str); 11] = [
        ("nothing", |_| {}, "before"),
        ("rotated", |inbox| fs::rename(inbox, inbox.with_extension("1")).unwrap(), "delivered"),
        (
            "rotated, and others came",
            |inbox| {
                fs::rename(inbox, inbox.with_extension("1")).unwrap();
                fs::write(inbox, OLD.repeat(100)).unwrap();
            },
            "delivered",
        ),
        ("truncated", |inbox| fs::write(inbox, "").unwrap(), "delivered"),
        ("cut to the old", |inbox| fs::write(inbox, OLD).unwrap(), "delivered"),
        ("the old one removed", |inbox| write(inbox, |text| text.replace(OLD, "")), "delivered"),
        (
            "marked as read",
            |inbox| write(inbox, |text| text.replace("\nSubject", "\nStatus: RO\nSubject")),
            "delivered",
        ),
        ("compressed", |inbox| fs::write(inbox, b"\x1f\x8b\x08 From ").unwrap(), "delivered"),
        ("another behind it", |inbox| write(inbox, |text| text + OLD), "before"),
        (
            "a link to it",
            |inbox| {
                fs::rename(inbox, inbox.with_extension("moved")).unwrap();
                symlink("inbox.moved", inbox).unwrap();
            },
            "before",
        ),
        ("a second name", |inbox| fs::hard_link(inbox, inbox.with_extension("2")).unwrap(), "refused"),
    ];
    for (what, change, expected) in changes {
        let scratch = to_fred("append inbox");
        scratch.write("inbox", OLD);
        scratch.greeted().quit();
        killed(&scratch, FRED);
        assert_eq!(messages(&scratch, "inbox"), 1);
        let inbox = scratch.path("inbox");
        change(&inbox);
        let before = fs::read(&inbox).unwrap_or_default();
        let reply = again(&scratch, FRED);
        let after = fs::read(&inbox).unwrap();
        assert!(after.starts_with(&before), "{what}: {}", String::from_utf8_lossy(&after));
        let added = String::from_utf8_lossy(&after[before.len()..]).matches("Subject: once\n").count();
        let (answer, count) = match expected {
            "before" => ("250 2.0.0 Message accepted for delivery before, id=", 0),
            "delivered" => ("250 2.0.0 Message accepted for delivery, id=", 1),
            _ => ("451 ", 0),
        };
        assert!(reply.starts_with(answer) && added == count, "{what}: {added}, {reply}");
    }
}

/// Two lines that name one place for one recipient are one delivery, also when a killed session has left it.
#[test]
fn a_place_that_is_named_twice_is_one() {
    let scratch = to_fred("append inbox\ncopy rcpt_to fred@mx.example append inbox");
    scratch.greeted().quit();
    scratch.write("inbox", "From old@client.example Sat Nov 21 01:32:50 2026\n\nold\n\n");
    killed(&scratch, FRED);
    let unread_again = || {
        let mut session = begun(&scratch, FRED);
        session.send(".\r\n");
        assert!(session.expect("250 ").contains("delivery before, id="));
        session.reset().exit_code();
    };
    unread_again();
    unread_again();
    assert!(again(&scratch, FRED).contains("delivery before, id="));
    for number in 2..=3 {
        assert!(again(&scratch, FRED).contains("delivery, id="), "{number}");
        assert_eq!(messages(&scratch, "inbox"), number);
    }
}

/// Two names of one mailbox are two copies in it, and both are found where a killed session has left them.
#[test]
fn copies_in_one_mailbox_are_found_one_behind_the_other() {
    let scratch = to_fred("append inbox\ncopy rcpt_to fred@mx.example append link");
    scratch.write("inbox", "From old@client.example Sat Nov 21 01:32:50 2026\n\nold\n");
    symlink("inbox", scratch.path("link")).unwrap();
    scratch.greeted().quit();
    killed(&scratch, FRED);
    assert_eq!(messages(&scratch, "inbox"), 2);
    assert!(again(&scratch, FRED).contains("delivery before, id="));
    assert_eq!(messages(&scratch, "inbox"), 2);
    // Of the last one only a part is left.
    killed(&scratch, FRED);
    let inbox = fs::File::options().write(true).open(scratch.path("inbox")).unwrap();
    inbox.set_len(inbox.metadata().unwrap().len() - 5).unwrap();
    assert!(again(&scratch, FRED).contains("delivery, id="));
    assert_eq!(messages(&scratch, "inbox"), 4);
}

/// What is refused and cannot be taken back is known when it comes again.
#[test]
fn what_could_not_be_taken_back_is_not_delivered_again() {
    let undoing = "inject=ftruncate,unlinkat:error=EIO";
    for (destination, fault) in [
        ("append inbox\ncopy rcpt_to fred@mx.example pipe test -e go", undoing),
        ("maildir dir", "inject=fsync:error=EIO:when=2"),
        ("eml dir/new", "inject=fsync:error=EIO:when=2"),
    ] {
        let scratch = to_fred(destination);
        fs::create_dir_all(scratch.path("dir/new")).unwrap();
        fs::create_dir_all(scratch.path("dir/cur")).unwrap();
        fs::create_dir_all(scratch.path("dir/tmp")).unwrap();
        scratch.write("dir/new/1.old", "");
        scratch.greeted().quit();
        let mut session = behind(&scratch, &[&strace(), "-o", "strace", "-e", undoing, "-e", fault]);
        session.begin_message(FRED);
        session.send(format!("{TEXT}.\r\n"));
        session.expect("451 ");
        session.quit();
        assert!(scratch.log().iter().any(|line| line.contains("may hold what was refused")), "{:#?}", scratch.log());
        scratch.write("go", "");
        assert!(again(&scratch, FRED).starts_with("250 "), "{destination}");
        let copies = messages(&scratch, "inbox") + fs::read_dir(scratch.path("dir/new")).unwrap().count() - 1;
        assert_eq!(copies, 1, "{destination}");
    }
}

/// A session that is stopped while it has a page of the table locked is not waited for without end.
#[test]
fn a_page_that_stays_locked_is_not_waited_for_without_end() {
    let scratch = to_fred("append inbox");
    again(&scratch, FRED);
    let table = fs::File::options().read(true).write(true).open(scratch.path("once/records")).unwrap();
    let all = nix::libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 1 << 40, l_pid: 0 };
    nix::fcntl::fcntl(&table, nix::fcntl::FcntlArg::F_SETLK(&all)).unwrap();
    assert!(again(&scratch, FRED).contains("delivery, id="));
    let said = warnings(&scratch);
    assert!(said.len() == 1 && said[0].contains("somebody has it locked"), "{said:?}");
    assert_eq!(messages(&scratch, "inbox"), 2);
}

/// A folder that somebody has made, and was killed before its name was durable, would be lost with the table in it.
#[test]
fn the_folder_is_durable_before_the_table_is_there() {
    let scratch = to_fred("append inbox");
    fs::create_dir(scratch.path("once")).unwrap();
    fs::set_permissions(scratch.path("once"), fs::Permissions::from_mode(0o700)).unwrap();
    behind(&scratch, &[&strace(), "-o", "strace", "-e", "trace=fsync,renameat,renameat2", "-y"]).quit();
    let calls = scratch.read("strace");
    let folder = format!("<{}>) ", scratch.path("").display().to_string().trim_end_matches('/'));
    let synced = calls.lines().position(|call| call.starts_with("fsync(") && call.contains(&folder));
    let made = calls.lines().position(|call| call.starts_with("renameat") && call.contains("records"));
    assert!(synced.is_some() && synced < made, "{folder}: {calls}");
}

/// Of many first sessions one makes the table, and the others wait for it.
#[test]
fn many_first_sessions_make_one_table() {
    const SESSIONS: usize = 6;
    let scratch = to_fred("append inbox");
    thread::scope(|scope| {
        for number in 0..SESSIONS {
            let scratch = &scratch;
            scope.spawn(move || {
                let log = format!("strace{number}");
                behind(scratch, &[&strace(), "-o", &log, "-e", "trace=renameat,renameat2", "-y"]).quit();
            });
        }
    });
    let made = |number: usize| scratch.read(format!("strace{number}")).matches("renameat").count();
    assert_eq!((0..SESSIONS).map(made).sum::<usize>(), 1);
    assert_eq!(warnings(&scratch), [""; 0]);
    let names: Vec<_> = fs::read_dir(scratch.path("once")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["records"]);
}

/// Somebody who keeps the folder locked keeps nobody from mail.
#[test]
fn a_folder_that_stays_locked_is_not_waited_for_without_end() {
    let scratch = to_fred("append inbox");
    fs::create_dir(scratch.path("once")).unwrap();
    fs::set_permissions(scratch.path("once"), fs::Permissions::from_mode(0o700)).unwrap();
    let folder = fs::File::open(scratch.path("once")).unwrap();
    folder.lock().unwrap();
    assert!(again(&scratch, FRED).contains("delivery, id="));
    let said = warnings(&scratch);
    assert!(said.len() == 1 && said[0].contains("somebody has it locked"), "{said:?}");
    assert_eq!(fs::read_dir(scratch.path("once")).unwrap().count(), 0);
    folder.unlock().unwrap();
    unread(&scratch, FRED, "");
    assert!(again(&scratch, FRED).contains("delivery before, id="));
}

/// Two configurations share a folder, and what one of them has delivered the other has not: the same words can name
/// another mailbox, broker or log there.
#[test]
fn configurations_that_share_a_folder_know_only_their_own() {
    let table = Scratch::new();
    let config = |scratch: &Scratch| {
        let config =
            scratch.read(CONFIG).replace("exactly_once once", &format!("exactly_once {}", path(&table, "once")));
        scratch.write(CONFIG, config);
    };
    for destination in ["append inbox", "maildir dir", "eml files", "pipe cat >> piped", "print"] {
        let (one, other) = (to_fred(destination), to_fred(destination));
        config(&one);
        config(&other);
        unread(&one, FRED, "");
        let reply = again(&other, FRED);
        assert!(reply.contains("delivery, id="), "{destination}: {reply}");
        let reply = again(&one, FRED);
        assert!(reply.contains("delivery before, id="), "{destination}: {reply}");
    }
}

/// One configuration, with which sessions are started in two folders: a relative path is another mailbox there, an absolute
/// one is the same.
#[test]
fn another_current_folder_matters_to_relative_paths_only() {
    let table = Scratch::new();
    for (mailbox, in_the_first, in_the_second) in [("inbox".to_owned(), 1, 1), (path(&table, "inbox"), 1, 0)] {
        let (one, other) = (to_fred(&format!("append {mailbox}")), Scratch::new());
        unread(&one, FRED, "");
        let mut command = other.command(MAILRECV, &["-l", LOG, "--peer", PEER, "-c"]);
        command.arg(one.path(CONFIG));
        let config = one.read(CONFIG).replace("exactly_once once", &format!("exactly_once {}", path(&one, "once")));
        one.write(CONFIG, config);
        let mut session = Session::start(command);
        session.expect("220 ");
        session.begin_message(FRED);
        session.send(format!("{TEXT}.\r\n"));
        session.expect("250 ");
        session.quit();
        let holder = if in_the_second == 0 { &table } else { &one };
        assert_eq!((messages(holder, "inbox"), messages(&other, "inbox")), (in_the_first, in_the_second), "{mailbox}");
    }
}

fn path(scratch: &Scratch, name: &str) -> String {
    scratch.path(name).display().to_string()
}

/// Who sends it again, or at the same time, may come from another address.
#[test]
fn another_address_is_no_other_message() {
    let from = |scratch: &Scratch, address: &str| {
        let mut session = scratch.session(&["--peer", address]);
        session.expect("220 ");
        session.begin_message(FRED);
        session.send(format!("{TEXT}.\r\n"));
        session
    };
    let scratch = to_fred("append inbox");
    unread(&scratch, FRED, "");
    let mut session = from(&scratch, "198.51.100.7=other.example.net");
    assert!(session.expect("250 ").contains("delivery before, id="));
    session.quit();
    assert_eq!(messages(&scratch, "inbox"), 1);

    // All of them wait for the first one, whose sender is gone.
    let scratch = to_fred(&format!("pipe echo x >> runs; {SLOW}"));
    let mut first = begun(&scratch, FRED);
    first.send(".\r\n");
    wait_until("the command", || scratch.path("begun").exists().then_some(()));
    let mut others: Vec<Session> =
        (1..=5).map(|number| from(&scratch, &format!("2001:db8::{number}=mail{number}.example.net"))).collect();
    others.iter().for_each(|session| session.until_read());
    let mut process = first.reset();
    scratch.write("go", "");
    let replies: Vec<String> = others.iter_mut().map(|session| session.reply().to_string()).collect();
    assert!(replies.iter().all(|reply| reply.contains("delivery before, id=")), "{replies:?}");
    assert_eq!(process.exit_code(), 0);
    assert_eq!(scratch.read("runs"), "x\n");
    others.into_iter().for_each(Session::quit);
}
