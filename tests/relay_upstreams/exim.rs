//! Exim as the upstream: refusals of several lines, at every command.

use testkit::exim::EximServer;
use testkit::wait_until;

use crate::{FRED, NOBODY, TEXT, WILMA, as_kept, behind_our_trace, copies, log, relaying, send};

const ACLS: &str = r#"check_mail:
  deny senders = bad@client.example
       message = Not this sender\nand not tomorrow
  accept
check_rcpt:
  deny local_parts = nobody
       message = 5.1.1 No such user\nask postmaster about ${quote:$local_part}
  defer local_parts = busy
       message = 4.2.1 Busy\nnow
  accept
check_data:
  deny condition = ${if match{$message_body}{spam}}
       message = 5.7.1 This is spam\nof the worst kind
  accept
"#;

#[test]
fn refusals_of_several_lines_are_ours() {
    let exim = EximServer::start(ACLS);
    let scratch = relaying(format!("smtp://{}", exim.address()), "");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    let reply = session.ask("MAIL FROM:<bad@client.example>");
    assert!(reply.starts_with("550"), "{reply}");
    for line in ["Not this sender", "and not tomorrow"] {
        assert!(reply.contains(line), "{reply}");
    }
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    let reply = session.ask(&format!("RCPT TO:<{NOBODY}>"));
    assert!(
        reply.starts_with("550") && reply.contains("5.1.1 No such user") && reply.contains("postmaster"),
        "{reply}"
    );
    let reply = session.ask("RCPT TO:<busy@final.example>");
    assert!(reply.starts_with("451") && reply.contains("4.2.1 Busy"), "{reply}");
    session.exchange("RSET", "250 ");
    let reply = send(&mut session, &[FRED, WILMA], b"Subject: x\r\n\r\nspam\r\n");
    assert!(reply.starts_with("550") && reply.contains("5.7.1 This is spam"), "{reply}\n{}", log(&scratch));
    assert_eq!(copies(&scratch), 0);
    let reply = send(&mut session, &[FRED, WILMA], TEXT);
    assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
    session.quit();
    // It writes a file for each recipient of its one message.
    let mail = wait_until("Exim's deliveries", || Some(exim.mail()).filter(|mail| mail.len() >= 2));
    assert!(mail.iter().all(|message| behind_our_trace(message) == as_kept(TEXT)), "{mail:?}");
    assert_eq!(exim.log().matches(" <= ").count(), 1, "{}", exim.log());
    assert_eq!((mail.len(), copies(&scratch)), (2, 1));
}
