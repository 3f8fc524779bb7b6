//! Sessions with the programs that people send mail with, behind a proxy, under TLS, over LMTP.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use testkit::certificates::{Authority, Request};
use testkit::process::{output, output_of_input};
use testkit::{debian, wait_until};

use crate::support::{CONFIG, MAILRECV, Scratch};
use crate::{assert_same, scratch, transcripts};

/// `listen`, for as many connections as there are, and where it does.
struct Server {
    daemon: testkit::Daemon,
    address: SocketAddr,
}

impl Server {
    fn start(scratch: &Scratch) -> Self {
        let arguments = ["-c", CONFIG, "-l", "log", "listen", "127.0.0.1:0", "--ready-file", "ready"];
        let mut daemon = testkit::Daemon::start(scratch.command(MAILRECV, &arguments), scratch.path("listen.output"));
        let address = daemon.until("mailrecv listens", |_| {
            std::fs::read_to_string(scratch.path("ready")).ok()?.lines().next()?.parse().ok()
        });
        Self { daemon, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.daemon.signal(nix::sys::signal::Signal::SIGTERM);
            self.daemon.exit_code();
        }
    }
}

/// swaks and Python's smtplib: in the clear and under TLS, with and without a login, with many recipients and a large text.
#[test]
fn programs_that_send_mail() {
    let scratch = scratch(
        "tls_certificate own.pem\ntls_key own.key\nauth_user fred penguin\nallowgroup +users auth ^fred$\n\
         deliver allowgroup +users rcpt_to far@far.example append far\n\
         error rcpt_to ^old@ 550 Has left\ndeliver rcpt_to *@mx.example append inbox",
    );
    Authority::new().issue(&scratch.path(""), "own", &Request::of(&["localhost"]));
    let server = Server::start(&scratch);
    let port = server.address.port().to_string();
    let swaks = |arguments: &[&str]| {
        let mut swaks = debian::command("swaks", "swaks");
        swaks.args(["--server", "127.0.0.1", "--port", &port, "--helo", "client.example", "--from", "a@b.example"]);
        swaks.args(arguments);
        output(swaks).status.code()
    };
    let login = ["--tls", "--auth-user", "fred", "--auth-password", "penguin", "--to", "far@far.example", "--auth"];
    assert_eq!(swaks(&["--to", "a@mx.example,old@mx.example,b@mx.example"]), Some(0));
    assert_eq!(swaks(&["--to", "a@mx.example", "--tls", "--body", &"Some text.\n.\n".repeat(5000)]), Some(0));
    assert_eq!(swaks(&[&login[..], &["PLAIN"]].concat()), Some(0));
    assert_eq!(swaks(&[&login[..], &["LOGIN"]].concat()), Some(0));
    assert_ne!(swaks(&["--to", "far@far.example"]), Some(0));
    assert_ne!(swaks(&["--to", "a@mx.example", "--quit-after", "RCPT", "--drop-after", "MAIL"]), None);
    let script = "import smtplib, ssl, sys
context = ssl._create_unverified_context()
for tls in [False, True]:
    with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='client.example') as client:
        if tls:
            client.starttls(context=context)
            client.login('fred', 'penguin')
        client.sendmail('a@b.example', ['a@mx.example', 'old@mx.example'], b'Subject: x\\r\\n\\r\\n' + bytes(range(256)) * 500)
        client.sendmail('a@b.example', ['a@mx.example'], 'Subject: y\\r\\n\\r\\n.\\r\\n..\\r\\n')
        client.vrfy('fred')
";
    scratch.python(script, &[&port]);
    wait_until("the transcripts", || {
        let names = transcripts(&scratch);
        let are_whole = names.iter().all(|name| scratch.read(name).contains("\nE: "));
        (names.len() == 8 && are_whole).then_some(())
    });
    let all: String = transcripts(&scratch).iter().map(|name| scratch.read(name)).collect();
    assert_eq!(all.matches("\nN: tls\t").count(), 4, "{all}");
    assert_eq!(all.matches("\nN: login\tfred\t").count(), 3);
    for forbidden in ["penguin", "cGVuZ3Vpb", "BlbmdlaW", "Some text"] {
        assert!(!all.contains(forbidden), "{forbidden}");
    }
    assert_same(&scratch);
}

/// Whom a proxy names is the peer, and where it said so is there.
#[test]
fn a_peer_behind_a_proxy() {
    let scratch = scratch("proxy_protocol from 127.0.0.1\ndeliver rcpt_to *@mx.example append inbox\nlimit.dns_secs 1");
    let mut session = scratch.session(&[]);
    session.send("PROXY TCP4 192.0.2.9 192.0.2.1 1234 25\r\n");
    session.expect("220 ");
    session.exchange("EHLO client.example", "250-");
    session.quit();
    let recorded = crate::transcript(&scratch);
    assert!(recorded.contains("\nproxy: 127.0.0.1\npeer: 192.0.2.9\nname: "), "{recorded}");
    assert_same(&scratch);
    // Nobody believes this proxy any more.
    scratch.write(CONFIG, scratch.read(CONFIG).replace("from 127.0.0.1", "from 127.0.0.2"));
    let (status, text) = crate::replay(&scratch, &[]);
    assert_eq!(status, 1);
    assert!(text.contains("  now:  (no `proxy_protocol from` line names the proxy that said who this is)\n  why:  line 5: proxy_protocol\n"), "{text}");
    assert!(text.contains(": this is the session of a proxy: what follows is not compared\n"), "{text}");
}

/// A peer without a name, which needs one by now.
#[test]
fn a_peer_without_a_name() {
    let scratch = scratch("proxy_protocol from 127.0.0.1\ndeliver rcpt_to *@mx.example append inbox\nlimit.dns_secs 1");
    let mut session = scratch.session(&[]);
    session.send("PROXY TCP4 192.0.2.9 192.0.2.1 1234 25\r\n");
    session.expect("220 ");
    session.exchange("EHLO client.example", "250-");
    session.quit();
    scratch.write(CONFIG, scratch.read(CONFIG).replace("limit.fcrdns_check off", "limit.fcrdns_check on"));
    let (status, text) = crate::replay(&scratch, &[]);
    assert_eq!(status, 1);
    assert!(text.contains("  now:  peer: refused (limit.fcrdns_check)\n"), "{text}");
    assert!(
        text.contains("  now:  450 4.7.25 Failed FcrDNS") || text.contains(" Failed FcrDNS, try again later"),
        "{text}"
    );
}

/// One answer for each recipient, one of whose places is full.
#[test]
fn lmtp() {
    let scratch =
        scratch("deliver rcpt_to full@mx.example append /dev/full\ndeliver rcpt_to *@mx.example append inbox");
    let mut session = scratch.session(&["--lmtp", "--peer", "192.0.2.7"]);
    session.expect("220 ");
    session.exchange("LHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    for recipient in ["a", "full", "a", "b"] {
        session.exchange(&format!("RCPT TO:<{recipient}@mx.example>"), "250 ");
    }
    session.exchange("DATA", "354 ");
    session.send("Subject: x\r\n.\r\n");
    for answer in ["250 ", "452 ", "250 ", "250 "] {
        session.expect(answer);
    }
    session.quit();
    let recorded = crate::transcript(&scratch);
    assert!(recorded.contains("\nprotocol: LMTP\n"));
    assert_same(&scratch);
    // Who is asked to stop between two answers gives no more of them.
    let second = recorded.find("\nD: message\tnot delivered").unwrap();
    let stopped = format!("{}\nE: we were asked to stop\nS: 421 4.3.2 mx.example closing\n", &recorded[..second]);
    scratch.write(&transcripts(&scratch)[0], stopped);
    assert_same(&scratch);
}

/// A person at a keyboard ends lines by LF alone.
#[test]
fn lines_of_a_person() {
    let scratch = scratch("deliver rcpt_to *@mx.example append inbox");
    let mut session = scratch.greeted();
    session.send(
        "  EHLO client.example\nMAIL FROM:<a@b.example>\nRCPT TO:<a@mx.example>\nDATA\nSubject: x\r\n\n..\n.\nQUIT\n",
    );
    session.end();
    let recorded = crate::transcript(&scratch);
    assert!(recorded.contains("\nC: QUIT\\n\\\n") && recorded.contains("\nT: .\\n\\\n"), "{recorded}");
    assert_same(&scratch);
}

/// A line that is too long ends as others do, and the first one decides how.
#[test]
fn long_lines_of_a_person() {
    let scratch = scratch("deliver rcpt_to *@mx.example append inbox");
    let long = "x".repeat(3000);
    let mut session = scratch.greeted();
    session.send(format!(
        "{long}\nNOOP {long}\r\nEHLO client.example\nMAIL FROM:<a@b.example>\nRCPT TO:<a@mx.example>\nDATA\nSubject: x\n\n..\n.\nQUIT\n"
    ));
    session.end();
    let recorded = crate::transcript(&scratch);
    assert!(recorded.contains("\nC: \\{3000}\\n\\\nS: 500 Line too long\nC: NOOP\\{3001}\nS: 500 "), "{recorded}");
    assert!(recorded.contains("\nT: .\\n\\\n"), "{recorded}");
    assert_same(&scratch);
}

/// Wherever a text is cut into chunks: what of it is left out decides as it did, by its size and its line ends.
#[test]
fn chunks() {
    let texts = ["ab\r\ncd\r\n", "ab\r\n\r\n\r", "a\rb\r\r\n", "\n", "a\nb\n\n", "\r\n\n\r\n", "\r", "a"];
    let rule = "deliver rcpt_to *@mx.example discard\nlimit.smtp_commands 9999\nlimit.smtp_failcmds 9999";
    for more in
        ["limit.bare_newline reject", "limit.smtp_data_size 7", "limit.smtp_data_size 8", "limit.smtp_data_size 9"]
    {
        let scratch = scratch(&format!("{rule}\n{more}"));
        for end in ["\r\n", "\n"] {
            let mut sent = format!("EHLO client.example{end}");
            for text in texts {
                for (first, second) in (0..=text.len()).flat_map(|two| (0..=two).map(move |one| (one, two))) {
                    sent += &format!("MAIL FROM:<a@b.example>{end}RCPT TO:<a@mx.example>{end}");
                    for (chunk, last) in [(&text[..first], ""), (&text[first..second], ""), (&text[second..], " LAST")]
                    {
                        sent += &format!("BDAT {}{last}{end}{chunk}", chunk.len());
                    }
                }
            }
            let session = scratch.command(MAILRECV, &["-c", CONFIG, "-l", "log", "--peer", "192.0.2.7"]);
            let replies = output_of_input(session, sent.as_bytes(), Duration::from_secs(600)).stdout;
            let replies = String::from_utf8(replies).unwrap();
            assert!(replies.contains("accepted for delivery"), "{replies}");
        }
        assert_same(&scratch);
    }
}

/// The next server is not asked again: what it said is said again.
#[test]
fn what_the_next_server_said_is_said_again() {
    let inner = Scratch::with_config(
        "domain inner.example\nlimit.fcrdns_check off\nerror rcpt_to ^gone@ 550 Gone\nerror rcpt_to ^later@ 450 Later\n\
         deliver rcpt_to *@mx.example append inbox\n",
    );
    let server = Server::start(&inner);
    let scratch = scratch(&format!("deliver rcpt_to *@mx.example relay smtp://{} tls=off", server.address));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<gone@mx.example>", "550 ");
    session.exchange("RCPT TO:<later@mx.example>", "450 ");
    session.exchange("RCPT TO:<a@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: x\r\n.", "250 ");
    session.quit();
    let address = server.address;
    drop(server);
    let recorded = crate::transcript(&scratch);
    assert!(recorded.contains("\nD: asked\t550 5.1.1 Gone"), "{recorded}");
    assert_same(&scratch);
    // Somebody else would perhaps have taken it.
    scratch.write(CONFIG, scratch.read(CONFIG).replace(&address.to_string(), "127.0.0.1:1"));
    let (status, text) = crate::replay(&scratch, &[]);
    assert_eq!(status, 1, "{text}");
    assert_eq!(std::fs::read_to_string(inner.path("inbox")).unwrap().matches("Subject: x").count(), 1);
}

/// Other protocols are told as far as it takes to tell which.
#[test]
fn other_protocols() {
    let scratch = scratch("deliver rcpt_to *@mx.example append inbox");
    for sent in ["GET /a/path/of/theirs HTTP/1.1\r\n\r\n", "\r\n\r\n\0\r\nQUIT\n!", "\x16\x03\x01hello, and more"] {
        let mut session = scratch.greeted();
        session.send(sent);
        session.end();
    }
    let all: String = transcripts(&scratch).iter().map(|name| scratch.read(name)).collect();
    assert!(all.contains("\nC: GET /a/path/\\\n") && !all.contains("theirs"), "{all}");
    assert_same(&scratch);
}
