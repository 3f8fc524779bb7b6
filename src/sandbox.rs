//! What a session gives up before it reads input of the peer: everything that its deliveries and its log do not need.
//!
//! Landlock (landlock(7)) permanently takes from this process access to all files but those in the folders of the
//! destinations, running programs, TCP connections except to the ports of configured servers, and signals to other
//! processes. What is open stays open. With `sandbox strict` a list of system calls forbids what Landlock does not
//! know. So a flaw in later code does little harm. The command of a `pipe` would inherit all of this, and may be a
//! set-user-id program that writes anywhere; therefore commands are run by a process that was started before
//! (src/deliver/runner.rs).

mod description;

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::fcntl::OFlag;
use nix::sys::statfs::{FsType, fstatfs};

pub(crate) use description::{describe, shortcomings};

use crate::config::{Config, Connections, Level, MailPlace};
use crate::date;
use crate::files::{self, Entry, directory_of};
use crate::log::{Event, Log};
use crate::net::dns::DNS_PORT;
use crate::system_calls::{self, Sockets};

/// Enters the sandbox that the configuration asks for. A session that still has to ask name servers can reach them,
/// also over TCP, until [`forbid_tcp`]. If the sandbox is incomplete, that is logged; if the configuration requires it,
/// it is an error, and no mail can be taken.
pub(crate) fn enter(config: &Config, asks_name_servers: bool, log: &Log) -> Result<(), SandboxGap> {
    if config.sandbox.level == Level::Off {
        return Ok(());
    }
    // The list of system calls does not allow opening a stream socket to the system log.
    log.open(config.sandbox.level == Level::Strict);
    date::learn_time_zone();
    let mut ports = ports(config);
    if asks_name_servers && !ports.contains(&DNS_PORT) {
        ports.push(DNS_PORT);
    }
    let restricted = restrict(&allowed(config), &ports);
    tolerate(SandboxGap::of(restricted), config, log)?;
    if asks_name_servers { Ok(()) } else { forbid_system_calls(config, log) }
}

/// Adds a second sandbox inside the first, for a session that has asked name servers: from now on only the TCP
/// connections that deliveries need. What this kernel cannot enforce was logged by [`enter`].
pub(crate) fn forbid_tcp(config: &Config, log: &Log) -> Result<(), SandboxGap> {
    if config.sandbox.level == Level::Off {
        return Ok(());
    }
    tolerate(restrict_tcp_to(&ports(config)).err().map(SandboxGap::from), config, log)?;
    forbid_system_calls(config, log)
}

fn forbid_system_calls(config: &Config, log: &Log) -> Result<(), SandboxGap> {
    match config.sandbox.level {
        Level::Off | Level::On => Ok(()),
        Level::Strict => {
            tolerate(system_calls::forbid_others(sockets(config)).err().map(SandboxGap::from), config, log)
        }
    }
}

/// The ports that deliveries may connect to, and that of name servers if deliveries need them.
fn ports(config: &Config) -> Vec<u16> {
    let Connections { mut ports, has_names, .. } = config.connections();
    if has_names && !ports.contains(&DNS_PORT) {
        ports.push(DNS_PORT);
    }
    ports
}

/// The kinds of sockets that deliveries need.
fn sockets(config: &Config) -> Sockets {
    let Connections { ports, has_names, has_sockets } = config.connections();
    Sockets { tcp: !ports.is_empty(), names: has_names, local: has_sockets }
}

fn tolerate(flaw: Option<SandboxGap>, config: &Config, log: &Log) -> Result<(), SandboxGap> {
    match flaw {
        None => Ok(()),
        Some(flaw) if config.sandbox.is_required => Err(flaw),
        Some(flaw) => {
            log.event(&if flaw.is_total() { Event::NoSandbox(&flaw) } else { Event::PartialSandbox(&flaw) });
            Ok(())
        }
    }
}

/// What a sandbox lacks.
#[derive(Debug)]
pub(crate) enum SandboxGap {
    /// There is no sandbox, for this reason.
    Total(String),
    /// There is a sandbox but no list of system calls, for this reason.
    NoList(String),
    /// This kernel's Landlock cannot forbid these.
    Partial(Vec<&'static str>),
}

impl SandboxGap {
    fn of(restricted: Result<RestrictionStatus, RulesetError>) -> Option<Self> {
        let status = match restricted {
            Ok(status) => status,
            Err(error) => return Some(error.into()),
        };
        match (status.ruleset, status.landlock) {
            (RulesetStatus::FullyEnforced, _) => None,
            (_, LandlockStatus::NotEnabled) => Some(SandboxGap::Total(
                "Landlock is not among the kernel's security modules (lsm= at its start)".to_owned(),
            )),
            (_, LandlockStatus::NotImplemented) => {
                let why = if is_filtered() {
                    "Landlock cannot be used: a seccomp filter keeps it from us, that of a container or of a unit, or this \
                     kernel has none"
                } else {
                    "this kernel has no Landlock"
                };
                Some(SandboxGap::Total(why.to_owned()))
            }
            (_, LandlockStatus::Available { effective_abi, .. }) => {
                let unknown = SINCE.iter().filter(|(abi, _)| effective_abi < *abi);
                Some(SandboxGap::Partial(unknown.map(|(_, what)| *what).collect()))
            }
        }
    }

    /// Whether the sandbox, or the list of system calls, is missing altogether.
    fn is_total(&self) -> bool {
        match self {
            SandboxGap::Total(_) | SandboxGap::NoList(_) => true,
            SandboxGap::Partial(_) => false,
        }
    }
}

/// Whether a filter for system calls is in place, which may return any error in the kernel's name (proc(5)).
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.split_ascii_whitespace().eq(["Seccomp:", "2"]))
}

impl From<RulesetError> for SandboxGap {
    fn from(error: RulesetError) -> Self {
        SandboxGap::Total(error.to_string())
    }
}

impl From<seccompiler::Error> for SandboxGap {
    fn from(error: seccompiler::Error) -> Self {
        SandboxGap::NoList(error.to_string())
    }
}

impl fmt::Display for SandboxGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxGap::Total(why) => write!(f, "no sandbox: {why}"),
            SandboxGap::NoList(why) => write!(f, "the sandbox is not strict: {why}"),
            SandboxGap::Partial(unknown) => {
                write!(f, "the sandbox is not whole: this kernel's Landlock cannot forbid {}", unknown.join(", "))
            }
        }
    }
}

/// A file, or a folder with everything in it, and what may be done there.
struct Allowed {
    /// For messages to people.
    path: PathBuf,
    what: What,
    /// Opened with O_PATH, in the same way as deliveries find it; or why they cannot find it.
    found: io::Result<OwnedFd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Writing to a device or FIFO.
    Write,
    /// Mailboxes in a folder.
    Append,
    /// A single mailbox, without its folder.
    AppendToFile,
    /// A maildir or a folder of messages.
    Deliver,
    /// Mailboxes and maildirs.
    DeliverAnywhere,
}

impl Allowed {
    /// A folder with everything in it.
    fn folder(path: &Path, what: What) -> Self {
        let found = files::open_folder(path, OFlag::O_PATH).map(OwnedFd::from);
        Self { path: path.to_owned(), what, found }
    }

    fn is_everywhere(&self) -> bool {
        self.path == Path::new("/")
    }
}

impl What {
    fn access(self) -> BitFlags<AccessFs> {
        use AccessFs::{MakeDir, MakeReg, ReadDir, ReadFile, Refer, RemoveFile, Truncate, WriteFile};
        let append = MakeReg | ReadDir | ReadFile | Truncate | WriteFile;
        let deliver = MakeDir | MakeReg | ReadDir | Refer | RemoveFile | WriteFile;
        match self {
            What::Write => ReadFile | WriteFile,
            What::Append => append,
            What::AppendToFile => ReadFile | Truncate | WriteFile,
            What::Deliver => deliver,
            What::DeliverAnywhere => append | deliver,
        }
    }
}

/// Everything that deliveries may need. The log, the configuration and the file for large messages are already open,
/// and the time zone is known.
fn allowed(config: &Config) -> Vec<Allowed> {
    let mut allowed: Vec<Allowed> = Vec::new();
    for place in config.rules.needs().places().iter().map(of_place) {
        // A mailbox that cannot be found must not hide the entry for others in the same folder.
        let is_same = |known: &Allowed| {
            known.path == place.path && known.what == place.what && known.found.is_ok() == place.found.is_ok()
        };
        if !allowed.iter().any(is_same) {
            allowed.push(place);
        }
    }
    allowed
}

fn of_place(place: &MailPlace) -> Allowed {
    match place {
        MailPlace::Mailbox(file) => of_mailbox(file),
        MailPlace::Maildir(directory) => of_maildir(directory),
        MailPlace::Below(folder) if folder.as_os_str().is_empty() => {
            Allowed::folder(Path::new("."), What::DeliverAnywhere)
        }
        MailPlace::Below(folder) => Allowed::folder(folder, What::DeliverAnywhere),
    }
}

/// A mailbox needs its folder and not just the file: the file may have to be made, another program may replace it, and
/// a new name is durable only when the folder is synced.
fn of_mailbox(file: &Path) -> Allowed {
    let append = |path: &Path, found| Allowed { path: path.to_owned(), what: What::Append, found };
    let entry = match Entry::find(file) {
        Ok(entry) => entry,
        Err(error) => return append(directory_of(file), Err(error)),
    };
    let kind = entry.found().and_then(|found| found.metadata().ok()).map(|metadata| metadata.file_type());
    match kind {
        Some(kind) if kind.is_dir() => append(file, Err(ErrorKind::IsADirectory.into())),
        Some(kind) if !kind.is_file() => {
            let found = entry.into_found().map(OwnedFd::from).ok_or_else(|| ErrorKind::NotFound.into());
            Allowed { path: file.to_owned(), what: What::Write, found }
        }
        // A name in /proc for something that a process has open stands for that file alone.
        Some(_) if entry.is_of_a_process() => {
            let found = entry.into_found().map(OwnedFd::from).ok_or_else(|| ErrorKind::NotFound.into());
            Allowed { path: file.to_owned(), what: What::AppendToFile, found }
        }
        _ => {
            let folder = entry.at().to_owned();
            append(&folder, Ok(entry.into_folder()))
        }
    }
}

/// A maildir that is incomplete needs the folder above it too, where it is made and its name is synced.
fn of_maildir(directory: &Path) -> Allowed {
    let itself = Allowed::folder(directory, What::Deliver);
    let has = |folder: &OwnedFd, name| files::open_folder_in(folder, directory, name, OFlag::O_PATH).is_ok();
    match &itself.found {
        Ok(folder) if has(folder, "tmp") && has(folder, "new") => itself,
        Err(error) if error.kind() != ErrorKind::NotFound => itself,
        _ => Allowed::folder(directory_of(directory), What::Deliver),
    }
}

fn restrict(allowed: &[Allowed], ports: &[u16]) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for place in allowed {
        // If the place was not found, the delivery fails and says so.
        if let Ok(found) = &place.found
            && !is_pipe_or_socket_of_a_process(found)
        {
            ruleset = ruleset.add_rule(PathBeneath::new(found, place.what.access()))?;
        }
    }
    for port in ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    ruleset.restrict_self()
}

/// Whether this is a pipe or socket without a name outside /proc, to which /dev/stdout may lead. Landlock has no rules
/// for these and does not restrict them.
fn is_pipe_or_socket_of_a_process(found: &OwnedFd) -> bool {
    fstatfs(found).is_ok_and(|stat| [PIPEFS_MAGIC, SOCKFS_MAGIC].contains(&stat.filesystem_type()))
}

/// The file systems of pipes and sockets (linux/magic.h).
const PIPEFS_MAGIC: FsType = FsType(0x5049_5045);
const SOCKFS_MAGIC: FsType = FsType(0x534f_434b);

fn restrict_tcp_to(ports: &[u16]) -> Result<(), RulesetError> {
    let mut ruleset =
        Ruleset::default().handle_access(AccessNet::from_all(KNOWN))?.handle_access(AccessFs::Refer)?.create()?;
    // Every sandbox has to allow renaming from folder to folder, which maildirs need, even one that is not about files.
    if let Ok(root) = files::open_folder(Path::new("/"), OFlag::O_PATH) {
        ruleset = ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer))?;
    }
    for port in ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    ruleset.restrict_self().map(drop)
}

/// Which version of Landlock first knew what is forbidden here (landlock(7)). Programs and files are known since the
/// first.
const SINCE: [(ABI, &str); 4] = [
    (ABI::V3, "cutting files back"),
    (ABI::V4, "TCP connections"),
    (ABI::V5, "device controls"),
    (ABI::V6, "signals to others and abstract sockets"),
];

/// The newest Landlock version that this was tested with. An older kernel enforces what it knows.
const KNOWN: ABI = ABI::V6;

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::Write;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use nix::errno::Errno;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::signal::kill;
    use nix::unistd::getppid;
    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    /// Landlock is the thread's own affair, so each test has its sandbox to itself.
    #[test]
    fn what_is_allowed_is_all_there_is() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut open_before = File::create(outside.path().join("log")).unwrap();
        let places = [Allowed::folder(inside.path(), What::Append)];
        assert_eq!(
            restrict(&places, &[]).unwrap().ruleset,
            RulesetStatus::FullyEnforced,
            "these tests need a kernel with Landlock"
        );

        let mailbox = inside.path().join("inbox");
        let append = || OpenOptions::new().read(true).append(true).create(true).open(&mailbox);
        append().unwrap().write_all(b"mail").unwrap();
        append().unwrap().set_len(0).unwrap();
        File::open(inside.path()).unwrap().sync_all().unwrap();
        open_before.write_all(b"a line").unwrap();

        let denied = |error: io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        denied(fs::read(outside.path().join("secret")).unwrap_err());
        denied(fs::read("/etc/passwd").unwrap_err());
        denied(fs::write(outside.path().join("new"), "").unwrap_err());
        denied(fs::remove_file(&mailbox).unwrap_err());
        denied(fs::create_dir(inside.path().join("folder")).unwrap_err());
        denied(Command::new("/bin/true").status().unwrap_err());
        denied(TcpStream::connect(listener.local_addr().unwrap()).unwrap_err());
        denied(TcpListener::bind("127.0.0.1:0").unwrap_err());
        assert_eq!(kill(getppid(), None), Err(Errno::EPERM));
    }

    /// `append /dev/stdout` is not to leave all other places open.
    #[test]
    fn what_landlock_knows_no_rule_for_does_not_keep_it_from_the_rest() {
        let (pipe, _writer) = io::pipe().unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        let nameless = [OwnedFd::from(pipe), OwnedFd::from(socket)].map(|found| Allowed {
            path: PathBuf::from("/dev/stdout"),
            what: What::Write,
            found: Ok(found),
        });
        restrict(&nameless, &[]).unwrap();
        assert!(fs::read("/etc/passwd").is_err());
    }

    #[test]
    fn name_servers_can_be_reached_for_a_while() {
        let (server, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let connect = |to: &TcpListener| TcpStream::connect(to.local_addr().unwrap()).map_err(|error| error.kind());
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |of: &TcpListener| of.local_addr().unwrap().port();
        restrict(&[], &[port(&server), port(&broker)]).unwrap();
        assert!(connect(&server).is_ok());
        assert_eq!(connect(&other).unwrap_err(), ErrorKind::PermissionDenied);
        restrict_tcp_to(&[port(&broker)]).unwrap();
        assert_eq!(connect(&server).unwrap_err(), ErrorKind::PermissionDenied);
        assert!(connect(&broker).is_ok());
    }

    /// What Landlock does not know, and this system does. Each is a way out that `sandbox strict` closes.
    #[test]
    fn what_landlock_does_not_know_a_strict_sandbox_forbids() {
        let folder = tempfile::tempdir().unwrap();
        let (file, program) = (folder.path().join("file"), std::env::current_exe().unwrap());
        fs::write(&file, "").unwrap();
        let program = fs::read(program).unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = mptcp().unwrap();
        rustix::net::bind(&server, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        rustix::net::listen(&server, 1).unwrap();
        let server_address = SocketAddr::try_from(rustix::net::getsockname(&server).unwrap()).unwrap();
        let ways: [(&str, Way<'_>); 6] = [
            ("MPTCP", &|| Ok(rustix::net::connect(&mptcp()?, &server_address)?)),
            ("UDP", &|| UdpSocket::bind("127.0.0.1:0").map(drop)),
            ("local sockets", &|| UnixStream::connect_addr(&address).map(drop)),
            ("programs in memory", &|| run_in_memory(&program)),
            ("modes", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o4777))),
            ("owners", &|| std::os::unix::fs::chown(&file, Some(nix::unistd::geteuid().as_raw()), None)),
        ];
        restrict(&[], &[]).unwrap();
        // That it does know, so that the rest is not for want of a sandbox.
        assert_eq!(TcpStream::connect(tcp.local_addr().unwrap()).unwrap_err().kind(), ErrorKind::PermissionDenied);
        for (what, way) in &ways {
            way().unwrap_or_else(|error| {
                panic!("{what} should be possible here, for this test to mean something: {error}")
            });
        }
        system_calls::forbid_others(Sockets::default()).unwrap();
        for (what, way) in &ways {
            assert_eq!(way().unwrap_err().raw_os_error(), Some(Errno::EPERM as i32), "{what}");
        }
        // And what the log and the deliveries need is there.
        let log = UnixDatagram::unbound().unwrap();
        log.set_nonblocking(true).unwrap();
    }

    /// Who publishes may use TCP as far as Landlock allows it, and nothing that it does not know.
    #[test]
    fn a_strict_sandbox_leaves_what_brokers_need() {
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = broker.local_addr().unwrap();
        restrict(&[], &[address.port()]).unwrap();
        system_calls::forbid_others(Sockets { tcp: true, names: true, local: false }).unwrap();
        drop(TcpStream::connect(address).unwrap());
        drop(UdpSocket::bind("127.0.0.1:0").unwrap());
        assert_eq!(TcpStream::connect("127.0.0.1:1").unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(mptcp().unwrap_err(), rustix::io::Errno::PERM);
    }

    #[test]
    fn a_broker_whose_address_is_known_needs_no_udp() {
        system_calls::forbid_others(Sockets { tcp: true, ..Sockets::default() }).unwrap();
        let refused = TcpStream::connect("127.0.0.1:1").unwrap_err().kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
    }

    #[test]
    fn a_server_at_a_unix_socket_needs_no_network() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        restrict(&[], &[]).unwrap();
        system_calls::forbid_others(Sockets { local: true, ..Sockets::default() }).unwrap();
        drop(UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap());
        assert_eq!(TcpStream::connect("127.0.0.1:1").unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
    }

    type Way<'a> = &'a dyn Fn() -> io::Result<()>;

    fn mptcp() -> rustix::io::Result<OwnedFd> {
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(rustix::net::ipproto::MPTCP))
    }

    fn run_in_memory(program: &[u8]) -> io::Result<()> {
        let mut memory = File::from(memfd_create(c"program", MFdFlags::empty())?);
        memory.write_all(program)?;
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        // This test's own program, which lists its tests then.
        // Not /dev/null, which is a file.
        assert!(Command::new(path).arg("--list").stdin(Stdio::inherit()).output()?.status.success());
        Ok(())
    }

    #[test]
    fn a_maildir_can_be_made_and_delivered_to() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = folder.path().join("maildir");
        restrict(&[of_place(&MailPlace::Maildir(maildir.clone()))], &[]).unwrap();
        for name in ["", "tmp", "new", "cur"] {
            fs::create_dir(maildir.join(name)).unwrap();
        }
        fs::write(maildir.join("tmp/message"), "mail").unwrap();
        fs::rename(maildir.join("tmp/message"), maildir.join("new/message")).unwrap();
        fs::remove_file(maildir.join("new/message")).unwrap();
        assert!(fs::read("/etc/passwd").is_err());
    }
}
