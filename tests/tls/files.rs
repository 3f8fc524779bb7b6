//! When certificate and key are opened and read, and what comes of those that cannot be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use testkit::strace::{Call, parse};
use testkit::{Session, debian, is_root};

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use crate::{client, scratch, secured, warnings};

/// The calls of a session that `converse` holds.
fn traced(scratch: &Scratch, converse: impl FnOnce(&mut Session)) -> Vec<Call> {
    let strace = debian::program("strace", "strace");
    let mut command = scratch.command(strace, &["-y", "-s", "100", "-e", NO_MEMORY, "-o", "calls"]);
    command.args([MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
    let mut session = Session::start(command);
    converse(&mut session);
    session.quit();
    parse(&fs::read(scratch.path("calls")).unwrap())
}

/// How often memory is asked for depends on the C library, and on what was done with it before.
const NO_MEMORY: &str = "trace=!brk,madvise,mmap,mremap,munmap";

fn about<'c>(calls: &'c [Call], scratch: &Scratch, name: &str) -> Vec<&'c str> {
    let path = scratch.path(name);
    let is_about = |call: &&Call| call.concerns(&path) || opens(call, name);
    calls.iter().filter(is_about).map(|call| if call.opens() { "open" } else { &*call.name }).collect()
}

/// Whether it opens the file of this name, which is in the current folder.
fn opens(call: &Call, name: &str) -> bool {
    call.opens() && call.name_of_file().is_some_and(|path| Path::new(&path).ends_with(name))
}

/// Most sessions have no TLS: they open two files and read nothing.
#[test]
fn a_session_without_tls_reads_no_key() {
    let scratch = scratch("");
    let calls = of_a_message(&scratch);
    let mut of_keys = 0;
    for name in ["own.pem", "own.key"] {
        let about = about(&calls, &scratch, name);
        of_keys += about.len();
        // A build for debugging looks whether it is open before it closes it, and musl says twice that no command gets it.
        assert_eq!(about.iter().filter(|call| **call != "fcntl").collect::<Vec<_>>(), [&"open", &"close"], "{name}");
    }
    // Nor is there anything else that it would not do without a certificate.
    scratch.write(CONFIG, scratch.read(CONFIG).replace("tls_", "#tls_"));
    let without = of_a_message(&scratch);
    assert_eq!(about(&without, &scratch, "own.pem").len() + about(&without, &scratch, "own.key").len(), 0);
    assert_eq!(calls.len() - of_keys, without.len());
}

/// The calls of a session with one message, in the clear.
fn of_a_message(scratch: &Scratch) -> Vec<Call> {
    // One before it makes the mailbox, and waits until the configuration is no longer new.
    let mut session = scratch.greeted();
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
    traced(scratch, |session| {
        session.expect("220 ");
        assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    })
}

#[test]
fn a_session_with_tls_reads_them_when_it_begins() {
    let scratch = scratch("");
    let calls = traced(&scratch, |session| {
        session.expect("220 ");
        session.exchange("EHLO client.example", "250-");
        session.start_tls(&client());
        session.exchange("NOOP", "250 ");
    });
    // 40 ms for many peers.
    let sets = |option: &str| {
        calls.iter().any(|call| call.name == "setsockopt" && call.arguments.iter().any(|argument| argument == option))
    };
    assert!(sets("TCP_NODELAY") && sets("TCP_QUICKACK"));
    let greeting = calls.iter().position(|call| call.sends("220 mx.example")).unwrap();
    for name in ["own.pem", "own.key"] {
        let path = scratch.path(name);
        let opened = calls.iter().position(|call| opens(call, name)).unwrap();
        let read = calls.iter().position(|call| call.name == "read" && call.concerns(&path)).unwrap();
        assert!(opened < greeting && greeting < read, "{name}");
    }
}

/// A key that only root may read serves a session that becomes another user, from wherever certbot's links lead to.
#[test]
fn a_key_may_be_roots_alone() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = scratch("user mail\nlogfile /dev/null\nlimit.min_free 0\n");
    debian::chown(scratch.path(""), debian::USER);
    fs::create_dir(scratch.path("live")).unwrap();
    fs::create_dir(scratch.path("archive")).unwrap();
    for (name, mode) in [("own.pem", 0o644), ("own.key", 0o600)] {
        fs::rename(scratch.path(name), scratch.path("archive").join(name)).unwrap();
        fs::set_permissions(scratch.path("archive").join(name), fs::Permissions::from_mode(mode)).unwrap();
        symlink(format!("../archive/{name}"), scratch.path("live").join(name)).unwrap();
    }
    fs::set_permissions(scratch.path("archive"), fs::Permissions::from_mode(0o700)).unwrap();
    scratch.write(
        CONFIG,
        scratch.read(CONFIG).replace("_certificate ", "_certificate live/").replace("_key ", "_key live/"),
    );
    let mut session = secured(&scratch);
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
    use std::os::unix::fs::MetadataExt;
    assert_ne!(scratch.path("inbox").metadata().unwrap().uid(), 0);
}

/// What is replaced while a session runs is the next one's.
#[test]
fn a_session_keeps_what_it_opened() {
    let scratch = scratch("");
    let mut session = scratch.greeted();
    for name in ["own.pem", "own.key"] {
        fs::remove_file(scratch.path(name)).unwrap();
    }
    session.start_tls(&client());
    session.exchange("NOOP", "250 ");
    session.quit();
    let mut session = scratch.greeted();
    session.exchange("STARTTLS", "454 ");
    session.quit();
}

/// A file that can be read and not used costs TLS and no mail.
#[test]
fn without_a_sound_key_mail_comes_in_the_clear() {
    for (spoil, why) in [
        (("own.key", "no key at all"), "own.key: has no private key in PEM form"),
        (("own.pem", "no certificate"), "own.pem: has no certificate in PEM form"),
        (("tickets", "too short"), "tickets: has 9 bytes, and a key for tickets has 32"),
    ] {
        let scratch = scratch("tls_ticket_key tickets\n");
        scratch.write("tickets", [7; 32]);
        let (name, text) = spoil;
        scratch.write(name, text);
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("STARTTLS", "454 4.7.0 TLS is not available now, try again later");
        assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
        session.quit();
        let warnings = warnings(&scratch);
        assert!(warnings.len() == 1 && warnings[0].contains(why), "{warnings:#?}");
        assert!(warnings[0].starts_with("[192.0.2.7] WARNING: 454 "), "{warnings:#?}");
    }
}

/// Where nothing can be said in the clear, nothing is said, and the log knows why.
#[test]
fn without_a_sound_key_there_is_no_implicit_tls() {
    let scratch = scratch("tls implicit\ndebug -\n");
    fs::remove_file(scratch.path("own.key")).unwrap();
    let mut session = scratch.session(&["--peer", PEER]);
    assert_eq!(session.rest(), "");
    assert_eq!(session.exit_code(), 0);
    let expected = "[192.0.2.7] WARNING: no TLS, and so no mail: own.key: cannot be opened: No such file or directory (os error 2)";
    assert_eq!(warnings(&scratch), [expected]);
}
