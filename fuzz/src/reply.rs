//! Replies on the wire: whatever a text was made from, one reply goes out, each of its lines a line (RFC 5321, 4.2).
//!
//! An input is `CODE TEXT` as the administrator writes it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use mailrecv::address::Mailbox;
use mailrecv::config::{Denial, Refusal, Trace, Who};
use mailrecv::peer::Peer;
use mailrecv::smtp::reply::{self, Reply, Status};

use super::config;

/// Encodes the text as the words of an `error` line, of a limit, and as the text of any reply.
pub fn check(input: &[u8]) {
    let line = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let Ok(config) = config::load(&[b"error rcpt_to .* ", line].concat()) {
        let peer = Peer::unnamed(IpAddr::from(Ipv4Addr::LOCALHOST));
        let recipient = Mailbox::parse("fred@mx.example").expect("an address");
        match config.rules.route(&recipient, Who::in_the_clear(&peer), "mx.example", &mut Trace::default()) {
            Err(Denial::Refused(refusal)) => check_refusal(refusal),
            other => panic!("the line refuses every recipient, but this came out: {other:?}"),
        }
    }
    if let Ok(config) = config::load(&[b"limit.smtp_rcpt_to 1 ", line].concat()) {
        check_refusal(&config.limits.smtp_rcpt_to.refusal);
    }
    let text = String::from_utf8_lossy(input).into_owned();
    let lines = text.split('\n').count();
    let any = Reply { text: Cow::Owned(text), ..reply::OK };
    assert_eq!(encoded(&any, true).lines().count(), lines);
    assert_eq!(encoded(&any, false).lines().count(), lines);
}

/// The administrator's words make one line, which says what they say.
fn check_refusal(refusal: &Refusal) {
    for status in [Status(5, 1, 1), Status(4, 5, 3)] {
        let reply = reply::worded(refusal, status);
        assert!(reply.is_negative());
        for enhanced in [true, false] {
            let line = encoded(&reply, enhanced);
            assert_eq!(line.matches("\r\n").count(), 1, "{line:?}");
            assert!(line.ends_with(&format!("{}\r\n", refusal.text)), "{line:?}");
        }
    }
}

fn encoded(reply: &Reply, enhanced: bool) -> String {
    let mut out = Vec::new();
    reply.encode(enhanced, &mut out);
    check_wire_form(&out);
    String::from_utf8(out).expect("a text")
}

/// One whole reply: every line but the last goes on, all have one code, none is too long (RFC 5321, 4.2.1 and
/// 4.5.3.1.5). An enhanced code is of the class of the code (RFC 2034, section 4), and no code has a second digit above 5;
/// the administrator may ignore both.
pub fn check_wire_form(wire: &[u8]) {
    let shown = wire.escape_ascii();
    let text = std::str::from_utf8(wire).unwrap_or_else(|_| panic!("not text: {shown}"));
    let lines: Vec<&str> = text.strip_suffix("\r\n").expect("an end").split("\r\n").collect();
    for (number, line) in lines.iter().enumerate() {
        let (code, rest) = line.split_at_checked(3).unwrap_or_else(|| panic!("no code: {shown}"));
        assert!(matches!(code.as_bytes(), [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']), "a bad code: {shown}");
        assert_eq!(code, &text[..3], "two codes: {shown}");
        let separator = if number + 1 < lines.len() { '-' } else { ' ' };
        assert!(rest.starts_with(separator), "a bad separator: {shown}");
        assert!(line.len() + "\r\n".len() <= 512, "a line is too long: {shown}");
        assert!(!line.contains(char::is_control), "a control character: {shown}");
    }
    let (reply, used) = Reply::parse(wire).expect("a reply to whoever reads it").expect("a whole one");
    assert_eq!((used, reply.text.split('\n').count()), (wire.len(), lines.len()), "{shown}");
    assert_eq!(reply.code.to_string(), text[..3], "{shown}");
}
