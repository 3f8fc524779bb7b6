//! Servers that speak AMQP up to a point, and then say something else. The specification is amqp0-9-1.xml; what a real one
//! says is in `amqp.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use testkit::LOOPBACK;

use crate::support::{LOG, Scratch};
use crate::{message, send};

/// At each stage: what is not an answer costs nobody a message, and what is between the answers does not matter.
#[test]
fn a_server_that_says_something_else_takes_no_mail() {
    let close = method(0, 10, 50, &[&[1, 0x40, 5], &b"GO \x1b["[..], &[0; 4]].concat());
    for stage in 0..STAGES {
        let nothing = format!("method 80 of class 60{}", if stage == LAST { ", on channel 0" } else { "" });
        for (said, cause) in [
            (Vec::new(), "the broker has closed the connection"),
            (close.clone(), "the broker says '320 GO <0x1b><0x5b>'"),
            (method(1, 20, 40, &[1, 0x94, 2, b'n', b'o', 0, 0, 0, 0]), "the broker says '404 no'"),
            (frame(METHOD, 0, &[0, 10, 0, 10, 0])[..11].to_vec(), "the broker has closed the connection"),
            (frame(METHOD, 0, &[0, 10]), "a method of the broker is cut short"),
            (frame(METHOD, 0, b""), "a method of the broker is cut short"),
            (method(0, 10, 50, &[1]), "a method of the broker is cut short"),
            (method(0, 10, 50, &[1, 0x40, 255, b'x']), "a method of the broker is cut short"),
            (method(0, 60, 80, ONE), &*nothing),
            (frame(9, 0, b"x"), "what the broker says is not AMQP 0-9-1"),
            (vec![METHOD, 0, 0, 255, 255, 255, 255], "what the broker says is not AMQP 0-9-1"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "what the broker says is not AMQP 0-9-1"),
            (b"AMQP\0\0\x09\x01".to_vec(), "what the broker says is not AMQP 0-9-1"),
            ([&[METHOD, 0, 0, 0, 0, 0, 4], &[0; 5][..]].concat(), "does not end where it should"),
        ] {
            refuses(broker(stage, said), cause).unwrap_or_else(|log| panic!("{stage}: {cause}: {log}"));
        }
        let between = [frame(HEARTBEAT, 0, b"").repeat(1000), frame(BODY, 1, &[0; 4000])].concat();
        takes(broker(stage, [between, answer(stage)].concat())).unwrap_or_else(|log| panic!("{stage}: {log}"));
    }
}

/// What is confirmed has to be the one message, after it was sent.
#[test]
fn a_confirmation_of_something_else_is_none() {
    let number = |number: u64, flags: u8| [&number.to_be_bytes()[..], &[flags]].concat();
    for (stage, said) in [
        (LAST, method(1, 60, 80, &number(2, 0))),
        (LAST, method(1, 60, 80, &number(0, 0))),
        (LAST, method(2, 60, 80, ONE)),
        (LAST, method(1, 60, 80, b"")),
        (LAST, method(1, 60, 80, &[0; 4000])),
        (LAST, method(1, 60, 120, ONE)),
        (LAST, [method(1, 60, 50, &[1, 0x38, 2, b'n', b'o', 0, 0]), answer(LAST)].concat()),
        (LAST - 1, [answer(LAST - 1), answer(LAST)].concat()),
    ] {
        refuses(broker(stage, said.clone()), "").unwrap_or_else(|log| panic!("{said:?}: {log}"));
    }
    for said in [number(1, 1), number(0, 1)] {
        takes(broker(LAST, method(1, 60, 80, &said))).unwrap_or_else(|log| panic!("{said:?}: {log}"));
    }
}

/// The log, if a message was taken, or is in the backup, or the log does not say why.
fn refuses(broker: SocketAddr, cause: &str) -> Result<(), String> {
    let (reply, backup, log) = publish(broker);
    let is_refused = reply == "451 4.3.0 Cannot deliver this message now, try again later" && backup == 0;
    if is_refused && log.contains(cause) && !log.contains("guessed") { Ok(()) } else { Err(format!("{reply}: {log}")) }
}

/// The log, if a message was not taken.
fn takes(broker: SocketAddr) -> Result<(), String> {
    let (reply, backup, log) = publish(broker);
    if reply.starts_with("250 ") && backup == 1 { Ok(()) } else { Err(format!("{reply}: {log}")) }
}

fn publish(broker: SocketAddr) -> (String, usize, String) {
    let scratch = Scratch::with_config(&format!(
        "domain mx.example\namqp_url amqp://mail:guessed@{broker}\ndeliver rcpt_to * amqp trap spam\n\
         copy rcpt_to * maildir backup\n"
    ));
    let mut session = scratch.greeted();
    let reply = send(&mut session, &message("text"));
    session.quit();
    (reply.to_string(), scratch.count_files("backup"), scratch.read(LOG))
}

/// A server that answers as it should, and at this stage says something else and has no more to say.
fn broker(stage: usize, said: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        let goes_on = said.ends_with(&answer(stage));
        for (now, frames) in FRAMES_BEHIND.into_iter().enumerate() {
            // Whoever does not like what we say hangs up.
            let says = if now == stage { said.clone() } else { answer(now) };
            let _ = client.write_all(&says);
            if now == stage && !goes_on || (0..frames).any(|_| read_frame(&mut client).is_none()) {
                break;
            }
        }
        let _ = client.shutdown(std::net::Shutdown::Write);
        let _ = client.read_to_end(&mut Vec::new());
    });
    address
}

fn read_frame(client: &mut TcpStream) -> Option<()> {
    let mut header = [0; 7];
    client.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    client.read_exact(&mut vec![0; length as usize + 1]).ok()
}

/// What the server says when all is well.
fn answer(stage: usize) -> Vec<u8> {
    match stage {
        0 => method(0, 10, 10, b"\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US"),
        1 => method(0, 10, 30, &[0, 1, 0, 2, 0, 0, 0, 0]),
        2 => method(0, 10, 41, &[0]),
        3 => method(1, 20, 11, &[0; 4]),
        4 => method(1, 85, 11, b""),
        _ => method(1, 60, 80, ONE),
    }
}

fn method(channel: u8, class: u8, number: u8, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&[0, class, 0, number], arguments].concat())
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, channel], &length[..], payload, &[0xce]].concat()
}

const METHOD: u8 = 1;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// The first message, and no other.
const ONE: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 1, 0];

/// How many frames come behind each answer: who we are; what was agreed and where; the channel; confirmations; the message
/// in three.
const FRAMES_BEHIND: [usize; STAGES] = [1, 2, 1, 1, 3, 0];
const STAGES: usize = 6;
const LAST: usize = STAGES - 1;
