//! LMTP, where the replies to a message come one by one: what has been answered is true whatever comes next.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use testkit::process::{peak_memory, succeeds};
use testkit::{Session, wait_until};

use crate::SLOW;
use crate::support::{CONFIG, Scratch};

/// Three recipients, of whom the second takes its time.
fn with_a_slow_one() -> String {
    format!(
        "protocol lmtp\ndomain mx.example\ndebug -\n\
         deliver rcpt_to fred@mx.example append fred\n\
         deliver rcpt_to slow@mx.example pipe {SLOW}\n\
         deliver rcpt_to wilma@mx.example append wilma\n"
    )
}

fn begin(scratch: &Scratch, recipients: impl IntoIterator<Item = impl AsRef<str>>) -> Session {
    let mut session = scratch.greeted();
    session.exchange("LHLO mta.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    for recipient in recipients {
        session.exchange(&format!("RCPT TO:<{}@mx.example>", recipient.as_ref()), "250 ");
    }
    session.exchange("DATA", "354 ");
    session
}

/// Each reply leaves when its delivery is over, and not with the last.
#[test]
fn a_reply_does_not_wait_for_the_next() {
    let scratch = Scratch::with_config(&with_a_slow_one());
    let mut session = begin(&scratch, ["fred", "slow", "wilma"]);
    session.send("x\r\n.\r\n");
    session.expect("250 ");
    assert!(scratch.path("fred").exists());
    assert!(!scratch.path("wilma").exists());
    scratch.write("go", "");
    session.expect("250 ");
    session.expect("250 ");
    assert!(scratch.path("slow").exists() && scratch.path("wilma").exists());
    session.quit();
}

/// A peer that is gone between two replies: who was delivered for stays delivered for, the others will be sent the
/// message again, and the log says whom the peer may not know of.
#[test]
fn a_peer_that_vanishes_between_replies() {
    let scratch = Scratch::with_config(&with_a_slow_one());
    let mut session = begin(&scratch, ["fred", "slow", "wilma"]);
    session.send("x\r\n.\r\n");
    session.expect("250 ");
    let mut process = session.reset();
    scratch.write("go", "");
    assert_eq!(process.exit_code(), 0);
    assert!(scratch.path("fred").exists() && scratch.path("slow").exists());
    assert!(!scratch.path("wilma").exists());
    let log = scratch.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].starts_with("[192.0.2.7] WARNING: the connection broke: "), "{log:?}");
    assert!(
        log[0].ends_with(
            " is delivered to 'fred@mx.example slow@mx.example', but if the peer has not read that it will send it again"
        ),
        "{log:?}"
    );
    // Nobody has it yet.
    let mut session = begin(&scratch, ["slow", "wilma"]);
    std::fs::remove_file(scratch.path("slow")).unwrap();
    session.send("x\r\n");
    assert_eq!(session.reset().exit_code(), 0);
    assert!(!scratch.path("slow").exists());
    assert!(scratch.log()[1].ends_with("; nothing was delivered of the message it had begun"), "{:?}", scratch.log());
}

/// SIGTERM: the delivery under way is brought to its end and answered, and no other is begun.
#[test]
fn a_request_to_stop_between_replies() {
    let scratch = Scratch::with_config(&with_a_slow_one());
    let mut session = begin(&scratch, ["fred", "slow", "wilma"]);
    session.send("x\r\n.\r\n");
    session.expect("250 ");
    wait_until("the next one", || scratch.path("begun").exists().then_some(()));
    kill(session.pid(), Signal::SIGTERM).unwrap();
    scratch.write("go", "");
    session.expect("250 ");
    session.expect("421 4.3.2 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.end().1, 0);
    assert!(scratch.path("slow").exists() && !scratch.path("wilma").exists());
}

/// A 421 is the last reply to a message, whoever of its recipients has none yet: nobody has it, and it is counted as that.
#[test]
fn a_message_that_nobody_has_when_421_is_said_is_counted() {
    let config = with_a_slow_one();
    let scratch =
        Scratch::with_config(&format!("{config}limit.smtp_data_size 10 421 Too large\nmetrics_file counted\n"));
    let mut session = begin(&scratch, ["fred", "wilma"]);
    session.send("Subject: x\r\n\r\n.\r\n");
    session.expect("421 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.end().1, 0);
    let deferred = || {
        let numbers = succeeds(scratch.mailrecv(&["metrics"]), "");
        let line = numbers.lines().find_map(|line| line.strip_prefix("mailrecv_messages_total{outcome=\"deferred\"} "));
        line.map(str::to_owned)
    };
    assert_eq!(deferred().as_deref(), Some("1"));
    // Refused for one, and then we are asked to stop.
    let refusing = config.replace("append fred", &format!("pipe {SLOW}; exit 67"));
    scratch.write(CONFIG, format!("{refusing}metrics_file counted\n"));
    let mut session = begin(&scratch, ["fred", "wilma"]);
    session.send("x\r\n.\r\n");
    wait_until("the first one", || scratch.path("begun").exists().then_some(()));
    kill(session.pid(), Signal::SIGTERM).unwrap();
    scratch.write("go", "");
    session.expect("550 ");
    session.expect("421 4.3.2 ");
    assert_eq!(session.end().1, 0);
    assert_eq!(deferred().as_deref(), Some("2"));
}

/// As many replies as recipients, however many, and in little memory; a peer that reads none of them until the end gets
/// all.
#[test]
fn a_thousand_recipients() {
    let config = "protocol lmtp\ndomain mx.example\nlimit.smtp_rcpt_to 1000\nlimit.copies_size 0\n\
                  deliver rcpt_to refused@mx.example pipe exit 77\ndeliver rcpt_to *@mx.example append all\n";
    let scratch = Scratch::with_config(config);
    let name = |number: usize| if number == 500 { "refused".to_owned() } else { format!("r{number}") };
    let mut session = begin(&scratch, (0..1000).map(name));
    session.send("Subject: to a thousand\r\n\r\n");
    session.send("x".repeat(2_000) + "\r\n.\r\n");
    // The replies wait in the connection.
    std::thread::sleep(Duration::from_secs(1));
    let mut memory = 0;
    for number in 0..1000 {
        session.expect(if number == 500 { "550 5.7.1 " } else { "250 2.0.0 " });
        memory = memory.max(peak_memory(session.pid()).unwrap_or_default());
    }
    session.quit();
    let all = scratch.read("all");
    assert_eq!(all.matches("\nSubject: to a thousand\n").count(), 999);
    let recipients = all.lines().filter_map(|line| line.strip_prefix("\tfor <")?.split_once('@'));
    let recipients: Vec<String> = recipients.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(recipients, (0..1000).map(name).filter(|name| name != "refused").collect::<Vec<_>>());
    assert!((1..8_000).contains(&memory), "{memory} KiB");
}
