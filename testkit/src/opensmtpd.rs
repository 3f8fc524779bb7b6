//! OpenSMTPD as a relay, a server with a queue that passes mail on to one other; and as the server where mail ends.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::unistd::Pid;

use crate::daemon::free_port;
use crate::debian::{USER, chown};
use crate::postfix::FINAL_DOMAIN;
use crate::tcp::is_listening;
use crate::{Daemon, Folder, LOOPBACK, debian, wait_until};

/// A running OpenSMTPD, which sees files of its own.
pub struct OpenSmtpd {
    address: SocketAddr,
    // Before the folder, as it is stopped by then.
    smtpd: Daemon,
    _folder: Folder,
}

impl OpenSmtpd {
    /// Starts one that passes mail on to this server.
    pub fn start(next: SocketAddr) -> Self {
        Self::start_with(
            Folder::new(),
            "",
            &format!("action onward relay host \"smtp://{next}\"\nmatch from any for any action onward"),
        )
    }

    /// Starts one with a maildir for anybody at [`FINAL_DOMAIN`].
    pub fn receiving() -> Self {
        let folder = Folder::new();
        let mail = folder.path("mail");
        fs::create_dir(&mail).unwrap();
        // Whoever delivers, as another user, has to get in.
        fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        chown(&mail, USER);
        let action = format!("action keep maildir \"{}/kept\" virtual <keepers>", mail.display());
        Self::start_with(
            folder,
            &format!("table keepers {{ \"@\" = \"{USER}\" }}\n"),
            &format!("{action}\nmatch from any for domain \"{FINAL_DOMAIN}\" action keep"),
        )
    }

    fn start_with(folder: Folder, tables: &str, actions: &str) -> Self {
        let address = free_port(LOOPBACK[0]);
        let config = format!("{tables}listen on {} port {}\n{actions}", address.ip(), address.port());
        let queue = folder.path("queue");
        fs::create_dir(&queue).unwrap();
        let mut smtpd = debian::laid_over(&["opensmtpd"], &folder);
        smtpd.args(["sh", "-c", START, "sh", &config]).arg(queue);
        let mut smtpd = Daemon::start(smtpd, folder.path("smtpd.out"));
        smtpd.until("listening", |_| is_listening(address).then_some(()));
        Self { address, smtpd, _folder: folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it try again at once whatever it has put off.
    pub fn run_queue(&self) {
        let mut smtpctl = Command::new("nsenter");
        smtpctl.args(["--mount", "--target", &self.smtpd.pid().to_string()]);
        // Its package gives it this group; a file that is unpacked has lost it.
        smtpctl.args(["setpriv", "--regid", "opensmtpq", "--clear-groups", "smtpctl", "schedule", "all"]);
        let output = smtpctl.output().expect("starting nsenter");
        assert!(output.status.success(), "{output:?}");
    }

    /// The process that all others are descendants of.
    pub fn pid(&self) -> Pid {
        self.smtpd.pid()
    }

    /// Waits until everything is passed on.
    pub fn until_queue_is_empty(&self) {
        wait_until("an empty queue", || {
            let log = self.log();
            let count = |what: &str| log.matches(what).count();
            // What tells the sender of a failure is a message as well, which comes in later.
            let is_told = !log.contains("result=\"PermFail\"") || log.contains(" from=<> to=");
            (is_told && count(" smtp envelope evpid=") == count(" mta delivery evpid=")).then_some(())
        });
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        self.smtpd.output()
    }
}

/// With Debian's numbers of the users `mail` and `proxy` for those that its package makes, and a queue that is on a disk. It
/// asks about the name of each peer; no name server is to hear of that, or to be waited for.
const START: &str = "\
for user in opensmtpd:x:8:8 opensmtpq:x:13:13; do
    echo \"$user::/var/lib/opensmtpd/empty:/usr/sbin/nologin\" >>/etc/passwd
    echo \"${user%:*}:\" >>/etc/group
done
mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd
chmod 711 \"$2\"
mount --bind \"$2\" /var/spool/smtpd
echo relay.example >/etc/mailname
rm -f /etc/resolv.conf
echo lookup file >/etc/resolv.conf
echo \"$1\" >/etc/smtpd.conf
exec smtpd -d";
