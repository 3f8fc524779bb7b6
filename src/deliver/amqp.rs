//! `amqp EXCHANGE KEY`: publishes the message through a broker that speaks AMQP 0-9-1 (RabbitMQ).
//!
//! The message is persistent, has to reach a queue (`mandatory`), and counts as taken when the broker confirms it: then
//! it is where its queues keep it. A message that no queue takes is returned before the confirmation. This file has
//! only those parts of the protocol that are needed for this. Methods and numbers are those of the specification
//! (amqp0-9-1.xml); `confirm` and `basic.nack` are RabbitMQ's.

use std::io::{self, Read, Write};
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::brokers::{Connection, in_time};
use super::{Context, failure};
use crate::config::{AmqpUrl, Topic};
use crate::message::payload::{length_as_received, with_crlf};
use crate::message::{RecipientCopy, Spool, for_each_piece};
use crate::smtp::reply::Reply;
use crate::untrusted::Untrusted;

/// Publishes the message through the first broker that lets us in.
pub(super) fn publish(
    context: &Context<'_>,
    topic: &Topic,
    copy: RecipientCopy<'_>,
    spool: &mut Spool,
) -> Result<(), Reply> {
    let length = length_as_received(spool).map_err(|error| failure(&error, "reading the message again"))?;
    in_time(context, |until| {
        let doing = |url: &AmqpUrl| format!("publishing with the AMQP broker {url}");
        let mut failures = Vec::new();
        let urls = &context.config.amqp_urls;
        for (url, left) in urls.iter().zip((1..=urls.len()).rev()) {
            match Channel::open(context, url, until, left) {
                Ok(channel) => return channel.publish(topic, copy, length, spool).with_context(|| doing(url)),
                // Nothing was published yet, so the next broker may be tried.
                Err(error) => failures.push(format!("{}: {error:#}", doing(url))),
            }
        }
        bail!("{}", failures.join("; "))
    })
}

/// A channel in confirm mode, on a connection of its own.
struct Channel {
    connection: Connection,
    /// The largest frame in octets, with what surrounds its payload.
    frame_max: usize,
}

/// A frame that the broker sent.
struct Frame {
    kind: u8,
    channel: u16,
    payload: Vec<u8>,
}

impl Channel {
    /// Connects, logs in and opens the channel. If `tries` brokers are left, it may use its share of the time that is
    /// left.
    fn open(context: &Context<'_>, url: &AmqpUrl, until: Instant, tries: usize) -> anyhow::Result<Self> {
        let password = match &url.password {
            Some(password) => password.reveal().to_owned(),
            None => context.brokers.amqp_password()?,
        };
        let left = until.saturating_duration_since(Instant::now());
        let until_opened = Instant::now() + left / u32::try_from(tries.max(1)).unwrap_or(1);
        let connection = context.brokers.connect(&url.endpoint, url.uses_tls, until_opened)?;
        let mut channel = Self { connection, frame_max: SMALLEST_FRAME_MAX };
        channel.log_in(&url.user, &password)?;
        channel.tune()?;
        channel.open_with_confirms(&url.vhost)?;
        channel.connection.set_deadline(until);
        Ok(channel)
    }

    fn log_in(&mut self, user: &str, password: &str) -> anyhow::Result<()> {
        self.connection.write_all(b"AMQP\x00\x00\x09\x01")?;
        self.expect(CONNECTION_START)?;
        let mut start_ok = Arguments::default();
        start_ok.table(|table| {
            table.entry("product", |value| value.text("mailrecv"));
            table.entry("capabilities", |value| {
                value.table_value(|table| {
                    // These make the broker explain a wrong password, and say so if it takes nothing.
                    table.entry("authentication_failure_close", Arguments::yes);
                    table.entry("connection.blocked", Arguments::yes);
                });
            });
        });
        start_ok.short("PLAIN")?;
        start_ok.long(format!("\0{user}\0{password}").as_bytes());
        start_ok.short("en_US")?;
        Ok(self.method(0, CONNECTION_START_OK, start_ok)?)
    }

    /// Agrees on the size of frames, on one channel, and on no heartbeats, because there is a deadline.
    fn tune(&mut self) -> anyhow::Result<()> {
        let frame_max = match self.expect(CONNECTION_TUNE)?[..] {
            [_, _, a, b, c, d, ..] => usize::try_from(u32::from_be_bytes([a, b, c, d]))?,
            _ => bail!(CUT),
        };
        // 0 means no limit.
        self.frame_max =
            if frame_max == 0 { LARGEST_FRAME_MAX } else { frame_max.clamp(SMALLEST_FRAME_MAX, LARGEST_FRAME_MAX) };
        let mut tune_ok = Arguments::default();
        tune_ok.octets(&1u16.to_be_bytes());
        tune_ok.octets(&u32::try_from(self.frame_max)?.to_be_bytes());
        tune_ok.octets(&0u16.to_be_bytes());
        Ok(self.method(0, CONNECTION_TUNE_OK, tune_ok)?)
    }

    fn open_with_confirms(&mut self, vhost: &str) -> anyhow::Result<()> {
        let mut open = Arguments::default();
        open.short(vhost)?;
        open.short("")?;
        open.octets(&[0]);
        self.method(0, CONNECTION_OPEN, open)?;
        self.expect(CONNECTION_OPEN_OK)?;
        let mut open = Arguments::default();
        open.short("")?;
        self.method(CHANNEL, CHANNEL_OPEN, open)?;
        self.expect(CHANNEL_OPEN_OK)?;
        let mut select = Arguments::default();
        select.octets(&[0]);
        self.method(CHANNEL, CONFIRM_SELECT, select)?;
        self.expect(CONFIRM_SELECT_OK)?;
        Ok(())
    }

    /// Publishes the message, of `length` octets, and waits for the confirmation.
    fn publish(mut self, topic: &Topic, copy: RecipientCopy<'_>, length: u64, spool: &mut Spool) -> anyhow::Result<()> {
        let mut publish = Arguments::default();
        publish.octets(&0u16.to_be_bytes());
        publish.short(&topic.exchange)?;
        publish.short(&topic.key)?;
        publish.octets(&[MANDATORY]);
        while self.connection.has_spoken() {
            if let Some((method, _)) = self.next_method()? {
                bail!(unexpected(method));
            }
        }
        self.method(CHANNEL, BASIC_PUBLISH, publish)?;
        self.frame(HEADER, CHANNEL, &content_header(copy, length)?)?;
        let room = self.frame_max - FRAME_ENDS;
        let mut text = Vec::new();
        for_each_piece(spool.text()?, |piece| {
            text.clear();
            with_crlf(piece, &mut text);
            text.chunks(room).try_for_each(|piece| self.frame(BODY, CHANNEL, piece))
        })
        .context("sending")?;
        self.confirmed()?;
        // The message is taken, even if closing the connection fails.
        let mut close = Arguments::default();
        close.octets(&200u16.to_be_bytes());
        close.short("")?;
        close.octets(&[0; 4]);
        let _ = self.method(0, CONNECTION_CLOSE, close);
        Ok(())
    }

    /// Waits until the broker confirms, returns or refuses the message.
    fn confirmed(&mut self) -> anyhow::Result<()> {
        let mut returned = None;
        loop {
            let Some((method, arguments)) = self.next_method()? else { continue };
            match method {
                BASIC_RETURN => returned = Some(said(&arguments)?),
                BASIC_ACK if !confirms_the_first(&arguments) => bail!("the broker confirms what it was not given"),
                BASIC_ACK => match returned {
                    None => return Ok(()),
                    Some(said) => bail!("no queue takes it: {said}"),
                },
                BASIC_NACK => bail!("the broker or a queue refuses it (basic.nack)"),
                method => bail!(unexpected(method)),
            }
        }
    }

    /// Waits for this method; returns its arguments.
    fn expect(&mut self, wanted: Method) -> anyhow::Result<Vec<u8>> {
        loop {
            match self.next_method()? {
                Some((method, arguments)) if method == wanted => return Ok(arguments),
                Some((method, _)) => bail!(unexpected(method)),
                None => {}
            }
        }
    }

    /// The next method, or `None` if another frame came. It is an error, in the broker's words, if it closes the
    /// channel or the connection.
    fn next_method(&mut self) -> anyhow::Result<Option<(Method, Vec<u8>)>> {
        let Frame { kind, channel, mut payload } = self.read_frame()?;
        if kind != METHOD {
            return Ok(None);
        }
        let method = match payload[..] {
            [a, b, c, d, ..] => Method(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            _ => bail!(CUT),
        };
        if channel != method.channel() {
            bail!("{}, on channel {channel}", unexpected(method));
        }
        payload.drain(..4);
        match method {
            CONNECTION_CLOSE | CHANNEL_CLOSE => bail!(said(&payload)?),
            CONNECTION_BLOCKED => {
                let reason = short(&payload).unwrap_or_default();
                bail!("the broker takes nothing at the moment: '{}'", Untrusted::new(reason))
            }
            method => Ok(Some((method, payload))),
        }
    }

    fn read_frame(&mut self) -> anyhow::Result<Frame> {
        let mut header = [0; 7];
        self.read_exact(&mut header)?;
        let [kind, high, low, a, b, c, d] = header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        if ![METHOD, HEADER, BODY, HEARTBEAT].contains(&kind) || length > LARGEST_FRAME_MAX {
            bail!("what the broker says is not AMQP 0-9-1");
        }
        let mut payload = vec![0; length + 1];
        self.read_exact(&mut payload)?;
        match payload.pop() {
            Some(FRAME_END) => Ok(Frame { kind, channel: u16::from_be_bytes([high, low]), payload }),
            _ => bail!("a frame of the broker does not end where it should"),
        }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        match self.connection.read_exact(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bail!("the broker has closed the connection"),
            read => read.context("waiting for the broker"),
        }
    }

    fn method(&mut self, channel: u16, method: Method, arguments: Arguments) -> io::Result<()> {
        let Method(class, number) = method;
        self.frame(METHOD, channel, &[&class.to_be_bytes()[..], &number.to_be_bytes(), &arguments.0].concat())
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + FRAME_ENDS);
        frame.push(kind);
        frame.extend_from_slice(&channel.to_be_bytes());
        frame.extend_from_slice(&u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes());
        frame.extend_from_slice(payload);
        frame.push(FRAME_END);
        self.connection.write_all(&frame)
    }
}

/// The properties of the message: its size, and its envelope, without which nobody could deliver it.
fn content_header(copy: RecipientCopy<'_>, length: u64) -> anyhow::Result<Vec<u8>> {
    let envelope = copy.envelope;
    let mut header = Arguments::default();
    header.octets(&BASIC.to_be_bytes());
    header.octets(&0u16.to_be_bytes());
    header.octets(&length.to_be_bytes());
    header.octets(&(CONTENT_TYPE | HEADERS | DELIVERY_MODE | MESSAGE_ID).to_be_bytes());
    header.short("message/rfc822")?;
    header.table(|table| {
        table.entry("sender", |value| value.text(&envelope.transaction.reverse_path.to_string()));
        table.entry("recipient", |value| value.text(&copy.recipient.to_string()));
        table.entry("client_address", |value| value.text(&envelope.peer.address.to_string()));
    });
    header.octets(&[PERSISTENT]);
    header.short(envelope.id)?;
    Ok(header.0)
}

/// The arguments of a method, in the form in which they are sent.
#[derive(Default)]
struct Arguments(Vec<u8>);

impl Arguments {
    fn octets(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// Appends a text with its length in front, in one octet.
    fn short(&mut self, text: &str) -> anyhow::Result<()> {
        let length = u8::try_from(text.len()).context("a name is longer than 255 bytes")?;
        self.0.push(length);
        self.octets(text.as_bytes());
        Ok(())
    }

    /// Appends a text with its length in front, in four octets.
    fn long(&mut self, text: &[u8]) {
        self.octets(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.octets(text);
    }

    /// Appends a table, with the length of its entries in front.
    fn table(&mut self, write: impl FnOnce(&mut Self)) {
        let mut table = Self::default();
        write(&mut table);
        self.long(&table.0);
    }

    /// Appends an entry of a table; the names used here are short enough.
    fn entry(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        let _ = self.short(name);
        write(self);
    }

    /// Appends the value of an entry, with its type in front.
    fn text(&mut self, text: &str) {
        self.0.push(b'S');
        self.long(text.as_bytes());
    }

    fn table_value(&mut self, write: impl FnOnce(&mut Self)) {
        self.0.push(b'F');
        self.table(write);
    }

    fn yes(&mut self) {
        self.octets(b"t\x01");
    }
}

/// A method: its class and its number in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Method(u16, u16);

impl Method {
    /// The channel that it belongs to.
    fn channel(self) -> u16 {
        let Self(class, _) = self;
        if class == CONNECTION { 0 } else { CHANNEL }
    }
}

/// Whether these arguments of `basic.ack` confirm the first message of the channel: by its number, or together with all
/// messages so far, for which the number may be 0.
fn confirms_the_first(arguments: &[u8]) -> bool {
    let Some((number, rest)) = arguments.split_first_chunk() else { return false };
    match (u64::from_be_bytes(*number), rest) {
        (1, [_]) => true,
        (0, [flags]) => flags & MULTIPLE != 0,
        _ => false,
    }
}

/// The reply code and text with which the arguments of some methods begin.
fn said(arguments: &[u8]) -> anyhow::Result<String> {
    let (code, rest) = arguments.split_first_chunk().context(CUT)?;
    let text = short(rest).context(CUT)?;
    Ok(format!("the broker says '{} {}'", u16::from_be_bytes(*code), Untrusted::new(text)))
}

/// Reads a text with its length in front.
fn short(arguments: &[u8]) -> Option<&[u8]> {
    let (length, rest) = arguments.split_first()?;
    rest.get(..usize::from(*length))
}

fn unexpected(Method(class, number): Method) -> String {
    format!("the broker says something unexpected: method {number} of class {class}")
}

const CONNECTION_START: Method = Method(10, 10);
const CONNECTION_START_OK: Method = Method(10, 11);
const CONNECTION_TUNE: Method = Method(10, 30);
const CONNECTION_TUNE_OK: Method = Method(10, 31);
const CONNECTION_OPEN: Method = Method(10, 40);
const CONNECTION_OPEN_OK: Method = Method(10, 41);
const CONNECTION_CLOSE: Method = Method(10, 50);
const CONNECTION_BLOCKED: Method = Method(10, 60);
const CHANNEL_OPEN: Method = Method(20, 10);
const CHANNEL_OPEN_OK: Method = Method(20, 11);
const CHANNEL_CLOSE: Method = Method(20, 40);
const BASIC_PUBLISH: Method = Method(60, 40);
const BASIC_RETURN: Method = Method(60, 50);
const BASIC_ACK: Method = Method(60, 80);
const BASIC_NACK: Method = Method(60, 120);
const CONFIRM_SELECT: Method = Method(85, 10);
const CONFIRM_SELECT_OK: Method = Method(85, 11);

/// The class of methods about the connection, and the number of our only channel.
const CONNECTION: u16 = 10;
const CHANNEL: u16 = 1;

/// The flag of a confirmation that covers several messages.
const MULTIPLE: u8 = 1;

/// Kinds of frames.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;

/// How many octets of a frame surround its payload.
const FRAME_ENDS: usize = 8;

/// The frame size that every broker accepts, and the one that RabbitMQ has by default.
const SMALLEST_FRAME_MAX: usize = 4096;
const LARGEST_FRAME_MAX: usize = 131_072;

/// The class of content.
const BASIC: u16 = 60;

/// Flags for the properties that a message has.
const CONTENT_TYPE: u16 = 1 << 15;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const MESSAGE_ID: u16 = 1 << 7;

/// The delivery mode of messages that outlive a restart of the broker.
const PERSISTENT: u8 = 2;

/// The flag of a message that has to reach a queue.
const MANDATORY: u8 = 1;

/// The error for arguments that are cut short.
const CUT: &str = "a method of the broker is cut short";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_as_the_specification_has_them() {
        let mut arguments = Arguments::default();
        arguments.table(|table| {
            table.entry("a", |value| value.text("xy"));
            table.entry("b", Arguments::yes);
        });
        arguments.short("key").unwrap();
        assert_eq!(arguments.0, b"\0\0\0\x0d\x01aS\0\0\0\x02xy\x01bt\x01\x03key");
        assert!(arguments.short(&"x".repeat(256)).is_err());
    }

    #[test]
    fn a_confirmation_is_about_the_one_message() {
        let number = |number: u64, flags: u8| [&number.to_be_bytes()[..], &[flags]].concat();
        for ours in [number(1, 0), number(1, 1), number(0, 1)] {
            assert!(confirms_the_first(&ours), "{ours:?}");
        }
        let cut = [b"".to_vec(), vec![0; 7], vec![0, 0, 0, 0, 0, 0, 0, 1], [number(1, 0), vec![0]].concat()];
        for other in [number(0, 0), number(2, 0), number(2, 1), number(u64::MAX, 1)].into_iter().chain(cut) {
            assert!(!confirms_the_first(&other), "{other:?}");
        }
    }

    #[test]
    fn what_the_broker_says_is_shown_and_not_believed() {
        assert_eq!(said(b"\x01\x94\x09NOT_FOUND").unwrap(), "the broker says '404 NOT_FOUND'");
        assert_eq!(said(b"\x01\x94\x03a\nb").unwrap(), "the broker says '404 a<0x0a>b'");
        for cut in [&b""[..], b"\x01", b"\x01\x94", b"\x01\x94\x09NOT"] {
            assert!(said(cut).is_err());
        }
    }
}
