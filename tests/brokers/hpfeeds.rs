//! `hpfeeds CHANNEL`, with the broker and the client that are on PyPI.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use testkit::certificates::{Authority, Request};
use testkit::daemon::free_port;
use testkit::hpfeeds::{Broker, CHANNEL, SECRET};
use testkit::{Daemon, Folder, LOOPBACK, Tap, debian, wait_until};

use crate::once::messages_that_come_again;
use crate::support::{LOG, Scratch};
use crate::{message, send};

/// A receiver whose mail all goes to the broker at this address.
pub fn scratch(broker: impl std::fmt::Display, directives: &str) -> Scratch {
    Scratch::with_config(&format!(
        "domain mx.example\n\
         hpfeeds_broker {broker}\n\
         hpfeeds_ident writer\n\
         hpfeeds_secret {SECRET}\n\
         debug a\n\
         deliver rcpt_to * hpfeeds {CHANNEL}\n\
         {directives}\n"
    ))
}

/// Who first wrote this form did so with Python, and its subscribers read it with Python.
#[test]
fn json_is_what_python_writes_and_reads_back() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let scratch = scratch(broker.address, "limit.smtp_ascii off");
    let mut session = scratch.greeted();
    let all_bytes: Vec<u8> = (0..=255).filter(|byte| !b"\r\n".contains(byte)).collect();
    let texts: Vec<Vec<u8>> = vec![
        message("plain"),
        "Subject: gr\u{fc}n \u{20ac} \u{1f600}\r\n\r\n\"quoted\" \\ \t/\r\n".as_bytes().to_vec(),
        b"Subject: gr\xfcn in ISO 8859-1\r\n\r\n\xe4\xf6\xfc\r\n".to_vec(),
        [b"Subject: all\r\n\r\n", &all_bytes[..], b"\r\n\xed\xb2\x80 \xf0\x9f\x98\r\n"].concat(),
        b".leading dot\r\n..\r\n".to_vec(),
    ];
    for text in &texts {
        let reply = send(&mut session, text);
        assert!(reply.starts_with("250 "), "{reply:?}");
    }
    session.quit();
    for (payload, text) in subscriber.until(texts.len()).iter().zip(&texts) {
        scratch.write("payload", payload);
        scratch.write("text", text);
        let said = scratch.python(
            "import hashlib, json\n\
             payload, text = open('payload', 'rb').read(), open('text', 'rb').read()\n\
             read = json.loads(payload)\n\
             assert read['msg'].encode('utf-8', 'surrogateescape') == text, read\n\
             assert read['sha256'] == hashlib.sha256(text).hexdigest(), read\n\
             assert list(read) == ['msg', 'sha256'], read\n\
             assert json.dumps(read).encode() == payload, payload\n\
             print('same')\n",
            &[],
        );
        assert_eq!(said, "same\n");
    }
}

#[test]
fn raw_is_the_message_as_it_came() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let scratch = scratch(broker.address, "hpfeeds_payload raw");
    let mut session = scratch.greeted();
    let text = b"From someone\r\nSubject: raw\r\n\r\n\xe9\x00\r\n.\r\n".to_vec();
    assert!(send(&mut session, &text).starts_with("250 "));
    session.quit();
    assert_eq!(subscriber.until(1), [text]);
    let log = scratch.log();
    assert!(log.iter().any(|line| line.contains(&format!("hpfeeds '{CHANNEL}': delivered"))), "{log:?}");
}

/// Subscribers hear of no recipient, so that more payloads would tell them nothing. Each recipient has its own backup.
#[test]
fn a_message_is_published_once_however_many_it_is_for() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let copies = "copy rcpt_to one@mx.example maildir one\n\
                  copy rcpt_to two@mx.example maildir two\n\
                  copy rcpt_to three@mx.example append .";
    let recipients = ["one@mx.example", "two@mx.example"];
    let smtp = scratch(broker.address, &format!("{copies}\nhpfeeds_payload raw"));
    let mut session = smtp.greeted();
    session.begin_message(&recipients);
    session.send("Subject: SMTP\r\n\r\ntext\r\n.\r\n");
    session.expect("250 ");
    session.begin_message(&recipients);
    session.send("Subject: again\r\n\r\ntext\r\n.\r\n");
    session.expect("250 ");
    session.quit();

    // The one in the middle is not deliverable, and holds nobody up.
    let lmtp = scratch(broker.address, &format!("protocol lmtp\n{copies}\nhpfeeds_payload raw"));
    let mut session = lmtp.session(&["--peer", crate::support::PEER]);
    session.expect("220 ");
    session.exchange("LHLO client.example", "250-");
    session.exchange("MAIL FROM:<sender@client.example>", "250 ");
    for recipient in ["one@mx.example", "three@mx.example", "two@mx.example"] {
        session.exchange(&format!("RCPT TO:<{recipient}>"), "250 ");
    }
    session.exchange("DATA", "354 ");
    session.send("Subject: LMTP\r\n\r\ntext\r\n.\r\n");
    for reply in ["250 ", "451 ", "250 "] {
        session.expect(reply);
    }
    session.quit();
    let texts = ["SMTP", "again", "LMTP"].map(message);
    assert_eq!(subscriber.until(3), texts);
    assert_eq!(["one", "two"].map(|name| smtp.count_files(name)), [2, 2]);
    assert_eq!(["one", "two"].map(|name| lmtp.count_files(name)), [1, 1]);
}

#[test]
fn a_message_that_comes_again_is_published_once() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let receiver = |directives: &str| scratch(broker.address, &format!("hpfeeds_payload raw\n{directives}"));
    let expected = messages_that_come_again(&receiver);
    // What is published one after the other arrives in this order.
    let mut session = receiver("").greeted();
    assert!(send(&mut session, &message("the last one")).starts_with("250 "));
    session.quit();
    let published = wait_until("the last message", || {
        Some(subscriber.payloads()).filter(|payloads| payloads.contains(&message("the last one")))
    });
    for (subject, times) in expected {
        let found = published.iter().filter(|payload| **payload == message(&subject)).count();
        assert_eq!(found, times, "{subject}");
    }
}

/// LMTP answers each recipient by himself, and subscribers still get the message once, also when it comes again.
#[test]
fn a_message_for_two_that_comes_again_is_published_once() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let scratch = scratch(broker.address, "protocol lmtp\nhpfeeds_payload raw\nexactly_once once");
    let send = |subject: &str| {
        let mut session = scratch.greeted();
        session.exchange("LHLO client.example", "250-");
        session.exchange("MAIL FROM:<sender@client.example>", "250 ");
        session.exchange("RCPT TO:<one@mx.example>", "250 ");
        session.exchange("RCPT TO:<two@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.send([&message(subject)[..], b".\r\n"].concat());
        let replies = [session.expect("250 "), session.expect("250 ")].map(|reply| reply.contains("delivery before"));
        session.reset().exit_code();
        replies
    };
    assert_eq!(send("for two"), [false, false]);
    assert_eq!(send("for two"), [true, true]);
    send("the last one");
    assert_eq!(subscriber.until(2), ["for two", "the last one"].map(message));
}

/// 1,048,576 bytes behind the header of a frame, which is what the broker takes.
#[test]
fn a_message_is_as_large_as_the_broker_takes() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let scratch = scratch(broker.address, "hpfeeds_payload raw");
    let mut session = scratch.greeted();
    let room = 1_048_576 - (1 + "writer".len()) - (1 + CHANNEL.len());
    let text = |size: usize| {
        let mut text = b"Subject: large\r\n\r\n".to_vec();
        while text.len() < size - 2 {
            let length = (size - 2 - text.len()).min(900);
            text.extend(vec![b'x'; length.saturating_sub(2)]);
            text.extend(if length < 2 { &b"x"[..length] } else { b"\r\n" });
        }
        text.extend(b"\r\n");
        assert_eq!(text.len(), size);
        text
    };
    assert!(send(&mut session, &text(room)).starts_with("250 "));
    let reply = send(&mut session, &text(room + 1));
    assert_eq!(reply, format!("552 5.3.4 The message is too large for where it goes, which takes {room} bytes"));
    assert!(send(&mut session, &message("small")).starts_with("250 "));
    session.quit();
    let payloads = subscriber.until(2);
    assert!(payloads == [text(room), message("small")]);
}

/// Whatever the broker says, the sender keeps the mail and the backup has none of it; the log says what it was, and never
/// the secret.
#[test]
fn what_the_broker_refuses_stays_with_the_sender() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let nobody = free_port(LOOPBACK[0]);
    // Somebody else's port: a server that says something else first.
    let smtp = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let other = smtp.local_addr().unwrap();
    thread::spawn(move || {
        smtp.incoming().flatten().for_each(|mut peer| _ = peer.write_all(b"220 mx.example ESMTP\r\n"))
    });
    let (at, secret, ident) = (broker.address.to_string(), format!("hpfeeds_secret {SECRET}"), "hpfeeds_ident writer");
    let channel = format!("hpfeeds {CHANNEL}");
    for (replaced, with, cause) in [
        (&*secret, "hpfeeds_secret wrong", "the broker says 'Authentication failed for writer'"),
        (ident, "hpfeeds_ident nobody", "the broker says 'Authentication failed for nobody'"),
        (
            ident,
            "hpfeeds_ident reader",
            "the broker says 'Authkey not allowed to pub here. ident=reader, chan=spam.mails'",
        ),
        (&channel, "hpfeeds other", "the broker says 'Authkey not allowed to pub here. ident=writer, chan=other'"),
        (&at, &nobody.to_string(), "Connection refused"),
        (&at, &other.to_string(), "the broker announces 842149920 bytes: that is not hpfeeds"),
        (&at, "broker.invalid:10000", "the address of broker.invalid cannot be found: no host has this name"),
    ] {
        let scratch = scratch(&at, "copy rcpt_to * maildir backup");
        let config = scratch.read(crate::support::CONFIG);
        assert!(config.contains(replaced), "{replaced}");
        scratch.write(crate::support::CONFIG, config.replace(replaced, with));
        let mut session = scratch.greeted();
        let reply = send(&mut session, &message(with));
        assert_eq!(reply, "451 4.3.0 Cannot deliver this message now, try again later", "{with}");
        session.quit();
        let log = scratch.read(LOG);
        assert!(log.contains(cause), "{with}: {log}");
        assert!(!log.contains(SECRET), "{with}: {log}");
        assert_eq!(scratch.count_files("backup"), 0, "{with}");
    }
    assert_eq!(subscriber.payloads(), Vec::<Vec<u8>>::new());
    // And nothing of that is the fault of anything else.
    let scratch = scratch(&at, "copy rcpt_to * maildir backup");
    let mut session = scratch.greeted();
    assert!(send(&mut session, &message("taken")).starts_with("250 "));
    session.quit();
    assert_eq!(subscriber.until(1).len(), 1);
    assert_eq!(scratch.count_files("backup"), 1);
    let backup = scratch.read(format!(
        "backup/new/{}",
        std::fs::read_dir(scratch.path("backup/new")).unwrap().next().unwrap().unwrap().file_name().display()
    ));
    assert!(backup.starts_with("Return-Path: <") && backup.ends_with("Subject: taken\n\ntext\n"), "{backup}");
}

/// Servers that read the whole message and then say anything but that they refuse what is behind it.
#[test]
fn nothing_but_the_answer_to_what_is_behind_the_message_is_a_confirmation() {
    let error = |text: &str| [&[0, 0, 0, 5 + u8::try_from(text.len()).unwrap(), 0], text.as_bytes()].concat();
    for (answer, cause) in [
        // As a broker ends that is killed with the message in its hands.
        (Vec::new(), "the broker has closed the connection without an answer to the message"),
        (error("go away\r\n"), "the broker says 'go away<0x0d><0x0a>'"),
        (error(""), "the broker says ''"),
        (HELLO.to_vec(), "the broker has said twice who it is"),
        (vec![0, 0, 0, 9, 0, b'h'], "the broker has closed the connection in the middle of a frame"),
        (vec![0, 0, 0], "the broker has closed the connection in the middle of a frame"),
        (vec![0, 0, 0, 5, 3], "the broker sends a frame of kind 3, which is for subscribers"),
        (vec![0, 0, 0, 4, 0], "the broker announces 4 bytes: that is not hpfeeds"),
        (vec![0, 0x10, 0, 6, 0], "the broker announces 1048582 bytes: that is not hpfeeds"),
    ] {
        let scratch = scratch(server_that_says(answer), "copy rcpt_to * maildir backup");
        let mut session = scratch.greeted();
        let reply = send(&mut session, &message("text"));
        assert_eq!(reply, "451 4.3.0 Cannot deliver this message now, try again later", "{cause}");
        session.quit();
        let log = scratch.read(LOG);
        assert!(log.contains(cause), "{cause}: {log}");
        assert_eq!(scratch.count_files("backup"), 0, "{cause}");
    }
    // Nor is what it says before it can have had the message.
    for (first, cause) in [
        (error("no mailrecv-confirm here"), "the broker says 'no mailrecv-confirm here'"),
        (HELLO.to_vec(), "the broker has said twice who it is"),
        (vec![0, 0, 0, 5, 3], "the broker sends a frame of kind 3, which is for subscribers"),
    ] {
        let scratch = scratch(server_that_begins_with([HELLO, &first].concat(), error("no mailrecv-confirm here")), "");
        let mut session = scratch.greeted();
        let reply = send(&mut session, &message("text"));
        assert!(reply.starts_with("451 "), "{cause}: {reply:?}");
        session.quit();
        assert!(scratch.read(LOG).contains(cause), "{cause}: {}", scratch.read(LOG));
    }
    // It has to be about that and nothing else.
    for (replaced, with, is_confirmed) in [
        ("hpfeeds_ident writer", "hpfeeds_ident writer", true),
        ("hpfeeds_ident writer", "hpfeeds_ident mailrecv-confirm", false),
        ("hpfeeds spam.mails", "hpfeeds mailrecv-confirm", false),
    ] {
        let scratch = scratch(server_that_says(error("no mailrecv-confirm here")), "");
        let config = scratch.read(crate::support::CONFIG);
        assert!(config.contains(replaced));
        scratch.write(crate::support::CONFIG, config.replace(replaced, with));
        let mut session = scratch.greeted();
        let reply = send(&mut session, &message("text"));
        assert_eq!(reply.starts_with("250 "), is_confirmed, "{with}: {reply:?}");
        session.quit();
    }
}

/// A server that says hello, reads a message and what is behind it, says this and closes.
fn server_that_says(answer: Vec<u8>) -> SocketAddr {
    server_that_begins_with(HELLO.to_vec(), answer)
}

fn server_that_begins_with(hello: Vec<u8>, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(&hello).unwrap();
        // Authentication, message, and what is behind it.
        for _ in 0..3 {
            let mut length = [0; 4];
            // Whoever does not like what we say hangs up.
            let Ok(()) = client.read_exact(&mut length) else { return };
            let mut frame = vec![0; u32::from_be_bytes(length) as usize - 4];
            client.read_exact(&mut frame).unwrap();
        }
        client.write_all(&answer).unwrap();
    });
    address
}

/// What a broker says first.
const HELLO: &[u8] = b"\0\0\0\x0c\x01\x02@01234";

/// It finishes with the message that it has, which is taken or not, and takes no more.
#[test]
fn a_session_that_is_asked_to_stop_finishes_with_the_broker() {
    for (wakes_up, expected) in [(true, "250 "), (false, "450 4.4.2 The feed sleeps.")] {
        let broker = Broker::start();
        let subscriber = broker.subscriber();
        let limit = if wakes_up { 60 } else { 2 };
        let scratch = scratch(
            broker.address,
            &format!("limit.broker_secs {limit} 450 The feed sleeps.\ncopy rcpt_to * maildir backup"),
        );
        broker.daemon.signal(Signal::SIGSTOP);
        let mut session = scratch.greeted();
        session.begin_message(&["collector@mx.example"]);
        session.send("Subject: text\r\n\r\ntext\r\n.\r\n");
        // The message is kept, and its session waits for the broker.
        wait_until("the backup", || (scratch.count_files("backup/tmp") > 0).then_some(()));
        kill(session.pid(), Signal::SIGTERM).unwrap();
        if wakes_up {
            broker.daemon.signal(Signal::SIGCONT);
        }
        let reply = session.reply();
        assert!(reply.starts_with(expected), "{reply:?}");
        session.expect("421 4.3.2 ");
        assert_eq!(session.exit_code(), 0);
        broker.daemon.signal(Signal::SIGCONT);
        assert_eq!(scratch.count_files("backup"), usize::from(wakes_up));
        if wakes_up {
            assert_eq!(subscriber.until(1).len(), 1);
        }
    }
}

/// The connection breaks at every kind of place: after so many bytes from the broker, or from us. Whoever gets a 451 sends the
/// message again; a part of it is never published.
#[test]
fn a_connection_that_breaks_off_takes_no_mail() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    // What is said on one that does not break off.
    let tap = Tap::start(broker.address);
    let scratch = scratch(tap.address(), "hpfeeds_payload raw");
    let mut session = scratch.greeted();
    assert!(send(&mut session, &message("whole")).starts_with("250 "));
    let whole = tap.recordings().pop().unwrap();
    let frames = |text: &[u8]| u32::from_be_bytes(*text.first_chunk().unwrap()) as usize;
    let hello = frames(&whole.server);
    let auth = frames(&whole.client);
    // The other messages have names of this length.
    let publish = frames(&whole.client[auth..]);
    let behind = auth + publish;
    assert!(whole.server.len() > hello + 5 && whole.client.len() > behind + 5);
    let mut expected = Vec::new();
    for (side, place) in [0, 3, hello - 1, hello, hello + 4, whole.server.len() - 1]
        .map(|place| (Side::Broker, place))
        .into_iter()
        .chain(
            [0, 4, auth - 1, auth, auth + 3, auth + 20, behind - 1, behind, behind + 3, whole.client.len() - 1]
                .map(|place| (Side::Receiver, place)),
        )
    {
        for reset in [false, true] {
            let subject = format!("{expected:>5}", expected = expected.len());
            let cutter = Cutter::start(broker.address, side, place, reset);
            let config = scratch.read(crate::support::CONFIG);
            let old = config.lines().find(|line| line.starts_with("hpfeeds_broker")).unwrap();
            scratch.write(crate::support::CONFIG, config.replace(old, &format!("hpfeeds_broker {}", cutter.address)));
            let mut session = scratch.greeted();
            let reply = send(&mut session, &message(&subject));
            assert_eq!(reply, "451 4.3.0 Cannot deliver this message now, try again later", "{side:?} {place} {reset}");
            session.quit();
            let is_whole = match side {
                Side::Broker => place >= hello,
                Side::Receiver => place >= behind,
            };
            expected.push((message(&subject), is_whole));
        }
    }
    let published = subscriber.payloads();
    for (text, is_whole) in &expected {
        assert!(*is_whole || !published.contains(text), "{}", text.escape_ascii());
    }
    assert!(published.iter().all(|text| *text == message("whole") || expected.iter().any(|(known, _)| known == text)));
    // The broker is asked for something that it refuses, in the place of an answer: that alone is none.
    assert_eq!(published.iter().filter(|text| **text == message("whole")).count(), 1);
}

/// Who sends what is cut off.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    Broker,
    Receiver,
}

/// A wire that breaks after so many bytes of one side.
pub struct Cutter {
    pub address: SocketAddr,
}

impl Cutter {
    pub fn start(broker: SocketAddr, side: Side, place: usize, reset: bool) -> Self {
        let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = TcpStream::connect(broker).unwrap();
            let (mut from, mut to) = match side {
                Side::Broker => (server.try_clone().unwrap(), client.try_clone().unwrap()),
                Side::Receiver => (client.try_clone().unwrap(), server.try_clone().unwrap()),
            };
            let (mut other, mut back) = (to.try_clone().unwrap(), from.try_clone().unwrap());
            let backwards = thread::spawn(move || std::io::copy(&mut other, &mut back));
            let _ = std::io::copy(&mut (&mut from).take(place as u64), &mut to);
            if reset {
                let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&client, sockopt::Linger, &at_once).unwrap();
            }
            // Nobody is told but by the kernel, as when a process dies.
            let _ = client.shutdown(Shutdown::Read);
            let _ = server.shutdown(Shutdown::Both);
            drop((client, server, from, to));
            let _ = backwards.join();
        });
        Self { address }
    }
}

#[test]
fn a_broker_that_does_nothing_is_not_waited_for_without_end() {
    let broker = Broker::start();
    let scratch = scratch(broker.address, "limit.broker_secs 1 450 The feed sleeps.\ncopy rcpt_to * maildir backup");
    broker.daemon.signal(Signal::SIGSTOP);
    let mut session = scratch.greeted();
    assert_eq!(send(&mut session, &message("slow")), "450 4.4.2 The feed sleeps.");
    broker.daemon.signal(Signal::SIGCONT);
    assert!(send(&mut session, &message("awake")).starts_with("250 "));
    session.quit();
    assert_eq!(scratch.count_files("backup"), 1);
    let log = scratch.log();
    assert!(log.iter().any(|line| line.contains("waiting for the broker: no answer in time)")), "{log:?}");
}

/// By address and by name, with no more of the system than that takes.
#[test]
fn publishing_goes_on_inside_the_strictest_sandbox() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let port = broker.address.port();
    for host in ["127.0.0.1", "localhost", "collector.localhost"] {
        let scratch = scratch(format!("{host}:{port}"), "sandbox strict required");
        scratch.write("secret", format!("{SECRET}\n"));
        std::fs::set_permissions(scratch.path("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        let config = scratch.read(crate::support::CONFIG);
        let secret = format!("hpfeeds_secret_file {}", scratch.path("secret").display());
        scratch.write(crate::support::CONFIG, config.replace(&format!("hpfeeds_secret {SECRET}"), &secret));
        let mut session = scratch.greeted();
        let reply = send(&mut session, &message(host));
        assert!(reply.starts_with("250 "), "{host}: {reply:?} {}", scratch.read(LOG));
        session.quit();
    }
    assert_eq!(subscriber.until(3).len(), 3);
}

/// Neither a message about the line nor what a session says of itself has it.
#[test]
fn a_secret_is_never_shown() {
    for line in [
        format!("hpfeeds_secret {SECRET} {SECRET}"),
        format!("hpfeeds_secret \"{SECRET} {SECRET}"),
        format!("hpfeeds_secret {SECRET}"),
    ] {
        let scratch =
            Scratch::with_config(&format!("domain mx.example\nhpfeeds_secret_file nowhere\n{line}\nnonsense\n"));
        for command in [
            scratch.mailrecv(&["check"]),
            scratch.mailrecv(&["explain", "--peer", crate::support::PEER, "--rcpt", "a@mx.example"]),
        ] {
            let output = testkit::output(command);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("nonsense"), "{said}");
            assert!(!said.contains(SECRET), "{said}");
        }
        let mut session = scratch.session(&["--peer", crate::support::PEER]);
        session.expect("421 ");
        drop(session);
        let log = scratch.read(LOG);
        assert!(!log.contains(SECRET), "{log}");
    }
}

/// The broker itself has no TLS under today's Python, so somebody stands in front of it, as it is done.
#[test]
fn tls_is_with_the_broker_and_nobody_else() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    let in_front = |stem: &str, days: (i64, i64)| {
        let request = Request { days, ..Request::of(&["localhost"]) };
        let (certificate, key) = authority.issue(&folder.path(""), stem, &request);
        let port = free_port(LOOPBACK[0]).port();
        let mut command = debian::command("python3", "python3");
        command.args(["-c", TERMINATOR]).arg(certificate).arg(key);
        command.args([port.to_string(), broker.address.port().to_string()]);
        let mut terminator = Daemon::start(command, folder.path(format!("{stem}.out")));
        terminator.until("listening", |said| said.contains("ready").then_some(()));
        (terminator, port)
    };
    let ((_terminator, port), (_other, expired)) = (in_front("broker", (-1, 30)), in_front("expired", (-10, -1)));
    let root = authority.root().display().to_string();
    let large: String =
        (0..8_000).map(|line| format!("line {line} of a message that takes many records\r\n")).collect();
    let large = format!("Subject: large\r\n\r\n{large}");
    let run = |host: &str, port: u16, root: &str| {
        let directives =
            format!("hpfeeds_tls on\nca_file {root}\nhpfeeds_payload raw\nsandbox strict required\ndebug +");
        let scratch = scratch(format!("{host}:{port}"), &directives);
        let mut session = scratch.greeted();
        let replies = [send(&mut session, &message("secured")), send(&mut session, large.as_bytes())];
        session.quit();
        (replies, scratch.read(LOG))
    };
    let (replies, log) = run("localhost", port, &root);
    assert!(replies.iter().all(|reply| reply.starts_with("250 ")), "{replies:?} {log}");
    let payloads = subscriber.until(2);
    assert!(payloads == [message("secured"), large.clone().into_bytes()]);
    for (host, port, root, cause) in [
        ("localhost", port, &other.root().display().to_string(), "its certificate is "),
        ("127.0.0.1", port, &root, "certificate not valid for name"),
        ("localhost", expired, &root, "certificate expired"),
        ("localhost", broker.address.port(), &root, "TLS: "),
        ("localhost", port, &"/nowhere".to_owned(), "/nowhere: cannot be opened"),
    ] {
        let (replies, log) = run(host, port, root);
        assert!(replies.iter().all(|reply| reply.starts_with("451 ")), "{replies:?}");
        assert!(log.contains(cause), "{cause}: {log}");
    }
    assert_eq!(subscriber.payloads().len(), 2);
}

const TERMINATOR: &str = "
import socket, ssl, sys, threading
certificate, key, port, broker = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.create_server(('127.0.0.1', int(port)))
print('ready', flush=True)
def back(server, client):
    try:
        while data := server.recv(65536):
            client.sendall(data)
        client.unwrap()
    except OSError as error:
        print(error, flush=True)
def serve(connection):
    try:
        client = context.wrap_socket(connection, server_side=True)
        server = socket.create_connection(('127.0.0.1', int(broker)))
        threading.Thread(target=back, args=[server, client], daemon=True).start()
        while data := client.recv(65536):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
    except OSError as error:
        print(error, flush=True)
    finally:
        connection.close()
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=[connection], daemon=True).start()
";
