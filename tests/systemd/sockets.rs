//! Sockets that an administrator adds, and tasks that run short.

use std::fs;
use std::net::SocketAddr;

use testkit::{Client, LOOPBACK, Machine, wait_until};

use crate::support::{CONFIG, Installation, Pair, SERVICE, UNITS};

/// A second socket with a name of its own, for the same service.
#[test]
fn several_sockets() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    let machine = &installation.machine;
    let unit = format!("[Socket]\nListenStream=[::1]:2525\nFileDescriptorName=lan\nService={SERVICE}\n");
    fs::write(installation.path(UNITS).join("mailrecv-lan.socket"), unit).unwrap();
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["start", "mailrecv-lan.socket"]);
    let lan = SocketAddr::new(LOOPBACK[1], 2525);
    // Whoever comes first starts it, and both are there after a restart.
    for round in ["first", "restarted"] {
        let mut peer = machine.in_its_network(|| Client::connect(lan));
        peer.expect("220 ");
        peer.deliver_subject("append@mail.example.com", &format!("lan {round}"));
        peer.exchange("QUIT", "221 ");
        installation.deliver(&format!("smtp {round}"));
        machine.systemctl(&["restart", SERVICE]);
    }
    assert_eq!(installation.subjects().len(), 4);
    let journal = machine.journal(&["--output=cat"]);
    let ready: Vec<&str> = journal.lines().filter(|line| line.starts_with("mailrecv: listening on ")).collect();
    assert_eq!(ready.len(), 3, "{journal}");
    for line in ready {
        assert!(line.contains(" [::]:25 (mailrecv.socket)") && line.contains(" [::1]:2525 (lan)"), "{line}");
    }
    assert!(machine.systemctl(&["status", SERVICE]).contains("Status: \"Accepting connections\""));
}

/// Of all that a unit can listen at, what is of use is served, and the journal has a word about the rest.
#[test]
fn sockets_of_every_kind() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    let machine = &installation.machine;
    let unit = format!(
        "[Socket]\nService={SERVICE}\nListenStream=/srv/smtp\nListenStream=127.0.0.1:2525\n\
         ListenDatagram=127.0.0.1:2526\nListenDatagram=/run/mailrecv/datagram\n\
         ListenSequentialPacket=/run/mailrecv/packet\nListenFIFO=/run/mailrecv/fifo\n"
    );
    fs::write(installation.path(UNITS).join("mailrecv-all.socket"), unit).unwrap();
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["start", "mailrecv-all.socket"]);
    installation.deliver("port 25");
    let mut peers = [
        machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[0], 2525))),
        Client::connect_unix(installation.path("/srv/smtp")),
    ];
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.expect("220 ");
        peer.deliver_subject("append@mail.example.com", &format!("further {number}"));
    }
    assert_eq!(installation.subjects().len(), 3);
    let journal = machine.journal(&["--output=cat"]);
    let told = journal.lines().filter(|line| {
        line.contains(
            " of those that systemd passed, `mailrecv-all.socket`: its unit has to say ListenStream= with a port",
        )
    });
    assert_eq!(told.count(), 4, "{journal}");
}

/// A unit with Accept=yes, which starts a session for each connection, is not one for `listen`.
#[test]
fn a_connection_given_to_listen() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    let machine = &installation.machine;
    let write = |unit: &str, text: &str| fs::write(installation.path(UNITS).join(unit), text).unwrap();
    write("wrong.socket", "[Socket]\nListenStream=127.0.0.1:2525\nAccept=yes\n");
    write("wrong@.service", "[Service]\nExecStart=/usr/sbin/mailrecv listen\n");
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["start", "wrong.socket"]);
    let mut peer = machine.in_its_network(|| Client::connect(SocketAddr::new(LOOPBACK[0], 2525)));
    assert_eq!(peer.rest(), "");
    installation.wait_for_line("it is a connection, and its unit has to say Accept=no");
}

/// A peer for whose session the unit allows no process is told so.
#[test]
fn no_task_for_a_session() {
    // Where a container is not given the controller that counts tasks, only the second of these is enforced, which does
    // the same to whoever starts a process.
    let installation = Installation::boot_with(Pair::OneService, CONFIG, "TasksMax=4\nLimitNPROC=4");
    let mut inside = Vec::new();
    let told = wait_until("the last task", || {
        let mut peer = installation.connect(LOOPBACK[0]);
        let told = peer.reply();
        inside.push(peer);
        (!told.starts_with("220 ")).then_some(told)
    });
    assert_eq!(told, "421 4.3.5 Cannot receive messages at this time, try again later");
    installation.wait_for_line("[listen] WARNING: cannot accept connections: ");
    inside.clear();
    wait_until("a task", || installation.connect(LOOPBACK[0]).reply().starts_with("220 ").then_some(()));
    assert_is_active(&installation.machine);
}

fn assert_is_active(machine: &Machine) {
    assert_eq!(machine.property(SERVICE, "ActiveState"), "active");
}

/// The pairs are for the same port, and each takes the other's place.
#[test]
fn the_pairs_take_turns() {
    let installation = Installation::boot(Pair::OneService, CONFIG);
    installation.deliver("one");
    for (number, pair) in [Pair::PerConnection, Pair::OneService, Pair::PerConnection].into_iter().enumerate() {
        installation.machine.systemctl(&["start", pair.socket()]);
        assert_eq!(installation.machine.property(pair.socket(), "ActiveState"), "active", "{number}");
        installation.deliver(&format!("turn {number}"));
    }
    installation.assert_nothing_failed();
}
