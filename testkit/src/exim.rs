//! Exim as a relay: it takes mail on its standard input and passes it on to one server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::debian::{USER, chown};
use crate::{Folder, Session, debian, succeeds};

/// Exim with a folder and a configuration of its own; it runs when it is called.
pub struct Exim {
    command: PathBuf,
    config: PathBuf,
    /// The user that Debian builds it for, where there is none.
    users: [(PathBuf, &'static str); 2],
    folder: Folder,
}

impl Exim {
    /// One that passes mail on to this port of 127.0.0.1.
    pub fn new(next: u16) -> Self {
        Self::with_transport(&format!("driver = smtp\n  port = {next}"))
    }

    /// One that passes mail on by this transport, all recipients of a message at once.
    pub fn with_transport(transport: &str) -> Self {
        let folder = Folder::new();
        let command = debian::program("exim4-daemon-light", "exim4");
        chown(folder.path(""), format!("{USER}:{USER}"));
        let config = folder.write("exim.conf", config(&command, &folder.path(""), transport));
        let with = |file: &str, line: &str| {
            let text = fs::read_to_string(format!("/etc/{file}")).unwrap();
            let missing = if text.contains("\nDebian-exim:") { "" } else { line };
            folder.write(file, format!("{text}{missing}"))
        };
        // Debian's numbers of the user and group `mail`.
        let passwd = with("passwd", "Debian-exim:x:8:8::/:/usr/sbin/nologin\n");
        let group = with("group", "Debian-exim:x:8:\n");
        Self { command, config, users: [(passwd, "/etc/passwd"), (group, "/etc/group")], folder }
    }

    /// Tries everything in the queue; the log of what came of it.
    pub fn try_queue(&self) -> String {
        succeeds(self.command(&["-qff"]), "");
        self.folder.read("mainlog")
    }

    /// Holds a session with it, and leaves what it accepts in the queue; its replies.
    pub fn submit(&self, script: &str) -> String {
        succeeds(self.command(&["-odq", "-bs"]), script)
    }

    /// A session with it over TCP, as a super-server would have it; what it accepts stays in the queue.
    pub fn connect(&self) -> Session {
        Session::start_with_stderr(self.command(&["-odq", "-bs"]), Stdio::null())
    }

    /// Passes on everything in the queue.
    pub fn run_queue(&self) {
        succeeds(self.command(&["-qff"]), "");
        assert_eq!(self.folder.count_files("spool/input"), 0, "not everything is delivered");
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        self.folder.read("mainlog")
    }

    /// In a mount namespace in which its user exists.
    fn command(&self, arguments: &[&str]) -> Command {
        let mounts: String =
            self.users.iter().map(|(ours, theirs)| format!("mount --bind {} {theirs} && ", ours.display())).collect();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{mounts}exec \"$@\""), "sh"]);
        command.arg(&self.command).arg("-C").arg(&self.config).args(arguments);
        command
    }
}

fn config(command: &Path, folder: &Path, transport: &str) -> String {
    format!(
        "exim_path = {}\n\
         primary_hostname = relay.example\n\
         spool_directory = {folder}/spool\n\
         log_file_path = {folder}/%slog\n\
         acl_smtp_rcpt = accept\n\
         acl_smtp_data = accept\n\
         keep_environment =\n\
         tls_advertise_hosts =\n\
         begin routers\n\
         onward:\n  driver = manualroute\n  transport = onward\n  route_list = * 127.0.0.1 byname\n  self = send\n\
         begin transports\n\
         onward:\n  {transport}\n",
        command.display(),
        folder = folder.display(),
    )
}
