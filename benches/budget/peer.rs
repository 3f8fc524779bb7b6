//! The peer's side of a session, in the clear or under TLS, and how sessions begin.
//!
//! The test kit's client does TLS in a thread. The switches between threads would be in each figure, so here is one that
//! waits in its reads and does nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, HandshakeKind, StreamOwned};
use testkit::{Client, PATIENCE, TlsClient};

use crate::Result;
use crate::auth::Login;

/// How a session begins: with a greeting and EHLO, unless something else is said here.
#[derive(Clone, Default)]
pub(crate) struct Opening {
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<Tls>,
    pub(crate) login: Option<Login>,
}

#[derive(Clone, Copy, Default)]
pub(crate) enum Protocol {
    #[default]
    Smtp,
    Lmtp,
}

#[derive(Clone)]
pub(crate) enum Tls {
    StartTls(Handshake),
    /// In front of the greeting.
    Implicit(Handshake),
}

/// A client's handshake, and what it has to be: another kind is no result.
#[derive(Clone)]
pub(crate) struct Handshake {
    pub(crate) client: TlsClient,
    pub(crate) kind: HandshakeKind,
}

pub(crate) enum Peer {
    /// And its connection, where TLS can begin.
    Clear(Client, TcpStream),
    Tls(Box<BufReader<StreamOwned<ClientConnection, TcpStream>>>),
}

impl Peer {
    pub(crate) fn begin_tls(&mut self, handshake: &Handshake) -> Result<()> {
        let Self::Clear(_, stream) = self else { return Err("TLS under TLS".into()) };
        let mut stream = stream.try_clone()?;
        // The client in the clear waits with poll(2).
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = handshake.client.connection()?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        if connection.handshake_kind() != Some(handshake.kind) {
            return Err(format!("a handshake of this kind: {:?}", connection.handshake_kind()).into());
        }
        *self = Self::Tls(Box::new(BufReader::new(StreamOwned::new(connection, stream))));
        Ok(())
    }

    /// Sends bytes as they are. That nobody takes them is noticed by whoever reads next.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self {
            Self::Clear(client, _) => client.send(bytes),
            Self::Tls(stream) => {
                let stream = stream.get_mut();
                let _ = stream.write_all(bytes.as_ref()).and_then(|()| stream.flush());
            }
        }
    }

    /// A whole reply.
    pub(crate) fn try_reply(&mut self) -> Result<String> {
        let stream = match self {
            Self::Clear(client, _) => return Ok(client.try_reply()?),
            Self::Tls(stream) => stream,
        };
        let mut reply = String::new();
        loop {
            let line = reply.len();
            if stream.read_line(&mut reply)? == 0 {
                return Err("the connection was closed".into());
            }
            if reply.as_bytes().get(line + 3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn try_rest(&mut self) -> Result<Vec<u8>> {
        match self {
            Self::Clear(client, _) => Ok(client.try_rest()?),
            Self::Tls(stream) => {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest)?;
                Ok(rest)
            }
        }
    }
}
