//! `amqp EXCHANGE KEY`, with RabbitMQ: one node, and three that are a cluster. Erlang is large and starts slowly, so all of
//! this is run when it is asked for: `tests/run --test brokers -- --ignored`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::daemon::free_port;
use testkit::rabbitmq::RabbitMq;
use testkit::{LOOPBACK, Session};

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

#[test]
#[ignore = "RabbitMQ is large: tests/run --test brokers -- --ignored"]
fn one_node() {
    let mut rabbit = RabbitMq::start(1, "");
    let broker = format!("amqp://{}", rabbit.address(0));
    let other = format!("amqp://{}", free_port(LOOPBACK[0]));
    rabbit.pika(
        "c = channel(ports[0])\n\
         c.exchange_declare('trap', 'topic', durable=True)\n\
         c.queue_declare('mail', durable=True)\n\
         c.queue_bind('mail', 'trap', 'spam')\n\
         c.queue_declare('full', durable=True, arguments={'x-max-length': 1, 'x-overflow': 'reject-publish'})\n",
    );

    // What a queue gets of it, after a broker that is not there, in the strictest sandbox.
    let strict = scratch(&[other.clone(), broker.clone()], "sandbox strict required\nlimit.smtp_data_size 60000000");
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

    // What goes wrong, in the broker's words.
    let own = |directives: &str| scratch(std::slice::from_ref(&broker), directives);
    let scratch = own("");
    replaced(&scratch, RULE, "deliver rcpt_to * amqp trap nobody");
    let log = refused(&scratch, &message("unroutable"), TRY_AGAIN);
    assert!(log.contains("no queue takes it: the broker says '312 NO_ROUTE'"), "{log}");
    let scratch = own("");
    replaced(&scratch, RULE, "deliver rcpt_to * amqp nowhere spam");
    let log = refused(&scratch, &message("nowhere"), TRY_AGAIN);
    assert!(log.contains("the broker says '404 NOT_FOUND - no exchange "), "{log}");
    let scratch = own("");
    replaced(&scratch, RULE, "deliver rcpt_to * amqp \"\" full");
    let mut session = scratch.greeted();
    assert!(send(&mut session, &message("first")).starts_with("250 "));
    session.quit();
    let log = refused(&scratch, &message("second"), TRY_AGAIN);
    assert!(log.contains("the broker or a queue refuses it (basic.nack)"), "{log}");
    let scratch = own("");
    replaced(&scratch, &broker, &broker.replace("amqp://", "amqp://guest:s3kr1t@"));
    let log = refused(&scratch, &message("password"), TRY_AGAIN);
    assert!(log.contains("the broker says '403 ACCESS_REFUSED"), "{log}");
    assert!(!log.contains("s3kr1t"), "{log}");
    let scratch = own("");
    replaced(&scratch, &broker, &format!("{broker}/none"));
    let log = refused(&scratch, &message("vhost"), TRY_AGAIN);
    assert!(log.contains("the broker says '530 NOT_ALLOWED"), "{log}");

    // The password of a file; a broker that is stopped, one that sleeps, and one that is back with what it had.
    let scratch = own("limit.broker_secs 2 450 The queue sleeps.\namqp_password_file password");
    scratch.write("password", "guest\n");
    replaced(&scratch, &broker, &broker.replace("amqp://", "amqp://guest@"));
    let mut session = scratch.greeted();
    assert!(send(&mut session, &message("kept")).starts_with("250 "), "{}", scratch.read(LOG));
    session.quit();
    rabbit.signal(0, Signal::SIGSTOP);
    let log = refused(&scratch, &message("sleeping"), "450 4.4.2 The queue sleeps.");
    assert!(log.contains("no answer in time"), "{log}");
    rabbit.signal(0, Signal::SIGCONT);
    rabbit.stop(0);
    let log = refused(&scratch, &message("stopped"), TRY_AGAIN);
    assert!(log.contains("Connection refused"), "{log}");
    rabbit.start_again(0);
    let subjects = rabbit.pika(DRAIN);
    let mine: Vec<&str> = subjects.lines().filter(|subject| *subject == "kept").collect();
    assert_eq!(mine, ["kept"], "{subjects}");
}

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
#[ignore = "RabbitMQ is large: tests/run --test brokers -- --ignored"]
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
                    let deadline = Instant::now() + Duration::from_mins(3);
                    loop {
                        let session = session.get_or_insert_with(|| receiver.greeted());
                        if send(session, &message(&subject)).starts_with("250 ") {
                            break;
                        }
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
            let deadline = Instant::now() + Duration::from_mins(10);
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
