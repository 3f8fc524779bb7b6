//! The client matrix: every client sends every kind of message, and what arrives is byte for byte what the client put
//! on the wire.
//!
//! `cargo test --test clients` has the clients that most mail is sent with, `cargo test --test clients -- --long` all of
//! them. A tap between client and `mailrecv listen` keeps what both sides say. From that the test reads by itself which
//! messages were accepted, for whom, and what their texts are, and compares it with a maildir and a mailbox. What a
//! client does not send, or not as it is given, is written down in the table of clients (clients.rs): one that begins to,
//! or stops, fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, talks to people, and is nobody's interface"
)]

mod client;
mod clients;
mod matrix;
mod messages;
mod programs;
mod receiver;
mod relays;
#[path = "../support/mod.rs"]
mod support;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use client::Client;
use clients::CLIENTS;
use matrix::Row;
use testkit::{Form, Request, panic_text};

fn main() -> ExitCode {
    let request = Request::of_command_line();
    let is_wanted = |client: &&Client| {
        (client.form == Form::Short || request.form == Form::Long) && request.selects(&client.name.to_lowercase())
    };
    let clients: Vec<&Client> = CLIENTS.iter().filter(is_wanted).collect();
    if request.list {
        clients.iter().for_each(|client| println!("{}: test", client.name));
        return ExitCode::SUCCESS;
    }
    let rows = rows(&clients);
    if !rows.is_empty() {
        println!("\n{}", matrix::table(&rows));
    }
    rows.iter().flat_map(|row| &row.problems).for_each(|problem| println!("PROBLEM: {problem}"));
    let passed = rows.iter().filter(|row| row.problems.is_empty()).count();
    let failed = rows.len() - passed;
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A row for each client, in their order. They wait for processes and disks more than they compute, so some go at once.
fn rows(clients: &[&Client]) -> Vec<Row> {
    let (next, rows) = (Mutex::new(clients.iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, client)) = { next.lock().unwrap().next() } {
                    let row = run(client);
                    rows.lock().unwrap().push((number, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(number, _)| *number);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Sends all messages with a client. A panic is a problem of its row.
fn run(client: &Client) -> Row {
    let started = Instant::now();
    let row = catch_unwind(AssertUnwindSafe(|| matrix::row(client))).unwrap_or_else(|panic| Row {
        client: client.name,
        notes: Vec::new(),
        problems: vec![format!("{}: {}", client.name, panic_text(&*panic))],
    });
    let verdict = if row.problems.is_empty() { "ok" } else { "FAILED" };
    println!("{} ... {verdict}, {:.1} s", client.name, started.elapsed().as_secs_f64());
    row
}

const AT_ONCE: usize = 3;
