//! Each recipe alone: the server starts, delivers, passes on, and refuses who is not there.
//!
//!     cargo test --test recipes                  # a few
//!     cargo test --test recipes -- --ignored     # all, or those that SERVERS names: SERVERS="exim postfix"
//!
//! Needs root, for the namespaces, and the packages, which are got where they are not there yet.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use smtp_garden::case::{Case, Part, Unit};
use smtp_garden::drive;
use smtp_garden::ground::{Garden, Server};
use smtp_garden::observation::{Event, Observation, Patience, Place};
use smtp_garden::packages::{Cache, Fetched};
use smtp_garden::recipe::Role;
use smtp_garden::recipes::Recipes;

/// Who mail may be for, beside the server that is tried.
const PEER: &str = "pysmtpd";

const PATIENCE: Patience = Patience { reply: Duration::from_secs(60), drained: Duration::from_secs(120) };

#[test]
fn a_module_of_python() {
    in_a_thread("pysmtpd");
}

#[test]
fn opensmtpd() {
    in_a_thread("opensmtpd");
}

#[test]
fn nullmailer() {
    in_a_thread("nullmailer");
}

/// Of a recipe that lies in a folder: what it says is so.
#[test]
fn a_recipe_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("own")).unwrap();
    fs::write(folder.path().join("own/recipe.toml"), OWN_RECIPE).unwrap();
    let folder = folder.path().to_owned();
    let tried = thread::spawn(move || {
        let recipes = Recipes::read(Some(&folder)).unwrap();
        let own = recipes.named("own").unwrap().clone();
        let fetched = cache().fetch(&own).unwrap();
        let mut garden = Garden::lay(Some(program())).unwrap();
        let failed = garden.start(vec![(own, fetched)]);
        assert!(failed.is_empty(), "{failed:?}");
        is_as_it_says(garden.server_mut("own").unwrap());
    });
    tried.join().unwrap();
}

fn is_as_it_says(server: &mut Server) {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let prints = |server: &Server, line: &str| {
        String::from_utf8(server.run_inside(&words(line)).unwrap().stdout).unwrap().trim().to_owned()
    };
    assert_eq!(prints(server, "stat --format=%a,%U,%G /garden/one.own.garden"), "640,one,two");
    assert_eq!(prints(server, "stat --format=%a,%U,%G /srv/folder"), "1777,user1,user1");
    assert_eq!(prints(server, "hostname"), "own.garden");
    assert_eq!(prints(server, "cat /garden/setup"), "set up");
    let mut log = server.take_log();
    // What runs beside the server may be slower than it.
    while !log.contains(&"printed".to_owned()) {
        thread::yield_now();
        log.extend(server.take_log());
    }
    assert!(log.contains(&"a line".to_owned()) && !log.iter().any(|line| line.contains("half")), "{log:?}");
    assert!(log.iter().any(|line| line.ends_with("logged")), "{log:?}");
    assert_eq!(server.take_log(), Vec::<String>::new());
    assert!(server.is_drained().unwrap());
    server.run_inside(&words("cp /etc/hostname /garden/left")).unwrap();
    assert!(!server.is_drained().unwrap());
    // As new.
    server.restart().unwrap();
    assert!(server.is_drained().unwrap());
}

const OWN_RECIPE: &str = r#"
users = ["one"]
groups = ["two"]
environment = { WORD = "printed" }
setup = [["sh", "-c", "echo set up >/garden/setup"]]
beside = [["sh", "-c", "echo $WORD"]]
run = ["python3", "/garden/server.py"]
logs = ["/srv/folder/log"]
drained.prints = [["cat", "/garden/left"], "nothing"]

[folders]
"/srv/folder" = { owner = "user1", mode = 0o1777 }

[files]
"/garden/one.__DOMAIN__" = { text = "", owner = "one:two", mode = 0o640 }
"/garden/left" = "nothing\n"
"/srv/folder/log" = "a line\nhalf a"
"/garden/server.py" = '''
import socket, syslog
syslog.syslog("logged")
listener = socket.create_server(("127.0.0.1", __PORT__))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"220 __NAME__\\r\\n")
'''
"#;

/// A server that does not start says why.
#[test]
fn one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    for (name, recipe) in [
        ("ends", "run = ['sh', '-c', 'echo dear me >&2; exit 3']"),
        ("setup", "setup = [['sh', '-c', 'echo oh no; exit 4']]\nrun = ['true']"),
        ("none", "run = ['no-such-program']"),
        ("silent", "run = ['sleep', '1000']\nstart_seconds = 1"),
        ("owner", "run = ['true']\nfiles.'/x' = { text = '', owner = 'nobody-else' }"),
    ] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("recipe.toml"), recipe).unwrap();
    }
    let folder = folder.path().to_owned();
    let failed = thread::spawn(move || {
        let recipes = Recipes::read(Some(&folder)).unwrap();
        let names = ["ends", "none", "owner", "setup", "silent"];
        let wanted = names.map(|name| (recipes.named(name).unwrap().clone(), Fetched::default()));
        let mut garden = Garden::lay(Some(program())).unwrap();
        let failed = garden.start(wanted.to_vec());
        assert!(garden.servers().is_empty());
        failed.into_iter().map(|(name, error)| format!("{name}: {error:#}\n")).collect::<String>()
    });
    let failed = failed.join().unwrap();
    for expected in [
        "ends: it ended at once: exit status 3; the last it said:\n    dear me\n",
        "none: run: running `no-such-program`: No such file or directory",
        "owner: owner: /x: there is no user `nobody-else`; add it to `users`\n",
        "setup: setup: `sh -c echo oh no; exit 4`: exit status: 4; the last it said:\n    oh no\n",
        "silent: it ",
    ] {
        assert!(failed.contains(expected), "{expected:?} is not in:\n{failed}");
    }
}

#[test]
#[ignore = "gets, builds and starts every server that there is: minutes"]
fn all() {
    let recipes = Recipes::read(None).unwrap();
    let named = std::env::var("SERVERS").unwrap_or_default();
    let named: Vec<&str> = named.split_whitespace().collect();
    let failed: Vec<String> = recipes
        .iter()
        .filter(|recipe| recipe.missing.is_none() && (named.is_empty() || named.contains(&&*recipe.name)))
        .filter_map(|recipe| {
            let name = recipe.name.clone();
            let tried = thread::spawn(move || try_recipe(&name)).join();
            println!("{}: {}", recipe.name, if tried.is_ok() { "as it should be" } else { "FAILED" });
            tried.is_err().then(|| recipe.name.clone())
        })
        .collect();
    assert_eq!(failed, Vec::<String>::new());
}

/// The garden's network is the thread's, and of a test's thread nobody knows what it does next.
fn in_a_thread(name: &'static str) {
    thread::spawn(move || try_recipe(name)).join().unwrap();
}

fn try_recipe(name: &str) {
    let recipes = Recipes::read(None).unwrap();
    let cache = cache();
    let mut names = vec![name];
    if name != PEER {
        names.push(PEER);
    }
    let wanted = names.into_iter().map(|name| {
        let recipe = recipes.named(name).unwrap();
        (recipe.clone(), cache.fetch(recipe).unwrap_or_else(|error| panic!("{name}: {error:#}")))
    });
    let wanted = wanted.collect();
    let mut garden = Garden::lay(Some(program())).unwrap();
    let failed = garden.start(wanted);
    assert!(failed.is_empty(), "{failed:?}");
    let server = garden.server_mut(name).unwrap();
    let roles = server.recipe().roles.clone();
    if roles.contains(&Role::Local) {
        delivers(server);
        refuses(server);
    }
    if roles.contains(&Role::Relay) {
        passes_on(server);
    }
    if roles.contains(&Role::Relay) && name != PEER && server.recipe().relay_recipient.is_none() {
        passes_on_to_a_peer(&mut garden, name);
    }
    let server = garden.server_mut(name).unwrap();
    server.restart().unwrap();
    match roles.first() {
        Some(Role::Local) => delivers(server),
        Some(Role::Relay) => passes_on(server),
        // That it greets is all that there is.
        None => {}
    }
}

/// The compiler does not hear of it: the shell that calls it passes on no variable with a dash in its name.
fn program() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_BIN_EXE_smtp-garden").unwrap())
}

fn cache() -> Cache {
    Cache::open(Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages")), None).unwrap()
}

fn delivers(server: &mut Server) {
    let observation = hold(server, Role::Local, "__DEST__");
    let places: Vec<_> = observation.messages.iter().map(|message| message.place.clone()).collect();
    assert_eq!(places, [Place::Mailbox("user1".into())], "{}", shown(&observation));
    has_text(&observation);
}

fn passes_on(server: &mut Server) {
    let observation = hold(server, Role::Relay, "__DEST__");
    let places: Vec<_> = observation.messages.iter().map(|message| message.place.clone()).collect();
    assert_eq!(places, [Place::Wire], "{}", shown(&observation));
    let envelope = observation.messages[0].envelope.as_ref().unwrap();
    assert!(
        envelope.recipients.iter().all(|recipient| recipient.contains("@elsewhere.example")),
        "{}",
        shown(&observation)
    );
    has_text(&observation);
}

/// What is for somebody in the garden comes to them, or to the next hop where the server has no other.
fn passes_on_to_a_peer(garden: &mut Garden, name: &str) {
    let domain = garden.server_mut(PEER).unwrap().domain().to_owned();
    let observation = hold(garden.server_mut(name).unwrap(), Role::Relay, &format!("user2@{domain}"));
    let at_peer = garden.server_mut(PEER).unwrap().take_delivered().unwrap();
    let has_it = |octets: &[u8]| String::from_utf8_lossy(octets).contains(&observation.token);
    let at_peer = at_peer.iter().filter(|message| has_it(&message.octets)).count();
    let has_other_hop_only = ["dovecot-submission", "msmtpd", "nullmailer", "qpsmtpd/relay"].contains(&name);
    let expected = if has_other_hop_only { (0, 1) } else { (1, 0) };
    assert_eq!((at_peer, observation.messages.len()), expected, "{}", shown(&observation));
}

/// Who is not there gets nothing: refused at RCPT or at the end of the data, or sent back.
fn refuses(server: &mut Server) {
    let observation = hold(server, Role::Local, "stranger@__DOMAIN__");
    let is_bounce = |message: &smtp_garden::observation::Message| {
        message.envelope.as_ref().is_some_and(|envelope| envelope.mail.starts_with("<>"))
    };
    assert!(observation.messages.iter().all(is_bounce), "{}", shown(&observation));
    let is_refused = |event: &Event| matches!(event, Event::Reply(reply) if reply.code >= 400);
    let is_refused = observation.transcript.iter().any(is_refused);
    assert!(is_refused || !observation.messages.is_empty(), "taken and lost: {}", shown(&observation));
}

fn shown(observation: &Observation) -> String {
    serde_json::to_string_pretty(observation).unwrap()
}

fn has_text(observation: &Observation) {
    let text = String::from_utf8_lossy(&observation.messages[0].octets);
    let text = text.replace("\r\n", "\n");
    assert!(text.contains(&format!("\n\nthe text of {}", observation.token)), "{}", shown(observation));
    assert!(observation.is_alive && observation.is_drained, "{}", shown(observation));
}

fn hold(server: &mut Server, role: Role, recipient: &str) -> Observation {
    let mut units = Vec::new();
    for (part, octets, code) in [
        (Part::Helo, "EHLO client.example\r\n", "2"),
        (Part::Mail, "MAIL FROM:<__SOURCE__>\r\n", "2"),
        (Part::Rcpt, &*format!("RCPT TO:<{recipient}>\r\n"), "2"),
        (Part::Data, "DATA\r\n", "3"),
        (
            Part::Body,
            "From: <__SOURCE__>\r\nTo: <__DEST__>\r\nSubject: __TOKEN__\r\n\r\nthe text of __TOKEN__\r\n.\r\n",
            "2",
        ),
        (Part::Quit, "QUIT\r\n", ""),
    ] {
        units.push(Unit::Send { part, octets: octets.into() });
        units.push(Unit::Expect { code: code.into() });
    }
    let case = Case { name: "plain".into(), units };
    let mut observations = drive::hold(&mut server.in_role(role), &[case], PATIENCE).unwrap();
    observations.remove(0)
}
