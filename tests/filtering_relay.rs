//! The shipped filtering relay, as it is: its environment says everything. A client that people use sends through it, and
//! the next server is Postfix with a certificate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;

use support::MAILRECV;
use testkit::certificates::{Authority, Request};
use testkit::postfix::Postfix;
use testkit::upstream::Upstream;
use testkit::{Client, Daemon, Folder, debian, output, repository, succeeds};

/// What the example of a compose file sets.
const COMPOSE: [(&str, &str); 8] = [
    ("SMTP_AUTH_USERNAME", "myuser"),
    ("SMTP_AUTH_PASSWORD", "mypassword"),
    ("ALLOWED_FROM_DOMAINS", "company.com,trusted-partner.com"),
    ("ALLOWED_TO_DOMAINS", "company.com,client.com"),
    ("RELAY_HOST", "localhost"),
    ("RELAY_USE_TLS", "True"),
    ("RELAY_USE_SSL", "False"),
    ("TIMEOUT", "30"),
];

/// A relay in an environment of its own.
struct Relay {
    listen: Daemon,
    address: SocketAddr,
    folder: Folder,
}

impl Relay {
    /// One as the compose file has it, but for these variables.
    fn start(changes: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        let config = repository::path("etc/mailrecv-relay.conf").display().to_string();
        let mut command = folder.command(MAILRECV, &["-c", &config, "listen", "127.0.0.1:0"]);
        command.envs(COMPOSE).envs(changes.iter().copied());
        Self::of(command, folder)
    }

    fn of(command: std::process::Command, folder: Folder) -> Self {
        let mut listen = Daemon::start(command, folder.path("listen.out"));
        let address = listen.until("the ready line", |said| {
            let (_, line) = said.split_once("mailrecv: listening on ")?;
            line.split([' ', '\n']).next()?.parse().ok()
        });
        Self { listen, address, folder }
    }

    /// What swaks says when it sends from one to some others, with these further arguments.
    fn swaks(&self, from: &str, to: &str, arguments: &[&str]) -> String {
        let mut swaks = debian::command("swaks", "swaks");
        swaks.args(["--server", "127.0.0.1", "--port", &self.address.port().to_string(), "--timeout", "180"]);
        swaks.args(["--from", from, "--to", to, "--header", "Subject: Test Email", "--body", "This is a test email."]);
        swaks.args(arguments).current_dir(self.folder.path(""));
        String::from_utf8_lossy(&output(swaks).stdout).into_owned()
    }

    /// The same for somebody who has the account.
    fn sent(&self, from: &str, to: &str) -> String {
        self.swaks(from, to, &LOGIN)
    }
}

const LOGIN: [&str; 4] = ["--auth-user", "myuser", "--auth-password", "mypassword"];

/// The next server: Postfix, which wants TLS, and behind it one that keeps what it gets.
struct Next {
    postfix: Postfix,
    behind: Upstream,
    authority: Authority,
    _folder: Folder,
}

impl Next {
    /// One whose certificate is for this host.
    fn of_host(name: &str, settings: &str) -> Self {
        let (authority, folder, behind) = (Authority::new(), Folder::new(), Upstream::polite());
        let (certificate, key) = authority.issue(&folder.path(""), "next", &Request::of(&[name]));
        let settings = format!(
            "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_loglevel = 1\n{settings}",
            certificate.display(),
            key.display()
        );
        Self { postfix: Postfix::start(behind.address, &settings), behind, authority, _folder: folder }
    }

    fn root(&self) -> String {
        self.authority.root().display().to_string()
    }

    fn port(&self) -> String {
        self.postfix.address().port().to_string()
    }
}

#[track_caller]
fn assert_says(said: &str, words: &str) {
    assert!(said.contains(words), "{words:?} is not in:\n{said}");
}

/// What somebody does who has read the README: it goes through to the next server, under TLS, and what is not allowed is
/// refused where it is said.
#[test]
fn mail_goes_from_some_domains_to_some_domains() {
    let next = Next::of_host("localhost", "smtpd_tls_security_level = encrypt\n");
    let relay = Relay::start(&[("RELAY_PORT", &next.port()), ("RELAY_CA_FILE", &next.root())]);
    let said = relay.sent("sender@company.com", "recipient@company.com");
    assert_says(&said, "<-  235 2.7.0 Authentication succeeded\n");
    assert_says(&said, "<-  250 2.0.0 ");
    next.postfix.until_queue_is_empty();
    let messages = next.behind.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].sender.starts_with("<sender@company.com>"), "{messages:?}");
    assert_eq!(messages[0].recipients, ["<recipient@company.com>"]);
    let text = String::from_utf8_lossy(&messages[0].text).into_owned();
    assert_says(&text, "\r\nSubject: Test Email\r\n");
    assert_says(&text, "This is a test email.");
    assert_says(&next.postfix.log(), "TLS connection established from ");

    // Another partner, and letters of any case.
    assert_says(&relay.sent("sender@Trusted-Partner.COM", "recipient@CLIENT.com"), "<-  250 2.0.0 ");
    // Who is of another domain, or of one below, or of none.
    for from in ["sender@evil.example", "sender@sub.company.com", "sender@notcompany.com", "<>"] {
        let said = relay.sent(from, "recipient@company.com");
        assert_says(&said, "<** 550 5.7.1 Sender domain not allowed\n");
    }
    for to in ["recipient@evil.example", "recipient@sub.client.com", "recipient@company.com.evil.example"] {
        let said = relay.sent("sender@company.com", to);
        assert_says(&said, "<** 550 5.7.1 Recipient domain(s) not allowed\n");
    }
    // One of two: that one alone.
    let said = relay.sent("sender@company.com", "recipient@evil.example,other@client.com");
    assert_says(&said, "<** 550 5.7.1 Recipient domain(s) not allowed\n");
    assert_says(&said, "<-  250 2.0.0 ");
    // Who has not logged in is told nothing of domains.
    for from in ["sender@company.com", "sender@evil.example"] {
        assert_says(&relay.swaks(from, "recipient@company.com", &[]), "<** 530 5.7.0 Authentication required\n");
    }
    for (user, password) in [("myuser", "password"), ("user", "mypassword"), ("user", "password")] {
        let login = ["--auth-user", user, "--auth-password", password];
        let said = relay.swaks("sender@company.com", "recipient@company.com", &login);
        assert_says(&said, "<** 535 5.7.8 ");
    }
    next.postfix.until_queue_is_empty();
    let recipients: Vec<_> = next.behind.messages().into_iter().flat_map(|message| message.recipients).collect();
    assert_eq!(recipients, ["<recipient@company.com>", "<recipient@CLIENT.com>", "<other@client.com>"]);
    // The next server is down: the sender keeps its mail.
    drop(next);
    let said = relay.sent("sender@company.com", "recipient@company.com");
    assert_says(&said, "<** 451 4.");
    assert!(!relay.listen.output().contains("mypassword"), "{}", relay.listen.output());
}

/// The next server's own refusals come through, each with its class.
#[test]
fn what_the_next_server_refuses_is_refused() {
    let settings = "smtpd_tls_security_level = encrypt\nsmtpd_recipient_restrictions = \
                    check_recipient_access inline:{ {gone@client.com = 550 5.1.1 No such user} \
                    {full@client.com = 452 4.2.2 Mailbox full} }, permit_mynetworks, reject\n";
    let next = Next::of_host("localhost", settings);
    let relay = Relay::start(&[("RELAY_PORT", &next.port()), ("RELAY_CA_FILE", &next.root())]);
    let said = relay.sent("sender@company.com", "gone@client.com,full@client.com,other@client.com");
    assert_says(&said, "<** 550 5.1.1 ");
    assert_says(&said, "<** 452 4.2.2 ");
    assert_says(&said, "<-  250 2.0.0 ");
    next.postfix.until_queue_is_empty();
    assert_eq!(next.behind.messages()[0].recipients, ["<other@client.com>"]);
}

/// A server that cannot show who it is gets no mail; nor does one without TLS, unless that is wanted.
#[test]
fn the_next_server_shows_who_it_is() {
    let other = Next::of_host("other.example", "smtpd_tls_security_level = may\n");
    let (port, root) = (other.port(), other.root());
    let sent = |changes: &[(&str, &str)]| {
        let relay = Relay::start(&[&[("RELAY_PORT", &*port), ("RELAY_CA_FILE", &root)], changes].concat());
        relay.sent("sender@company.com", "recipient@company.com")
    };
    assert_says(&sent(&[]), "<** 451 4.");
    assert_says(&sent(&[("RELAY_USE_TLS", "false")]), "<-  250 2.0.0 ");
    let plain = Upstream::polite();
    let port = plain.address.port().to_string();
    assert_says(&sent(&[("RELAY_PORT", &port), ("RELAY_USE_TLS", "True")]), "<** 451 4.");
    assert_says(&sent(&[("RELAY_PORT", &port), ("RELAY_USE_TLS", "no")]), "<-  250 2.0.0 ");
}

/// TLS from the beginning with the next server.
#[test]
fn the_next_server_may_be_under_tls_from_the_beginning() {
    let next = Next::of_host("localhost", "smtpd_tls_wrappermode = yes\nsmtpd_tls_security_level = encrypt\n");
    for (switch, reply) in [("TRUE", "<-  250 2.0.0 "), ("off", "<** 451 4.")] {
        let relay = Relay::start(&[
            ("RELAY_PORT", &next.port()),
            ("RELAY_CA_FILE", &next.root()),
            ("RELAY_USE_SSL", switch),
            ("TIMEOUT", "2"),
        ]);
        assert_says(&relay.sent("sender@company.com", "recipient@company.com"), reply);
    }
}

/// The next server is one like this, with accounts; the first knows its own.
#[test]
fn the_next_server_may_want_a_password() {
    let plain = Upstream::polite();
    let port = plain.address.port().to_string();
    let awkward = "pass word'\"#${HOME}";
    let second = Relay::start(&[
        ("SMTP_AUTH_USERNAME", "relay@company.com"),
        ("SMTP_AUTH_PASSWORD", awkward),
        ("RELAY_PORT", &port),
        ("RELAY_USE_TLS", "0"),
    ]);
    let port = second.address.port().to_string();
    for (user, password, reply) in [
        ("relay@company.com", awkward, "<-  250 2.0.0 "),
        ("relay@company.com", "other", "<** 451 4."),
        ("", awkward, "<** 530 5.7.0 "),
    ] {
        let first = Relay::start(&[
            ("RELAY_PORT", &port),
            ("RELAY_USE_TLS", "no"),
            ("RELAY_USERNAME", user),
            ("RELAY_PASSWORD", password),
        ]);
        let said = first.sent("sender@company.com", "recipient@company.com");
        assert!(said.contains(reply) || user.is_empty() && said.contains("<** 4"), "{user} {password}: {said}");
        assert!(!first.listen.output().contains(password), "{}", first.listen.output());
    }
    assert_eq!(plain.messages().len(), 1);
}

/// TLS with those who send: from the beginning, by STARTTLS, or none.
#[test]
fn those_who_send_may_have_to_use_tls() {
    let (authority, folder, plain) = (Authority::new(), Folder::new(), Upstream::polite());
    let (certificate, key) = authority.issue(&folder.path(""), "server", &Request::of(&["localhost"]));
    let text = |path: PathBuf| path.display().to_string();
    let (certificate, key, port) = (text(certificate), text(key), plain.address.port().to_string());
    let common =
        [("RELAY_PORT", &*port), ("RELAY_USE_TLS", "no"), ("TLS_CERT_FILE", &certificate), ("TLS_KEY_FILE", &key)];
    let (from, to) = ("sender@company.com", "recipient@company.com");
    let relay = Relay::start(&[&common[..], &[("USE_TLS", "True")]].concat());
    let said = relay.swaks(from, to, &[&LOGIN[..], &["--tls-on-connect"]].concat());
    assert_says(&said, "=== TLS started ");
    assert_says(&said, "<~  250 2.0.0 ");
    let relay = Relay::start(&[&common[..], &[("STARTTLS", "require")]].concat());
    assert!(!relay.sent(from, to).contains("250 2.0.0"));
    let said = relay.swaks(from, to, &[&LOGIN[..], &["--tls"]].concat());
    assert_says(&said, "=== TLS started ");
    assert_says(&said, "<~  250 2.0.0 ");
    // No password before.
    let mut client = Client::connect(relay.address);
    client.expect("220 ");
    let offered = client.ask("EHLO client.example");
    assert!(!format!("{offered:?}").contains("AUTH"), "{offered:?}");
    let relay = Relay::start(&[&common[..], &[("USE_TLS", "no"), ("STARTTLS", "")]].concat());
    assert!(!relay.swaks(from, to, &["--tls"]).contains("STARTTLS"));
    assert_says(&relay.sent(from, to), "<-  250 2.0.0 ");
}

/// How long the next server may take.
#[test]
fn the_next_server_has_its_time() {
    let silent = Upstream::scripted(|_, peer| peer.until_gone());
    let port = silent.address.port().to_string();
    let relay = Relay::start(&[("RELAY_PORT", &port), ("TIMEOUT", "1")]);
    let said = relay.sent("sender@company.com", "recipient@company.com");
    assert_says(&said, "<** 451 4.");
}

/// What `mailrecv check` says in this environment, and no other variables; its status.
fn check(environment: &[(&str, &str)]) -> (String, i32) {
    let config = repository::path("etc/mailrecv-relay.conf").display().to_string();
    let mut check = Folder::new().command(MAILRECV, &["-c", &config, "check"]);
    check.current_dir("/").env_clear().envs(environment.iter().copied());
    let output = output(check);
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code().unwrap())
}

/// Each variable with a mistake in it: what is said, and that no password is.
#[test]
fn mistakes_in_the_environment_are_told() {
    let plain = [("SMTP_AUTH_PASSWORD", "s3kr1t"), ("RELAY_HOST", "localhost"), ("RELAY_USE_TLS", "False")];
    assert_eq!(check(&plain), (String::new(), 0));
    for (name, value, said) in [
        ("SMTP_AUTH_PASSWORD", "", "error: the environment has no `SMTP_AUTH_PASSWORD`: set it to the password "),
        ("SMTP_AUTH_PASSWORD", "s3kr1t\n", "error: the value of `SMTP_AUTH_PASSWORD` is more than one line"),
        ("SMTP_AUTH_USERNAME", "a b", "error: a name has no colon, no blanks "),
        ("ALLOWED_FROM_DOMAINS", " , ", "error: this list has no domain"),
        ("ALLOWED_FROM_DOMAINS", "company.com, *", "error: `*` is no domain"),
        ("ALLOWED_TO_DOMAINS", "company.com,*.client.com", "error: `*.client.com` is no domain: write `client.com`"),
        ("ALLOWED_TO_DOMAINS", "client.com} discard # ", "error: `client.com} discard #` is no domain"),
        ("RELAY_HOST", "smtp company.com", "error: this is neither the name of a host nor an address"),
        ("RELAY_HOST", "localhost discard", "error: this is neither the name of a host nor an address"),
        ("RELAY_PORT", "smtp", "error: a port is a number from 1 to 65535"),
        ("RELAY_PORT", "25 tls=off", "error: a port is a number from 1 to 65535"),
        ("RELAY_USE_TLS", "maybe", "error: write `require`, `opportunistic` or `off`"),
        ("RELAY_USE_SSL", "maybe", "error: `maybe` is neither `on` nor `off`"),
        ("RELAY_USERNAME", "relay", "error: the server wants a password: "),
        ("TIMEOUT", "1.5", "error: `1.5` is not a whole number of at least 1"),
        ("USE_TLS", "2", "error: `2` is neither `on` nor `off`"),
        ("USE_TLS", "True", "error: /etc/certs/server.crt cannot be opened: "),
        ("STARTTLS", "True", "error: `True` found where `off`, `offer`, `require` or `implicit` is expected"),
        ("HOSTNAME", "a b", "error: a domain name consists of "),
    ] {
        let environment = [&plain[..], &[(name, value)]].concat();
        let (all, status) = check(&environment);
        assert_says(&all, said);
        assert_eq!(status, 78, "{name}={value}: {all}");
        assert!(!all.contains("s3kr1t"), "{name}={value}: {all}");
    }
    // What is good, said otherwise.
    for (name, value) in [
        ("ALLOWED_FROM_DOMAINS", " Company.com , client.com,"),
        ("ALLOWED_TO_DOMAINS", ""),
        ("RELAY_PORT", "587"),
        ("RELAY_PORT", ""),
        ("RELAY_USE_SSL", "false"),
        ("RELAY_USERNAME", ""),
        ("RELAY_PASSWORD", "a b \" ' #"),
        ("TIMEOUT", "30"),
        ("USE_TLS", "FALSE"),
        ("SMTP_AUTH_PASSWORD", "a b \" ' # ${HOME} }"),
        ("SMTP_AUTH_USERNAME", "sender@company.com"),
        ("HOSTNAME", "relay.company.com"),
    ] {
        let environment = [&plain[..], &[(name, value)]].concat();
        assert_eq!(check(&environment), (String::new(), 0), "{name}={value}");
    }
}

/// Who names no port means that of what is spoken: none has TLS first at port 25.
#[test]
fn the_port_is_that_of_what_is_spoken() {
    let folder = Folder::new();
    let config = repository::path("etc/mailrecv-relay.conf").display().to_string();
    let question =
        ["explain", "--peer", "192.0.2.1", "--auth", "myuser", "--from", "a@company.com", "--rcpt", "b@client.com"];
    for (ssl, server) in [("False", "'smtp://localhost:25'"), ("True", "'smtps://localhost:465'")] {
        let mut explain = folder.command(MAILRECV, &[&["-c", &*config][..], &question].concat());
        explain.envs(COMPOSE).env("RELAY_USE_SSL", ssl);
        assert_says(&succeeds(explain, ""), &format!("destination: relay {server}"));
    }
}

/// The README's commands, pasted.
#[test]
fn the_commands_of_the_readme_work() {
    let next = Next::of_host("localhost", "smtpd_tls_security_level = encrypt\n");
    let folder = Folder::new();
    let port = testkit::daemon::free_port(testkit::LOOPBACK[0]).port().to_string();
    let blocks = repository::readme_commands("A filtering relay");
    let [server, client] = &blocks[..] else { panic!("{blocks:?}") };
    let server = repository::replaced(
        server,
        &[
            ("RELAY_HOST=smtp.company.com RELAY_PORT=587", &format!("RELAY_HOST=localhost RELAY_PORT={}", next.port())),
            (
                "mailrecv -c etc/mailrecv-relay.conf check\n",
                "mailrecv -c etc/mailrecv-relay.conf check --strict || exit\n",
            ),
            ("mailrecv -c etc/mailrecv-relay.conf listen", "exec mailrecv -c etc/mailrecv-relay.conf listen"),
        ],
    );
    let mut command = folder.command("/bin/sh", &["-c", &server]);
    command.env("PATH", support::path()).env("RELAY_CA_FILE", next.root()).current_dir(repository::path(""));
    command.env("LISTEN_HOST", "127.0.0.1").env("LISTEN_PORT", &port).env("MAX_CONNECTIONS", "1");
    let relay = Relay::of(command, folder);
    let mut swaks =
        relay.folder.command("/bin/sh", &["-c", &client.replace("localhost:1025", &format!("127.0.0.1:{port}"))]);
    swaks.env("PATH", support::path());
    assert_says(&succeeds(swaks, ""), "<-  250 2.0.0 ");
    next.postfix.until_queue_is_empty();
    assert_eq!(next.behind.messages()[0].recipients, ["<recipient@company.com>"]);
    // One connection at once.
    let mut first = Client::connect(relay.address);
    first.expect("220 ");
    Client::connect(relay.address).expect("421 ");
}
