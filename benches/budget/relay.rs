//! What passing mail on costs: beside a session that appends it, to a server that does nothing with it.
//!
//! That server is a process for each connection, whose start is in the times.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::Result;
use crate::bench::Bench;
use crate::sessions::{self, ONE_RULE, RECIPIENT, message};
use crate::table::{Figure, Unit};

pub(crate) fn relay(bench: &mut Bench) -> Result<()> {
    let next = serve(bench.do_nothing().program)?;
    let mut relaying = bench.mailrecv(&format!("deliver rcpt_to {RECIPIENT} relay smtp://{next}\n"))?;
    // It lies with the next server, which drops it.
    relaying.mailbox = None;
    let contestants = [relaying, bench.mailrecv(ONE_RULE)?.named("mailrecv, append")];
    let figures = [Figure::new("one small mail passed on, connect to exit", Unit::AddedMilliseconds, None)];
    let mail = message(1_000);
    bench.measure(figures, bench.runs(), &contestants, |contestant, listener| {
        sessions::time_of_mail(contestant, listener, &[RECIPIENT], &mail)
    });
    let figures = [
        Figure::new("50 MB passed on, rate", Unit::MegabytesPerSecond, None),
        Figure::new("50 MB passed on, peak memory", Unit::Kibibytes, None),
    ];
    let mail = message(50_000_000);
    bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
        sessions::rate_and_memory(contestant, listener, &mail)
    });
    Ok(())
}

/// Starts this program for each connection; where that is.
pub(crate) fn serve(program: PathBuf) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            let connection = OwnedFd::from(connection);
            let Ok(output) = connection.try_clone() else { return };
            let child = Command::new(&program).stdin(connection).stdout(output).stderr(Stdio::null()).spawn();
            thread::spawn(move || child.map(|mut child| child.wait()));
        }
    });
    Ok(address)
}
