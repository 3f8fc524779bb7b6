//! fail2ban, as Debian installs it, with the shipped filter and jail, reads the journal.

use std::fs;

use testkit::repository::{self, replaced};
use testkit::wait_until;

use crate::support::{CONFIG, Installation, Pair};

/// By either of the fields that the filter suggests, and also where the journal comes to a line only when its session is
/// over: then it knows of a process what came with the line, and no unit.
#[test]
fn it_bans_from_the_journal() {
    for pair in Pair::ALL {
        for journalmatch in suggestions() {
            let installation = Installation::boot(pair, CONFIG);
            let needed = start(&installation, &journalmatch);
            // Another one's mail is no reason.
            installation.deliver("[127.0.0.3] ERROR: 550 No one here");
            let journal =
                |signal| installation.machine.systemctl(&["kill", "--signal", signal, "systemd-journald.service"]);
            journal("STOP");
            (1..needed).for_each(|_| refusal(&installation));
            journal("CONT");
            let log = || installation.read("/var/log/fail2ban.log");
            wait_until(&format!("all refusals but one, {pair:?}, {journalmatch}"), || {
                (log().matches("] Found 127.0.0.2 ").count() == needed - 1).then_some(())
            });
            assert_eq!(installation.read(BANNED), "", "{pair:?} {journalmatch}: {}", log());
            refusal(&installation);
            wait_until("the ban", || (!installation.read(BANNED).is_empty()).then_some(()));
            assert_eq!(installation.read(BANNED), "127.0.0.2\n", "{pair:?} {journalmatch}: {}", log());
        }
    }
}

/// A session with one, whose end is waited for.
fn refusal(installation: &Installation) {
    let mut peer = installation.peer(2);
    peer.expect("220 ");
    assert!(peer.offer("nobody@mail.example.com").starts_with("550 "));
    peer.exchange("QUIT", "221 ");
    assert_eq!(peer.rest(), "");
}

/// The filter's `journalmatch`, and those in its comments.
fn suggestions() -> Vec<String> {
    let filter = repository::text("etc/fail2ban/filter.d/mailrecv.conf");
    let lines = filter.lines().map(|line| line.trim_start_matches("# "));
    let found: Vec<String> = lines.filter(|line| line.starts_with("journalmatch = ")).map(str::to_owned).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    found
}

/// Starts fail2ban with the jail set to the journal, and an action that writes down who was banned; how many refusals that
/// takes.
fn start(installation: &Installation, journalmatch: &str) -> usize {
    let jail = repository::text("etc/fail2ban/jail.d/mailrecv.conf");
    let needed = jail.lines().find_map(|line| line.strip_prefix("maxretry = ")).unwrap().parse().unwrap();
    let files = "backend  = auto\nlogpath  = /var/log/mailrecv.log\n           /var/log/mail.log\n";
    let jail = replaced(&jail, &[(files, ""), ("#backend", "backend"), ("#logpath", "logpath")]);
    let filter = repository::text("etc/fail2ban/filter.d/mailrecv.conf");
    let (rest, _) = filter.rsplit_once("\njournalmatch = ").expect("the last line");
    for (name, text) in [
        ("jail.d/mailrecv.conf", jail),
        ("filter.d/mailrecv.conf", format!("{rest}\n{journalmatch}\n")),
        ("jail.local", "[DEFAULT]\naction = record\n\n[sshd]\nenabled = false\n".to_owned()),
        ("action.d/record.conf", format!("[Definition]\nactionban = echo <ip> >>{BANNED}\n")),
    ] {
        fs::write(installation.path(&format!("/etc/fail2ban/{name}")), text).unwrap();
    }
    installation.machine.systemctl(&["start", "fail2ban.service"]);
    wait_until("the jail", || {
        installation.read("/var/log/fail2ban.log").contains("Jail 'mailrecv' started").then_some(())
    });
    needed
}

const BANNED: &str = "/var/log/banned";
