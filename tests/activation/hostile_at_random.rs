//! Sessions that nobody would think of: words of commands, forged log lines, addresses in brackets and bytes that may end
//! a line, thrown together at random, from many peers.

use std::net::IpAddr;

use testkit::{Random, Session};

use crate::support::receiver::Receiver;

/// One session of a peer from [`PEERS`], to its end. Returns the peer's address and what it was answered.
pub(crate) fn session(receiver: &Receiver, random: &mut Random) -> (IpAddr, String) {
    let peer = random.choose(&PEERS);
    let mut command = receiver.command();
    command.args(["--peer", peer]);
    let mut session = Session::over_pipes(command);
    let replies = session.converse(script(random));
    assert_eq!(session.end(), (Vec::new(), 0), "--peer {peer}: {replies}");
    let address: IpAddr = peer.split('=').next().unwrap().parse().unwrap();
    (address.to_canonical(), replies)
}

/// Commands at random; some of them are in place.
fn script(random: &mut Random) -> Vec<u8> {
    // The first line decides how lines end.
    let line_end: &[u8] = if random.one_in(3) { b"\n" } else { b"\r\n" };
    let mut script = [random.choose(&["HELO me", "EHLO me", "NOOP"]).as_bytes(), line_end].concat();
    for _ in 0..LINES {
        match random.below(12) {
            0 => transaction(random, line_end, &mut script),
            1..=4 => script.extend_from_slice(b"RCPT TO:<"),
            5 => script.extend_from_slice(b"MAIL FROM:<"),
            6 => script.extend_from_slice(b"RSET\r\nMAIL FROM:<me@mydomain.com>\r\nRCPT TO:<"),
            7..=9 => script.extend_from_slice(random.choose(&VERBS).as_bytes()),
            _ => {}
        }
        junk(random, &mut script);
        if random.one_in(2) {
            script.extend_from_slice(random.choose(&[">", "@example.com>", "> SIZE=1", "\"@example.com>"]).as_bytes());
        }
        script.extend_from_slice(line_end);
    }
    // Out of a message's text, should it still be in one.
    [&script, line_end, b".", line_end, b"QUIT", line_end].concat()
}

/// A message that is accepted, or refused when all of it has been read.
fn transaction(random: &mut Random, line_end: &[u8], script: &mut Vec<u8>) {
    let recipient = random.choose(&["fred", "broken"]);
    for line in ["RSET", "MAIL FROM:<me@mydomain.com>", &format!("RCPT TO:<{recipient}@example.com>"), "DATA"] {
        script.extend_from_slice(line.as_bytes());
        script.extend_from_slice(line_end);
    }
    for _ in 0..random.below(4) {
        junk(random, script);
        script.extend_from_slice(line_end);
    }
    script.extend_from_slice(b".");
    script.extend_from_slice(line_end);
}

/// A few pieces in a row.
fn junk(random: &mut Random, script: &mut Vec<u8>) {
    for _ in 0..=random.below(5) {
        match random.below(20) {
            0 => script.extend(u8::try_from(random.below(256))),
            1 => {
                let word = random.choose(&["x", " ", "[", "]", "<0x", "\u{2028}", "ERROR: ", "\u{202e}"]);
                // Around what a log line shows of a text, and around the length of a command line.
                script.extend(word.repeat(random.index(700)).bytes());
            }
            2 => {
                let [a, b, c, d] = [(); 4].map(|()| random.below(256));
                script.extend_from_slice(format!("[{a}.{b}.{c}.{d}]").as_bytes());
            }
            3..=6 => script.extend_from_slice(random.choose(&BYTES)),
            _ => script.extend_from_slice(random.choose(&PIECES).as_bytes()),
        }
    }
}

/// How many lines a session has, and more where a piece ends one.
const LINES: usize = 40;

/// `--peer`, as a wrapper would name them.
const PEERS: [&str; 8] = [
    "192.0.2.7",
    "192.0.2.8=mail.example.net",
    "198.51.100.1=1-100-51-198.dyn.example.org",
    "::ffff:203.0.113.9=mapped.example",
    "2001:db8::7",
    "2001:db8:1:2:3:4:5:6=six.example.net",
    "::1=localhost",
    "fe80::1",
];

const VERBS: [&str; 18] = [
    "HELO ",
    "EHLO ",
    "MAIL FROM:",
    "MAIL ",
    "RCPT TO:",
    "RCPT ",
    "DATA ",
    "RSET ",
    "VRFY ",
    "EXPN ",
    "NOOP ",
    "HELP ",
    "FOO ",
    "SEND FROM:<",
    "helo [",
    "AUTH PLAIN ",
    "STARTTLS ",
    "BDAT ",
];

const PIECES: [&str; 26] = [
    "[8.8.8.8]",
    " [8.8.8.8] ",
    "[8.8.8.8] ERROR: 550 No one here by that name 'x'",
    "ERROR: 550 No one here",
    "] ERROR: 550 ",
    "MAILRECV[1]: [8.8.8.8] ERROR: 550 x",
    "Sat Nov 21 01:32:50 2026 MAILRECV[6561]: [8.8.8.8] ERROR: 550 No one here by that name 'x'",
    "Nov 21 01:32:50 mx MAILRECV[6561]: [8.8.8.8] ERROR: 550 No one here by that name 'x'",
    "[IPv6:2001:db8::bad]",
    "[2001:db8::bad]",
    "[::ffff:8.8.8.8]",
    "[example.org]",
    "nobody",
    "nobody@example.com",
    "fred@example.com",
    "a@[8.8.8.8]",
    "\"[8.8.8.8]\"@example.com",
    "@[8.8.8.8]:",
    "'",
    "\"",
    "\\",
    "<",
    ">",
    "<0x5b>8.8.8.8<0x5d>",
    "%s%n%x",
    "\u{ff3b}8.8.8.8\u{ff3d}",
];

const BYTES: [&[u8]; 16] = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\x0b",
    b"\x0c",
    b"\x1b[2K",
    b"\x08\x08\x08\x08",
    b"\t",
    b"\x7f",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"#012",
];
