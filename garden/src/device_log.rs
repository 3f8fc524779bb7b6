//! What a server writes to the system log: we are at the other end of the socket that syslog(3) writes to.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Longer than any message of syslog(3).
const LONGEST: usize = 64 << 10;

/// A log to which a server writes.
#[derive(Clone, Debug)]
pub struct DeviceLog {
    lines: Arc<Mutex<Vec<String>>>,
}

impl DeviceLog {
    /// Makes the socket, and reads from it as long as the process lives.
    ///
    /// # Errors
    ///
    /// The socket or the thread cannot be made.
    pub fn start(socket: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(socket).with_context(|| format!("making the socket {}", socket.display()))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        thread::Builder::new().name("log".into()).spawn(move || {
            let mut datagram = vec![0; LONGEST];
            while let Ok(length) = socket.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]);
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(message(&text).to_owned());
            }
        })?;
        Ok(Self { lines })
    }

    /// The lines that were logged since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The message without its priority (`<22>`), and without the line end and NUL that some programs add.
fn message(text: &str) -> &str {
    let text = text.trim_end_matches(['\n', '\0']);
    let behind = text.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match behind {
        Some((priority, rest)) if !priority.is_empty() && priority.bytes().all(|digit| digit.is_ascii_digit()) => rest,
        _ => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = DeviceLog::start(&path).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&path).unwrap();
        for text in ["<22>Nov 29 08:00:00 smtpd[1]: one\n\0", "<x> two"] {
            socket.send(text.as_bytes()).unwrap();
        }
        let mut lines = Vec::new();
        while lines.len() < 2 {
            lines.extend(log.take());
            thread::yield_now();
        }
        assert_eq!(lines, ["Nov 29 08:00:00 smtpd[1]: one", "<x> two"]);
    }
}
