//! What both pairs of units do alike.

use testkit::LOOPBACK;

use crate::support::{CONFIG, Pair, boot, connect};

#[test]
fn mail_arrives_over_ipv4_and_ipv6() {
    for pair in Pair::ALL {
        let machine = boot(pair, CONFIG);
        for address in LOOPBACK {
            let mut peer = connect(&machine, address);
            peer.reply();
            for destination in ["append", "maildir", "pipe"] {
                peer.deliver_subject(&format!("{destination}@mail.example.com"), &format!("{destination} {address}"));
            }
            peer.exchange("QUIT", "221");
        }
        for destination in ["append", "pipe"] {
            let mail = std::fs::read_to_string(machine.root().join("var/mail").join(destination)).unwrap();
            assert_eq!(mail.matches(&format!("\nSubject: {destination} ")).count(), 2, "{pair:?}: {mail}");
        }
        let maildir = std::fs::read_dir(machine.root().join("var/mail/maildir/new")).unwrap();
        assert_eq!(maildir.count(), 2, "{pair:?}");
    }
}
