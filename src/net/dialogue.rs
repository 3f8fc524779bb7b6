//! A connection to a server, over TCP or a Unix socket, plain or under TLS. Every wait ends at a deadline or when we
//! are asked to stop.
//!
//! What the server says unasked can be read at any time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::PollFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, socket_with};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, InvalidMessage, RootCertStore,
    SignatureScheme,
};

use super::client::{ClientFiles, Endpoint};
use super::conn::is_passing;
use super::patience::{Patience, SOCKET_FLAGS, connect_tcp, too_late};
use super::tls::flaw;

/// The connection. Errors: [`ErrorKind::Interrupted`] if we were asked to stop, [`ErrorKind::TimedOut`] if the time is
/// over, [`ErrorKind::UnexpectedEof`] if the server has closed the connection.
pub(crate) struct Dialogue {
    wire: Wire,
    tls: Option<Box<ClientConnection>>,
}

enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Which certificates are accepted in a handshake.
pub(crate) enum Believed {
    /// Any: this protects only against somebody who just listens.
    Anybody,
    /// One for the host's name from one of these authorities.
    From(RootCertStore),
}

impl Dialogue {
    /// Connects to the first of a server's addresses that answers.
    pub(crate) fn connect(server: &Endpoint, files: &ClientFiles, patience: Patience<'_>) -> anyhow::Result<Self> {
        let addresses = server.addresses(files, patience)?;
        let mut failures = Vec::new();
        for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
            // An address that does not answer must leave time for the others.
            let share =
                patience.until.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
            match Self::connect_to(address, patience.at_most(share)) {
                Ok(dialogue) => return Ok(dialogue),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error.into()),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        bail!("{}", failures.join("; "))
    }

    /// Connects to a server at this address.
    pub(crate) fn connect_to(address: &SocketAddr, patience: Patience<'_>) -> io::Result<Self> {
        connect_tcp(address, patience).map(|stream| Self { wire: Wire::Tcp(stream), tls: None })
    }

    /// The address of the server, if it is reached over TCP.
    pub(crate) fn peer_address(&self) -> Option<SocketAddr> {
        match &self.wire {
            Wire::Tcp(stream) => stream.peer_addr().ok(),
            Wire::Unix(_) => None,
        }
    }

    /// Connects to a server at a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> anyhow::Result<Self> {
        let connect = || -> io::Result<UnixStream> {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SOCKET_FLAGS, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(UnixStream::from(socket))
        };
        let stream = connect().with_context(|| path.display().to_string())?;
        Ok(Self { wire: Wire::Unix(stream), tls: None })
    }

    /// Begins TLS. The caller makes sure that no unread input is there: it would not be protected.
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
            let is_last = patience.is_over();
            self.wire.wait(PollFlags::POLLIN, patience)?;
            let read = match tls.read_tls(&mut self.wire) {
                Err(error) if is_passing(&error) => continue,
                read => read?,
            };
            if read == 0 {
                return Err(ended().into());
            }
            if let Err(error) = tls.process_new_packets() {
                // There may be an alert for the server.
                let _ = self.write_tls(&mut tls, patience);
                bail!("TLS: {}", failure(error));
            }
            if is_last && tls.is_handshaking() {
                return Err(too_late().into());
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

    /// Waits for more input and appends it.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>, patience: Patience<'_>) -> io::Result<()> {
        let before = into.len();
        loop {
            // Looks once more at the end, even if only records without text came until then.
            let is_last = patience.is_over();
            self.read_what_came(into)?;
            if into.len() > before {
                return Ok(());
            }
            if is_last {
                return Err(too_late());
            }
            self.wire.wait(PollFlags::POLLIN, patience)?;
        }
    }

    /// Appends input that has come, without waiting; not all of it, if there is much. A server could send TLS records
    /// without text forever.
    pub(crate) fn read_what_came(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut room = [0; 4096];
        for _ in 0..MOST_READS {
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
                // If the connection ended without notice, the reader reports it.
                (Ok(_), Some(tls)) => {
                    tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, flaw(error)))?;
                }
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (Err(error), _) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends everything.
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

    /// Tells the server under TLS that nothing more will come, if that is possible without waiting.
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
    /// Waits until reading or writing is possible.
    fn wait(&self, events: PollFlags, patience: Patience<'_>) -> io::Result<()> {
        let descriptor = match self {
            Wire::Tcp(stream) => stream.as_fd(),
            Wire::Unix(stream) => stream.as_fd(),
        };
        patience.wait_for(descriptor, events)
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

/// Why TLS failed, for the log: the texts of rustls do not say that they are about a certificate.
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
        // As with a server that expects STARTTLS first, or has no TLS.
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "what it says is not TLS".to_owned()
        }
        error => flaw(error),
    }
}

/// The name that webpki gives to an authority's certificate shown by a server; rustls passes it on as text only.
const OF_AN_AUTHORITY: &str = "CaUsedAsEndEntity";

fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")
}

/// Accepts any certificate, but only if the server has its private key.
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

/// How many reads are done before deadlines and signals are checked again.
const MOST_READS: usize = 8;

/// How long finding a server and connecting to it may take; Postfix waits half as long for each address.
pub(crate) const CONNECTING: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rustls::{ServerConfig, ServerConnection};
    use testkit::certificates::{Authority, Request};
    use testkit::{Folder, wait_until};

    use super::*;
    use crate::net::tls::{chain, private_key, read};

    /// Session tickets, of which a server can send as many as it likes: they are not read without end, whoever waits.
    #[test]
    fn what_says_nothing_is_not_read_for_ever() {
        let folder = Folder::new();
        let (certificate, key) = Authority::new().issue(&folder.path(""), "server", &Request::of(&["localhost"]));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
            let certificates = chain(&read(&certificate).unwrap()).unwrap();
            let key = private_key(&read(&key).unwrap()).unwrap();
            let mut config = builder.with_single_cert(certificates, key).unwrap();
            config.send_tls13_tickets = 2_000;
            let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            // Until it has got rid of them, or nobody is there any more.
            while (tls.is_handshaking() || tls.wants_write()) && tls.complete_io(&mut stream).is_ok() {}
        });
        let patience = Patience { until: Instant::now() + testkit::PATIENCE, signals: None };
        let mut dialogue = Dialogue::connect_to(&address, patience).unwrap();
        dialogue.start_tls("localhost", Believed::Anybody, patience).unwrap();
        // What is there, and what is left of it.
        let mut room = vec![0; 1 << 20];
        let waiting = |dialogue: &Dialogue, room: &mut [u8]| match &dialogue.wire {
            Wire::Tcp(stream) => stream.peek(room).unwrap_or(0),
            Wire::Unix(_) => 0,
        };
        let most = MOST_READS * 4096;
        let before =
            wait_until("the tickets", || Some(waiting(&dialogue, &mut room)).filter(|there| *there > most + 4096));
        let mut came = Vec::new();
        dialogue.read_what_came(&mut came).unwrap();
        assert!(came.is_empty() && waiting(&dialogue, &mut room) + most >= before);
        // Nor when the time is over.
        let over = Patience { until: Instant::now(), signals: None };
        assert_eq!(dialogue.read(&mut came, over).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(waiting(&dialogue, &mut room) > 0);
        drop(dialogue);
        server.join().unwrap();
    }
}
