//! Receivers that pass mail on to themselves.

use std::net::SocketAddr;

use testkit::daemon::free_port;
use testkit::postfix::Postfix;
use testkit::{Client, LOOPBACK, wait_until};

use crate::support::Scratch;
use crate::{FRED, Listener, TEXT, copies, log, relaying, stuffed};

/// One that listens here, and whose rules pass mail on to this URL.
fn in_circle(listens: &str, url: &str, directives: &str) -> (Scratch, Listener) {
    let scratch = relaying(url, &format!("limit.fcrdns_check off\n{directives}"));
    let listener = Listener::start_at(&scratch, listens);
    (scratch, listener)
}

/// How many sessions there were.
fn sessions(log: &str) -> usize {
    log.matches("SMTP connection from ").count()
}

/// Each session asks the next at MAIL, long before there is a header in which anybody could count hops.
#[test]
fn a_receiver_that_is_its_own_next_server_says_so_at_once() {
    for (host, from, mapped, most) in [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", 1),
        ("[::1]", "::1", "[::1]", 1),
        // The peer came to another address of the same socket.
        ("0.0.0.0", "127.0.0.2", "127.0.0.1", 2),
        ("[::]", "::1", "127.0.0.1", 2),
        ("[::]", "127.0.0.1", "127.0.0.1", 1),
        ("127.0.0.1", "127.0.0.1", "localhost", 1),
    ] {
        let port = free_port(if from.contains(':') { LOOPBACK[1] } else { LOOPBACK[0] }).port();
        let (scratch, _listener) = in_circle(&format!("{host}:{port}"), &format!("smtp://{mapped}:{port}"), "");
        let mut client = Client::connect(SocketAddr::new(from.parse().unwrap(), port));
        client.expect("220 ");
        client.exchange("EHLO client.example", "250-");
        client.exchange("MAIL FROM:<sender@client.example>", "554 5.4.6 ");
        client.exchange("QUIT", "221 ");
        let what = format!("{host}, {from}, {mapped}\n{}", log(&scratch));
        assert!(sessions(&log(&scratch)) <= most, "{what}");
        assert!(log(&scratch).contains("is where this connection came in"), "{what}");
        // Nobody is banned for what somebody wrote into our configuration.
        assert!(log(&scratch).contains("WARNING: 554 ") && !log(&scratch).contains("ERROR: 5"), "{what}");
        assert_eq!(copies(&scratch), 0);
    }
}

/// Where it depends on the recipient.
#[test]
fn it_says_so_of_the_recipient_whose_mail_would_go_in_a_circle() {
    let port = free_port(LOOPBACK[0]).port();
    let directives = "deliver rcpt_to other@final.example append inbox\n";
    let (scratch, listener) = in_circle(&format!("127.0.0.1:{port}"), &format!("smtp://127.0.0.1:{port}"), directives);
    let mut client = Client::connect(listener.address);
    client.expect("220 ");
    client.exchange("EHLO client.example", "250-");
    client.exchange("MAIL FROM:<sender@client.example>", "250 ");
    client.exchange(&format!("RCPT TO:<{FRED}>"), "554 5.4.6 ");
    client.exchange("RCPT TO:<other@final.example>", "250 ");
    client.exchange("DATA", "354 ");
    client.send([&stuffed(TEXT)[..], b".\r\n"].concat());
    client.expect("250 ");
    client.exchange("QUIT", "221 ");
    assert_eq!(sessions(&log(&scratch)), 1, "{}", log(&scratch));
}

/// A server with a queue in between takes each message, and nobody can tell but by its header.
#[test]
fn a_circle_through_a_server_with_a_queue_ends_by_the_header() {
    let port = free_port(LOOPBACK[0]).port();
    let next = SocketAddr::new(LOOPBACK[0], port);
    let postfix = Postfix::start(next, "hopcount_limit = 1000\nsmtpd_client_connection_count_limit = 0\n");
    let (scratch, listener) = in_circle(&next.to_string(), &format!("smtp://{}", postfix.address()), "");
    let mut client = Client::connect(listener.address);
    client.expect("220 ");
    client.deliver_subject(FRED, "round");
    client.exchange("QUIT", "221 ");
    wait_until("the end of the circle", || log(&scratch).contains("554 Too many hops").then_some(()));
    wait_until("the bounce", || postfix.log().contains("said: 554 5.4.6 ").then_some(()));
}
