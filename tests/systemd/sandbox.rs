//! The program's own sandbox inside the units' confinement, and how tight that is.

use testkit::LOOPBACK;

use crate::support::{CONFIG, Installation, Pair, SERVICE, config_with};

/// `check -v`, run where the service runs, tries the sandbox that sessions have there; and they do their work in it.
#[test]
fn the_sandbox_is_there() {
    for pair in Pair::ALL {
        // To the journal: standard output may be the peer.
        let check = "ExecStartPre=/bin/sh -c 'exec /usr/sbin/mailrecv -c /etc/mailrecv.conf check -v >&2'";
        let installation = Installation::boot_with(pair, CONFIG, check);
        for level in ["sandbox on", "sandbox strict", "sandbox strict required"] {
            installation.configure(&config_with(level));
            installation.machine.systemctl(&["stop", SERVICE]);
            let mut peer = installation.connect(LOOPBACK[0]);
            peer.expect("220 ");
            for destination in ["append", "maildir", "pipe"] {
                peer.deliver_subject(&format!("{destination}@mail.example.com"), level);
            }
            peer.exchange("QUIT", "221 ");
        }
        for mailbox in ["append", "pipe"] {
            let mail = installation.read(&format!("/var/mail/{mailbox}"));
            assert_eq!(mail.matches("\nSubject: sandbox ").count(), 3, "{pair:?}: {mail}");
        }
        let journal = installation.machine.journal(&["--output=cat"]);
        let tried: Vec<&str> = journal.lines().filter(|line| line.starts_with("Tried on this system: ")).collect();
        assert_eq!(tried, ["Tried on this system: all of it is enforced"; 3], "{pair:?}: {journal}");
        let is_strict = |line: &&str| line.contains("and no system call but those of a list");
        assert_eq!(journal.lines().filter(is_strict).count(), 2, "{pair:?}: {journal}");
        assert!(!journal.contains("WARNING: "), "{pair:?}: {journal}");
    }
}

/// On systemd's scale from 0 to 10, most daemons are beyond 9. In tenths. Asked of the systemd that runs it.
#[test]
fn the_service_is_exposed_to_little() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    installation.deliver("first");
    installation.machine.run("systemd-analyze", &["security", "--no-pager", "--threshold=15", SERVICE]);
}
