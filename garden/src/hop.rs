//! The next hop, to which servers pass mail on: it keeps what comes over the wire, octet by octet.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::observation::{Envelope, Message, Place};

/// How it answers.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The lines of its reply to EHLO behind the first: its extensions.
    pub extensions: Vec<String>,
    /// Complete replies to verbs, in place of the usual ones; `.` stands for the end of the data.
    pub instead: Vec<(String, String)>,
}

impl Default for Answers {
    fn default() -> Self {
        let extensions = ["PIPELINING", "SIZE 0", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        Self { extensions: extensions.map(String::from).to_vec(), instead: Vec::new() }
    }
}

/// A next hop that is listening.
#[derive(Debug)]
pub struct Hop {
    messages: Arc<Mutex<Vec<Message>>>,
    address: SocketAddr,
}

impl Hop {
    /// Listens here as long as the process lives.
    ///
    /// # Errors
    ///
    /// The address cannot be used, or the thread cannot be made.
    pub fn start(address: SocketAddr, answers: Answers) -> Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listening on {address}, as the next hop"))?;
        let address = listener.local_addr()?;
        let messages = Arc::new(Mutex::new(Vec::new()));
        let (kept, answers) = (Arc::clone(&messages), Arc::new(answers));
        thread::Builder::new().name("next hop".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answers) = (Arc::clone(&kept), Arc::clone(&answers));
                // If the thread cannot be made, the server will try again.
                let _ = thread::Builder::new().name("next hop".into()).spawn(move || {
                    // If a connection breaks, the messages that were complete are kept.
                    let _ = receive(stream, &answers, &kept);
                });
            }
        })?;
        Ok(Self { messages, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The complete messages since the last call.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Holds a session. Like the standard, it ends lines at CRLF only, and data at CRLF `.` CRLF only (RFC 5321, 2.3.8 and
/// 4.1.1.4).
fn receive(stream: TcpStream, answers: &Answers, kept: &Mutex<Vec<Message>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let answer = |verb: &str, usual: &str| {
        let instead = answers.instead.iter().find(|(name, _)| name.eq_ignore_ascii_case(verb));
        let reply = instead.map_or(usual, |(_, reply)| reply);
        (&stream).write_all(format!("{reply}\r\n").as_bytes())?;
        Ok::<bool, std::io::Error>(reply.starts_with(['2', '3']))
    };
    answer("", "220 next-hop.garden ESMTP")?;
    let mut envelope = Envelope { mail: String::new(), recipients: Vec::new() };
    while let Some(line) = line(&mut lines)? {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        let verb = text.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let argument = text.split_once(':').map_or("", |(_, argument)| argument).trim().to_owned();
        match &*verb {
            "EHLO" => {
                let mut reply = String::from("250-next-hop.garden\r\n");
                for extension in &answers.extensions {
                    reply += &format!("250-{extension}\r\n");
                }
                answer("EHLO", &(reply + "250 HELP"))?;
            }
            "MAIL" => {
                if answer("MAIL", "250 2.1.0 Sender taken")? {
                    envelope = Envelope { mail: argument, recipients: Vec::new() };
                }
            }
            "RCPT" => {
                if answer("RCPT", "250 2.1.5 Recipient taken")? {
                    envelope.recipients.push(argument);
                }
            }
            "DATA" if envelope.recipients.is_empty() => {
                answer("DATA", "554 5.5.1 No recipients")?;
            }
            "DATA" => {
                if !answer("DATA", "354 Go on")? {
                    continue;
                }
                let Some(octets) = data(&mut lines)? else { return Ok(()) };
                let message = Message { place: Place::Wire, envelope: Some(envelope.clone()), octets };
                envelope.recipients.clear();
                // It is kept before it is answered, so that whoever has the reply can ask for the message.
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                answer(".", "250 2.0.0 Message taken")?;
            }
            "QUIT" => {
                answer("QUIT", "221 2.0.0 Bye")?;
                return Ok(());
            }
            "RSET" => {
                envelope.recipients.clear();
                answer("RSET", "250 2.0.0 Forgotten")?;
            }
            "HELO" | "NOOP" | "VRFY" | "HELP" => {
                answer(&verb, "250 2.0.0 Very well")?;
            }
            _ => {
                answer(&verb, "500 5.5.2 This verb is not known")?;
            }
        }
    }
    Ok(())
}

/// A line up to and including its CRLF; `None` at the end.
fn line(from: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line.ends_with(b"\r\n") {
            return Ok(Some(line));
        }
    }
}

/// All octets of the data, including the final dot and its line end; `None` if the connection ends before.
fn data(from: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut octets = Vec::new();
    while let Some(line) = line(from)? {
        octets.extend_from_slice(&line);
        if line == b".\r\n" {
            return Ok(Some(octets));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Read;

    use super::*;

    fn session(hop: &Hop, octets: &[u8]) -> String {
        let mut stream = TcpStream::connect(hop.address()).unwrap();
        stream.write_all(octets).unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).unwrap();
        replies
    }

    fn hop(answers: Answers) -> Hop {
        Hop::start(([127, 0, 0, 1], 0).into(), answers).unwrap()
    }

    #[test]
    fn what_comes_is_kept_octet_by_octet() {
        let hop = hop(Answers::default());
        let data = b"Subject: x\r\n\r\na\n.\nb\r.\r\n..c\0\xff\r\n.\r\n";
        let commands = b"EHLO me\r\nMAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n";
        let replies = session(&hop, &[&commands[..], data, b"QUIT\r\n"].concat());
        assert!(replies.contains("\r\n354 ") && replies.ends_with("\r\n221 2.0.0 Bye\r\n"), "{replies}");
        let envelope = Envelope { mail: "<a@b> SIZE=1".into(), recipients: vec!["<c@d>".into(), "<e@f>".into()] };
        let expected = Message { place: Place::Wire, envelope: Some(envelope), octets: data.to_vec() };
        assert_eq!((hop.take(), hop.take()), (vec![expected], vec![]));
    }

    #[test]
    fn two_messages_are_two() {
        let hop = hop(Answers::default());
        let message = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n";
        session(&hop, format!("HELO me\r\n{message}{message}QUIT\r\n").as_bytes());
        assert_eq!(hop.take().len(), 2);
    }

    #[test]
    fn it_answers_as_it_is_told() {
        let instead = vec![("RCPT".into(), "450 later".into())];
        let hop = hop(Answers { instead, ..Answers::default() });
        let replies = session(&hop, b"HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nQUIT\r\n");
        assert!(replies.contains("\r\n450 later\r\n554 5.5.1 "), "{replies}");
        assert_eq!(hop.take(), []);
    }

    #[test]
    fn half_a_message_is_none() {
        let hop = hop(Answers::default());
        let mut stream = TcpStream::connect(hop.address()).unwrap();
        stream.write_all(b"HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(hop.take(), []);
    }
}
