//! The one service is restarted, stopped, killed and gets stuck, while clients send mail that they send again until it is
//! taken.

use std::thread;
use std::time::Duration;

use testkit::{LOOPBACK, wait_until};

use crate::support::{CONFIG, Installation, Pair, SERVICE, Seen};

/// More often than systemd lets a service start in ten seconds, unless the unit says otherwise.
const TIMES: usize = 8;

/// Nobody notices.
#[test]
fn a_restart_under_load() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    let mut processes = Vec::new();
    let seen = installation.under_load(4, |load| {
        for _ in 0..TIMES {
            load.wait_for_more(20);
            processes.push(installation.main_process());
            installation.machine.systemctl(&["restart", SERVICE]);
        }
        load.wait_for_more(20);
    });
    processes.dedup();
    assert_eq!(processes.len(), TIMES);
    assert!(seen.turned_away.is_empty() && seen.put_off.is_empty() && seen.broken.is_empty(), "{seen:?}");
    assert_nothing_lost(&installation, &seen);
    installation.assert_nothing_failed();
}

/// Who connects while it is stopped has it started again.
#[test]
fn a_connection_starts_what_was_stopped() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    for round in 0..TIMES {
        let mut inside = installation.connect(LOOPBACK[0]);
        inside.expect("220 ");
        inside.begin_message(&["append@mail.example.com"]);
        installation.machine.systemctl(&["stop", "--no-block", SERVICE]);
        wait_until("the stop", || (installation.machine.property(SERVICE, "ActiveState") != "active").then_some(()));
        // It waits for its turn, while the session before it comes to its end.
        let mut waiting = installation.connect(LOOPBACK[0]);
        inside.exchange(&format!("Subject: inside {round}\r\n\r\nx\r\n."), "250 ");
        inside.exchange("QUIT", "221 ");
        waiting.expect("220 ");
        waiting.deliver_subject("append@mail.example.com", &format!("waiting {round}"));
        waiting.exchange("QUIT", "221 ");
    }
    assert_eq!(installation.subjects().len(), 2 * TIMES);
    installation.assert_nothing_failed();
}

/// What got its 250 is there, sessions do not outlive the service, and it comes back by itself.
#[test]
fn a_kill_under_load() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    let seen = installation.under_load(4, |load| {
        for _ in 0..TIMES {
            load.wait_for_more(20);
            let mut idle = installation.connect(LOOPBACK[0]);
            idle.expect("220 ");
            let killed = installation.main_process();
            installation.machine.systemctl(&["kill", "--signal=KILL", "--kill-whom=main", SERVICE]);
            assert_eq!(idle.rest(), "");
            wait_until("another process", || {
                let process = installation.main_process();
                (process != killed && process != "0").then_some(())
            });
        }
        load.wait_for_more(20);
    });
    // Refused would be: systemd had shut the socket.
    assert!(seen.turned_away.iter().all(|how| !how.contains("refused")), "{seen:?}");
    assert_nothing_lost(&installation, &seen);
    wait_until("the service", || (installation.machine.property(SERVICE, "ActiveState") == "active").then_some(()));
    installation.assert_nothing_failed();
}

/// It comes back although nobody connects.
#[test]
fn what_was_killed_comes_back() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    installation.deliver("before");
    let killed = installation.main_process();
    installation.machine.systemctl(&["kill", "--signal=KILL", SERVICE]);
    wait_until("another process", || {
        let process = installation.main_process();
        (process != killed && process != "0").then_some(())
    });
    installation.deliver("after");
}

/// One that does not say that it is alive is replaced, and no other.
#[test]
fn a_stuck_listener_is_replaced() {
    let time = Duration::from_secs(10);
    let installation = Installation::boot_with(Pair::OneService, CONFIG, &format!("WatchdogSec={}", time.as_secs()));
    installation.deliver("before");
    let stuck = installation.main_process();
    thread::sleep(time * 3 / 2);
    assert_eq!(installation.main_process(), stuck);
    installation.machine.systemctl(&["kill", "--signal=STOP", "--kill-whom=main", SERVICE]);
    // Who waits is served by the next one.
    installation.deliver("after");
    assert_ne!(installation.main_process(), stuck);
    installation.wait_for_line("mailrecv.service: Watchdog timeout");
    installation.assert_nothing_failed();
}

#[track_caller]
fn assert_nothing_lost(installation: &Installation, seen: &Seen) {
    let subjects = installation.subjects();
    let lost: Vec<&String> = seen.taken.iter().filter(|subject| !subjects.contains_key(*subject)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    // A mail that is there twice was not answered the first time.
    let surplus: usize = subjects.values().map(|count| count - 1).sum();
    assert!(surplus <= seen.broken.len(), "{subjects:?} {seen:?}");
}
