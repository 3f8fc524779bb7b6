//! What goes wrong with a transcript hurts no session, and what goes wrong with a session leaves a transcript as far as it
//! goes.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::Session;
use testkit::certificates::{Authority, Request};
use testkit::process::output_of_input;

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use crate::{FOLDER, assert_same, replay, scratch, transcript, transcripts};

const RULE: &str = "deliver rcpt_to *@mx.example append inbox";

/// Mail goes on.
#[track_caller]
fn deliver(session: &mut Session) {
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<a@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: x\r\n.", "250 ");
}

#[test]
fn each_session_has_a_file_for_nobody_else() {
    let scratch = scratch(RULE);
    let mut sessions: Vec<Session> = (0..5).map(|_| scratch.greeted()).collect();
    sessions.iter_mut().for_each(deliver);
    sessions.into_iter().for_each(Session::quit);
    let names = transcripts(&scratch);
    assert_eq!(names.len(), 5);
    for name in &names {
        assert_eq!(scratch.path(name).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let recorded = scratch.read(name);
        assert_eq!(recorded.matches("C: QUIT").count(), 1, "{recorded}");
        assert!(recorded.ends_with("S: 221 2.0.0 mx.example closing connection\nE: closed\n"), "{recorded}");
    }
    assert_same(&scratch);
}

/// Also where a session may do nothing but what it has to.
#[test]
fn the_sandbox_lets_a_session_be_recorded() {
    let scratch = scratch(&format!("sandbox strict required\n{RULE}"));
    let mut session = scratch.greeted();
    deliver(&mut session);
    session.quit();
    assert_same(&scratch);
    let described = scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]);
    let described = String::from_utf8(described.stdout).unwrap();
    assert!(described.contains("one file in ./t, made before, for the transcript\n"), "{described}");
}

#[test]
fn who_does_not_ask_gets_none() {
    let scratch = scratch(RULE);
    for flags in ["-", "a", "sw+"] {
        let mut session = scratch.session(&["-d", flags, "--peer", PEER]);
        session.expect("220 ");
        deliver(&mut session);
        session.quit();
    }
    assert_eq!(transcripts(&scratch).len(), 0);
    let mut session = scratch.session(&["-dt", "--peer", PEER]);
    session.expect("220 ");
    session.quit();
    assert_eq!(transcripts(&scratch).len(), 1);
}

/// What cannot be written is said once.
#[track_caller]
fn assert_warned(scratch: &Scratch, about: &str) {
    let warnings: Vec<String> = scratch.log().into_iter().filter(|line| line.contains("transcript")).collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("WARNING: the transcript of this session is missing or breaks off: "), "{warning}");
    assert!(warning.contains(about), "{warning}");
}

#[test]
fn a_folder_that_cannot_be_used_costs_a_warning() {
    for (folder, about) in [("missing", "./missing: No such file"), ("file", "./file: Not a directory")] {
        let scratch = scratch(RULE);
        scratch.write("file", "");
        scratch
            .write(CONFIG, scratch.read(CONFIG).replace("transcript_dir ./t", &format!("transcript_dir ./{folder}")));
        let mut session = scratch.greeted();
        deliver(&mut session);
        session.quit();
        assert_warned(&scratch, about);
        assert!(scratch.read("inbox").contains("Subject: x"));
        let check = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
        let said = String::from_utf8(check.stderr).unwrap();
        assert!(said.contains(&format!("transcript_dir ./{folder}\n")) && said.contains("^^^"), "{said}");
    }
    let scratch = Scratch::with_config(&format!("domain mx.example\n{RULE}\n"));
    let mut session = scratch.session(&["-dt", "--peer", PEER]);
    session.expect("220 ");
    deliver(&mut session);
    session.quit();
    assert_warned(&scratch, "the configuration has no `transcript_dir`");
}

/// A file system of one page, in a mount namespace that ends with the session; needs root.
#[test]
fn a_full_disk_costs_a_warning() {
    if !testkit::is_root("mounting a file system") {
        return;
    }
    let scratch = scratch(RULE);
    let script = format!(
        "mount -t tmpfs -o size=4k tmpfs {FOLDER} && {MAILRECV} -c {CONFIG} -l {LOG} --peer {PEER} && cp {FOLDER}/* . && true"
    );
    let mut session = Session::start(scratch.command("unshare", &["-m", "sh", "-c", &script]));
    session.expect("220 ");
    deliver(&mut session);
    for _ in 0..15 {
        session.exchange(&format!("NOOP {}", "x".repeat(400)), "250 ");
    }
    deliver(&mut session);
    session.quit();
    assert_warned(&scratch, "No space left on device");
    assert_eq!(scratch.read("inbox").matches("Subject: x").count(), 2);
    // What there is of it is played as far as it goes.
    let names = std::fs::read_dir(scratch.path("")).unwrap().map(|entry| entry.unwrap().path());
    let kept = names.into_iter().find(|path| path.extension().is_some_and(|end| end == "transcript")).unwrap();
    std::fs::copy(&kept, scratch.path(FOLDER).join(kept.file_name().unwrap())).unwrap();
    assert_same(&scratch);
}

/// A peer that goes away, wherever it is.
#[test]
fn sessions_that_break_off() {
    let scratch = scratch(RULE);
    let lines: [&[u8]; 7] = [
        b"EHLO client.example\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"RCPT TO:<a@mx.example>\r\nRC",
        b"PT TO:<b@mx.example>\r\nDATA\r\n",
        b"Subject: x\r\n",
        b"half a li",
        b"ne\r\n.\r\nMAIL",
    ];
    for count in 0..=lines.len() {
        let mut session = scratch.greeted();
        session.send(lines[..count].concat());
        session.end();
    }
    for name in transcripts(&scratch) {
        let recorded = scratch.read(&name);
        assert!(recorded.contains("E: the peer closed the connection without QUIT\n"), "{recorded}");
    }
    assert_same(&scratch);
}

/// What is killed leaves what there was.
#[test]
fn sessions_that_are_killed() {
    let scratch = scratch(RULE);
    let lines = ["EHLO client.example", "MAIL FROM:<a@b.example>", "RCPT TO:<a@mx.example>", "DATA", "Subject: x\r\n."];
    // With the first reply there is a transcript.
    for count in 1..=lines.len() {
        let mut session = scratch.greeted();
        for line in &lines[..count] {
            session.ask(line);
        }
        nix::sys::signal::kill(session.pid(), Signal::SIGKILL).unwrap();
        session.end();
    }
    assert_eq!(transcripts(&scratch).len(), lines.len());
    for name in transcripts(&scratch) {
        assert!(!scratch.read(&name).contains("\nE: "));
    }
    assert_same(&scratch);
    // Wherever it is cut, its whole lines are played, and nothing of them is another way.
    let whole = scratch.read(transcripts(&scratch).last().unwrap());
    let names = transcripts(&scratch);
    names.iter().for_each(|name| std::fs::remove_file(scratch.path(name)).unwrap());
    for length in 0..whole.len() {
        scratch.write(format!("{FOLDER}/{length:05}.transcript"), &whole[..length]);
    }
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(" sessions, none of which would be another today\n"), "{said}");
}

/// A handshake that fails leaves nothing behind it to hold anything against.
#[test]
fn handshakes_that_fail() {
    let implicit = "implicit";
    for (tls, sent, has_key, end) in [
        (implicit, "EHLO client.example\r\n", true, "no TLS with this peer: "),
        (implicit, "", true, "no TLS with this peer: "),
        (implicit, "", false, "no key for TLS"),
        ("offer", "EHLO client.example\r\nSTARTTLS\r\n", true, "no TLS with this peer: "),
        ("offer", "EHLO client.example\r\nSTARTTLS\r\n", false, "the peer closed the connection without QUIT"),
    ] {
        let scratch = scratch(&format!("{RULE}\ntls_certificate own.pem\ntls_key own.key\ntls {tls}"));
        Authority::new().issue(&scratch.path(""), "own", &Request::of(&["mx.example"]));
        if !has_key {
            std::fs::remove_file(scratch.path("own.key")).unwrap();
        }
        let session = scratch.command(MAILRECV, &["-c", CONFIG, "-l", LOG, "--peer", PEER]);
        output_of_input(session, sent.as_bytes(), Duration::from_secs(600));
        let recorded = transcript(&scratch);
        assert!(recorded.contains(&format!("\nE: {end}")), "{recorded}");
        assert_same(&scratch);
        // It would have been greeted.
        scratch.write(CONFIG, crate::config(RULE));
        let (status, text) = replay(&scratch, &[]);
        assert_eq!(status, 1);
        assert_eq!(
            tls == implicit,
            text.contains("  now:  peer: admitted\n        (the greeting, without TLS)\n"),
            "{text}"
        );
    }
}

/// A session of which the server had the last word.
#[test]
fn sessions_that_we_end() {
    let scratch = scratch(&format!("{RULE}\nlimit.idle_secs 1\nlimit.smtp_unknowncmd 1"));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.expect("421 ");
    session.end();
    assert!(transcript(&scratch).contains("E: the peer's time was over\nS: 421 "));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    nix::sys::signal::kill(session.pid(), Signal::SIGTERM).unwrap();
    session.expect("421 4.3.2 ");
    session.end();
    let mut session = scratch.greeted();
    session.exchange("FOO", "500 ");
    session.exchange("FOO", "421 ");
    session.end();
    assert_same(&scratch);
}

/// What is no transcript is told with its line, and the others are played.
#[test]
fn files_that_are_no_transcripts() {
    let scratch = scratch(RULE);
    let mut session = scratch.greeted();
    deliver(&mut session);
    session.quit();
    let name = transcripts(&scratch).remove(0);
    let sound = scratch.read(&name);
    let said_of = |text: &str| {
        scratch.write("t/z.transcript", text);
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "replay", "t/z.transcript", &name]);
        let summary = String::from_utf8(output.stdout).unwrap();
        assert_eq!(summary, "1 session, none of which would be another today\n");
        assert_eq!(output.status.code(), Some(65));
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, flaw) in [
        (
            sound.replace("transcript 1", "transcript 2"),
            "line 1: this transcript has version 2, and version 1 is all that is known here",
        ),
        ("From a@b\n".to_owned(), "line 1: this is no transcript: one begins with `mailrecv transcript 1`"),
        ("From a@b".to_owned(), "line 1: this is no transcript: one begins with `mailrecv transcript 1`"),
        (sound.replace("peer: ", "pear: "), "line 4: no transcript has such a line"),
        (sound.replace("peer: 192.0.2.7", "peer: 192.0.2"), "line 4: this is no address"),
        (sound.replace("name: ", "name: -"), "line 5: this is no host name"),
        (sound.replace("protocol: SMTP\n", ""), "line 5: `time`, `protocol` or `peer` is missing above this line"),
        (sound.replace("S: 220", "X: 220"), "line 7: no transcript has such a line"),
        (
            sound.replace("C: EHLO ", "C: EHLO\t"),
            "line 9: there is an octet that is written as `\\xNN` in a transcript",
        ),
        (sound.replace("C: EHLO ", "C: EHLO\\y"), "line 9: no transcript has such a line"),
        (sound.replace("\tadmitted\nC: EHLO", "\tadmitted\ta\tb\nC: EHLO"), "line 8: no decision is written like this"),
        (
            format!("{sound}C: NOOP\n"),
            &*format!("line {}: this stands behind the end of the session", sound.lines().count() + 1),
        ),
    ] {
        assert_eq!(said_of(&text), format!("t/z.transcript: error: {flaw}\n"));
    }
    // What has nothing in it yet is no session.
    for text in ["", "mailrecv tran", "mailrecv transcript 1\ntime: "] {
        scratch.write("t/z.transcript", text);
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "replay", "t/z.transcript"]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "0 sessions: there is nothing to play\n");
        assert_eq!(output.status.code(), Some(0));
    }
    scratch.write("t/z.transcript", "From a@b");
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.write("empty/notes.txt", "");
    // So does the summary of the folder.
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER]);
    assert_eq!(output.status.code(), Some(65));
    assert!(String::from_utf8(output.stderr).unwrap().contains("t/z.transcript: error: line "));
    for (arguments, status, error) in [
        (&["replay", "t/missing"][..], 66, "t/missing: error: No such file or directory (os error 2)\n"),
        (&["replay", "t"], 66, "t: error: this is a folder: its transcripts are played by `check --replay`\n"),
        (&["check", "--replay", &name], 66, ": error: this is a file: it is played by `replay`\n"),
        // Who has typed the name of another folder hears of it.
        (
            &["check", "--replay", "empty"],
            66,
            "empty: error: no transcript is in it: their names end in `.transcript`\n",
        ),
        // It has no end, and need not be read to there.
        (&["replay", "/dev/zero"], 65, "/dev/zero: error: line 1: this is no transcript: "),
    ] {
        let output = scratch.run(MAILRECV, &[&["-c", CONFIG][..], arguments].concat());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(error), "{arguments:?} {said}");
    }
    // Nobody writes to it, and nobody waits for that.
    std::fs::remove_file(scratch.path("t/z.transcript")).unwrap();
    nix::unistd::mkfifo(&scratch.path("t/z.transcript"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER]);
    assert_eq!(output.status.code(), Some(66));
    assert!(String::from_utf8(output.stderr).unwrap().contains("t/z.transcript: error: this is no ordinary file\n"));
    std::fs::remove_file(scratch.path("t/z.transcript")).unwrap();
    assert_eq!(replay(&scratch, &[]).0, 0);
}
