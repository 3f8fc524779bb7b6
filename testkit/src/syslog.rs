//! A system log daemon: rsyslogd with folders of its own, at /dev/log for those who are to find it there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Daemon, Folder, debian};

/// A running rsyslogd; dropped, it is stopped, and /dev/log is as it was.
pub struct Syslog {
    daemon: Daemon,
    folder: Folder,
    place: Place,
    _turn: MutexGuard<'static, ()>,
}

/// Where the daemon's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At /dev/log in the mount namespaces of what [`Syslog::launcher`] starts; this machine's own daemon, and whoever
    /// else logs here, see nothing of it.
    OverTheirs,
    /// At /dev/log for everybody, where mounting is not allowed: in a container, which has no log daemon either.
    Linked,
}

impl Syslog {
    /// Starts it, after all others have ended: there is one /dev/log.
    pub fn start() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Folder::new();
        let socket = folder.path("log");
        let daemon = start_rsyslogd(&folder, &socket);
        let place = if may_mount() { Place::OverTheirs } else { Place::Linked };
        let has_log = Path::new(DEV_LOG).exists();
        if !has_log {
            // A link that leads nowhere is what an earlier run left when it was killed.
            let _ = fs::remove_file(DEV_LOG);
        }
        match (place, has_log) {
            (Place::OverTheirs, true) => {}
            // Something has to be there to be mounted over.
            (Place::OverTheirs, false) => fs::write(DEV_LOG, "").unwrap(),
            (Place::Linked, false) => std::os::unix::fs::symlink(&socket, DEV_LOG).unwrap(),
            (Place::Linked, true) => panic!("{DEV_LOG} is there, and nothing may be mounted over it"),
        }
        let mut syslog = Self { daemon, folder, place, _turn: turn };
        syslog.daemon.until("rsyslogd's socket", |_| socket.exists().then_some(()));
        syslog
    }

    /// What has to stand in front of a command so that it finds this daemon at /dev/log.
    pub fn launcher(&self) -> Vec<OsString> {
        if self.place == Place::Linked {
            return Vec::new();
        }
        let mount = format!("mount --bind {} {DEV_LOG} && exec \"$@\"", self.folder.path("log").display());
        ["unshare", "--mount", "sh", "-c", &mount, "sh"].map(OsString::from).to_vec()
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

impl Drop for Syslog {
    fn drop(&mut self) {
        let ours = match self.place {
            Place::OverTheirs => fs::metadata(DEV_LOG).is_ok_and(|metadata| metadata.is_file()),
            Place::Linked => true,
        };
        if ours {
            let _ = fs::remove_file(DEV_LOG);
        }
    }
}

fn may_mount() -> bool {
    Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn start_rsyslogd(folder: &Folder, socket: &Path) -> Daemon {
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
    // A program that runs as another user has to reach the socket.
    fs::set_permissions(folder.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut rsyslogd = debian::command("rsyslog", "rsyslogd");
    rsyslogd.args(["-n", "-f", &path("rsyslog.conf"), "-i", &path("rsyslogd.pid")]);
    if let Some(modules) = modules() {
        rsyslogd.arg("-M").arg(modules);
    }
    Daemon::start(rsyslogd, folder.path("rsyslogd.out"))
}

/// The modules of an rsyslogd that is not where it was built for.
fn modules() -> Option<PathBuf> {
    let libraries = fs::read_dir(debian::unpacked("rsyslog").join("usr/lib")).ok()?;
    libraries.flatten().map(|entry| entry.path().join("rsyslog")).find(|path| path.is_dir())
}

const DEV_LOG: &str = "/dev/log";
