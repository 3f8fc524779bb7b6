//! The journal: whose the lines are, and what becomes of mail and of lines when it stops.

use testkit::{Client, LOOPBACK};

use crate::support::{CONFIG, Installation, Pair, config_with};

/// What reads the journal finds the lines of sessions by these fields.
#[test]
fn lines_have_their_fields() {
    for pair in Pair::ALL {
        let installation = Installation::boot(pair, CONFIG);
        let mut peer = installation.peer(2);
        peer.expect("220 ");
        peer.offer("nobody@mail.example.com");
        let line = "[127.0.0.2] ERROR: 550 No one here by that name 'nobody@mail.example.com'";
        installation.wait_for_line(line);
        let group = match pair {
            Pair::OneService => "_SYSTEMD_UNIT=mailrecv.service",
            Pair::PerConnection => r"_SYSTEMD_SLICE=system-mailrecv\x2dpercon.slice",
        };
        // 8 is Debian's `mail`.
        let fields = ["SYSLOG_IDENTIFIER=MAILRECV", "SYSLOG_FACILITY=2", "PRIORITY=3", "_UID=8", group];
        let found = installation.machine.journal(&[&["--output=cat"][..], &fields].concat());
        assert_eq!(found.lines().filter(|found| *found == line).count(), 1, "{pair:?}: {found}");
    }
}

/// Stopped: nobody listens where lines go. Mail goes on, and lines come again when the journal does, of old sessions and
/// of those that began meanwhile.
#[test]
fn mail_goes_on_while_the_journal_is_stopped() {
    for pair in Pair::ALL {
        let installation = Installation::boot(pair, CONFIG);
        let mut before = greeted(&installation);
        refuse(&mut before, "one");
        installation.machine.systemctl(&[&["stop"], &JOURNAL[..]].concat());
        refuse(&mut before, "lost");
        let mut meanwhile = greeted(&installation);
        refuse(&mut meanwhile, "lost");
        deliver(&mut before, "before");
        deliver(&mut meanwhile, "meanwhile");
        installation.machine.systemctl(&[&["start"], &JOURNAL[..]].concat());
        for (peer, name) in [(&mut before, "two"), (&mut meanwhile, "three"), (&mut greeted(&installation), "four")] {
            refuse(peer, name);
            installation.wait_for_line(&format!("'{name}@mail.example.com'"));
        }
        let journal = installation.machine.journal(&[]);
        assert!(!journal.contains("'lost@mail.example.com'"), "{pair:?}: it was not stopped: {journal}");
        // Where systemd cannot give a session the journal as standard error, it gives it /dev/null, which takes all.
        let who_noticed = if pair == Pair::OneService { 2 } else { 1 };
        let lost = journal.matches("WARNING: lines that were lost before this one: 1\n").count();
        assert_eq!(lost, who_noticed, "{pair:?}: {journal}");
        assert_eq!(installation.subjects().len(), 2, "{pair:?}");
    }
}

/// Stuck: lines wait in its socket until that is full.
#[test]
fn mail_goes_on_while_the_journal_is_stuck() {
    for pair in Pair::ALL {
        let installation = Installation::boot(pair, &config_with("debug a\nlimit.smtp_commands 10000"));
        let mut before = greeted(&installation);
        let signal = |name: &str| {
            installation.machine.systemctl(&["kill", &format!("--signal={name}"), "systemd-journald.service"])
        };
        signal("STOP");
        // More than any socket has room for.
        (0..MORE_THAN_FITS).for_each(|_| _ = before.exchange("NOOP", "250 "));
        deliver(&mut before, "before");
        let mut meanwhile = greeted(&installation);
        refuse(&mut meanwhile, "lost");
        deliver(&mut meanwhile, "meanwhile");
        signal("CONT");
        // Once it has come to what waits in its socket.
        installation.machine.journal(&["--lines=0"]);
        for (peer, name) in [(&mut before, "two"), (&mut meanwhile, "three"), (&mut greeted(&installation), "four")] {
            refuse(peer, name);
            installation.wait_for_line(&format!("'{name}@mail.example.com'"));
        }
        let journal = installation.machine.journal(&[]);
        assert!(journal.contains("WARNING: lines that were lost before this one: "), "{pair:?}: {journal}");
        assert_eq!(installation.subjects().len(), 2, "{pair:?}");
    }
}

fn greeted(installation: &Installation) -> Client {
    let mut peer = installation.connect(LOOPBACK[0]);
    peer.expect("220 ");
    peer.exchange("EHLO client.example", "250-");
    peer
}

/// Something for the log.
fn refuse(peer: &mut Client, name: &str) {
    peer.exchange("MAIL FROM:<a@b.example>", "250 ");
    peer.exchange(&format!("RCPT TO:<{name}@mail.example.com>"), "550 ");
    peer.exchange("RSET", "250 ");
}

fn deliver(peer: &mut Client, subject: &str) {
    peer.deliver_subject("append@mail.example.com", subject);
}

/// What takes lines; the sockets would start it again.
const JOURNAL: [&str; 4] = [
    "systemd-journald-audit.socket",
    "systemd-journald-dev-log.socket",
    "systemd-journald.socket",
    "systemd-journald.service",
];

const MORE_THAN_FITS: usize = 1_000;
