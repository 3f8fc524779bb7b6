//! Postfix as a relay, a server with a queue that passes mail on to one other; and as the server where mail ends.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::daemon::free_port;
use crate::debian::{USER, chown};
use crate::tcp::is_listening;
use crate::{Client, Daemon, Folder, LOOPBACK, debian, wait_until};

/// A running Postfix with folders of its own.
pub struct Postfix {
    address: SocketAddr,
    // Before the folder, as it is stopped by then.
    master: Daemon,
    folder: Folder,
}

impl Postfix {
    /// Starts one that passes mail on to this server; `settings` are further lines of main.cf(5).
    pub fn start(next: SocketAddr, settings: &str) -> Self {
        Self::start_with(&format!("relayhost = [{}]:{}\n{settings}", next.ip(), next.port()), "")
    }

    /// Starts one with maildirs of [`RECEIVERS`]; `services` are further lines of master(5).
    pub fn receiving(settings: &str, services: &str) -> Self {
        let mailboxes = RECEIVERS.map(|name| format!("{{{name}@{FINAL_DOMAIN} = {name}/}}")).join(", ");
        Self::start_with(
            &format!(
                "virtual_mailbox_domains = {FINAL_DOMAIN}\n\
                 virtual_mailbox_maps = inline:{{ {mailboxes} }}\n\
                 virtual_mailbox_base = $queue_directory/mail\n\
                 virtual_minimum_uid = 1\n\
                 virtual_uid_maps = static:8\n\
                 virtual_gid_maps = static:8\n\
                 smtpd_relay_restrictions = reject_unauth_destination\n\
                 mynetworks =\n\
                 local_header_rewrite_clients =\n\
                 {settings}"
            ),
            services,
        )
    }

    fn start_with(settings: &str, services: &str) -> Self {
        let (root, address, folder) = (debian::root("postfix"), free_port(LOOPBACK[0]), Folder::new());
        // Its processes, which run as another user, have to get in.
        fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        make_queue(&folder.path("queue"));
        for name in ["config", "data"] {
            fs::create_dir(folder.path(name)).unwrap();
        }
        chown(folder.path("data"), USER);
        folder.write("config/main.cf", main_cf(&root, &folder.path("")) + settings);
        // They are started in this order, so that all of them listen when the last one does.
        folder.write("config/master.cf", format!("{services}{}", master_cf(address)));
        let mut master = debian::postfix("master");
        master.arg("-d").arg("-c").arg(folder.path("config"));
        let mut master = Daemon::start(master, folder.path("master.out"));
        master.until("listening", |_| is_listening(address).then_some(()));
        Self { address, master, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that all others are descendants of.
    pub fn pid(&self) -> Pid {
        self.master.pid()
    }

    /// What is in the mailbox of one of [`RECEIVERS`], in the order in which it came.
    pub fn mail(&self, name: &str) -> Vec<Vec<u8>> {
        self.folder.contents(format!("queue/mail/{name}/new"))
    }

    /// A place below its queue directory, which is all that its LMTP client sees, as on Debian.
    pub fn queue(&self, name: &str) -> PathBuf {
        self.folder.path(format!("queue/{name}"))
    }

    /// Holds a session with it; its replies.
    pub fn submit(&self, script: &str) -> String {
        Client::connect(self.address).converse(script)
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path("log")).unwrap_or_default()
    }

    /// Waits until everything is passed on.
    pub fn until_queue_is_empty(&self) {
        let waiting = || -> usize {
            ["incoming", "active", "deferred"].iter().map(|name| self.folder.count_files(format!("queue/{name}"))).sum()
        };
        wait_until("an empty queue", || (waiting() == 0).then_some(()));
    }
}

/// The folders that `postfix start` would make.
fn make_queue(queue: &Path) {
    fs::create_dir_all(queue.join("pid")).unwrap();
    for name in
        ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"]
    {
        fs::create_dir(queue.join(name)).unwrap();
        chown(queue.join(name), USER);
    }
    fs::create_dir(queue.join("mail")).unwrap();
    chown(queue.join("mail"), format!("{USER}:{USER}"));
    for name in ["maildrop", "public"] {
        fs::create_dir(queue.join(name)).unwrap();
        chown(queue.join(name), format!("{USER}:{POSTDROP}"));
    }
}

fn main_cf(root: &Path, folder: &Path) -> String {
    format!(
        "compatibility_level = 3.6\n\
         queue_directory = {folder}/queue\n\
         data_directory = {folder}/data\n\
         meta_directory = {folder}/config\n\
         maillog_file = {folder}/log\n\
         maillog_file_prefixes = /\n\
         daemon_directory = {root}/usr/lib/postfix/sbin\n\
         command_directory = {root}/usr/sbin\n\
         shlib_directory = {root}/usr/lib/postfix\n\
         mail_owner = {USER}\n\
         setgid_group = {POSTDROP}\n\
         import_environment = LD_LIBRARY_PATH MAIL_CONFIG POSTLOG_SERVICE POSTLOG_HOSTNAME\n\
         export_environment = LD_LIBRARY_PATH MAIL_CONFIG POSTLOG_SERVICE POSTLOG_HOSTNAME\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         myhostname = relay.example\n\
         mydestination =\n\
         alias_maps =\n\
         local_recipient_maps =\n\
         mynetworks = 127.0.0.0/8\n\
         smtpd_relay_restrictions = permit_mynetworks, reject\n\
         smtpd_peername_lookup = no\n\
         disable_dns_lookups = yes\n\
         smtp_host_lookup = native\n\
         smtp_connection_cache_on_demand = no\n",
        root = root.display(),
        folder = folder.display(),
    )
}

fn master_cf(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - - smtpd\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         smtp unix - - n - - smtp\n\
         lmtp unix - - y - - lmtp\n\
         virtual unix - n n - - virtual\n\
         error unix - - n - - error\n\
         flush unix n - n 1000? 0 flush\n\
         retry unix - - n - - error\n\
         anvil unix - - n - 1 anvil\n\
         proxymap unix - - n - - proxymap\n\
         showq unix n - n - - showq\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}

/// Whose mail one takes that is the last.
pub const RECEIVERS: [&str; 3] = ["fred", "wilma", "barney"];

/// The domain of [`RECEIVERS`].
pub const FINAL_DOMAIN: &str = "final.example";

/// A group that nobody is in, on every Debian: Postfix wants one of its own.
const POSTDROP: &str = "news";
