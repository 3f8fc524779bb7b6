//! The Debian package and the image for containers, made by their commands and used as a stranger would. They build the
//! program as it is installed, so this takes a minute: `tests/run --test packages -- --ignored`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test may panic, and is nobody's interface"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use testkit::daemon::free_port;
use testkit::process::succeeds_within;
use testkit::{Client, Daemon, Folder, LOOPBACK, Machine, debian, repository, succeeds, wait_until};

/// Installed it starts nothing; it delivers, is upgraded while mail comes in, and purged it leaves nothing but the mail.
#[test]
#[ignore = "builds a package"]
fn the_debian_package_comes_and_goes() {
    let folder = Folder::new();
    let packages = ["0.1.0-1", "0.1.0-2"].map(|version| package(&folder, version));
    let mut lintian = debian::command("lintian", "lintian");
    lintian.args(["--fail-on", "error,warning", "--allow-root"]).arg(&packages[0]);
    assert_eq!(succeeds(lintian, ""), "");

    let machine = Machine::boot(|root| {
        for (number, package) in packages.iter().enumerate() {
            fs::copy(package, root.join(format!("root/{number}.deb"))).unwrap();
        }
    });
    let files = || -> BTreeSet<String> { machine.run("find", &LISTED).lines().map(str::to_owned).collect() };
    let before = files();
    machine.run("dpkg", &["--install", "/root/0.deb"]);
    for unit in ["mailrecv.socket", "mailrecv.service", "mailrecv-percon.socket", "mailrecv-submission.socket"] {
        assert_eq!(machine.property(unit, "ActiveState"), "inactive", "{unit}");
    }
    machine.run("mailrecv", &["check"]);
    let units = ["mailrecv.service", "mailrecv-percon.socket", "mailrecv-submission.service"];
    machine.run("systemd-analyze", &[&["verify", "--man=no"], &units[..]].concat());

    let config = "domain mail.example.com\nlimit.fcrdns_check off\n\
        deliver rcpt_to fred@mail.example.com append /var/mail/fred\n";
    fs::write(machine.root().join("etc/mailrecv.conf"), config).unwrap();
    machine.systemctl(&["enable", "--now", "mailrecv.socket"]);
    let connect = || machine.in_its_network(|| Client::connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25)));
    let deliver = |subject| {
        let mut peer = connect();
        peer.reply();
        peer.deliver_subject("fred@mail.example.com", subject);
    };
    deliver("before the upgrade");
    machine.run("dpkg", &["--install", "/root/1.deb"]);
    assert_eq!(fs::read_to_string(machine.root().join("etc/mailrecv.conf")).unwrap(), config);
    assert_eq!(machine.property("mailrecv.socket", "ActiveState"), "active");
    deliver("after the upgrade");

    machine.systemctl(&["disable", "--now", "mailrecv.socket"]);
    fs::write(machine.root().join("etc/systemd/system/tunnel.service"), "[Service]\nExecStart=/bin/sleep 1d\n")
        .unwrap();
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["enable", "mailrecv-submission.socket", "mailrecv-submissions.socket"]);
    machine.systemctl(&["start", "mailrecv-submission.socket"]);
    machine.systemctl(&["enable", "--now", "mailrecv-sink@tunnel.socket"]);
    assert!(connect().reply().starts_with("220 "));
    machine.run("dpkg", &["--remove", "mailrecv"]);
    let closed =
        machine.in_its_network(|| TcpStream::connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25)).is_err());
    assert!(closed, "somebody still listens");
    assert_eq!(machine.property("mailrecv.socket", "ActiveState"), "inactive");
    assert!(machine.root().join("etc/mailrecv.conf").exists());
    machine.run("dpkg", &["--purge", "mailrecv"]);
    let mail = fs::read_to_string(machine.root().join("var/mail/fred")).unwrap();
    for subject in ["before the upgrade", "after the upgrade"] {
        assert!(mail.contains(&format!("\nSubject: {subject}\n")), "{mail}");
    }
    for file in ["var/mail/fred", "etc/systemd/system/tunnel.service"] {
        fs::remove_file(machine.root().join(file)).unwrap();
    }
    let after = files();
    let left: Vec<&String> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a package may have left. What dpkg notes of packages, and the log of that, is its own.
const LISTED: [&str; 18] = [
    "/etc",
    "/lib",
    "/usr",
    "/var",
    "-xdev",
    "-not",
    "-type",
    "d",
    "-not",
    "-path",
    "*/var/lib/dpkg/*",
    "-not",
    "-path",
    "*/var/log/*",
    "-not",
    "-path",
    "*/var/cache/*",
    "-print",
];

fn package(folder: &Folder, version: &str) -> PathBuf {
    let file = folder.path(format!("{version}.deb"));
    let mut make = Command::new(repository::path("packaging/deb"));
    make.args(["--deb-version", version, "--output"]).arg(&file);
    succeeds_within(make, "", Duration::from_mins(10));
    file
}

/// With nothing but the image's files, and a configuration of one's own.
#[test]
#[ignore = "builds an image"]
fn the_image_needs_nothing_else() {
    let folder = Folder::new();
    let layout = folder.path("image");
    let mut make = Command::new(repository::path("packaging/image"));
    make.arg(&layout);
    succeeds_within(make, "", Duration::from_mins(10));
    let mut unpack = debian::command("umoci", "umoci");
    unpack.arg("unpack").arg("--image").arg(format!("{}:latest", layout.display())).arg(folder.path("bundle"));
    succeeds(unpack, "");
    let root = folder.path("bundle/rootfs");
    fs::write(
        root.join("etc/mailrecv.conf"),
        "domain mail.example.com\nlogfile stderr\nlimit.fcrdns_check off\n\
         deliver rcpt_to fred@mail.example.com append /var/mail/fred\n",
    )
    .unwrap();
    let port = free_port(LOOPBACK[0]);
    let mut chroot = Command::new("chroot");
    chroot.args(["--userspec=mail:mail"]).arg(&root).args(["/usr/sbin/mailrecv", "listen", &port.to_string()]);
    let mut daemon = Daemon::start(chroot, folder.path("said"));
    daemon.until("the ready line", |said| said.contains("listening on").then_some(()));
    let mut peer = Client::connect(port);
    peer.reply();
    peer.deliver_subject("fred@mail.example.com", "contained");
    peer.exchange("QUIT", "221");
    wait_until("the mail", || {
        fs::read_to_string(root.join("var/mail/fred"))
            .is_ok_and(|mail| mail.contains("\nSubject: contained\n"))
            .then_some(())
    });
}
