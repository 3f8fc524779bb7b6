//! System log daemons, at /dev/log for those who are to find them there: rsyslogd with folders of its own, and room for
//! whoever else plays one.

use std::ffi::OsString;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use crate::{Daemon, Folder, debian};

/// A place that is /dev/log for what is started behind its [`DevLog::launcher`]; dropped, it is gone.
pub struct DevLog {
    folder: Folder,
    place: Place,
    _turn: MutexGuard<'static, ()>,
}

/// A running rsyslogd; dropped, it is stopped.
pub struct Syslog {
    daemon: Daemon,
    dev_log: DevLog,
}

/// Where the daemon's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A link in a /dev that only what the launcher starts can see; this machine's own daemon, and whoever else logs
    /// here, see nothing of it.
    OwnDev,
    /// A link in everybody's /dev, where mounting is not allowed: in a container, which has no log daemon either.
    Linked,
}

impl DevLog {
    /// Nobody listens there yet. Waits until all others have ended: there is one /dev/log.
    pub fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Folder::new();
        // A program that runs as another user has to reach the socket.
        fs::set_permissions(folder.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let place = if may_mount() { Place::OwnDev } else { Place::Linked };
        if place == Place::Linked {
            assert!(!Path::new(DEV_LOG).exists(), "{DEV_LOG} is there, and nothing may be mounted over it");
            // A link that leads nowhere is what an earlier run left when it was killed.
            let _ = fs::remove_file(DEV_LOG);
            std::os::unix::fs::symlink(folder.path(SOCKET), DEV_LOG).unwrap();
        }
        Self { folder, place, _turn: turn }
    }

    /// Where whoever is the daemon binds its socket, as often as it likes.
    pub fn socket(&self) -> PathBuf {
        self.folder.path(SOCKET)
    }

    /// What has to stand in front of a command so that it finds this place at /dev/log.
    pub fn launcher(&self) -> Vec<OsString> {
        if self.place == Place::Linked {
            return Vec::new();
        }
        // Everything else in /dev is what it was, by way of a link.
        const OWN_DEV: &str = "\
mkdir -p \"$1\" && mount --rbind /dev \"$1\" && mount -t tmpfs -o mode=755 dev /dev && ln -s \"$1\"/* /dev/ && \
ln -sfn \"$2\" /dev/log && shift 2 && exec \"$@\"";
        let mut launcher = ["unshare", "--mount", "sh", "-c", OWN_DEV, "sh"].map(OsString::from).to_vec();
        launcher.extend([self.folder.path("dev"), self.socket()].map(OsString::from));
        launcher
    }
}

impl Default for DevLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DevLog {
    fn drop(&mut self) {
        if self.place == Place::Linked {
            let _ = fs::remove_file(DEV_LOG);
        }
    }
}

impl Deref for Syslog {
    type Target = DevLog;

    fn deref(&self) -> &DevLog {
        &self.dev_log
    }
}

impl Syslog {
    /// Starts it.
    pub fn start() -> Self {
        let dev_log = DevLog::new();
        Self { daemon: start_rsyslogd(&dev_log), dev_log }
    }

    /// Kills it and starts another, with a new socket.
    pub fn restart(&mut self) {
        self.daemon.signal(Signal::SIGKILL);
        self.daemon.exit_code();
        for left in [self.socket(), self.folder.path("rsyslogd.pid")] {
            fs::remove_file(left).unwrap();
        }
        self.daemon = start_rsyslogd(&self.dev_log);
    }

    /// Facility mail, as rsyslog has always written it.
    pub fn traditional(&self) -> PathBuf {
        self.folder.path("traditional.log")
    }

    /// Facility mail, with the time stamps that Debian's rsyslog writes nowadays.
    pub fn precise(&self) -> PathBuf {
        self.folder.path("precise.log")
    }

    /// Facility mail, each line with its priority.
    pub fn priorities(&self) -> PathBuf {
        self.folder.path("priorities.log")
    }
}

fn may_mount() -> bool {
    Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn start_rsyslogd(dev_log: &DevLog) -> Daemon {
    let (folder, socket) = (&dev_log.folder, dev_log.socket());
    let path = |name: &str| folder.path(name).display().to_string();
    let config = format!(
        "global(workDirectory=\"{folder}\")\n\
         module(load=\"imuxsock\" SysSock.Name=\"{socket}\")\n\
         template(name=\"priorities\" type=\"string\" string=\"%syslogfacility-text%.%syslogseverity-text%:%msg%\\n\")\n\
         mail.* action(type=\"omfile\" file=\"{}\" template=\"RSYSLOG_TraditionalFileFormat\")\n\
         mail.* action(type=\"omfile\" file=\"{}\" template=\"RSYSLOG_FileFormat\")\n\
         mail.* action(type=\"omfile\" file=\"{}\" template=\"priorities\")\n",
        path("traditional.log"),
        path("precise.log"),
        path("priorities.log"),
        folder = path(""),
        socket = socket.display(),
    );
    folder.write("rsyslog.conf", config);
    // Under systemd sockets have room for 512 datagrams (net.unix.max_dgram_qlen), and the kernel alone gives them ten. That
    // belongs to a network namespace; who writes to the socket may be in another.
    const LONG_QUEUE: &str = "echo 512 >/proc/sys/net/unix/max_dgram_qlen; exec \"$@\"";
    let program = debian::program("rsyslog", "rsyslogd");
    let mut rsyslogd = if may_mount() {
        let mut rsyslogd = Command::new("unshare");
        rsyslogd.args(["--net", "sh", "-c", LONG_QUEUE, "sh"]).arg(program);
        rsyslogd
    } else {
        Command::new(program)
    };
    rsyslogd.args(["-n", "-f", &path("rsyslog.conf"), "-i", &path("rsyslogd.pid")]);
    if let Some(modules) = modules() {
        rsyslogd.arg("-M").arg(modules);
    }
    let mut daemon = Daemon::start(rsyslogd, folder.path("rsyslogd.out"));
    daemon.until("rsyslogd's socket", |_| socket.exists().then_some(()));
    daemon
}

/// The modules of an rsyslogd that is not where it was built for.
fn modules() -> Option<PathBuf> {
    let libraries = fs::read_dir(debian::unpacked("rsyslog").join("usr/lib")).ok()?;
    libraries.flatten().map(|entry| entry.path().join("rsyslog")).find(|path| path.is_dir())
}

const DEV_LOG: &str = "/dev/log";

/// The socket's name in the folder.
const SOCKET: &str = "log";
