//! Certificates for tests, made by openssl(1): an authority, one below it that issues, and what that issues.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Folder, debian, succeeds};

/// An authority with one below it.
pub struct Authority {
    folder: Folder,
    /// Held by who has something issued: openssl(1) keeps its books in files.
    books: Mutex<()>,
}

/// What a certificate is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The hosts that it is for.
    pub names: &'r [&'r str],
    /// Its key.
    pub key: Key,
    /// In which days it is valid, counted from today.
    pub days: (i64, i64),
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    /// ECDSA with the curve P-256.
    P256,
    /// RSA of 2048 bits.
    Rsa,
}

impl<'r> Request<'r> {
    /// An ECDSA certificate for these hosts that is valid for a year.
    pub fn of(names: &'r [&'r str]) -> Self {
        Self { names, key: Key::P256, days: (-1, 365) }
    }
}

impl Authority {
    /// One of a test's own.
    pub fn new() -> Self {
        let authority = Self { folder: Folder::new(), books: Mutex::new(()) };
        authority.folder.write("openssl.cnf", CONFIG);
        authority.folder.write("index", "");
        authority.folder.write("index.attr", "unique_subject = no\n");
        authority.folder.write("serial", "1000\n");
        authority.make_key("root.key", Key::P256);
        authority.openssl(
            "req -x509 -config openssl.cnf -extensions issuer -key root.key -out root.pem -days 30 -subj /CN=root",
        );
        authority.make_key("between.key", Key::P256);
        authority.sign("between", "root", "issuer", (-1, 30));
        authority
    }

    /// The certificate that a peer has to trust.
    pub fn root(&self) -> PathBuf {
        self.folder.path("root.pem")
    }

    /// The certificate of the authority that issues.
    pub fn between(&self) -> PathBuf {
        self.folder.path("between.pem")
    }

    /// Issues a certificate. Its chain and its key are written to `STEM.pem` and `STEM.key` in a folder; their paths.
    pub fn issue(&self, folder: &Path, stem: &str, request: &Request<'_>) -> (PathBuf, PathBuf) {
        let _books = self.books.lock();
        let names: Vec<_> = request.names.iter().map(|name| format!("DNS:{name}")).collect();
        let config = format!("{CONFIG}[ own ]\nbasicConstraints = CA:FALSE\nsubjectAltName = {}\n", names.join(","));
        self.folder.write("openssl.cnf", config);
        self.make_key(&format!("{stem}.key"), request.key);
        self.sign(stem, "between", "own", request.days);
        let chain = self.folder.read(format!("{stem}.pem")) + &self.folder.read("between.pem");
        let (certificate, key) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
        std::fs::write(&certificate, chain).expect("writing a certificate");
        std::fs::copy(self.folder.path(format!("{stem}.key")), &key).expect("writing a key");
        (certificate, key)
    }

    fn make_key(&self, name: &str, key: Key) {
        let kind = match key {
            Key::P256 => "EC -pkeyopt ec_paramgen_curve:P-256",
            Key::Rsa => "RSA -pkeyopt rsa_keygen_bits:2048",
        };
        self.openssl(&format!("genpkey -quiet -algorithm {kind} -out {name}"));
    }

    fn sign(&self, stem: &str, issuer: &str, extensions: &str, (from, to): (i64, i64)) {
        self.openssl(&format!("req -new -config openssl.cnf -key {stem}.key -out {stem}.csr -subj /CN={stem}"));
        self.openssl(&format!(
            "ca -batch -notext -config openssl.cnf -cert {issuer}.pem -keyfile {issuer}.key -extensions {extensions} \
             -startdate {} -enddate {} -in {stem}.csr -out {stem}.pem",
            date(from),
            date(to)
        ));
    }

    fn openssl(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split_ascii_whitespace().collect();
        succeeds(self.folder.command(debian::program("openssl", "openssl"), &arguments), "");
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// The beginning of a day, counted from today, as openssl writes it: `YYYYMMDDHHMMSSZ`.
fn date(days: i64) -> String {
    let day = Duration::from_hours(24);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() / day.as_secs();
    let (year, month, day) = civil(i64::try_from(today).expect("a day") + days);
    format!("{year:04}{month:02}{day:02}000000Z")
}

/// Year, month and day of a day since 1970.
fn civil(mut day: i64) -> (i64, usize, i64) {
    let mut year = 1970;
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = |year: i64| if is_leap(year) { 366 } else { 365 };
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (year, month, day + 1)
}

/// For openssl(1): of requests and of the authority.
const CONFIG: &str = "\
[ req ]
distinguished_name = name
[ name ]
[ issuer ]
basicConstraints = critical,CA:TRUE
[ ca ]
default_ca = authority
[ authority ]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
[ any ]
commonName = supplied
";
