//! A server in the garden.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

use super::account::{USERS, home};
use super::first_process::PATH;
use super::garden::{domain, host_name};
use super::plan::Plan;
use super::running::Running;
use crate::children;
use crate::drive;
use crate::hop::{Answers, Hop};
use crate::observation::{Message, Place};
use crate::packages::Fetched;
use crate::recipe::{Drained, PeerSetting, Recipe, Role, Setting};
use crate::session::{Filling, Hello};

/// A server in the garden. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    recipe: Recipe,
    setting: Setting,
    fetched: Fetched,
    plan: String,
    hop: Hop,
    running: Running,
}

impl Server {
    pub(super) fn start(
        program: &Path,
        recipe: Recipe,
        fetched: Fetched,
        port: u16,
        peers: &[PeerSetting],
    ) -> Result<Self> {
        let hop_address = SocketAddr::from(([127, 0, 0, 1], recipe.hop_port.unwrap_or(0)));
        let hop = Hop::start(hop_address, Answers::default())?;
        let own = domain(&recipe);
        let setting = Setting {
            peers: peers.iter().filter(|peer| peer.domain != own).cloned().collect(),
            domain: own,
            name: host_name(&recipe),
            port,
            hop_port: hop.address().port(),
        };
        let plan = Plan::of(&recipe, &setting, &fetched)?.line()?;
        let running = Running::start(program, &plan, &recipe, port)?;
        Ok(Self { program: program.to_owned(), recipe, setting, fetched, plan, hop, running })
    }

    /// Its recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The version of its programs.
    pub fn version(&self) -> &str {
        &self.fetched.version
    }

    /// Where it listens, as seen in the garden.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.setting.port))
    }

    /// The domain that is its own.
    pub fn domain(&self) -> &str {
        &self.setting.domain
    }

    /// The port to which it passes on mail that is for nobody in the garden.
    pub fn hop_port(&self) -> u16 {
        self.setting.hop_port
    }

    /// The files of the server, as seen by everybody who may look into other users' processes.
    pub fn root(&self) -> PathBuf {
        self.running.root()
    }

    /// The number of its first process on the host, for `nsenter --all --target`.
    pub fn first_process(&self) -> u32 {
        self.running.first_process()
    }

    /// The Maildirs, by their users.
    pub fn mailboxes(&self) -> Vec<(&'static str, PathBuf)> {
        USERS.into_iter().map(|user| (user, self.root().join(&home(user)[1..]).join("Maildir"))).collect()
    }

    /// The mail that it has passed on since the last call.
    pub fn take_passed_on(&self) -> Vec<Message> {
        self.hop.take()
    }

    /// The server, asked in this role.
    pub fn in_role(&mut self, role: Role) -> InRole<'_> {
        let name = match role {
            Role::Local => self.recipe.name.clone(),
            Role::Relay => format!("{}:relay", self.recipe.name),
        };
        InRole { server: self, role, name }
    }

    /// What other servers have to know of it, if mail can be for it.
    pub(super) fn as_peer(&self) -> Option<PeerSetting> {
        self.recipe.roles.contains(&Role::Local).then(|| PeerSetting {
            domain: self.setting.domain.clone(),
            port: self.setting.port,
            protocol: self.recipe.protocol,
        })
    }

    /// Ends it and starts it again from scratch.
    ///
    /// # Errors
    ///
    /// It does not come back.
    pub fn restart(&mut self) -> Result<()> {
        self.running.end();
        self.running = Running::start(&self.program, &self.plan, &self.recipe, self.setting.port)?;
        Ok(())
    }

    /// Restarts it so that it passes mail on to this port; without a port, to the next hop again.
    ///
    /// # Errors
    ///
    /// It can pass mail on to one port only, or it does not come back.
    pub(super) fn pass_on_to(&mut self, port: Option<u16>) -> Result<()> {
        if let (Some(only), Some(_)) = (self.recipe.hop_port, port) {
            bail!("it passes mail on to port {only} only");
        }
        self.setting.hop_port = port.unwrap_or(self.hop.address().port());
        self.plan = Plan::of(&self.recipe, &self.setting, &self.fetched)?.line()?;
        self.restart()
    }

    /// The mail in its mailboxes that came since the last call, in the order of the files' times.
    ///
    /// # Errors
    ///
    /// A mailbox that cannot be read.
    pub fn take_delivered(&mut self) -> Result<Vec<Message>> {
        let mut delivered: Vec<(SystemTime, PathBuf, Message)> = Vec::new();
        for (user, mailbox) in self.mailboxes() {
            let new = mailbox.join("new");
            for file in fs::read_dir(&new).with_context(|| format!("reading {}", new.display()))? {
                let file = file?.path();
                let what = || format!("reading {}", file.display());
                let octets = fs::read(&file).with_context(what)?;
                let time = fs::metadata(&file).with_context(what)?.modified()?;
                fs::remove_file(&file).with_context(what)?;
                delivered.push((time, file, Message { place: Place::Mailbox(user.into()), envelope: None, octets }));
            }
        }
        delivered.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Ok(delivered.into_iter().map(|(.., message)| message).collect())
    }

    /// What it has logged or printed since the last call.
    pub fn take_log(&mut self) -> Vec<String> {
        self.running.take_log(&self.recipe)
    }

    /// Whether it has nothing more to deliver or to pass on.
    ///
    /// # Errors
    ///
    /// A queue that cannot be looked at.
    pub fn is_drained(&mut self) -> Result<bool> {
        match &self.recipe.drained {
            Drained::AtOnce => Ok(true),
            Drained::Empty(folders) => {
                for folder in folders {
                    if has_files(&self.root().join(folder.trim_start_matches('/')))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Drained::Prints(argv, expected) => {
                let output = self.run_inside(&self.recipe.fill_command(argv, &self.setting)?)?;
                Ok(output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == expected)
            }
        }
    }

    /// What has ended of the commands beside it since it was started, and how; `None` if nothing has.
    pub fn ended(&mut self) -> Option<String> {
        self.running.ended()
    }

    /// Runs a command as one of the server's processes, to its end.
    ///
    /// # Errors
    ///
    /// It cannot be run.
    pub fn run_inside(&self, argv: &[String]) -> Result<Output> {
        let namespaces = PathBuf::from(format!("/proc/{}/ns", self.first_process()));
        let (program, arguments) = argv.split_first().context("a command without words")?;
        let environment = &self.recipe.environment;
        // A thread that enters the namespaces cannot return, so it is a separate one.
        let inside = || -> Result<Output> {
            let mut entered = Vec::new();
            for name in ["ipc", "uts", "pid", "mnt"] {
                let file = namespaces.join(name);
                entered.push(fs::File::open(&file).with_context(|| format!("opening {}", file.display()))?);
            }
            unshare(CloneFlags::CLONE_FS)?;
            for namespace in entered {
                setns(namespace, CloneFlags::empty()).context("entering a namespace")?;
            }
            let mut command = Command::new(program);
            command.args(arguments).env_clear().env("PATH", PATH).envs(environment);
            children::output(&mut command).with_context(|| format!("running `{}`", argv.join(" ")))
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|_| bail!("running a command ended in a panic"))
    }
}

/// A server, asked in one role: to deliver, or to pass mail on.
#[derive(Debug)]
pub struct InRole<'s> {
    server: &'s mut Server,
    role: Role,
    name: String,
}

/// The sender of all mail.
pub(super) const SOURCE: &str = "someone@elsewhere.example";

impl drive::Server for InRole<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn hello(&self) -> Hello {
        self.server.recipe.hello
    }

    fn login(&self) -> Option<String> {
        self.server.recipe.login()
    }

    fn filling(&self, token: &str) -> Filling {
        let (domain, elsewhere) = (&self.server.setting.domain, "elsewhere.example");
        let [destination, second_destination] = match (self.role, &self.server.recipe.relay_recipient) {
            (Role::Local, _) => USERS.map(|user| format!("{user}@{domain}")),
            (Role::Relay, None) => USERS.map(|user| format!("{user}@{elsewhere}")),
            (Role::Relay, Some(only)) => {
                let only = self.server.recipe.fill_word(only, &self.server.setting).unwrap_or_default();
                [only.clone(), only]
            }
        };
        Filling {
            token: token.to_owned(),
            source: SOURCE.to_owned(),
            destination,
            second_destination,
            domain: domain.clone(),
        }
    }

    fn take_messages(&mut self) -> Result<Vec<Message>> {
        let mut messages = self.server.take_delivered()?;
        messages.extend(self.server.take_passed_on());
        Ok(messages)
    }

    fn take_log(&mut self) -> Vec<String> {
        self.server.take_log()
    }

    fn is_drained(&mut self) -> Result<bool> {
        self.server.is_drained()
    }

    fn ended(&mut self) -> Option<String> {
        self.server.ended()
    }

    fn restart(&mut self) -> Result<()> {
        self.server.restart()
    }
}

/// Whether there are any files in a folder or below it.
fn has_files(folder: &Path) -> Result<bool> {
    let what = || format!("looking into {}", folder.display());
    for entry in fs::read_dir(folder).with_context(what)? {
        let entry = entry.with_context(what)?;
        // A file that is gone was moved to where the next look finds it.
        let Ok(kind) = entry.file_type() else { return Ok(true) };
        if kind.is_file() || kind.is_dir() && has_files(&entry.path()).unwrap_or(true) {
            return Ok(true);
        }
    }
    Ok(false)
}
