//! Somebody who may write to the folder of a destination puts something else in its place while a message is delivered:
//! between any two system calls, and back again between any two later ones.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use testkit::halts::Halts;
use testkit::{Session, a_few_at_a_time, is_root};

use crate::support::{PEER, Scratch};

/// Calls that take a path.
const CALLS: &str = "%file";

/// How many calls there are at most between the two swaps: what is judged is used soon.
const MOST_BETWEEN: usize = 3;

/// Not even for a moment does mail land where a link of somebody else leads to.
#[test]
fn a_link_that_comes_and_goes_leads_no_mail_elsewhere() {
    if !is_root("a link of somebody else") {
        return;
    }
    // What is swapped for a link, and where that link leads to.
    let swaps = [
        ("append shared/inbox", "shared/inbox", "../private/inbox"),
        ("append shared/folder/inbox", "shared/folder", "../private"),
        ("maildir shared/dir", "shared/dir", "../private/dir"),
        ("maildir shared/dir", "shared/dir/tmp", "../../private/dir/tmp"),
        ("maildir shared/dir", "shared/dir/new", "../../private/dir/new"),
    ];
    let mut runs = Vec::new();
    for (action, swapped, target) in swaps {
        let attack = Attack { action, swapped, target };
        let calls = attack.run(&[], false);
        assert!(calls > 0, "{action}: nothing happened between the message and its answer");
        for first in 0..calls + 2 {
            for second in first + 1..=first + MOST_BETWEEN {
                runs.extend([false, true].map(|begins_with_link| (attack, [first, second], begins_with_link)));
            }
        }
    }
    a_few_at_a_time(&runs, |(attack, swaps, begins_with_link)| _ = attack.run(swaps, *begins_with_link));
}

/// Mail for a destination, one name of which is swapped for a link of another user and back.
#[derive(Clone, Copy)]
struct Attack {
    action: &'static str,
    swapped: &'static str,
    target: &'static str,
}

impl Attack {
    /// Delivers a message, and swaps after these calls of the delivery, the first being 0, and once before it if that is
    /// wanted. How many calls there were.
    fn run(&self, swaps: &[usize], begins_with_link: bool) -> usize {
        // The sandbox lets a session write to `private`, which is another one's destination.
        let scratch = Scratch::with_config(&format!(
            "domain mx.example\ndeliver rcpt_to fred@mx.example {}\n\
             deliver rcpt_to jim@mx.example append private/inbox\ndeliver rcpt_to tom@mx.example maildir private/dir\n",
            self.action
        ));
        for folder in ["shared/folder", "shared/dir/tmp", "shared/dir/new", "private/dir/tmp", "private/dir/new"] {
            fs::create_dir_all(scratch.path(folder)).unwrap();
        }
        for file in ["shared/inbox", "shared/folder/inbox", "private/inbox"] {
            scratch.write(file, "");
        }
        let (swapped, link) = (scratch.path(self.swapped), scratch.path("link"));
        symlink(self.target, &link).unwrap();
        lchown(&link, Some(8), Some(8)).unwrap();

        let (halts, command) = Halts::of(&scratch.mailrecv(&["--peer", PEER]), CALLS, &scratch.path("trace"));
        let mut session = Session::start(command);
        let begin = AtomicUsize::new(usize::MAX);
        let swap_in_time = |halt: usize| {
            if halt.checked_sub(begin.load(SeqCst)).is_some_and(|call| swaps.contains(&call)) {
                exchange(&swapped, &link);
            }
        };
        let (reply, calls) = halts.during(swap_in_time, || {
            session.expect("220 ");
            session.begin_message(&["fred@mx.example"]);
            if begins_with_link {
                exchange(&swapped, &link);
            }
            let before = halts.count();
            begin.store(before, SeqCst);
            session.send("Subject: x\r\n\r\nbody\r\n.\r\n");
            let reply = session.reply();
            let calls = halts.count() - before;
            session.quit();
            (reply, calls)
        });
        let what =
            format!("{}, {} swapped at {swaps:?}, begins with the link: {begins_with_link}", self.action, self.swapped);
        assert_eq!(scratch.read("private/inbox"), "", "{what}: {reply}");
        assert_eq!(scratch.count_files("private/dir"), 0, "{what}: {reply}");
        let copies = messages_in(&scratch.path("shared")) + messages_in(&link);
        if reply.starts_with("250 ") {
            assert_eq!(copies, 1, "{what}: {reply}");
        } else {
            // From a folder that was taken away nothing can be taken back, which the log says.
            let is_told = scratch.log().iter().any(|line| line.contains("may hold what was refused"));
            assert!(copies == 0 || is_told, "{what}: {reply}");
        }
        calls
    }
}

/// How many messages there are in a file, or in the files of a folder and below that; links are not followed.
fn messages_in(path: &Path) -> usize {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().map(|entry| messages_in(&entry.unwrap().path())).sum()
    } else if metadata.is_file() {
        fs::read_to_string(path).unwrap().matches("\nbody\n").count()
    } else {
        0
    }
}

/// Each gets the other's name, at once.
fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}
