//! Each recipe alone: the server starts, delivers, passes on, and refuses who is not there.
//!
//!     cargo test --test recipes                  # a few
//!     cargo test --test recipes -- --ignored     # all, or those that SERVERS names: SERVERS="exim postfix"
//!
//! Needs root, for the namespaces, and the packages, which are got where they are not there yet.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use smtp_garden::case::{Case, Part, Unit};
use smtp_garden::drive;
use smtp_garden::ground::{Garden, Server};
use smtp_garden::observation::{Event, Observation, Patience, Place};
use smtp_garden::packages::Cache;
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
    let cache = Cache::open(Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages")), None).unwrap();
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
    for (name, error) in garden.start(wanted) {
        panic!("{name}: {error:#}");
    }
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
