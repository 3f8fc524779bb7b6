//! What the kernel knows of TCP connections (`tcp` and `tcp6` in /proc/net, see proc_pid_net(5)): what a test would
//! otherwise guess at by the clock.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Connects from this address of ours. Neither that nor what is read or written then waits for longer than this.
pub fn connect_from(source: IpAddr, server: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // A connection in the making counts as something sent (socket(7)).
    let patience = TimeVal::new(patience.as_secs().try_into().unwrap_or(i64::MAX), patience.subsec_micros().into());
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(server))?;
    Ok(TcpStream::from(socket))
}

/// Whether something listens on this port. A connection, to find that out, would start a session.
pub fn is_listening(address: SocketAddr) -> bool {
    rows().any(|row| row.local_port == address.port() && row.state == LISTEN)
}

/// Whether everything that was sent from the one port to the other has been read there, or never will be, because the
/// connection is over at that end. Both ends are in this network.
pub(crate) fn is_all_read(from: u16, to: u16) -> bool {
    // In this order: what has not been acknowledged may not have come yet.
    let has_come = row(from, to).is_none_or(|ours| ours.unacknowledged == 0);
    has_come && unread(from, to).is_none_or(|octets| octets == 0)
}

/// How many octets that were sent from the one port to the other have come and are not read; none if the connection is over
/// at that end.
pub(crate) fn unread(from: u16, to: u16) -> Option<u32> {
    row(to, from).map(|theirs| theirs.unread)
}

/// Whether the end with the one port of a connection to the other knows that it is over, or is gone.
pub(crate) fn is_over(local_port: u16, remote_port: u16) -> bool {
    row(local_port, remote_port).is_none_or(|row| row.state == CLOSED)
}

fn row(local_port: u16, remote_port: u16) -> Option<Row> {
    rows().find(|row| row.local_port == local_port && row.remote_port == remote_port)
}

/// A socket.
struct Row {
    local_port: u16,
    remote_port: u16,
    state: u8,
    /// Octets that were sent and are not confirmed by the other end's kernel.
    unacknowledged: u32,
    /// Octets that have come and are not read. For a socket that listens, connections.
    unread: u32,
}

/// Those of the thread's own network, which need not be that of the process.
fn rows() -> impl Iterator<Item = Row> {
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")));
    let text = tables.map(Result::unwrap_or_default).concat();
    let rows: Vec<Row> = text.lines().filter_map(read_row).collect();
    rows.into_iter()
}

/// `  0: 0100007F:0019 0100007F:8000 01 00000000:00000000 ...`: number, both addresses, state, both queues. None for the
/// headline.
fn read_row(line: &str) -> Option<Row> {
    let mut columns = line.split_whitespace().skip(1);
    let mut behind_colon = || columns.next()?.split_once(':');
    let ((_, local), (_, remote)) = (behind_colon()?, behind_colon()?);
    let (state, queues) = (columns.next()?, columns.next()?.split_once(':')?);
    Some(Row {
        local_port: u16::from_str_radix(local, 16).ok()?,
        remote_port: u16::from_str_radix(remote, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        unacknowledged: u32::from_str_radix(queues.0, 16).ok()?,
        unread: u32::from_str_radix(queues.1, 16).ok()?,
    })
}

/// TCP_CLOSE and TCP_LISTEN, as the kernel's tables have them.
const CLOSED: u8 = 0x07;
const LISTEN: u8 = 0x0A;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{LOOPBACK, wait_until};

    #[test]
    fn what_is_not_read_is_known() {
        for address in LOOPBACK {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let server = listener.local_addr().unwrap();
            assert!(is_listening(server));
            let mut ours = TcpStream::connect(server).unwrap();
            let (mut theirs, client) = listener.accept().unwrap();
            // Who listens at the client's port is not asked: others may get the same number for another address.
            assert!(rows().all(|row| row.remote_port != server.port() || row.state != LISTEN));
            let is_all_read = || is_all_read(client.port(), server.port());
            assert!(is_all_read());
            ours.write_all(b"four").unwrap();
            assert!(!is_all_read());
            theirs.read_exact(&mut [0; 3]).unwrap();
            assert!(!is_all_read());
            theirs.read_exact(&mut [0; 1]).unwrap();
            wait_until("the kernel's word", || is_all_read().then_some(()));
            ours.write_all(b"to nobody").unwrap();
            drop(theirs);
            wait_until("the end of the connection", || is_all_read().then_some(()));
        }
    }
}
