//! `tls require`, and groups of peers that are under TLS.

use testkit::TlsClient;

use crate::support::{CONFIG, MAILRECV, PEER, Scratch};
use crate::{client, implicit, scratch, secured};

#[test]
fn what_is_required_comes_first() {
    let scratch = scratch("tls require\n");
    let mut session = scratch.greeted();
    for command in [
        "HELO client.example",
        "MAIL FROM:<a@b.example>",
        "RCPT TO:<fred@mx.example>",
        "DATA",
        "RSET",
        "VRFY x",
        "HELP",
    ] {
        session.exchange(command, "530 Must issue a STARTTLS command first");
    }
    session.exchange("EHLO client.example", "250-");
    session.exchange("NOOP", "250 2.0.0 OK");
    session.exchange("MAIL FROM:<a@b.example>", "530 5.7.0 Must issue a STARTTLS command first");
    session.start_tls(&client());
    assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
    session.quit();
    assert!(
        scratch.log().contains(&"[192.0.2.7] ERROR: 530 Must issue a STARTTLS command first".to_owned()),
        "{:#?}",
        scratch.log()
    );
}

/// The lines that the next tests are about: who is under TLS may send to ann, and to bob what others may not.
const GROUPS: &str = "\
allowgroup +secured tls
allowgroup +both net 198.51.100.0/24
allowgroup +both tls
deliver allowgroup +secured rcpt_to ann@mx.example append ann
deliver allowgroup +both rcpt_to /^bob@/ append bob
deliver allowgroup +secured rcpt_to eve@mx.example pipe cat > eve
";

#[test]
fn a_group_is_asked_again_under_tls() {
    let scratch = scratch(GROUPS);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    for recipient in ["ann", "bob", "eve"] {
        session.exchange(&format!("RCPT TO:<{recipient}@mx.example>"), "550 5.7.1 ");
    }
    session.exchange("RCPT TO:<fred@mx.example>", "250 ");
    // The same questions, asked a moment ago.
    session.start_tls(&client());
    assert!(session.deliver(&["ann@mx.example", "bob@mx.example", "eve@mx.example"]).starts_with("250 "));
    session.quit();
    for file in ["ann", "bob", "eve"] {
        assert!(scratch.read(file).contains("body"), "{file}");
    }
}

#[test]
fn explain_knows_of_tls() {
    let explain = |scratch: &Scratch, recipient: &str, more: &[&str]| {
        let rcpt = format!("--rcpt={recipient}@mx.example");
        let arguments = [&["-c", CONFIG, "explain", "--peer", PEER, &rcpt], more].concat();
        let output = scratch.run(MAILRECV, &arguments);
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    let offering = scratch(GROUPS);
    let (text, code) = explain(&offering, "ann", &[]);
    assert!(code == 1 && text.contains("line 6: +secured: tls: the connection is not under TLS\n"), "{text}");
    let (text, code) = explain(&offering, "ann", &["--tls"]);
    assert!(code == 0 && text.contains("line 6: +secured: tls: the connection is under TLS\n"), "{text}");
    assert!(text.starts_with("peer mail.example.net [192.0.2.7], under TLS\n"), "{text}");
    let requiring = scratch("tls require\n");
    let (text, code) = explain(&requiring, "fred", &[]);
    assert!(code == 1 && text.contains("reply: 530 5.7.0 Must issue a STARTTLS command first"), "{text}");
    assert_eq!(explain(&requiring, "fred", &["--tls"]).1, 0);
    // There every peer is.
    assert_eq!(explain(&scratch("tls implicit\n"), "fred", &[]).1, 0);
    let (text, _) =
        explain(&Scratch::with_config("domain mx.example\ndeliver rcpt_to fred append x\n"), "fred", &["--tls"]);
    assert!(text.contains("note: the configuration has no TLS"), "{text}");
}

/// Who may connect at all does not depend on TLS: it is decided before there is any, and what it says comes to be heard.
#[test]
fn a_peer_that_is_not_wanted_is_told_so_also_under_implicit_tls() {
    let scratch = scratch("tls implicit\ndeny remotehost net 192.0.2.0/24\n");
    let mut session = implicit(&scratch);
    session.exchange("EHLO client.example", "550 ");
    assert_eq!(session.line(), None);
    assert_eq!(session.exit_code(), 0);
}

#[test]
fn a_strict_sandbox_lets_tls_be() {
    let scratch = scratch("sandbox strict required\ntls_ticket_key tickets\n");
    scratch.write("tickets", [7; 32]);
    let client: TlsClient = client();
    for _ in 0..2 {
        let mut session = scratch.greeted();
        session.exchange("EHLO client.example", "250-");
        session.start_tls(&client);
        assert!(session.deliver(&["fred@mx.example"]).starts_with("250 "));
        session.quit();
    }
    assert!(scratch.log().iter().any(|line| line.ends_with(", resumed")), "{:#?}", scratch.log());
    let mut session = secured(&scratch);
    session.exchange("EHLO client.example", "250-");
    session.quit();
}
