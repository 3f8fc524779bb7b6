//! Whatever peers say: what the fuzzer found out to say is said to real sessions, which are recorded, and none of them is
//! another way when it is played.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use testkit::process::output_of_input;
use testkit::repository;

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use crate::{FOLDER, config};

const RULES: &str = "deliver rcpt_to fred append fred
deliver rcpt_to busy@mx.example append /dev/full
deliver rcpt_to robot@mx.example pipe cat >/dev/null
deliver rcpt_to other@mx.example pipe exit 1
error rcpt_to ^old@ 550 5.2.1 Has left
error mail_from ^spam@ 451 Not today
allowgroup +near near\\.example$
deliver allowgroup +near rcpt_to near@mx.example discard
copy rcpt_to *@mx.example discard
";

/// Limits that are soon reached.
const TIGHT: &str = "limit.smtp_commands 8 451 That is enough\nlimit.smtp_unknowncmd 1\n\
    limit.smtp_failcmds 2 550 5.7.0 So is that\nlimit.smtp_data_size 20\nlimit.smtp_rcpt_to 2\n\
    limit.bare_newline reject\nlimit.smtp_ascii off\n";

/// An ordinary configuration, one with tight limits, one that turns the peer away, LMTP, some with accounts. Every second one
/// has texts recorded.
const CONFIGS: [&str; 7] = [
    "",
    TIGHT,
    "deny remotehost ^192\\.0\\.2\\.\n",
    "protocol lmtp\nlimit.copies_size 40\n",
    "auth_plaintext on\nauth_user tim x\nlimit.smtp_failcmds 1000\n",
    "auth_plaintext on\nauth_user tim x\nlimit.smtp_failcmds 1 454 4.7.0 That is enough\n",
    TIGHT,
];

#[test]
fn whatever_is_said_is_played_as_it_was() {
    let mut inputs: Vec<PathBuf> = ["fuzz/corpus/session", "fuzz/seeds/session"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(repository::path(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(inputs.len() > 300);
    thread::scope(|scope| {
        for (number, directives) in CONFIGS.iter().enumerate() {
            let inputs = inputs.iter().skip(number % 2).step_by(2);
            scope.spawn(move || record_and_play(directives, if number % 2 == 0 { "" } else { " with_text" }, inputs));
        }
    });
}

fn record_and_play<'i>(directives: &str, with_text: &str, inputs: impl Iterator<Item = &'i PathBuf>) {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path(FOLDER)).unwrap();
    let text = config(&format!("{RULES}{directives}"));
    scratch.write(CONFIG, text.replace("transcript_dir ./t", &format!("transcript_dir ./t{with_text}")));
    for input in inputs {
        let sent = std::fs::read(input).unwrap();
        let sent = sent.get(1..).unwrap_or_default();
        let session = scratch.command(MAILRECV, &["-c", CONFIG, "-l", LOG, "--peer", PEER]);
        output_of_input(session, sent, Duration::from_secs(600));
    }
    let count = scratch.count_files(FOLDER);
    assert!(count > 100, "{count}");
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER]);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("{count} sessions, none of which would be another today\n")), "{directives}{said}");
}
