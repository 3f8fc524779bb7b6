//! OpenSMTPD as a relay: a server with a queue that passes mail on to one other.

use std::net::SocketAddr;
use std::process::Command;

use crate::daemon::free_port;
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
        let (address, folder) = (free_port(LOOPBACK[0]), Folder::new());
        let mut smtpd = debian::laid_over(&["opensmtpd"], &folder);
        smtpd.args(["sh", "-c", START, "sh", &config(address, next)]);
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

fn config(address: SocketAddr, next: SocketAddr) -> String {
    format!(
        "listen on {} port {}\n\
         action onward relay host \"smtp://{next}\"\n\
         match from any for any action onward\n",
        address.ip(),
        address.port()
    )
}

/// With Debian's numbers of the users `mail` and `proxy` for those that its package makes.
const START: &str = "\
for user in opensmtpd:x:8:8 opensmtpq:x:13:13; do
    echo \"$user::/var/lib/opensmtpd/empty:/usr/sbin/nologin\" >>/etc/passwd
    echo \"${user%:*}:\" >>/etc/group
done
mkdir -p /var/lib/opensmtpd/empty
echo relay.example >/etc/mailname
echo \"$1\" >/etc/smtpd.conf
exec smtpd -d";
