//! Dovecot where mail ends: its LMTP server over TCP and at a Unix socket, and the service that tells others whose password
//! is right.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::daemon::free_port;
use crate::debian::{USER, chown};
use crate::tcp::is_listening;
use crate::{Daemon, Folder, LOOPBACK, debian};

/// A running Dovecot with folders of its own.
pub struct Dovecot {
    address: SocketAddr,
    // Before the folder, as it is stopped by then.
    _master: Daemon,
    folder: Folder,
}

/// Who has a mailbox, under any domain, with [`PASSWORD`].
pub const USERS: [&str; 3] = ["fred", "wilma", "barney"];

/// Who has one that has no room left.
pub const FULL: &str = "full";

/// What [`USERS`] log in with.
pub const PASSWORD: &str = "s3kr1t of fred";

impl Dovecot {
    /// Starts one; `settings` are further lines of its configuration.
    pub fn start(settings: &str) -> Self {
        let (address, folder) = (free_port(LOOPBACK[0]), Folder::new());
        // Its processes, which run as another user, have to get in.
        fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["run", "state", "mail"] {
            fs::create_dir(folder.path(name)).unwrap();
        }
        chown(folder.path("mail"), format!("{USER}:{USER}"));
        let mut users: String = USERS.map(|name| format!("{name}:{{PLAIN}}{PASSWORD}::::::\n")).concat();
        users += &format!("{FULL}:{{PLAIN}}{PASSWORD}::::::userdb_quota_rule=*:bytes=1\n");
        folder.write("users", users);
        folder.write("dovecot.conf", config(&folder.path(""), address) + settings);
        let mut command = debian::laid_over(&["dovecot-core", "dovecot-lmtpd"], &folder);
        command.args(["dovecot", "-F", "-c"]).arg(folder.path("dovecot.conf"));
        let mut master = Daemon::start(command, folder.path("dovecot.out"));
        master.until("listening", |_| is_listening(address).then_some(()));
        Self { address, _master: master, folder }
    }

    /// Where its LMTP server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The Unix socket at which it listens as well.
    pub fn socket(&self) -> PathBuf {
        self.folder.path("run/lmtp")
    }

    /// The Unix socket at which Postfix asks whose password is right.
    pub fn auth_socket(&self) -> PathBuf {
        self.folder.path("run/auth-client")
    }

    /// What is in a mailbox, in the order in which it came.
    pub fn mail(&self, user: &str) -> Vec<Vec<u8>> {
        self.folder.contents(format!("mail/{user}/new"))
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        self.folder.read("log")
    }
}

fn config(folder: &Path, address: SocketAddr) -> String {
    format!(
        "base_dir = {folder}/run\n\
         state_dir = {folder}/state\n\
         log_path = {folder}/log\n\
         default_internal_user = {USER}\n\
         default_internal_group = {USER}\n\
         default_login_user = {USER}\n\
         mail_uid = {USER}\n\
         mail_gid = {USER}\n\
         first_valid_uid = 1\n\
         first_valid_gid = 1\n\
         mail_location = maildir:{folder}/mail/%n\n\
         mail_plugins = quota\n\
         plugin {{\n  quota = maildir:User quota\n}}\n\
         protocols = lmtp\n\
         listen = {ip}\n\
         ssl = no\n\
         disable_plaintext_auth = no\n\
         auth_mechanisms = plain login\n\
         auth_username_format = %n\n\
         passdb {{\n  driver = passwd-file\n  args = {folder}/users\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = {folder}/users\n  default_fields = home={folder}/mail/%n\n}}\n\
         service lmtp {{\n  inet_listener lmtp {{\n    port = {port}\n  }}\n  unix_listener lmtp {{\n    mode = 0666\n  }}\n}}\n\
         service auth {{\n  unix_listener auth-client {{\n    mode = 0666\n  }}\n}}\n",
        folder = folder.display(),
        ip = address.ip(),
        port = address.port(),
    )
}
