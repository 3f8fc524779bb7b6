//! The sink: its port is open only while the unit runs that it is named after, in whatever way that ends; what it shows
//! is in the journal, line by line; and its limits.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;

use testkit::{Client, Daemon, Folder, LOOPBACK, Machine, repository, wait_until};

use crate::support::{UNITS, install};

/// Stopped, killed, or ended by itself, well or not; and again, as often as somebody starts it.
#[test]
fn the_port_is_open_only_while_the_tunnel_runs() {
    let machine = boot(|root| tunnel(root, TUNNEL, ""));
    machine.systemctl(&["enable", "mailrecv-sink@tunnel.socket"]);
    assert!(!is_open(&machine), "before there was a tunnel");
    for (number, ending) in ENDINGS.into_iter().enumerate() {
        machine.systemctl(&["start", TUNNEL]);
        wait_until("the port", || is_open(&machine).then_some(()));
        // The service that holds the port as well has begun, and a session that does not end by itself.
        let mut peer = machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[number % 2], 25)));
        peer.reply();
        peer.deliver_subject("anybody@example.com", &format!("shown {number}"));
        machine.systemctl(&[ending, &[TUNNEL]].concat());
        wait_until("the end of the port", || (!is_open(&machine)).then_some(()));
        drop(peer);
        wait_until("the end of the tunnel", || {
            ["inactive", "failed"].contains(&machine.property(TUNNEL, "ActiveState").as_str()).then_some(())
        });
        wait_until("the end of the service", || {
            (machine.property("mailrecv-sink@tunnel.service", "ActiveState") == "inactive").then_some(())
        });
        assert!(!is_open(&machine), "{ending:?}");
        let shown = machine.journal(&SHOWN);
        assert!(shown.contains(&format!("| Subject: shown {number}\n")), "{shown}");
    }
}

/// A tunnel that is started anew, by somebody or by systemd, is not there until it has started.
#[test]
fn the_port_is_closed_until_the_tunnel_has_started_again() {
    let machine = boot(|root| tunnel(root, TUNNEL, "Restart=always\nRestartSec=0\n"));
    machine.systemctl(&["enable", "mailrecv-sink@tunnel.socket"]);
    machine.systemctl(&["start", TUNNEL]);
    let restarted = &["restart", "--no-block"][..];
    for ending in [restarted].into_iter().chain(ENDINGS.into_iter().skip(1)) {
        wait_until("the port", || is_open(&machine).then_some(()));
        // Its new start takes until this file is there again.
        machine.run("rm", &["/run/tunnel"]);
        machine.systemctl(&[ending, &[TUNNEL]].concat());
        wait_until("the end of the port", || (!is_open(&machine)).then_some(()));
        wait_until(&format!("a new start after {ending:?}"), || {
            (machine.property(TUNNEL, "SubState") == "start-pre").then_some(())
        });
        assert!(!is_open(&machine), "{ending:?}");
        machine.run("touch", &["/run/tunnel"]);
    }
    wait_until("the port", || is_open(&machine).then_some(()));
    machine.systemctl(&["stop", TUNNEL]);
    wait_until("the end of the port", || (!is_open(&machine)).then_some(()));
}

/// A tunnel whose program is not there, whose preparation fails, or that says too late that it is there, has never been there.
#[test]
fn a_tunnel_that_does_not_start_opens_no_port() {
    const SOCKET: &str = "mailrecv-sink@tunnel.socket";
    let never = |service: &str| format!("[Service]\n{service}\n");
    let machine = boot(|root| {
        for (number, service) in [
            "Type=exec\nExecStart=/no/such/program",
            "Type=exec\nExecStartPre=/bin/false\nExecStart=/bin/sleep 1d",
            "Type=notify\nTimeoutStartSec=1\nExecStart=/bin/sleep 1d",
            "Type=forking\nExecStart=/bin/false",
            "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/false",
        ]
        .into_iter()
        .enumerate()
        {
            fs::write(root.join(format!("etc/tunnel{number}")), never(service)).unwrap();
        }
    });
    for number in 0..5 {
        machine.run("cp", &[&format!("/etc/tunnel{number}"), &format!("/{UNITS}/{TUNNEL}")]);
        machine.systemctl(&["daemon-reload"]);
        machine.systemctl(&["enable", SOCKET]);
        for started in [TUNNEL, SOCKET] {
            let (said, has_started) = machine.try_run("systemctl", &["start", started]);
            assert!(!has_started, "{number}: {started}: {said}");
            assert!(!is_open(&machine), "{number}: {started}");
        }
        assert_eq!(machine.property(TUNNEL, "ActiveState"), "failed", "{number}");
        assert_eq!(machine.property(SOCKET, "ActiveEnterTimestampMonotonic"), "0", "{number}");
        machine.systemctl(&["reset-failed"]);
    }
}

/// As long as the tunnel is there: whatever becomes of who serves, peers wait until there is another.
#[test]
fn the_port_stays_open_when_the_server_is_killed() {
    const SERVICE: &str = "mailrecv-sink@tunnel.service";
    let machine = boot(|root| tunnel(root, TUNNEL, ""));
    machine.systemctl(&["start", "mailrecv-sink@tunnel.socket"]);
    for number in 0..7 {
        let mut peer = machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[number % 2], 25)));
        peer.expect("220 ");
        assert_eq!(machine.property(TUNNEL, "ActiveState"), "active");
        let served = machine.property(SERVICE, "MainPID");
        machine.systemctl(&["kill", "--signal=KILL", SERVICE]);
        wait_until("the end of the server", || (machine.property(SERVICE, "MainPID") != served).then_some(()));
        assert!(is_open(&machine), "{number}");
    }
    machine.systemctl(&["stop", TUNNEL]);
    wait_until("the end of the port", || (!is_open(&machine)).then_some(()));
}

/// A tunnel that starts with the machine: the socket is no reason for systemd to leave anything out.
#[test]
fn the_port_is_open_after_a_boot() {
    let machine = boot(|root| {
        tunnel(root, TUNNEL, "");
        wanted(root, "multi-user.target", TUNNEL);
        wanted(root, TUNNEL, "mailrecv-sink@tunnel.socket");
        fs::write(root.join("etc/tmpfiles.d/tunnel.conf"), "f /run/tunnel\n").unwrap();
    });
    wait_until("the port", || is_open(&machine).then_some(()));
    let console = machine.console();
    assert!(!console.contains("ordering cycle"), "{console}");
    assert_eq!(machine.property("sockets.target", "ActiveState"), "active");
}

/// Whatever the tunnel's unit is called; and each of several keeps the port open.
#[test]
fn tunnels_of_any_name_share_the_port() {
    const TUNNELS: [&str; 3] = ["my-tunnel.service", "wg-quick@wg0.service", "transient.service"];
    let machine = boot(|root| {
        tunnel(root, TUNNELS[0], "");
        tunnel(root, "wg-quick@.service", "");
    });
    machine.systemctl(&["enable", "mailrecv-sink@my-tunnel.socket"]);
    machine.systemctl(&["enable", "mailrecv-sink@wg-quick@wg0.socket", "mailrecv-sink@transient.socket"]);
    machine.systemctl(&["start", TUNNELS[0], TUNNELS[1]]);
    machine.run("systemd-run", &["--unit=transient", "--collect", "sleep", "1d"]);
    for stopped in TUNNELS {
        wait_until("the port", || is_open(&machine).then_some(()));
        machine.systemctl(&["stop", stopped]);
    }
    wait_until("the end of the port", || (!is_open(&machine)).then_some(()));
}

/// As somebody follows it: nothing is said twice, and nothing that came acts on a terminal.
#[test]
fn the_journal_reads_well() {
    let machine = boot(|root| tunnel(root, TUNNEL, ""));
    machine.systemctl(&["start", "mailrecv-sink@tunnel.socket"]);
    let mut peer = machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[0], 25)));
    peer.expect("220 ");
    let folder = Folder::new();
    let mut follow = machine.command("journalctl");
    follow.args(["--follow", "--lines=all", "--no-pager", "--unit=mailrecv-sink@*"]);
    let mut follow = Daemon::start(follow, folder.path("followed"));
    peer.offer("anybody@example.com");
    peer.exchange("DATA", "354 ");
    let message =
        "From: Me <me@example.com>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nOne.\r\n\r\n\x1b[31mTwo.\r\n.";
    peer.exchange(message, "250 ");
    peer.exchange("NONSENSE", "500 ");
    let last = "[127.0.0.1] ERROR: 500 Unknown command 'NONSENSE'";
    let followed = follow.until("the last line", |said| said.contains(last).then(|| said.to_owned()));
    let (beginnings, lines): (BTreeSet<&str>, Vec<&str>) = followed
        .lines()
        .filter_map(|line| line.split_once("]: "))
        .filter(|(_, line)| line.starts_with(['|', '[']))
        .unzip();
    let [beginning] = beginnings.into_iter().collect::<Vec<_>>()[..] else { panic!("{followed}") };
    assert!(beginning.contains(" vm mailrecv-sink["), "{followed}");
    let expected = [
        "| === NEW EMAIL ===",
        "| Envelope sender: <sender@client.example>",
        "| Envelope recipients: <anybody@example.com>",
        "| Peer: 127.0.0.1 (localhost)",
        "| Size: 86 bytes",
        "| Id: ",
        "| From: Me <me@example.com>",
        "| To: (none)",
        "| Subject: Grüße",
        "| Date: (none)",
        "|",
        "| One.",
        "|",
        "| <0x1b><0x5b>31mTwo.",
        "| ========================================",
        last,
    ];
    assert_eq!(lines.len(), expected.len(), "{followed}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(*line == expected || expected == "| Id: " && line.starts_with(expected), "{line}: {followed}");
    }
    // What is wrong is found by how urgent it is.
    let errors = machine.journal(&["--output=cat", "--identifier=mailrecv-sink", "--priority=err"]);
    assert_eq!(errors, format!("{last}\n"));
}

/// Each line is an entry of its own, whoever sends at the same time; and none is left out because there are many.
#[test]
fn the_journal_has_every_line() {
    let machine = boot(|root| {
        tunnel(root, TUNNEL, "");
        // By default it is more, and depends on the disk.
        fs::create_dir_all(root.join("etc/systemd/journald.conf.d")).unwrap();
        fs::write(root.join("etc/systemd/journald.conf.d/few.conf"), "[Journal]\nRateLimitBurst=100\n").unwrap();
    });
    machine.systemctl(&["start", "mailrecv-sink@tunnel.socket"]);
    machine.in_its_network(|| {
        std::thread::scope(|scope| {
            for peer in 1..=PEERS {
                scope.spawn(move || {
                    let source = Ipv4Addr::new(127, 0, 0, peer).into();
                    let mut client = Client::connect_from(source, SocketAddr::new(LOOPBACK[0], 25));
                    client.expect("220 ");
                    for mail in 0..MAILS {
                        client.offer("anybody@example.com");
                        client.exchange("DATA", "354 ");
                        let lines = (0..LINES).map(|line| format!("peer {peer} mail {mail} line {line}\r\n"));
                        client.exchange(&format!("Subject: many\r\n\r\n{}.", lines.collect::<String>()), "250 ");
                    }
                });
            }
        });
    });
    let shown = machine.journal(&SHOWN);
    for peer in 1..=PEERS {
        let found: Vec<&str> = shown
            .lines()
            .filter_map(|line| line.split_once(&format!("| peer {peer} ")))
            .map(|(_, rest)| rest)
            .collect();
        let expected: Vec<String> =
            (0..MAILS).flat_map(|mail| (0..LINES).map(move |line| format!("mail {mail} line {line}"))).collect();
        assert!(found == expected, "of peer {peer} there are {} lines", found.len());
    }
    assert!(!shown.contains('\x1b'), "{shown}");
}

/// What is said of the whole server holds for the whole server: its sessions are in the service's control group.
#[test]
fn the_limits_are_those_of_the_server() {
    const SERVICE: &str = "mailrecv-sink@tunnel.service";
    let machine = boot(|root| tunnel(root, TUNNEL, ""));
    machine.systemctl(&["start", "mailrecv-sink@tunnel.socket"]);
    let mut peers: Vec<Client> =
        LOOPBACK.map(|address| machine.in_its_network(|| Client::connect(SocketAddr::new(address, 25)))).into();
    peers.iter_mut().for_each(|peer| _ = peer.expect("220 "));
    assert_eq!(machine.property(SERVICE, "MemoryMax"), (512 * 1024 * 1024).to_string());
    assert_eq!(machine.property(SERVICE, "CPUQuotaPerSecUSec"), "500ms");
    let status = machine.systemctl(&["status", SERVICE]);
    assert_eq!(status.matches("mailrecv -c /etc/mailrecv-sink.conf\n").count(), peers.len(), "{status}");
    machine.run("systemd-analyze", &["security", "--no-pager", "--threshold=12", SERVICE]);
}

/// A machine with the sink and its configuration.
fn boot(prepare: impl FnOnce(&Path)) -> Machine {
    let machine = Machine::boot(|root| {
        install(root, "");
        fs::copy(repository::path("etc/mailrecv-sink.conf"), root.join("etc/mailrecv-sink.conf")).unwrap();
        prepare(root);
    });
    machine.run("touch", &["/run/tunnel"]);
    machine
}

/// An administrator's unit, with these settings.
fn tunnel(root: &Path, unit: &str, settings: &str) {
    let text = format!(
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\n{settings}\
         ExecStartPre=/bin/sh -c 'until [ -e /run/tunnel ]; do sleep 0.1; done'\n\
         ExecStart=/bin/sh -c 'trap \"exit 0\" USR1; trap \"exit 1\" USR2; while :; do sleep 0.1; done'\n"
    );
    fs::write(root.join(UNITS).join(unit), text).unwrap();
}

/// What `systemctl enable` does for a unit that is wanted by another.
fn wanted(root: &Path, by: &str, unit: &str) {
    let folder = root.join(UNITS).join(format!("{by}.wants"));
    fs::create_dir_all(&folder).unwrap();
    let template = if unit.contains('@') { "mailrecv-sink@.socket" } else { unit };
    symlink(format!("/{UNITS}/{template}"), folder.join(unit)).unwrap();
}

fn is_open(machine: &Machine) -> bool {
    let port = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25);
    machine.in_its_network(|| TcpStream::connect(port).is_ok())
}

const TUNNEL: &str = "tunnel.service";

/// How it may end: somebody stops it; it is killed, or ends by itself, well or not.
const ENDINGS: [&[&str]; 5] = [
    &["stop"],
    &["kill", "--signal=KILL"],
    &["kill", "--signal=ABRT"],
    &["kill", "--signal=USR1"],
    &["kill", "--signal=USR2"],
];

/// What was shown, with the options that the unit's comment has.
const SHOWN: [&str; 2] = ["--output=cat", "--identifier=mailrecv-sink"];

const PEERS: u8 = 3;

/// Far more lines than that.
const MAILS: usize = 5;
const LINES: usize = 150;
