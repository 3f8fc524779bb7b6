//! The sink's port is open only while the unit runs that it is named after, in whatever way that ends.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use testkit::{Client, LOOPBACK, Machine, repository, wait_until};

use crate::support::install;

#[test]
fn the_port_is_open_only_while_the_tunnel_runs() {
    let machine = Machine::boot(|root| {
        install(root, "");
        fs::copy(repository::path("etc/mailrecv-sink.conf"), root.join("etc/mailrecv-sink.conf")).unwrap();
        fs::write(root.join("etc/systemd/system/tunnel.service"), TUNNEL).unwrap();
    });
    machine.systemctl(&["enable", "mailrecv-sink@tunnel.socket"]);
    assert!(!is_open(&machine), "before there was a tunnel");
    for (number, ending) in [
        &["systemctl", "stop", "tunnel.service"][..],
        &["systemctl", "kill", "--signal=KILL", "tunnel.service"],
        &["systemctl", "kill", "--signal=ABRT", "tunnel.service"],
        // It ends by itself, well or not.
        &["systemctl", "kill", "--signal=USR1", "tunnel.service"],
        &["systemctl", "kill", "--signal=USR2", "tunnel.service"],
    ]
    .into_iter()
    .enumerate()
    {
        machine.systemctl(&["start", "tunnel.service"]);
        wait_until("the port", || is_open(&machine).then_some(()));
        // The service that holds the port as well has begun, and a session that does not end by itself.
        let address = SocketAddr::new(LOOPBACK[number % 2], 25);
        let mut peer = machine.in_its_network(|| Client::connect(address));
        peer.reply();
        peer.deliver_subject("anybody@example.com", &format!("shown {number}"));
        machine.run(ending[0], &ending[1..]);
        wait_until("the end of the port", || (!is_open(&machine)).then_some(()));
        drop(peer);
        wait_until("the end of the tunnel", || {
            let state = machine.property("tunnel.service", "ActiveState");
            ["inactive", "failed"].contains(&state.as_str()).then_some(())
        });
        let shown = machine.journal(&["--output=cat", "--unit=mailrecv-sink@tunnel.service"]);
        assert!(shown.contains(&format!("| Subject: shown {number}\n")), "{shown}");
    }
    // A new start of the tunnel opens it again.
    machine.systemctl(&["start", "tunnel.service"]);
    machine.systemctl(&["restart", "tunnel.service"]);
    wait_until("the port after a restart", || is_open(&machine).then_some(()));
}

fn is_open(machine: &Machine) -> bool {
    let port = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25);
    machine.in_its_network(|| TcpStream::connect(port).is_ok())
}

const TUNNEL: &str = "[Service]\n\
    Type=exec\n\
    ExecStart=/bin/sh -c 'trap \"exit 0\" USR1; trap \"exit 1\" USR2; while :; do sleep 0.1; done'\n";
