//! The file of accounts: `mailrecv passwd` and others write it, `mailrecv check` reads it, passwords are held against it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mailrecv::accounts::Accounts;
use support::{CONFIG, MAILRECV, Scratch};
use testkit::{debian, output, output_of_input, succeeds};

/// A configuration whose accounts are in the file `accounts`, which only we can read.
fn scratch() -> Scratch {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to postmaster discard\nauth_file accounts\nauth_plaintext on\n",
    );
    scratch.write("accounts", "");
    fs::set_permissions(scratch.path("accounts"), fs::Permissions::from_mode(0o600)).unwrap();
    scratch
}

fn add(scratch: &Scratch, line: &str) {
    scratch.write("accounts", scratch.read("accounts") + line);
}

fn accounts(scratch: &Scratch) -> Accounts {
    Accounts::open(Some(&scratch.path("accounts")))
}

/// What `check` says, and its exit status.
fn check(scratch: &Scratch) -> (String, Option<i32>) {
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

fn passwd(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(MAILRECV);
    command.arg("passwd").args(arguments);
    output_of_input(command, input, Duration::from_secs(60))
}

/// The line that `passwd` makes.
#[track_caller]
fn made(arguments: &[&str], input: &[u8]) -> String {
    let output = passwd(arguments, input);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn own_lines() {
    let scratch = scratch();
    assert!(check(&scratch).0.contains("accounts has no account: make a line for one with `mailrecv passwd NAME`"));
    add(&scratch, &made(&["fred"], b"correct horse\n"));
    // Without an end of the line, in UTF-8; what comes behind the first line is not for us.
    add(&scratch, &made(&["jane@mx.example"], "ungew\u{f6}hnlich".as_bytes()));
    add(&scratch, &made(&["--hash", "scram-sha-256", "bob"], b"battery staple\nanother\n"));
    let accounts = accounts(&scratch);
    for (name, password) in
        [("fred", "correct horse"), ("jane@mx.example", "ungew\u{f6}hnlich"), ("bob", "battery staple")]
    {
        assert!(accounts.is_password(name, password.as_bytes()).unwrap(), "{name}");
        assert!(!accounts.is_password(name, b"correct horsf").unwrap(), "{name}");
        assert!(!accounts.is_password("nobody", password.as_bytes()).unwrap());
    }
    assert!(!accounts.takes_scram());
    let (said, status) = check(&scratch);
    assert!(said.contains("keeps 2 of 3 passwords in another form than scram-sha-256"), "{said}");
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn scram_is_offered_where_everybody_has_its_keys() {
    let scratch = scratch();
    add(&scratch, &made(&["--hash", "scram-sha-256", "fred"], b"correct horse\n"));
    // Who asks twice would find out who has an account; what is advised is done.
    let (said, status) = check(&scratch);
    let advice = "accounts has no line `:secret:...`, so that who asks for SCRAM-SHA-256 twice finds out which names have \
                  an account: make one with `";
    let (_, command) = said.split_once(advice).expect(&said);
    let command = format!("{} >>accounts", command.split('`').next().unwrap());
    assert_eq!(status, Some(0), "{said}");
    assert!(scratch.run("sh", &["-c", &command]).status.success(), "{command}");
    assert_eq!(check(&scratch), (String::new(), Some(0)));
    // As Dovecot writes them.
    let config = scratch.write("dovecot.conf", "log_path = /dev/stderr\n");
    let mut doveadm = debian::doveadm(&config);
    doveadm.args(["pw", "-s", "SCRAM-SHA-256", "-p", "battery staple"]);
    add(&scratch, &format!("jane:{}", succeeds(doveadm, "")));
    assert_eq!(check(&scratch), (String::new(), Some(0)));
    let accounts = accounts(&scratch);
    assert!(accounts.takes_scram());
    assert!(accounts.is_password("jane", b"battery staple").unwrap());
    assert!(!accounts.is_password("jane", b"correct horse").unwrap());
    assert_eq!(accounts.scram_keys("jane").unwrap().iterations.get(), 4096);
}

/// What the shell appends to a file is known to be one, and whether that has a secret.
#[test]
fn the_first_line_of_a_file_is_its_secret() {
    let scratch = scratch();
    for (name, password) in [("fred", "correct horse"), ("jane", "battery staple")] {
        let command = format!("echo '{password}' | {MAILRECV} passwd --hash scram-sha-256 {name} >>accounts");
        assert!(scratch.run("sh", &["-c", &command]).status.success());
    }
    let text = scratch.read("accounts");
    let beginnings = text.lines().map(|line| line.split_inclusive(':').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(beginnings, [":", "fred:", "jane:"], "{text}");
    assert!(text.starts_with(":secret:") && text.lines().next().unwrap().len() == ":secret:".len() + 44, "{text}");
    assert_eq!(check(&scratch), (String::new(), Some(0)));
    let accounts = accounts(&scratch);
    assert!(accounts.takes_scram() && accounts.is_password("jane", b"battery staple").unwrap());
    assert_eq!(accounts.scram_keys("nobody").unwrap(), accounts.scram_keys("nobody").unwrap());
    // What cannot be read may have one.
    let unreadable = format!("echo secret | setpriv --reuid=65534 --clear-groups {MAILRECV} passwd fred >>accounts");
    assert!(scratch.run("sh", &["-c", &unreadable]).status.success());
    assert_eq!(scratch.read("accounts").lines().count(), 4);
    // Another secret each time.
    let again = format!("echo secret | {MAILRECV} passwd fred >accounts");
    assert!(scratch.run("sh", &["-c", &again]).status.success());
    let (old, new) = (text, scratch.read("accounts"));
    assert!(new.starts_with(":secret:") && new.lines().count() == 2 && old.lines().next() != new.lines().next());
}

#[test]
fn mistakes_about_the_secret() {
    let scratch = scratch();
    add(&scratch, &made(&["--hash", "scram-sha-256", "fred"], b"correct horse\n"));
    let account = scratch.read("accounts");
    let secret = ":secret:Xq3mW0bVh0n8l9m2Jm0m5o5yVh8d2b1xk0m5o5yVh8c=\n";
    for (lines, expected) in [
        (format!("{secret}{account}"), &[][..]),
        (format!("{account}{secret}\n"), &[]),
        (
            format!("{secret}{account}:secret:hunter2\n{secret}"),
            &[
                "accounts:3:1: error: a secret is there already: the first line counts, remove one",
                "accounts:4:1: error: a secret is there already: the first line counts, remove one",
            ],
        ),
        (
            format!(":secret:hunter2\n{account}"),
            &[
                "warning: accounts has no line `:secret:...`, so that",
                "accounts:1:9: error: this secret has less than 22 characters: make one with",
            ],
        ),
        (format!(":secrets:x\n{secret}{account}"), &["accounts:1:1: error: a name is missing"]),
    ] {
        scratch.write("accounts", &lines);
        let (said, _) = check(&scratch);
        let headlines = said.lines().filter(|line| line.starts_with(['m', 'a'])).collect::<Vec<_>>();
        assert_eq!(headlines.len(), expected.len(), "{said}");
        assert!(headlines.iter().zip(expected).all(|(line, expected)| line.contains(expected)), "{said}");
        assert!(!said.contains("Xq3m") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn lines_of_others() {
    let scratch = scratch();
    for kind in ["yescrypt", "sha-512", "sha-256"] {
        let mkpasswd = |more: &[&str]| {
            let mut command = debian::command("whois", "mkpasswd");
            command.args(["-m", kind]).args(more).arg("correct horse");
            succeeds(command, "")
        };
        add(&scratch, &format!("{kind}:{}", mkpasswd(&[])));
        let cost = if kind == "yescrypt" { "7" } else { "6000" };
        add(&scratch, &format!("{kind}-costly:{}", mkpasswd(&["-R", cost])));
    }
    assert_eq!(check(&scratch), (String::new(), Some(0)));
    let accounts = accounts(&scratch);
    for name in ["yescrypt", "sha-512", "sha-256"].map(|kind| [kind.to_owned(), format!("{kind}-costly")]).concat() {
        assert!(accounts.is_password(&name, b"correct horse").unwrap(), "{name}");
        assert!(!accounts.is_password(&name, b"correct hors").unwrap(), "{name}");
        assert!(accounts.scram_keys(&name).is_err(), "{name}");
    }
}

#[test]
fn passwords_that_nobody_can_have() {
    let long = [b'x'; 257];
    for (arguments, input, why) in [
        (&["fred"][..], &b""[..], "the password is empty: type one, or pipe one line with it"),
        (&["fred"], b"\n", "the password is empty"),
        (&["fred"], &long, "the password has 257 octets, and 256 are the most"),
        (&["fred"], b"a\0b\n", "the password has a control character"),
        (&["fred"], b"secret\r\n", "the password has a control character"),
        (&["--hash", "scram-sha-256", "fred"], "\u{f6}\n".as_bytes(), "with scram-sha-256 a password has ASCII"),
    ] {
        let output = passwd(arguments, input);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("mailrecv: {why}")), "{said}");
        assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
    }
    for name in ["", "a b", "a:b", "#fred", "a\nb"] {
        let output = passwd(&[name], b"secret\n");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("name"), "{said}");
        assert_eq!((output.status.code(), output.stdout), (Some(64), Vec::new()), "{name}");
    }
}

/// script(1) has a terminal for us.
#[test]
fn at_a_terminal_it_asks_twice_and_shows_nothing() {
    let scratch = scratch();
    let (shown, status) = at_a_terminal(&scratch, ["correct horse\n", "correct horse\n"]);
    assert_eq!((&*shown, status), ("Password for fred: \r\nThe same again: \r\n", Some(0)));
    add(&scratch, &scratch.read("made"));
    assert!(accounts(&scratch).is_password("fred", b"correct horse").unwrap());
    let (shown, status) = at_a_terminal(&scratch, ["correct horse\n", "correct horsf\n"]);
    assert!(shown.ends_with("mailrecv: the two are not the same: nothing is written\r\n"), "{shown:?}");
    assert_eq!((status, &*scratch.read("made")), (Some(1), ""));
}

/// Ctrl-C, and whatever else ends it, leaves a terminal that shows what is typed.
#[test]
fn who_gives_up_has_a_terminal_as_it_was() {
    let scratch = scratch();
    for signal in ["INT", "QUIT"] {
        let key = if signal == "INT" { "\x03" } else { "\x1c" };
        let commands = format!(
            "trap : {signal}; ulimit -c 0; {MAILRECV} passwd fred > made; echo \"$?\" > status; stty -a > terminal"
        );
        at_a_terminal_by(&scratch, &commands, [key]);
        let number = if signal == "INT" { 130 } else { 131 };
        assert_eq!((scratch.read("made"), scratch.read("status")), (String::new(), format!("{number}\n")));
        let terminal = scratch.read("terminal");
        assert!(terminal.contains(" echo ") && terminal.contains(" -echonl "), "{terminal}");
    }
}

/// Types each of these when it is asked; the line goes to the file `made`. Returns what the terminal has shown.
fn at_a_terminal(scratch: &Scratch, typed: [&str; 2]) -> (String, Option<i32>) {
    at_a_terminal_by(scratch, &format!("{MAILRECV} passwd fred > made"), typed)
}

/// The same with other commands of the shell.
fn at_a_terminal_by<const N: usize>(scratch: &Scratch, commands: &str, typed: [&str; N]) -> (String, Option<i32>) {
    // A shell that starts tests in the background has them ignore these signals, and so whatever they start.
    let arguments = ["--default-signal=INT,QUIT", "script", "-q", "-e", "-c", commands, "/dev/null"];
    let mut script = scratch.command("env", &arguments);
    script.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for line in typed {
        let mut octet = [0];
        while !shown.ends_with(b": ") && screen.read(&mut octet).unwrap() == 1 {
            shown.extend(octet);
        }
        keyboard.write_all(line.as_bytes()).unwrap();
        // The next prompt is another one.
        while !shown.ends_with(b"\n") && screen.read(&mut octet).unwrap() == 1 {
            shown.extend(octet);
        }
    }
    screen.read_to_end(&mut shown).unwrap();
    (String::from_utf8(shown).unwrap(), child.wait().unwrap().code())
}

#[test]
fn who_can_read_and_write_the_file() {
    let scratch = scratch();
    add(&scratch, &made(&["fred"], b"correct horse\n"));
    for (mode, what) in [
        (0o600, ""),
        (0o640, ""),
        (0o644, "accounts can be read by everybody, who can then try passwords at leisure: run chmod o-r accounts"),
        (0o602, "accounts is writable by everybody, and it says who may log in: run chmod o-w on it"),
    ] {
        fs::set_permissions(scratch.path("accounts"), fs::Permissions::from_mode(mode)).unwrap();
        let (said, status) = check(&scratch);
        assert!(said.contains(what) && said.is_empty() == what.is_empty(), "{mode:o}: {said}");
        assert_eq!(status, Some(0), "{mode:o}: {said}");
    }
    fs::remove_file(scratch.path("accounts")).unwrap();
    fs::create_dir(scratch.path("accounts")).unwrap();
    let (said, status) = check(&scratch);
    assert!(said.contains("warning: accounts cannot be read: Is a directory"), "{said}");
    assert_eq!(status, Some(0), "{said}");
}

/// What is opened early is read when it is needed.
#[test]
fn the_file_is_read_anew() {
    let scratch = scratch();
    let accounts = accounts(&scratch);
    let error = format!("{:#}", accounts.is_password("fred", b"correct horse").unwrap_err());
    assert!(error.ends_with("accounts: has no account that can be used"), "{error}");
    add(&scratch, &made(&["fred"], b"correct horse\n"));
    assert!(accounts.is_password("fred", b"correct horse").unwrap());
    // Of more than 4 MiB nothing is believed.
    add(&scratch, &"#\n".repeat(3 << 20));
    let error = format!("{:#}", accounts.is_password("fred", b"correct horse").unwrap_err());
    assert!(error.ends_with("accounts: has more than 4 MiB"), "{error}");
    assert!(Accounts::open(None).is_password("fred", b"correct horse").is_err());
}

/// No option is needed, and no configuration.
#[test]
fn help_names_the_kinds() {
    let mut command = Command::new(MAILRECV);
    command.args(["passwd", "--help"]);
    let said = String::from_utf8(output(command).stdout).unwrap();
    assert!(said.contains("[default: argon2id] [possible values: argon2id, scram-sha-256]"), "{said}");
}
