//! An installation of mailrecv in a folder of its own: binary, configuration, mailbox, log.

use std::ffi::OsString;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::debian::{USER, chown};
use testkit::syslog::DevLog;
use testkit::{Daemon, Folder};

/// The installation; dropped, it is gone.
pub(crate) struct Receiver {
    folder: Folder,
    /// What stands in front of every command line.
    launcher: Vec<OsString>,
}

impl Receiver {
    /// Mail for fred@example.com goes to a file; `directives` follow what every configuration here has.
    pub(crate) fn new(directives: &str) -> Self {
        let receiver = Self { folder: Folder::new(), launcher: Vec::new() };
        // The user that super-servers start it as must get in, and make the files.
        chown(receiver.path(""), USER);
        // Copied by another process: a descriptor that is open for writing here could be inherited by a program that
        // another test is just starting, and then nobody could run the copy.
        let copied = Command::new("install")
            .args(["-m", "755", env!("CARGO_BIN_EXE_mailrecv")])
            .arg(receiver.binary())
            .status()
            .unwrap();
        assert!(copied.success());
        receiver.configure(directives);
        receiver
    }

    /// What is started from now on finds this daemon at /dev/log.
    pub(crate) fn logs_to(&mut self, dev_log: &DevLog) {
        self.launcher = dev_log.launcher();
    }

    /// What is started from now on finds this text as /etc/hosts, in a mount namespace of its own.
    #[allow(dead_code, reason = "the benchmark has peers that no name server is to be asked about")]
    pub(crate) fn knows_hosts(&mut self, text: String) {
        let hosts = self.write("hosts", text);
        fs::set_permissions(&hosts, PermissionsExt::from_mode(0o644)).unwrap();
        let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
        self.launcher = ["unshare", "--mount", "sh", "-c", &mount, "sh"].map(OsString::from).to_vec();
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, directives: &str) {
        let text = format!(
            "domain mail.example.com\n\
             limit.fcrdns_check off\n\
             deliver rcpt_to {FRED} append {}\n\
             logfile {}\n\
             debug +\n\
             {directives}\n",
            self.mailbox().display(),
            self.log().display()
        );
        self.write(CONFIG, text);
    }

    /// The program.
    pub(crate) fn binary(&self) -> PathBuf {
        self.path("mailrecv")
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.path(CONFIG)
    }

    /// Where fred's mail goes.
    pub(crate) fn mailbox(&self) -> PathBuf {
        self.path("fred")
    }

    /// Its log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.path(LOG)
    }

    /// The processes that run its program.
    fn running(&self) -> Vec<Pid> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let runs_it = |number: &i32| fs::read_link(format!("/proc/{number}/exe")).is_ok_and(|exe| exe == self.binary());
        numbers.filter(runs_it).map(Pid::from_raw).collect()
    }

    /// Starts a super-server for this installation.
    pub(crate) fn launch(&self, command: Command) -> Daemon {
        Daemon::start(self.launched(command), self.path("super-server.out"))
    }

    /// The command behind the launcher, if there is one.
    pub(crate) fn launched(&self, command: Command) -> Command {
        let Some((program, arguments)) = self.launcher.split_first() else { return command };
        let mut launcher = Command::new(program);
        launcher.args(arguments).arg(command.get_program()).args(command.get_args());
        launcher
    }

    /// A command that starts it, without arguments.
    pub(crate) fn bare_command(&self) -> Command {
        Command::new(self.binary())
    }

    /// A command that starts it with its configuration.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg("-c").arg(self.config());
        command
    }
}

impl Drop for Receiver {
    /// Waits for its sessions, whose peers are gone by now. One that outlived its log file would write to the system
    /// log, where another test is reading.
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(session) = self.running().first() {
            if Instant::now() > deadline {
                let _ = kill(*session, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Deref for Receiver {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

/// Mail to it is delivered under every configuration.
pub(crate) const FRED: &str = "fred@example.com";

/// A file of accounts, with the one that the examples of RFC 4954 have: `tim`, whose password is `tanstaaftanstaaf`.
pub(crate) const ACCOUNTS: &str = "tim:SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==\
    $eGf3QsUQprwRVd3Z2I1U3Z7fhbTwo48uIgmtK4BYHLA=:pOv3AQOcdi8aSdNG2ImIfZmIsgzailiwxq7PcHO2oq4=\n";

const CONFIG: &str = "mailrecv.conf";
const LOG: &str = "mailrecv.log";
