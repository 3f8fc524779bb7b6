//! LMTP with the programs that speak it: Postfix and Exim, swaks, Python's smtplib; over TCP and at Unix sockets, which
//! `listen` makes or a super-server hands over.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use testkit::exim::Exim;
use testkit::postfix::Postfix;
use testkit::repository::{self, replaced};
use testkit::{Client, Process, debian, is_root, network, output, succeeds, wait_until};

use crate::support::receiver::{ACCOUNTS, FRED, Receiver};
use crate::support::super_server::Listener;

/// A `listen` at a free port and at a Unix socket, that speaks LMTP. Of five recipients it delivers for two, refuses
/// two, one by name and one by the exit status of a command, and puts one off.
struct Lmtp {
    // First, as the receiver's end waits for the end of all that it has started.
    listener: Listener,
    receiver: Receiver,
}

impl Lmtp {
    fn start() -> Self {
        let receiver = Receiver::new("");
        let mail = receiver.path("").display().to_string();
        receiver.configure(&format!(
            "protocol lmtp\n\
             debug +s\n\
             deliver rcpt_to wilma@example.com append {mail}/wilma\n\
             copy rcpt_to wilma@example.com append {mail}/copy\n\
             deliver rcpt_to gone@example.com pipe exit 67\n\
             deliver rcpt_to busy@example.com pipe exit 75\n\
             copy rcpt_to busy@example.com append {mail}/never\n"
        ));
        let unix = format!("unix:{mail}/socket");
        let listener = Listener::start(&receiver, &["--socket-mode", "666", "127.0.0.1:0", &unix]);
        Self { listener, receiver }
    }

    fn address(&self) -> SocketAddr {
        self.listener.addresses[0]
    }

    fn socket(&self) -> PathBuf {
        self.receiver.path("socket")
    }

    /// Who has a copy of the message with this subject, and how many times.
    fn copies(&self, subject: &str) -> Vec<(&'static str, usize)> {
        let line = format!("\nSubject: {subject}\n");
        let count =
            |name: &str| std::fs::read_to_string(self.receiver.path(name)).map_or(0, |it| it.matches(&line).count());
        ["fred", "wilma", "copy", "never"].map(|name| (name, count(name))).into()
    }

    fn assert_delivered_once(&self, subject: &str) {
        let copies = [("fred", 1), ("wilma", 1), ("copy", 1), ("never", 0)];
        assert_eq!(self.copies(subject), copies, "{subject}: {}", self.receiver.read(self.receiver.log()));
    }
}

/// To five recipients, and to nobody that they are all the same.
fn script(subject: &str) -> String {
    let recipients: String = RECIPIENTS.iter().map(|name| format!("RCPT TO:<{name}@example.com>\r\n")).collect();
    format!(
        "EHLO client.example\r\nMAIL FROM:<sender@mydomain.com>\r\n{recipients}DATA\r\n\
         Subject: {subject}\r\n\r\ntext\r\n.\r\nQUIT\r\n"
    )
}

const RECIPIENTS: [&str; 5] = ["fred", "gone", "nobody", "busy", "wilma"];

#[test]
fn postfix_learns_of_each_recipient() {
    let lmtp = Lmtp::start();
    // Mail for users of a machine is of users that are nobody's but this one's, where rules name them.
    std::fs::set_permissions(lmtp.receiver.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    // For domains with mailboxes as the manual has it, at the socket.
    let manual = repository::page_example("etc/man/mailrecv.8", "mailbox_transport = ");
    for (subject, transport) in [
        ("tcp", format!("default_transport = lmtp:inet:127.0.0.1:{}\n", lmtp.address().port())),
        ("unix", format!("virtual_mailbox_domains = example.com\n{manual}")),
    ] {
        let settings = format!(
            "{transport}relayhost =\nbounce_queue_lifetime = 0\n\
             lmtp_destination_recipient_limit = 50\nnotify_classes =\nsmtputf8_enable = no\n"
        );
        let postfix = Postfix::start(lmtp.address(), &settings);
        let socket = format!("unix:{}", postfix.queue("private/mailrecv").display());
        let _listener = Listener::start(&lmtp.receiver, &["--socket-mode", "666", &socket]);
        let replies = postfix.submit(&script(subject));
        assert!(replies.contains("\r\n250 2.0.0 Ok: queued"), "{replies}");
        // The one who is put off waits, and so does the notice about the two who are refused: to its sender, who is not
        // one of ours.
        let log = wait(|| {
            let log = postfix.log();
            RECIPIENTS.iter().all(|name| log.contains(&format!("to=<{name}@example.com>"))).then_some(log)
        });
        for (name, status) in
            [("fred", "sent"), ("wilma", "sent"), ("gone", "bounced"), ("nobody", "bounced"), ("busy", "deferred")]
        {
            let line = log.lines().find(|line| line.contains(&format!("to=<{name}@example.com>"))).unwrap();
            assert!(line.contains(&format!("status={status} ")), "{line}");
            assert!(line.contains("/lmtp["), "{line}");
        }
        lmtp.assert_delivered_once(subject);
    }
    let log = lmtp.receiver.read(lmtp.receiver.log());
    assert!(log.contains("[127.0.0.1] Mail id=") && log.contains("[local:"), "{log}");
}

/// At a Unix socket and over TCP, where each recipient has a reply of its own.
#[test]
fn a_peer_logs_in() {
    let lmtp = Lmtp::start();
    let accounts = lmtp.receiver.write("accounts", ACCOUNTS).display().to_string();
    let folder = lmtp.receiver.path("").display().to_string();
    lmtp.receiver.configure(&format!(
        "protocol lmtp\nauth_file {accounts}\nauth_plaintext on\nallowgroup +users auth ^tim$\n\
         deliver allowgroup +users rcpt_to far@example.com pipe env >{folder}/environment"
    ));
    for mut peer in [Client::connect(lmtp.address()), Client::connect_unix(lmtp.socket())] {
        peer.expect("220 ");
        peer.exchange("AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm", "503 Bad sequence of commands -- missing LHLO");
        let hello = peer.exchange("LHLO client.example", "250-");
        assert!(hello.contains("\n250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n"), "{hello}");
        peer.exchange("AUTH PLAIN AHRpbQB4", "535 5.7.8 ");
        peer.exchange("AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm", "235 2.7.0 ");
        for line in ["MAIL FROM:<a@b.example>", "RCPT TO:<far@example.com>", &format!("RCPT TO:<{FRED}>")] {
            peer.exchange(line, "250 ");
        }
        peer.exchange("DATA", "354 ");
        peer.exchange("Subject: hello\r\n.", "250 ");
        peer.expect("250 ");
        peer.exchange("QUIT", "221 ");
        let environment = lmtp.receiver.read("environment");
        for variable in ["AUTH_USER=tim", "CLIENT_PROTOCOL=LMTPA"] {
            assert!(environment.lines().any(|line| line == variable), "{environment}");
        }
        std::fs::remove_file(lmtp.receiver.path("environment")).unwrap();
    }
    assert_eq!(lmtp.receiver.read("fred").matches(" with LMTPA id ").count(), 2);
    let log = lmtp.receiver.read(lmtp.receiver.log());
    for peer in ["127.0.0.1".to_owned(), format!("local:{}", nix::unistd::geteuid())] {
        assert!(
            log.contains(&format!("[{peer}] ERROR: 535 Authentication failed: wrong name or password 'tim'\n")),
            "{log}"
        );
    }
}

#[test]
fn exim_learns_of_each_recipient() {
    let lmtp = Lmtp::start();
    std::fs::set_permissions(lmtp.receiver.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let (port, socket) = (lmtp.address().port(), lmtp.socket());
    let manual = repository::page_example("etc/man/mailrecv.8", "begin transports");
    let (_, of_manual) = manual.split_once("begin transports\nmailrecv:\n").expect("the transport");
    let socket = format!("socket = {}", socket.display());
    let of_manual = replaced(of_manual, &[("socket = /run/mailrecv/lmtp", &socket), ("Debian-exim", "mail")]);
    for (subject, transport) in [
        ("tcp", format!("driver = smtp\n  protocol = lmtp\n  port = {port}\n  hosts_override")),
        ("unix", of_manual.trim().to_owned()),
    ] {
        let exim = Exim::with_transport(&transport);
        let replies = exim.submit(&script(subject));
        assert!(replies.contains("\r\n250 OK id="), "{replies}");
        let log = exim.try_queue();
        for (name, sign) in [("fred", "=>"), ("wilma", "->"), ("gone", "**"), ("nobody", "**"), ("busy", "==")] {
            let line = log.lines().find(|line| line.contains(&format!(" {sign} {name}@example.com")));
            assert!(line.is_some(), "{name} {sign}: {log}");
        }
        lmtp.assert_delivered_once(subject);
        // Who is put off is tried again, and nobody else.
        exim.try_queue();
        lmtp.assert_delivered_once(subject);
    }
}

#[test]
fn swaks_and_python_deliver() {
    let lmtp = Lmtp::start();
    let (port, socket) = (lmtp.address().port().to_string(), lmtp.socket().display().to_string());
    for (subject, place) in [
        ("swaks-tcp", ["--server", "127.0.0.1", "--port", &port]),
        ("swaks-unix", ["--socket", &socket, "--timeout", "180"]),
    ] {
        let mut swaks = debian::command("swaks", "swaks");
        swaks.args(["--protocol", "LMTP", "--from", "a@b.example", "--to", "fred@example.com,wilma@example.com"]);
        swaks.args(place).args(["--header", &format!("Subject: {subject}")]);
        let said = succeeds(swaks, "");
        assert_eq!(said.matches("250 2.0.0 Message accepted").count(), 2, "{said}");
        lmtp.assert_delivered_once(subject);
    }
    for (subject, place) in [("python-tcp", format!("'127.0.0.1', {port}")), ("python-unix", format!("'{socket}'"))] {
        let recipients = RECIPIENTS.map(|name| format!("'{name}@example.com'")).join(", ");
        let mut python = debian::command("python3", "python3");
        // Its `sendmail` reads one reply for all.
        let program = format!(
            "import smtplib\n\
             lmtp = smtplib.LMTP({place})\n\
             lmtp.ehlo_or_helo_if_needed()\n\
             codes = [lmtp.mail('a@b.example')[0]] + [lmtp.rcpt(name)[0] for name in [{recipients}]]\n\
             codes.append(lmtp.data('Subject: {subject}\\r\\n\\r\\ntext\\r\\n')[0])\n\
             codes += [lmtp.getreply()[0] for more in range(3)]\n\
             print(codes, lmtp.quit()[0])\n"
        );
        python.args(["-c", &program]);
        let said = succeeds(python, "");
        assert_eq!(said.trim_end(), "[250, 250, 250, 550, 250, 250, 250, 550, 451, 250] 221", "{subject}");
        lmtp.assert_delivered_once(subject);
    }
}

/// The socket has the mode and the group that were asked for, and is there as long as somebody listens.
#[test]
fn a_unix_socket_of_our_own() {
    let receiver = Receiver::new("protocol lmtp");
    let path = receiver.path("socket");
    let arguments = [format!("unix:{}", path.display())];
    let start = |options: &[&str]| Listener::start(&receiver, &[options, &[&arguments[0]]].concat());
    // What somebody left behind, who was killed.
    drop(UnixListener::bind(&path).unwrap());
    let mut listener = start(&[]);
    let metadata = path.metadata().unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    assert_eq!(listener.daemon.output(), format!("mailrecv: listening on {}\n", arguments[0]));
    deliver_to_fred(&path, "LHLO");
    // A second one finds the first, and leaves it alone.
    let mut second = receiver.command();
    second.args(["listen", &arguments[0]]);
    let second = output(second);
    assert_eq!(second.status.code(), Some(71));
    assert_eq!(
        String::from_utf8_lossy(&second.stderr),
        format!("mailrecv: cannot listen on {}: somebody listens there already\n", arguments[0])
    );
    deliver_to_fred(&path, "LHLO");
    listener.daemon.signal(Signal::SIGTERM);
    assert_eq!(listener.daemon.exit_code(), 0);
    assert!(!path.exists());
    // Whatever else has the name.
    for make in [|path: &Path| std::fs::write(path, "x").unwrap(), |path: &Path| symlink("nowhere", path).unwrap()] {
        make(&path);
        let mut command = receiver.command();
        command.args(["listen", &arguments[0]]);
        let refused = output(command);
        assert_eq!(refused.status.code(), Some(71));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("something that is no socket has this name"), "{said}");
        assert!(path.symlink_metadata().is_ok());
        std::fs::remove_file(&path).unwrap();
    }
    if is_root("a group of our choice") {
        // Debian's number of `mail`.
        let _listener = start(&["--socket-mode", "620", "--socket-group", "mail"]);
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o620, 8));
    }
    for wrong in [&["--socket-mode", "999"][..], &["--socket-group", "no such group"], &["unix:socket"]] {
        let mut command = receiver.command();
        command.arg("listen").args(wrong);
        assert_eq!(output(command).status.code(), Some(64), "{wrong:?}");
    }
}

/// SMTP at a Unix socket, and one that the super-server has made: systemd's way for one service, and for a service for
/// each connection.
#[test]
fn a_unix_socket_that_is_handed_over() {
    for (is_service, options) in [(true, &[][..]), (false, &["--accept", "--inetd"])] {
        let receiver = Receiver::new("allow remotehost ^local$");
        let path = receiver.path("handed-over");
        let mut activate = debian::command("systemd", "systemd-socket-activate");
        activate.args(options).arg("-l").arg(&path).arg(receiver.binary()).arg("-c").arg(receiver.config());
        if is_service {
            activate.arg("listen");
        }
        let mut daemon = receiver.launch(activate);
        daemon.until("listening", |said| said.contains("Listening on ").then_some(()));
        deliver_to_fred(&path, "EHLO");
        let mailbox = receiver.read(receiver.mailbox());
        assert!(mailbox.contains(&format!("(local user {})\n", nix::unistd::geteuid())), "{mailbox}");
        assert!(mailbox.contains(" with ESMTP id "), "{mailbox}");
        daemon.signal(Signal::SIGTERM);
        let _ = daemon.exit_code();
    }
}

/// What socat puts between a peer from anywhere and what it starts.
#[test]
fn a_pair_of_sockets_is_nobody() {
    let receiver = Receiver::new("");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = receiver.command();
    let theirs = OwnedFd::from(theirs);
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs);
    let mut process = Process::start(command);
    assert_eq!(Client::on(ours).line(), None);
    assert_eq!(process.exit_code(), 64);
    let log = receiver.read(receiver.log());
    assert!(log.contains("[unknown] WARNING: standard input is no connection to a port or a Unix socket: "), "{log}");
}

/// All places, and no more: what bounds strangers does not bound users of this host.
#[test]
fn users_of_this_host_may_have_all_places() {
    let receiver = Receiver::new("");
    let path = receiver.path("socket");
    let address = format!("unix:{}", path.display());
    let _listener = Listener::start(&receiver, &["--max-processes", "4", "--max-per-address", "1", &address]);
    let mut peers: Vec<Client> = (0..4).map(|_| Client::connect_unix(&path)).collect();
    for peer in &mut peers {
        assert!(peer.reply().starts_with("220 "));
    }
    assert_eq!(Client::connect_unix(&path).reply(), "421 4.7.0 Too many connections, try again later");
    let log = wait(|| Some(receiver.read(receiver.log())).filter(|log| log.contains("Too many connections")));
    let uid = nix::unistd::geteuid();
    let line = format!(
        "[local:{uid}] ERROR: 421 Too many connections, try again later (4 sessions, 4 with users of this host)\n"
    );
    assert!(log.contains(&line), "{log}");
}

/// RFC 2033, section 5.
#[test]
fn lmtp_is_not_for_port_25() {
    let receiver = Receiver::new("");
    for arguments in
        [&["--lmtp", "listen"][..], &["--lmtp", "listen", "127.0.0.1:25"], &["listen", "--lmtp", "[::1]:25"]]
    {
        let mut command = receiver.command();
        command.args(arguments);
        let refused = output(command);
        assert_eq!(refused.status.code(), Some(71), "{arguments:?}");
        assert_eq!(
            String::from_utf8_lossy(&refused.stderr),
            "mailrecv: LMTP is not for port 25, which is SMTP's (RFC 2033, section 5): name another place, \
             `unix:/run/mailrecv/lmtp` say\n"
        );
    }
    if !is_root("port 25 in a network of a test's own") {
        return;
    }
    network::with_addresses(&[], || {
        // The protocol was changed while `listen` was running.
        let listener = Listener::start(&receiver, &["127.0.0.1:25", "127.0.0.1:26"]);
        let address = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        assert!(Client::connect(address(25)).reply().starts_with("220 mail.example.com ESMTP"));
        receiver.configure("protocol lmtp");
        assert_eq!(
            Client::connect(address(25)).rest(),
            "421 4.3.5 Cannot receive messages at this time, try again later\r\n"
        );
        let log = receiver.read(receiver.log());
        assert!(
            log.ends_with(
                "[127.0.0.1] ERROR: 421 Cannot receive messages at this time, try again later \
                 (LMTP is not for port 25, which is SMTP's (RFC 2033, section 5))\n"
            ),
            "{log}"
        );
        assert!(Client::connect(address(26)).reply().starts_with("220 mail.example.com LMTP"));
        drop(listener);
    });
}

fn deliver_to_fred(path: &Path, hello: &str) {
    let mut peer = Client::connect_unix(path);
    assert!(peer.reply().starts_with("220 "));
    peer.exchange(&format!("{hello} client.example"), "250-");
    peer.exchange("MAIL FROM:<a@b.example>", "250 ");
    peer.exchange(&format!("RCPT TO:<{FRED}>"), "250 ");
    peer.exchange("DATA", "354 ");
    peer.exchange("Subject: local\r\n\r\ntext\r\n.", "250 ");
    peer.exchange("QUIT", "221 ");
}

fn wait<T>(condition: impl FnMut() -> Option<T>) -> T {
    wait_until("what was to come", condition)
}
