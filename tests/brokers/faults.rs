//! Each system call of a session fails once, or is its last, from where it turns to the broker, by strace's hand: with a 250
//! the message is with the broker and in the backup; without it is not in the backup, and what is there was published.

use std::fs;

use testkit::hpfeeds::Broker;
use testkit::strace::{self, Call};
use testkit::{Session, debian};

use crate::hpfeeds::scratch;
use crate::message;
use crate::support::{CONFIG, LOG, MAILRECV, PEER, Scratch};

/// Calls a fault for each place where there can be one; what was answered 250 or kept has to have been published.
pub fn every_call_fails(scratch: &Scratch) -> Vec<String> {
    let calls = attempt(scratch, "undisturbed", None).calls;
    let with_the_broker = |call: &Call| call.arguments.first().is_some_and(|domain| domain.starts_with("AF_INET"));
    let first = calls.iter().position(|call| call.name == "socket" && with_the_broker(call)).unwrap();
    let mut published = vec!["undisturbed".to_owned()];
    let (mut faults, mut hits) = (0, 0);
    for call in &calls[first..] {
        let signal = Some("signal=KILL").filter(|_| call.name != "exit_group");
        for fault in errors(call).into_iter().chain(signal) {
            let subject = format!("fault{faults}");
            faults += 1;
            let before = backups(scratch);
            let injection = format!("{}:{fault}:when={}", call.name, call.occurrence);
            let attempt = attempt(scratch, &subject, Some(&injection));
            let kept = backups(scratch) - before;
            hits += usize::from(attempt.calls.iter().any(|call| call.injected.is_some() || call.result.is_none()));
            match attempt.answer.as_deref() {
                Some(answer) if answer.starts_with("250") => assert_eq!(kept, 1, "{injection}"),
                Some(answer) => {
                    assert!(answer.starts_with('4'), "{injection}: {answer}");
                    assert_eq!(kept, 0, "{injection}: {answer}");
                }
                None => assert!(kept <= 1 && fault.starts_with("signal"), "{injection}: {kept}"),
            }
            published.extend((kept == 1).then_some(subject));
        }
    }
    // What is read at once one time comes in two pieces another.
    println!("{faults} faults, {hits} came about");
    assert!(faults > 40 && hits * 10 >= faults * 9, "{hits} of {faults} faults came about");
    published
}

/// How a session with one message went.
pub struct Attempt {
    /// The reply to the message, if there was one.
    pub answer: Option<String>,
    pub calls: Vec<Call>,
}

/// Sends one message in a session under strace, with this fault if there is one.
pub fn attempt(scratch: &Scratch, subject: &str, injection: Option<&str>) -> Attempt {
    let mut command = scratch.command(debian::program("strace", "strace"), &["-y", "-s", "128", "-o", "strace"]);
    command.args(injection.into_iter().flat_map(|injection| ["-e".to_owned(), format!("inject={injection}")]));
    command.args([MAILRECV, "-c", CONFIG, "-l", LOG, "--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    session.begin_message(&["collector@mx.example"]);
    session.send([&message(subject)[..], b".\r\n"].concat());
    let answer = session.try_reply().ok().map(|reply| reply.to_string());
    let _ = session.try_ask("QUIT");
    let _ = session.exit_code();
    let calls = strace::parse(&fs::read(scratch.path("strace")).unwrap());
    Attempt { answer, calls }
}

fn backups(scratch: &Scratch) -> usize {
    fs::read_dir(scratch.path("backup/new")).map_or(0, Iterator::count)
}

/// What a call can fail with; nothing if what it is about is the peer.
fn errors(call: &Call) -> Vec<&'static str> {
    let is_with_the_peer =
        call.arguments.first().is_some_and(|first| ["0<", "1<", "2<"].iter().any(|it| first.starts_with(it)));
    match &*call.name {
        _ if is_with_the_peer => vec![],
        "socket" => vec!["error=EMFILE", "error=ENOBUFS"],
        "connect" => vec!["error=ENETUNREACH", "error=ECONNREFUSED"],
        "sendto" | "write" | "writev" => vec!["error=ECONNRESET", "error=EPIPE", "error=EINTR"],
        "recvfrom" | "read" => vec!["error=ECONNRESET", "error=EAGAIN", "error=EINTR"],
        "setsockopt" | "getsockopt" => vec!["error=EINVAL"],
        "ioctl" | "fcntl" => vec!["error=EMFILE"],
        "fsync" | "fdatasync" | "rename" | "renameat" | "renameat2" | "open" | "openat" | "mkdir" => {
            vec!["error=EIO", "error=ENOSPC"]
        }
        "unlink" | "unlinkat" | "stat" | "fstat" | "statx" | "lseek" => vec!["error=EIO"],
        _ => vec![],
    }
}

#[test]
fn each_call_of_a_delivery_for_hpfeeds_fails_once() {
    let broker = Broker::start();
    let subscriber = broker.subscriber();
    // strace keeps from the broker what could not be sent, so that it is waited for.
    let directives = "limit.broker_secs 1 451 Too slow.\nhpfeeds_payload raw\ncopy rcpt_to * maildir backup";
    let scratch = scratch(broker.address, directives);
    for subject in every_call_fails(&scratch) {
        testkit::wait_until(&format!("{subject} with the subscriber"), || {
            subscriber.payloads().contains(&message(&subject)).then_some(())
        });
    }
}
