//! `amqp EXCHANGE KEY`, with RabbitMQ: one node, and, when it is asked for, three that are a cluster.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::certificates::{Authority, Request};
use testkit::daemon::free_port;
use testkit::rabbitmq::RabbitMq;
use testkit::{Folder, LOOPBACK, Session, Tap};

use crate::faults::every_call_fails;
use crate::hpfeeds::{Cutter, Side};
use crate::once::messages_that_come_again;
use crate::support::{CONFIG, LOG, Scratch};
use crate::{message, send};

const RULE: &str = "deliver rcpt_to * amqp trap spam";

/// A receiver whose mail all goes to these brokers.
fn scratch(brokers: &[String], directives: &str) -> Scratch {
    let mut config = String::from("domain mx.example\ndebug a\n");
    for broker in brokers {
        let _ = writeln!(config, "amqp_url {broker}");
    }
    Scratch::with_config(&format!("{config}{RULE}\ncopy rcpt_to * maildir backup\n{directives}\n"))
}

fn replaced(scratch: &Scratch, old: &str, new: &str) {
    let config = scratch.read(CONFIG);
    assert!(config.contains(old), "{old}");
    scratch.write(CONFIG, config.replace(old, new));
}

/// One session with one message that is not taken; what the log says of it.
fn refused(scratch: &Scratch, text: &[u8], reply: &str) -> String {
    let before = scratch.count_files("backup");
    let mut session = scratch.greeted();
    assert_eq!(send(&mut session, text), reply);
    session.quit();
    assert_eq!(scratch.count_files("backup"), before);
    scratch.read(LOG)
}

const TRY_AGAIN: &str = "451 4.3.0 Cannot deliver this message now, try again later";

/// One node for all of this, as it starts slowly.
#[test]
fn rabbitmq_takes_what_is_confirmed_and_nothing_else() {
    let (authority, folder, port) = (Authority::new(), Folder::new(), free_port(LOOPBACK[0]).port());
    let (certificate, key) = authority.issue(&folder.path(""), "broker", &Request::of(&["localhost"]));
    let settings = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n\
         ssl_options.verify = verify_none\n",
        authority.root().display(),
        certificate.display(),
        key.display()
    );
    let mut rabbit = RabbitMq::start(1, &settings);
    rabbit.pika(QUEUE);
    rabbit.pika(
        "channel(ports[0]).queue_declare('full', durable=True, arguments={'x-max-length': 1, 'x-overflow': 'reject-publish'})\n",
    );
    let broker = format!("amqp://{}", rabbit.address(0));
    a_queue_gets_the_message_and_its_envelope(&rabbit, &broker);
    what_goes_wrong_is_told_in_the_words_of_the_broker(&broker);
    tls_is_with_rabbitmq_and_nobody_else(&rabbit, port, &authority);
    a_connection_that_breaks_off_is_no_confirmation(&rabbit, &broker);
    a_message_that_comes_again_is_published_once(&rabbit, &broker);
    a_node_that_sleeps_or_is_gone(&mut rabbit, &broker);
}

/// After a broker that is not there, in the strictest sandbox.
fn a_queue_gets_the_message_and_its_envelope(rabbit: &RabbitMq, broker: &str) {
    let other = format!("amqp://{}", free_port(LOOPBACK[0]));
    let strict = scratch(&[other, broker.to_owned()], "sandbox strict required\nlimit.smtp_data_size 60000000");
    let mut session = strict.greeted();
    let text = b".dots\r\nSubject: \xe9\x00\r\n\r\n..\r\nFrom here\r\n".to_vec();
    let reply = send(&mut session, &text);
    assert!(reply.starts_with("250 "), "{reply:?} {}", strict.read(LOG));
    let large: Vec<u8> = (0..400_000).flat_map(|number| format!("{number:060}\r\n").into_bytes()).collect();
    assert!(send(&mut session, &large).starts_with("250 "));
    session.quit();
    assert_eq!(strict.count_files("backup"), 2);
    strict.write("text", &text);
    strict.write("large", &large);
    let compare = format!(
        "import os\n\
         os.chdir('{}')\n\
         c = channel(ports[0])\n\
         for name in ['text', 'large']:\n\
         \x20   method, properties, body = c.basic_get('mail', auto_ack=True)\n\
         \x20   assert body == open(name, 'rb').read(), (name, len(body))\n\
         \x20   print(properties.delivery_mode, properties.content_type, len(properties.message_id) > 5, properties.headers)\n",
        strict.path("").display()
    );
    let said = rabbit.pika(&compare);
    let line = said.lines().next().unwrap_or_default();
    assert!(line.starts_with("2 message/rfc822 True {'sender': '"), "{said}");
    assert!(line.contains("'recipient': 'collector@mx.example', 'client_address': '192.0.2.7'"), "{said}");
}

fn what_goes_wrong_is_told_in_the_words_of_the_broker(broker: &str) {
    for (old, new, cause) in [
        (RULE, "deliver rcpt_to * amqp trap nobody", "no queue takes it: the broker says '312 NO_ROUTE'"),
        (RULE, "deliver rcpt_to * amqp nowhere spam", "the broker says '404 NOT_FOUND - no exchange "),
        (broker, &broker.replace("amqp://", "amqp://guest:s3kr1t@"), "the broker says '403 ACCESS_REFUSED"),
        (broker, &format!("{broker}/none"), "the broker says '530 NOT_ALLOWED"),
    ] {
        let scratch = scratch(&[broker.to_owned()], "");
        replaced(&scratch, old, new);
        let log = refused(&scratch, &message("wrong"), TRY_AGAIN);
        assert!(log.contains(cause), "{new}: {log}");
        assert!(!log.contains("s3kr1t"), "{log}");
    }
    let scratch = scratch(&[broker.to_owned()], "");
    replaced(&scratch, RULE, "deliver rcpt_to * amqp \"\" full");
    let mut session = scratch.greeted();
    assert!(send(&mut session, &message("first")).starts_with("250 "));
    session.quit();
    let log = refused(&scratch, &message("second"), TRY_AGAIN);
    assert!(log.contains("the broker or a queue refuses it (basic.nack)"), "{log}");
}

fn tls_is_with_rabbitmq_and_nobody_else(rabbit: &RabbitMq, port: u16, authority: &Authority) {
    let (root, other) = (authority.root().display().to_string(), Authority::new());
    let plain = rabbit.address(0).port();
    let large: Vec<u8> = (0..20_000).flat_map(|number| format!("{number:060}\r\n").into_bytes()).collect();
    let secured = scratch(&[format!("amqps://localhost:{port}")], &format!("ca_file {root}\nsandbox strict required"));
    let mut session = secured.greeted();
    for text in [&message("secured"), &large] {
        let reply = send(&mut session, text);
        assert!(reply.starts_with("250 "), "{reply:?} {}", secured.read(LOG));
    }
    session.quit();
    secured.write("large", &large);
    let compare = format!(
        "c = channel(ports[0])\n\
         print(c.basic_get('mail', auto_ack=True)[2])\n\
         print(c.basic_get('mail', auto_ack=True)[2] == open('{}', 'rb').read())\n",
        secured.path("large").display()
    );
    assert_eq!(rabbit.pika(&compare), "b'Subject: secured\\r\\n\\r\\ntext\\r\\n'\nTrue\n");
    for (host, port, root, cause) in [
        ("localhost", port, &other.root().display().to_string(), "its certificate is "),
        ("127.0.0.1", port, &root, "certificate not valid for name"),
        ("localhost", plain, &root, "TLS: "),
        ("localhost", port, &"/nowhere".to_owned(), "/nowhere: cannot be opened"),
    ] {
        let scratch = scratch(&[format!("amqps://{host}:{port}")], &format!("ca_file {root}"));
        let log = refused(&scratch, &message("refused"), TRY_AGAIN);
        assert!(log.contains(cause), "{cause}: {log}");
    }
}

/// Behind each of so many bytes from the broker. A queue may have the message all the same; the sender sends it again.
fn a_connection_that_breaks_off_is_no_confirmation(rabbit: &RabbitMq, broker: &str) {
    let tap = Tap::start(rabbit.address(0));
    let whole = scratch(&[format!("amqp://{}", tap.address())], "");
    let mut session = whole.greeted();
    assert!(send(&mut session, &message("whole")).starts_with("250 "));
    session.quit();
    let recording = tap.recordings().pop().unwrap();
    // basic.ack is 21 bytes; behind it the broker may say goodbye.
    let ack = recording.server.windows(4).rposition(|method| method == b"\x00\x3c\x00\x50").unwrap() - 7;
    for place in [0, 5, ack / 2, ack, ack + 20] {
        let cutter = Cutter::start(rabbit.address(0), Side::Broker, place, place % 2 == 0);
        let scratch = scratch(&[broker.to_owned()], "");
        replaced(&scratch, broker, &format!("amqp://{}", cutter.address));
        refused(&scratch, &message("cut"), TRY_AGAIN);
    }
    for place in [0, 4, 300, recording.client.len() / 2] {
        let cutter = Cutter::start(rabbit.address(0), Side::Receiver, place, place % 2 == 0);
        let scratch = scratch(&[broker.to_owned()], "");
        replaced(&scratch, broker, &format!("amqp://{}", cutter.address));
        refused(&scratch, &message("cut off"), TRY_AGAIN);
    }
    let subjects = rabbit.pika(DRAIN);
    assert_eq!(subjects.lines().filter(|subject| *subject == "whole").count(), 1, "{subjects}");
    assert!(!subjects.contains("cut off"), "{subjects}");
}

fn a_message_that_comes_again_is_published_once(rabbit: &RabbitMq, broker: &str) {
    let expected = messages_that_come_again(&|directives| scratch(&[broker.to_owned()], directives));
    let subjects = rabbit.pika(DRAIN);
    for (subject, times) in expected {
        assert_eq!(subjects.lines().filter(|it| *it == subject).count(), times, "{subject}: {subjects}");
    }
}

fn a_node_that_sleeps_or_is_gone(rabbit: &mut RabbitMq, broker: &str) {
    let with_password_file = |directives: &str| {
        let scratch = scratch(&[broker.to_owned()], &format!("amqp_password_file password\n{directives}"));
        scratch.write("password", "guest\n");
        replaced(&scratch, broker, &broker.replace("amqp://", "amqp://guest@"));
        scratch
    };
    rabbit.signal(0, Signal::SIGSTOP);
    let impatient = with_password_file("limit.broker_secs 1 450 The queue sleeps.");
    let log = refused(&impatient, &message("sleeping"), "450 4.4.2 The queue sleeps.");
    assert!(log.contains("no answer in time"), "{log}");
    rabbit.signal(0, Signal::SIGCONT);
    let scratch = with_password_file("");
    let mut session = scratch.greeted();
    let reply = send(&mut session, &message("awake"));
    assert!(reply.starts_with("250 "), "{reply:?} {}", scratch.read(LOG));
    session.quit();
    rabbit.kill(0);
    let log = refused(&scratch, &message("killed"), TRY_AGAIN);
    // Or reset, as long as the last of its processes is going.
    assert!(log.contains("Connection refused") || log.contains("Connection reset"), "{log}");
}

#[test]
#[ignore = "takes a minute: tests/run --test brokers -- --ignored"]
fn each_call_of_a_delivery_for_amqp_fails_once() {
    let rabbit = RabbitMq::start(1, "");
    rabbit.pika(QUEUE);
    let scratch = scratch(&[format!("amqp://{}", rabbit.address(0))], "limit.broker_secs 2 451 Too slow.");
    let taken = every_call_fails(&scratch);
    let subjects = rabbit.pika(DRAIN);
    let published: HashSet<&str> = subjects.lines().collect();
    let lost: Vec<&String> = taken.iter().filter(|subject| !published.contains(subject.as_str())).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// What is confirmed outlives a node that is stopped.
#[test]
#[ignore = "takes a minute: tests/run --test brokers -- --ignored"]
fn a_node_that_is_back_has_what_it_had() {
    let mut rabbit = RabbitMq::start(1, "");
    rabbit.pika(QUEUE);
    for stop in [RabbitMq::stop, RabbitMq::kill] {
        let scratch = scratch(&[format!("amqp://{}", rabbit.address(0))], "");
        let mut session = scratch.greeted();
        assert!(send(&mut session, &message("kept")).starts_with("250 "), "{}", scratch.read(LOG));
        session.quit();
        stop(&mut rabbit, 0);
        refused(&scratch, &message("stopped"), TRY_AGAIN);
        rabbit.start_again(0);
        assert_eq!(rabbit.pika(DRAIN), "kept\n");
    }
    // One that never says anything leaves time for the next.
    let silent = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let brokers = [silent.local_addr().unwrap(), rabbit.address(0)].map(|address| format!("amqp://{address}"));
    let patient = scratch(&brokers, "limit.broker_secs 30 451 Too slow.");
    let mut session = patient.greeted();
    let reply = send(&mut session, &message("second"));
    assert!(reply.starts_with("250 "), "{reply:?} {}", patient.read(LOG));
    session.quit();
    // One that has no memory left.
    let scratch = scratch(&[format!("amqp://{}", rabbit.address(0))], "");
    rabbit.control(0, &["set_vm_memory_high_watermark", "0.0001"]);
    let log = refused(&scratch, &message("blocked"), TRY_AGAIN);
    assert!(log.contains("the broker takes nothing at the moment: 'low on memory'"), "{log}");
    rabbit.control(0, &["set_vm_memory_high_watermark", "0.6"]);
    let mut session = scratch.greeted();
    assert!(send(&mut session, &message("taken")).starts_with("250 "), "{}", scratch.read(LOG));
    session.quit();
}

/// A durable queue for what is published.
const QUEUE: &str = "
c = channel(ports[0])
c.exchange_declare('trap', 'topic', durable=True)
c.queue_declare('mail', durable=True)
c.queue_bind('mail', 'trap', 'spam')
";

/// Prints the subject of each message that waits in `mail`.
const DRAIN: &str = "
c = channel(ports[0])
while True:
    method, properties, body = c.basic_get('mail', auto_ack=True)
    if method is None:
        break
    print(body.split(b'\\r\\n', 1)[0].decode().removeprefix('Subject: '))
";

/// Four receivers and senders that keep what gets no 250, while a node is killed and started again: none lost, and doubles
/// only where a receiver saw no confirmation.
#[test]
#[ignore = "takes minutes: tests/run --test brokers -- --ignored"]
fn three_nodes_of_which_one_is_killed_lose_nothing() {
    const RECEIVERS: usize = 4;
    const MESSAGES: usize = 2_000;
    let mut rabbit = RabbitMq::start(3, "");
    rabbit.pika(
        "c = channel(ports[0])\n\
         c.exchange_declare('trap', 'topic', durable=True)\n\
         c.queue_declare('mail', durable=True, arguments={'x-queue-type': 'quorum'})\n\
         c.queue_bind('mail', 'trap', 'spam')\n",
    );
    let brokers: Vec<String> = (0..3).map(|node| format!("amqp://{}", rabbit.address(node))).collect();
    let receivers: Vec<Scratch> = (0..RECEIVERS)
        .map(|number| {
            // Each begins with another node.
            let mut own = brokers.clone();
            own.rotate_left(number % 3);
            let scratch = scratch(&own, "limit.broker_secs 10 451 Too slow.");
            replaced(&scratch, "copy rcpt_to * maildir backup\n", "");
            scratch
        })
        .collect();
    let (sent, deferred) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (number, receiver) in receivers.iter().enumerate() {
            let (sent, deferred) = (&sent, &deferred);
            scope.spawn(move || {
                let subjects = (0..MESSAGES / RECEIVERS).map(|message| format!("{number}-{message}"));
                let mut session: Option<Session> = None;
                for (count, subject) in subjects.enumerate() {
                    let deadline = Instant::now() + Duration::from_mins(10);
                    loop {
                        let mut current = session.take().unwrap_or_else(|| receiver.greeted());
                        if send(&mut current, &message(&subject)).starts_with("250 ") {
                            session = Some(current);
                            break;
                        }
                        // As senders do: a session bears only so many commands that lead to nothing.
                        current.quit();
                        deferred.fetch_add(1, SeqCst);
                        assert!(Instant::now() < deadline, "{}", receiver.read(LOG));
                        thread::sleep(Duration::from_millis(500));
                    }
                    sent.fetch_add(1, SeqCst);
                    if count % 20 == 19 {
                        session.take().unwrap().quit();
                    }
                }
            });
        }
        let until = |count: usize| {
            let deadline = Instant::now() + Duration::from_mins(30);
            while sent.load(SeqCst) < count {
                assert!(Instant::now() < deadline, "{} were sent", sent.load(SeqCst));
                thread::sleep(Duration::from_millis(20));
            }
        };
        until(MESSAGES / 4);
        // The one that leads the queue, and without a word to anybody.
        rabbit.kill(0);
        assert!(sent.load(SeqCst) < MESSAGES);
        until(MESSAGES / 2);
        rabbit.start_again(0);
    });
    let mut counts: HashMap<String, usize> = HashMap::new();
    rabbit.pika(DRAIN).lines().for_each(|subject| *counts.entry(subject.to_owned()).or_default() += 1);
    let expected: HashSet<String> = (0..RECEIVERS)
        .flat_map(|number| (0..MESSAGES / RECEIVERS).map(move |message| format!("{number}-{message}")))
        .collect();
    let lost: Vec<&String> = expected.iter().filter(|subject| !counts.contains_key(*subject)).collect();
    assert!(lost.is_empty(), "{} of {MESSAGES} lost: {lost:?}", lost.len());
    assert_eq!(counts.len(), MESSAGES);
    let doubles = counts.values().map(|count| count - 1).sum::<usize>();
    let deferred = deferred.load(SeqCst);
    println!("{MESSAGES} messages, {deferred} deferred, {doubles} doubles");
    assert!(doubles <= deferred, "{doubles} doubles, and {deferred} messages that were not confirmed");
}
