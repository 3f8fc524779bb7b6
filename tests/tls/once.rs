//! `exactly_once` under TLS: only a whole command, whose sender could have read the 250, shows that it has read it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConnection;
use testkit::session::{attach, try_connection};
use testkit::{LOOPBACK, Process};

use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};
use crate::{client, scratch, secured};

const TEXT: &str = "Subject: once\r\n\r\ntext\r\n";

/// A client that sends the records of TLS in pieces of its choice.
struct Peer {
    tls: ClientConnection,
    stream: TcpStream,
    process: Process,
}

/// How the connection ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Closed,
    Reset,
}

impl Peer {
    /// One that has sent the text of a message, but for its end.
    fn begun(scratch: &Scratch) -> Self {
        let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
        let (mut stream, accepted) = try_connection(&listener).unwrap();
        let mut command = scratch.command(MAILRECV, &["-c", CONFIG, "-l", LOG, "--peer", PEER]);
        attach(&mut command, &accepted);
        let process = Process::start(command);
        let mut tls = client().connection().unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        let mut peer = Self { tls, stream, process };
        peer.hear("220 ");
        for (line, reply) in [
            ("EHLO client.example", "250-"),
            ("MAIL FROM:<sender@client.example>", "250 "),
            ("RCPT TO:<fred@mx.example>", "250 "),
            ("DATA", "354 "),
        ] {
            let records = peer.records(&format!("{line}\r\n"));
            peer.send(&records);
            peer.hear(reply);
        }
        let records = peer.records(TEXT);
        peer.send(&records);
        peer
    }

    /// The records that this becomes.
    fn records(&mut self, text: &str) -> Vec<u8> {
        self.tls.writer().write_all(text.as_bytes()).unwrap();
        self.outgoing()
    }

    /// What TLS itself wants to send.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).unwrap();
    }

    /// Reads a reply that begins like this.
    fn hear(&mut self, beginning: &str) {
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n") {
            assert!(self.tls.read_tls(&mut self.stream).unwrap() > 0, "no reply that begins with {beginning}");
            self.tls.process_new_packets().unwrap();
            let _ = self.tls.reader().read_to_end(&mut reply);
        }
        assert!(reply.starts_with(beginning.as_bytes()), "{}", reply.escape_ascii());
    }

    fn end(mut self, ending: Ending) {
        match ending {
            Ending::Closed => self.stream.shutdown(Shutdown::Write).unwrap(),
            Ending::Reset => {
                let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&self.stream, sockopt::Linger, &at_once).unwrap();
            }
        }
        match ending {
            // Who is still answered reads that, and not much later the end.
            Ending::Closed => drop(self.stream.read_to_end(&mut Vec::new())),
            Ending::Reset => drop(self.stream),
        }
        assert_eq!(self.process.exit_code(), 0);
    }
}

/// Whether the message is delivered anew when it comes again.
fn is_delivered_again(scratch: &Scratch) -> bool {
    let mut session = crate::implicit(scratch);
    session.begin_message(&["fred@mx.example"]);
    session.send(format!("{TEXT}.\r\n"));
    let reply = session.expect("250 ");
    session.quit();
    let messages = scratch.read("inbox").matches("Subject: once").count();
    let is_again = reply.contains("delivery, id=");
    assert!(is_again || reply.contains("delivery before, id="), "{reply}");
    assert_eq!(messages, 1 + usize::from(is_again), "{reply}");
    is_again
}

fn once() -> Scratch {
    scratch("tls implicit\nexactly_once once\n")
}

/// A record of which only a part had come when the 250 left was sent ahead.
#[test]
fn a_record_that_had_begun_confirms_nothing() {
    for ahead in 1..=7 {
        let scratch = once();
        let mut peer = Peer::begun(&scratch);
        let (end, quit) = (peer.records(".\r\n"), peer.records("QUIT\r\n"));
        peer.send(&[&end, &quit[..ahead]].concat());
        peer.hear("250 ");
        peer.send(&quit[ahead..]);
        peer.hear("221 ");
        peer.end(Ending::Closed);
        assert!(!is_delivered_again(&scratch), "{ahead} octets");
    }
}

/// Whatever is no whole command, sent behind the 250.
#[test]
fn what_is_no_command_confirms_nothing() {
    type Send = fn(&mut Peer);
    let sent: [(&str, Send); 7] = [
        ("nothing", |_| {}),
        ("half a record", |peer| {
            let records = peer.records("QUIT\r\n");
            peer.send(&records[..records.len() - 1]);
        }),
        ("half a header", |peer| {
            let records = peer.records("QUIT\r\n");
            peer.send(&records[..3]);
        }),
        ("half a command", |peer| {
            let records = peer.records("QUIT\r");
            peer.send(&records);
        }),
        ("half a command in two records", |peer| {
            let records = [peer.records("QU"), peer.records("IT")].concat();
            peer.send(&records);
        }),
        ("close_notify", |peer| {
            peer.tls.send_close_notify();
            let records = peer.outgoing();
            peer.send(&records);
        }),
        ("another key", |peer| {
            peer.tls.refresh_traffic_keys().unwrap();
            let records = peer.outgoing();
            peer.send(&records);
        }),
    ];
    for (what, send) in sent {
        for ending in [Ending::Closed, Ending::Reset] {
            let scratch = once();
            let mut peer = Peer::begun(&scratch);
            let end = peer.records(".\r\n");
            peer.send(&end);
            peer.hear("250 ");
            send(&mut peer);
            peer.end(ending);
            assert!(!is_delivered_again(&scratch), "{what}, {ending:?}");
        }
    }
}

/// A command that is sent behind the 250, in however many pieces.
#[test]
fn a_command_in_pieces_is_one() {
    for command in ["QUIT\r\n", "NOOP\r\n"] {
        let scratch = once();
        let mut peer = Peer::begun(&scratch);
        let end = peer.records(".\r\n");
        peer.send(&end);
        peer.hear("250 ");
        let records = [peer.records(&command[..2]), peer.records(&command[2..])].concat();
        for piece in records.chunks(5) {
            peer.send(piece);
        }
        peer.hear("2");
        peer.end(Ending::Closed);
        assert!(is_delivered_again(&scratch), "{command}");
    }
}

/// STARTTLS and a message, then QUIT: nothing of the handshake is in the way.
#[test]
fn a_usual_session_confirms() {
    let scratch = scratch("exactly_once once\n");
    for number in 1..=2 {
        let mut session = secured(&scratch);
        session.begin_message(&["fred@mx.example"]);
        session.send(format!("{TEXT}.\r\n"));
        assert!(session.expect("250 ").contains("delivery, id="));
        session.quit();
        assert_eq!(scratch.read("inbox").matches("Subject: once").count(), number);
    }
}
