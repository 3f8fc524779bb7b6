//! A connection that is read while it is written to; otherwise a server that answers much, while much is sent to it,
//! would wait for us and we for it. In the clear or under TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// A connection to a server.
pub(crate) struct Connection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// The result of a step.
pub(crate) enum Step {
    /// Something came, or could be sent.
    Done,
    /// Nothing happened until the time was over.
    TooLong,
    /// The other end closed or reset the connection, or sent something that is not TLS.
    Over,
}

impl Connection {
    /// A connection over this socket, in the clear.
    pub(crate) fn over(socket: TcpStream) -> Result<Self> {
        socket.set_nonblocking(true).context("making a socket one that does not block")?;
        let _ = socket.set_nodelay(true);
        Ok(Self { socket, tls: None })
    }

    /// From here on everything is encrypted. [`Connection::until_flushed`] does the handshake.
    ///
    /// # Errors
    ///
    /// The TLS library does not support the versions that it should.
    pub(crate) fn begin_tls(&mut self) -> Result<()> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let anyone = Arc::new(Anyone(Arc::clone(&provider)));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(anyone)
            .with_no_client_auth();
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let mut connection = ClientConnection::new(Arc::new(config), name)?;
        connection.set_buffer_limit(None);
        self.tls = Some(Box::new(connection));
        Ok(())
    }

    /// Sends all of this, and does the handshake if it is due. Input that comes meanwhile is appended to `incoming`.
    pub(crate) fn until_flushed(&mut self, mut outgoing: &[u8], incoming: &mut Vec<u8>, until: Instant) -> Step {
        loop {
            if outgoing.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking() && !tls.wants_write()) {
                return Step::Done;
            }
            match self.step(&mut outgoing, incoming, until) {
                Step::Done => {}
                ended => return ended,
            }
        }
    }

    /// Waits until there is input, or, if there is something to send, until some of it was sent; `outgoing` becomes the
    /// rest.
    pub(crate) fn step(&mut self, outgoing: &mut &[u8], incoming: &mut Vec<u8>, until: Instant) -> Step {
        if let Some(tls) = &mut self.tls
            && !outgoing.is_empty()
        {
            // The buffer has no limit, so this cannot fail.
            let _ = tls.writer().write_all(outgoing);
            *outgoing = &[];
        }
        let has_something = self.tls.as_ref().map_or(!outgoing.is_empty(), |tls| tls.wants_write());
        let wanted = if has_something { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut descriptors = [PollFd::new(&self.socket, wanted)];
        let time = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut descriptors, time.as_ref()) {
            Ok(0) => return Step::TooLong,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Step::Done,
            Err(_) => return Step::Over,
        }
        let ready = descriptors[0].revents();
        // Reading comes first: what the server said before it closed must not be lost because a write fails.
        let mut is_over = ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !self.read(incoming);
        if ready.contains(PollFlags::OUT) && !is_over {
            is_over = !self.write(outgoing);
        }
        if is_over { Step::Over } else { Step::Done }
    }

    /// Reads once; returns whether more may come.
    fn read(&mut self, incoming: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 16 << 10];
        let Some(tls) = &mut self.tls else {
            return match self.socket.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => {
                    incoming.extend_from_slice(&buffer[..length]);
                    true
                }
                Err(error) => is_only_later(&error),
            };
        };
        match tls.read_tls(&mut self.socket) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return is_only_later(&error),
        }
        let is_well = tls.process_new_packets().is_ok();
        while let Ok(length @ 1..) = tls.reader().read(&mut buffer) {
            incoming.extend_from_slice(&buffer[..length]);
        }
        is_well
    }

    /// Writes once; returns whether more can be sent.
    fn write(&mut self, outgoing: &mut &[u8]) -> bool {
        let written = match &mut self.tls {
            Some(tls) => tls.write_tls(&mut self.socket).map(|_| 0),
            None => self.socket.write(outgoing),
        };
        match written {
            Ok(length) => {
                *outgoing = &outgoing[length..];
                true
            }
            Err(error) => is_only_later(&error),
        }
    }
}

fn is_only_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Accepts any certificate: servers of a garden make their own, and nothing secret is sent to them.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
