//! Configurations in several files: what includes may not do to a session, and what a change to one of the files does.
//! (What `check` says of them is in tests/configs.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use testkit::{Session, is_root};

/// A folder with this configuration and these other files, some of them in the folder `d`.
fn scratch(config: &str, others: &[(&str, &str)]) -> Scratch {
    let scratch = Scratch::with_config(config);
    fs::create_dir(scratch.path("d")).unwrap();
    for (name, text) in others {
        scratch.write(name, text);
    }
    scratch
}

/// The exit status of `mailrecv check`, and what it says.
fn check(scratch: &Scratch) -> (i32, String) {
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What `check` says of an error that keeps `explain`, `listen` and a session from their work as well: without line and
/// carets.
#[track_caller]
fn refused(scratch: &Scratch) -> Vec<String> {
    let (status, said) = check(scratch);
    assert_eq!(status, 78, "{said}");
    let headlines = |said: &str| -> Vec<String> {
        said.lines().filter(|line| line.contains(": error: ")).map(str::to_owned).collect()
    };
    let errors = headlines(&said);
    for arguments in [&["listen", "127.0.0.1:0"][..], &["explain", "--peer", "192.0.2.1", "--rcpt", "fred"]] {
        let output = scratch.run(MAILRECV, &[&["-c", CONFIG], arguments].concat());
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(headlines(&String::from_utf8(output.stderr).unwrap()), errors);
    }
    let _ = fs::remove_file(scratch.path(LOG));
    let mut session = scratch.session(&["--peer", PEER]);
    session.expect("421 4.3.5 ");
    assert_eq!(session.end(), (Vec::new(), 78));
    // No address but the peer's is in brackets there.
    let plain = |error: &String| error.replace('[', "<0x5b>").replace(']', "<0x5d>");
    let logged: Vec<String> = errors.iter().map(|error| format!("[192.0.2.7] ERROR: {}", plain(error))).collect();
    assert_eq!(scratch.log()[..errors.len()], logged);
    errors
}

/// The answer to a message for this recipient, or to the recipient.
fn deliver(scratch: &Scratch, recipient: &str) -> String {
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    let mut reply = session.ask(&format!("RCPT TO:<{recipient}>"));
    if reply.starts_with("250 ") {
        session.exchange("DATA", "354 ");
        reply = session.ask("Subject: x\r\n\r\nbody\r\n.");
    }
    session.quit();
    reply
}

/// The first rule that applies is the first in the order of the text, wherever in its file it stands.
#[test]
fn lines_count_where_they_are_included() {
    let filler = "# a long comment, so that what follows it stands far behind in its file\n".repeat(20);
    let scratch = scratch(
        "domain mx.example\nallowgroup +all .*\ninclude d/a.conf\ndeliver rcpt_to fred append last\n\
         error rcpt_to .* 550 Not here\ninclude d/b.conf\n",
        &[
            (
                "d/a.conf",
                &format!("{filler}deliver rcpt_to fred append first\ninclude inner\ndeliver rcpt_to */x@* print"),
            ),
            ("d/inner", "deliver allowgroup +all rcpt_to *-list@mx.example append lists\n"),
            ("d/b.conf", "deliver rcpt_to * append everything\n"),
        ],
    );
    for (recipient, place) in [("fred", Some("first")), ("a-list", Some("lists")), ("wilma", None)] {
        let reply = deliver(&scratch, recipient);
        assert_eq!(reply.starts_with("250 "), place.is_some(), "{recipient}: {reply}");
        assert!(place.is_none_or(|place| scratch.read(place).contains("body")), "{recipient}");
    }
    assert!(!scratch.path("last").exists() && !scratch.path("everything").exists());
}

/// What is said of a line says of which file it is; of the main file it says what it always said.
#[test]
fn traces_name_the_file() {
    let scratch = scratch(
        "domain mx.example\ndebug r\ninclude d/*.conf\nallow remotehost .*\ndeliver rcpt_to wilma discard\n",
        &[
            ("d/a.conf", "# users\ndeliver rcpt_to fred discard\ndeliver rcpt_to fred discard\n"),
            ("d/b.conf", "allowgroup +lists ^mail\\.\ndeliver allowgroup +lists rcpt_to *-list@mx.example discard\n"),
            ("d/c.conf", "# this host\nallow remotehost uid 105\nallow remotehost 198.51.100.0/24\n"),
        ],
    );
    let explain = |recipient: &str| {
        let arguments = ["-c", CONFIG, "explain", "--peer", PEER, "--rcpt", recipient];
        String::from_utf8(scratch.run(MAILRECV, &arguments).stdout).unwrap()
    };
    let said = explain("fred");
    for line in [
        "  line 2 of d/c.conf: allow remotehost: 192.0.2.7 is not local:105\n",
        "  line 3 of d/c.conf: allow remotehost: net 198.51.100.0/24: 192.0.2.7 is outside\n",
        "  line 4: allow remotehost: 'mail.example.net' matches '.*'\n",
        "  line 2 of d/a.conf: deliver rcpt_to 'fred': the same address\n",
        "destination: discard (line 2 of d/a.conf)\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let said = explain("a-list");
    for line in [
        "  line 2 of d/b.conf: deliver rcpt_to: 'a-list@mx.example' matches '*-list@mx.example'\n",
        "  line 1 of d/b.conf: +lists: 'mail.example.net' matches '^mail\\.'\n",
        "destination: discard (line 2 of d/b.conf)\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(explain("wilma").contains("destination: discard (line 5)\n"));
    assert!(deliver(&scratch, "fred").starts_with("250 "));
    let log = scratch.log();
    let line = "[192.0.2.7] DEBUG: line 2 of d/a.conf: deliver rcpt_to 'fred': the same address";
    assert!(log.iter().any(|entry| entry == line), "{log:?}");

    // What does not compile says where it is, too.
    scratch.write("d/b.conf", "# broken\nerror rcpt_to (a 550 No\n");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<barney>", "421 4.3.5 ");
    drop(session);
    let log = scratch.log();
    assert!(log.iter().any(|entry| entry.contains("(line 2 of d/b.conf: bad pattern: ")), "{log:?}");
}

/// `check -v` says what was read.
#[test]
fn check_tells_which_files_are_included() {
    let scratch = scratch(
        "domain mx.example\ninclude d/*.conf\ndeliver rcpt_to postmaster discard\n",
        &[("d/b.conf", "# b\n"), ("d/a.conf", "include c\n"), ("d/c", "# c\n")],
    );
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = "mailrecv.conf: no errors, 0 warnings\nIt includes d/a.conf, d/c, d/b.conf\n";
    assert!(said.starts_with(expected), "{said}");
}

/// A change holds from the next connection on, be it in place, by another file in its place, or by one more.
#[test]
fn a_change_is_seen_by_the_next_connection() {
    let scratch = scratch(
        "domain mx.example\ninclude d/*.conf\ndeliver rcpt_to postmaster discard\n",
        &[("d/a.conf", "deliver rcpt_to fred append before\n")],
    );
    let goes_to = |place: &str| {
        assert!(deliver(&scratch, "fred").starts_with("250 "));
        assert!(scratch.read(place).contains("body"), "{place}");
    };
    goes_to("before");
    scratch.write("d/a.conf", "deliver rcpt_to fred append edited\n");
    goes_to("edited");
    scratch.write("d/new", "deliver rcpt_to fred append replaced\n");
    fs::rename(scratch.path("d/new"), scratch.path("d/a.conf")).unwrap();
    goes_to("replaced");
    scratch.write("d/0.conf", "deliver rcpt_to fred append one-more\n");
    goes_to("one-more");
    fs::remove_file(scratch.path("d/0.conf")).unwrap();
    fs::remove_file(scratch.path("d/a.conf")).unwrap();
    assert!(deliver(&scratch, "fred").starts_with("550 "));
}

/// An edit in place during a session defers what the edited file says, and nothing else.
#[test]
fn an_edit_during_a_session_refuses_no_mail() {
    let scratch = scratch(
        "domain mx.example\ninclude d/a.conf\ndeliver rcpt_to wilma append inbox\ninclude d/b.conf\n",
        &[
            ("d/a.conf", "# users\ndeliver rcpt_to fred append inbox\n"),
            ("d/b.conf", "deliver rcpt_to b append inbox\n"),
        ],
    );
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    scratch.write("d/a.conf", "# all users\ndeliver rcpt_to fred append inbox\n");
    session.exchange("RCPT TO:<fred>", "451 4.3.0 ");
    session.exchange("RCPT TO:<wilma>", "250 ");
    session.exchange("RCPT TO:<b>", "250 ");
    session.quit();
    let log = scratch.log();
    let cause = "(line 2 of d/a.conf was changed since this connection began)";
    assert!(log.iter().any(|entry| entry.ends_with(cause)), "{log:?}");
}

/// An included file that somebody is just writing is waited for: what it does not say yet bounces no mail.
#[test]
fn a_file_that_is_being_written_refuses_no_mail() {
    let users = "deliver rcpt_to fred append inbox\n";
    let scratch = scratch("domain mx.example\ninclude d/*.conf\n", &[("d/a.conf", users)]);
    let edit = || {
        let mut file = fs::File::create(scratch.path("d/a.conf")).unwrap();
        file.write_all(b"deliver rcpt_to wilma append inbox\n").unwrap();
        std::thread::sleep(Duration::from_millis(40));
        file.write_all(b"deliver rcpt_to fred append inbox\n").unwrap();
    };
    let ask = || {
        let mut session = scratch.session(&["--peer", PEER]);
        let greeting = session.reply();
        if !greeting.starts_with("220 ") {
            return greeting;
        }
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        session.ask("RCPT TO:<fred>")
    };
    for reply in scratch.replies_beside(edit, 8, ask) {
        assert!(reply.starts_with("250 ") || reply.starts_with('4'), "{reply}");
    }
    // One that stays empty is a mistake, as an empty main file is.
    scratch.write("d/a.conf", "\n");
    let errors = refused(&scratch);
    assert_eq!(errors, ["mailrecv.conf:2:9: error: d/a.conf is empty"]);
}

/// Editors move a file away before they write the new one. Whoever looks through the folder meanwhile must not take that
/// for the wish of the administrator.
#[test]
fn a_file_that_is_being_replaced_refuses_no_mail() {
    let users = "deliver rcpt_to fred append inbox\n";
    let scratch = scratch("domain mx.example\ninclude d/*.conf\n", &[("d/a.conf", users)]);
    let reply = || {
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        session.ask("RCPT TO:<fred>")
    };
    let edit = || {
        fs::rename(scratch.path("d/a.conf"), scratch.path("d/a.conf~")).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        scratch.write("d/a.conf", users);
    };
    for reply in scratch.replies_beside(edit, 3, reply) {
        assert!(reply.starts_with("250 "), "{reply}");
    }
    // What is gone for longer is meant to be.
    fs::remove_file(scratch.path("d/a.conf")).unwrap();
    assert_eq!(reply().get(..4), Some("550 "));
}

/// Files that only root can read are read before root is given up, and their lines again behind the sandbox.
#[test]
fn files_of_root_serve_a_session_of_another_user() {
    if !is_root("becoming another user") {
        return;
    }
    let mut users = String::new();
    for number in 0..2000 {
        writeln!(users, "deliver rcpt_to user{number} maildir {{}}/{number}").unwrap();
    }
    let scratch = scratch("", &[]);
    let box_folder = scratch.path("boxes");
    fs::create_dir(&box_folder).unwrap();
    fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    chown(&box_folder, Some(8), Some(8)).unwrap();
    scratch.write("d/users.conf", users.replace("{}", box_folder.to_str().unwrap()));
    for level in ["on", "strict"] {
        let text = format!("domain mx.example\nuser mail\nsandbox {level}\nspool_dir /tmp\ninclude d/*.conf\n");
        scratch.write(CONFIG, text);
        for (file, mode) in [("d/users.conf", 0o600), (CONFIG, 0o600), ("d", 0o700)] {
            fs::set_permissions(scratch.path(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        let arguments = ["-c", CONFIG, "-l", "stderr", "--peer", PEER];
        let mut session = Session::start(scratch.command(MAILRECV, &arguments));
        session.expect("220 ");
        for recipient in ["user0", "user1999", "user1000"] {
            let reply = session.deliver(&[recipient]);
            assert!(reply.starts_with("250 "), "{level}, {recipient}: {reply}");
        }
        session.quit();
    }
    assert_eq!(fs::read_dir(box_folder.join("1999/new")).unwrap().count(), 2);
}

/// Who may write an included file is asked as it is of the main one, and `check` tells of the folders on the way.
#[test]
fn a_file_that_others_can_write_is_refused() {
    let scratch =
        scratch("domain mx.example\ninclude d/*.conf\n", &[("d/a.conf", "deliver rcpt_to postmaster discard\n")]);
    assert_eq!(check(&scratch), (0, String::new()));
    fs::set_permissions(scratch.path("d/a.conf"), PermissionsExt::from_mode(0o646)).unwrap();
    let why = "is writable by everybody, and it says which commands are run: run chmod o-w on it";
    assert_eq!(refused(&scratch), [format!("mailrecv.conf:2:9: error: d/a.conf {why}")]);
    fs::set_permissions(scratch.path("d/a.conf"), PermissionsExt::from_mode(0o644)).unwrap();
    if !is_root("giving files away") {
        return;
    }
    chown(scratch.path("d/a.conf"), Some(8), None).unwrap();
    let why = "belongs to user 8, who is neither root nor the user we run as (0)";
    assert_eq!(refused(&scratch), [format!("mailrecv.conf:2:9: error: d/a.conf {why}")]);
    chown(scratch.path("d/a.conf"), Some(0), None).unwrap();
    fs::set_permissions(scratch.path("d"), PermissionsExt::from_mode(0o777)).unwrap();
    let (status, said) = check(&scratch);
    let folder = scratch.path("d").display().to_string();
    let why = "is writable by everybody, who can put another in its place: run chmod o-w";
    assert_eq!((status, said), (0, format!("d/a.conf: warning: {folder}, on the way to it, {why} {folder}\n")));
}

/// Whatever a file of another kind would do to a reader that waits for its end, or for its beginning.
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let scratch = scratch("domain mx.example\n", &[]);
    mkfifo(&scratch.path("fifo"), Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", scratch.path("zero")).unwrap();
    for (name, why) in [
        ("/dev/zero", "is no regular file"),
        ("zero", "is no regular file"),
        ("fifo", "is no regular file"),
        ("/dev/tty", ""),
        ("/proc/self/mem", "is empty"),
        ("/proc/self/pagemap", "is empty"),
        ("/proc/kmsg", "is empty"),
        ("d", "is a folder: for the files in it write `/*.conf` behind its name"),
        ("d/", "is a folder: for the files in it write `/*.conf` behind its name"),
        ("missing", "cannot be read: No such file or directory (os error 2)"),
        ("missing/*", "there is no folder missing"),
        ("d/*/x", "`*` and `?` stand for letters in the last part of a path only"),
    ] {
        scratch.write(CONFIG, format!("domain mx.example\ninclude {name}\n"));
        let errors = refused(&scratch);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("mailrecv.conf:2:9: error: ") && errors[0].contains(why), "{name}: {errors:?}");
    }
}

/// However many there are, and however they include each other, reading them comes to an end, and says why.
#[test]
fn includes_are_bounded() {
    // One after the other.
    let scratch =
        scratch(&format!("domain mx.example\n{}", "include d/a.conf\n".repeat(10_000)), &[("d/a.conf", "# a\n")]);
    let errors = refused(&scratch);
    let why = "more than 256 files are included: put some of them together";
    assert_eq!(errors, [format!("mailrecv.conf:258:9: error: {why}")]);

    // One pattern.
    for number in 0..10_000 {
        scratch.write(format!("d/{number:05}.conf"), "# one of many\n");
    }
    scratch.write(CONFIG, "domain mx.example\ninclude d/*.conf\n");
    assert_eq!(refused(&scratch), [format!("mailrecv.conf:2:9: error: {why}")]);
    scratch.write(CONFIG, "domain mx.example\ninclude d/000*.conf\ninclude d/001*.conf\n");
    assert_eq!(check(&scratch).0, 0, "200 of them are all right");

    // Each twice in the one before it.
    for number in 0..8 {
        let next = number + 1;
        scratch.write(format!("{number}"), format!("include {next}\ninclude {next}\ninclude {next}\ninclude {next}\n"));
    }
    scratch.write("8", "# the end\n");
    scratch.write(CONFIG, "include 0\n");
    let errors = refused(&scratch);
    assert!(errors.iter().filter(|error| error.contains(why)).count() == 1, "{errors:?}");
    assert!(errors.len() < 1000, "{}", errors.len());
}

/// A name from a folder is shown without what a terminal or a log would make of it.
#[test]
fn odd_names_are_shown_plainly() {
    let scratch =
        scratch("domain mx.example\ninclude d/*.conf\n", &[("d/a\n[192.0.2.66] ERROR: 550 x.conf", "frobnicate\n")]);
    let errors = refused(&scratch);
    assert_eq!(errors, ["d/a?[192.0.2.66] ERROR: 550 x.conf:1:1: error: unknown directive `frobnicate`"]);
}
