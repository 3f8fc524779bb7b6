//! A server in the garden.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use super::account::{Accounts, USERS, home};
use super::first_process::PATH;
use super::garden::{domain, host_name};
use super::plan::{Made, OUTPUT, Plan, Word};
use crate::children;
use crate::device_log::DeviceLog;
use crate::drive;
use crate::hop::{Answers, Hop};
use crate::observation::{Message, Place};
use crate::packages::Fetched;
use crate::recipe::{Drained, Entry, PeerSetting, Recipe, Role, Setting};
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

/// What ends when a server is restarted.
#[derive(Debug)]
struct Running {
    first_process: Child,
    /// The first process lives as long as this is open.
    told: ChildStdin,
    words: Receiver<Word>,
    log: Option<DeviceLog>,
    /// How much of each log was read.
    read: BTreeMap<PathBuf, u64>,
    /// What has ended beside the server, and how.
    ended: Option<String>,
}

/// How long to wait before connecting again to a server that is starting.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

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
        let plan = told(&recipe, &setting, &fetched)?;
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
        self.running.first_process.id()
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
        self.plan = told(&self.recipe, &self.setting, &self.fetched)?;
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

impl Running {
    fn start(program: &Path, plan: &str, recipe: &Recipe, port: u16) -> Result<Self> {
        let mut first_process = start_first_process(program)?;
        let mut told = first_process.stdin.take().context("a pipe to the first process")?;
        let said = first_process.stdout.take().context("a pipe from the first process")?;
        let mut running = Self {
            first_process,
            words: words(said)?,
            log: None,
            read: BTreeMap::new(),
            ended: None,
            // If the first process ended at once, its report says why.
            told: {
                let _ = told.write_all(plan.as_bytes());
                told
            },
        };
        let end = Instant::now() + recipe.limits.start;
        match running.bring_up(recipe, port, end) {
            Ok(()) => Ok(running),
            Err(error) => {
                let log = running.take_log(recipe);
                let last = &log[log.len().saturating_sub(LINES_TOLD)..];
                Err(match last {
                    [] => error,
                    _ => anyhow!("{error:#}; the last it said:\n    {}", last.join("\n    ")),
                })
            }
        }
    }

    fn bring_up(&mut self, recipe: &Recipe, port: u16, end: Instant) -> Result<()> {
        self.wait_for(end, "its root folder", |word| matches!(word, Word::Rooted))?;
        let socket = self.root().join("dev/log");
        self.log = Some(DeviceLog::start(&socket)?);
        fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
        self.told.write_all(b"\n").context("telling the first process to go on")?;
        self.wait_for(end, "its setup", |word| matches!(word, Word::Started))?;
        while !greets(port, recipe.limits.reply) {
            match self.words.recv_timeout(BETWEEN_TRIES) {
                Ok(word) => self.note(word)?,
                Err(RecvTimeoutError::Disconnected) => bail!("its first process ended"),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                    bail!("it does not greet within {} s", recipe.limits.start.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(())
    }

    fn wait_for(&mut self, end: Instant, what: &str, is_it: impl Fn(&Word) -> bool) -> Result<()> {
        loop {
            match self.words.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(word) if is_it(&word) => return Ok(()),
                Ok(word) => self.note(word)?,
                Err(RecvTimeoutError::Timeout) => bail!("{what} is not ready in time"),
                Err(RecvTimeoutError::Disconnected) => bail!("its first process ended before {what} was ready"),
            }
        }
    }

    fn note(&mut self, word: Word) -> Result<()> {
        match word {
            Word::Rooted | Word::Started => Ok(()),
            Word::Failed(reason) => bail!("{reason}"),
            Word::Ended(how) => bail!("it ended at once: {how}"),
            Word::EndedBeside(how) => bail!("beside: {how}"),
        }
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.first_process.id()))
    }

    fn ended(&mut self) -> Option<String> {
        for word in self.words.try_iter() {
            if let Word::EndedBeside(how) = word {
                self.ended.get_or_insert(how);
            }
        }
        self.ended.clone()
    }

    fn take_log(&mut self, recipe: &Recipe) -> Vec<String> {
        let mut lines = self.log.as_ref().map(DeviceLog::take).unwrap_or_default();
        for file in recipe.logs.iter().map(String::as_str).chain([OUTPUT]) {
            let file = self.root().join(file.trim_start_matches('/'));
            let from = self.read.entry(file.clone()).or_default();
            // A log that does not exist yet has no lines.
            if let Ok(text) = read_from(&file, *from) {
                let whole = text.iter().rposition(|&octet| octet == b'\n').map_or(0, |at| at + 1);
                *from += whole as u64;
                lines.extend(String::from_utf8_lossy(&text[..whole]).lines().map(str::to_owned));
            }
        }
        lines
    }

    fn end(&mut self) {
        // The end of the first process ends all others. It may have ended already.
        let _ = self.first_process.kill();
        let _ = self.first_process.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many lines of a log are quoted about a server that does not start.
const LINES_TOLD: usize = 12;

/// The plan in the form for the first process.
fn told(recipe: &Recipe, setting: &Setting, fetched: &Fetched) -> Result<String> {
    Ok(serde_json::to_string(&plan(recipe, setting, fetched)?)? + "\n")
}

/// Starts it in namespaces that only it and its children are in.
fn start_first_process(program: &Path) -> Result<Child> {
    let started = || -> Result<Child> {
        let flags =
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
        unshare(flags).context("making namespaces for a server")?;
        let mut command = Command::new(program);
        // Ctrl-C should reach only us.
        command.arg("first-process").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        children::start(&mut command).with_context(|| format!("running {}", program.display()))
    };
    // The namespaces are those of the thread.
    thread::scope(|scope| scope.spawn(started).join()).unwrap_or_else(|_| bail!("starting a process ended in a panic"))
}

/// Receives the reports of the first process.
fn words(said: ChildStdout) -> Result<Receiver<Word>> {
    let (sender, words) = channel();
    thread::Builder::new().name("words".into()).spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let Ok(word) = serde_json::from_str(&line) else { break };
            if sender.send(word).is_err() {
                break;
            }
        }
    })?;
    Ok(words)
}

fn plan(recipe: &Recipe, setting: &Setting, fetched: &Fetched) -> Result<Plan> {
    let accounts = Accounts::of(recipe);
    let made = |entry: &Entry| -> Result<Made> {
        let (uid, gid) = accounts.owner(&entry.owner).with_context(|| format!("{}: {}", recipe.name, entry.path))?;
        Ok(Made { path: PathBuf::from(recipe.fill_word(&entry.path, setting)?), uid, gid, mode: entry.mode })
    };
    let mut folders = Vec::new();
    for user in USERS {
        for folder in ["", "/Maildir", "/Maildir/cur", "/Maildir/new", "/Maildir/tmp"] {
            let path = home(user) + folder;
            folders.push(made(&Entry { path, owner: user.to_owned(), mode: 0o700 })?);
        }
    }
    for folder in &recipe.folders {
        folders.push(made(folder)?);
    }
    let mut files = Vec::new();
    let (own, name) = (&setting.domain, &setting.name);
    let system = [
        ("/etc/passwd", 0o644, accounts.passwd.clone()),
        ("/etc/group", 0o644, accounts.group.clone()),
        ("/etc/shadow", 0o600, accounts.shadow.clone()),
        ("/etc/hosts", 0o644, format!("127.0.0.1 {own} localhost {name}\n")),
        ("/etc/environment", 0o644, String::new()),
        ("/etc/hostname", 0o644, format!("{own}\n")),
        ("/etc/mailname", 0o644, format!("{own}\n")),
        ("/etc/resolv.conf", 0o644, String::from("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")),
        ("/etc/nsswitch.conf", 0o644, String::from(NAME_SERVICES)),
    ];
    for (path, mode, text) in system {
        files.push((Made { path: PathBuf::from(path), uid: 0, gid: 0, mode }, text));
    }
    for (entry, text) in &recipe.files {
        files.push((made(entry)?, recipe.fill(text, setting)?));
    }
    let commands = |commands: &[Vec<String>]| -> Result<Vec<Vec<String>>> {
        commands.iter().map(|command| recipe.fill_command(command, setting)).collect()
    };
    Ok(Plan {
        domain: setting.domain.clone(),
        packages: fetched.packages.clone(),
        programs: fetched.programs.clone(),
        folders,
        files,
        environment: recipe.environment.clone(),
        setup: commands(&recipe.setup)?,
        beside: commands(&recipe.beside)?,
        run: recipe.fill_command(&recipe.run, setting)?,
    })
}

const NAME_SERVICES: &str =
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n";

/// Whether somebody greets with 220 at this port.
fn greets(port: u16, patience: Duration) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 3];
    let is_read = stream.set_read_timeout(Some(patience)).is_ok() && (&stream).read_exact(&mut greeting).is_ok();
    // Servers log clients that leave without a word.
    let _ = (&stream).write_all(b"QUIT\r\n");
    is_read && greeting == *b"220"
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

fn read_from(file: &Path, from: u64) -> Result<Vec<u8>> {
    let mut file = fs::File::open(file)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}
