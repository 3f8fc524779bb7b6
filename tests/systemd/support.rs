//! A booted machine in which mailrecv is installed as the README says, and clients in its network.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use testkit::debian::chown;
use testkit::{Broken, Client, LOOPBACK, Machine, repository, succeeds, wait_until};

/// The pairs of units that start it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pair {
    /// mailrecv.socket and mailrecv.service.
    OneService,
    /// mailrecv-percon.socket and mailrecv-percon@.service.
    PerConnection,
}

impl Pair {
    pub(crate) const ALL: [Self; 2] = [Self::OneService, Self::PerConnection];

    /// The socket's unit.
    pub(crate) fn socket(self) -> &'static str {
        match self {
            Self::OneService => "mailrecv.socket",
            Self::PerConnection => "mailrecv-percon.socket",
        }
    }

    /// The service's unit, or its template.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::OneService => SERVICE,
            Self::PerConnection => "mailrecv-percon@.service",
        }
    }
}

/// The service that serves all.
pub(crate) const SERVICE: &str = "mailrecv.service";

/// A machine with mailrecv in it.
pub(crate) struct Installation {
    pub(crate) machine: Machine,
}

impl Installation {
    /// Boots it with this configuration; the socket listens.
    pub(crate) fn boot(pair: Pair, config: &str) -> Self {
        Self::boot_with(pair, config, "")
    }

    /// The same, with settings of an administrator in the service's unit (`systemctl edit`).
    pub(crate) fn boot_with(pair: Pair, config: &str, settings: &str) -> Self {
        let machine = Machine::boot(|root| {
            install(root, config);
            let folder = root.join(UNITS).join(format!("{}.d", pair.service()));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("override.conf"), format!("[Service]\n{settings}\n")).unwrap();
        });
        machine.systemctl(&["start", pair.socket()]);
        Self { machine }
    }

    /// A file of the machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.machine.root().join(path.trim_start_matches('/'))
    }

    /// What is in a file of the machine; nothing if there is none.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Writes the configuration anew, as editors do: sessions go on with the file that they have read.
    pub(crate) fn configure(&self, config: &str) {
        self.write_over(CONFIGURATION, config);
    }

    /// Puts a file beside one of the machine, then in its place, with its mode.
    pub(crate) fn write_over(&self, path: &str, text: &str) {
        let path = self.path(path);
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::metadata(&path).unwrap().permissions()).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// A connection to port 25 at this address.
    pub(crate) fn connect(&self, address: IpAddr) -> Client {
        self.machine.in_its_network(|| Client::connect(SocketAddr::new(address, PORT)))
    }

    /// A connection from 127.0.0.`host`.
    pub(crate) fn peer(&self, host: u8) -> Client {
        let source = Ipv4Addr::new(127, 0, 0, host).into();
        self.machine.in_its_network(|| Client::connect_from(source, SocketAddr::new(LOOPBACK[0], PORT)))
    }

    /// One session with one mail to `append`, which has to be taken.
    #[track_caller]
    pub(crate) fn deliver(&self, subject: &str) {
        let mut peer = self.connect(LOOPBACK[0]);
        peer.expect("220 ");
        peer.deliver_subject("append@mail.example.com", subject);
        peer.exchange("QUIT", "221 ");
    }

    /// How often each subject is in the mailbox of `append`.
    pub(crate) fn subjects(&self) -> BTreeMap<String, usize> {
        let mut subjects = BTreeMap::new();
        for subject in self.read("/var/mail/append").lines().filter_map(|line| line.strip_prefix("Subject: ")) {
            *subjects.entry(subject.to_owned()).or_default() += 1;
        }
        subjects
    }

    /// The process of the service that serves all.
    pub(crate) fn main_process(&self) -> String {
        self.machine.property(SERVICE, "MainPID")
    }

    /// Waits until the journal has this.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, part: &str) {
        wait_until(&format!("`{part}` in the journal"), || self.machine.journal(&[]).contains(part).then_some(()));
    }

    /// Fails if a unit is failed, but for those that the machine itself has none of.
    #[track_caller]
    pub(crate) fn assert_nothing_failed(&self) {
        let failed = || self.machine.systemctl(&["list-units", "--failed", "--plain", "--no-legend", "mailrecv*"]);
        assert_eq!(failed(), "", "{}", self.machine.journal(&["--unit", "mailrecv*"]));
    }

    /// Has clients send mail to `append` while something is done, each mail with a subject of its own. It is given what they
    /// have seen until then.
    pub(crate) fn under_load(&self, clients: usize, deed: impl FnOnce(&Load) + Send) -> Seen {
        let load = Load { seen: Mutex::default(), is_over: AtomicBool::new(false) };
        self.machine.in_its_network(|| {
            thread::scope(|scope| {
                for client in 0..clients {
                    let load = &load;
                    scope.spawn(move || load.send(client));
                }
                // Also if the deed fails, or nobody would ever stop.
                let _end = EndOf(&load);
                deed(&load);
            });
        });
        load.seen.into_inner().unwrap()
    }
}

/// Clients at work.
pub(crate) struct Load {
    seen: Mutex<Seen>,
    is_over: AtomicBool,
}

/// What became of their connections.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Subjects of the mail that got its 250.
    pub(crate) taken: Vec<String>,
    /// Connections that were refused, or ended before a greeting.
    pub(crate) turned_away: Vec<String>,
    /// Replies that say no for now.
    pub(crate) put_off: Vec<String>,
    /// Sessions that broke off.
    pub(crate) broken: Vec<Broken>,
}

impl Load {
    /// Waits until so many more mails were taken.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: usize) {
        let taken = || self.seen.lock().unwrap().taken.len();
        let wanted = taken() + count;
        wait_until("more mail that is taken", || (taken() >= wanted).then_some(()));
    }

    /// One client: mail after mail, each as often as it takes.
    fn send(&self, client: usize) {
        for number in 0.. {
            let subject = format!("client {client} mail {number}");
            while !self.is_taken(&subject) {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }

    fn is_taken(&self, subject: &str) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return false;
        }
        let stream = match TcpStream::connect((LOOPBACK[0], PORT)) {
            Ok(stream) => stream,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                self.seen.lock().unwrap().turned_away.push(error.to_string());
                return false;
            }
        };
        let mut peer = Client::on_tcp(stream);
        let greeting = peer.try_reply();
        let seen = |result: &Result<String, Broken>, is_greeting: bool| {
            let mut seen = self.seen.lock().unwrap();
            match result {
                Ok(reply) if reply.starts_with('4') => seen.put_off.push(reply.clone()),
                Ok(_) => return true,
                Err(broken @ (Broken::Ended | Broken::Reset)) if is_greeting => {
                    seen.turned_away.push(broken.to_string());
                }
                Err(broken) => seen.broken.push(broken.clone()),
            }
            false
        };
        if !seen(&greeting, true) {
            return false;
        }
        let message = format!("Subject: {subject}\r\n\r\nHello.\r\n.");
        for line in ["HELO a", "MAIL FROM:<a@b.example>", "RCPT TO:<append@mail.example.com>", "DATA", &message] {
            if !seen(&peer.try_ask(line), false) {
                return false;
            }
        }
        self.seen.lock().unwrap().taken.push(subject.to_owned());
        // The mail is taken, whatever comes now.
        let _ = peer.try_ask("QUIT");
        true
    }
}

struct EndOf<'a>(&'a Load);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Puts the files where the README puts them.
pub(crate) fn install(root: &Path, config: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", env!("CARGO_BIN_EXE_mailrecv")]).arg(root.join("usr/sbin/mailrecv"));
    succeeds(install, "");
    for unit in fs::read_dir(repository::path("systemd-socket")).unwrap() {
        let unit = unit.unwrap().path();
        fs::copy(&unit, root.join(UNITS).join(unit.file_name().unwrap())).unwrap();
    }
    fs::write(root.join(CONFIGURATION.trim_start_matches('/')), config).unwrap();
    // Debian's is root's and the group's.
    chown(root.join("var/mail"), "mail:mail");
}

/// Mail to `append`, `maildir` and `pipe` goes there.
pub(crate) const CONFIG: &str = "domain mail.example.com\n\
    limit.fcrdns_check off\n\
    deny remotehost ^127\\.0\\.0\\.66$\n\
    deliver rcpt_to append@mail.example.com append /var/mail/append\n\
    deliver rcpt_to maildir@mail.example.com maildir /var/mail/maildir/\n\
    deliver rcpt_to pipe@mail.example.com pipe cat >> /var/mail/pipe\n";

/// That configuration with a line in front.
pub(crate) fn config_with(line: &str) -> String {
    format!("{line}\n{CONFIG}")
}

/// Where it stands.
pub(crate) const CONFIGURATION: &str = "/etc/mailrecv.conf";

/// Where the units are, below the root.
pub(crate) const UNITS: &str = "etc/systemd/system";

const PORT: u16 = 25;
