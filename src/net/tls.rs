//! TLS on the peer's connection (RFC 8446, RFC 5246), by rustls with ring: certificates and keys, and encryption and
//! decryption of a session.
//!
//! Most sessions do without TLS, so nothing is read for them: certificates and keys are opened while that is possible,
//! and are read and checked when a peer asks for TLS.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, HandshakeKind, InvalidMessage, PeerIncompatible, ProtocolVersion, ServerConfig,
    ServerConnection,
};

use super::ticket::Tickets;
use crate::unread::Unread;

/// The files that TLS needs, opened and not read yet.
#[derive(Debug, Default)]
pub struct Keys {
    /// Pairs of certificate and key. The first pair is also for peers that name no server, or an unknown one.
    pairs: Vec<(Unread, Unread)>,
    /// The key for session tickets.
    ticket_key: Option<Unread>,
    /// Whether the handshake has begun, after which the peer reads nothing but TLS.
    is_begun: Cell<bool>,
}

impl Keys {
    /// Opens the files; there are as many keys as certificates, in the same order. A file that cannot be opened is an
    /// error only when it is needed.
    pub(crate) fn open(certificates: &[PathBuf], keys: &[PathBuf], ticket_key: Option<&Path>) -> Self {
        let pairs = certificates.iter().zip(keys);
        Self {
            pairs: pairs.map(|(certificate, key)| (Unread::open(certificate), Unread::open(key))).collect(),
            ticket_key: ticket_key.map(Unread::open),
            is_begun: Cell::new(false),
        }
    }

    /// Takes note that the handshake begins, so that from now on the peer reads nothing but TLS.
    pub(crate) fn begin(&self) {
        self.is_begun.set(true);
    }

    /// Whether the handshake has begun.
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun.get()
    }

    /// Reads the files for a handshake. It is an error if one of them cannot be read or does not fit the others.
    pub(crate) fn acceptor(&self) -> anyhow::Result<Acceptor> {
        let provider = ring::default_provider();
        let identity = |(certificate, key): &(Unread, Unread)| {
            let chain = certificate.parsed(chain)?;
            key.parsed(|text| identity(chain, private_key(text)?, &provider)).map(Arc::new)
        };
        let identities: Vec<_> = self.pairs.iter().map(identity).collect::<Result<_, _>>()?;
        if identities.is_empty() {
            bail!("there is no certificate");
        }
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByName(identities)));
        // The server remembers nothing from one session for another; the peer may keep a ticket.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(key) = &self.ticket_key {
            config.ticketer = Arc::new(key.parsed(Tickets::new)?);
            config.send_tls13_tickets = 1;
        }
        Ok(Acceptor(Arc::new(config)))
    }
}

/// Everything that a handshake needs.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<ServerConfig>);

/// Reads a file of certificates or a key in the same way as sessions do.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    Unread::open(path).read()
}

/// Reads certificates, the server's own first. An error says why there are none.
pub(crate) fn chain(text: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_mark(text)).collect();
    let chain = chain.context("has a certificate that is not PEM")?;
    if chain.is_empty() {
        if memchr::memmem::find(text, b"PRIVATE KEY-----").is_some() {
            bail!("has a private key and no certificate: name it behind `tls_key`");
        }
        bail!("has no certificate in PEM form, which begins with `-----BEGIN CERTIFICATE-----`");
    }
    Ok(chain)
}

/// Reads a private key. An error says why there is none.
pub(crate) fn private_key(text: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(without_mark(text)) {
        // The word is in the first line (RFC 7468, 11) or in the next (RFC 1421, 4.6.1.1).
        Err(_) if memchr::memmem::find(text, b"ENCRYPTED").is_some() => bail!(
            "has an encrypted key, and nobody is there to type its password: decrypt it with \
             `openssl pkey -in FILE -out NEWFILE`"
        ),
        Err(pem::Error::NoItemsFound) if memchr::memmem::find(text, b"BEGIN CERTIFICATE-----").is_some() => {
            bail!("has a certificate and no private key: name it behind `tls_certificate`")
        }
        Err(pem::Error::NoItemsFound) => {
            bail!("has no private key in PEM form, which begins with `-----BEGIN PRIVATE KEY-----`")
        }
        private_key => private_key.context("has a key that is not PEM"),
    }
}

/// Removes the byte order mark that some editors put in front; with it the first line would not be PEM.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Combines certificates with their key. An error says why they do not fit.
pub(crate) fn identity(
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> anyhow::Result<CertifiedKey> {
    let Ok(key) = provider.key_provider.load_private_key(private_key) else {
        bail!("has a key that is neither RSA of 2048 to 8192 bits, nor ECDSA P-256 or P-384, nor Ed25519");
    };
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) => Ok(identity),
        Err(rustls::Error::InconsistentKeys(_)) => {
            bail!(
                "has the key of another certificate than the first in its `tls_certificate`: pairs are in the same order"
            )
        }
        Err(error) => bail!("cannot be held against the certificate, which cannot be read: {}", flaw(error)),
    }
}

/// The message of rustls. For certificates the inner message is used, because the outer one assumes that it is a
/// peer's.
pub(crate) fn flaw(error: rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(error)) => error.to_string(),
        rustls::Error::InvalidCertificate(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Chooses the certificate for the name that the peer asks for (SNI, RFC 6066, section 3).
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    /// The first certificate that fits the name and can be used with this peer; or the first that can be used; or, if
    /// none can, the very first, because rustls then reports what the two sides do not have in common.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_be_used =
            |identity: &&Arc<CertifiedKey>| identity.key.choose_scheme(hello.signature_schemes()).is_some();
        let mut usable = self.0.iter().filter(can_be_used);
        let first = usable.clone().next();
        let name = hello.server_name().filter(|_| self.0.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let for_name = name.and_then(|name| usable.find(|identity| is_for(identity, &name)));
        for_name.or(first).or(self.0.first()).cloned()
    }
}

fn is_for(identity: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = identity.cert.first().and_then(|own| ParsedCertificate::try_from(own).ok());
    certificate.is_some_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

/// What client and server have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsParameters {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, by its name in IANA's list.
    pub cipher: String,
    /// The server name that the peer asked for (SNI).
    pub server_name: Option<String>,
    /// Whether the session was resumed with a ticket.
    pub is_resumed: bool,
}

impl fmt::Display for TlsParameters {
    /// In the form for `Received` fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with cipher {}", self.version, self.cipher)
    }
}

/// The server's side of TLS; all input and output passes through it.
pub(super) struct Tls {
    connection: Box<ServerConnection>,
    records: RecordBounds,
}

impl Tls {
    pub(super) fn new(acceptor: Acceptor) -> io::Result<Self> {
        let mut tls = ServerConnection::new(acceptor.0).map_err(io::Error::other)?;
        // Replies are short, and each batch is written before the next is made.
        tls.set_buffer_limit(None);
        Ok(Self { connection: Box::new(tls), records: RecordBounds::default() })
    }

    /// Takes input; returns how many bytes that were, 0 at the end. After an error there may be an alert to send.
    pub(super) fn receive(&mut self, from: impl Read) -> io::Result<usize> {
        let length = self.connection.read_tls(&mut Followed { from, records: &mut self.records })?;
        self.connection.process_new_packets().map_err(|error| io::Error::other(broken(&error)))?;
        Ok(length)
    }

    /// Reads decrypted text, 0 bytes at the end; [`io::ErrorKind::WouldBlock`] if more input is needed. An end without
    /// notice counts as the end, because SMTP itself says where a message ends.
    pub(super) fn plaintext(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.connection.reader().read(into) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }

    /// Whether there is input that was not read: decrypted text, or the beginning of a record.
    pub(super) fn has_input(&mut self) -> bool {
        let has_text = self.connection.process_new_packets().map_or(true, |state| state.plaintext_bytes_to_read() > 0);
        has_text || self.records.are_within_one()
    }

    /// Encrypts text, and returns everything that has to be sent.
    pub(super) fn seal(&mut self, text: &[u8]) -> io::Result<Vec<u8>> {
        self.connection.writer().write_all(text)?;
        let mut records = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut records)?;
        }
        Ok(records)
    }

    /// Encrypts the last text, followed by the notice that nothing more will come (RFC 8446, 6.1).
    pub(super) fn close_behind(&mut self, text: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(text)?;
        self.connection.send_close_notify();
        Ok(())
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn parameters(&self) -> TlsParameters {
        let suite = self.connection.negotiated_cipher_suite();
        let suite = suite.map_or_else(|| "unknown".to_owned(), |suite| format!("{:?}", suite.suite()));
        TlsParameters {
            version: match self.connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            // rustls distinguishes the suites of TLS 1.3 by another prefix than IANA.
            cipher: suite.replacen("TLS13_", "TLS_", 1),
            server_name: self.connection.server_name().map(str::to_owned),
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// Follows where records begin and end in the input (RFC 8446, 5.1; RFC 5246, 6.2.1), which rustls does not tell.
#[derive(Debug, Default)]
struct RecordBounds {
    /// As much as has come of the header of the current record, and how much that is.
    header: [u8; RECORD_HEADER],
    came: usize,
    /// How much is missing of its content.
    missing: usize,
}

impl RecordBounds {
    fn follow(&mut self, mut input: &[u8]) {
        while let Some((first, rest)) = input.split_first() {
            if self.missing > 0 {
                let length = self.missing.min(input.len());
                self.missing -= length;
                input = &input[length..];
                continue;
            }
            self.header[self.came] = *first;
            self.came += 1;
            input = rest;
            if self.came == RECORD_HEADER {
                let [.., high, low] = self.header;
                self.missing = usize::from(u16::from_be_bytes([high, low]));
                self.came = 0;
            }
        }
    }

    /// Whether a record has begun and not ended.
    fn are_within_one(&self) -> bool {
        self.came > 0 || self.missing > 0
    }
}

/// Input whose records are followed.
struct Followed<'a, R> {
    from: R,
    records: &'a mut RecordBounds,
}

impl<R: Read> Read for Followed<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        self.records.follow(&into[..length]);
        Ok(length)
    }
}

/// The length of a record's header: its kind, a version, and the length of its content.
const RECORD_HEADER: usize = 5;

/// Why TLS failed with this peer, in words for people.
fn broken(error: &rustls::Error) -> String {
    let meaning = match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            return "what the peer sends is not TLS".to_owned();
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the peer's TLS is too old",
        rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon,
        ) => "we have no cipher, curve or signature in common",
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => "the peer does not trust our certificate",
        error => return error.to_string(),
    };
    format!("{meaning} ({error})")
}
