//! A garden: servers side by side in a network of their own, which know each other's domains.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use super::chain::InChain;
use super::network;
use super::server::Server;
use crate::names;
use crate::packages::Fetched;
use crate::recipe::{PeerSetting, Recipe, Role};

/// Servers that stand side by side.
#[derive(Debug)]
pub struct Garden {
    program: PathBuf,
    servers: Vec<Server>,
}

/// The port of the first server; the others have the following ones.
const FIRST_PORT: u16 = 2501;

impl Garden {
    /// Makes an empty garden: the calling thread, and everything that it starts from now on, leaves the host's network
    /// for that of the garden. This needs root.
    ///
    /// `program` is the program whose command `first-process` calls [`super::first_process::run`]; `None` for this one.
    ///
    /// # Errors
    ///
    /// We may not do that, or this kernel cannot; the message says what to do.
    pub fn lay(program: Option<PathBuf>) -> Result<Self> {
        network::leave_the_hosts()?;
        names::serve(SocketAddr::from(([127, 0, 0, 1], 53)))?;
        Ok(Self { program: program.unwrap_or_else(|| PathBuf::from("/proc/self/exe")), servers: Vec::new() })
    }

    /// Starts these servers, all at once, and waits until each greets. Returns those that do not, with the reason; the
    /// others are in the garden.
    pub fn start(&mut self, recipes: Vec<(Recipe, Fetched)>) -> Vec<(String, anyhow::Error)> {
        let ports = (FIRST_PORT..).skip(self.servers.len());
        let seats: Vec<(Recipe, Fetched, u16)> =
            recipes.into_iter().zip(ports).map(|((recipe, fetched), port)| (recipe, fetched, port)).collect();
        let mut peers: Vec<PeerSetting> = self.servers.iter().filter_map(Server::as_peer).collect();
        peers.extend(
            seats.iter().filter(|(recipe, ..)| recipe.roles.contains(&Role::Local)).map(|(recipe, _, port)| {
                PeerSetting { domain: domain(recipe), port: *port, protocol: recipe.protocol }
            }),
        );
        let (peers, program) = (&peers, &self.program);
        let started: Vec<(String, Result<Server>)> = thread::scope(|scope| {
            let threads: Vec<_> = seats
                .into_iter()
                .map(|(recipe, fetched, port)| {
                    let name = recipe.name.clone();
                    (name, scope.spawn(move || Server::start(program, recipe, fetched, port, peers)))
                })
                .collect();
            let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("starting it ended in a panic, which is our fault")))
            };
            threads.into_iter().map(|(name, thread)| (name, ended(thread))).collect()
        });
        let mut failed = Vec::new();
        for (name, server) in started {
            match server {
                Ok(server) => self.servers.push(server),
                Err(error) => failed.push((name, error)),
            }
        }
        failed
    }

    /// The servers that were started.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The servers that were started; each can be used by its own thread.
    pub fn servers_mut(&mut self) -> &mut [Server] {
        &mut self.servers
    }

    /// Puts two servers in a row: the receiver gets what the relay passes on.
    ///
    /// # Errors
    ///
    /// One of them is not in the garden, or they are the same; the relay can pass mail on to one port only, or does not
    /// come back when it is restarted.
    pub fn in_chain(&mut self, relay: &str, receiver: &str) -> Result<InChain<'_>> {
        let place = |name: &str| {
            let mut servers = self.servers.iter();
            servers
                .position(|server| server.recipe().name == name)
                .with_context(|| format!("`{name}` is not in the garden"))
        };
        let places = [place(relay)?, place(receiver)?];
        let [relay, receiver] =
            self.servers.get_disjoint_mut(places).context("a server does not pass mail on to itself")?;
        InChain::new(relay, receiver)
    }

    /// The server with this name.
    ///
    /// # Errors
    ///
    /// It is not in the garden.
    pub fn server_mut(&mut self, name: &str) -> Result<&mut Server> {
        let mut servers = self.servers.iter_mut();
        servers.find(|server| server.recipe().name == name).with_context(|| format!("`{name}` is not in the garden"))
    }
}

/// The domain that is a server's own.
pub(super) fn domain(recipe: &Recipe) -> String {
    format!("{}.garden", host_name(recipe))
}

/// The name of a server's host.
pub(super) fn host_name(recipe: &Recipe) -> String {
    recipe.name.replace(['/', '.', '_'], "-")
}
