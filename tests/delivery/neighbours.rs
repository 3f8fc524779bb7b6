//! Other programs that use a mailbox while a message is appended to it: some respect locks, some do not, and whatever they
//! do there stays as they did it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use testkit::client::Reply;
use testkit::halts::Halts;
use testkit::{Session, a_few_at_a_time};

use crate::support::{CONFIG, MAILRECV, PEER, Scratch};
use crate::text_of;

/// What stood in the mailbox before.
const OLD: &str = "From old@example.org Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n";

/// What another program appends.
const THEIRS: &str = "From they@example.org Sat Nov 21 01:32:50 2026\nSubject: theirs\n\ntheirs\n\n";

/// Something that another program does to a mailbox, and what it leaves in it.
struct Deed {
    what: &'static str,
    act: fn(&Path),
    leaves: &'static [&'static str],
}

const NOTHING: Deed = Deed { what: "does nothing", act: |_| (), leaves: &[OLD] };

const DEEDS: [Deed; 7] = [
    Deed { what: "removes it", act: |inbox| fs::remove_file(inbox).unwrap(), leaves: &[] },
    Deed { what: "empties it", act: |inbox| cut(inbox, 0), leaves: &[] },
    Deed { what: "cuts it", act: |inbox| cut(inbox, OLD.len() + 10), leaves: &[OLD] },
    Deed { what: "appends to it", act: append, leaves: &[OLD, THEIRS] },
    Deed {
        what: "empties it and appends",
        act: |inbox| {
            cut(inbox, 0);
            append(inbox);
        },
        leaves: &[THEIRS],
    },
    Deed {
        what: "puts another one in its place",
        act: |inbox| {
            fs::write(inbox.with_extension("new"), OLD).unwrap();
            fs::rename(inbox.with_extension("new"), inbox).unwrap();
        },
        leaves: &[OLD],
    },
    Deed {
        what: "gives it a second name",
        act: |inbox| fs::hard_link(inbox, inbox.with_extension("second")).unwrap(),
        leaves: &[OLD],
    },
];

/// Whatever is done to the file without its lock, after whatever call: no 250 for a message that is not there, nothing of
/// a refused one left but with a line that says so, and not one byte of others touched.
#[test]
fn what_careless_programs_do_to_a_mailbox_costs_no_mail() {
    let mut runs = Vec::new();
    for refuses in [false, true] {
        let (calls, _) = delivered_beside(&NOTHING, refuses, usize::MAX);
        assert!(calls > 3, "a delivery makes more calls than {calls}");
        runs.extend(DEEDS.iter().flat_map(|deed| (0..calls).map(move |call| (deed, refuses, call))));
    }
    a_few_at_a_time(&runs, |(deed, refuses, call)| _ = delivered_beside(deed, *refuses, *call));
}

/// A program that protects itself by `FILE.lock` alone may have read the mailbox before the message was whole. One that
/// makes that file later found it whole, and most wait for our lock as well.
#[test]
fn a_lock_file_that_appears_before_the_message_is_whole_defers_it() {
    let makes_lock = |inbox: &Path| {
        // Later than what was written before, by the clock of the file system.
        std::thread::sleep(Duration::from_millis(50));
        fs::write(inbox.with_extension("lock"), "").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    };
    let makes_lock = Deed { what: "makes a lock file", act: makes_lock, leaves: &[OLD] };
    // A large message is written in several pieces.
    let large = format!("{}\r\n", "x".repeat(70)).repeat(6_000);
    let (calls, _) = deliver_beside(&NOTHING, false, usize::MAX, &large);
    // The last calls that are traced bring the message to the disk; the pieces, two calls each, come before. How many calls
    // write the spool is a matter of when the text comes, so the first of these is some pieces before the last.
    for (call, expected) in [(calls - 7, "451 4.2.0 "), (calls - 1, "250 ")] {
        let (_, reply) = deliver_beside(&makes_lock, false, call, &large);
        assert!(reply.starts_with(expected), "{call} of {calls}: {reply}");
    }
}

/// A delivery during which something is done after this call of it, the first being 0; a command may refuse it at the end.
/// How many calls there were, and the reply.
fn delivered_beside(deed: &Deed, refuses: bool, when: usize) -> (usize, Reply) {
    deliver_beside(deed, refuses, when, "")
}

/// The same with a message that has more text.
fn deliver_beside(deed: &Deed, refuses: bool, when: usize, more: &str) -> (usize, Reply) {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to fred@mx.example append inbox\ndeliver rcpt_to no@mx.example pipe exit 75\n",
    );
    let inbox = scratch.write("inbox", OLD);
    let calls = "openat,openat2,write,lseek,ftruncate,fdatasync,flock";
    let (halts, command) = Halts::of(&scratch.mailrecv(&["--peer", PEER]), calls, &scratch.path("trace"));
    let mut session = Session::start(command);
    let begin = AtomicUsize::new(usize::MAX);
    let in_time = |halt: usize| {
        if halt.checked_sub(begin.load(SeqCst)) == Some(when) {
            (deed.act)(&inbox);
        }
    };
    let (reply, count) = halts.during(in_time, || {
        session.expect("220 ");
        let recipients = ["fred@mx.example", "no@mx.example"];
        session.begin_message(&recipients[..if refuses { 2 } else { 1 }]);
        let before = halts.count();
        begin.store(before, SeqCst);
        session.send(format!("Subject: x\r\n\r\nbody\r\n{more}.\r\n"));
        let reply = session.reply();
        let count = halts.count() - before;
        session.quit();
        (reply, count)
    });
    let text = fs::read_to_string(&inbox).unwrap_or_default();
    let log = scratch.log().join("\n");
    let what = format!("another program {} after call {when} of {count}: {reply}\n{text}\n{log}", deed.what);
    let copies = text.matches("\nbody\n").count();
    if reply.starts_with("250 ") {
        assert!(!refuses && copies == 1, "{what}");
    } else {
        assert!(reply.starts_with("451 "), "{what}");
        assert!(copies == 0 || log.contains("inbox may hold what was refused"), "{what}");
    }
    assert!(!text.contains('\0'), "{what}");
    if when < count {
        assert!(deed.leaves.iter().all(|theirs| text.contains(theirs)), "{what}");
    }
    (count, reply)
}

fn cut(file: &Path, length: usize) {
    let file = File::options().write(true).open(file).unwrap();
    let length = u64::try_from(length).unwrap();
    if file.metadata().unwrap().len() > length {
        file.set_len(length).unwrap();
    }
}

fn append(file: &Path) {
    OpenOptions::new().append(true).open(file).unwrap().write_all(THEIRS.as_bytes()).unwrap();
}

/// Who holds his own mailbox, which he may only read, holds up his own mail and nobody else's.
#[test]
fn who_holds_one_mailbox_does_not_hold_up_another() {
    // The files are locked in an order that does not depend on their names, so both ways round.
    for (first, second) in [("archive", "fred"), ("fred", "archive")] {
        let scratch = Scratch::with_config(
            "domain mx.example\ncopy rcpt_to * append archive\ndeliver rcpt_to fred@mx.example append fred\n\
             deliver rcpt_to jim@mx.example append jim\n",
        );
        scratch.write(first, "");
        scratch.write(second, "");
        let held = Flock::lock(File::open(scratch.path("fred")).unwrap(), FlockArg::LockShared).unwrap();
        let mut waiting = scratch.greeted();
        waiting.begin_message(&["fred@mx.example"]);
        waiting.send("x\r\n.\r\n");
        // Few: the one that waits does so for half a minute at most.
        for number in 1..=5 {
            let mut session = scratch.greeted();
            let reply = session.deliver(&["jim@mx.example"]);
            assert!(reply.starts_with("250 "), "{number}: {reply}");
            session.quit();
        }
        drop(held);
        waiting.expect("250 ");
        waiting.quit();
        assert_eq!(scratch.read("archive").matches("\nDelivered-To: ").count(), 6);
    }
}

/// Two names of two files, which sessions come upon in different order.
#[test]
fn two_names_of_a_file_make_no_deadlock() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to a@mx.example append a-one\ndeliver rcpt_to b@mx.example append b-two\n\
         deliver rcpt_to c@mx.example append c-two\ndeliver rcpt_to d@mx.example append d-one\n",
    );
    for (name, file) in [("a-one", "one"), ("d-one", "one"), ("b-two", "two"), ("c-two", "two")] {
        symlink(file, scratch.path(name)).unwrap();
    }
    let scratch = &scratch;
    std::thread::scope(|scope| {
        for recipients in [["a@mx.example", "b@mx.example"], ["c@mx.example", "d@mx.example"]] {
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut session = scratch.greeted();
                    for _ in 0..10 {
                        session.begin_message(&recipients);
                        session.send(text_of(300_000));
                        session.send(".\r\n");
                        session.expect("250 ");
                    }
                    session.quit();
                });
            }
        }
    });
    let copies = |file: &str| scratch.read(file).matches("\nDelivered-To: ").count();
    assert_eq!((copies("one"), copies("two")), (40, 40));
}

/// What was a FIFO when it was looked at and is a file when it is opened is a mailbox: locked, and there behind the 250.
#[test]
fn a_fifo_that_becomes_a_file_meanwhile_loses_no_mail() {
    let run = |when: usize| {
        let scratch = Scratch::with_config("domain mx.example\nsandbox off\ndeliver rcpt_to * append inbox\n");
        assert!(scratch.run("mkfifo", &["inbox"]).status.success());
        let (inbox, file) = (scratch.path("inbox"), scratch.write("file", ""));
        let mut options = File::options();
        let mut reader = options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&inbox).unwrap();
        let (halts, command) =
            Halts::of(&scratch.mailrecv(&["--peer", PEER]), "openat,openat2", &scratch.path("trace"));
        let mut session = Session::start(command);
        let begin = AtomicUsize::new(usize::MAX);
        let in_time = |halt: usize| {
            if halt.checked_sub(begin.load(SeqCst)) == Some(when) {
                fs::rename(&file, &inbox).unwrap();
            }
        };
        let (reply, calls) = halts.during(in_time, || {
            session.expect("220 ");
            session.begin_message(&["fred@mx.example"]);
            begin.store(halts.count(), SeqCst);
            session.send("Subject: x\r\n\r\nbody\r\n.\r\n");
            let reply = session.reply();
            let calls = halts.count() - begin.load(SeqCst);
            session.quit();
            (reply, calls)
        });
        let mut piped = [0; 4096];
        let length = reader.read(&mut piped).unwrap_or(0);
        let in_pipe = String::from_utf8_lossy(&piped[..length]).matches("\nbody\n").count();
        let in_file =
            if inbox.metadata().unwrap().is_file() { scratch.read("inbox").matches("\nbody\n").count() } else { 0 };
        assert_eq!(in_pipe + in_file, usize::from(reply.starts_with("250 ")), "after call {when} of {calls}: {reply}");
        calls
    };
    let calls = run(usize::MAX);
    assert!(calls >= 3, "{calls}");
    (0..calls).for_each(|call| _ = run(call));
}

/// Nor does who reads his mail from a FIFO as slowly as he likes, nor whoever does not read the log that messages are
/// printed to.
#[test]
fn what_makes_us_wait_comes_before_the_locks() {
    let scratch = Scratch::with_config(
        "domain mx.example\nspool_dir .\ncopy rcpt_to * append archive\ndeliver rcpt_to fred@mx.example append fifo\n\
         deliver rcpt_to tom@mx.example print\ndeliver rcpt_to jim@mx.example append jim\n",
    );
    assert!(scratch.run("mkfifo", &["fifo", "full"]).status.success());
    let open = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(scratch.path(name)).unwrap()
    };
    let (_reader, mut log) = (open("fifo"), open("full"));
    while log.write(&[b'x'; 4096]).is_ok() {}
    let mut waiting = scratch.greeted();
    waiting.begin_message(&["fred@mx.example"]);
    waiting.send(text_of(300_000));
    waiting.send(".\r\n");
    let mut printing = Session::start(scratch.command(MAILRECV, &["-c", CONFIG, "-l", "full", "--peer", PEER]));
    printing.expect("220 ");
    printing.begin_message(&["tom@mx.example"]);
    printing.send("x\r\n.\r\n");
    std::thread::sleep(Duration::from_secs(1));
    for number in 1..=5 {
        let mut session = scratch.greeted();
        let reply = session.deliver(&["jim@mx.example"]);
        assert!(reply.starts_with("250 "), "{number}: {reply}");
        session.quit();
    }
    assert!(waiting.is_silent_for(Duration::from_millis(100)) && printing.is_silent_for(Duration::from_millis(100)));
}
