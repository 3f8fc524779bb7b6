//! The messages that every client is to send: what clients, the protocol and the formats of mailboxes might trip over.

use memchr::memmem;

use crate::wire::Transaction;

/// A message, by what is peculiar about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Lines that begin with dots, and one that is a dot.
    Dots,
    /// UTF-8 in the text, as it is (8BITMIME).
    Utf8,
    /// Five megabytes.
    Large,
    /// One of three recipients is refused.
    Refused,
    /// A line of 5,000 characters.
    LongLine,
    /// No byte at all.
    Empty,
    /// Text without a header.
    NoHeader,
    /// LF in place of CRLF, also in front of a dot, which then begins no line (RFC 5321, 2.3.8).
    Lf,
    /// A CR alone.
    Cr,
    /// A NUL.
    Nul,
    /// Lines that begin with `From `, also behind `>`, and empty ones at the end, as a mailbox has them.
    From,
    /// A sender as long as those of bounces and forwarded mail are.
    LongSender,
}

impl Kind {
    /// All of them, as columns of the table.
    pub const ALL: [Self; 13] = [
        Self::Plain,
        Self::Dots,
        Self::Utf8,
        Self::Large,
        Self::Refused,
        Self::LongLine,
        Self::Empty,
        Self::NoHeader,
        Self::Lf,
        Self::Cr,
        Self::Nul,
        Self::From,
        Self::LongSender,
    ];

    /// The head of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Dots => "dots",
            Self::Utf8 => "UTF-8",
            Self::Large => "5 MB",
            Self::Refused => "refused",
            Self::LongLine => "long line",
            Self::Empty => "empty",
            Self::NoHeader => "no header",
            Self::Lf => "LF",
            Self::Cr => "CR",
            Self::Nul => "NUL",
            Self::From => "From",
            Self::LongSender => "sender",
        }
    }

    /// The address in MAIL.
    pub fn sender(self) -> &'static str {
        if self == Self::LongSender { LONG_SENDER } else { SENDER }
    }

    /// The addresses in RCPT.
    pub fn recipients(self) -> &'static [&'static str] {
        if self == Self::Refused { &[IN_MAILDIR, NOBODY, IN_MAILBOX] } else { &[IN_MAILDIR, IN_MAILBOX] }
    }

    /// The message, with LF behind each line.
    pub fn message(self) -> String {
        let text = match self {
            Self::Plain | Self::Refused | Self::LongSender => "Test message line 1.\nTest line 2.\n",
            Self::Dots => ".\n..\n.dot\n...\nno dot\n.\n",
            Self::Utf8 => "\u{e4}\u{f6}\u{fc}\n\u{1f4e8} and \u{20ac}\n",
            Self::Large => &LARGE_LINE.repeat(LARGE / LARGE_LINE.len() + 1),
            Self::LongLine => &format!("{}\nthe end\n", "x".repeat(LONG_LINE)),
            Self::Empty => return String::new(),
            Self::NoHeader => return "no header here\nnor here\n".to_owned(),
            Self::Lf => "one\ntwo\n.three\n",
            Self::Cr => "one\rtwo\nthree\n",
            Self::Nul => "one\0two\nthree\n",
            Self::From => "From here\n>From there\n>>From everywhere\nFrom: not quoted\n\nFrom me@client.example\n\n\n",
        };
        format!(
            "From: Me <{SENDER}>\n\
             To: {IN_MAILDIR}, {IN_MAILBOX}\n\
             Date: Sat, 28 Nov 2026 01:32:50 +0000\n\
             Message-ID: <{self:?}@client.example>\n\
             Subject: {}\n\
             MIME-Version: 1.0\n\
             Content-Type: text/plain; charset=utf-8\n\
             Content-Transfer-Encoding: 8bit\n\
             \n\
             {text}",
            self.name()
        )
    }

    /// Whether what is peculiar about it is there, as it went over the wire.
    pub fn is_in(self, transaction: &Transaction) -> bool {
        let text = transaction.text.as_deref().unwrap_or_default();
        let has = |part: &str| memmem::find(text, part.as_bytes()).is_some();
        match self {
            Self::Plain => has("\r\nTest message line 1.\r\nTest line 2.\r\n"),
            Self::Dots => has("\r\n.\r\n..\r\n.dot\r\n...\r\nno dot\r\n.\r\n"),
            Self::Utf8 => has("\r\n\u{e4}\u{f6}\u{fc}\r\n\u{1f4e8} and \u{20ac}\r\n"),
            Self::Large => text.len() > LARGE,
            Self::Refused => transaction.refused.iter().any(|(address, _)| address == NOBODY),
            Self::LongLine => has(&format!("{}\r\n", "x".repeat(LONG_LINE))),
            // Some put a line end behind everything.
            Self::Empty => text == b"" || text == b"\r\n",
            Self::NoHeader => text.starts_with(b"no header here\r\n"),
            Self::Lf => has("one\ntwo"),
            Self::Cr => has("one\rtwo"),
            Self::Nul => has("one\0two"),
            Self::From => has("\r\nFrom here\r\n>From there\r\n>>From everywhere\r\nFrom: not quoted\r\n\r\nFrom me"),
            Self::LongSender => transaction.sender == LONG_SENDER,
        }
    }
}

/// Who sends.
pub const SENDER: &str = "me@client.example";
/// Who gets messages into a maildir, where they are as they came.
pub const IN_MAILDIR: &str = "fred@mx.example";
/// Who gets messages into a mailbox, where lines are escaped.
pub const IN_MAILBOX: &str = "mary@mx.example";
/// Who is refused.
pub const NOBODY: &str = "nobody@mx.example";

/// What it is told. A client that does not send to fewer recipients than it was given sends nothing, and says this.
pub const REFUSAL: &str = "nobody by this name";

/// As a provider forwards mail: the local part is longer than the 64 octets that everybody must take.
const LONG_SENDER: &str = "someuser+caf_=website_8b506e99-b5c5-4e14-8294-f5ebd6083faa=mail.example.in@forward.example";

const LARGE: usize = 5_000_000;
const LARGE_LINE: &str = "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,;:-_\n";
const LONG_LINE: usize = 5000;
