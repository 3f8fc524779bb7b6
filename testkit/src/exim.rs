//! Exim as a relay, which takes mail on its standard input and passes it on to one server; and as the server where mail ends.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::free_port;
use crate::debian::{USER, chown};
use crate::tcp::is_listening;
use crate::{Daemon, Folder, LOOPBACK, Session, debian, succeeds};

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
        Self::with_config(&format!(
            "acl_smtp_rcpt = accept\n\
             acl_smtp_data = accept\n\
             begin routers\n\
             onward:\n  driver = manualroute\n  transport = onward\n  route_list = * 127.0.0.1 byname\n  self = send\n\
             begin transports\n\
             onward:\n  {transport}\n"
        ))
    }

    /// One with these lines of its configuration behind those about its files.
    fn with_config(lines: &str) -> Self {
        let folder = Folder::new();
        let command = debian::program("exim4-daemon-light", "exim4");
        chown(folder.path(""), format!("{USER}:{USER}"));
        let config = folder.write("exim.conf", config(&command, &folder.path("")) + lines);
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

    /// A command that has a super-server start it for each connection; what it accepts stays in the queue.
    pub fn behind(&self, super_server: &Command) -> Command {
        let mut command = self.among_its_users();
        command.arg(super_server.get_program()).args(super_server.get_args());
        command.arg(&self.command).arg("-C").arg(&self.config).args(["-odq", "-bs"]);
        command
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

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.among_its_users();
        command.arg(&self.command).arg("-C").arg(&self.config).args(arguments);
        command
    }

    /// What is added to it runs in a mount namespace in which its user exists.
    fn among_its_users(&self) -> Command {
        let mounts: String =
            self.users.iter().map(|(ours, theirs)| format!("mount --bind {} {theirs} && ", ours.display())).collect();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{mounts}exec \"$@\""), "sh"]);
        command
    }
}

/// A running Exim where mail ends.
pub struct EximServer {
    address: SocketAddr,
    // Before Exim with its folder, as it is stopped by then.
    _daemon: Daemon,
    exim: Exim,
}

impl EximServer {
    /// Starts one that takes mail for anybody into one maildir, but for what `acls` say: lines of its configuration behind
    /// `begin acl`. They define `check_mail`, `check_rcpt` and `check_data`.
    pub fn start(acls: &str) -> Self {
        let address = free_port(LOOPBACK[0]);
        let exim = Exim::with_config(&format!(
            "daemon_smtp_ports = {port}\n\
             local_interfaces = {ip}\n\
             acl_smtp_mail = check_mail\n\
             acl_smtp_rcpt = check_rcpt\n\
             acl_smtp_data = check_data\n\
             begin acl\n\
             {acls}\
             begin routers\n\
             all:\n  driver = accept\n  transport = maildir\n\
             begin transports\n\
             maildir:\n  driver = appendfile\n  maildir_format\n  directory = $spool_directory/mail\n  user = {USER}\n",
            port = address.port(),
            ip = address.ip(),
        ));
        let mut daemon = Daemon::start(exim.command(&["-bdf"]), exim.folder.path("exim.out"));
        daemon.until("listening", |_| is_listening(address).then_some(()));
        Self { address, _daemon: daemon, exim }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is in its mailbox.
    pub fn mail(&self) -> Vec<Vec<u8>> {
        self.exim.folder.contents("spool/mail/new")
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        self.exim.log()
    }
}

fn config(command: &Path, folder: &Path) -> String {
    format!(
        "exim_path = {}\n\
         primary_hostname = relay.example\n\
         spool_directory = {folder}/spool\n\
         log_file_path = {folder}/%slog\n\
         keep_environment =\n\
         tls_advertise_hosts =\n",
        command.display(),
        folder = folder.display(),
    )
}
