//! A garden changes nothing of the host, and nothing is left of it, however it ends.
//!
//! Needs root, for the namespaces, and the packages, which are got where they are not there yet.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One that is one process, and one that is many, of several users.
const SERVERS: [&str; 2] = ["opensmtpd", "pysmtpd"];

#[test]
fn nothing_of_the_host_is_changed() {
    let before = Host::look();
    let garden = Up::start();
    let during = Host::look();
    assert_eq!(during, before);
    for server in &garden.servers {
        deliver(server);
        assert_eq!(Host::look(), before);
        let delivered = fs::read_dir(server.root.join("home/user1/Maildir/new")).unwrap();
        // OpenSMTPD delivers when it has answered; what counts here is that it tries.
        assert!(delivered.count() <= 1);
    }
    let pids = garden.processes();
    assert!(pids.len() > 2 + SERVERS.len(), "{pids:?}");
    assert_eq!(garden.listening_on_the_host(), garden.servers.iter().map(|server| server.port).collect());
    let status = garden.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    assert_eq!(Host::look(), before);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let garden = Up::start();
    let namespaces = garden.namespaces();
    assert!(!inhabitants(&namespaces).is_empty());
    let _pipes = keep_pipes(&garden.servers.iter().map(|server| server.first_process).collect::<Vec<_>>());
    let status = garden.end(Signal::SIGINT);
    // At once, as it waited for them.
    assert_eq!(inhabitants(&namespaces), BTreeSet::new());
    assert!(status.success(), "{status}");
}

#[test]
fn nothing_outlives_who_is_killed() {
    let garden = Up::start();
    let namespaces = garden.namespaces();
    let pids = garden.processes();
    garden.end(Signal::SIGKILL);
    // Its end is seen by the first processes of the servers, which end then.
    wait_until_empty(&namespaces);
    for pid in pids {
        assert!(namespaces_of(pid).is_none_or(|namespaces_now| namespaces.is_disjoint(&namespaces_now)), "{pid}");
    }
}

#[test]
fn the_end_of_a_first_process_is_that_of_its_server() {
    let garden = Up::start();
    let [one, other] = &garden.servers[..] else { panic!("two servers") };
    let of_one = BTreeSet::from([namespace(one.first_process, "pid").unwrap()]);
    assert!(!inhabitants(&of_one).is_empty());
    kill(Pid::from_raw(one.first_process), Signal::SIGKILL).unwrap();
    wait_until_empty(&of_one);
    // The other one is there as it was.
    deliver(other);
    garden.end(Signal::SIGTERM);
}

#[test]
fn a_run_interrupted_while_servers_start_leaves_nothing() {
    let recipes = tempfile::tempdir().unwrap();
    fs::create_dir(recipes.path().join("never")).unwrap();
    let recipe = "description = \"Never greets\"\nroles = [\"local\"]\nrun = [\"sleep\", \"infinity\"]\n";
    fs::write(recipes.path().join("never/recipe.toml"), recipe).unwrap();
    let recipes = recipes.path().to_str().unwrap();
    let arguments = ["controls", "--recipes", recipes, "--servers", "never,opensmtpd,pysmtpd"];
    for interruption in [Interruption::Typed, Interruption::Signal(Signal::SIGTERM)] {
        interrupt(&arguments, interruption, |run| {
            run.first_processes().len() == 3
                && run.descendants().iter().any(|&pid| command(pid) == ["sleep", "infinity"])
        });
    }
}

#[test]
fn a_run_interrupted_while_sessions_are_held_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let payload = folder.path().join("waits.payload");
    let units = "helo HELO client.example\\r\\n\nexpect 250\npause 1000s\nquit QUIT\\r\\n\n";
    fs::write(&payload, format!("smtp-garden payload\n{units}")).unwrap();
    let arguments = ["--file", payload.to_str().unwrap(), "--servers", "opensmtpd,pysmtpd"];
    for interruption in [Interruption::Typed, Interruption::Signal(Signal::SIGTERM)] {
        interrupt(&arguments, interruption, |run| {
            let of_garden = run.first_processes();
            of_garden.len() == 2 && connected(of_garden[0]).is_superset(&BTreeSet::from([2501, 2502]))
        });
    }
}

/// How a run is interrupted.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    /// By Ctrl-C at its terminal.
    Typed,
    /// By a signal that it alone gets.
    Signal(Signal),
}

/// Starts a run in a terminal of its own, interrupts it when `is_time` says so, and looks at what is left.
fn interrupt(arguments: &[&str], interruption: Interruption, is_time: impl Fn(&Process) -> bool) {
    let before = Host::look();
    let temporary = tempfile::tempdir().unwrap();
    let words = [program().to_str().unwrap(), "run", "--cache", cache().to_str().unwrap()].map(str::to_owned);
    let words: Vec<String> = words.into_iter().chain(arguments.iter().map(|word| (*word).to_owned())).collect();
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("exec {}", words.join(" ")), "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = terminal.stdout.take().unwrap();
    let shown = thread::spawn(move || {
        let mut octets = Vec::new();
        // What has no other end any more ends in an error.
        let _ = shown.read_to_end(&mut octets);
        String::from_utf8_lossy(&octets).into_owned()
    });
    let of_terminal = Process(terminal.id().try_into().unwrap());
    let find = || of_terminal.descendants().into_iter().find(|&pid| command(pid) == words).map(Process);
    let end = Instant::now() + Duration::from_secs(300);
    let run = loop {
        if let Some(run) = find().filter(&is_time) {
            break run;
        }
        let status = terminal.try_wait().unwrap();
        assert!(status.is_none(), "it ended before it was interrupted: {}", shown.join().unwrap());
        assert!(Instant::now() < end, "{interruption:?}: it does not come to where it is to be interrupted");
        thread::sleep(Duration::from_millis(10));
    };
    let namespaces = namespaces_of_servers(&run.first_processes());
    assert!(!inhabitants(&namespaces).is_empty());
    assert_eq!(Host::look(), before);
    let _pipes = keep_pipes(&run.first_processes());
    let signal = match interruption {
        Interruption::Typed => {
            terminal.stdin.as_ref().unwrap().write_all(b"\x03").unwrap();
            Signal::SIGINT
        }
        Interruption::Signal(signal) => {
            kill(Pid::from_raw(run.0), signal).unwrap();
            signal
        }
    };
    // The terminal is seen to end a little later.
    while !has_ended(run.0) {
        assert!(Instant::now() < end, "{interruption:?}: it does not end");
    }
    // At once, as it waited for them.
    assert_eq!(inhabitants(&namespaces), BTreeSet::new());
    let status = terminal.wait().unwrap();
    assert_eq!(Host::look(), before);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    let shown = shown.join().unwrap();
    assert_eq!(status.code(), Some(128 + signal as i32), "{shown}");
    // A bar is a line, which is gone: what comes next begins where a line begins, and nothing is said of an end that
    // was wished.
    let (_, rest) = shown.rsplit_once("\x1b[2K").unwrap_or(("", &shown));
    assert_eq!(rest, "", "{shown:?}");
}

#[test]
fn without_the_rights_it_says_what_to_type() {
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
        .arg(program())
        .args(["up", "pysmtpd", "--cache"])
        .arg(cache())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(errors.contains("sudo") && errors.lines().count() == 1, "{errors}");
}

/// A garden that is up.
struct Up {
    program: Child,
    servers: Vec<Server>,
}

struct Server {
    port: u16,
    domain: String,
    root: PathBuf,
    first_process: i32,
}

impl Up {
    fn start() -> Self {
        let mut program = Command::new(program())
            .args(["up", "--cache"])
            .arg(cache())
            .args(SERVERS)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        let servers: Vec<Server> = lines.by_ref().take(SERVERS.len()).map(|line| Server::read(&line)).collect();
        // What it says last, it says when all is ready.
        assert!(lines.next().unwrap().contains("Ctrl-C"));
        Self { program, servers }
    }

    fn pid(&self) -> i32 {
        self.program.id().try_into().unwrap()
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
        self.program.wait().unwrap()
    }

    /// It and all that it started, as far as they are children of children.
    fn processes(&self) -> BTreeSet<i32> {
        Process(self.pid()).descendants()
    }

    /// The namespaces of the servers that are not those of the host.
    fn namespaces(&self) -> BTreeSet<PathBuf> {
        namespaces_of_servers(&self.servers.iter().map(|server| server.first_process).collect::<Vec<_>>())
    }

    fn listening_on_the_host(&self) -> BTreeSet<u16> {
        let sockets = listening("/proc/self/net/tcp");
        let processes = self.processes().into_iter();
        let descriptors = processes.flat_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten());
        let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter_map(|link| sockets.get(link.to_str()?).copied()).collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It has ended, where the test came to its end.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Server {
    /// Of `NAME VERSION PROTOCOL at ADDRESS: domain DOMAIN, files in ROOT`.
    fn read(line: &str) -> Self {
        let (_, behind) = line.split_once(" at 127.0.0.1:").unwrap();
        let (port, behind) = behind.split_once(": domain ").unwrap();
        let (domain, root) = behind.split_once(", files in ").unwrap();
        let first_process = root.strip_prefix("/proc/").unwrap().strip_suffix("/root").unwrap().parse().unwrap();
        Self { port: port.parse().unwrap(), domain: domain.into(), root: root.into(), first_process }
    }
}

/// A process, by its number.
struct Process(i32);

impl Process {
    /// It and all that it started, as far as they are children of children.
    fn descendants(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::from([self.0]);
        loop {
            let children = all_processes().filter(|&pid| parent(pid).is_some_and(|parent| found.contains(&parent)));
            let more: BTreeSet<i32> = children.filter(|pid| !found.contains(pid)).collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }

    /// The first processes of its servers, those that are in namespaces of their own by now.
    fn first_processes(&self) -> Vec<i32> {
        let is_one = |&pid: &i32| {
            parent(pid) == Some(self.0)
                && command(pid).get(1).is_some_and(|word| word == "first-process")
                && namespace(pid, "pid") != namespace(self.0, "pid")
        };
        all_processes().filter(is_one).collect()
    }
}

/// The namespaces of servers with these first processes: none of them is the host's.
fn namespaces_of_servers(first_processes: &[i32]) -> BTreeSet<PathBuf> {
    let own: BTreeSet<PathBuf> = KINDS.iter().filter_map(|kind| namespace(own_pid(), kind)).collect();
    let theirs = first_processes
        .iter()
        .flat_map(|&pid| KINDS.iter().map(|kind| namespace(pid, kind).unwrap()).collect::<Vec<_>>());
    let namespaces: BTreeSet<PathBuf> = theirs.collect();
    // One network for all, the others for each.
    assert_eq!(namespaces.len(), 1 + (KINDS.len() - 1) * first_processes.len());
    assert!(namespaces.is_disjoint(&own));
    namespaces
}

const KINDS: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];

/// What of the host servers change where nothing keeps them from it.
#[derive(Debug, PartialEq)]
struct Host {
    name: String,
    mounts: BTreeSet<String>,
    settings: BTreeMap<PathBuf, Option<Vec<u8>>>,
    foreign: BTreeSet<PathBuf>,
}

impl Host {
    fn look() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_garden = |line: &&str| line.contains(" garden ") || line.contains("/packages");
        let mut foreign = BTreeSet::new();
        for folder in ["/etc", "/home", "/run", "/srv", "/usr", "/var"] {
            find_foreign(Path::new(folder), &mut foreign);
        }
        Self {
            name: fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
            mounts: mounts.lines().filter(of_garden).map(str::to_owned).collect(),
            settings: SETTINGS.iter().map(|&path| (PathBuf::from(path), fs::read(path).ok())).collect(),
            foreign,
        }
    }
}

const SETTINGS: [&str; 10] = [
    "/etc/environment",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mailname",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/etc/shadow",
    "/etc/smtpd.conf",
];

/// Files of the users that only a garden has.
fn find_foreign(folder: &Path, foreign: &mut BTreeSet<PathBuf>) {
    // What others remove meanwhile was not ours.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if (5001..5200).contains(&metadata.uid()) {
            foreign.insert(entry.path());
        }
        if metadata.is_dir() {
            find_foreign(&entry.path(), foreign);
        }
    }
}

/// A message to user1.
fn deliver(server: &Server) {
    let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut reply = |code: &str| {
        let mut line = String::new();
        while line.get(3..4) != Some(" ") {
            line.clear();
            replies.read_line(&mut line).unwrap();
            assert!(line.starts_with(code), "{line}");
        }
    };
    reply("220");
    for (command, code) in [
        ("HELO client.example", "250"),
        ("MAIL FROM:<someone@elsewhere.example>", "250"),
        (&*format!("RCPT TO:<user1@{}>", server.domain), "250"),
        ("DATA", "354"),
        ("Subject: hello\r\n\r\nhello\r\n.", "250"),
        ("QUIT", "221"),
    ] {
        (&stream).write_all(format!("{command}\r\n").as_bytes()).unwrap();
        reply(code);
    }
    assert_eq!(replies.read_to_end(&mut Vec::new()).unwrap(), 0);
}

/// Sockets that somebody listens on, as the links to them are called, with their ports.
fn listening(table: &str) -> BTreeMap<String, u16> {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string(table).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == LISTENING)
        .map(|row| {
            let (_, port) = row[1].split_once(':').unwrap();
            (format!("socket:[{}]", row[9]), u16::from_str_radix(port, 16).unwrap())
        })
        .collect()
}

/// The ports that somebody is connected to, in the network of this process.
fn connected(pid: i32) -> BTreeSet<u16> {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let remote = rows.filter(|row| row[3] == ESTABLISHED).map(|row| row[2].rsplit_once(':').unwrap().1.to_owned());
    remote.map(|port| u16::from_str_radix(&port, 16).unwrap()).collect()
}

/// The words of a process's command line; none if it has ended.
fn command(pid: i32) -> Vec<String> {
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split_terminator('\0').map(str::to_owned).collect()
}

/// The processes that are in one of these namespaces.
fn inhabitants(namespaces: &BTreeSet<PathBuf>) -> BTreeSet<i32> {
    all_processes().filter(|&pid| namespaces_of(pid).is_some_and(|theirs| !namespaces.is_disjoint(&theirs))).collect()
}

/// The pipes by which these first processes see that whoever started them ends: as long as one has them, they do not,
/// and have to be ended.
fn keep_pipes(first_processes: &[i32]) -> Vec<File> {
    let pipe = |pid: &i32| OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/0")).unwrap();
    first_processes.iter().map(pipe).collect()
}

/// Until nobody is in these namespaces any more; with a patience that nothing that goes right comes near.
fn wait_until_empty(namespaces: &BTreeSet<PathBuf>) {
    let end = Instant::now() + Duration::from_secs(300);
    while !inhabitants(namespaces).is_empty() {
        assert!(Instant::now() < end, "still there: {:?}", inhabitants(namespaces));
        thread::sleep(Duration::from_millis(10));
    }
}

/// The namespaces of a process; nothing if it has ended.
fn namespaces_of(pid: i32) -> Option<BTreeSet<PathBuf>> {
    KINDS.iter().map(|kind| namespace(pid, kind)).collect()
}

fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn all_processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether it is gone, but for what its parent is still to be told.
fn has_ended(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("State:")).is_none_or(|state| state.trim().starts_with('Z'))
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn own_pid() -> i32 {
    std::process::id().try_into().unwrap()
}

/// The compiler does not hear of it: the shell that calls it passes on no variable with a dash in its name.
fn program() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_BIN_EXE_smtp-garden").unwrap())
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages")
}
