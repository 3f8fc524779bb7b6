//! What a recording of a connection says, read by the letter of RFC 5321 and RFC 3030 and with none of mailrecv's own code.

use memchr::memmem;
use testkit::Recording;

/// A transaction, from MAIL to the reply behind the text.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// What the client said after EHLO or HELO.
    pub hello: String,
    /// The address of MAIL.
    pub sender: String,
    /// The addresses of RCPT that were accepted.
    pub recipients: Vec<String>,
    /// Those that were not, each with its reply.
    pub refused: Vec<(String, String)>,
    /// The text with the dots taken out that were put in for the way, line ends as they were sent; none if it did not come
    /// to its end.
    pub text: Option<Vec<u8>>,
    /// The last reply.
    pub reply: String,
}

impl Transaction {
    /// Whether the server has taken the message.
    pub fn is_accepted(&self) -> bool {
        self.text.is_some() && self.reply.starts_with("250")
    }

    /// The text as a file has it, with LF for CRLF.
    pub fn text_in_file(&self) -> Vec<u8> {
        let (mut rest, mut text) = (self.text.as_deref().unwrap_or_default(), Vec::new());
        while let Some((line, behind)) = split(rest, CRLF) {
            text.extend_from_slice(line);
            text.push(b'\n');
            rest = behind;
        }
        text.extend_from_slice(rest);
        text
    }
}

/// All transactions of a connection.
pub fn transactions(recording: &Recording) -> Vec<Transaction> {
    let mut replies = replies(&recording.server).into_iter();
    let (mut rest, mut hello) = (&recording.client[..], String::new());
    // Of a message that comes in chunks (RFC 3030).
    let mut chunks = Vec::new();
    let mut all: Vec<Transaction> = Vec::new();
    // The greeting comes unasked.
    replies.next();
    while let Some((line, behind)) = split(rest, b"\n") {
        rest = behind;
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        let reply = replies.next().unwrap_or_default();
        let accepted = reply.starts_with('2');
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match (&*verb, all.last_mut()) {
            ("EHLO" | "HELO", _) => hello = line.get(5..).unwrap_or_default().to_owned(),
            ("MAIL", _) => {
                all.push(Transaction { hello: hello.clone(), sender: address(&line), reply, ..Transaction::default() });
            }
            ("RCPT", Some(transaction)) if accepted => transaction.recipients.push(address(&line)),
            ("RCPT", Some(transaction)) => transaction.refused.push((address(&line), reply)),
            ("DATA", Some(transaction)) if reply.starts_with("354") => {
                let Some((text, behind)) = text(rest) else { break };
                transaction.text = Some(text);
                transaction.reply = replies.next().unwrap_or_default();
                rest = behind;
            }
            ("DATA", Some(transaction)) => transaction.reply = reply,
            ("BDAT", Some(transaction)) => {
                let mut words = line.split_whitespace().skip(1);
                let octets: usize = words.next().and_then(|octets| octets.parse().ok()).unwrap();
                let Some((chunk, behind)) = rest.split_at_checked(octets) else { break };
                chunks.extend_from_slice(chunk);
                rest = behind;
                if words.next().is_some() {
                    transaction.text = Some(std::mem::take(&mut chunks));
                }
                transaction.reply = reply;
            }
            _ => {}
        }
    }
    all
}

/// The replies of a server, lines joined by LF.
fn replies(said: &[u8]) -> Vec<String> {
    let (mut all, mut reply) = (Vec::new(), String::new());
    for line in String::from_utf8_lossy(said).split_terminator("\r\n") {
        reply += line;
        if line.as_bytes().get(3) == Some(&b'-') {
            reply += "\n";
        } else {
            all.push(std::mem::take(&mut reply));
        }
    }
    all
}

/// What stands in angle brackets.
fn address(command: &str) -> String {
    let inside = command.split_once('<').and_then(|(_, behind)| behind.split_once('>'));
    inside.unwrap_or_else(|| panic!("no address in {command:?}")).0.to_owned()
}

/// The text in front of CRLF `.` CRLF, its last line end included, and what comes behind (RFC 5321, 4.5.2).
fn text(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    loop {
        let (line, behind) = split(rest, CRLF)?;
        rest = behind;
        match line.strip_prefix(b".") {
            Some(b"") => return Some((text, rest)),
            Some(unstuffed) => text.extend_from_slice(unstuffed),
            None => text.extend_from_slice(line),
        }
        text.extend_from_slice(CRLF);
    }
}

fn split<'t>(text: &'t [u8], at: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let place = memmem::find(text, at)?;
    Some((&text[..place], &text[place + at.len()..]))
}

const CRLF: &[u8] = b"\r\n";
