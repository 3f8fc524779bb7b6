//! A connection to a server that is spoken with, over TCP or at a Unix socket, plain or under TLS: every wait ends at a
//! deadline, and when we are asked to stop.
//!
//! Nothing here blocks but poll(2). What has come unasked can be looked at at any time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, InvalidMessage, RootCertStore,
    SignatureScheme,
};

use super::client::{ClientFiles, Endpoint};
use super::conn::{Woken, wait};
use super::tls::flaw;
use crate::signals::Signals;

/// How long something is waited for, and what ends the waiting besides.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'p> {
    /// Until when.
    pub(crate) until: Instant,
    /// Where a request to stop is told, if that is to end it.
    pub(crate) signals: Option<&'p Signals>,
}

/// The connection. What fails because we were asked to stop is [`ErrorKind::Interrupted`], what takes too long
/// [`ErrorKind::TimedOut`], and what the server has ended [`ErrorKind::UnexpectedEof`].
pub(crate) struct Dialogue {
    wire: Wire,
    tls: Option<Box<ClientConnection>>,
}

enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whom TLS is begun with.
pub(crate) enum Believed {
    /// Anybody: that keeps out who only listens.
    Anybody,
    /// Who has a certificate for this host from one of these.
    From(RootCertStore),
}

impl Dialogue {
    /// Connects to the first of a server's addresses that answers; that address as well.
    pub(crate) fn connect(
        server: &Endpoint,
        files: &ClientFiles,
        patience: Patience<'_>,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let addresses = server.addresses(files, patience.until)?;
        let mut failures = Vec::new();
        for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
            // One that nobody answers from must leave time for the next.
            let share =
                patience.until.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
            match connect_tcp(address, Patience { until: Instant::now() + share, ..patience }) {
                Ok(stream) => return Ok((Self { wire: Wire::Tcp(stream), tls: None }, *address)),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error.into()),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        bail!("{}", failures.join("; "))
    }

    /// Connects to a server at a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> anyhow::Result<Self> {
        let connect = || -> io::Result<UnixStream> {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(UnixStream::from(socket))
        };
        let stream = connect().with_context(|| path.display().to_string())?;
        Ok(Self { wire: Wire::Unix(stream), tls: None })
    }

    /// Begins TLS. Nothing may have come in the clear that is not read: it would not be the server's.
    pub(crate) fn start_tls(&mut self, host: &str, believed: Believed, patience: Patience<'_>) -> anyhow::Result<()> {
        let provider = Arc::new(ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let config = match believed {
            Believed::From(authorities) => config.with_root_certificates(authorities),
            Believed::Anybody => {
                config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            }
        };
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .context("no certificate can be for this name")?;
        let mut tls = ClientConnection::new(Arc::new(config.with_no_client_auth()), name)?;
        while tls.is_handshaking() {
            if tls.wants_write() {
                self.write_tls(&mut tls, patience)?;
                continue;
            }
            self.wire.wait(PollFlags::POLLIN, patience)?;
            let read = match tls.read_tls(&mut self.wire) {
                Err(error) if is_passing(&error) => continue,
                read => read?,
            };
            if read == 0 {
                return Err(ended().into());
            }
            if let Err(error) = tls.process_new_packets() {
                // The server may be told by an alert.
                let _ = self.write_tls(&mut tls, patience);
                bail!("TLS: {}", failure(error));
            }
        }
        self.write_tls(&mut tls, patience)?;
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Whether the connection is under TLS.
    pub(crate) fn is_under_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Waits for more of what the server says and adds it.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>, patience: Patience<'_>) -> io::Result<()> {
        let before = into.len();
        loop {
            self.read_what_came(into)?;
            if into.len() > before {
                return Ok(());
            }
            self.wire.wait(PollFlags::POLLIN, patience)?;
        }
    }

    /// Adds what has come, without waiting for anything.
    pub(crate) fn read_what_came(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut room = [0; 4096];
        loop {
            if let Some(tls) = &mut self.tls {
                match tls.reader().read(&mut room) {
                    Ok(0) => return Err(ended()),
                    Ok(length) => {
                        into.extend_from_slice(&room[..length]);
                        return Ok(());
                    }
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            let read = match &mut self.tls {
                None => self.wire.read(&mut room),
                Some(tls) => tls.read_tls(&mut self.wire),
            };
            match (read, &mut self.tls) {
                (Ok(0), None) => return Err(ended()),
                (Ok(length), None) => {
                    into.extend_from_slice(&room[..length]);
                    return Ok(());
                }
                // An end that was not announced is told by the reader.
                (Ok(_), Some(tls)) => {
                    tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, flaw(error)))?;
                }
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (Err(error), _) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// Sends all of it.
    pub(crate) fn write(&mut self, mut text: &[u8], patience: Patience<'_>) -> io::Result<()> {
        let Some(mut tls) = self.tls.take() else {
            while !text.is_empty() {
                match self.wire.write(text) {
                    Ok(length) => text = &text[length..],
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.wire.wait(PollFlags::POLLOUT, patience)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        };
        let mut sent = Ok(());
        while sent.is_ok() && !text.is_empty() {
            sent = tls.writer().write(text).and_then(|length| {
                text = &text[length..];
                self.write_tls(&mut tls, patience)
            });
        }
        self.tls = Some(tls);
        sent
    }

    /// Says that nothing more will come, as far as that can be said at once.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut self.wire);
        }
    }

    fn write_tls(&mut self, tls: &mut ClientConnection, patience: Patience<'_>) -> io::Result<()> {
        while tls.wants_write() {
            match tls.write_tls(&mut self.wire) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wire.wait(PollFlags::POLLOUT, patience)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Wire {
    /// Waits until this is possible.
    fn wait(&self, events: PollFlags, patience: Patience<'_>) -> io::Result<()> {
        let descriptor = match self {
            Wire::Tcp(stream) => stream.as_fd(),
            Wire::Unix(stream) => stream.as_fd(),
        };
        wait_for(descriptor, events, patience)
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(stream) => stream.read(buffer),
            Wire::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(stream) => stream.write(text),
            Wire::Unix(stream) => stream.write(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(address: &SocketAddr, patience: Patience<'_>) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => wait_for(socket.as_fd(), PollFlags::POLLOUT, patience)?,
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.take_error()?.map_or(Ok(()), Err)?;
    // A command is a small write, and so is what is left of a text.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn wait_for(descriptor: BorrowedFd<'_>, events: PollFlags, patience: Patience<'_>) -> io::Result<()> {
    loop {
        if patience.signals.is_some_and(Signals::stop_requested) {
            return Err(io::Error::new(ErrorKind::Interrupted, "we were asked to stop"));
        }
        if Instant::now() >= patience.until {
            // It may have come while we did something else.
            let mut descriptors = [PollFd::new(descriptor, events)];
            return match poll(&mut descriptors, PollTimeout::ZERO) {
                Ok(1..) => Ok(()),
                _ => Err(io::Error::new(ErrorKind::TimedOut, "no answer in time")),
            };
        }
        match wait(descriptor, events, patience.signals, patience.until) {
            Ok(Woken::Ready) => return Ok(()),
            Ok(Woken::Signal | Woken::Nothing) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why there is no TLS, for who reads the log: what rustls says of a certificate does not say that it is about one.
fn failure(error: rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is from no authority that is believed".to_owned()
        }
        error @ rustls::Error::InvalidCertificate(_) => {
            let flaw = flaw(error);
            let why = if flaw == OF_AN_AUTHORITY {
                "it is that of an authority (CA:TRUE), as openssl makes them, and of no server: make it anew with \
                 `basicConstraints=CA:FALSE`"
            } else {
                &flaw
            };
            format!("its certificate is not to be believed: {why}")
        }
        // As of a server that expects STARTTLS first, or has no TLS.
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "what it says is not TLS".to_owned()
        }
        error => flaw(error),
    }
}

/// What webpki calls a certificate that issues others and is shown by a server; rustls passes that on as a text.
const OF_AN_AUTHORITY: &str = "CaUsedAsEndEntity";

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")
}

/// Takes any certificate, but only from who has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// How long a server may take to be found and to accept a connection: Postfix waits half as long for each address.
pub(crate) const CONNECTING: Duration = Duration::from_mins(1);
