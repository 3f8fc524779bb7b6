//! A month's worth of sessions: 100,000 transcripts, made of some that were recorded, with other peers. Not run unless it is
//! asked for, with the program as it is shipped: `tests/run --release --test replay -- --ignored --nocapture`.

use std::fs;
use std::io::Write as _;
use std::time::Instant;

use testkit::Random;

use crate::support::{CONFIG, MAILRECV};
use crate::{FOLDER, scratch, transcripts};

const COUNT: usize = 100_000;

const RULES: &str = "allowgroup +lists \\.lists\\.example$\n\
    deliver allowgroup +lists rcpt_to archive@mx.example append ./archive\n\
    error rcpt_to ^old@ 550 Has left\n\
    error mail_from @spam\\.example$ 550 No\n\
    deliver rcpt_to *@mx.example discard";

#[test]
#[ignore = "takes a minute, and what it measures depends on the machine"]
fn a_month_of_sessions() {
    let scratch = scratch(RULES);
    let mut random = Random::new(1);
    for _ in 0..30 {
        let name = random.choose(&["192.0.2.7=mail.example.net", "192.0.2.8=a.lists.example", "192.0.2.9"]).to_owned();
        let mut session = scratch.session(&["--peer", &name]);
        session.expect("220 ");
        session.exchange("EHLO client.example", "250-");
        for _ in 0..=random.below(2) {
            let sender = random.choose(&["a@b.example", "", "x@spam.example", "b@lists.example"]).to_owned();
            session.ask(&format!("MAIL FROM:<{sender}>"));
            for _ in 0..=random.below(3) {
                let recipient = random.choose(&["fred", "wilma", "old", "archive", "jim"]).to_owned();
                session.ask(&format!("RCPT TO:<{recipient}@mx.example>"));
            }
            if session.ask("DATA").starts_with("354") {
                session.ask(&format!("Subject: x\r\n\r\n{}\r\n.", "Some text.\r\n".repeat(random.index(200))));
            }
            session.ask("RSET");
        }
        session.quit();
    }
    let templates: Vec<String> = transcripts(&scratch).iter().map(|name| scratch.read(name)).collect();
    transcripts(&scratch).iter().for_each(|name| fs::remove_file(scratch.path(name)).unwrap());
    for number in 0..COUNT {
        let (a, b, c) = (number >> 16 & 255, number >> 8 & 255, number & 255);
        let text = templates[number % templates.len()]
            .replace("192.0.2.", &format!("10.{a}.{b}.{c}"))
            .replace("mail.example.net", &format!("mail-{number}.example.net"));
        let path = scratch.path(FOLDER).join(format!("{number:06}.transcript"));
        // The last digit of the address stands behind what was replaced.
        let text = text.replace(&format!("10.{a}.{b}.{c}7"), &format!("10.{a}.{b}.{c}"));
        let text = text.replace(&format!("10.{a}.{b}.{c}8"), &format!("10.{a}.{b}.{c}"));
        let text = text.replace(&format!("10.{a}.{b}.{c}9"), &format!("10.{a}.{b}.{c}"));
        fs::write(path, text).unwrap();
    }
    let bytes: u64 = fs::read_dir(scratch.path(FOLDER)).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).sum();
    let mut out = std::io::stderr();
    let mut measure = |what: &str, directives: &str, differing: usize| {
        scratch.write(CONFIG, crate::config(&format!("{directives}\ndeliver rcpt_to postmaster@mx.example discard")));
        let began = Instant::now();
        let output = scratch.run(MAILRECV, &["-c", CONFIG, "check", "--replay", FOLDER]);
        let took = began.elapsed();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(said.contains(&format!(": {COUNT} sessions, ")), "{said}");
        assert_eq!(said.contains("none of which"), differing == 0, "{said}");
        writeln!(out, "{what}: {COUNT} sessions, {bytes} bytes: {took:.2?}\n{said}").unwrap();
    };
    measure("the same configuration", RULES, 0);
    measure("another one", &RULES.replace("^old@", "^(old|jim)@"), 1);
}
