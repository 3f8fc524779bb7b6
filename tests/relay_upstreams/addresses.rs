//! Upstreams that have a name, several addresses, or none that answers.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};
use testkit::daemon::free_port;
use testkit::postfix::Postfix;
use testkit::upstream::Upstream;
use testkit::{LOOPBACK, Session, is_root};

use crate::support::{PEER, Scratch};
use crate::{FRED, TEXT, TRY_AGAIN, copies, log, relaying, send};

/// A session with names of its own, in this /etc/hosts.
fn session_with_hosts(scratch: &Scratch, hosts: &str) -> Session {
    scratch.write("hosts", hosts);
    let receiver = scratch.mailrecv(&["--peer", PEER]);
    let mut command =
        scratch.command("unshare", &["--mount", "sh", "-c", "mount --bind hosts /etc/hosts && exec \"$@\"", "sh"]);
    command.arg(receiver.get_program()).args(receiver.get_args());
    let mut session = Session::start(command);
    session.expect("220 ");
    session
}

#[test]
fn every_address_of_a_host_is_tried() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let upstream = Upstream::polite();
    let port = upstream.address.port();
    for (hosts, expected) in [
        ("127.0.0.1 up.example\n", "250 "),
        // The first refuses connections, or cannot be reached.
        ("127.0.0.2 up.example\n127.0.0.1 up.example\n", "250 "),
        ("::1 up.example\n127.0.0.1 up.example\n", "250 "),
        ("127.0.0.2 up.example\n127.0.0.3 up.example\n", TRY_AGAIN),
        ("127.0.0.1 other.example\n", TRY_AGAIN),
    ] {
        let scratch = relaying(format!("smtp://up.example:{port}"), "");
        let mut session = session_with_hosts(&scratch, hosts);
        let reply = send(&mut session, &[FRED], TEXT);
        assert!(reply.starts_with(expected), "{hosts}: {reply}\n{}", log(&scratch));
        session.quit();
        assert_eq!(copies(&scratch), usize::from(expected.starts_with('2')), "{hosts}");
    }
    assert_eq!(upstream.messages().len(), 3);
}

#[test]
fn an_upstream_may_have_no_ipv4_address() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let address = free_port(LOOPBACK[1]);
    let service = format!("{address} inet n - n - - smtpd\n");
    let postfix = Postfix::receiving("inet_interfaces = 127.0.0.1, ::1\ninet_protocols = all\n", &service);
    let port = address.port();
    for (url, hosts) in
        [(format!("smtp://[::1]:{port}"), ""), (format!("smtp://up.example:{port}"), "::1 up.example\n")]
    {
        let scratch = relaying(&url, "");
        let mut session = session_with_hosts(&scratch, hosts);
        let reply = send(&mut session, &[FRED], TEXT);
        assert!(reply.starts_with("250 "), "{url}: {reply}\n{}", log(&scratch));
        session.quit();
        assert_eq!(copies(&scratch), 1);
    }
    postfix.until_queue_is_empty();
    assert_eq!(postfix.mail("fred").len(), 2);
}

/// A host of which one address swallows what is sent to it: the next gets its share of the time.
#[test]
fn an_address_that_does_not_answer_leaves_time_for_the_next() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let upstream = Upstream::polite();
    let port = upstream.address.port();
    let (_listener, _waiting) = swallowing(SocketAddr::from(([127, 0, 0, 2], port)));
    let scratch = relaying(format!("smtp://up.example:{port}"), "limit.connection_secs 10\n");
    let mut session = session_with_hosts(&scratch, "127.0.0.2 up.example\n127.0.0.1 up.example\n");
    let reply = send(&mut session, &[FRED], TEXT);
    assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
    session.quit();
    assert_eq!((upstream.messages().len(), copies(&scratch)), (1, 1));
}

/// A listener that has room for one connection which is not accepted, and that one.
fn swallowing(address: SocketAddr) -> (OwnedFd, TcpStream) {
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let waiting = TcpStream::connect(address).unwrap();
    (listener, waiting)
}
