//! `up`: keeps servers running for people to play with.

use std::collections::BTreeSet;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::case::escaped;
use crate::ground::{self, Garden, Server};
use crate::packages::{Cache, Fetched, NotYet};
use crate::recipe::Recipe;
use crate::recipes::Recipes;
use crate::servers::protocol;
use crate::{interruption, terminal};

/// Starts the servers with these names, or all, shows where they listen on the host, and ends them at a signal.
///
/// # Errors
///
/// None of them can be had, or we may not make a garden.
pub(crate) fn keep(recipes: &Recipes, cache: &Cache, names: &[String]) -> Result<()> {
    ground::is_allowed()?;
    interruption::watch()?;
    let wanted = fetch(recipes, cache, names)?;
    // The listening sockets stay in the host's network, but connections from this thread are made in the garden.
    let listeners = wanted
        .iter()
        .zip(FIRST_PORT..)
        .map(|((recipe, _), port)| Ok((recipe.name.clone(), listen(port)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut garden = Garden::lay(None)?;
    for (name, error) in garden.start(wanted) {
        terminal::complain(&format!("{name}: {error:#}"));
    }
    if garden.servers().is_empty() {
        bail!("no server is up");
    }
    for server in garden.servers() {
        let name = &server.recipe().name;
        let Some((_, listener)) = listeners.iter().find(|(listening, _)| listening == name) else { continue };
        let here = listener.local_addr()?;
        terminal::print(&format!(
            "{name} {} {} at {here}: domain {}, files in {}",
            server.version(),
            protocol(server.recipe().protocol),
            server.domain(),
            server.root().display(),
        ));
        pass_on(listener.try_clone()?, server.address())?;
    }
    interruption::is_expected();
    terminal::print(
        "Mail for user1 and user2 of a server's domain is in home/user1/Maildir and home/user2/Maildir of its files; \
         mail for no domain of the garden is shown here. Ctrl-C ends all.",
    );
    // Of each server this is told once.
    let mut told = BTreeSet::new();
    loop {
        for server in garden.servers_mut() {
            show_passed_on(server);
            if let Some(ended) = server.ended()
                && told.insert(server.recipe().name.clone())
            {
                terminal::complain(&format!("{}: {ended}", server.recipe().name));
            }
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// How often to look for mail that servers have passed on, and for what has ended beside them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Mail for nobody in the garden is shown here only.
fn show_passed_on(server: &Server) {
    for message in server.take_passed_on() {
        let name = &server.recipe().name;
        if let Some(envelope) = message.envelope {
            terminal::print(&format!("{name} passed on, from {} to {}:", envelope.mail, envelope.recipients.join(" ")));
        }
        for line in message.octets.split_inclusive(|&octet| octet == b'\n') {
            terminal::print(&format!("    {}", escaped::escape(line)));
        }
    }
}

/// The port of the first server on the host.
const FIRST_PORT: u16 = 2501;

/// The software of the servers; those that cannot be had are reported.
fn fetch(recipes: &Recipes, cache: &Cache, names: &[String]) -> Result<Vec<(Recipe, Fetched)>> {
    let chosen: Vec<&Recipe> = match names {
        [] => recipes.iter().collect(),
        names => {
            let mut chosen: Vec<&Recipe> = Vec::new();
            for name in names.iter().map(|name| name.trim()) {
                // Here a server does everything it can, in every role.
                let recipe = recipes.named(name.strip_suffix(":relay").unwrap_or(name))?;
                if !chosen.iter().any(|one| one.name == recipe.name) {
                    chosen.push(recipe);
                }
            }
            chosen
        }
    };
    let mut fetched = Vec::new();
    for recipe in chosen {
        if cache.look(recipe).is_err_and(|error| error.is::<NotYet>()) {
            terminal::complain(&format!("{}: getting what it is made of", recipe.name));
        }
        match cache.fetch(recipe) {
            Ok(made_of) => fetched.push((recipe.clone(), made_of)),
            Err(error) => terminal::complain(&format!("{}: {error:#}", recipe.name)),
        }
    }
    Ok(fetched)
}

/// Listens at this port, so that it is the same every time, or at any free one.
fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        .context("listening on 127.0.0.1")
}

/// Connects clients of this listener with a server in the garden, in which the calling thread is.
fn pass_on(listener: TcpListener, server: SocketAddr) -> Result<()> {
    thread::Builder::new().name("listener".into()).spawn(move || {
        for client in listener.incoming().flatten() {
            // Without the server or a thread the client sees the connection end.
            let _ = thread::Builder::new().name("connection".into()).spawn(move || join(&client, server));
        }
    })?;
    Ok(())
}

fn join(client: &TcpStream, server: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

/// Copies from one side to the other, including the end.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    // In any case the other side should see an end.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
