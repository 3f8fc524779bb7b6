//! A broker of hpfeeds that dies with messages in its hands: what got a 250 has gone to who subscribes.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::Random;
use testkit::hpfeeds::Broker;

use crate::hpfeeds::scratch;
use crate::{message, send};

#[test]
fn a_broker_that_is_killed_takes_no_mail_with_it() {
    killed(5);
}

#[test]
#[ignore = "takes minutes: tests/run --test brokers -- --ignored"]
fn a_broker_that_is_killed_200_times_takes_no_mail_with_it() {
    killed(200);
}

/// Kills so many brokers, each while several sessions publish with it.
fn killed(brokers: u64) {
    let (mut taken, mut refused) = (0, 0);
    for number in 0..brokers {
        let mut random = Random::new(number);
        let mut broker = Broker::start();
        let subscriber = broker.subscriber();
        let receiver = scratch(broker.address, "hpfeeds_payload raw\ncopy rcpt_to * maildir backup");
        let accepted: Mutex<BTreeSet<Vec<u8>>> = Mutex::default();
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let (receiver, accepted) = (&receiver, &accepted);
                scope.spawn(move || {
                    let mut session = receiver.greeted();
                    for text in (0..).map(|count| message(&format!("{sender}-{count}"))) {
                        let reply = send(&mut session, &text);
                        if !reply.starts_with("250 ") {
                            assert!(reply.starts_with("451 4.3.0 "), "{reply:?}");
                            break;
                        }
                        accepted.lock().unwrap().insert(text);
                    }
                    session.quit();
                });
            }
            let deadline = Instant::now() + Duration::from_mins(3);
            while accepted.lock().unwrap().len() < SENDERS {
                assert!(Instant::now() < deadline, "{}", receiver.read(crate::support::LOG));
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_micros(random.below(30_000)));
            broker.daemon.signal(Signal::SIGKILL);
            let _ = broker.daemon.exit_code();
        });
        let accepted = accepted.into_inner().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let published: BTreeSet<Vec<u8>> = subscriber.payloads().into_iter().collect();
            let lost: Vec<_> = accepted.difference(&published).map(|text| text.escape_ascii().to_string()).collect();
            if lost.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "broker {number}: {lost:?}");
            thread::sleep(Duration::from_millis(10));
        }
        // And the backup has these and no other.
        assert_eq!(receiver.count_files("backup"), accepted.len());
        taken += accepted.len();
        refused += SENDERS;
    }
    println!("{brokers} brokers were killed, {taken} messages taken, {refused} refused, none lost");
}

const SENDERS: usize = 4;
