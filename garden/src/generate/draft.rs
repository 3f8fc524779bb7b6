//! An ordinary mail, which the tables modify where they need to.

use std::time::Duration;

use crate::case::{Case, Part, Unit};
use crate::compare::text::with_replaced;

/// The parts of a mail, from which a case is made.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    hello: Vec<u8>,
    mail: Vec<u8>,
    recipients: Vec<Vec<u8>>,
    /// Lines of the header, or something in their place, with their ends.
    header: Vec<Vec<u8>>,
    /// The body, including the empty line in front of it.
    body: Vec<u8>,
    end: Vec<u8>,
    tail: Tail,
}

/// What follows the end of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// QUIT, after the end is answered.
    None,
    /// A second message, in one piece with the first.
    Blob,
    /// A second message, command by command, with a pause after each for the server's answer.
    Paced,
}

/// The sender, in envelope and header, of a second message behind something that does not end the first.
pub const FORGED_SENDER: &str = "forged@client.example";
/// The subject of that second message.
pub const FORGED_SUBJECT: &str = "forged __TOKEN__";
/// The subject of all other messages.
pub const SUBJECT: &str = "case __TOKEN__";

/// How long a server has to answer what it took for an end.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// How long it has to answer a command behind that.
const NEXT_PAUSE: Duration = Duration::from_millis(150);

impl Draft {
    /// A clean mail.
    pub(super) fn new() -> Self {
        let header = [
            "Date: Mon, 02 Nov 2026 10:20:30 +0000\r\n",
            "From: Sender <sender@client.example>\r\n",
            "To: Recipient <recipient@server.example>\r\n",
            "Message-ID: <__TOKEN__@client.example>\r\n",
            "Subject: case __TOKEN__\r\n",
        ];
        Self {
            hello: b"EHLO client.example\r\n".to_vec(),
            mail: b"MAIL FROM:<__SOURCE__>\r\n".to_vec(),
            recipients: vec![b"RCPT TO:<__DEST__>\r\n".to_vec()],
            header: header.map(|line| line.as_bytes().to_vec()).to_vec(),
            body: b"\r\nThe text of __TOKEN__.\r\n".to_vec(),
            end: b".\r\n".to_vec(),
            tail: Tail::None,
        }
    }

    pub(super) fn hello(self, line: &[u8]) -> Self {
        Self { hello: line.to_vec(), ..self }
    }

    /// The whole line of MAIL.
    pub(super) fn mail(self, line: &[u8]) -> Self {
        Self { mail: line.to_vec(), ..self }
    }

    /// The whole lines of RCPT.
    pub(super) fn recipients(self, lines: &[&[u8]]) -> Self {
        Self { recipients: lines.iter().map(|line| line.to_vec()).collect(), ..self }
    }

    /// Adds a line at the end of the header.
    pub(super) fn line(mut self, line: &[u8]) -> Self {
        self.header.push(line.to_vec());
        self
    }

    /// Adds a line at the beginning of the header.
    pub(super) fn first_line(mut self, line: &[u8]) -> Self {
        self.header.insert(0, line.to_vec());
        self
    }

    /// Removes the line with this name.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.header.retain(|line| !line.starts_with(format!("{name}: ").as_bytes()));
        self
    }

    /// Replaces the line with its name by this one.
    pub(super) fn instead(mut self, name: &str, line: &[u8]) -> Self {
        for old in &mut self.header {
            if old.starts_with(format!("{name}: ").as_bytes()) {
                *old = line.to_vec();
            }
        }
        self
    }

    /// Replaces the header by these lines.
    pub(super) fn header(self, lines: &[&[u8]]) -> Self {
        Self { header: lines.iter().map(|line| line.to_vec()).collect(), ..self }
    }

    /// Uses LF instead of CR LF in the header and in the empty line behind it.
    pub(super) fn lf_header(mut self) -> Self {
        for line in &mut self.header {
            *line = with_lf(line);
        }
        if let Some(rest) = self.body.strip_prefix(b"\r\n") {
            self.body = [b"\n", rest].concat();
        }
        self
    }

    /// Sets the text; an empty line is put in front of it.
    pub(super) fn text(self, text: &[u8]) -> Self {
        self.body([b"\r\n", text].concat())
    }

    /// Sets everything between header and end, including the empty line in front, if there should be one.
    pub(super) fn body(self, body: Vec<u8>) -> Self {
        Self { body, ..self }
    }

    /// Sets what should end the data, or should not.
    pub(super) fn end(self, end: &[u8]) -> Self {
        Self { end: end.to_vec(), ..self }
    }

    /// What should end the data, or should not.
    pub(super) fn end_octets(&self) -> &[u8] {
        &self.end
    }

    pub(super) fn tail(self, tail: Tail) -> Self {
        Self { tail, ..self }
    }

    /// The octets of the message with its end.
    pub(super) fn message(&self) -> Vec<u8> {
        [&self.header.concat()[..], &self.body, &self.end].concat()
    }

    /// The octets of the message without its end, for BDAT.
    pub(super) fn content(&self) -> Vec<u8> {
        [&self.header.concat()[..], &self.body].concat()
    }

    /// The case, sent command by command.
    pub(super) fn case(&self, name: impl Into<String>) -> Case {
        let mut units = self.envelope();
        units.extend([send(Part::Data, b"DATA\r\n"), expect("354")]);
        units.extend(self.text_units());
        match self.tail {
            Tail::None => {}
            Tail::Blob => units.push(send(Part::Tail, &forged().concat())),
            Tail::Paced => {
                units.push(Unit::Pause(FIRST_PAUSE));
                for (number, octets) in forged().iter().enumerate() {
                    if number > 0 {
                        units.push(Unit::Pause(NEXT_PAUSE));
                    }
                    units.push(send(Part::Tail, octets));
                }
            }
        }
        units.extend(quit());
        Case { name: name.into(), units }
    }

    /// Everything before DATA, command by command.
    pub(super) fn envelope(&self) -> Vec<Unit> {
        let mut units = vec![send(Part::Helo, &self.hello), expect("2"), send(Part::Mail, &self.mail), expect("2")];
        for line in &self.recipients {
            units.extend([send(Part::Rcpt, line), expect("2")]);
        }
        units
    }

    /// The message with its end, in one piece.
    pub(super) fn text_units(&self) -> Vec<Unit> {
        let mut units: Vec<_> = self.header.iter().map(|line| send(Part::Header, line)).collect();
        let others = [(Part::Body, &self.body), (Part::End, &self.end)];
        units.extend(others.iter().filter(|(_, octets)| !octets.is_empty()).map(|(part, octets)| send(*part, octets)));
        units
    }
}

/// Waits for any answer to the end, and ends the session.
pub(super) fn quit() -> Vec<Unit> {
    vec![expect(""), send(Part::Quit, b"QUIT\r\n"), expect("")]
}

/// A second transaction: its commands, and its message with the end.
pub(super) fn forged() -> [Vec<u8>; 4] {
    [
        format!("MAIL FROM:<{FORGED_SENDER}>\r\n").into_bytes(),
        b"RCPT TO:<__DEST__>\r\n".to_vec(),
        b"DATA\r\n".to_vec(),
        format!(
            "Date: Mon, 02 Nov 2026 10:20:31 +0000\r\nFrom: Forged <{FORGED_SENDER}>\r\n\
             To: Recipient <recipient@server.example>\r\nMessage-ID: <forged-__TOKEN__@client.example>\r\n\
             Subject: {FORGED_SUBJECT}\r\n\r\nThe forged text of __TOKEN__.\r\n.\r\n"
        )
        .into_bytes(),
    ]
}

pub(super) fn send(part: Part, octets: &[u8]) -> Unit {
    Unit::Send { part, octets: octets.to_vec() }
}

pub(super) fn expect(code: &str) -> Unit {
    Unit::Expect { code: code.to_owned() }
}

/// The octets with LF in place of each CR LF.
fn with_lf(octets: &[u8]) -> Vec<u8> {
    with_replaced(octets, b"\r\n", b"\n")
}
