//! Deliveries with the built binary: what commands may do, mailboxes that others hold or that have no room, peers that
//! vanish, large messages, and that whatever is refused leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{CONFIG, MAILRECV, PEER, Scratch};
use testkit::client::Reply;
use testkit::process::peak_memory;
use testkit::{Process, Session, debian, is_root, succeeds, wait_until};

// Commands.

/// DESIGN section 4: which exit statuses are final. All 256, each in a message of one session.
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

/// Sends a message to `command` and returns the final reply and the log.
fn through(command: &str, text: &[u8]) -> (Reply, Vec<String>, Scratch) {
    let scratch = Scratch::with_config(&format!("limit.pipe_secs 1\ndeliver rcpt_to * pipe {command}\n"));
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

#[test]
fn commands_that_cannot_run_keep_the_mail_with_the_sender() {
    for (command, status) in [
        ("/nonexistent/command", "exit status: 127"),
        ("/etc/passwd", "exit status: 126"),
        ("/etc", "exit status: 126"),
        ("kill -9 $$", "signal: 9 (SIGKILL)"),
        ("kill -STOP $$", "was killed after 1 seconds"),
    ] {
        let (reply, log, _) = through(command, b"Subject: x");
        assert!(reply.starts_with("451 4.3.0 "), "{command}: {reply}");
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].starts_with("[192.0.2.7] ERROR: 451 ") && log[0].contains(status), "{command}: {log:?}");
    }
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
    for (what, command, longest) in [
        // Both end at once, but the child stays in the group until init has noticed.
        ("hangs", "sleep 60 & echo $! > child; echo $$ > parent; cat > /dev/null; echo waiting; wait", 4.5),
        // SIGTERM does nothing to it; two seconds later SIGKILL does.
        (
            "ignores SIGTERM",
            "trap '' TERM; echo $$ > parent; cp parent child; echo waiting; while :; do sleep 1; done",
            6.0,
        ),
        // It does not even read.
        ("stops itself", "echo $$ > parent; cp parent child; echo waiting; kill -STOP $$", 4.5),
    ] {
        let start = Instant::now();
        let (reply, log, scratch) = through(command, &vec![b'x'; 300_000]);
        assert_eq!(reply, "451 4.3.0 The command that takes this mail ran out of time.", "{what}");
        let time = start.elapsed().as_secs_f64();
        assert!((1.0..longest).contains(&time), "{what}: took {time} seconds");
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
    }
}

/// All of a command that ran out of time gets two seconds, not just its first process.
#[test]
fn commands_have_time_to_clean_up() {
    let command = "(trap 'sleep 0.5; echo cleaned up > note; exit' TERM; sleep 20 & wait) & exec sleep 20";
    let (reply, _, scratch) = through(command, b"Subject: x");
    assert!(reply.starts_with("451 "), "{reply}");
    assert_eq!(scratch.read("note"), "cleaned up\n");
}

/// The administrator's words for it.
#[test]
fn the_time_limit_of_commands_has_its_own_reply() {
    let scratch = Scratch::with_config("limit.pipe_secs 1 450 Too slow\ndeliver rcpt_to * pipe sleep 20\n");
    let mut session = scratch.greeted();
    assert_eq!(session.deliver(&["fred@mx.example"]), "450 4.3.0 Too slow");
    session.quit();
}

/// A daemon that a command leaves behind holds up neither the delivery nor the end of the connection.
#[test]
fn daemons_do_not_hold_the_connection() {
    let scratch = Scratch::with_config(
        "deliver rcpt_to one@mx.example pipe cat > /dev/null; sleep 60 & echo $! > daemon\n\
         deliver rcpt_to two@mx.example pipe cat > /dev/null; setsid sleep 60 & echo $! > daemon\n",
    );
    for recipient in ["one@mx.example", "two@mx.example"] {
        let start = Instant::now();
        let mut session = scratch.greeted();
        let reply = session.deliver(&[recipient]);
        assert!(reply.starts_with("250 "), "{reply}");
        session.quit();
        assert!(start.elapsed() < Duration::from_secs(10));
        let daemon = Pid::from_raw(scratch.read("daemon").trim().parse().unwrap());
        // It was left alone: what succeeds may leave what it likes behind.
        kill(daemon, Signal::SIGKILL).expect("the daemon still runs");
    }
}

/// DESIGN section 4 lists the environment; nothing of ours and nothing of the super-server's is in it. A command has no
/// descriptor but its three, and none of them is the connection.
#[test]
fn commands_get_a_clean_environment() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to * pipe cat > text; cat /proc/$$/environ > environ; test -p /dev/stdout && echo pipe > fds; \
         readlink /proc/self/fd/0 /proc/self/fd/2 >> fds; ls -l /proc/self/fd > all-fds\n",
    );
    let mut command = scratch.mailrecv(&["--peer", "2001:db8::7=mail.example.net"]);
    command.envs([("LD_PRELOAD", ""), ("IFS", "x"), ("BASH_ENV", "/tmp/evil"), ("TCPREMOTEIP", "8.8.8.8")]);
    let mut session = Session::start(command);
    session.expect("220 ");
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<\"a $(id) b\"@c.example>", "250 ");
    session.exchange("RCPT TO:<\"Fred x+tag+more\"@MX.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send("Subject: x\r\n\r\nFrom here\r\n..\r\n.\r\n");
    let reply = session.expect("250 2.0.0 ");
    session.quit();
    let id = reply.rsplit_once("id=").unwrap().1;
    let environment = scratch.read("environ");
    let mut environment: Vec<&str> = environment.split_terminator('\0').collect();
    environment.sort_unstable();
    let mut expected = [
        "AUTH_USER=",
        "CLIENT_ADDRESS=2001:db8::7",
        "CLIENT_HELO=client.example",
        "CLIENT_HOSTNAME=mail.example.net",
        "CLIENT_PROTOCOL=ESMTP",
        "DOMAIN=MX.example",
        "EXTENSION=tag+more",
        "LOCAL=Fred x+tag+more",
        &format!("MESSAGE_ID={id}"),
        "ORIGINAL_RECIPIENT=\"Fred x+tag+more\"@MX.example",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "RECIPIENT=\"Fred x+tag+more\"@MX.example",
        "SENDER=\"a $(id) b\"@c.example",
    ];
    expected.sort_unstable();
    assert_eq!(environment, expected);

    let fds = scratch.read("fds");
    let fds: Vec<&str> = fds.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(fds, ["pipe"; 3]);
    let all = scratch.read("all-fds");
    assert!(all.contains("pipe:") && !all.contains("socket:") && !all.contains("mailrecv.conf"), "{all}");

    // The message as it stands, the separator of a mailbox in front.
    let text = scratch.read("text");
    assert!(text.starts_with("From \"a-$(id)-b\"@c.example "), "{text}");
    assert!(text.ends_with("\nSubject: x\n\nFrom here\n.\n"), "{text}");
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

// Files.

const INBOX: &str = "domain mx.example\ndeliver rcpt_to fred@mx.example append inbox\n";

/// A message of about this size with lines that are all different.
fn text_of(size: usize) -> Vec<u8> {
    let line = |number: usize| format!("{number:09} {}\r\n", "abcdefghij".repeat(5)).into_bytes();
    let mut text = b"Subject: large\r\n\r\n".to_vec();
    text.extend((0..size / 61).flat_map(line));
    text
}

fn with_lf(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'\r').collect()
}

/// Sends the text to fred and returns the final reply.
fn send_to_fred(session: &mut Session, text: &[u8]) -> Reply {
    session.begin_message(&["fred@mx.example"]);
    session.send(text);
    session.send(".\r\n");
    session.reply()
}

#[test]
fn a_device_without_room_is_a_full_disk() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to full@mx.example append /dev/full\n\
         deliver rcpt_to fred@mx.example append inbox\n",
    );
    scratch.write("inbox", "From a@b Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n");
    let before = scratch.read("inbox");
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fred@mx.example", "full@mx.example"]);
    assert_eq!(reply, "452 4.3.1 Not enough room for this message, try again later");
    session.exchange("RSET", "250 ");
    session.quit();
    assert_eq!(scratch.read("inbox"), before, "taken back");
    let log = scratch.log();
    assert_eq!(log.len(), 1);
    assert!(
        log[0].starts_with(
            "[192.0.2.7] ERROR: 452 Not enough room for this message, try again later 'full@mx.example' \
             (appending to /dev/full: "
        ),
        "{log:?}"
    );
}

/// A file size limit: the mailbox keeps its length, and the process its life (SIGXFSZ).
#[test]
fn a_file_size_limit_is_a_full_disk() {
    let scratch = Scratch::with_config(INBOX);
    let old = "From a@b Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n";
    scratch.write("inbox", old);
    // The larger one does not even fit into the spool file.
    for size in [150_000, 600_000] {
        let mut command = scratch.command("prlimit", &["--fsize=100000", MAILRECV, "-c", "mailrecv.conf", "-l", "log"]);
        command.args(["--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        let reply = send_to_fred(&mut session, &text_of(size));
        assert_eq!(reply, "452 4.3.1 Not enough room for this message, try again later", "{size}");
        assert_eq!(scratch.read("inbox"), old);
        // And what fits still goes in.
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}");
        session.quit();
        assert!(scratch.read("inbox").starts_with(old));
        scratch.write("inbox", old);
    }
}

/// A real file system that is too small, for the mailbox and for the spool.
#[test]
fn a_full_file_system_takes_nothing_and_loses_nothing() {
    if !is_root("a file system of 1 MiB") {
        return;
    }
    for (config, what) in [
        ("deliver rcpt_to fred@mx.example append small/inbox\n", "mailbox"),
        ("deliver rcpt_to fred@mx.example append inbox\nspool_dir small\n", "spool"),
    ] {
        let scratch = Scratch::with_config(&format!("domain mx.example\n{config}"));
        std::fs::create_dir(scratch.path("small")).unwrap();
        let script = "mount -t tmpfs -o size=1m tmpfs small && exec \"$@\"";
        let mut command = scratch.command("unshare", &["-m", "sh", "-c", script, "sh", MAILRECV]);
        command.args(["-c", "mailrecv.conf", "-l", "log", "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        // What the process sees below its folder, which is not what we see there.
        let seen = |name: &str| {
            let root = format!("/proc/{}/root{}", session.pid(), scratch.path(name).display());
            std::fs::read(root).unwrap_or_default()
        };
        let inbox = if what == "mailbox" { "small/inbox" } else { "inbox" };
        assert_eq!(seen(inbox).len(), 0);
        let pid = session.pid();
        let reply = send_to_fred(&mut session, &text_of(500_000));
        assert!(reply.starts_with("250 "), "{what}: {reply}");
        let path = format!("/proc/{pid}/root{}", scratch.path(inbox).display());
        let before = std::fs::read(&path).unwrap();
        let reply = send_to_fred(&mut session, &text_of(1_500_000));
        assert_eq!(reply, "452 4.3.1 Not enough room for this message, try again later", "{what}");
        assert!(std::fs::read(&path).unwrap() == before, "{what}: the mailbox is as it was");
        let reply = send_to_fred(&mut session, &text_of(100_000));
        assert!(reply.starts_with("250 "), "{what}: {reply}");
        session.quit();
    }
}

/// Another program that holds the mailbox, with either kind of lock, is waited for.
#[test]
fn a_locked_mailbox_is_waited_for() {
    const HOLDER: &str = "import fcntl, os, sys, time\n\
        mailbox = open('inbox', 'a')\n\
        {'flock': fcntl.flock, 'fcntl': fcntl.lockf}[sys.argv[1]](mailbox, fcntl.LOCK_EX)\n\
        open('locked', 'w').close()\n\
        while not os.path.exists('release'): time.sleep(0.01)\n\
        mailbox.write('From other Sat Nov 21 01:32:50 2026\\n\\nfrom the other program\\n\\n')\n";
    for kind in ["flock", "fcntl"] {
        let scratch = Scratch::with_config(INBOX);
        let mut holder = Process::start(scratch.command(debian::program("python3", "python3"), &["-c", HOLDER, kind]));
        wait_until("the lock", || scratch.path("locked").exists().then_some(()));
        let mut session = scratch.greeted();
        session.begin_message(&["fred@mx.example"]);
        session.send("Subject: x\r\n\r\nours\r\n.\r\n");
        assert!(session.is_silent_for(Duration::from_millis(500)), "{kind}: written into a locked mailbox");
        assert_eq!(scratch.read("inbox"), "", "{kind}");
        scratch.write("release", "");
        session.expect("250 2.0.0 ");
        session.quit();
        assert_eq!(holder.exit_code(), 0);
        let inbox = scratch.read("inbox");
        let other = inbox.find("from the other program\n\nFrom sender@client.example ");
        assert!(other.is_some(), "{kind}: ours follows the other's:\n{inbox}");
    }
}

/// Half a minute is enough.
#[test]
fn a_mailbox_that_stays_locked_keeps_the_mail_with_the_sender() {
    let scratch = Scratch::with_config(INBOX);
    let holder = "import fcntl, time\nmailbox = open('inbox', 'a')\nfcntl.flock(mailbox, fcntl.LOCK_EX)\n\
                  open('locked', 'w').close()\ntime.sleep(120)\n";
    let _holder = Process::start(scratch.command(debian::program("python3", "python3"), &["-c", holder]));
    wait_until("the lock", || scratch.path("locked").exists().then_some(()));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send("x\r\n.\r\n");
    assert!(session.is_silent_for(Duration::from_secs(25)));
    session.expect("451 4.2.0 ");
    session.quit();
}

/// Many at once into one mailbox: each message whole, none in another.
#[test]
fn receivers_share_a_mailbox() {
    let scratch = Scratch::with_config(INBOX);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut session = scratch.greeted();
                for _ in 0..3 {
                    let reply = send_to_fred(&mut session, &text_of(20_000));
                    assert!(reply.starts_with("250 "), "{reply}");
                }
                session.quit();
            });
        }
    });
    let count = "import mailbox, sys\n\
                 bodies = [message.get_payload() for message in mailbox.mbox('inbox')]\n\
                 print(len(bodies), len(set(bodies)), len(bodies[0]))";
    let expected = with_lf(&text_of(20_000)).len() - "Subject: large\n\n".len();
    assert_eq!(scratch.python(count, &[]).trim(), format!("60 1 {expected}"));
}

/// Half a message that a crash left at the end is closed off, so that ours is a message of its own.
#[test]
fn a_torn_tail_is_closed_off() {
    const FROM_LINE: &str = "From a@b Sat Nov 21 01:32:50 2026\n";
    for (tail, closed) in [
        ("", "{}"),
        ("From a@b Sat Nov 21 01:32:50 2026\nSubject: whole\n\nwhole\n\n", "{}"),
        ("From a@b Sat Nov 21 01:32:50 2026\nSubject: torn\n\nhalf a li", "{}\n\n"),
        ("From a@b Sat Nov 21 01:32:50 2026\nSubject: torn\n\nhalf\n", "{}\n"),
        (FROM_LINE, "{}\n"),
        ("x", "{}\n\n"),
        ("\n", "{}\n"),
    ] {
        assert_closed(tail, closed);
    }
    assert_closed("Dear Bob,\n\nFrom now on it is 4711", "{}\n\n");
    assert_closed("Dear Bob,\n\nFrog", "{}\n\n");
    assert_closed("Dear Bob,\nFrom", "{}\n\n");
}

/// What ends inside its `From ` line would become a part of the message before it, which has its 250.
#[test]
fn a_torn_from_line_is_completed() {
    const FROM_LINE: &str = "From a@b Sat Nov 21 01:32:50 2026";
    let whole = format!("{FROM_LINE}\nSubject: whole\n\nwhole\n\n");
    for length in 1..=FROM_LINE.len() {
        let scratch = Scratch::with_config(INBOX);
        scratch.write("inbox", format!("{whole}{}", &FROM_LINE[..length]));
        let mut session = scratch.greeted();
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}");
        session.quit();
        let inbox = scratch.read("inbox");
        let messages: Vec<&str> = inbox.split("\n\nFrom ").collect();
        let [first, torn, last] = messages[..] else { panic!("after {length} bytes:\n{inbox}") };
        assert_eq!(format!("{first}\n\n"), whole);
        let words: Vec<&str> = torn.split_ascii_whitespace().collect();
        let [sender, _, _, _, time, year] = words[..] else { panic!("no `From ` line: {torn:?}") };
        assert!(["a@b", "a@", "a", "MAILER-DAEMON"].contains(&sender), "{torn:?}");
        assert_eq!((time.len(), year.len()), (8, 4), "{torn:?}");
        assert!(last.starts_with("sender@client.example "), "{last}");
    }
}

/// A file that ends like this is made into that, `{}` standing for what it was, before the next message is appended.
fn assert_closed(mailbox: &str, closed: &str) {
    let closed = closed.replace("{}", mailbox);
    let scratch = Scratch::with_config(INBOX);
    scratch.write("inbox", mailbox);
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    let inbox = scratch.read("inbox");
    assert!(inbox.starts_with(&format!("{closed}From sender@client.example ")), "after {mailbox:?}:\n{inbox}");
}

/// Other programs read back what was sent.
#[test]
fn mailboxes_are_readable_for_others() {
    let scratch = Scratch::with_config(INBOX);
    let mut session = scratch.greeted();
    let texts = [
        "Subject: one\r\n\r\nFrom here\r\n>From there\r\n",
        "no header at all\r\n",
        "\r\n",
        "Subject: four\r\n\r\nFrom \r\nFrom a@b Sat Nov 21 01:32:50 2026\r\n\r\n\r\n",
    ];
    for text in texts {
        let reply = send_to_fred(&mut session, text.as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
    }
    session.quit();
    let script = "import mailbox\n\
        for message in mailbox.mbox('inbox'):\n\
        \x20   print(message.get_from().split()[0], message['Return-Path'], message['Delivered-To'], message['Subject'],\n\
        \x20         repr(message.get_payload()), len(message.get_all('Received')))";
    let read = scratch.python(script, &[]);
    let about = "sender@client.example <sender@client.example> fred@mx.example";
    assert_eq!(
        read.lines().collect::<Vec<_>>(),
        [
            format!("{about} one '>From here\\n>>From there\\n' 1"),
            format!("{about} None 'no header at all\\n' 1"),
            format!("{about} None '' 1"),
            format!("{about} four '>From \\n>From a@b Sat Nov 21 01:32:50 2026\\n\\n\\n' 1"),
        ]
    );
    let formail = debian::program("procmail", "formail");
    let mut split = scratch.command(&formail, &["-s"]);
    split.arg(&formail).args(["-x", "Return-Path:"]);
    assert_eq!(succeeds(split, &scratch.read("inbox")), " <sender@client.example>\n".repeat(4));
}

/// Two recipients with one file get two copies, under one lock; also if the file has two names.
#[test]
fn recipients_share_a_file() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         deliver rcpt_to one@mx.example append inbox\n\
         deliver rcpt_to two@mx.example append ./inbox\n\
         deliver rcpt_to three@mx.example append link\n",
    );
    symlink("inbox", scratch.path("link")).unwrap();
    let mut session = scratch.greeted();
    let reply = session.deliver(&["one@mx.example", "two@mx.example", "three@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    let mut copies: Vec<String> = scratch
        .read("inbox")
        .lines()
        .filter_map(|line| line.strip_prefix("Delivered-To: "))
        .map(str::to_owned)
        .collect();
    copies.sort();
    assert_eq!(copies, ["one@mx.example", "three@mx.example", "two@mx.example"]);
}

/// Files that are no mailbox, or may lead anywhere, are not written to; the sender keeps the mail.
#[test]
fn odd_files_are_not_written_to() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndebug +\nlimit.smtp_failcmds 100\nlimit.smtp_commands 100\n\
         deliver rcpt_to folder@mx.example append folder\n\
         deliver rcpt_to missing@mx.example append no/such/folder\n\
         deliver rcpt_to fifo@mx.example append fifo\n\
         deliver rcpt_to foreign@mx.example append foreign\n\
         deliver rcpt_to behind@mx.example append ours/inbox\n\
         deliver rcpt_to maildir@mx.example maildir ours/maildir\n\
         deliver rcpt_to linked@mx.example append linked\n\
         deliver rcpt_to fred@mx.example append inbox\n",
    );
    std::fs::create_dir(scratch.path("folder")).unwrap();
    scratch.write("precious", "");
    std::fs::hard_link(scratch.path("precious"), scratch.path("linked")).unwrap();
    assert!(scratch.run("mkfifo", &["fifo"]).status.success());
    symlink("target", scratch.path("foreign")).unwrap();
    let mut names = vec!["folder", "missing", "fifo", "linked"];
    if is_root("a link of somebody else") {
        // Directly, and behind a link of ours to a folder in a folder that is a link.
        std::fs::create_dir_all(scratch.path("elsewhere/folder")).unwrap();
        symlink("elsewhere", scratch.path("theirs")).unwrap();
        symlink("theirs/folder", scratch.path("ours")).unwrap();
        for link in ["foreign", "theirs"] {
            std::os::unix::fs::lchown(scratch.path(link), Some(8), Some(8)).unwrap();
        }
        names.extend(["foreign", "behind", "maildir"]);
    }
    let mut session = scratch.greeted();
    for name in names {
        session.exchange("RSET", "250 ");
        let reply = session.deliver(&["fred@mx.example", &format!("{name}@mx.example")]);
        assert!(reply.starts_with("451 4.3.0 "), "{name}: {reply}");
        assert!(scratch.log().last().unwrap().starts_with("[192.0.2.7] ERROR: 451 "), "{name}");
    }
    session.quit();
    assert!(!scratch.path("target").exists());
    assert!(std::fs::read_dir(scratch.path("elsewhere/folder")).map_or(true, |mut names| names.next().is_none()));
    assert_eq!(scratch.read("precious"), "");
    assert_eq!(scratch.read("inbox"), "");
}

/// A user who may write a mailbox, and pass through its folder, but not list that.
#[test]
fn a_folder_that_cannot_be_read_does_not_matter() {
    if !is_root("becoming another user") {
        return;
    }
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to fred@mx.example append mail/inbox\n");
    std::fs::copy(MAILRECV, scratch.path("mailrecv")).unwrap();
    std::fs::create_dir(scratch.path("mail")).unwrap();
    scratch.write("mail/inbox", "");
    std::os::unix::fs::chown(scratch.path("mail/inbox"), Some(8), Some(8)).unwrap();
    scratch.write("log", "");
    std::os::unix::fs::chown(scratch.path("log"), Some(8), Some(8)).unwrap();
    for folder in ["", "mail"] {
        std::fs::set_permissions(scratch.path(folder), PermissionsExt::from_mode(0o711)).unwrap();
    }
    let user = ["--reuid", "8", "--regid", "8", "--clear-groups", "./mailrecv", "-c", "mailrecv.conf", "-l", "log"];
    let mut command = scratch.command("setpriv", &user);
    command.args(["--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    for copies in [1, 2] {
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 "), "{reply}: {:?}", scratch.log());
        assert_eq!(scratch.read("mail/inbox").matches("\nDelivered-To: ").count(), copies);
        session.exchange("RSET", "250 ");
    }
    session.quit();
}

/// Mail that is shown in a log file, or that nobody else wanted, is on the disk before the 250 is, and so is the name of
/// the file, which was not there. (What is appended and put into maildirs is the fault suite's affair.)
#[test]
fn shown_mail_and_dead_letters_are_synced() {
    for (config, syncs) in [
        ("deliver rcpt_to * print\nlogfile destination\n", ["syncfs(", "syncfs("]),
        ("deliver rcpt_to * print\nlogfile destination # kept\n", ["fdatasync(", "fdatasync("]),
        ("deadletter_file destination\nlogfile stderr\n", ["fdatasync(", "fsync("]),
    ] {
        let scratch = Scratch::with_config(&format!("domain mx.example\nlimit.fcrdns_check off\n{config}"));
        if config.contains("# kept") {
            scratch.write("destination", "an older line\n");
        }
        let options = ["-f", "-y", "-o", "calls", "-e", "trace=write,fsync,fdatasync,syncfs,sendto"];
        let mut command = scratch.command(debian::program("strace", "strace"), &options);
        command.args([MAILRECV, "-c", CONFIG, "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        session.quit();
        let calls = scratch.read("calls");
        let folder = std::fs::canonicalize(scratch.path("")).unwrap();
        let last = |what: &str, path: &std::path::Path| {
            let path = format!("<{}>", path.display());
            let is_it = |(_, call): &(usize, &str)| call.contains(what) && call.contains(&path);
            calls.lines().enumerate().filter(is_it).last().map(|(at, _)| at)
        };
        let file = folder.join("destination");
        let of_name = if syncs[1] == "fsync(" { &folder } else { &file };
        let accepted = calls.lines().position(|call| call.contains("250 2.0.0 Message accepted"));
        assert!(last("write(", &file) < last(syncs[0], &file), "{config}:\n{calls}");
        for synced in [last(syncs[0], &file), last(syncs[1], of_name)] {
            assert!(synced.is_some() && synced < accepted, "{config}:\n{calls}");
        }
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

/// A reader that is slow gets the time it needs.
#[test]
fn a_fifo_is_written_to_as_fast_as_it_is_read() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * append fifo\n");
    assert!(scratch.run("mkfifo", &["fifo"]).status.success());
    let mut reader = Process::start(scratch.command("sh", &["-c", "exec < fifo; sleep 1; cat > seen"]));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    let text = text_of(200_000);
    wait_until("a reader", || {
        std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(scratch.path("fifo")).ok()
    });
    session.send(&text);
    session.send("\r\n.\r\n");
    session.expect("250 ");
    session.quit();
    assert_eq!(reader.exit_code(), 0);
    assert!(scratch.read("seen").len() > text.len() * 9 / 10);
}

#[test]
fn a_new_mailbox_is_for_its_owner_only() {
    let scratch = Scratch::with_config(INBOX);
    let mut session = scratch.greeted();
    session.deliver(&["fred@mx.example"]);
    session.quit();
    assert_eq!(std::fs::metadata(scratch.path("inbox")).unwrap().permissions().mode() & 0o7777, 0o600);
}

/// DESIGN section 1: files are prepared, the command decides, then they are kept or taken back.
#[test]
fn a_command_that_fails_takes_the_files_back() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndebug +\n\
         deliver rcpt_to fred@mx.example append inbox\n\
         deliver rcpt_to wilma@mx.example append new\n\
         deliver rcpt_to mail@mx.example maildir dir\n\
         deliver rcpt_to command@mx.example pipe cat > /dev/null; cp inbox seen 2>&1; exit ${STATUS:-0}\n\
         deliver rcpt_to fails@mx.example pipe cat > /dev/null; cp inbox seen; exit 75\n",
    );
    let old = "From a@b Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n";
    scratch.write("inbox", old);
    let mut session = scratch.greeted();
    let all = ["fails@mx.example", "fred@mx.example", "mail@mx.example", "wilma@mx.example"];
    let reply = session.deliver(&all);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    assert!(scratch.read("seen").len() > old.len(), "prepared before the command ran");
    assert_eq!(scratch.read("inbox"), old);
    assert_eq!(scratch.read("new"), "");
    assert_eq!(messages_in(&scratch, "dir"), 0);
    assert_eq!(scratch.log().len(), 1, "no line says `delivered`");

    let all = ["command@mx.example", "fred@mx.example", "mail@mx.example", "wilma@mx.example"];
    let reply = session.deliver(&all);
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    session.quit();
    assert_eq!(scratch.read("inbox").matches("Delivered-To: fred@mx.example\n").count(), 1);
    assert_eq!(scratch.read("new").matches("\nDelivered-To: wilma@mx.example\n").count(), 1);
    assert_eq!(messages_in(&scratch, "dir"), 1);
    let delivered = scratch.log().into_iter().filter(|line| line.ends_with(": delivered")).count();
    assert_eq!(delivered, 4);
}

/// How many files lie in the folders of a maildir, also those that should not be there.
fn messages_in(scratch: &Scratch, folder: &str) -> usize {
    let count = |part: &str| std::fs::read_dir(scratch.path(folder).join(part)).map_or(0, Iterator::count);
    count("new") + count("cur") + count("tmp")
}

// The message for people.

#[test]
fn print_shows_the_message_in_the_log_without_its_teeth() {
    let scratch = Scratch::with_config("domain mx.example\ndebug +\ndeliver rcpt_to * print\n");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send(b"Subject: \x1b]0;title\x07\r\n\r\n[8.8.8.8] ERROR: 550 No one here\r\n\xffgr\xc3\xbc\xc3\x9fe\r\n\r\nlast\r\n.\r\n");
    let reply = session.expect("250 2.0.0 ");
    session.quit();
    let id = reply.rsplit_once("id=").unwrap().1;
    assert_eq!(
        scratch.log(),
        [
            "[192.0.2.7] | === NEW EMAIL ===",
            &format!("[192.0.2.7] | Id: {id}"),
            "[192.0.2.7] | From: <sender@client.example>",
            "[192.0.2.7] | To: <fred@mx.example>",
            "[192.0.2.7] | Subject: <0x1b><0x5d>0;title<0x07>",
            "[192.0.2.7] | ",
            "[192.0.2.7] | <0x5b>8.8.8.8<0x5d> ERROR: 550 No one here",
            "[192.0.2.7] | <0xff>grüße",
            "[192.0.2.7] | ",
            "[192.0.2.7] | last",
            "[192.0.2.7] | ========================================",
            &format!(
                "[192.0.2.7] Mail id={id} from=<sender@client.example> to=<fred@mx.example> size=75 print: delivered"
            ),
        ]
    );
}

/// With the log on a full disk there is nowhere to print to: the sender keeps the mail.
#[test]
fn print_that_cannot_be_shown_is_no_delivery() {
    let scratch = Scratch::with_config("deliver rcpt_to * print\n");
    let mut command = scratch.command(MAILRECV, &["-c", "mailrecv.conf", "-l", "/dev/full"]);
    command.args(["--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with('4'), "{reply}");
    session.quit();
}

/// What was shown and then refused is said to be refused.
#[test]
fn print_says_what_became_of_a_message() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to fred@mx.example print\n\
         deliver rcpt_to fails@mx.example pipe cat > /dev/null; exit 75\n",
    );
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fails@mx.example", "fred@mx.example"]);
    assert!(reply.starts_with("451 "), "{reply}");
    let log = scratch.log();
    assert!(log[log.len() - 2].starts_with("[192.0.2.7] | === NOT DELIVERED: "), "{log:?}");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert_eq!(scratch.log().iter().filter(|line| line.contains("NOT DELIVERED")).count(), 1);
}

// Peers that vanish, and ends.

/// A peer that goes away in the middle of a message, with a FIN or with a RST: nothing is delivered, one line in the log
/// says so, and it is no fault of ours.
#[test]
fn a_peer_that_vanishes_leaves_nothing() {
    let scratch = Scratch::with_config(INBOX);
    let parts: [&[u8]; 5] =
        [b"", b"Subject: x\r\n", b"Subject: x\r\n\r\nbody\r\n.", b"Subject: x\r\n.\r", &text_of(600_000)];
    for part in parts {
        for reset in [false, true] {
            let before = scratch.log().len();
            let mut session = scratch.greeted();
            session.begin_message(&["fred@mx.example"]);
            session.send(part);
            // So that the text is there before the connection breaks.
            std::thread::sleep(Duration::from_millis(50));
            let mut process = if reset { session.reset() } else { session.hang_up() };
            assert_eq!(process.exit_code(), 0);
            assert!(!scratch.path("inbox").exists());
            let log = scratch.log();
            assert_eq!(log.len(), before + 1, "{log:?}");
            assert!(log[before].starts_with("[192.0.2.7] WARNING: the "), "{log:?}");
            assert!(log[before].ends_with("; nothing was delivered of the message it had begun"), "{log:?}");
        }
    }
}

/// What was answered with 250 stays, whatever the peer does after it, and the log of that session says that it may come
/// again (RFC 1047).
#[test]
fn a_peer_that_vanishes_after_the_message_has_delivered_it() {
    let scratch =
        Scratch::with_config("domain mx.example\ndeliver rcpt_to fred@mx.example pipe sleep 1; cat >> inbox\n");
    for reset in [false, true] {
        for reads_the_reply in [true, false] {
            let before = (scratch.log().len(), delivered_to_inbox(&scratch));
            let mut session = scratch.greeted();
            session.begin_message(&["fred@mx.example"]);
            session.send("x\r\n.\r\n");
            if reads_the_reply {
                session.expect("250 ");
            }
            let mut process = if reset { session.reset() } else { session.hang_up() };
            assert_eq!(process.exit_code(), 0);
            assert_eq!(delivered_to_inbox(&scratch), before.1 + 1);
            let log = scratch.log();
            assert_eq!(log.len(), before.0 + 1, "{log:?}");
            assert!(log[before.0].starts_with("[192.0.2.7] WARNING: the "), "{log:?}");
            assert!(
                log[before.0].ends_with(" is delivered, but if the peer has not read that it will send it again"),
                "{log:?}"
            );
        }
    }
}

fn delivered_to_inbox(scratch: &Scratch) -> usize {
    if scratch.path("inbox").exists() { scratch.read("inbox").matches("\nDelivered-To: ").count() } else { 0 }
}

/// A peer that is gone before the greeting, or that never says anything.
#[test]
fn a_peer_that_only_connects_is_nothing_to_write_about() {
    let scratch = Scratch::with_config(INBOX);
    assert_eq!(scratch.session(&["--peer", PEER]).hang_up().exit_code(), 0);
    assert_eq!(scratch.session(&["--peer", PEER]).reset().exit_code(), 0);
    assert_eq!(scratch.greeted().reset().exit_code(), 0);
    assert_eq!(scratch.log(), Vec::<String>::new());
}

/// SIGTERM: 421 where nothing is half done.
#[test]
fn a_request_to_stop_is_answered_at_the_next_safe_point() {
    let scratch = Scratch::with_config(&format!("{INBOX}deliver rcpt_to slow@mx.example pipe sleep 1; cat > slow\n"));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // Idle.
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        kill(session.pid(), signal).unwrap();
        assert_eq!(session.reply(), "421 4.3.2 mx.example is shutting down, try again later");
        assert_eq!(session.line(), None);
        assert_eq!(session.end().1, 0);
        // In the middle of a message.
        let mut session = scratch.greeted();
        session.begin_message(&["fred@mx.example"]);
        session.send("Subject: x\r\n");
        std::thread::sleep(Duration::from_millis(50));
        kill(session.pid(), signal).unwrap();
        session.expect("421 4.3.2 ");
        assert_eq!(session.line(), None);
        assert_eq!(session.end().1, 0);
        assert!(!scratch.path("inbox").exists());
    }
    // During a delivery: it is brought to its end and answered, then the session ends.
    let mut session = scratch.greeted();
    session.begin_message(&["slow@mx.example", "fred@mx.example"]);
    session.send("Subject: x\r\n.\r\n");
    std::thread::sleep(Duration::from_millis(300));
    kill(session.pid(), Signal::SIGTERM).unwrap();
    session.expect("250 2.0.0 ");
    session.expect("421 4.3.2 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.end().1, 0);
    assert!(scratch.read("slow").contains("Subject: x\n"));
    assert!(scratch.read("inbox").contains("Subject: x\n"));
}

/// `limit.idle_secs` is the time for one command, however its bytes are spread (DESIGN section 4).
#[test]
fn a_command_that_trickles_in_is_as_good_as_none() {
    let scratch = Scratch::with_config("limit.idle_secs 2\nlimit.connection_secs 20\n");
    let mut session = scratch.greeted();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        session.send("N");
        if !session.is_silent_for(Duration::from_millis(400)) {
            break;
        }
    }
    let time = start.elapsed();
    session.expect("421 Idle for too long.");
    assert!((1.5..4.5).contains(&time.as_secs_f64()), "after {time:?}");
}

/// A delivery is not cut short by the end of the connection's time, which comes behind it.
#[test]
fn the_connection_ends_behind_a_delivery() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.connection_secs 1\n\
         deliver rcpt_to command@mx.example pipe sleep 2; cat > piped\ncopy rcpt_to command@mx.example append inbox\n",
    );
    let mut session = scratch.greeted();
    let reply = session.deliver(&["command@mx.example"]);
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    session.expect("421 4.4.2 ");
    assert_eq!(session.line(), None);
    for copy in ["piped", "inbox"] {
        assert!(scratch.read(copy).contains("\nDelivered-To: command@mx.example\n"), "{copy}");
    }
}

/// The text of a message that moves is not idle; `limit.connection_secs` ends it all the same.
#[test]
fn data_that_trickles_in_is_bounded_by_the_connection() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.idle_secs 2\nlimit.connection_secs 4\n"));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        session.send("x");
        if !session.is_silent_for(Duration::from_millis(500)) {
            break;
        }
    }
    let time = start.elapsed();
    session.expect("421 4.4.2 Connection timeout.");
    assert!((3.0..7.0).contains(&time.as_secs_f64()), "after {time:?}");
    assert!(!scratch.path("inbox").exists());
}

/// A peer that sends commands and never reads the replies is given up, and costs no memory.
#[test]
fn a_peer_that_does_not_read_is_given_up() {
    let scratch = Scratch::with_config("limit.smtp_commands 1000000000\nlimit.idle_secs 2\nlimit.connection_secs 5\n");
    let mut session = scratch.greeted();
    let pid = session.pid();
    let start = Instant::now();
    session.send_without_reading(&b"HELP\r\n".repeat(1_000_000), Duration::from_secs(10));
    let memory = peak_memory(pid);
    let mut process = session.hang_up();
    assert_eq!(process.exit_code(), 0);
    assert!(start.elapsed() < Duration::from_secs(15), "took {:?}", start.elapsed());
    if let Some(memory) = memory {
        assert!(memory < 8 * 1024, "{memory} KiB");
    }
}

// Large messages.

/// 5 MB and 50 MB arrive as they were sent, in a file and through a command, in less than 8 MiB of memory.
#[test]
fn large_messages_arrive_whole_in_little_memory() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.smtp_data_size 0\n\
         deliver rcpt_to fred@mx.example append inbox\n\
         deliver rcpt_to command@mx.example pipe cat > piped\n\
         deliver rcpt_to mail@mx.example maildir dir\n",
    );
    for size in [5_000_000, 50_000_000] {
        let text = text_of(size);
        let expected = with_lf(&text);
        for (recipient, file) in [("fred@mx.example", "inbox"), ("command@mx.example", "piped")] {
            let mut session = scratch.greeted();
            session.begin_message(&[recipient]);
            session.send(&text);
            session.send(".\r\n");
            session.expect("250 2.0.0 ");
            let memory = peak_memory(session.pid()).expect("a running process");
            session.quit();
            assert!(memory < 8 * 1024, "{file}, {size}: {memory} KiB");
            let delivered = std::fs::read(scratch.path(file)).unwrap();
            let header =
                delivered.windows(b"Subject: large".len()).position(|window| window == b"Subject: large").unwrap();
            let body = &delivered[header..];
            let end: &[u8] = if file == "inbox" { b"\n" } else { b"" };
            assert!(body.len() == expected.len() + end.len() && body.starts_with(&expected), "{file}, {size}");
            std::fs::remove_file(scratch.path(file)).unwrap();
        }
    }
}

/// One line without an end, a header of one line, a million header lines: memory does not grow with them.
#[test]
fn odd_shapes_of_messages_take_little_memory() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.smtp_data_size 0\n"));
    let shapes = [
        [b"Subject: x\r\n\r\n".to_vec(), vec![b'x'; 10_000_000], b"\r\n".to_vec()].concat(),
        [b"Subject: ".to_vec(), vec![b'x'; 10_000_000], b"\r\n".to_vec()].concat(),
        b"X-Header: y\r\n".repeat(1_000_000),
        b"\r\n".repeat(2_000_000),
        b">From \r\n".repeat(1_000_000),
    ];
    for text in shapes {
        let mut session = scratch.greeted();
        let reply = send_to_fred(&mut session, &text);
        assert!(reply.starts_with("250 "), "{reply}");
        let memory = peak_memory(session.pid()).expect("a running process");
        session.quit();
        assert!(memory < 8 * 1024, "{memory} KiB");
        std::fs::remove_file(scratch.path("inbox")).unwrap();
    }
}

// Beforehand.

/// `explain` shows the decision, the reply, the log line and the destination, and does nothing.
#[test]
fn explain_says_what_would_happen() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         allowgroup +lists ^lists\\.example\\.org$\n\
         allowgroup +lists net 2001:db8:25::/48\n\
         deliver allowgroup +lists rcpt_to archive@mx.example pipe touch was-run\n\
         error rcpt_to ^fred@ 550 Fred has left us\n\
         deliver rcpt_to *@mx.example append inbox\n\
         copy rcpt_to /^wilma/ append copies\n\
         error mail_from @spam\\.example$ 451 Not now\n\
         logfile log\n",
    );
    let explain = |arguments: &[&str]| {
        let output = scratch.run(MAILRECV, &[&["-c", "mailrecv.conf", "explain"], arguments].concat());
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };

    let (status, text) = explain(&["--peer", "192.0.2.7=mail.example.net", "--rcpt", "wilma@mx.example"]);
    assert_eq!(status, 0);
    for line in [
        "peer mail.example.net [192.0.2.7]",
        "  reply: 250 2.1.0 Sender ok",
        "  line 5: error rcpt_to: 'wilma@mx.example' does not match '^fred@'",
        "  line 6: deliver rcpt_to: 'wilma@mx.example' matches '*@mx.example'",
        "  reply: 250 2.1.5 Recipient ok",
        "destination: append 'inbox' (line 6)",
        "destination: append 'copies' (line 7)",
        "  log:   nothing, without debug flag +",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} is missing:\n{text}");
    }

    // Refused: the line that the log would have is the one that the log does have.
    let arguments = ["--peer", PEER, "--from", "a@b.example", "--rcpt", "fred@mx.example"];
    let (status, text) = explain(&arguments);
    assert_eq!(status, 1);
    assert!(
        text.contains(
            "  line 5: error rcpt_to: 'fred@mx.example' matches '^fred@'\n  reply: 550 5.1.1 Fred has left us\n"
        ),
        "{text}"
    );
    let logged = text.lines().find_map(|line| line.strip_prefix("  log:   ")).expect("the log line");
    assert!(!scratch.path("log").exists(), "explain logs nothing");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "550 5.1.1 Fred has left us");
    session.quit();
    assert_eq!(logged.split_once("]: ").unwrap().1, scratch.log()[0]);

    // Accepted: the same, with the flag that logs deliveries, but for the name and the size of the message.
    scratch.write("mailrecv.conf", scratch.read("mailrecv.conf") + "debug +\n");
    let (_, text) = explain(&["--peer", PEER, "--from", "a@b.example", "--rcpt", "jim@mx.example"]);
    assert!(!scratch.path("inbox").exists(), "explain delivers nothing");
    let explained = text.lines().find_map(|line| line.strip_prefix("  log:   ")).expect("the log line");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<jim@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: x\r\n.", "250 ");
    session.quit();
    let logged = scratch.log().last().unwrap().clone();
    let known = |line: &str| {
        let line = line.split_once("Mail id=").unwrap().1;
        line.split(' ').filter(|word| !word.starts_with("size=")).skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(known(explained), known(&logged), "{explained}\n{logged}");

    // Groups, by name, by network, and neither.
    let archive = |peer: &str| explain(&["--peer", peer, "--rcpt", "archive@mx.example"]);
    let (status, text) = archive("203.0.113.1=lists.example.org");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("\ndestination: pipe 'touch was-run' (line 4)\n"), "{text}");
    let (status, text) = archive("2001:db8:25::1");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("net 2001:db8:25::/48: 2001:db8:25::1 is inside\n"), "{text}");
    assert!(
        text.contains("a peer without a confirmed name is refused: 450 Failed FcrDNS, try again later\n"),
        "{text}"
    );
    let (status, text) = archive(PEER);
    assert_eq!(status, 1);
    assert!(text.contains("+lists: no member fits mail.example.net [192.0.2.7]\n"), "{text}");
    assert!(text.contains("  reply: 550 5.7.1 Remote not configured to deliver for this address\n"), "{text}");

    let (status, text) = explain(&["--peer", PEER, "--from", "a@spam.example", "--rcpt", "wilma@mx.example"]);
    assert_eq!(status, 1);
    assert!(text.contains("  reply: 451 4.7.1 Not now\n"), "{text}");
    let (status, text) = explain(&["--peer", PEER, "--rcpt", "no address"]);
    assert_eq!(status, 1);
    assert!(text.contains("  reply: 501 5.1.3 "), "{text}");
    assert!(!scratch.path("was-run").exists());
}

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
