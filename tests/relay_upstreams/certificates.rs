//! Upstreams under TLS that are not who they should be, and somebody in between.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use testkit::certificates::{Authority, Request};
use testkit::daemon::free_port;
use testkit::postfix::Postfix;
use testkit::{Daemon, Folder, LOOPBACK, debian, repository, succeeds, wait_until};

use crate::script::{self, Act};
use crate::{AUTHORITY, FRED, copies, log, relaying, reply_to_message};

/// Certificates for `localhost` that nobody must believe, and what is wrong with them.
fn bad_certificates(folder: &Folder) -> Vec<(&'static str, (PathBuf, PathBuf))> {
    let path = folder.path("");
    let mut request = Request::of(&["localhost"]);
    let mut issue = |name, days, names| {
        (request.days, request.names) = (days, names);
        (name, AUTHORITY.issue(&path, name, &request))
    };
    let year = (-1, 365);
    let mut all = vec![
        issue("expired", (-10, -1), &["localhost"][..]),
        issue("not-yet", (5, 10), &["localhost"]),
        issue("other-name", year, &["other.example"]),
        issue("below-the-name", year, &["localhost.example", "*.localhost"]),
    ];
    all.push(("other-authority", Authority::new().issue(&path, "other-authority", &Request::of(&["localhost"]))));
    let (certificate, key) = (folder.path("own.pem"), folder.path("own.key"));
    let mut openssl = debian::command("openssl", "openssl");
    openssl.args(
        "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
            .split(' '),
    );
    openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key);
    succeeds(openssl, "");
    all.push(("self-signed", (certificate, key)));
    all
}

#[test]
fn a_certificate_that_proves_nothing_gets_no_mail_where_one_is_required() {
    let folder = Folder::new();
    let (mut services, mut upstreams) = (String::new(), Vec::new());
    for (what, (certificate, key)) in bad_certificates(&folder) {
        let [begun, implicit] = [(), ()].map(|()| free_port(LOOPBACK[0]));
        for (address, tls) in [(begun, "smtpd_tls_security_level=may"), (implicit, "smtpd_tls_wrappermode=yes")] {
            services += &format!(
                "{address} inet n - n - - smtpd\n  -o smtpd_tls_cert_file={}\n  -o smtpd_tls_key_file={}\n  -o {tls}\n",
                certificate.display(),
                key.display()
            );
        }
        upstreams.push((what, begun.port(), implicit.port()));
    }
    let postfix = Postfix::receiving("smtpd_tls_received_header = yes\n", &services);
    let root = AUTHORITY.root().display().to_string();
    for (what, begun, implicit) in &upstreams {
        for url in [
            format!("smtp://localhost:{begun} tls=require ca={root}"),
            format!("smtps://localhost:{implicit} ca={root}"),
            // An authority that all of it is true of, and that is not one of the system's.
            format!("smtps://localhost:{implicit}"),
        ] {
            let scratch = relaying(&url, "");
            let reply = reply_to_message(&scratch, &[FRED]);
            assert!(reply.starts_with("451 4."), "{what}, {url}: {reply}\n{}", log(&scratch));
            assert!(log(&scratch).contains("certificate"), "{what}, {url}: {}", log(&scratch));
            // As openssl(1) makes them by default.
            let has_advice = log(&scratch).contains("make it anew with `basicConstraints=CA:FALSE`");
            assert_eq!(has_advice, *what == "self-signed", "{what}, {url}: {}", log(&scratch));
            assert_eq!(copies(&scratch), 0, "{what}, {url}");
        }
    }
    postfix.until_queue_is_empty();
    assert_eq!(postfix.mail("fred").len(), 0);
    // Who does not insist is served under TLS all the same.
    for (what, begun, _) in &upstreams {
        let scratch = relaying(format!("smtp://localhost:{begun}"), "");
        let reply = reply_to_message(&scratch, &[FRED]);
        assert!(reply.starts_with("250 "), "{what}: {reply}\n{}", log(&scratch));
    }
    let mail = wait_until("the messages", || Some(postfix.mail("fred")).filter(|mail| mail.len() == upstreams.len()));
    assert!(mail.iter().all(|message| String::from_utf8_lossy(message).contains("(using TLSv1.")));
}

/// The certificate that the README has one make is believed by who names it.
#[test]
fn a_certificate_of_its_own_is_believed_by_who_names_it() {
    let folder = Folder::new();
    let readme = repository::text("README.md");
    let (_, command) = readme.split_once("\n    openssl req ").expect("a command that makes a certificate");
    let (command, _) = command.split_once("\n    chgrp ").expect("the command behind it");
    let place = folder.path("").display().to_string();
    let command = repository::replaced(command, &[("/etc/mailrecv", &place), ("mail.example.com", "localhost")]);
    succeeds(folder.command("/bin/sh", &["-ec", &format!("openssl req {command}")]), "");
    let postfix = Postfix::receiving(
        &format!(
            "smtpd_tls_cert_file = {place}/fullchain.pem\n\
             smtpd_tls_key_file = {place}/privkey.pem\n\
             smtpd_tls_security_level = may\n"
        ),
        "",
    );
    let url = format!("smtp://localhost:{} tls=require ca={place}/fullchain.pem", postfix.address().port());
    let scratch = relaying(url, "");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
}

/// Under TLS an end may be announced before it comes, and is one all the same.
#[test]
fn a_server_that_takes_its_leave_under_tls_is_not_waited_for() {
    let folder = Folder::new();
    let (certificate, key) = AUTHORITY.issue(&folder.path(""), "upstream", &Request::of(&["localhost"]));
    let script = "import socket, ssl, sys\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        context.load_cert_chain(*sys.argv[1:])\n\
        with socket.create_server(('127.0.0.1', 0)) as server:\n\
        \x20   print(server.getsockname()[1], flush=True)\n\
        \x20   peer = context.wrap_socket(server.accept()[0], server_side=True)\n\
        \x20   peer.sendall(b'220 upstream.example ESMTP\\r\\n')\n\
        \x20   peer.recv(1000)\n\
        \x20   peer.unwrap()\n";
    let mut command = debian::command("python3", "python3");
    command.args(["-c", script]).args([&certificate, &key]);
    let mut server = Daemon::start(command, folder.path("said"));
    let port: u16 = server.until("its port", |said| said.trim().parse().ok());
    let root = AUTHORITY.root().display().to_string();
    let scratch = relaying(format!("smtps://localhost:{port} ca={root}"), "limit.relay_secs 100");
    let reply = reply_to_message(&scratch, &[FRED]);
    assert!(reply.starts_with("451 4.4.2 "), "{reply}\n{}", log(&scratch));
    assert!(log(&scratch).contains(": it has closed the connection"), "{}", log(&scratch));
}

/// Neither the message nor who we are.
#[test]
fn nothing_is_told_in_the_clear_where_tls_is_required() {
    let greetings: &[&str] = &[
        "250 upstream.example\r\n",
        "250-upstream.example\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 1000000\r\n",
        "502 5.5.1 What?\r\n",
        "250-upstream.example\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n",
    ];
    for greeting in greetings {
        let acts =
            [("EHLO", Act::Say((*greeting).into())), ("STARTTLS", Act::Say(b"454 4.7.0 No TLS today\r\n".to_vec()))];
        let upstream = script::start(&acts);
        let scratch = relaying(
            format!("smtp://fred@localhost:{} tls=require", upstream.address.port()),
            "relay_password secret\n",
        );
        let reply = reply_to_message(&scratch, &[FRED]);
        assert!(reply.starts_with("451 4."), "{greeting}: {reply}\n{}", log(&scratch));
        assert_eq!(copies(&scratch), 0);
        let said = upstream.connections().concat();
        assert!(said.iter().any(|command| command.starts_with("EHLO ")), "{said:?}");
        for command in said {
            let is_harmless =
                ["EHLO ", "HELO ", "STARTTLS", "QUIT", "RSET"].iter().any(|verb| command.starts_with(verb));
            assert!(is_harmless, "{command}");
        }
    }
}

/// Somebody who puts words into the upstream's mouth before TLS, to be read as the first under TLS (CVE-2011-0411).
#[test]
fn what_was_said_before_tls_counts_for_nothing() {
    let folder = Folder::new();
    let (certificate, key) = AUTHORITY.issue(&folder.path(""), "upstream", &Request::of(&["localhost"]));
    let postfix = Postfix::receiving(
        &format!(
            "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_security_level = may\n",
            certificate.display(),
            key.display()
        ),
        "",
    );
    let root = AUTHORITY.root().display().to_string();
    for injected in ["", "550 5.7.1 Injected\r\n", "250-upstream.example\r\n250 SIZE 1\r\n", "250 2.0.0 Taken\r\n"] {
        for tls in [format!("tls=require ca={root}"), "tls=opportunistic".to_owned()] {
            let between = inject(postfix.address(), injected.as_bytes());
            let scratch = relaying(format!("smtp://localhost:{} {tls}", between.port()), "");
            let before = postfix.log().matches("status=sent").count();
            let reply = reply_to_message(&scratch, &[FRED]);
            if injected.is_empty() {
                assert!(reply.starts_with("250 "), "{reply}\n{}", log(&scratch));
                wait_until("the message", || (postfix.log().matches("status=sent").count() > before).then_some(()));
            } else {
                assert!(reply.starts_with("451 4."), "{injected:?}, {tls}: {reply}\n{}", log(&scratch));
            }
            assert_eq!(copies(&scratch), usize::from(injected.is_empty()), "{injected:?}, {tls}");
        }
    }
}

/// Passes everything on, and adds this to the reply to STARTTLS.
fn inject(server: SocketAddr, injected: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let (address, injected) = (listener.local_addr().unwrap(), injected.to_vec());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let injected = injected.clone();
            thread::spawn(move || pass_on(server, client, &injected));
        }
    });
    address
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, injected: &[u8]) {
    let mut room = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut room) {
        let mut said = room[..length].to_vec();
        if said.starts_with(b"220 2.0.0 Ready to start TLS") {
            said.extend_from_slice(injected);
        }
        if to.write_all(&said).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
