//! TLS for the client. What it sends and reads goes through a thread that encrypts and decrypts it, so that whatever a
//! client can do it can do under TLS.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion};

use crate::{Client, PATIENCE};

/// A client's side of TLS. Used for several connections, it takes up earlier sessions again.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    ending: Ending,
}

/// How a client ends what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It says so (close_notify).
    Orderly,
    /// It ends the connection without a word, as somebody in between could.
    Silent,
    /// It breaks the connection off with a RST.
    Reset,
}

/// What came of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1_3`, say.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// Whether an earlier session was taken up again.
    pub is_resumed: bool,
    /// The server's own certificate.
    pub certificate: Vec<u8>,
}

impl TlsClient {
    /// One that trusts this authority and wants this server.
    pub fn new(authority: &Path, name: &str) -> Self {
        Self::with_versions(authority, name, rustls::ALL_VERSIONS)
    }

    /// The same with these versions only.
    pub fn with_versions(authority: &Path, name: &str, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(authority).expect("an authority's certificate")).expect("the same");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions of TLS")
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a server's name");
        Self { config: Arc::new(config), name, ending: Ending::Orderly }
    }

    /// A connection of it that nothing has been sent on.
    pub fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config.clone(), self.name.clone())
    }

    /// The same with another end.
    pub fn ending(&self, ending: Ending) -> Self {
        Self { ending, ..self.clone() }
    }
}

impl Client {
    /// STARTTLS and the handshake.
    #[track_caller]
    pub fn start_tls(&mut self, tls: &TlsClient) -> Agreed {
        self.exchange("STARTTLS", "220 ");
        self.begin_tls(tls)
    }

    /// The handshake alone.
    #[track_caller]
    pub fn begin_tls(&mut self, tls: &TlsClient) -> Agreed {
        self.try_begin_tls(tls).unwrap_or_else(|error| panic!("no TLS: {error}"))
    }

    /// Does the handshake. From then on everything goes over TLS.
    pub fn try_begin_tls(&mut self, tls: &TlsClient) -> io::Result<Agreed> {
        let connection = tls.connection().map_err(io::Error::other)?;
        let (input, output) = self.ends();
        let mut bridge = Bridge { connection, input, output, ending: tls.ending };
        while bridge.connection.is_handshaking() {
            bridge.send()?;
            if bridge.connection.is_handshaking() && bridge.receive()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        bridge.send()?;
        let connection = &bridge.connection;
        let agreed = Agreed {
            version: format!("{:?}", connection.protocol_version().expect("a version")),
            cipher: format!("{:?}", connection.negotiated_cipher_suite().expect("a cipher suite").suite()),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: connection.peer_certificates().expect("a certificate")[0].to_vec(),
        };
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.expect("a pair of sockets");
        self.replace_ends(ours);
        thread::spawn(move || bridge.run(File::from(theirs)));
        Ok(agreed)
    }
}

/// Between the client and the network.
struct Bridge {
    connection: ClientConnection,
    input: File,
    output: File,
    ending: Ending,
}

impl Bridge {
    /// Carries from one side to the other until one of them is gone. Neither is told of an error but by the end.
    fn run(mut self, mut client: File) -> io::Result<()> {
        let mut room = vec![0; 1 << 16];
        let mut is_sending = true;
        // What came with the end of the handshake.
        self.hand_on(&mut client)?;
        loop {
            let mut waiting = vec![PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
            if is_sending {
                waiting.push(PollFd::new(client.as_fd(), PollFlags::POLLIN));
            }
            poll(&mut waiting, PollTimeout::NONE)?;
            let has_come = |place: usize| waiting.get(place).is_some_and(|waiting| waiting.any() == Some(true));
            let (from_network, from_client) = (has_come(0), has_come(1));
            if from_client {
                let length = client.read(&mut room)?;
                self.connection.writer().write_all(&room[..length])?;
                if length == 0 {
                    is_sending = false;
                    if self.ending == Ending::Reset {
                        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                        setsockopt(&self.output, sockopt::Linger, &linger)?;
                        return Ok(());
                    }
                    if self.ending == Ending::Orderly {
                        self.connection.send_close_notify();
                    }
                }
                self.send()?;
                if !is_sending {
                    socket::shutdown(self.output.as_raw_fd(), socket::Shutdown::Write)?;
                }
            }
            if from_network {
                let is_over = self.receive()? == 0;
                self.hand_on(&mut client)?;
                self.send()?;
                if is_over {
                    return Ok(());
                }
            }
        }
    }

    fn hand_on(&mut self, client: &mut File) -> io::Result<()> {
        let mut text = Vec::new();
        // What there is: behind it more may come, or the end, said or not.
        let _ = self.connection.reader().read_to_end(&mut text);
        client.write_all(&text)
    }

    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.output) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(&self.output, PollFlags::POLLOUT)?,
                written => drop(written?),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        wait(&self.input, PollFlags::POLLIN)?;
        let length = self.connection.read_tls(&mut self.input)?;
        if let Err(error) = self.connection.process_new_packets() {
            // The other side is told why.
            let _ = self.send();
            return Err(io::Error::other(error));
        }
        Ok(length)
    }
}

fn wait(descriptor: &File, events: PollFlags) -> io::Result<()> {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(descriptor.as_fd(), events)], timeout)? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
