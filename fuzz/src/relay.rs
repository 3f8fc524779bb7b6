//! The client's side: whatever the next server says, what we make of it is a reply of ours or no reply at all; and
//! whatever a text has in it, it goes over the wire as lines that end with CRLF.
//!
//! An input is what a server sends, and a text.

use mailrecv::smtp::reply::{Reply, Status};
use mailrecv::smtp::upstream::{Asked, Offered, Stuffing, accepted, passed_on, shown};

use super::pieces;
use super::reply::check_wire_form;

/// Reads the input as replies, one behind the other, and sends it as a text.
pub fn check(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some((reply, used))) = Reply::parse(rest) {
        assert!(used > 0 && used <= rest.len());
        for length in 0..used.min(200) {
            assert_eq!(Reply::parse(&rest[..length]), Ok(None), "a reply before its end");
        }
        check_reply(reply);
        rest = &rest[used..];
    }
    check_text(input);
}

fn check_reply(reply: Reply) {
    let offered = Offered::parse(&reply);
    assert!(offered.knows_size || offered.size == 0);
    assert!(!shown(&reply).contains(char::is_control));
    let (class, code) = (reply.code / 100, reply.code);
    if class < 4 {
        check_ours(&accepted(reply), 2);
        return;
    }
    for asked in [Asked::Mail, Asked::Rcpt, Asked::Text] {
        let ours = passed_on(reply.clone(), asked, "smtp://next.example:25");
        // A second digit that no reply has becomes that of the general ones (RFC 5321, 4.2).
        let known = if code / 10 % 10 > 5 { class * 100 + 50 } else { code };
        let is_too_many = asked == Asked::Rcpt && code == 552 && ours.code == 452;
        let is_our_fault = ours.code == 451 && ours.is_our_fault && code >= 500;
        assert!(ours.code == known || is_too_many || is_our_fault, "{code}: {ours:?}");
        check_ours(&ours, ours.code / 100);
    }
}

/// It can be sent, and its enhanced code is of the class of its code (RFC 2034, section 4).
fn check_ours(reply: &Reply, class: u16) {
    assert_eq!(reply.code / 100, class);
    assert!(reply.status.is_some_and(|Status(of, ..)| of == class), "{reply:?}");
    for enhanced in [true, false] {
        let mut wire = Vec::new();
        reply.encode(enhanced, &mut wire);
        assert!(wire.is_ascii());
        check_wire_form(&wire);
    }
}

fn check_text(text: &[u8]) {
    let sent = pieces::three_ways(text).map(|pieces| {
        let (mut stuffing, mut wire) = (Stuffing::default(), Vec::new());
        pieces.into_iter().for_each(|piece| stuffing.push(piece, &mut wire));
        stuffing.finish(&mut wire);
        wire
    });
    assert!(sent.iter().all(|other| *other == sent[0]), "pieces make a difference");
    let sent = &sent[0];
    let mut read = Vec::new();
    for line in sent.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").expect("a line ends with CRLF");
        assert!(!line.contains(&b'\r') && line != b".", "{:?}", line.escape_ascii().to_string());
        read.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        read.push(b'\n');
    }
    let mut meant: Vec<u8> = text.iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte }).collect();
    if meant.last().is_some_and(|byte| *byte != b'\n') {
        meant.push(b'\n');
    }
    assert!(read == meant, "the text is another behind the wire");
}
