//! The README's section about TLS and accounts, typed: only paths and the port are replaced.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use testkit::daemon::free_port;
use testkit::tcp::is_listening;
use testkit::{Daemon, LOOPBACK, is_root, repository, succeeds};

use crate::support::{CONFIG, MAILRECV, Scratch, path};

#[test]
fn the_commands_of_the_readme_work() {
    if !is_root("to run a command as mail") {
        return;
    }
    let blocks = repository::readme_commands("TLS and accounts");
    let [certificate, account] = &blocks[..] else { panic!("{blocks:?}") };
    let scratch = Scratch::new();
    // The user `mail` runs the program, and has its mailboxes here.
    fs::set_permissions(scratch.path(""), Permissions::from_mode(0o755)).unwrap();
    succeeds(scratch.command("install", &["-m", "755", MAILRECV, "mailrecv"]), "");
    succeeds(scratch.command("install", &["-d", "-o", "mail", "box"]), "");
    fs::create_dir(scratch.path("etc")).unwrap();
    let here = scratch.path("").display().to_string().trim_end_matches('/').to_owned();
    let address = free_port(LOOPBACK[0]);
    let in_place = |text: &str| {
        let text = text.replace("/etc/", &format!("{here}/etc/")).replace("/var/mail/", &format!("{here}/box/"));
        text.replace("localhost:25", &address.to_string()).replace("--server localhost", &format!("--server {address}"))
    };
    let types = |line: &str| {
        let line = in_place(line).replace("mailrecv check", &format!("mailrecv -c {here}/{CONFIG} check"));
        let mut shell = scratch.command("sh", &["-ec", &line]);
        shell.env("PATH", format!("{here}:{}:/usr/sbin:/sbin", path()));
        // Who is asked for a password has this one.
        succeeds(shell, "secret\n")
    };
    let mut config = "domain mail.example.com\nuser mail\nlogfile stderr\n".to_owned();
    let mut configure = |block: &str| {
        let (_, told) = block.split_once("# and in /etc/mailrecv.conf: ").unwrap();
        let below = told.lines().skip(1).map_while(|line| line.strip_prefix("# "));
        told.lines().take(1).chain(below).for_each(|line| config += &in_place(&format!("{}\n", line.trim())));
        scratch.write(CONFIG, &config);
    };

    let (make, try_it) = certificate.split_once("# and in ").unwrap();
    types(make);
    configure(certificate);
    let commands: Vec<&str> = try_it.lines().filter(|line| !line.starts_with('#')).skip(1).collect();
    let [check, connect] = &commands[..] else { panic!("{commands:?}") };
    types(check);
    let mut listen = scratch.command("./mailrecv", &["-c", CONFIG, "listen", &address.to_string()]);
    listen.current_dir(Path::new(&here));
    let mut daemon = Daemon::start(listen, scratch.path("said"));
    daemon.until("listening", |_| is_listening(address).then_some(()));
    types(&format!("{connect} 2>&1 | grep 'Protocol version: TLSv1.3'"));

    let (make, try_it) = account.split_once("# and in ").unwrap();
    types(make);
    configure(account);
    let send = try_it.lines().last().unwrap();
    let said = types(send);
    assert!(said.contains("<~  235 ") && said.contains("<~  250 2.0.0 Message accepted"), "{said}");
    assert_eq!(scratch.read("box/news").matches("\nDelivered-To: news@mail.example.com\n").count(), 1);
}
