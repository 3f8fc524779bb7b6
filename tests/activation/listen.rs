//! `mailrecv listen`: the line that says it is ready, its caps, and how it stops.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64ct::{Base64, Encoding};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;
use testkit::daemon::free_port;
use testkit::process::children;
use testkit::tcp::is_listening;
use testkit::{Client, Daemon, LOOPBACK, PATIENCE, debian, is_root, network, output, wait_until};

use crate::support::receiver::{FRED, Receiver};
use crate::support::super_server::Listener;

/// However a password is kept, it can be tried within the narrowest sandbox, by a user who could not open the file.
#[test]
fn logins_in_a_strict_sandbox() {
    if !is_root("a file of accounts that only root can read") {
        return;
    }
    const ARGON2ID: &str =
        "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$uYQQtFzU847rVOhVuuSJYayEiaN9phiSarX38vUXOcY";
    const YESCRYPT: &str = "$y$j75$MNYM77NpbimzvLTR8.f3G/$mzpb2cikOP7fEPMQLEzrWmPkRZuCiarJw1zbnuvJ36D";
    const SHA_CRYPT: &str =
        "$6$abcdefgh$yIZAF3gQPvtKZO/9qOJKffAKKbtS3ef3qmwyugk4uWVjX8YZf/GV3A8SkFxEPY0T56CcilGrHKLffBsp6dLMG.";
    const SCRAM: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$\
        tSgetjYW5SQlNzIxJAKMryuDGH8Snw5oWcj1eOW0ZyI=:bbZ1dJMgYYaKKR1fU1oGHkWJzi9OQY4yU8Fuksa1t70=";
    let receiver = Receiver::new("");
    let accounts = receiver.write("accounts", format!("a:{ARGON2ID}\ny:{YESCRYPT}\ns:{SHA_CRYPT}\nfred:{SCRAM}\n"));
    std::fs::set_permissions(&accounts, PermissionsExt::from_mode(0o600)).unwrap();
    receiver.configure(&format!(
        "user {}\nsandbox strict required\nauth_plaintext on\nauth_file {}",
        debian::USER,
        accounts.display()
    ));
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    for name in ["a", "y", "s", "fred"] {
        for (password, reply) in [("correct horse", "235 2.7.0 "), ("correct horsf", "535 5.7.8 ")] {
            let mut peer = listener.peer(1);
            peer.expect("220 ");
            assert!(peer.exchange("EHLO client.example", "250-").contains("\n250-AUTH PLAIN LOGIN\n"));
            let plain = Base64::encode_string(format!("\0{name}\0{password}").as_bytes());
            peer.exchange(&format!("AUTH PLAIN {plain}"), reply);
            peer.deliver(&[FRED]);
            peer.exchange("QUIT", "221 ");
        }
    }
    // Where everybody has the keys, SCRAM is offered, and begins.
    receiver.write("accounts", format!("fred:{SCRAM}\n"));
    let mut peer = listener.peer(1);
    peer.expect("220 ");
    assert!(peer.exchange("EHLO client.example", "250-").contains("\n250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n"));
    peer.exchange("AUTH SCRAM-SHA-256 biwsbj1mcmVkLHI9eA==", "334 cj14");
    peer.exchange("*", "501 5.7.0 ");
    let log = receiver.read(receiver.log());
    assert!(!log.contains("WARNING"), "{log}");
}

#[test]
fn says_where_it_listens() {
    let receiver = Receiver::new("");
    let mut listener = Listener::start(&receiver, &["127.0.0.1:0", "[::1]:0"]);
    let [v4, v6] = listener.addresses[..] else { panic!("{}", listener.daemon.output()) };
    assert_eq!([v4.ip(), v6.ip()], LOOPBACK);
    assert!(v4.port() != 0 && v6.port() != 0, "{}", listener.daemon.output());
    for (address, subject) in [(v4, "four"), (v6, "six")] {
        let mut peer = Client::connect(address);
        peer.reply();
        peer.deliver_subject(FRED, subject);
        peer.exchange("QUIT", "221");
    }
    let mailbox = receiver.read(receiver.mailbox());
    assert!(mailbox.contains("\nSubject: four\n") && mailbox.contains("\nSubject: six\n"), "{mailbox}");
    assert_eq!(listener.daemon.output().lines().count(), 1, "{}", listener.daemon.output());
    listener.daemon.signal(Signal::SIGTERM);
    assert_eq!(listener.daemon.exit_code(), 0);
}

/// Addresses as people write them. What is none of these is told at the command line.
#[test]
fn addresses_in_every_spelling() {
    let receiver = Receiver::new("");
    for (spelling, hosts) in [
        (":0", &LOOPBACK[..]),
        ("*:0", &LOOPBACK),
        ("0", &LOOPBACK),
        ("[::]:0", &LOOPBACK),
        ("0.0.0.0:0", &LOOPBACK[..1]),
        ("localhost:0", &[]),
    ] {
        let listener = Listener::start(&receiver, &[spelling]);
        let port = listener.addresses[0].port();
        for host in hosts {
            assert!(Client::connect(SocketAddr::new(*host, port)).reply().starts_with("220 "), "{spelling}: {host}");
        }
    }
    for wrong in ["::1:0", "127.0.0.1", "127.0.0.1:smtp", "[127.0.0.1]:0", "127.0.0.1:65536", "a b:0"] {
        let mut command = receiver.command();
        command.args(["listen", wrong]);
        let output = output(command);
        assert_eq!(output.status.code(), Some(64), "{wrong}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(wrong), "{output:?}");
    }
}

/// IPv4 and IPv6 at the same port, in either order, and whatever the system's own idea is of sockets for both.
#[test]
fn both_families_at_one_port() {
    if !is_root("a network of a test's own") {
        return;
    }
    network::with_addresses(&[], || {
        let receiver = Receiver::new("");
        for only_ipv6 in ["0", "1"] {
            std::fs::write("/proc/sys/net/ipv6/bindv6only", only_ipv6).unwrap();
            for addresses in [&["0.0.0.0:2525", "[::]:2525"][..], &["[::]:2525", "0.0.0.0:2525"], &["2525"]] {
                let _listener = Listener::start(&receiver, addresses);
                for host in LOOPBACK {
                    let reply = Client::connect(SocketAddr::new(host, 2525)).reply();
                    assert!(reply.starts_with("220 "), "{only_ipv6} {addresses:?} {host}: {reply}");
                }
            }
        }
    });
}

/// A kernel that was started without IPv6.
#[test]
fn without_ipv6() {
    let receiver = Receiver::new("");
    let mut strace = debian::command("strace", "strace");
    let no_ipv6 = "--inject=socket:error=EAFNOSUPPORT:when=1";
    strace.args(["--quiet=all", "--output=/dev/null", "--trace=socket", no_ipv6]).arg(receiver.binary());
    strace.arg("-c").arg(receiver.config()).args(["listen", "0"]);
    let listener = Listener::of(&receiver, strace);
    assert!(listener.addresses[0].is_ipv4(), "{}", listener.daemon.output());
}

/// In a container that is nothing but the program and its configuration.
#[test]
fn without_proc() {
    if !is_root("another root") {
        return;
    }
    let receiver = Receiver::new("");
    let folder = receiver.path("");
    receiver.configure("");
    let config = receiver.read(receiver.config()).replace(&folder.display().to_string(), "/");
    let root = receiver.path("container");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("mailrecv.conf"), config).unwrap();
    std::fs::set_permissions(root.join("mailrecv.conf"), Permissions::from_mode(0o644)).unwrap();
    receiver.run("install", &["-m", "755", "mailrecv", "container/mailrecv"]);
    let mut chroot = std::process::Command::new("chroot");
    chroot.arg(&root).args(["/mailrecv", "-c", "/mailrecv.conf", "listen", "127.0.0.1:0"]);
    let listener = Listener::of(&receiver, chroot);
    let mut peer = listener.peer(1);
    peer.reply();
    peer.deliver_subject(FRED, "contained");
    assert!(receiver.read(root.join("fred")).contains("\nSubject: contained\n"));
}

/// As the first process of a container it is left with what commands leave behind.
#[test]
fn nothing_is_left_of_what_commands_left() {
    if !is_root("a process namespace") {
        return;
    }
    let receiver = Receiver::new("deliver rcpt_to robot@example.com pipe (setsid sleep 0.2 &) ; cat >/dev/null");
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(receiver.binary());
    unshare.arg("-c").arg(receiver.config()).args(["listen", "127.0.0.1:0"]);
    let listener = Listener::of(&receiver, unshare);
    let mut peer = listener.peer(1);
    peer.reply();
    for _ in 0..3 {
        peer.deliver(&["robot@example.com"]);
    }
    peer.exchange("QUIT", "221");
    assert_eq!(peer.rest(), "");
    let first = children(listener.daemon.pid()).trim().parse().map(Pid::from_raw).unwrap();
    wait_until("the end of all that was left", || children(first).is_empty().then_some(()));
}

/// Sessions now and until now, and who was turned away.
#[test]
fn says_how_it_is() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["--max-per-address", "1", "127.0.0.1:0"]);
    let mut gone = listener.peer(1);
    gone.reply();
    gone.exchange("QUIT", "221");
    gone.rest();
    let mut inside = listener.peer(2);
    inside.reply();
    assert_turned_away(&mut listener.peer(2));
    let line = "]: [listen] INFO: sessions now: 1, served: 2, turned away: 1\n";
    wait_until("the line", || {
        listener.daemon.signal(Signal::SIGUSR1);
        receiver.read(receiver.log()).contains(line).then_some(())
    });
    inside.exchange("NOOP", "250");
}

#[test]
fn cap_for_one_address() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["--max-per-address", "2", "127.0.0.1:0"]);
    let mut inside: Vec<Client> = (0..2).map(|_| listener.peer(1)).collect();
    for peer in &mut inside {
        assert!(peer.reply().starts_with("220 "));
    }
    assert_turned_away(&mut listener.peer(1));
    // The others are not concerned.
    assert!(listener.peer(2).reply().starts_with("220 "));
    for peer in &mut inside {
        peer.deliver_subject(FRED, "inside");
        peer.exchange("QUIT", "221");
        assert_eq!(peer.rest(), "");
    }
    wait_until("room for a new session", || listener.peer(1).reply().starts_with("220 ").then_some(()));
    let log = receiver.read(receiver.log());
    assert!(log.contains("]: [127.0.0.1] ERROR: 421 Too many connections"), "{log}");
}

#[test]
fn cap_for_all() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["--max-processes", "2", "127.0.0.1:0"]);
    let mut inside: Vec<Client> = (1..=2).map(|host| listener.peer(host)).collect();
    for peer in &mut inside {
        assert!(peer.reply().starts_with("220 "));
    }
    assert_turned_away(&mut listener.peer(3));
    for peer in &mut inside {
        peer.deliver_subject(FRED, "inside");
        peer.exchange("QUIT", "221");
    }
    wait_until("room for a new session", || listener.peer(3).reply().starts_with("220 ").then_some(()));
}

/// A peer that says nothing does not keep its place for long when half of them are taken.
#[test]
fn silence_is_short_when_places_are_scarce() {
    let receiver = Receiver::new("limit.greet_secs 36");
    let listener = Listener::start(&receiver, &["--max-processes", "3", "127.0.0.1:0"]);
    let mut silent: Vec<Client> = (1..=3).map(|host| listener.peer(host)).collect();
    for peer in &mut silent {
        assert!(peer.reply().starts_with("220 "));
    }
    assert!(silent[2].rest().starts_with("421 "));
    // These had come before.
    silent[..2].iter_mut().for_each(|peer| _ = peer.exchange("NOOP", "250"));
}

/// A peer that is not wanted is told so without being asked what it has to say, when half of the places are taken.
#[test]
fn who_is_refused_does_not_keep_a_scarce_place() {
    let receiver = Receiver::new("deny remotehost ^127\\.0\\.0\\.[23]$\n");
    let listener = Listener::start(&receiver, &["--max-processes", "2", "127.0.0.1:0"]);
    let mut refused_in_time = listener.peer(2);
    assert!(refused_in_time.reply().starts_with("220 "));
    let mut refused_at_once = listener.peer(3);
    let said = refused_at_once.rest();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        matches!(lines[..], [greeting, refusal] if greeting.starts_with("220 ") && refusal.starts_with("550 ")),
        "{said}"
    );
    // The same, but to the first command.
    let refusal = refused_in_time.ask("EHLO client.example");
    assert_eq!(refusal.replace("127.0.0.2", "127.0.0.3"), lines[1]);
    assert_eq!(refused_in_time.rest(), "");
}

/// A peer that the configuration allows something may have more than others, as long as half of the places are free; the
/// file is read as it is now.
#[test]
fn an_expected_peer_may_have_more() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["--max-processes", "6", "--max-per-address", "1", "127.0.0.1:0"]);
    let mut first = listener.peer(7);
    assert!(first.reply().starts_with("220 "));
    assert_turned_away(&mut listener.peer(7));
    receiver.configure("allowgroup +relays net 127.0.0.7\n");
    // What was written just now may not be whole yet.
    let greeted = |mut peer: Client| peer.reply().starts_with("220 ").then_some(peer);
    let second = wait_until("a look at the file", || greeted(listener.peer(7)));
    let third = greeted(listener.peer(7)).expect("a place");
    assert_turned_away(&mut listener.peer(7));
    assert!(listener.peer(8).reply().starts_with("220 "));
    receiver.configure("allowgroup +relays net 127.0.0.7\ndeny remotehost ^127\\.0\\.0\\.7$\n");
    drop([second, third]);
    wait_until("the end of sessions", || {
        (children(listener.daemon.pid()).split_whitespace().count() == 1).then_some(())
    });
    wait_until("a look at the file", || greeted(listener.peer(7)).is_none().then_some(()));
    assert_turned_away(&mut listener.peer(7));
}

#[test]
fn a_flood_leaves_the_sessions_inside_alone() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["--max-per-address", "1", "127.0.0.1:0"]);
    let mut inside = listener.peer(1);
    inside.reply();
    assert!(inside.offer("fred@example.com").starts_with("250"));
    let mut flood: Vec<Client> = (0..200).map(|_| listener.peer(1)).collect();
    flood.iter_mut().for_each(assert_turned_away);
    inside.exchange("DATA", "354");
    inside.exchange("Subject: flooded\r\n\r\nx\r\n.", "250");
    assert!(receiver.read(receiver.mailbox()).contains("\nSubject: flooded\n"));
}

#[test]
fn a_signal_lets_sessions_finish() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let receiver = Receiver::new("");
        let mut listener = Listener::start(&receiver, &["--grace", "3600", "127.0.0.1:0"]);
        let mut peer = listener.peer(1);
        peer.reply();
        assert!(peer.offer("fred@example.com").starts_with("250"));
        listener.daemon.signal(signal);
        wait_until("the end of listening", || (!is_listening(listener.addresses[0])).then_some(()));
        let refused = TcpStream::connect(listener.addresses[0]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        peer.exchange("DATA", "354");
        peer.exchange("Subject: last\r\n\r\nx\r\n.", "250");
        peer.exchange("QUIT", "221");
        // It does not wait when nobody is left.
        assert_eq!(listener.daemon.exit_code(), 0, "{signal}");
        assert!(receiver.read(receiver.mailbox()).contains("\nSubject: last\n"), "{signal}");
    }
}

/// As Ctrl-C on a terminal does it: the signal goes to the whole process group.
#[test]
fn a_signal_from_the_terminal_lets_sessions_finish() {
    let receiver = Receiver::new("");
    let mut listener = Listener::start(&receiver, &["--grace", "3600", "127.0.0.1:0"]);
    let mut peer = listener.peer(1);
    peer.reply();
    assert!(peer.offer("fred@example.com").starts_with("250"));
    listener.daemon.signal_group(Signal::SIGINT);
    wait_until("the end of listening", || (!is_listening(listener.addresses[0])).then_some(()));
    peer.exchange("DATA", "354");
    peer.exchange("Subject: last\r\n\r\nx\r\n.", "250");
    peer.exchange("QUIT", "221");
    assert_eq!(listener.daemon.exit_code(), 0);
}

/// Where somebody sits at it, Ctrl-C ends it, and so does the end of the terminal.
#[test]
fn a_terminal_ends_it() {
    const TYPIST: &str = r#"
import os, pty, signal, sys, time
for end in ['interrupt', 'hangup']:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.argv[1], sys.argv[1:])
    said = b''
    while b'listening on ' not in said:
        said += os.read(terminal, 4096)
    if end == 'interrupt':
        os.write(terminal, b'\x03')
    else:
        os.close(terminal)
    deadline = time.monotonic() + 120
    status = (0, 0)
    while status[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
        status = os.waitpid(pid, os.WNOHANG)
    if status[0] == 0:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)
    print(end, os.waitstatus_to_exitcode(status[1]))
"#;
    let receiver = Receiver::new("");
    let (binary, config) = (receiver.binary(), receiver.config());
    let arguments = [binary.to_str().unwrap(), "-c", config.to_str().unwrap(), "listen", "127.0.0.1:0"];
    assert_eq!(receiver.python(TYPIST, &arguments), "interrupt 0\nhangup 0\n");
}

#[test]
fn sessions_that_do_not_finish_are_ended() {
    let receiver = Receiver::new("");
    let mut listener = Listener::start(&receiver, &["--grace", "1", "127.0.0.1:0"]);
    let mut idle = listener.peer(1);
    let mut in_data = listener.peer(2);
    idle.reply();
    in_data.reply();
    assert!(in_data.offer("fred@example.com").starts_with("250"));
    in_data.exchange("DATA", "354");
    in_data.send("Subject: half a message\r\n");
    listener.daemon.signal(Signal::SIGTERM);
    for peer in [&mut idle, &mut in_data] {
        let last = peer.rest();
        assert!(last.starts_with("421 ") && last.lines().count() == 1, "{last}");
    }
    assert_eq!(listener.daemon.exit_code(), 0);
    assert_eq!(receiver.read(receiver.mailbox()), "");
}

#[test]
fn a_second_signal_ends_the_patience() {
    let receiver = Receiver::new("");
    let mut listener = Listener::start(&receiver, &["--grace", "60", "127.0.0.1:0"]);
    let mut idle = listener.peer(1);
    idle.reply();
    listener.daemon.signal(Signal::SIGINT);
    listener.daemon.until("patience", |said| said.contains("sessions to wait for: 1;").then_some(()));
    idle.exchange("NOOP", "250");
    listener.daemon.signal(Signal::SIGINT);
    assert!(idle.rest().starts_with("421 "));
    assert_eq!(listener.daemon.exit_code(), 0);
}

#[test]
fn what_it_cannot_begin_with() {
    let receiver = Receiver::new("");
    let occupant = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupant.local_addr().unwrap().to_string();
    let run = |address: &str| {
        let mut command = receiver.command();
        command.args(["listen", address]);
        output(command)
    };
    let output = run(&taken);
    assert_eq!(output.status.code(), Some(71));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&taken), "{output:?}");
    receiver.configure("delivr rcpt_to a@example.com discard");
    let output = run("127.0.0.1:0");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mailrecv.conf:6:1: error: "), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

/// What systemd passes: two sockets by their names, and an address that was given on top.
#[test]
fn takes_the_sockets_that_are_passed() {
    let receiver = Receiver::new("");
    let ports = [free_port(LOOPBACK[0]), free_port(LOOPBACK[1])];
    let mut daemon = activate(&receiver, &ports, &["--fdname=smtp:lan"], &["127.0.0.1:0"]);
    let mut peers: Vec<Client> = ports.iter().map(|port| Client::connect(*port)).collect();
    peers.iter_mut().for_each(|peer| assert!(peer.reply().starts_with("220 ")));
    let line = daemon.until("the ready line", |said| {
        said.lines().find_map(|line| line.strip_prefix("mailrecv: listening on ")).map(str::to_owned)
    });
    let [first, first_name, second, second_name, third] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{line}")
    };
    assert_eq!(
        [first, first_name, second, second_name],
        [&ports[0].to_string(), "(smtp)", &ports[1].to_string(), "(lan)"]
    );
    assert!(Client::connect(third.parse().unwrap()).reply().starts_with("220 "));
    // A session is given none of it.
    let sessions = children(daemon.pid());
    let session = sessions.split_whitespace().next().unwrap();
    let environment = std::fs::read(format!("/proc/{session}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("PATH=") && !environment.contains("LISTEN_"), "{environment}");
    // The sockets are whoever's that passed them, and stay open.
    daemon.signal(Signal::SIGTERM);
}

/// Peers come whether it listens or not, and are told.
#[test]
fn broken_configuration_behind_passed_sockets() {
    let receiver = Receiver::new("delivr rcpt_to a@example.com discard");
    let port = free_port(LOOPBACK[0]);
    let _daemon = activate(&receiver, &[port], &[], &[]);
    assert!(Client::connect(port).rest().starts_with("421 "));
    let log = receiver.read(receiver.log());
    assert!(log.contains("]: [listen] ERROR: ") && log.contains("mailrecv.conf:6:1: error: "), "{log}");
    receiver.configure("");
    let mut peer = Client::connect(port);
    peer.reply();
    peer.deliver_subject(FRED, "mended");
}

#[test]
fn sockets_that_are_no_use() {
    let receiver = Receiver::new("");
    for (options, word) in [(&["--accept"][..], "Accept=no"), (&["--datagram"], "ListenStream=")] {
        let port = free_port(LOOPBACK[0]);
        let mut daemon = activate(&receiver, &[port], options, &[]);
        match word {
            "Accept=no" => drop(Client::connect(port)),
            _ => _ = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", port).unwrap(),
        }
        daemon.until("what is wrong", |said| said.contains(word).then_some(()));
    }
}

/// One that is of no use does not keep the others from being served.
#[test]
fn a_socket_of_no_use_beside_a_good_one() {
    let receiver = Receiver::new("");
    let port = free_port(LOOPBACK[0]);
    let mut activate = debian::command("systemd", "systemd-socket-activate");
    activate.args(["-l", &port.to_string(), "sh", "-c", "LISTEN_FDS=2 exec \"$0\" \"$@\" 4</dev/null"]);
    activate.arg(receiver.binary()).arg("-c").arg(receiver.config()).arg("listen");
    let mut daemon = receiver.launch(activate);
    daemon.until("listening", |said| said.contains("Listening on ").then_some(()));
    assert!(Client::connect(port).reply().starts_with("220 "));
    daemon.until("what is wrong", |said| said.contains("its unit has to say ListenStream= with a port").then_some(()));
}

/// As LMTP has it; and what else a unit can make at a path.
#[test]
fn unix_sockets_that_are_passed() {
    let receiver = Receiver::new("");
    let path = receiver.path("socket");
    let word = |option: &str| match option {
        "" => " (lmtp)",
        "--accept" => "Accept=no",
        _ => "ListenStream=",
    };
    for option in ["", "--accept", "--datagram", "--seqpacket"] {
        let mut activate = debian::command("systemd", "systemd-socket-activate");
        activate.args(option.split_whitespace()).arg("-l").arg(&path);
        activate.args(if option == "--accept" { &[][..] } else { &["--fdname=lmtp"] });
        activate.arg(receiver.binary()).arg("-c").arg(receiver.config()).args(["--lmtp", "listen"]);
        let mut daemon = receiver.launch(activate);
        daemon.until("listening", |said| said.contains("Listening on ").then_some(()));
        match option {
            "" => assert!(Client::connect_unix(&path).reply().starts_with("220 ")),
            "--accept" => drop(UnixStream::connect(&path).unwrap()),
            "--datagram" => _ = UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap(),
            _ => {
                let kind = SockType::SeqPacket;
                let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
                connect(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
            }
        }
        daemon.until("what it makes of it", |said| said.contains(word(option)).then_some(()));
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
    }
}

/// What cannot be so, and what is about another process, as behind a shell that does not say `exec`, is no reason to listen
/// elsewhere.
#[test]
fn sockets_that_the_environment_is_wrong_about() {
    let receiver = Receiver::new("");
    let run = |environment: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("{environment} exec \"$0\" \"$@\"")]).arg(receiver.binary());
        shell.arg("-c").arg(receiver.config()).args(["listen", "127.0.0.1:0"]);
        shell
    };
    for (environment, word) in [
        ("LISTEN_PID=$$ LISTEN_FDS=one", "LISTEN_FDS=one in the environment is no number"),
        ("LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_FDS=-1 in"),
        ("LISTEN_PID=$$ LISTEN_FDS=1001", "LISTEN_FDS=1001 in"),
        ("LISTEN_FDS=18446744073709551616", "LISTEN_FDS=18446744073709551616 in"),
        ("LISTEN_FDS=$(printf '\\377')", "in the environment is no number"),
        ("LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_PID=1 in the environment: sockets were passed to that process"),
        ("LISTEN_PID=me LISTEN_FDS=1", "LISTEN_PID=me in"),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b", "socket 1 of those that systemd passed, `a`: "),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a", "socket 2 of those that systemd passed, ``: "),
    ] {
        let output = output(run(environment));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(71) && said.contains(word), "{environment}: {output:?}");
    }
    for environment in ["LISTEN_FDS= LISTEN_PID=1", "LISTEN_FDS=0 LISTEN_PID=1", "LISTEN_FDNAMES=a LISTEN_PID=1"] {
        let listener = Listener::of(&receiver, run(environment));
        assert!(listener.peer(1).reply().starts_with("220 "), "{environment}");
    }
}

/// A new binary, like a new configuration, holds from the next connection.
#[test]
fn a_new_binary_serves_the_next_connection() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    assert!(listener.peer(1).reply().starts_with("220 mail.example.com "));
    // As packages are installed: beside it, then over it.
    receiver.write("text", "#!/bin/sh\nprintf '220 another version\\r\\n'\n");
    receiver.run("install", &["-m", "755", "text", "new"]);
    std::fs::rename(receiver.path("new"), receiver.binary()).unwrap();
    assert_eq!(listener.peer(1).reply(), "220 another version");
    // Between two packages there may be none.
    std::fs::remove_file(receiver.binary()).unwrap();
    assert!(listener.peer(1).reply().starts_with("220 mail.example.com "));
}

/// A peer for which no process can be made is told so.
#[test]
fn no_process_for_a_session() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    let limit = |most: &str| {
        let pid = listener.daemon.pid().to_string();
        let mut prlimit = std::process::Command::new("prlimit");
        prlimit.arg(format!("--nofile={most}")).args(["--pid", &pid]);
        testkit::succeeds(prlimit, "");
    };
    // Enough to accept, not to start.
    limit("7:");
    assert!(listener.peer(1).rest().starts_with("421 4.3.5 "));
    limit("100:");
    wait_until("a session", || listener.peer(1).reply().starts_with("220 ").then_some(()));
    assert!(receiver.read(receiver.log()).contains("]: [listen] WARNING: cannot accept connections: "));
}

/// How long a file has to be left alone to count as written (`src/config/source.rs`).
const QUIET: Duration = Duration::from_millis(100);

/// How many peers in turn are told that they are too many: without anybody's help in a moment.
const TURNED_AWAY: u32 = 300;

/// Half of what that takes if each of them waits until nobody writes (`MOMENT` in `src/listen/configuration.rs`).
const HELD_UP: Duration = Duration::from_millis(200 * 300 / 2);

/// A configuration that somebody is always just writing, or that is no file at all, holds nobody up.
#[test]
fn a_configuration_that_is_waited_for_holds_nobody_up() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["--max-per-address", "1", "127.0.0.1:0"]);
    let mut inside = listener.peer(1);
    inside.reply();
    let config = receiver.config();
    let kept = receiver.path("kept");
    std::fs::copy(&config, &kept).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let file = File::options().append(true).open(&config).unwrap();
                file.set_modified(SystemTime::now()).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
        });
        let start = Instant::now();
        (0..TURNED_AWAY).for_each(|_| assert_turned_away(&mut listener.peer(1)));
        is_over.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < HELD_UP, "it took {:?}", start.elapsed());
    });
    std::fs::remove_file(&config).unwrap();
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_turned_away(&mut listener.peer(1));
    listener.daemon.signal(Signal::SIGHUP);
    assert_turned_away(&mut listener.peer(1));
    std::fs::rename(&kept, &config).unwrap();
    wait_until("a session", || listener.peer(2).reply().starts_with("220 ").then_some(()));
    inside.exchange("NOOP", "250");
}

/// What asks `listen` how it is ends no session that it is sent to as well. One that is killed is told of.
#[test]
fn signals_of_others_and_sessions_that_are_killed() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    let mut peer = listener.peer(1);
    peer.reply();
    let session = children(listener.daemon.pid()).trim().parse().map(Pid::from_raw).unwrap();
    peer.exchange("NOOP", "250");
    kill(session, Signal::SIGUSR1).unwrap();
    peer.exchange("NOOP", "250");
    kill(session, Signal::SIGKILL).unwrap();
    assert_eq!(peer.try_rest().unwrap_or_default(), b"");
    let line = "]: [127.0.0.1] WARNING: the session was killed by SIGKILL; ";
    wait_until("the line", || receiver.read(receiver.log()).contains(line).then_some(()));
}

/// A program that is a link is followed anew for each connection.
#[test]
fn a_link_to_the_program_is_followed_anew() {
    let receiver = Receiver::new("");
    std::fs::rename(receiver.binary(), receiver.path("one")).unwrap();
    std::os::unix::fs::symlink("one", receiver.binary()).unwrap();
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    assert!(listener.peer(1).reply().starts_with("220 mail.example.com "));
    receiver.write("text", "#!/bin/sh\nprintf '220 another version\\r\\n'\n");
    receiver.run("install", &["-m", "755", "text", "two"]);
    std::os::unix::fs::symlink("two", receiver.path("link")).unwrap();
    std::fs::rename(receiver.path("link"), receiver.binary()).unwrap();
    assert_eq!(listener.peer(1).reply(), "220 another version");
}

/// There is nothing to reload; what is wrong with the configuration is told.
#[test]
fn a_hangup_reloads_nothing() {
    let receiver = Receiver::new("");
    let listener = Listener::start(&receiver, &["127.0.0.1:0"]);
    let mut peer = listener.peer(1);
    peer.reply();
    receiver.configure("delivr rcpt_to a@example.com discard");
    listener.daemon.signal(Signal::SIGHUP);
    let line = "]: [listen] INFO: nothing to reload: each connection reads the configuration as it is then\n";
    wait_until("the line", || receiver.read(receiver.log()).contains(line).then_some(()));
    wait_until("the error", || receiver.read(receiver.log()).contains("mailrecv.conf:6:1: error: ").then_some(()));
    peer.exchange("NOOP", "250");
    assert!(listener.peer(1).rest().starts_with("421 "));
}

/// What stands in included files is seen when it changes, too: whom they allow something, and what is wrong with them.
#[test]
fn included_files_are_looked_at() {
    let receiver = Receiver::new("include peers.d/*.conf");
    std::fs::create_dir(receiver.path("peers.d")).unwrap();
    receiver.write("peers.d/a.conf", "# nobody yet\n");
    let listener = Listener::start(&receiver, &["--max-processes", "8", "--max-per-address", "1", "127.0.0.1:0"]);
    let mut inside = listener.peer(7);
    assert!(inside.reply().starts_with("220 "));
    assert_turned_away(&mut listener.peer(7));
    let greeted = |mut peer: Client| peer.reply().starts_with("220 ").then_some(peer);
    // Written in place.
    receiver.write("peers.d/a.conf", "allowgroup +relays net 127.0.0.7\n");
    let second = wait_until("a look at the edited file", || greeted(listener.peer(7)));
    // And one more.
    receiver.write("peers.d/b.conf", "deny remotehost net 127.0.0.7\n");
    wait_until("a look at the new file", || greeted(listener.peer(7)).is_none().then_some(()));
    std::fs::remove_file(receiver.path("peers.d/b.conf")).unwrap();
    let third = wait_until("a look at what is left", || greeted(listener.peer(7)));
    drop([second, third]);

    // A hangup right behind an edit tells what is wrong with that, and right behind its repair nothing.
    let errors = || receiver.read(receiver.log()).matches("peers.d/a.conf:1:1: error: ").count();
    let reloads = || receiver.read(receiver.log()).matches("nothing to reload").count();
    for (text, told) in [("alow\n", 1), ("# none\n", 1), ("alow\n", 2)] {
        let before = reloads();
        receiver.write("peers.d/a.conf", text);
        listener.daemon.signal(Signal::SIGHUP);
        wait_until("the line", || (reloads() > before && errors() >= told).then_some(()));
        assert_eq!(errors(), told, "{text}");
    }
    assert!(listener.peer(1).rest().starts_with("421 "));
    inside.exchange("NOOP", "250");
}

/// An included file that somebody is always just writing holds nobody up either, and counts as it was before.
#[test]
fn an_included_file_that_is_waited_for_holds_nobody_up() {
    let receiver = Receiver::new("include more.conf");
    let file = receiver.write("more.conf", "allowgroup +relays net 127.0.0.7\n");
    let listener = Listener::start(&receiver, &["--max-processes", "8", "--max-per-address", "1", "127.0.0.1:0"]);
    let mut inside: Vec<Client> = [1, 7].map(|host| listener.peer(host)).into();
    inside.iter_mut().for_each(|peer| assert!(peer.reply().starts_with("220 ")));
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let (mut written, mut longest_quiet) = (Instant::now(), Duration::ZERO);
            // Bounded, for when an assertion fails.
            while !is_over.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                receiver.write("more.conf", "# nobody\n");
                longest_quiet = longest_quiet.max(written.elapsed());
                written = Instant::now();
                thread::sleep(Duration::from_millis(10));
            }
            longest_quiet.max(written.elapsed())
        });
        thread::sleep(Duration::from_millis(50));
        (0..TURNED_AWAY).for_each(|_| assert_turned_away(&mut listener.peer(1)));
        assert!(start.elapsed() < HELD_UP, "it took {:?}", start.elapsed());
        // It gets a session, which waits for the file.
        let has_session = !listener.peer(7).reply().contains("Too many connections");
        is_over.store(true, Ordering::Relaxed);
        // What was left alone for a moment, because the machine is busy, counts as written.
        assert!(has_session || writing.join().unwrap() > QUIET * 8 / 10);
    });
    let is_unexpected = || listener.peer(7).reply().contains("Too many connections").then_some(());
    wait_until("a look at the file", is_unexpected);
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_turned_away(&mut listener.peer(1));
    std::fs::remove_file(&file).unwrap();
    receiver.write("more.conf", "# repaired\n");
    wait_until("a session", || listener.peer(2).reply().starts_with("220 ").then_some(()));
    for peer in &mut inside {
        peer.exchange("NOOP", "250");
    }
}

/// What systemd starts with these sockets, in its stand-in for a socket unit with Accept=no.
fn activate(receiver: &Receiver, ports: &[SocketAddr], options: &[&str], addresses: &[&str]) -> Daemon {
    let mut activate = debian::command("systemd", "systemd-socket-activate");
    activate.args(options);
    for port in ports {
        activate.args(["-l", &port.to_string()]);
    }
    activate.arg(receiver.binary()).arg("-c").arg(receiver.config()).arg("listen").args(addresses);
    let mut daemon = receiver.launch(activate);
    daemon.until("listening", |said| (said.matches("Listening on ").count() == ports.len()).then_some(()));
    daemon
}

fn assert_turned_away(peer: &mut Client) {
    let said = peer.rest();
    assert!(said.starts_with("421 4.7.0 ") && said.ends_with("\r\n") && said.lines().count() == 1, "{said}");
}
