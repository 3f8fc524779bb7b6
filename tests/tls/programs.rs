//! The programs that people and servers send mail with: what they send under TLS lies in the mailbox, whole.

use std::process::Command;

use testkit::certificates::{Key, Request};
use testkit::exim::Exim;
use testkit::postfix::Postfix;
use testkit::{debian, succeeds, wait_until};

use crate::handshakes::Server;
use crate::support::Scratch;
use crate::{AUTHORITY, NAME, scratch};

/// A folder with a configuration for whoever comes from this machine.
fn open_to_all(directives: &str) -> Scratch {
    scratch(&format!("limit.fcrdns_check off\n{directives}"))
}

/// That so many messages came, each under TLS.
#[track_caller]
fn assert_came_under_tls(scratch: &Scratch, messages: usize) {
    let inbox = scratch.read("inbox");
    let came = [" (mailrecv) with ", " (mailrecv) with ESMTPS id ", "\n\t(using TLSv1.3 with cipher TLS_"];
    let came = came.map(|mark| inbox.matches(mark).count());
    assert_eq!(came, [messages; 3], "{inbox}\n{:#?}", scratch.log());
}

const MESSAGE: &str = "From: Me <me@client.example>\nSubject: hello\n\n.dot\nthe last line\n";

#[test]
fn swaks_and_msmtp_and_curl() {
    for (directives, is_implicit) in [("", false), ("tls require\n", false), ("tls implicit\n", true)] {
        let scratch = open_to_all(directives);
        let server = Server::start(&scratch);
        let root = AUTHORITY.root();
        let root = root.to_str().unwrap();
        let mut swaks = debian::command("swaks", "swaks");
        swaks.args([
            "--server",
            "127.0.0.1",
            "--port",
            &server.port,
            "--helo",
            "client.example",
            "--from",
            "me@client.example",
        ]);
        swaks.args(["--to", "fred@mx.example", if is_implicit { "--tls-on-connect" } else { "--tls" }, "--pipeline"]);
        swaks.args(["--tls-verify", "--tls-ca-path", root, "--tls-sni", NAME]);
        succeeds(swaks, "");
        let mut msmtp = debian::command("msmtp", "msmtp");
        msmtp.args([
            "--file=/dev/null",
            "--host=127.0.0.1",
            "--domain=client.example",
            "--from=me@client.example",
            "--tls=on",
        ]);
        msmtp.args([
            &format!("--port={}", server.port),
            &format!("--tls-trust-file={root}"),
            &format!("--tls-host-override={NAME}"),
        ]);
        msmtp.args([if is_implicit { "--tls-starttls=off" } else { "--tls-starttls=on" }, "fred@mx.example"]);
        succeeds(msmtp, MESSAGE);
        let mut curl = debian::command("curl", "curl");
        let scheme = if is_implicit { "smtps" } else { "smtp" };
        curl.args(["-sS", "--ssl-reqd", "--cacert", root, "--resolve", &format!("{NAME}:{}:127.0.0.1", server.port)]);
        curl.args(["--mail-from", "me@client.example", "--mail-rcpt", "fred@mx.example", "--upload-file", "-"]);
        curl.arg(format!("{scheme}://{NAME}:{}/client.example", server.port));
        succeeds(curl, &MESSAGE.replace('\n', "\r\n"));
        assert_came_under_tls(&scratch, 3);
    }
}

#[test]
fn smtplib() {
    const SCRIPT: &str = "\
import smtplib, ssl, sys
port, root, how = sys.argv[1:]
context = ssl.create_default_context(cafile=root)
# The certificate is for a name that leads nowhere.
context.check_hostname = False
if how == 'implicit':
    server = smtplib.SMTP_SSL('127.0.0.1', int(port), local_hostname='client.example', timeout=30, context=context)
else:
    server = smtplib.SMTP('127.0.0.1', int(port), local_hostname='client.example', timeout=30)
    server.ehlo()
    assert server.has_extn('starttls')
    server.starttls(context=context)
    server.ehlo()
assert not server.has_extn('starttls')
message = b'Subject: large\\r\\n\\r\\n' + b'x' * 70 + b'\\r\\n' + b'0123456789' * 6 + b'\\r\\n' * 3
assert server.sendmail('me@client.example', ['fred@mx.example'], message) == {}
assert server.sendmail('me@client.example', ['fred@mx.example'], message + b'line of text\\r\\n' * 1000000) == {}
server.quit()
";
    for (directives, how) in [("", "starttls"), ("tls implicit\n", "implicit")] {
        let scratch = open_to_all(directives);
        let server = Server::start(&scratch);
        let mut python = debian::command("python3", "python3");
        python.args(["-c", SCRIPT, &server.port, AUTHORITY.root().to_str().unwrap(), how]);
        succeeds(python, "");
        assert_came_under_tls(&scratch, 2);
        assert_eq!(scratch.read("inbox").matches("\nline of text").count(), 1_000_000);
    }
}

/// A script for a relay, which sends on what it is told in here.
fn script(messages: usize) -> String {
    let one =
        "MAIL FROM:<me@client.example>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\nSubject: relayed\r\n\r\ntext\r\n.\r\n";
    format!("EHLO client.example\r\n{}QUIT\r\n", one.repeat(messages))
}

#[test]
fn postfix() {
    let scratch = open_to_all("tls require\ntls_ticket_key tickets\n");
    scratch.write("tickets", [7; 32]);
    let server = Server::start(&scratch);
    // Which verifies the certificate by the name that we give here.
    let settings = format!(
        "smtp_tls_security_level = secure\nsmtp_tls_secure_cert_match = {NAME}\nsmtp_tls_CAfile = {}\n\
         smtp_tls_session_cache_database =\nsmtp_tls_loglevel = 1\nsmtp_destination_concurrency_limit = 2\n",
        AUTHORITY.root().display()
    );
    let postfix = Postfix::start(server.address(), &settings);
    let replies = postfix.submit(&script(3));
    assert_eq!(replies.matches("250 2.0.0 Ok: queued").count(), 3, "{replies}");
    postfix.until_queue_is_empty();
    assert_came_under_tls(&scratch, 3);
}

#[test]
fn exim() {
    let scratch = open_to_all("tls require\n");
    let server = Server::start(&scratch);
    let exim = Exim::new(server.address().port());
    let replies = exim.submit(&script(3));
    assert_eq!(replies.matches("250 OK id=").count(), 3, "{replies}");
    exim.run_queue();
    assert_came_under_tls(&scratch, 3);
}

/// A client that cannot do without old versions hears why, and no more than an alert.
#[test]
fn a_client_of_long_ago() {
    let scratch = open_to_all("");
    let server = Server::start(&scratch);
    let mut openssl: Command = debian::command("openssl", "openssl");
    openssl.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{}", server.port),
        "-starttls",
        "smtp",
        "-tls1",
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]);
    let output = testkit::output(openssl);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("alert handshake failure"), "{said}");
    // The alert leaves before the line is written.
    let why = "WARNING: no TLS with this peer: the peer's TLS is too old ";
    wait_until(why, || scratch.log().iter().any(|line| line.contains(why)).then_some(()));
}

/// What people look with who want to know how safe a server is, with both ways to TLS and both kinds of keys.
#[test]
fn nmap() {
    for (tls, service, key) in [("offer", "smtp", Key::P256), ("implicit", "smtps", Key::Rsa)] {
        let scratch = open_to_all(&format!("tls {tls}\n"));
        AUTHORITY.issue(&scratch.path(""), "own", &Request { key, ..Request::of(&[NAME]) });
        let server = Server::start(&scratch);
        // It tries STARTTLS where a port is known for SMTP.
        scratch.write("nmap-services", format!("{service} {}/tcp 1\n", server.port));
        let mut nmap = scratch.command(debian::program("nmap", "nmap"), &["-n", "-Pn", "-sT", "--datadir", "."]);
        nmap.args(["-p", &server.port, "--script", "ssl-enum-ciphers", "127.0.0.1"]);
        let said = String::from_utf8(testkit::output(nmap).stdout).unwrap();
        let versions: Vec<&str> =
            said.lines().filter(|line| line.starts_with("|   TLS") || line.starts_with("|   SSL")).collect();
        assert_eq!(versions, ["|   TLSv1.2: ", "|   TLSv1.3: "], "{tls}: {said}");
        assert!(said.contains("least strength: A\n") && !said.contains("warnings:"), "{tls}: {said}");
    }
}
