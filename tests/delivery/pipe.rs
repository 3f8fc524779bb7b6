//! Mail for commands: which exit statuses are final, what a command may read, write, leave behind and take its time
//! for, and what it finds around it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::client::Reply;
use testkit::process::copy_program;
use testkit::{Session, a_few_at_a_time, debian, is_root, output, repository, wait_until};

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

/// Which exit statuses are final. All 256, each in a message of one session.
#[test]
fn the_exit_status_of_a_command_decides() {
    const PERMANENT: [(i32, &str); 9] = [
        (64, "554 5.3.5 "),
        (65, "554 5.6.0 "),
        (67, "550 5.1.1 "),
        (68, "550 5.1.2 "),
        (69, "554 5.3.0 "),
        (70, "554 5.3.0 "),
        (76, "554 5.5.0 "),
        (77, "550 5.7.1 "),
        (100, "554 5.3.0 "),
    ];
    let scratch = Scratch::with_config(
        "limit.smtp_failcmds 1000\nlimit.smtp_commands 10000\n\
         deliver rcpt_to *@mx.example pipe cat > /dev/null; echo \"status $LOCAL\"; echo 'second line'; exit $LOCAL\n",
    );
    let mut session = scratch.greeted();
    for status in 0..=255 {
        let reply = session.deliver(&[&format!("{status}@mx.example")]);
        let expected = match PERMANENT.iter().find(|(number, _)| *number == status) {
            _ if status == 0 => "250 2.0.0 ",
            Some((_, reply)) => reply,
            None => "451 4.3.0 ",
        };
        assert!(reply.starts_with(expected), "status {status}: {reply}");
        assert!(!reply.contains("status"), "what a command says is not for the peer: {reply}");
    }
    session.quit();
    let log = scratch.log();
    assert_eq!(log.len(), 255, "one line for each failure");
    for (status, line) in (1..).zip(log) {
        let beginning = match status {
            // No peer is to be banned for these.
            64 | 69 | 70 => "WARNING: 554 ",
            _ if PERMANENT.iter().any(|(number, _)| *number == status) => "ERROR: 55",
            _ => "ERROR: 451 ",
        };
        assert!(line.starts_with(&format!("[192.0.2.7] {beginning}")), "{line}");
        assert!(line.ends_with(&format!("ended, exit status: {status}: 'status {status}')")), "{line}");
    }
}

#[test]
fn commands_that_cannot_run_keep_the_mail_with_the_sender() {
    for (seconds, command, status) in [
        (300, "/nonexistent/command", "exit status: 127"),
        (300, "/etc/passwd", "exit status: 126"),
        (300, "/etc", "exit status: 126"),
        (300, "kill -9 $$", "signal: 9 (SIGKILL)"),
        (1, "kill -STOP $$", "was killed after 1 seconds"),
    ] {
        let (reply, log, _) = through_within(seconds, command, b"Subject: x");
        assert!(reply.starts_with("451 4.3.0 "), "{command}: {reply}");
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].starts_with("[192.0.2.7] ERROR: 451 ") && log[0].contains(status), "{command}: {log:?}");
    }
}

/// It is not the command that is missing then.
#[test]
fn a_shell_that_is_missing_is_named() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * pipe cat > piped\n");
    let told = refused_with_fault(&scratch, &["-P", "/bin/sh", "-e", "inject=execve:error=ENOENT"]);
    let why = "(starting /bin/sh for 'cat > piped': No such file or directory (os error 2))";
    assert!(told.ends_with(why), "{told}");

    let options = ["--quiet=all", "-o", "calls", "-P", "/bin/sh", "-e", "inject=stat,statx,newfstatat:error=ENOENT"];
    let mut check = scratch.command(debian::program("strace", "strace"), &options);
    check.args([MAILRECV, "-c", CONFIG, "check"]);
    let said = String::from_utf8(output(check).stderr).unwrap();
    assert!(said.contains("there is no `/bin/sh`, and that is what runs commands"), "{said}");
}

/// What the system says is told, and no guess with it.
#[test]
fn why_the_process_that_runs_commands_cannot_be_started_is_told() {
    let busy: &[_] = &["-e", "inject=clone,clone3,vfork:error=EAGAIN"];
    let missing: &[_] = &["-P", "/proc/self/exe", "-e", "inject=execve:error=ENOENT"];
    for (fault, words, is_of_the_program) in [
        (busy, "Resource temporarily unavailable (os error 11)", false),
        (missing, "No such file or directory (os error 2)", true),
    ] {
        let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * pipe cat > piped\n");
        let told = refused_with_fault(&scratch, fault);
        assert!(told.contains(words), "{told}");
        assert_eq!(told.contains("/proc/self/exe has to be there"), is_of_the_program, "{told}");
    }
}

/// The last line of the log of a session whose system calls fail in this way, in strace's words.
fn refused_with_fault(scratch: &Scratch, fault: &[&str]) -> String {
    let mut command = scratch.command(debian::program("strace", "strace"), &["--quiet=all", "-f", "-o", "calls"]);
    command.args(fault).args([MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    session.quit();
    scratch.log().pop().unwrap()
}

/// A command need not read what it does not want; its exit status is what counts.
#[test]
fn commands_that_do_not_read_everything_have_delivered() {
    let large = vec![b'x'; 1_000_000];
    for command in ["true", "head -c 10 > head", "exec <&-; sleep 0.2; exit 0", "head -c 500000 > /dev/null"] {
        for text in [&b"Subject: x"[..], &large] {
            let (reply, log, _) = through(command, text);
            assert!(reply.starts_with("250 2.0.0 "), "{command}: {reply}");
            assert_eq!(log, Vec::<String>::new());
        }
    }
    let (reply, _, _) = through("head -c 10 > /dev/null; exit 65", &large);
    assert!(reply.starts_with("554 5.6.0 "), "{reply}");
}

/// Output never holds a command up, whether the message is still being written to it or not; the first line is kept.
#[test]
fn commands_may_write_as_much_as_they_like() {
    let large = vec![b'x'; 1_000_000];
    for command in [
        "echo first >&2; head -c 10000000 /dev/zero >&2; cat > /dev/null; exit 75",
        "cat > /dev/null; echo first; head -c 10000000 /dev/zero; exit 75",
        "echo first; head -c 10000000 /dev/zero; exit 75",
    ] {
        let command = format!("{command} # {}", "[8.8.8.8]");
        let (reply, log, _) = through(&command, &large);
        assert!(reply.starts_with("451 4.3.0 "), "{reply}");
        assert!(log[0].contains("exit status: 75: 'first')"), "{log:?}");
    }
}

/// What a command says is as untrusted as what the peer says: it may repeat it.
#[test]
fn output_of_commands_is_escaped_in_the_log() {
    let (_, log, _) = through(r"cat > /dev/null; printf '\n\n \033[2J[8.8.8.8] \047x\047\r\nsecond'; exit 1", b"x");
    assert!(log[0].ends_with("exit status: 1: '<0x1b><0x5b>2J<0x5b>8.8.8.8<0x5d> <0x27>x<0x27>')"), "{log:?}");
    assert_eq!(log.len(), 1);
}

/// Out of time, the command is killed with everything it started, politely first.
#[test]
fn commands_that_hang_are_killed_as_a_group() {
    let commands = [
        // Both end at once, but the child stays in the group until init has noticed.
        ("hangs", "sleep 600 & echo $! > child; echo $$ > parent; cat > /dev/null; echo waiting; wait"),
        // SIGTERM does nothing to it; two seconds later SIGKILL does.
        ("ignores SIGTERM", "trap '' TERM; echo $$ > parent; cp parent child; echo waiting; while :; do sleep 1; done"),
        // It does not even read.
        ("stops itself", "echo $$ > parent; cp parent child; echo waiting; kill -STOP $$"),
    ];
    a_few_at_a_time(&commands, |(what, command)| {
        let start = Instant::now();
        // Time enough to begin.
        let (reply, log, scratch) = through_within(4, command, &vec![b'x'; 300_000]);
        assert_eq!(reply, "451 4.3.0 The command that takes this mail ran out of time.", "{what}");
        assert!(start.elapsed() >= Duration::from_secs(4), "{what}");
        assert!(
            log[0].starts_with(
                "[192.0.2.7] ERROR: 451 The command that takes this mail ran out of time. 'fred@mx.example' ("
            ),
            "{log:?}"
        );
        assert!(log[0].ends_with(": 'waiting')"), "{what}: {log:?}");
        for name in ["parent", "child"] {
            let pid = Pid::from_raw(scratch.read(name).trim().parse().unwrap());
            wait_until(&format!("{what}: the end of the {name}"), || kill(pid, None).err().map(drop));
        }
    });
}

/// All of a command that ran out of time gets two seconds, not just its first process.
#[test]
fn commands_have_time_to_clean_up() {
    let command = "(trap 'sleep 0.2; echo cleaned up > note; exit' TERM; sleep 600 & wait) & exec sleep 600";
    // Time enough for the trap.
    let (reply, _, scratch) = through_within(4, command, b"Subject: x");
    assert!(reply.starts_with("451 "), "{reply}");
    assert_eq!(scratch.read("note"), "cleaned up\n");
}

/// The administrator's words for it.
#[test]
fn the_time_limit_of_commands_has_its_own_reply() {
    let scratch = Scratch::with_config("limit.pipe_secs 1 450 Too slow\ndeliver rcpt_to * pipe sleep 600\n");
    let mut session = scratch.greeted();
    assert_eq!(session.deliver(&["fred@mx.example"]), "450 4.3.0 Too slow");
    session.quit();
}

/// Whoever kills the session in the middle of a message does not make its beginning look like all of it: the command is
/// stopped before it sees an end of its input, whether it heeds SIGTERM or not.
#[test]
fn a_killed_session_does_not_end_the_message() {
    for stubborn in ["", "trap '' TERM; "] {
        // A pipe has no room for the rest of the message, so the session is in the middle of it.
        let scratch = Scratch::with_config(&format!(
            "deliver rcpt_to * pipe {stubborn}head -c 1000 > /dev/null; echo $$ > reading; \
             until test -e go; do sleep 0.1; done; cat > /dev/null; echo whole > taken\n"
        ));
        let mut session = scratch.greeted();
        session.begin_message(&["fred@mx.example"]);
        session.send(vec![b'x'; 2_000_000]);
        session.send("\r\n.\r\n");
        let command = wait_until("the command", || scratch.read("reading").trim().parse().ok().map(Pid::from_raw));
        kill(session.pid(), Signal::SIGKILL).unwrap();
        assert_eq!(session.hang_up().exit_code(), 128 + 9);
        scratch.write("go", "");
        wait_until("the end of the command", || kill(command, None).err().map(drop));
        assert_eq!(scratch.read("taken"), "", "'{stubborn}': the beginning of the message was taken for all of it");
    }
}

/// When the session is killed behind the message, nobody hears any more how the command ends: it is stopped, too, and the
/// sender tries again.
#[test]
fn a_killed_session_stops_its_command() {
    let scratch = Scratch::with_config("deliver rcpt_to * pipe cat > /dev/null; echo $$ > waiting; sleep 600\n");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send("x\r\n.\r\n");
    let command = wait_until("the command", || scratch.read("waiting").trim().parse().ok().map(Pid::from_raw));
    kill(session.pid(), Signal::SIGKILL).unwrap();
    assert_eq!(session.hang_up().exit_code(), 128 + 9);
    wait_until("the end of the command", || kill(command, None).err().map(drop));
}

/// A daemon that a command leaves behind holds up neither the delivery nor the end of the connection.
#[test]
fn daemons_do_not_hold_the_connection() {
    let scratch = Scratch::with_config(
        "deliver rcpt_to one@mx.example pipe cat > /dev/null; sleep 600 & echo $! > daemon\n\
         deliver rcpt_to two@mx.example pipe cat > /dev/null; setsid sleep 600 & echo $! > daemon\n",
    );
    for recipient in ["one@mx.example", "two@mx.example"] {
        let mut session = scratch.greeted();
        let reply = session.deliver(&[recipient]);
        assert!(reply.starts_with("250 "), "{reply}");
        session.quit();
        let daemon = Pid::from_raw(scratch.read("daemon").trim().parse().unwrap());
        // It was left alone: what succeeds may leave what it likes behind.
        kill(daemon, Signal::SIGKILL).expect("the daemon still runs");
    }
}

/// The environment is what mailrecv.conf(5) lists; nothing of ours and nothing of the super-server's is in it. A command has no
/// descriptor but its three, and none of them is the connection.
#[test]
fn commands_get_a_clean_environment() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         pipe_env FOO EMPTY UNSET\n\
         deliver rcpt_to * pipe cat > text; cat /proc/$$/environ > environ; test -p /dev/stdout && echo pipe > fds; \
         readlink /proc/self/fd/0 /proc/self/fd/2 >> fds; ls -l /proc/self/fd > all-fds\n",
    );
    let mut command = scratch.mailrecv(&["--peer", "2001:db8::7=mail.example.net"]);
    command.envs([("LD_PRELOAD", ""), ("IFS", "x"), ("BASH_ENV", "/tmp/evil"), ("TCPREMOTEIP", "8.8.8.8")]);
    command.envs([("HOME", "/x"), ("USER", "x"), ("LOGNAME", "x"), ("SHELL", "/x"), ("SENDER", "x"), ("PATH", "/x")]);
    command.envs([("TZ", "Europe/Vienna"), ("LANG", "C.UTF-8"), ("LC_ALL", "C")]);
    command.envs([("FOO", "bar baz"), ("EMPTY", "")]);
    let mut session = Session::start(command);
    session.expect("220 ");
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<\"a $(id) b\"@c.example>", "250 ");
    // The second is the first one again.
    session.exchange("RCPT TO:<\"Fred x+tag+more\"@MX.example> ORCPT=rfc822;first+20+0Aone+22@old.example", "250 ");
    session.exchange("RCPT TO:<\"fred x+tag+more\"@mx.example> ORCPT=rfc822;other@old.example", "250 ");
    session.exchange("DATA", "354 ");
    session.send("Subject: x\r\n\r\nFrom here\r\n..\r\n.\r\n");
    let reply = session.expect("250 2.0.0 ");
    session.quit();
    let id = reply.rsplit_once("id=").unwrap().1;
    let environment = scratch.read("environ");
    let mut environment: Vec<&str> = environment.split_terminator('\0').collect();
    environment.sort_unstable();
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).unwrap().expect("a user with a line in /etc/passwd");
    let mut expected = [
        "EMPTY=",
        "FOO=bar baz",
        "LANG=C.UTF-8",
        "TZ=Europe/Vienna",
        &format!("HOME={}", user.dir.display()),
        &format!("LOGNAME={}", user.name),
        &format!("SHELL={}", user.shell.display()),
        &format!("USER={}", user.name),
        "AUTH_USER=",
        "CLIENT_ADDRESS=2001:db8::7",
        "CLIENT_HELO=client.example",
        "CLIENT_HOSTNAME=mail.example.net",
        "CLIENT_PROTOCOL=ESMTP",
        "DOMAIN=MX.example",
        "EXTENSION=tag+more",
        "LOCAL=Fred x+tag+more",
        &format!("MESSAGE_ID={id}"),
        "ORIGINAL_RECIPIENT=first ?one\"@old.example",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "RECIPIENT=\"Fred x+tag+more\"@MX.example",
        "SENDER=\"a $(id) b\"@c.example",
        "TLS_CIPHER=",
        "TLS_VERSION=",
    ];
    expected.sort_unstable();
    assert_eq!(environment, expected);

    let fds = scratch.read("fds");
    let fds: Vec<&str> = fds.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(fds, ["pipe"; 3]);
    let all = scratch.read("all-fds");
    assert!(all.contains("pipe:") && !all.contains("socket:") && !all.contains("mailrecv.conf"), "{all}");

    // The message as it would stand in a mailbox.
    let text = scratch.read("text");
    assert!(text.starts_with("From \"a-$(id)-b\"@c.example "), "{text}");
    assert!(text.ends_with("\nSubject: x\n\n>From here\n.\n\n"), "{text}");
}

/// A recipient can be any text, and so can what commands get of it. The manual's way to make the name of a file of that
/// lets nothing through that leads elsewhere.
#[test]
fn a_file_named_after_a_recipient_is_where_it_should_be() {
    let manual = repository::text("etc/man/mailrecv.conf.5");
    let example = manual.lines().find(|line| line.contains("exit 67;;")).expect("the example");
    let careful = example.replace("example.com", "mx.example").replace("/srv/mail", "boxes");
    let careless = "deliver rcpt_to *@mx.example pipe cat >> \"boxes/$LOCAL\"";
    for (line, is_careful) in [(careless, false), (&careful, true)] {
        let scratch = Scratch::with_config(&format!("domain mx.example\nlimit.smtp_failcmds 20\n{line}\n"));
        std::fs::create_dir(scratch.path("boxes")).unwrap();
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        let mut deliver = |recipient: &str| {
            session.exchange("MAIL FROM:<a@b.example>", "250 ");
            session.exchange(&format!("RCPT TO:<{recipient}>"), "250 ");
            session.exchange("DATA", "354 ");
            session.exchange("x\r\n.", "")
        };
        assert!(deliver("fred.x-1@mx.example").starts_with("250 "));
        assert!(scratch.read("boxes/fred.x-1").ends_with("\nx\n\n"));
        let stolen = deliver("\"../stolen\"@mx.example");
        assert_eq!(stolen.starts_with("550 5.1.1 "), is_careful, "{stolen}");
        assert_eq!(scratch.path("stolen").exists(), !is_careful, "{line}");
        if is_careful {
            for recipient in ["a/b", "\"..\"", "\"-x\"", "\"a b\"", "*", "\"a\u{5c}\u{5c}b\"", "\"a$(id)\""] {
                let reply = deliver(&format!("{recipient}@mx.example"));
                assert!(reply.starts_with("550 5.1.1 "), "{recipient}: {reply}");
            }
            assert_eq!(std::fs::read_dir(scratch.path("boxes")).unwrap().count(), 1);
        }
        session.quit();
    }
}

/// The user is the one that the command runs as; one who has no line in /etc/passwd has a number for a name.
#[test]
fn commands_know_whom_they_run_as() {
    if !is_root("becoming another user") {
        return;
    }
    for (user, ids, expected) in [
        ("mail", None, "/var/mail mail mail /usr/sbin/nologin 8:8 8"),
        ("8", None, "/var/mail mail mail /usr/sbin/nologin 8:8 8"),
        ("mail:adm", None, "/var/mail mail mail /usr/sbin/nologin 8:4 4"),
        ("8:4712", None, "/var/mail mail mail /usr/sbin/nologin 8:4712 4712"),
        ("4711:4712", None, "/ 4711 4711 /bin/sh 4711:4712 4712"),
        // As a super-server starts it.
        ("", Some("4711"), "/ 4711 4711 /bin/sh 4711:4711 4711"),
    ] {
        let user = if user.is_empty() { String::new() } else { format!("user {user}\n") };
        let command = "pipe echo \"$HOME $USER $LOGNAME $SHELL $(id -u):$(id -g) $(id -G)\" > mail/said";
        let scratch = Scratch::with_config(&format!("domain mx.example\n{user}deliver rcpt_to * {command}\n"));
        copy_program(MAILRECV, scratch.path("mailrecv"));
        std::fs::create_dir(scratch.path("mail")).unwrap();
        scratch.write("log", "");
        for (file, mode) in [("", 0o755), ("mail", 0o777), ("log", 0o666)] {
            std::fs::set_permissions(scratch.path(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut command = match ids {
            Some(id) => {
                let ids = ["--reuid", id, "--regid", id, "--clear-groups", "./mailrecv"];
                scratch.command("setpriv", &ids)
            }
            None => scratch.command("./mailrecv", &[]),
        };
        command.args(["-c", CONFIG, "-l", LOG, "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}: {:?}", scratch.log());
        session.quit();
        assert_eq!(scratch.read("mail/said"), format!("{expected}\n"));
    }
}

/// Names of people are in /etc/passwd since before UTF-8.
#[test]
fn who_else_has_an_account_does_not_matter() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = Scratch::with_config(
        "domain mx.example\nuser mail\ndeliver rcpt_to * pipe echo \"$HOME $USER $(id -u):$(id -G)\" > mail/said\n",
    );
    copy_program(MAILRECV, scratch.path("mailrecv"));
    std::fs::create_dir(scratch.path("mail")).unwrap();
    chown(scratch.path("mail"), Some(8), Some(8)).unwrap();
    std::fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    scratch.write("passwd", b"j:x:1000:1000:J\xfcrgen:/home/j:/bin/sh\nmail:x:8:8:mail:/var/mail:/bin/sh\n");
    scratch.write("group", b"\xfc:x:1000:\nlist:x:38:mail\n");
    let mounts = "mount --bind passwd /etc/passwd && mount --bind group /etc/group && exec \"$@\"";
    let mut command = scratch.command("unshare", &["--mount", "sh", "-c", mounts, "sh"]);
    command.args(["./mailrecv", "-c", CONFIG, "-l", "stderr", "--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert_eq!(scratch.read("mail/said"), "/var/mail mail 8:8 38\n");
}

/// Only root can become somebody else; who cannot says so, unless it is that user already.
#[test]
fn who_is_not_root_and_becomes_nobody_says_so() {
    if !is_root("becoming another user") {
        return;
    }
    for (id, user, says_so) in
        [("8", "mail", false), ("8", "8", false), ("9", "mail", true), ("9", "no-such-user", true)]
    {
        let scratch = Scratch::with_config(&format!("domain mx.example\nuser {user}\ndeliver rcpt_to * discard\n"));
        copy_program(MAILRECV, scratch.path("mailrecv"));
        scratch.write("log", "");
        for (file, mode) in [("", 0o755), ("log", 0o666)] {
            std::fs::set_permissions(scratch.path(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        let ids = ["--reuid", id, "--regid", id, "--clear-groups", "./mailrecv", "-c", CONFIG];
        let mut command = scratch.command("setpriv", &ids);
        command.args(["-l", LOG, "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        session.quit();
        let warning =
            format!("WARNING: `user {user}` does nothing, because root did not start us: running as user {id}");
        let log = scratch.log();
        assert_eq!(log.iter().any(|line| line.contains(&warning)), says_so, "{id}, {user}: {log:?}");

        let mut command = scratch.command("setpriv", &ids);
        command.arg("check");
        let said = String::from_utf8(output(command).stderr).unwrap();
        let warning = format!("`user {user}` does nothing unless root starts mailrecv");
        assert_eq!(said.contains(&warning), says_so, "{id}, {user}: {said}");
    }
}

/// Nobody is taken for root, or for the group of root, because it is not known who is meant.
#[test]
fn a_user_who_is_not_known_takes_no_mail() {
    if !is_root("becoming another user") {
        return;
    }
    for (user, why) in [
        ("no-such-user", "there is no user `no-such-user` in /etc/passwd"),
        ("4711", "user 4711 has no line in /etc/passwd that says its group: write `4711:GROUP`"),
        ("mail:no-such-group", "there is no group `no-such-group` in /etc/group"),
        ("4294967295:8", "there is no user `4294967295` in /etc/passwd"),
    ] {
        let scratch = Scratch::with_config(&format!("domain mx.example\nuser {user}\ndeliver rcpt_to * discard\n"));
        let mut session = scratch.session(&["--peer", PEER]);
        session.expect("421 4.3.5 ");
        let said = String::from_utf8(output(scratch.mailrecv(&["check"])).stderr).unwrap();
        assert!(said.contains(why), "{user}: {said}");
    }
}

/// A bounce has no sender, a HELO session no ESMTP, a plain recipient no extension.
#[test]
fn empty_values_are_there_too() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to * pipe cat > /dev/null; echo \"<$SENDER|$EXTENSION|$CLIENT_PROTOCOL|$CLIENT_HOSTNAME|$LOCAL@$DOMAIN>\" > said\n",
    );
    let mut session = scratch.session(&["--peer", "192.0.2.9"]);
    session.expect("220 ");
    for (line, reply) in
        [("HELO x", "250 "), ("MAIL FROM:<>", "250 "), ("RCPT TO:<fred>", "250 "), ("DATA", "354 "), ("x\r\n.", "250 ")]
    {
        session.exchange(line, reply);
    }
    session.quit();
    assert_eq!(scratch.read("said"), "<||SMTP|unknown|fred@mx.example>\n");
}

/// Sends a message to `command` and returns the final reply and the log.
fn through(command: &str, text: &[u8]) -> (Reply, Vec<String>, Scratch) {
    through_within(300, command, text)
}

/// The same with so much time for the command.
fn through_within(seconds: u32, command: &str, text: &[u8]) -> (Reply, Vec<String>, Scratch) {
    let scratch = Scratch::with_config(&format!("limit.pipe_secs {seconds}\ndeliver rcpt_to * pipe {command}\n"));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send(text);
    session.send("\r\n.\r\n");
    let reply = session.reply();
    session.exchange("NOOP", "250 ");
    session.quit();
    let log = scratch.log();
    (reply, log, scratch)
}
