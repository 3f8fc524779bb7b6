//! What the tests start, talk to and look at.

pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod debian;
pub(crate) mod peer;
pub(crate) mod receiver;
pub(crate) mod super_server;
pub(crate) mod syslog;

use std::time::{Duration, Instant};

/// Both loopback addresses: everything is tested over each.
pub(crate) const LOOPBACK: [std::net::IpAddr; 2] =
    [std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

/// Longer than anything takes here on a busy machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` has something. Fails with `what` when it has nothing in time.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A file of the repository, as it is shipped.
pub(crate) fn shipped(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A shipped text with parts replaced. Every part has to be there: a test of a text that has changed under it would
/// test nothing.
pub(crate) fn replaced(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "`{from}` is not in the shipped text:\n{text}");
        text.replace(from, to)
    })
}
