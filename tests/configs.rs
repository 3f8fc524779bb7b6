//! Configurations that load and configurations that do not, each with exactly what `mailrecv check` says about it: the
//! `.stderr` beside it. With BLESS=1 in the environment the files are written in place of being compared.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::Duration;

use support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use testkit::process::copy_program;
use testkit::{Session, is_root, output, repository};

#[test]
fn good_configurations_pass() {
    compare_all("tests/configs/good", 0);
}

#[test]
fn broken_configurations_are_refused_with_every_error() {
    assert!(repository::files("tests/configs/broken", "conf").len() >= 20);
    compare_all("tests/configs/broken", 78);
}

/// Compares what `check` says about each file of a folder, and its exit status.
fn compare_all(folder: &str, expected_status: i32) {
    let mut differences = String::new();
    for file in repository::files(folder, "conf") {
        let (status, said) = check(&file);
        let said = without_places(&said);
        let expected_file = file.with_extension("stderr");
        if std::env::var_os("BLESS").is_some() && status == expected_status {
            std::fs::write(&expected_file, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        if said != expected || status != expected_status {
            let name = file.display();
            differences += &format!("{name}: status {status}, expected:\n{expected}got:\n{said}\n");
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// What is said, but for what depends on the system: which folders and programs there are, and who may write.
fn without_places(said: &str) -> String {
    const OF_THE_SYSTEM: [&str; 6] = [
        "there is no ",
        " cannot write to ",
        " cannot make files in ",
        " cannot be looked at",
        " cannot be run",
        " is no folder",
    ];
    let mut is_kept = true;
    let mut kept = String::new();
    for line in said.split_inclusive('\n') {
        if !line.starts_with(' ') {
            is_kept = line.contains("there is no user") || !OF_THE_SYSTEM.iter().any(|words| line.contains(words));
        }
        if is_kept {
            kept.push_str(line);
        }
    }
    kept
}

/// Where mail cannot be written and what cannot be run is told, as whoever sessions will be finds it.
#[test]
fn places_and_programs_are_tried() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| scratch.path(name).display().to_string();
    let folder = |name: &str, mode: u32, owner: u32| {
        std::fs::create_dir_all(scratch.path(name)).unwrap();
        std::fs::set_permissions(scratch.path(name), PermissionsExt::from_mode(mode)).unwrap();
        chown(scratch.path(name), Some(owner), Some(owner)).unwrap();
    };
    let file = |name: &str, text: &str, mode: u32, owner: u32| {
        scratch.write(name, text);
        std::fs::set_permissions(scratch.path(name), PermissionsExt::from_mode(mode)).unwrap();
        chown(scratch.path(name), Some(owner), Some(owner)).unwrap();
    };
    folder("ours", 0o755, 8);
    folder("theirs", 0o755, 0);
    folder("closed", 0o700, 0);
    folder("ours/box", 0o755, 8);
    folder("ours/box/tmp", 0o755, 8);
    folder("ours/box/new", 0o755, 0);
    file("ours/mbox", "", 0o600, 8);
    file("theirs/mbox", "", 0o600, 0);
    file("ours/linked", "", 0o600, 8);
    std::fs::hard_link(scratch.path("ours/linked"), scratch.path("ours/other-name")).unwrap();
    symlink(at("missing/x"), scratch.path("ours/lost")).unwrap();
    symlink(at("ours/mbox"), scratch.path("ours/good-link")).unwrap();
    file("ours/script", "#!/bin/sh\n", 0o755, 8);
    file("ours/no-program", "#!/bin/sh\n", 0o644, 8);
    file("ours/old-script", "#!/usr/bin/python1\n", 0o755, 8);
    let check = |line: &str| {
        let line = line.replace('@', &at(""));
        let text = format!("domain mx.example\nuser mail\ndeliver rcpt_to postmaster discard\n{line}\n");
        scratch.write(CONFIG, text);
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
        assert_eq!(output.status.code(), Some(0), "{line}");
        let said = String::from_utf8(output.stderr).unwrap();
        // The caret is under the name.
        if let [_, cited, carets] = said.lines().collect::<Vec<_>>()[..] {
            let start = carets.find('^').unwrap();
            let word = &cited[start..start + carets[start..].len()];
            assert!(
                line.ends_with(word)
                    || line.contains(&format!("{word} "))
                    || [";", "'"].iter().any(|end| line.contains(&format!("{word}{end}"))),
                "{said}"
            );
        }
        said.lines().next().map(|line| line.split_once(" warning: ").unwrap().1.to_owned()).unwrap_or_default()
    };
    for good in [
        "deliver rcpt_to a append @ours/mbox",
        "deliver rcpt_to a append @ours/new-mbox",
        "deliver rcpt_to a append @ours/good-link",
        "deliver rcpt_to a append /dev/null",
        "deliver rcpt_to a append ./ours/mbox",
        "deliver rcpt_to a maildir @ours/new-box",
        "deliver rcpt_to a pipe @ours/script x | cat >> @ours/mbox",
        "deliver rcpt_to a pipe exec cat > /dev/null",
        "deliver rcpt_to a pipe if test -s x; then exit 75; fi",
        "deliver rcpt_to a pipe cd @theirs && ./x >> y",
        "deliver rcpt_to a pipe \"$(which cat) -u\"",
        "logfile @ours/log",
        "spool_dir @ours",
        "exactly_once @ours/new-folder",
        "deadletter_file @ours/dead",
    ] {
        assert_eq!(check(good), "", "{good}");
    }
    for (line, expected) in [
        ("deliver rcpt_to a append @missing/mbox", "there is no folder @missing"),
        ("deliver rcpt_to a append @ours/lost", "there is no folder @missing"),
        ("deliver rcpt_to a append @ours", "@ours is a folder, and no file"),
        ("deliver rcpt_to a append @ours/mbox/x", "@ours/mbox/x cannot be looked at by user `mail`: Not a directory"),
        ("deliver rcpt_to a append @theirs/mbox", "user `mail` cannot write to @theirs/mbox: Permission denied"),
        ("deliver rcpt_to a append @theirs/new", "user `mail` cannot make files in @theirs: Permission denied"),
        ("deliver rcpt_to a append @closed/mbox", "@closed/mbox cannot be looked at by user `mail`: Permission denied"),
        (
            "deliver rcpt_to a append @ours/linked",
            "@ours/linked has 2 names (hard links), as `cp -al` gives them, and is not written to: put a copy in its \
             place, `cp -p` and `mv`",
        ),
        ("deliver rcpt_to a maildir @ours/mbox", "@ours/mbox is a file, and no folder"),
        ("deliver rcpt_to a maildir @ours/box", "user `mail` cannot make files in @ours/box/new: Permission denied"),
        ("deliver rcpt_to a maildir @theirs/box", "user `mail` cannot make files in @theirs: Permission denied"),
        ("deliver rcpt_to a maildir @missing/box", "there is no folder @missing"),
        ("copy rcpt_to postmaster append @missing/mbox", "there is no folder @missing"),
        ("deliver rcpt_to a pipe @missing-script -x", "there is no `@missing-script`"),
        (
            "deliver rcpt_to a pipe @ours/no-program",
            "`@ours/no-program` cannot be run by user `mail`: Permission denied",
        ),
        (
            "deliver rcpt_to a pipe @ours/old-script",
            "`@ours/old-script` begins with `#!/usr/bin/python1`, and there is no /usr/bin/python1",
        ),
        ("deliver rcpt_to a pipe @ours", "`@ours` is a folder, and no program"),
        ("deliver rcpt_to a pipe @closed/x", "`@closed/x` cannot be looked at by user `mail`: Permission denied"),
        (
            "deliver rcpt_to a pipe no-such-program x",
            "there is no program `no-such-program` in /usr/local/bin:/usr/bin:/bin, where commands look",
        ),
        ("deliver rcpt_to a pipe cat | tee /dev/null > @missing/x", "there is no folder @missing"),
        ("logfile @theirs/log", "user `mail` cannot make files in @theirs: Permission denied"),
        ("logfile @missing/log", "there is no folder @missing"),
        ("spool_dir @missing", "there is no folder @missing"),
        ("spool_dir @theirs", "user `mail` cannot make files in @theirs: Permission denied"),
        ("exactly_once @missing/once", "there is no folder @missing"),
        (
            "exactly_once /tmp",
            "/tmp: others can write to it, and could make mail vanish (chmod 700); what comes again would be delivered again",
        ),
        ("deadletter_file @missing/dead", "there is no folder @missing"),
        ("deliver rcpt_to a append ~/mbox", "`~` is a part of the name here: write the whole path"),
        ("exactly_once_days 3", "`exactly_once_days` does nothing without `exactly_once DIR`"),
        (
            "deliver rcpt_to a append $HOME/mbox",
            "`$` is a part of the name here: write the whole path, or `${NAME}` for a variable of the environment",
        ),
        (
            "deliver rcpt_to a append @ours/$LOCAL",
            "`$` is a part of the name here: write the whole path, or `${NAME}` for a variable of the environment",
        ),
        (
            "deliver rcpt_to a pipe 'cat >> /dev/null'",
            "there is no program `cat >> /dev/null`: the quotes make one word of all of it, leave them out",
        ),
        (
            "deliver rcpt_to a pipe \"tee /dev/null $LOCAL\"",
            "the quotes make one word of all of it, the name of a program for the shell: leave them out",
        ),
        (
            "deliver rcpt_to a pipe 'tee /dev/null $LOCAL'",
            "the quotes make one word of all of it, the name of a program for the shell: leave them out",
        ),
        (
            "deliver rcpt_to a maildir mail/box",
            "this is below the folder in which mailrecv is started, which for a super-server is mostly `/`: write the whole path, or `./mail/box` if that is meant",
        ),
    ] {
        assert_eq!(check(line), expected.replace('@', &at("")), "{line}");
    }
}

/// Addresses in a file of their own: read when a recipient asks, inside the sandbox too.
#[test]
fn tables_hold_addresses() {
    let scratch = Scratch::with_config(
        "domain mx.example\nerror rcpt_to table:./gone 550 Gone\ndeliver rcpt_to table:./users append ./inbox\n\
         deliver rcpt_to postmaster discard\nerror mail_from table:./spammers 550 No spam\n",
    );
    scratch.write(
        "users",
        "\u{feff}# our users\nfred\n  Jim@MX.example   # with a domain\n\n\"a b\"@other.example\r\nold@mx.example",
    );
    scratch.write("gone", "old@mx.example\n");
    scratch.write("spammers", "spam@spam.example\n");
    let check = || {
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check(), (0, String::new()));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<spam@spam.example>", "550 ");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    for (recipient, reply) in [
        ("Fred@mx.example", "250 "),
        ("jim", "250 "),
        ("\"a b\"@other.example", "250 "),
        ("old@mx.example", "550 5.1.1 Gone"),
        ("fred@other.example", "550 5.1.1 No one here"),
        ("wilma", "550 "),
    ] {
        session.exchange(&format!("RCPT TO:<{recipient}>"), reply);
    }
    session.quit();

    scratch.write("users", "fred\nno address\n");
    let (status, said) = check();
    assert_eq!(status, 0);
    assert!(said.contains(":3:17: warning: line 2 of ./users is no mail address: `no address`\n"), "{said}");
    assert!(said.contains("\n      |                 ^^^^^^^^^^^^^\n"), "{said}");

    // Nor may others write it.
    std::fs::set_permissions(scratch.path("users"), PermissionsExt::from_mode(0o646)).unwrap();
    let (status, said) = check();
    assert_eq!(status, 78);
    let why = "is writable by everybody, and it says whose mail is taken: run chmod o-w on it";
    assert!(said.contains(&format!(":3:17: error: the table ./users {why}\n")), "{said}");

    // One that is not there lets nothing through, and costs no mail.
    std::fs::remove_file(scratch.path("users")).unwrap();
    let (status, said) = check();
    assert_eq!(status, 78);
    assert!(said.contains(":3:17: error: the table ./users cannot be read: "), "{said}");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "421 4.3.5 ");
}

/// What `check` cannot use keeps `listen` from starting, and `explain` from answering, with the same words. (A pattern
/// that does not compile is met when it is needed.)
#[test]
fn listen_and_explain_say_the_same() {
    let file = repository::path("tests/configs/broken/misspelt.conf");
    let scratch = Scratch::new();
    let name = copy(&file, &scratch);
    let (_, said) = check(&file);
    for arguments in [&["listen", "127.0.0.1:0"][..], &["explain", "--peer", "192.0.2.1", "--rcpt", "fred"]] {
        let output = scratch.run(MAILRECV, &[&["-c", &name], arguments].concat());
        assert_eq!(output.status.code(), Some(78));
        // `check` has warnings on top.
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.starts_with("misspelt.conf:1:1: error: ") && said.contains(&errors), "{errors}\n{said}");
        assert!(output.stdout.is_empty());
    }
}

/// The same errors are in the log when a connection is made, without the citation; the peer gets 421 4.3.5.
#[test]
fn a_connection_logs_every_error() {
    for name in ["misspelt", "missing-arguments", "networks", "not-utf8", "carets"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/configs/broken/{name}.conf"));
        let scratch = Scratch::new();
        let conf = copy(&file, &scratch);
        let (_, said) = check(&file);
        let headlines: Vec<String> = said
            .lines()
            .filter(|line| line.starts_with(&conf) && line.contains(" error: "))
            .map(|line| format!("[192.0.2.7] ERROR: {line}"))
            .collect();
        let log = refused_session(&scratch, &conf);
        let (last, errors) = log.split_last().expect("lines in the log");
        assert_eq!(errors, headlines);
        let count = if errors.len() == 1 { "1 error".to_owned() } else { format!("{} errors", errors.len()) };
        let reply = "[192.0.2.7] ERROR: 421 Cannot receive messages at this time, try again later";
        assert_eq!(last, &format!("{reply} ({count} in {conf})"));
    }
}

/// Nor is a link of somebody else followed, to a configuration or to a log.
#[test]
fn a_link_of_somebody_else_leads_to_no_configuration_and_to_no_log() {
    if !is_root("a link of somebody else") {
        return;
    }
    let scratch = Scratch::with_config("domain mx.example\n");
    scratch.write("their.log", "");
    for (target, link) in [(CONFIG, "their.conf"), ("their.log", "link.log")] {
        symlink(target, scratch.path(link)).unwrap();
        lchown(scratch.path(link), Some(8), Some(8)).unwrap();
    }
    let output = scratch.run(MAILRECV, &["-c", "their.conf", "check"]);
    let text = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("their.conf is a symbolic link of user 8"), "{text}");
    let session =
        Session::start(scratch.command(MAILRECV, &["-c", CONFIG, "-d", "a", "-l", "link.log", "--peer", PEER]));
    session.end();
    assert_eq!(scratch.read("their.log"), "");
}

/// A file that others can write could hold their commands.
#[test]
fn a_file_that_others_can_write_is_refused() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * discard\n");
    let file = scratch.path(CONFIG);
    let set = |mode: u32| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    let refused = |why: &str| {
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{CONFIG}: error: {why}\n"));
        assert_eq!(output.status.code(), Some(78));
        let log = refused_session(&scratch, CONFIG);
        assert_eq!(log[0], format!("[192.0.2.7] ERROR: {CONFIG}: error: {why}"));
    };
    let accepted = || {
        assert_eq!(scratch.run(MAILRECV, &["-c", CONFIG, "check"]).status.code(), Some(0));
        scratch.greeted().quit();
    };

    set(0o644);
    accepted();
    // A checkout made with umask 002: the group is root's or our own.
    set(0o664);
    accepted();
    set(0o666);
    refused("is writable by everybody, and it says which commands are run: run chmod o-w on it");
    set(0o646);
    refused("is writable by everybody, and it says which commands are run: run chmod o-w on it");
    if !is_root("giving files away") {
        return;
    }
    set(0o664);
    chown(&file, None, Some(12)).unwrap();
    refused("is writable by group 12, which is neither root's nor ours (0): run chmod g-w on it");
    set(0o644);
    accepted();
    chown(&file, Some(8), None).unwrap();
    refused("belongs to user 8, who is neither root nor the user we run as (0)");
}

/// An access control list can let others write a file whose mode shows a group that may.
#[test]
fn a_file_that_others_can_write_by_its_acl_is_refused() {
    if !is_root("lists of other users") {
        return;
    }
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * discard\n");
    for (mode, acl, why) in [
        (0o644, "", None),
        // Root's group may write: no list, no others.
        (0o664, "", None),
        (0o664, "user::6 group::4 user:8:6 mask::6 other::4", Some("user 8")),
        (0o664, "user::6 group::4 group:12:2 mask::6 other::0", Some("group 12")),
        (0o664, "user::6 group::6 user:8:4 group:12:5 mask::7 other::4", None),
        (0o664, "user::6 group::6 user:0:6 group:0:6 mask::6 other::4", None),
        // The mask takes it back.
        (0o664, "user::6 group::4 user:8:6 mask::4 other::4", None),
    ] {
        set_mode_and_acl(&scratch.path(CONFIG), mode, acl);
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if why.is_some() { 78 } else { 0 }), "{acl}: {said}");
        let Some(writer) = why else { continue };
        let why = format!(
            "has an ACL that lets {writer} write it, and it says which commands are run: run setfacl -b {CONFIG}"
        );
        assert_eq!(said, format!("{CONFIG}: error: {why}\n"));
        assert_eq!(refused_session(&scratch, CONFIG)[0], format!("[192.0.2.7] ERROR: {CONFIG}: error: {why}"));
    }
}

/// Whoever can write to a folder on the way can put another file in the place of this one; `check` tells.
#[test]
fn folders_that_others_can_write_to_are_told() {
    if !is_root("giving folders away") {
        return;
    }
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("a/b")).unwrap();
    let config = scratch.path("a/b/mailrecv.conf");
    std::fs::write(&config, "domain mx.example\nuser mail\ndeliver rcpt_to * discard\n").unwrap();
    let folder = scratch.path("a").display().to_string();
    let check = |file: &str| {
        let output = scratch.run(MAILRECV, &["-c", file, "check"]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let told = |why: &str| {
        let file = "a/b/mailrecv.conf";
        assert_eq!(check(file), format!("{file}: warning: {folder}, on the way to it, {why} {folder}\n"));
    };
    assert_eq!(check("a/b/mailrecv.conf"), "");
    set_mode_and_acl(&scratch.path("a"), 0o777, "");
    told("is writable by everybody, who can put another in its place: run chmod o-w");
    // With the sticky bit they cannot touch what is not theirs.
    set_mode_and_acl(&scratch.path("a"), 0o1777, "");
    assert_eq!(check("a/b/mailrecv.conf"), "");
    set_mode_and_acl(&scratch.path("a"), 0o775, "");
    assert_eq!(check("a/b/mailrecv.conf"), "", "the group is root's");
    chown(scratch.path("a"), None, Some(9)).unwrap();
    told("is writable by group 9, which can put another in its place: run chmod g-w");
    chown(scratch.path("a"), None, Some(0)).unwrap();
    set_mode_and_acl(&scratch.path("a"), 0o775, "user::7 group::5 user:9:7 mask::7 other::5");
    told("has an ACL that lets user 9 write to it, and so put another in its place: run setfacl -b");
    set_mode_and_acl(&scratch.path("a"), 0o755, "");
    chown(scratch.path("a"), Some(9), None).unwrap();
    told("belongs to user 9, who can put another in its place: run chown root");
    // Whom sessions become is one of us.
    chown(scratch.path("a"), Some(8), None).unwrap();
    assert_eq!(check("a/b/mailrecv.conf"), "");
    // What a link leads through is on the way.
    set_mode_and_acl(&scratch.path("a"), 0o777, "");
    symlink("a/b/mailrecv.conf", scratch.path("link.conf")).unwrap();
    assert!(check("link.conf").contains(&format!("{folder}, on the way to it, is writable by everybody")));
    set_mode_and_acl(&scratch.path("a"), 0o755, "");
    assert_eq!(check("link.conf"), "");
}

/// Gives a file a mode, and a list such as `user::6 user:8:6 group::4 mask::6 other::4` in place of the one it has.
fn set_mode_and_acl(file: &Path, mode: u32, acl: &str) {
    const SCRIPT: &str = "\
import os, struct, sys
file, mode, acl = sys.argv[1], int(sys.argv[2]), sys.argv[3].split()
if 'system.posix_acl_access' in os.listxattr(file):
    os.removexattr(file, 'system.posix_acl_access')
os.chmod(file, mode)
tags = {'user': 1, 'group': 4, 'mask': 0x10, 'other': 0x20}
entries = []
for tag, id, permissions in (entry.split(':') for entry in acl):
    entries.append((tags[tag] * 2 if id else tags[tag], int(permissions), int(id) if id else 0xffffffff))
if acl:
    packed = b''.join(struct.pack('<HHI', *entry) for entry in sorted(entries))
    os.setxattr(file, 'system.posix_acl_access', struct.pack('<I', 2) + packed)
";
    let file = file.to_str().unwrap();
    let mut python = std::process::Command::new("python3");
    python.args(["-c", SCRIPT, file, &mode.to_string(), acl]);
    let output = output(python);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Not root's file and not root's process: the owner is who runs it.
#[test]
fn a_file_of_the_user_who_runs_it_is_accepted() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * discard\n");
    std::fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    chown(scratch.path(CONFIG), Some(8), Some(12)).unwrap();
    // The binary may lie where that user cannot go.
    copy_program(MAILRECV, scratch.path("mailrecv"));
    let check = |user: &str, group: &str| {
        let command = ["--reuid", user, "--regid", group, "--clear-groups", "./mailrecv", "-c", CONFIG, "check"];
        scratch.run("setpriv", &command).status.code()
    };
    assert_eq!(check("8", "12"), Some(0));
    assert_eq!(check("9", "12"), Some(78), "someone else's");
    std::fs::set_permissions(scratch.path(CONFIG), PermissionsExt::from_mode(0o664)).unwrap();
    assert_eq!(check("8", "12"), Some(0), "writable by the group of the process");
    assert_eq!(check("8", "9"), Some(78), "writable by another group");
}

#[test]
fn what_is_no_readable_file_is_refused() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("folder")).unwrap();
    for (name, why) in
        [("missing.conf", "cannot be read: No such file or directory (os error 2)"), ("folder", "is a folder")]
    {
        let output = scratch.run(MAILRECV, &["-c", name, "check"]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{name}: error: {why}\n"));
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(refused_session(&scratch, name)[0], format!("[192.0.2.7] ERROR: {name}: error: {why}"));
    }
}

/// `-v` says so when there is nothing to say.
#[test]
fn check_can_be_asked_to_speak() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to postmaster discard\n");
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.lines().next(), Some("mailrecv.conf: no errors, 0 warnings"));
    assert!(output.stderr.is_empty());
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

/// `${NAME}` comes from the environment of the process, also in a single word of a rule.
#[test]
fn variables_come_from_the_environment() {
    let scratch =
        Scratch::with_config("domain ${OUR_NAME}\ndeliver rcpt_to ${WHO}@${OUR_NAME} append ${WHERE:-inbox}\n");
    let environment = [("OUR_NAME", "mx.example"), ("WHO", "fred"), ("WHERE", "")];
    let mut check = scratch.command(MAILRECV, &["-c", CONFIG, "check"]);
    check.envs(environment);
    assert_eq!(output(check).status.code(), Some(0));
    let mut command = scratch.mailrecv(&["--peer", PEER]);
    command.envs(environment);
    let mut session = Session::start(command);
    session.expect("220 mx.example ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert!(scratch.read("inbox").contains("Delivered-To: fred@mx.example\n"));

    // A value cannot bring in a second line.
    let mut check = scratch.command(MAILRECV, &["-c", CONFIG, "check"]);
    check.envs(environment).env("WHERE", "x\ndeliver rcpt_to * append everything");
    let output = output(check);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(":2:43: error: the value of `WHERE` is more than one line")
    );
}

/// A warning about a pattern that came from the environment shows the line as it was read, with the caret under it.
#[test]
fn warnings_cite_replaced_lines() {
    let scratch =
        Scratch::with_config("domain mx.example\nallow remotehost ${WHO}\ndeliver rcpt_to postmaster discard\n");
    let mut check = scratch.command(MAILRECV, &["-c", CONFIG, "check"]);
    check.env("WHO", "evil");
    let output = output(check);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with(&format!("{CONFIG}:2:18: warning: ")), "{said}");
    assert!(said.ends_with("    2 | allow remotehost evil\n      |                  ^^^^\n"), "{said}");
}

/// However many findings there are, and of however many kinds, each is in the order of the file and shows its own line.
#[test]
fn many_findings_show_their_lines() {
    let line = |number: usize| match number % 8 {
        0 => format!("deliver rcpt_to user{number}@mx.example append /var/mail/{number}"),
        1 => format!("deliver rcpt_to USER{}@mx.example append /var/mail/{number} # twice", number - 1),
        2 => format!("deliver rcpt_to user{number}@mx.example. append /var/mail/{number}"),
        3 => format!("  deliver  rcpt_to  user{number}@lists.example  pipe  cat {number}"),
        4 => format!("deliver rcpt_to /user{number}x/ append /var/mail/{number}"),
        5 => format!("error rcpt_to (user{number} 550 No"),
        6 => format!("error mail_from user{number}@* 550 No"),
        _ => format!("# {number}"),
    };
    let lines: Vec<String> = (0..800).map(line).collect();
    let config = ["domain mx.example", "deliver rcpt_to postmaster discard", "copy rcpt_to *@lists.example pipe cat"];
    let config: Vec<&str> = config.into_iter().chain(lines.iter().map(String::as_str)).collect();
    let scratch = Scratch::with_config(&(config.join("\n") + "\n"));
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    let said: Vec<&str> = said.lines().collect();
    for (kind, count) in [("error", 200), ("warning", 400)] {
        let mut last = 0;
        let findings: Vec<_> = said.chunks(3).filter(|finding| finding[0].contains(&format!(": {kind}: "))).collect();
        assert_eq!(findings.len(), count, "{kind}");
        for finding in findings {
            let number: usize = finding[0].split(':').nth(1).unwrap().parse().unwrap();
            assert!(number > last, "{finding:?} behind line {last}");
            last = number;
            let cited = finding[1].split_once(" | ").unwrap().1;
            assert_eq!(cited, config[number - 1]);
            let caret = finding[2].find('^').unwrap() - finding[1].find(" | ").unwrap() - 3;
            assert!(
                ["user", "USER", "(user", "/user"].iter().any(|word| cited[caret..].starts_with(word)),
                "{finding:?}"
            );
        }
    }
}

/// The log that the broken file itself asks for is where its administrator will look.
#[test]
fn a_broken_file_is_logged_where_it_wants_its_log() {
    let scratch = Scratch::with_config("logfile log\nfrobnicate\n");
    let mut session = Session::start(scratch.command(MAILRECV, &["-c", CONFIG, "--peer", PEER]));
    session.expect("421 4.3.5 ");
    assert_eq!(session.end(), (Vec::new(), 78));
    let log = scratch.log();
    assert_eq!(log.len(), 2);
    assert_eq!(log[0], format!("[192.0.2.7] ERROR: {CONFIG}:2:1: error: unknown directive `frobnicate`"));
}

/// The file is read once for each connection. An edit in place, during one, may defer its mail, but bounces none, and the
/// session goes on.
#[test]
fn an_edit_during_a_session_refuses_no_mail() {
    let original = "domain mx.example\ndeliver rcpt_to fred@mx.example append inbox\n\
                    deliver allowgroup +all rcpt_to barney@mx.example maildir boxes\ndeliver rcpt_to * pipe cat > all\n";
    let original = format!("allowgroup +all .*\n{original}");
    let retyped = original.replace("append inbox", "append x.box");
    let one_more = format!("# one line more\n{original}");
    for edited in ["", "# in place\n# of the rules\n", "frobnicate", &one_more, &retyped] {
        for (recipient, line) in
            [("fred@mx.example", Some(3)), ("barney@mx.example", Some(4)), ("wilma@mx.example", None)]
        {
            let scratch = Scratch::with_config(&original);
            let mut session = scratch.greeted();
            session.exchange("EHLO client.example", "250-");
            session.exchange("MAIL FROM:<a@b.example>", "250 ");
            // As an editor does that writes into the same file.
            scratch.write(CONFIG, edited);
            let reply = session.ask(&format!("RCPT TO:<{recipient}>"));
            let is_deferred = reply.starts_with("451 ");
            assert_eq!(is_deferred, line.is_some(), "{recipient}, after {edited:?}: {reply}");
            assert!(is_deferred || reply.starts_with("250 "), "{recipient}, after {edited:?}: {reply}");
            session.exchange("NOOP", "250 ");
            session.quit();
            if let Some(line) = line {
                let cause = format!("(line {line} of the configuration was changed since this connection began)");
                let log = scratch.log();
                assert!(log.iter().any(|entry| entry.ends_with(&cause)), "{recipient}, after {edited:?}: {log:?}");
            }
        }
    }
}

/// Nor is it the peer's fault: it may offer any number of recipients.
#[test]
fn an_edit_during_a_session_counts_against_no_limit() {
    let rules: String = (1..=9).map(|n| format!("deliver rcpt_to u{n}@mx.example append inbox\n")).collect();
    let scratch = Scratch::with_config(&format!("domain mx.example\nlimit.smtp_failcmds 4\n{rules}"));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    scratch.write(CONFIG, format!("# a note\ndomain mx.example\nlimit.smtp_failcmds 4\n{rules}"));
    for n in 1..=9 {
        session.exchange(&format!("RCPT TO:<u{n}@mx.example>"), "451 4.3.0 ");
    }
    session.quit();
    assert!(scratch.log().iter().all(|line| line.starts_with("[192.0.2.7] WARNING: 451 ")), "{:?}", scratch.log());
}

/// A file that is replaced by another, as it should be, stays what it was for the sessions that have read it.
#[test]
fn a_replaced_file_serves_its_sessions_to_their_end() {
    let config = "domain mx.example\ndeliver rcpt_to fred@mx.example append inbox\n";
    let scratch = Scratch::with_config(config);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    scratch.write("new", "domain mx.example\n");
    std::fs::rename(scratch.path("new"), scratch.path(CONFIG)).unwrap();
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
}

/// What a file does not say yet, while it is written in place, bounces no mail either.
#[test]
fn a_file_that_is_being_written_refuses_no_mail() {
    let filler: String = (0..2000).map(|n| format!("deliver rcpt_to user{n}@mx.example append inbox\n")).collect();
    let config = format!("domain mx.example\n{filler}deliver rcpt_to fred@mx.example append the-longer-name\n");
    let scratch = Scratch::with_config(&config);
    // As editors, cp and shells do it: cut to nothing, then filled piece by piece. Each piece ends in the last line.
    let edit = || {
        let mut file = std::fs::File::create(scratch.path(CONFIG)).unwrap();
        for text in config.as_bytes().chunks(config.len() - 10) {
            std::thread::sleep(Duration::from_millis(20));
            file.write_all(text).unwrap();
        }
    };
    let ask = || {
        let mut session = scratch.session(&["--peer", PEER]);
        let greeting = session.reply();
        if !greeting.starts_with("220 ") {
            return greeting;
        }
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        let reply = session.ask("RCPT TO:<fred@mx.example>");
        if reply.starts_with("250 ") {
            session.exchange("DATA", "354 ");
            session.exchange("Subject: x\r\n\r\nx\r\n.", "250 ");
        }
        reply
    };
    for reply in scratch.replies_beside(edit, 8, ask) {
        assert!(reply.starts_with("250 ") || reply.starts_with('4'), "{reply}");
    }
    let names = std::fs::read_dir(scratch.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let strange: Vec<_> =
        names.filter(|name| name.to_string_lossy().starts_with("the-") && *name != *"the-longer-name").collect();
    assert!(strange.is_empty(), "{strange:?}");

    scratch.write(CONFIG, "\n");
    let log = refused_session(&scratch, CONFIG);
    assert_eq!(log[0], format!("[192.0.2.7] ERROR: {CONFIG}: error: is empty"));
}

/// The exit status and the standard error of `mailrecv check`, run beside a copy of the file.
fn check(file: &Path) -> (i32, String) {
    let scratch = Scratch::new();
    let name = copy(file, &scratch);
    let output = scratch.run(MAILRECV, &["-c", &name, "check"]);
    assert!(output.stdout.is_empty(), "`check` says nothing on standard output");
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).expect("UTF-8"))
}

/// Copies the file, so that the owner and the mode of the checkout do not matter, with the folder of its name that has the
/// files it includes, if there is one. Returns its name.
fn copy(file: &Path, scratch: &Scratch) -> String {
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    scratch.write(&name, std::fs::read(file).unwrap());
    let included = file.with_extension("");
    if included.is_dir() {
        copy_folder(&included, &scratch.path(included.file_name().unwrap()));
    }
    name
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let to = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy_folder(&entry, &to),
            false => std::fs::write(to, std::fs::read(entry).unwrap()).unwrap(),
        }
    }
}

/// A connection under this configuration: told 421 4.3.5 and closed, status 78. Returns the log.
fn refused_session(scratch: &Scratch, config: &str) -> Vec<String> {
    let _ = std::fs::remove_file(scratch.path(LOG));
    let mut session = Session::start(scratch.command(MAILRECV, &["-c", config, "-l", LOG, "--peer", PEER]));
    session.expect("421 4.3.5 Cannot receive messages at this time, try again later");
    assert_eq!(session.line(), None);
    assert_eq!(session.end(), (Vec::new(), 78));
    scratch.log()
}
