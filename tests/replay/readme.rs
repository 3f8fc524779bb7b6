//! The commands of the README, pasted, and what they print.

use testkit::repository;

use crate::scratch;
use crate::support::path;

#[test]
fn the_readme_shows_what_happens() {
    let blocks = repository::readme_commands("Try a change on yesterday's sessions");
    let [settings, check, summary, replay, difference] = &blocks[..] else { panic!("{blocks:?}") };
    let rules = "deliver rcpt_to postmaster@example.com append /var/mail/postmaster\n\
        deliver rcpt_to /^fred@/ append /var/mail/fred\n\
        deliver rcpt_to *@example.com append /var/mail/others\n";
    let scratch = scratch("");
    let (here, folder) = ("./t", "/var/lib/mailrecv/transcripts");
    let settings = repository::replaced(settings, &[(folder, here)]);
    let with = |rules: &str| format!("domain example.com\n{settings}limit.fcrdns_check off\n{rules}");
    // Nothing is written to the mailboxes of this machine.
    scratch.write("mailrecv.conf", with(rules));
    for recipient in ["fred", "wilma"] {
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        session.exchange(&format!("RCPT TO:<{recipient}@example.com>"), "250 ");
        session.quit();
    }
    let wider =
        rules.replace("deliver rcpt_to /^fred", "error rcpt_to ^fred 550 Frederic has left us\ndeliver rcpt_to /^fred");
    scratch.write("new.conf", with(&wider));
    let name = crate::transcripts(&scratch).remove(0).replace("t/", "");
    let run = |command: &str| {
        let mut shell = scratch.command("/bin/sh", &["-c", command]);
        let output = shell.env("PATH", path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout)
            .unwrap()
            .replace(here, folder)
            .replace(&name, "20261129T091502.113482Z-4711.transcript")
    };
    assert_eq!(run(&repository::replaced(check, &[(folder, here)])), *summary);
    let replay = repository::replaced(replay, &[(folder, here), ("20261129T091502", name.split('.').next().unwrap())]);
    // Both sessions may have begun in the same second.
    let shown = run(&replay);
    let (shown, _) = shown.rsplit_once("\n1 session").or(shown.rsplit_once("\n2 sessions")).unwrap();
    assert_eq!(format!("{shown}\n1 session, 1 of which would be another today\n"), *difference);
}
