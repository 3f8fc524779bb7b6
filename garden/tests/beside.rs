//! What runs beside a server and ends is noticed, and started again with the server.
//!
//! Needs root, for the namespaces. The server is a few lines of Python, as the host has it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use smtp_garden::case::{Case, Part, Unit};
use smtp_garden::drive;
use smtp_garden::ground::{Garden, Server};
use smtp_garden::observation::{Observation, Patience};
use smtp_garden::packages::Fetched;
use smtp_garden::recipe::{Recipe, Role};

/// The server greets, and answers everything with 221 and the end of the connection. Beside it runs this command.
fn recipe(beside: &str) -> String {
    format!(
        r#"
description = "one that greets"
roles = ["local"]
beside = [["sh", "-c", "{beside}"]]
run = ["python3", "-c", '''
import socket
listener = socket.create_server(("127.0.0.1", __PORT__))
while True:
    client, _ = listener.accept()
    try:
        client.sendall(b"220 hello\r\n")
        client.recv(100)
        client.sendall(b"221 bye\r\n")
    except OSError:
        pass
    client.close()
''']
"#
    )
}

/// Waits until there is a file.
const WAIT: &str = "while ! test -e /tmp/end; do sleep 0.01; done; ";

/// Does this with a garden in which this server stands, in a thread of its own, whose network is the garden's.
fn with(beside: &str, does: impl FnOnce(&mut Garden, Vec<(String, anyhow::Error)>) + Send) {
    let recipe = Recipe::parse("own", &recipe(beside), &|_| unreachable!()).unwrap().remove(0);
    let fetched = Fetched { packages: None, programs: Vec::new(), version: String::new() };
    let tried = || {
        let mut garden = Garden::lay(Some(program())).unwrap();
        let failed = garden.start(vec![(recipe, fetched)]);
        does(&mut garden, failed);
    };
    thread::scope(|scope| scope.spawn(tried).join()).unwrap();
}

fn program() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_BIN_EXE_smtp-garden").unwrap())
}

fn hold(server: &mut Server) -> Observation {
    let quit = Unit::Send { part: Part::Quit, octets: b"QUIT\r\n".to_vec() };
    let case = Case { name: "quit".into(), units: vec![quit, Unit::Expect { code: "221".into() }] };
    let patience = Patience { reply: Duration::from_secs(60), drained: Duration::from_secs(60) };
    drive::hold(&mut server.in_role(Role::Local), &[case], patience).unwrap().remove(0)
}

fn end_and_wait(server: &mut Server, root: &Path) -> String {
    fs::write(root.join("tmp/end"), "").unwrap();
    loop {
        match server.ended() {
            Some(ended) => return ended,
            None => thread::yield_now(),
        }
    }
}

#[test]
fn a_command_that_fails_beside_a_server_is_named_and_started_again_with_it() {
    for (end, how) in [("exit 3", "exit status 3"), ("kill -9 $$", "SIGKILL")] {
        let command = format!("{WAIT}{end}");
        with(&command, |garden, failed| {
            assert!(failed.is_empty(), "{failed:?}");
            let server = garden.server_mut("own").unwrap();
            assert_eq!((server.ended(), hold(server).ended), (None, None));
            let (before, root) = (server.first_process(), server.root());
            let ended = format!("`sh -c {command}` ended: {how}");
            assert_eq!(end_and_wait(server, &root), ended);
            // It is told in the next session, which is held with another.
            let observation = hold(server);
            assert_eq!((observation.ended, observation.is_alive, observation.log), (None, true, vec![ended]));
            assert_ne!(server.first_process(), before);
            assert_eq!((server.ended(), hold(server).log), (None, vec![]));
        });
    }
}

#[test]
fn who_keeps_servers_running_is_told() {
    let recipes = tempfile::tempdir().unwrap();
    fs::create_dir(recipes.path().join("own")).unwrap();
    let command = format!("{WAIT}exit 3");
    fs::write(recipes.path().join("own/recipe.toml"), recipe(&command)).unwrap();
    let mut up = Command::new(program())
        .args(["up", "own", "--recipes"])
        .arg(recipes.path())
        .arg("--cache")
        .arg(recipes.path().join("cache"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(up.stdout.take().unwrap()).lines();
    let told = BufReader::new(up.stderr.take().unwrap());
    let line = printed.next().unwrap().unwrap();
    let (_, root) = line.split_once("files in ").unwrap();
    fs::write(Path::new(root).join("tmp/end"), "").unwrap();
    let line = told.lines().map(Result::unwrap).find(|line| line.contains("ended"));
    up.kill().unwrap();
    up.wait().unwrap();
    assert_eq!(line.unwrap(), format!("own: `sh -c {command}` ended: exit status 3"));
}

#[test]
fn a_command_that_has_done_its_work_is_no_matter() {
    with("echo done", |garden, failed| {
        assert!(failed.is_empty(), "{failed:?}");
        let server = garden.server_mut("own").unwrap();
        while server.take_log() != ["done"] {
            thread::yield_now();
        }
        assert_eq!((server.ended(), hold(server).ended), (None, None));
    });
}

#[test]
fn a_command_that_fails_at_once_is_the_reason_of_a_server_that_cannot_be_had() {
    with("echo wrong; exit 4", |garden, failed| {
        // The server may have greeted before; then it is noticed as soon as somebody asks.
        let told = match failed.first() {
            Some((_, error)) => format!("{error:#}"),
            None => loop {
                if let Some(ended) = garden.server_mut("own").unwrap().ended() {
                    break ended;
                }
            },
        };
        assert!(told.contains("`sh -c echo wrong; exit 4` ended: exit status 4"), "{told}");
    });
}
