//! `hpfeeds CHANNEL`: publishes the message through a broker (hpfeeds.org).
//!
//! The protocol has no frame for "taken", only one for "refused", and a broker handles one frame after the other. So we
//! send an empty message behind the real one under a name that is not ours, [`NOBODY`], which every broker refuses:
//! when it says so, it has passed on the real one before. Nothing else counts as taken, in particular not that the
//! broker closes the connection, which also happens if it is killed with the message in its hands.
//!
//! A frame is its length (which includes these first five bytes), its kind, and its content. A string has its length in
//! front, one byte.

use std::io::{Read, Write};

use anyhow::{Context as _, anyhow, bail};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::brokers::{Connection, in_time};
use super::{Context, failure};
use crate::config::Payload;
use crate::message::Spool;
use crate::message::payload::{as_received, json};
use crate::smtp::reply::{self, Reply};
use crate::untrusted::Untrusted;

/// Publishes the message in a channel, unless that was done for another recipient: subscribers do not see recipients. A
/// message that is larger than brokers take is refused permanently.
pub(super) fn publish(context: &Context<'_>, channel: &str, spool: &mut Spool) -> Result<(), Reply> {
    if spool.is_published(channel) {
        return Ok(());
    }
    let ident = context.config.hpfeeds_ident.as_deref().unwrap_or_default();
    let room = MAX_BODY.saturating_sub(ident.len() + channel.len() + 2);
    let message = as_received(spool, room).map_err(|error| failure(&error, "reading the message again"))?;
    let payload = message.map(|message| match context.config.hpfeeds_payload {
        Payload::Json => json(&message),
        Payload::Raw => message,
    });
    let Some(payload) = payload.filter(|payload| payload.len() <= room) else {
        return Err(reply::too_large_for_broker(room));
    };
    in_time(context, |until| {
        let config = context.config;
        let broker = config.hpfeeds_broker.as_ref().context("there is no `hpfeeds_broker`")?;
        let doing = || format!("publishing with the hpfeeds broker {broker}");
        let secret = match &config.hpfeeds_secret {
            Some(secret) if config.hpfeeds_secret_file.is_none() => secret.reveal().to_owned(),
            _ => context.brokers.hpfeeds_secret()?,
        };
        let connection = context.brokers.connect(broker, config.hpfeeds_tls, until).with_context(doing)?;
        Publisher { ident, secret: &secret, connection }.publish(channel, &payload).with_context(doing)
    })?;
    spool.set_published(channel);
    Ok(())
}

/// A connection to a broker, and our name and secret there.
struct Publisher<'a> {
    ident: &'a str,
    secret: &'a str,
    connection: Connection,
}

impl Publisher<'_> {
    fn publish(mut self, channel: &str, payload: &[u8]) -> anyhow::Result<()> {
        let nonce = match self.frame(MAX_INFO)? {
            Some((Kind::Info, body)) => nonce(&body)?,
            Some((Kind::Error, text)) => bail!(refused(&text)),
            None => bail!("the broker has closed the connection before it said who it is"),
        };
        if self.connection.has_spoken() {
            return Err(match self.frame(MAX_ERROR)? {
                Some((Kind::Error, text)) => anyhow!(refused(&text)),
                Some((Kind::Info, _)) | None => anyhow!(TWICE),
            });
        }
        let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[&nonce, self.secret.as_bytes()].concat());
        let mut frames = Vec::new();
        put_frame(AUTH, &[&string(self.ident), proof.as_ref()], &mut frames)?;
        put_frame(PUBLISH, &[&string(self.ident), &string(channel), payload], &mut frames)?;
        put_frame(PUBLISH, &[&string(NOBODY), &string(NOBODY)], &mut frames)?;
        let sent = self.connection.write_all(&frames);
        match (sent, self.frame(MAX_ERROR)) {
            (Ok(()), Ok(Some((Kind::Error, text)))) if self.is_about_nobody(&text, channel) => Ok(()),
            (_, Ok(Some((Kind::Error, text)))) => bail!(refused(&text)),
            (Err(error), _) => Err(error).context("sending"),
            (Ok(()), Ok(Some((Kind::Info, _)))) => bail!(TWICE),
            (Ok(()), Ok(None)) => bail!("the broker has closed the connection without an answer to the message"),
            (Ok(()), Err(error)) => Err(error),
        }
    }

    /// Whether an error is about the empty message behind the real one, and cannot be about anything else.
    fn is_about_nobody(&self, text: &[u8], channel: &str) -> bool {
        let names_us = [self.ident, channel].iter().any(|name| name.contains(NOBODY));
        !names_us && String::from_utf8_lossy(text).contains(NOBODY)
    }

    /// Reads the next frame; `None` if the broker has closed the connection before a frame began.
    fn frame(&mut self, longest: usize) -> anyhow::Result<Option<(Kind, Vec<u8>)>> {
        let mut header = Vec::new();
        (&mut self.connection).take(HEADER as u64).read_to_end(&mut header).context("waiting for the broker")?;
        let (length, kind) = match header[..] {
            [] => return Ok(None),
            [a, b, c, d, kind] => (usize::try_from(u32::from_be_bytes([a, b, c, d]))?, kind),
            _ => bail!(CUT),
        };
        let length = match length.checked_sub(HEADER) {
            Some(length) if length <= longest => length,
            _ => bail!("the broker announces {length} bytes: that is not hpfeeds"),
        };
        let mut body = Vec::new();
        (&mut self.connection).take(length as u64).read_to_end(&mut body).context("waiting for the broker")?;
        if body.len() < length {
            bail!(CUT);
        }
        match kind {
            ERROR => Ok(Some((Kind::Error, body))),
            INFO => Ok(Some((Kind::Info, body))),
            other => bail!("the broker sends a frame of kind {other}, which is for subscribers"),
        }
    }
}

/// The frames that a broker sends to publishers.
enum Kind {
    Error,
    Info,
}

/// Reads the nonce, which follows the broker's name.
fn nonce(info: &[u8]) -> anyhow::Result<Vec<u8>> {
    let nonce = info.split_first().and_then(|(length, rest)| rest.get(usize::from(*length)..));
    nonce.map(<[u8]>::to_vec).context("the broker's first frame is cut short: that is not hpfeeds")
}

fn refused(text: &[u8]) -> String {
    format!("the broker says '{}'", Untrusted::new(text))
}

/// A string with its length in front. The configuration accepts none that is too long for one byte.
fn string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[length], text.as_bytes()].concat()
}

fn put_frame(kind: u8, parts: &[&[u8]], into: &mut Vec<u8>) -> anyhow::Result<()> {
    let length = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    into.extend_from_slice(&u32::try_from(length)?.to_be_bytes());
    into.push(kind);
    parts.iter().for_each(|part| into.extend_from_slice(part));
    Ok(())
}

const ERROR: u8 = 0;
const INFO: u8 = 1;
const AUTH: u8 = 2;
const PUBLISH: u8 = 3;

/// A name that no broker knows. It is the same everywhere, because brokers count errors by name.
const NOBODY: &str = "mailrecv-confirm";

/// The length of a frame's length and kind.
const HEADER: usize = 5;

/// The most octets behind the header that a broker takes in one frame; to more it answers with a reset.
const MAX_BODY: usize = 1 << 20;

/// The most octets that are read of a broker's first frame, and of an error.
const MAX_INFO: usize = 1024;
const MAX_ERROR: usize = MAX_BODY;

/// What is said of a broker that begins anew.
const TWICE: &str = "the broker has said twice who it is";

/// What is said of a frame that does not come whole.
const CUT: &str = "the broker has closed the connection in the middle of a frame";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_protocol_has_them() {
        let mut frames = Vec::new();
        put_frame(PUBLISH, &[&string("me"), &string("spam.mails"), b"text"], &mut frames).unwrap();
        assert_eq!(frames, b"\x00\x00\x00\x17\x03\x02me\x0aspam.mailstext");
    }

    #[test]
    fn a_nonce_is_all_that_is_left() {
        assert_eq!(nonce(b"\x02hp1234").unwrap(), b"1234");
        assert_eq!(nonce(b"\x00").unwrap(), b"");
        assert!(nonce(b"").is_err());
        assert!(nonce(b"\x05hp").is_err());
    }
}
