//! `exactly_once` with brokers: a message comes again because its sender could not read the 250. The broker has it once,
//! and without `exactly_once` twice.

use testkit::wait_until;

use crate::faults::attempt;
use crate::support::{LOG, Scratch};
use crate::{message, send};

/// How a sender fails to read the 250.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    /// The 250 has left, and the connection breaks.
    Cut,
    /// The session is killed when it is about to send the 250.
    Killed,
}

/// Sends one message for each mishap until it is accepted, with `exactly_once` and without; `receiver` makes a receiver
/// with this directive, whose mail all goes to the broker. Returns each subject with how often it has to be published.
pub fn messages_that_come_again(receiver: &dyn Fn(&str) -> Scratch) -> Vec<(String, usize)> {
    let mut expected = Vec::new();
    for (directive, times) in [("exactly_once once", 1), ("", 2)] {
        for mishap in [Mishap::Cut, Mishap::Killed] {
            let subject = format!("{mishap:?} {times}");
            let scratch = receiver(directive);
            fail(&scratch, mishap, &subject);
            let mut session = scratch.greeted();
            let reply = send(&mut session, &message(&subject));
            session.quit();
            let accepted = if times == 1 { "delivery before, id=" } else { "delivery, id=" };
            assert!(reply.starts_with("250 ") && reply.contains(accepted), "{subject}: {reply} {}", scratch.read(LOG));
            expected.push((subject, times));
        }
    }
    expected
}

/// Sends a message that is published, and does not read the 250.
fn fail(scratch: &Scratch, mishap: Mishap, subject: &str) {
    match mishap {
        Mishap::Cut => {
            let mut session = scratch.greeted();
            session.begin_message(&["collector@mx.example"]);
            session.send([&message(subject)[..], b".\r\n"].concat());
            // The log hears of it when the 250 has left.
            wait_until("the delivery", || scratch.read(LOG).contains(": delivered").then_some(()));
            session.reset().exit_code();
        }
        Mishap::Killed => {
            let calls = attempt(scratch, &format!("before {subject}"), None).calls;
            let answer = calls.iter().rfind(|call| call.sends("250 ")).expect("a 250");
            let kill = format!("{}:signal=KILL:when={}", answer.name, answer.occurrence);
            let answer = attempt(scratch, subject, Some(&kill)).answer;
            assert_eq!(answer, None, "{subject}");
        }
    }
}
