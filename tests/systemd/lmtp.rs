//! The socket for Postfix and Exim on the same machine: its group may connect and nobody else, and rules tell users apart.

use testkit::Machine;

use crate::support::install;

#[test]
fn users_of_the_machine_deliver_by_lmtp() {
    let machine = Machine::boot(|root| {
        install(
            root,
            "domain mail.example.com\n\
             debug +\n\
             allowgroup +mta uid games\n\
             deliver allowgroup +mta rcpt_to fred@mail.example.com append /var/mail/fred\n\
             deliver rcpt_to postmaster append /var/mail/postmaster\n",
        );
    });
    machine.systemctl(&["start", "mailrecv-lmtp.socket"]);
    let deliver = |user: &str, groups: &str, recipient: &str| {
        let arguments = ["--reuid", user, "--regid", user, "--groups", groups, "python3", "-c", PROGRAM, recipient];
        machine.try_run("setpriv", &arguments)
    };
    // Debian's numbers of the two users are 5 and 7.
    let (said, is_delivered) = deliver("games", "mail", "fred@mail.example.com");
    assert!(is_delivered, "{said}");
    let mailbox = std::fs::read_to_string(machine.root().join("var/mail/fred")).unwrap();
    assert!(mailbox.contains(" (local user 5)\n") && mailbox.contains(" with LMTP id "), "{mailbox}");
    let (said, is_delivered) = deliver("lp", "mail", "fred@mail.example.com");
    assert!(!is_delivered && said.contains("Remote not configured"), "{said}");
    assert!(deliver("lp", "mail", "postmaster").1);
    let (said, is_delivered) = deliver("games", "games", "fred@mail.example.com");
    assert!(!is_delivered && said.contains("Permission denied"), "{said}");
    let journal = machine.journal(&["--output=cat"]);
    assert!(journal.contains("[local:5] Mail id=") && journal.contains("[local:7] ERROR: 550 "), "{journal}");
    machine.systemctl(&["stop", "mailrecv-lmtp.socket"]);
    assert!(!machine.try_run("test", &["-e", "/run/mailrecv/lmtp"]).1);
}

/// Delivers a message, or says why not.
const PROGRAM: &str = "import smtplib, sys; smtplib.LMTP('/run/mailrecv/lmtp')\
    .sendmail('a@b.example', sys.argv[1:], 'Subject: local\\r\\n\\r\\ntext\\r\\n')";
