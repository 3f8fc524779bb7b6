//! What both pairs of units do alike: mail, refusals, mistakes in the configuration. And what an edit, a new binary and
//! a reload do to the one service.

use std::fs;

use testkit::{LOOPBACK, debian, repository, succeeds, wait_until};

use crate::support::{CONFIG, Installation, Pair, SERVICE, config_with};

#[test]
fn mail_arrives_over_ipv4_and_ipv6() {
    for pair in Pair::ALL {
        let installation = Installation::boot(pair, CONFIG);
        for address in LOOPBACK {
            let mut peer = installation.connect(address);
            peer.expect("220 ");
            for destination in ["append", "maildir", "pipe"] {
                peer.deliver_subject(&format!("{destination}@mail.example.com"), &format!("{destination} {address}"));
            }
            peer.exchange("QUIT", "221 ");
        }
        assert_all_arrived(&installation, pair);
        installation.assert_nothing_failed();
    }
}

/// Two mails each in `append`, `maildir` and `pipe`, one over IPv4 and one over IPv6.
fn assert_all_arrived(installation: &Installation, pair: Pair) {
    let messages = fs::read_dir(installation.path("/var/mail/maildir/new")).unwrap().map(|entry| entry.unwrap().path());
    let maildir: String = messages.map(|message| fs::read_to_string(message).unwrap()).collect();
    let [append, pipe] = ["append", "pipe"].map(|name| installation.read(&format!("/var/mail/{name}")));
    for (destination, mail) in [("append", append), ("maildir", maildir), ("pipe", pipe)] {
        for address in LOOPBACK {
            let subject = format!("\nSubject: {destination} {address}\n");
            assert_eq!(mail.matches(&subject).count(), 1, "{pair:?}: {mail}");
        }
    }
}

#[test]
fn refusals_are_told_and_logged() {
    for pair in Pair::ALL {
        let installation = Installation::boot(pair, CONFIG);
        let mut peer = installation.peer(2);
        peer.expect("220 ");
        assert!(peer.offer("nobody@mail.example.com").starts_with("550 5.1.1 "), "{pair:?}");
        let mut denied = installation.peer(66);
        denied.expect("220 ");
        denied.exchange("EHLO client.example", "550 ");
        assert_eq!(denied.rest(), "");
        installation.wait_for_line("[127.0.0.2] ERROR: 550 No one here by that name 'nobody@mail.example.com'");
        installation.wait_for_line("[127.0.0.66] ERROR: 550 Cannot receive messages from");
        peer.exchange("QUIT", "221 ");
    }
}

/// Peers are put off, the journal says why, and no unit is failed; mended, the next connection delivers.
#[test]
fn a_broken_configuration_is_told_until_it_is_mended() {
    for pair in Pair::ALL {
        // Broken before the service was ever started, and then while it runs.
        let installation = Installation::boot(pair, &config_with("delivr rcpt_to a@example.com discard"));
        for line in [1, 2] {
            for _ in 0..3 {
                let said = installation.connect(LOOPBACK[0]).rest();
                assert!(said.starts_with("421 4.3.5 ") && said.lines().count() == 1, "{pair:?}: {said}");
            }
            installation.wait_for_line(&format!("[127.0.0.1] ERROR: /etc/mailrecv.conf:{line}:1: error: "));
            installation.assert_nothing_failed();
            assert_eq!(installation.machine.property(pair.socket(), "ActiveState"), "active", "{pair:?}");
            if pair == Pair::OneService {
                assert_eq!(installation.machine.property(SERVICE, "ActiveState"), "active");
            }
            installation.configure(CONFIG);
            installation.deliver(&format!("mended {line}"));
            installation.configure(&config_with("\ndelivr rcpt_to a@example.com discard"));
        }
        assert_eq!(installation.subjects().into_values().collect::<Vec<_>>(), [1, 1], "{pair:?}");
        installation.assert_nothing_failed();
    }
}

/// A reload changes nothing and says so. What was edited or installed holds from the next connection; sessions go on.
#[test]
fn nothing_needs_a_reload() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    let machine = &installation.machine;
    let mut old = installation.connect(LOOPBACK[0]);
    old.expect("220 mail.example.com ");
    let process = installation.main_process();

    machine.systemctl(&["reload", SERVICE]);
    installation.wait_for_line("MAILRECV[");
    installation
        .wait_for_line("[listen] INFO: nothing to reload: each connection reads the configuration as it is then");
    assert_eq!(machine.property(SERVICE, "StatusText"), "Accepting connections");

    installation.configure(&config_with("delivr rcpt_to a@example.com discard"));
    machine.systemctl(&["reload", SERVICE]);
    installation.wait_for_line("[listen] ERROR: /etc/mailrecv.conf:1:1: error: ");
    let told = "No mail is taken, errors in /etc/mailrecv.conf: 1";
    wait_until("the status", || (machine.property(SERVICE, "StatusText") == told).then_some(()));
    assert!(machine.systemctl(&["status", SERVICE]).contains(&format!("Status: \"{told}\"")));

    installation.configure(&CONFIG.replace("domain mail.example.com", "domain new.example.com"));
    installation.connect(LOOPBACK[0]).expect("220 new.example.com ");
    // As packages are installed.
    installation.write_over("/usr/sbin/mailrecv", "#!/bin/sh\nprintf '220 another version\\r\\n'\n");
    assert_eq!(installation.connect(LOOPBACK[0]).rest(), "220 another version\r\n");

    old.deliver_subject("append@mail.example.com", "from before");
    old.exchange("QUIT", "221 ");
    assert_eq!(installation.subjects().into_keys().collect::<Vec<_>>(), ["from before"]);
    assert_eq!(installation.main_process(), process);
    installation.assert_nothing_failed();
}

/// As mailrecv(8) has it, with the restrictions of the unit: sessions are counted for who asks at a second socket, and in a
/// file.
#[test]
fn metrics_of_a_second_socket() {
    let installation =
        Installation::boot(Pair::OneService, &config_with("metrics_file /var/mail/metrics\nsandbox strict\n"));
    let page = repository::text("etc/man/mailrecv.8");
    let (_, behind) = page.split_once("\n.Pa mailrecv-metrics.socket ,\n").unwrap();
    let (_, unit) = behind.split_once("-offset indent\n").unwrap();
    let (unit, _) = unit.split_once(".Ed").unwrap();
    fs::write(installation.path("/etc/systemd/system/mailrecv-metrics.socket"), unit).unwrap();
    installation.machine.systemctl(&["daemon-reload"]);
    installation.machine.systemctl(&["start", "mailrecv-metrics.socket"]);
    let told = || {
        let mut curl = debian::command("curl", "curl");
        curl.args(["--silent", "--show-error", "--max-time", "180", "http://127.0.0.1:9025/metrics"]);
        installation.machine.in_its_network(|| succeeds(curl, ""))
    };
    // Who asks starts it, too.
    assert!(told().contains("\nmailrecv_sessions_open 0\n"));
    for subject in ["one", "two"] {
        installation.deliver(subject);
    }
    let ended = "\nmailrecv_sessions_total{end=\"closed\"} 2\n";
    let accepted = "\nmailrecv_messages_total{outcome=\"accepted\"} 2\n";
    wait_until("the end of sessions", || told().contains(ended).then_some(()));
    assert!(told().contains(accepted), "{}", told());
    let shown = installation.machine.run("/usr/sbin/mailrecv", &["metrics"]);
    assert!(shown.contains(accepted) && shown.contains(ended), "{shown}");
    installation.assert_nothing_failed();
}
