//! A tap on the wire: it stands between clients and a server, passes on what each of them says, and keeps all of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crate::{LOOPBACK, wait_until};

/// The tap; dropped, it takes no more connections.
pub struct Tap {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    accepting: Option<JoinHandle<()>>,
}

/// What both sides of a connection said, byte by byte.
#[derive(Debug, Default, Clone)]
pub struct Recording {
    /// The client, which connected.
    pub client: Vec<u8>,
    /// The server.
    pub server: Vec<u8>,
}

#[derive(Default)]
struct Kept {
    /// How many connections there are.
    open: usize,
    recordings: Vec<Recording>,
    has_ended: bool,
}

impl Tap {
    /// A tap in front of this server, on a port of its own.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((LOOPBACK[0], 0)).expect("listening on the loopback interface");
        let address = listener.local_addr().expect("an address");
        let kept = Arc::new(Mutex::new(Kept::default()));
        let ours = Arc::clone(&kept);
        let accepting = thread::spawn(move || accept(&listener, server, &ours));
        Self { address, kept, accepting: Some(accepting) }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end of all connections; what was said on them since the last time, in the order of their ends.
    #[track_caller]
    pub fn recordings(&self) -> Vec<Recording> {
        wait_until("the end of all connections", || {
            let mut kept = lock(&self.kept);
            (kept.open == 0).then(|| std::mem::take(&mut kept.recordings))
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        lock(&self.kept).has_ended = true;
        // It is waiting for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, kept: &Arc<Mutex<Kept>>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        {
            let mut kept = lock(kept);
            if kept.has_ended {
                return;
            }
            kept.open += 1;
        }
        let kept = Arc::clone(kept);
        thread::spawn(move || {
            let recording = TcpStream::connect(server).map(|server| record(&client, &server)).unwrap_or_default();
            let mut kept = lock(&kept);
            kept.recordings.push(recording);
            kept.open -= 1;
        });
    }
}

/// Passes on what comes, both ways, until both sides have ended. One may be silent for as long as the other speaks.
fn record(client: &TcpStream, server: &TcpStream) -> Recording {
    thread::scope(|scope| {
        let from_client = scope.spawn(|| pass_on(client, server));
        Recording { server: pass_on(server, client), client: from_client.join().expect("no panic") }
    })
}

/// What came from one side, and was passed on to the other. Where that is gone, the first is told so.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream) -> Vec<u8> {
    let (mut all, mut room) = (Vec::new(), vec![0; 1 << 16]);
    to.set_nodelay(true).expect("TCP_NODELAY");
    loop {
        match from.read(&mut room) {
            Ok(0) => break,
            Ok(length) => {
                all.extend_from_slice(&room[..length]);
                if to.write_all(&room[..length]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
    all
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().expect("no panic while it was held")
}
