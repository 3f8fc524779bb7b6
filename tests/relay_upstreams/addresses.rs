//! Upstreams that have a name, several addresses, or none that answers.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};
use testkit::daemon::free_port;
use testkit::postfix::Postfix;
use testkit::upstream::Upstream;
use testkit::{LOOPBACK, Session, is_root, wait_until};

use crate::support::{PEER, Scratch};
use crate::{FRED, TEXT, TRY_AGAIN, copies, log, relaying, send};

/// A session with names of its own, in this /etc/hosts.
fn session_with_hosts(scratch: &Scratch, hosts: &str) -> Session {
    session_with(scratch, "hosts", hosts)
}

/// A session that sees a file in /etc with this text.
fn session_with(scratch: &Scratch, file: &str, text: &str) -> Session {
    scratch.write(file, text);
    let receiver = scratch.mailrecv(&["--peer", PEER]);
    let script = format!("mount --bind {file} /etc/{file} && exec \"$@\"");
    let mut command = scratch.command("unshare", &["--mount", "sh", "-c", &script, "sh"]);
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

/// Two servers of one name, the first of which answers so, with this behind the URL; what became of a message, and how often
/// the second was asked.
#[track_caller]
fn with_two_servers(first: &[(&str, &str)], user: &str, options: &str, directives: &str) -> (String, usize, String) {
    let other = Upstream::polite();
    let port = other.address.port();
    let _first = Upstream::answering_on(SocketAddr::from(([127, 0, 0, 2], port)), first);
    let scratch = relaying(format!("smtp://{user}up.example:{port}{options}"), directives);
    let mut session = session_with_hosts(&scratch, "127.0.0.2 up.example\n127.0.0.1 up.example\n");
    let reply = send(&mut session, &[FRED], TEXT);
    session.quit();
    assert_eq!(copies(&scratch), usize::from(reply.starts_with("250 ")), "{reply}");
    assert_eq!(other.messages().len(), copies(&scratch), "{reply}");
    (reply.to_string(), other.connections().len(), log(&scratch))
}

/// A server that does not want to speak with us is as good as none: the host has another address.
#[test]
fn an_address_that_turns_us_away_leads_to_the_next() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let refuses_hello = [("EHLO", "550 5.7.1 Not you"), ("HELO", "550 5.7.1 Not you")];
    let first: [&[(&str, &str)]; 9] = [
        &[("", "554 5.3.2 No service here")],
        &[("", "450 4.3.2 Not now")],
        &[("", "421 4.3.2 Too many connections")],
        &[("", "SSH-2.0-OpenSSH_9.2")],
        &[("", "250 x")],
        &[("", "")],
        &[("", "...")],
        &refuses_hello,
        &[("EHLO", "")],
    ];
    for first in first {
        let (reply, asked, log) = with_two_servers(first, "", "", "limit.relay_secs 2\n");
        assert!(reply.starts_with("250 ") && asked == 1, "{first:?}: {reply}\n{log}");
    }
    // What it says of a sender, a recipient or a message is said of the mail, and so is its end in the middle of it.
    for (first, expected) in [
        (("MAIL", "550 5.7.1 Not this sender"), "550 5.7.1 "),
        (("RCPT", "450 4.2.0 Greylisted"), "450 4.2.0 "),
        ((".", ""), TRY_AGAIN),
    ] {
        let (reply, asked, log) = with_two_servers(&[first], "", "", "");
        assert!(reply.starts_with(expected) && asked == 0, "{first:?}: {reply}\n{log}");
    }
}

/// The log tells of each what was wrong with it.
#[test]
fn where_no_address_will_do_the_log_says_why_of_each() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let upstream = Upstream::answering(&[("", "554 5.3.2 No service here")]);
    let port = upstream.address.port();
    let scratch = relaying(format!("smtp://up.example:{port}"), "");
    let mut session = session_with_hosts(&scratch, "127.0.0.1 up.example\n127.0.0.2 up.example\n");
    let reply = send(&mut session, &[FRED], TEXT);
    session.quit();
    assert!(reply.starts_with("451 4.4.1 "), "{reply}");
    let log = log(&scratch);
    let told = format!("127.0.0.1:{port}: it says '554 5.3.2 No service here'; 127.0.0.2:{port}: Connection refused");
    assert!(log.contains(&told), "{log}");
}

/// A password that is wrong at one is wrong at all of them, and is not to be tried until the account is locked.
#[test]
fn a_password_that_is_refused_is_not_tried_at_the_next_address() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let first = [("EHLO", "250-x\n250 AUTH PLAIN"), ("AUTH", "535 5.7.8 No")];
    let (reply, asked, log) = with_two_servers(&first, "me@", " tls=off", "relay_password s3kr1t\n");
    assert!(reply.starts_with("451 4.3.5 ") && asked == 0, "{reply}\n{log}");
}

#[test]
fn a_request_to_stop_ends_the_look_up_of_a_name() {
    if !is_root("an /etc/resolv.conf of the test's own") {
        return;
    }
    // It hears the question, and says nothing.
    let silent = UdpSocket::bind("127.0.0.77:53").unwrap();
    let scratch = relaying("smtp://up.example", "limit.relay_secs 20\n");
    let mut session = session_with(&scratch, "resolv.conf", "nameserver 127.0.0.77\n");
    session.exchange("EHLO client.example", "250-");
    session.send("MAIL FROM:<sender@client.example>\r\n");
    silent.recv_from(&mut [0; 512]).unwrap();
    kill(session.pid(), Signal::SIGTERM).unwrap();
    let (rest, _) = session.end();
    assert_eq!(rest, ["421 4.3.2 final.example is shutting down, try again later"], "{}", log(&scratch));
}

#[test]
fn a_request_to_stop_ends_the_wait_for_a_connection() {
    if !is_root("an /etc/hosts of the test's own") {
        return;
    }
    let address = free_port(LOOPBACK[0]);
    let (_listener, _waiting) = swallowing(address);
    let scratch = relaying(format!("smtp://{address}"), "limit.relay_secs 20\n");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.send("MAIL FROM:<sender@client.example>\r\n");
    wait_until("the attempt to connect", || {
        let state = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
        let port = format!(":{:04X}", address.port());
        let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // SYN_SENT
        let mut lines = tcp.lines().filter(|line| line.split_whitespace().nth(2).is_some_and(|it| it.ends_with(&port)));
        lines.any(|line| state(line).as_deref() == Some("02")).then_some(())
    });
    kill(session.pid(), Signal::SIGTERM).unwrap();
    let (rest, _) = session.end();
    assert_eq!(rest, ["421 4.3.2 final.example is shutting down, try again later"], "{}", log(&scratch));
}

/// A listener that has room for one connection which is not accepted, and that one.
fn swallowing(address: SocketAddr) -> (OwnedFd, TcpStream) {
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let waiting = TcpStream::connect(address).unwrap();
    (listener, waiting)
}
