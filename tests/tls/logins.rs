//! Who logs in under TLS, and with what: the programs that people send mail with, what it lets them do, and that nothing
//! of a password is in a log.

use std::num::NonZeroU32;
use std::process::Command;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use mailrecv::scram_keys::ScramKeys;
use testkit::certificates::Request;
use testkit::process::output_of_input;
use testkit::{debian, wait_until};

use crate::handshakes::Server;
use crate::support::Scratch;
use crate::{AUTHORITY, NAME, client, scratch, secured};

const PASSWORD: &str = "pen cil,=%\u{e9}?SECRET";
const WRONG: &str = "a wrong SECRET, that is";
const NAME_OF_ACCOUNT: &str = "fred";

/// A folder with an account, whose user may send to somebody to whom nobody else may.
fn with_accounts(directives: &str) -> Scratch {
    let scratch = scratch(&format!(
        "limit.fcrdns_check off
         auth_file accounts
         allowgroup +users auth ^fred$
         deliver allowgroup +users rcpt_to far@mx.example append far
         {directives}"
    ));
    scratch.write("accounts", account(PASSWORD));
    // gsasl looks at the name that it connects to.
    AUTHORITY.issue(&scratch.path(""), "own", &Request::of(&[NAME, "localhost"]));
    scratch
}

/// The line of the account with this password.
fn account(password: &str) -> String {
    let salt = b"salt of an account".to_vec();
    let keys = ScramKeys::of_password(password.as_bytes(), salt, NonZeroU32::new(4096).unwrap());
    let [salt, stored, server] = [&keys.salt[..], &keys.stored_key, &keys.server_key].map(Base64::encode_string);
    format!("{NAME_OF_ACCOUNT}:SCRAM-SHA-256$4096:{salt}${stored}:{server}\n")
}

/// That nothing of these passwords is in a text: they have one part in common, which base64 writes in three ways.
#[track_caller]
fn assert_no_secret(text: &str) {
    for forbidden in ["SECRET", "U0VDUkVU", "NFQ1JFV", "TRUNSRV"] {
        assert!(!text.contains(forbidden), "{forbidden} in\n{text}");
    }
}

#[test]
fn base64_of_a_secret_is_found_wherever_it_stands() {
    for before in ["", "x", "xx", "xxx"] {
        let encoded = Base64::encode_string(format!("{before}SECRET{before}").as_bytes());
        assert!(["U0VDUkVU", "NFQ1JFV", "TRUNSRV"].iter().any(|part| encoded.contains(part)), "{encoded}");
    }
}

/// How a program is told what to do.
struct Login<'s> {
    server: &'s Server<'s>,
    is_implicit: bool,
    mechanism: &'static str,
    password: &'s str,
}

/// A program that sends a message to somebody behind a login.
struct Program {
    name: &'static str,
    mechanisms: &'static [&'static str],
    command: fn(&Login<'_>) -> Command,
}

const PROGRAMS: [Program; 6] = [
    Program { name: "swaks", mechanisms: &["PLAIN", "LOGIN"], command: swaks },
    Program { name: "msmtp", mechanisms: &["PLAIN", "LOGIN", "SCRAM-SHA-256"], command: msmtp },
    Program { name: "curl", mechanisms: &["PLAIN", "LOGIN"], command: curl },
    // It logs in, and sends nothing.
    Program { name: "gsasl", mechanisms: &["PLAIN", "LOGIN", "SCRAM-SHA-256"], command: gsasl },
    Program { name: "smtplib", mechanisms: &["PLAIN", "LOGIN"], command: smtplib },
    Program { name: "aiosmtplib", mechanisms: &["PLAIN", "LOGIN"], command: aiosmtplib },
];

fn swaks(login: &Login<'_>) -> Command {
    let mut swaks = debian::command("swaks", "swaks");
    swaks.args(["--server", "127.0.0.1", "--port", &login.server.port, "--helo", "client.example"]);
    swaks.args(["--from", "me@client.example", "--to", "far@mx.example"]);
    swaks.arg(if login.is_implicit { "--tls-on-connect" } else { "--tls" });
    swaks.args(["--auth", login.mechanism, "--auth-user", NAME_OF_ACCOUNT, "--auth-password", login.password]);
    swaks
}

fn msmtp(login: &Login<'_>) -> Command {
    let mut msmtp = debian::command("msmtp", "msmtp");
    msmtp.args(["--file=/dev/null", "--host=127.0.0.1", "--domain=client.example", "--from=me@client.example"]);
    msmtp.args([&format!("--port={}", login.server.port), "--tls=on", "--tls-certcheck=off"]);
    msmtp.arg(if login.is_implicit { "--tls-starttls=off" } else { "--tls-starttls=on" });
    msmtp.args([&format!("--auth={}", login.mechanism.to_lowercase()), &format!("--user={NAME_OF_ACCOUNT}")]);
    msmtp.args([&format!("--passwordeval=printf '%s\\n' '{}'", login.password), "far@mx.example"]);
    msmtp
}

fn curl(login: &Login<'_>) -> Command {
    let mut curl = debian::command("curl", "curl");
    let scheme = if login.is_implicit { "smtps" } else { "smtp" };
    curl.args(["-sS", "--ssl-reqd", "--insecure", "--login-options", &format!("AUTH={}", login.mechanism)]);
    curl.args(["--user", &format!("{NAME_OF_ACCOUNT}:{}", login.password)]);
    curl.args(["--mail-from", "me@client.example", "--mail-rcpt", "far@mx.example", "--upload-file", "-"]);
    curl.arg(format!("{scheme}://127.0.0.1:{}/client.example", login.server.port));
    curl
}

fn gsasl(login: &Login<'_>) -> Command {
    let mut gsasl = debian::command("gsasl", "gsasl");
    gsasl.args(["--smtp", "--no-cb", "--mechanism", login.mechanism, "--authentication-id", NAME_OF_ACCOUNT]);
    gsasl.args(["--password", login.password, "--x509-ca-file", AUTHORITY.root().to_str().unwrap()]);
    gsasl.args([&format!("--connect=localhost:{}", login.server.port), "--quiet"]);
    gsasl
}

fn smtplib(login: &Login<'_>) -> Command {
    const SCRIPT: &str = "\
import smtplib, ssl, sys
port, how, mechanism, user, password = sys.argv[1:]
context = ssl._create_unverified_context()
if how == 'implicit':
    server = smtplib.SMTP_SSL('127.0.0.1', int(port), local_hostname='client.example', timeout=30, context=context)
else:
    server = smtplib.SMTP('127.0.0.1', int(port), local_hostname='client.example', timeout=30)
    server.starttls(context=context)
server.ehlo()
server.user, server.password = user, password
# Its own auth_plain and auth_login have ASCII only.
def plain(challenge=None): return '\\0%s\\0%s' % (user, password)
def login(challenge=None): return user if challenge is None or challenge == b'Username:' else password
import base64
smtplib.encode_base64 = lambda octets, eol: base64.b64encode(octets.decode('ascii', 'surrogateescape').encode('ascii', 'surrogateescape') if isinstance(octets, bytes) else octets).decode('ascii')
class Utf8(str):
    def encode(self, *rest): return str.encode(self, 'utf-8')
server.auth(mechanism, lambda challenge=None: Utf8(plain(challenge) if mechanism == 'PLAIN' else login(challenge)))
server.sendmail('me@client.example', ['far@mx.example'], b'Subject: hello\\r\\n\\r\\ntext\\r\\n')
server.quit()
";
    let mut python = debian::command("python3", "python3");
    python.args(["-c", SCRIPT, &login.server.port, if login.is_implicit { "implicit" } else { "starttls" }]);
    python.args([login.mechanism, NAME_OF_ACCOUNT, login.password]);
    python
}

fn aiosmtplib(login: &Login<'_>) -> Command {
    const SCRIPT: &str = "\
import aiosmtplib, asyncio, ssl, sys
port, how, mechanism, user, password = sys.argv[1:]
async def main():
    context = ssl._create_unverified_context()
    server = aiosmtplib.SMTP(hostname='127.0.0.1', port=int(port), use_tls=how == 'implicit', start_tls=False,
                             tls_context=context, timeout=30)
    await server.connect()
    if how != 'implicit':
        await server.starttls(tls_context=context)
    await server.ehlo()
    await (server.auth_plain if mechanism == 'PLAIN' else server.auth_login)(user, password.encode())
    await server.sendmail('me@client.example', ['far@mx.example'], b'Subject: hello\\r\\n\\r\\ntext\\r\\n')
    await server.quit()
asyncio.run(main())
";
    let mut python = debian::python_with("python3-aiosmtplib");
    python.args(["-c", SCRIPT, &login.server.port, if login.is_implicit { "implicit" } else { "starttls" }]);
    python.args([login.mechanism, NAME_OF_ACCOUNT, login.password]);
    python
}

const MESSAGE: &[u8] = b"From: Me <me@client.example>\r\nSubject: hello\r\n\r\ntext\r\n";

#[test]
fn programs_log_in() {
    for is_implicit in [false, true] {
        let implicit = if is_implicit { "tls implicit\n" } else { "" };
        let scratch = with_accounts(&format!("{implicit}debug a\n"));
        let server = Server::start(&scratch);
        let (mut logged_in, mut failed, mut sent) = (0, 0, 0);
        for program in &PROGRAMS {
            // It cannot begin with the handshake.
            if program.name == "gsasl" && is_implicit {
                continue;
            }
            for mechanism in program.mechanisms {
                for password in [PASSWORD, WRONG] {
                    let login = Login { server: &server, is_implicit, mechanism, password };
                    let output = output_of_input((program.command)(&login), MESSAGE, Duration::from_mins(1));
                    let is_right = password == PASSWORD;
                    assert_eq!(
                        output.status.success(),
                        is_right,
                        "{} {mechanism} {password}: {output:?}\n{:#?}",
                        program.name,
                        scratch.log()
                    );
                    if is_right {
                        logged_in += 1
                    } else {
                        failed += 1
                    }
                    sent += usize::from(is_right && program.name != "gsasl");
                }
            }
        }
        let log = scratch.log().join("\n");
        assert_no_secret(&log);
        let far = scratch.read("far");
        assert_eq!(far.matches(" with ESMTPSA id ").count(), sent, "{far}");
        let refusals = log.matches("] ERROR: 535 Authentication failed: wrong name or password 'fred'").count();
        assert!(refusals >= failed, "{log}");
        assert_eq!(log.matches("] INFO: authenticated as 'fred' by ").count(), logged_in, "{log}");
    }
}

/// Neither where nobody may log in, nor where it takes TLS, nor where it is only a proof that is taken.
#[test]
fn a_password_that_comes_all_the_same_is_in_no_log() {
    let lines = [PASSWORD, WRONG].map(|password| {
        let plain = Base64::encode_string(format!("\0fred\0{password}").as_bytes());
        let encoded = Base64::encode_string(password.as_bytes());
        let long = encoded.repeat(500);
        format!(
            "EHLO client.example\r\nAUTH PLAIN\r\n{long}\r\nAUTH PLAIN {plain}\r\nAUTH PLAIN\r\n{plain}\r\nAUTH LOGIN\r\n\
             ZnJlZA==\r\n{encoded}\r\nAUTH LOGIN {plain} {encoded}\r\nAUTH {encoded}\r\nAUTH SCRAM-SHA-256 {encoded}\r\n\
             {password}\r\nAUTH CRAM-MD5\r\n{encoded}\r\nauth\tplain\t{plain}\r\n"
        )
    });
    for directives in ["", "auth off\n", "auth_plaintext on\n", "auth require\nauth_plaintext on\n", "tls require\n"] {
        for flags in ["a", "-", "s", "r", "sw"] {
            for script in &lines {
                let limits = "limit.smtp_unknowncmd 100\nlimit.smtp_failcmds 100\n";
                let scratch = with_accounts(&format!("{directives}{limits}debug {flags}\n"));
                let mut session = scratch.greeted();
                session.converse(script);
                drop(session);
                assert_no_secret(&scratch.log().join("\n"));
            }
        }
    }
}

#[test]
fn who_has_logged_in_is_forgotten_at_starttls() {
    let scratch = with_accounts("auth_plaintext on\ncopy rcpt_to * pipe env > environment\n");
    let mut session = scratch.greeted();
    let plain = format!("AUTH PLAIN {}", Base64::encode_string(format!("\0fred\0{PASSWORD}").as_bytes()));
    session.exchange("EHLO client.example", "250-");
    session.exchange(&plain, "235 2.7.0 ");
    assert!(session.offer("far@mx.example").starts_with("250 "));
    session.start_tls(&client());
    assert!(session.ask("EHLO client.example").contains("\n250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n"));
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<far@mx.example>", "550 5.7.1 Remote not configured to deliver for this address");
    session.exchange("RSET", "250 ");
    session.exchange(&plain, "235 2.7.0 ");
    session.exchange("EHLO client.example", "250-");
    session.exchange("RSET", "250 ");
    assert!(session.deliver(&["far@mx.example"]).starts_with("250 "));
    session.quit();
    let environment = scratch.read("environment");
    for variable in ["AUTH_USER=fred", "CLIENT_PROTOCOL=ESMTPSA"] {
        assert!(environment.lines().any(|line| line == variable), "{environment}");
    }
    // Who sent it is nobody's business but ours.
    assert!(!scratch.read("far").contains("fred"));
}

#[test]
fn a_header_says_that_somebody_has_logged_in() {
    let scratch = with_accounts("limit.smtp_ascii off\n");
    let mut session = secured(&scratch);
    let plain = Base64::encode_string(format!("\0fred\0{PASSWORD}").as_bytes());
    session.exchange("EHLO client.example", "250-");
    session.exchange(&format!("AUTH PLAIN {plain}"), "235 2.7.0 ");
    for (parameters, protocol) in [("", "ESMTPSA"), (" SMTPUTF8", "UTF8SMTPSA")] {
        session.exchange(&format!("MAIL FROM:<a@b.example>{parameters}"), "250 ");
        session.exchange("RCPT TO:<far@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.exchange("Subject: hello\r\n.", "250 ");
        let far = scratch.read("far");
        assert!(far.contains(&format!(" with {protocol} id ")), "{far}");
    }
    session.quit();
}

/// What somebody has heard of an exchange leads nowhere in the next one.
#[test]
fn our_part_of_the_nonce_is_another_each_time() {
    let scratch = with_accounts("");
    let first = format!("AUTH SCRAM-SHA-256 {}", Base64::encode_string(b"n,,n=fred,r=x"));
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let mut session = secured(&scratch);
        session.exchange("EHLO client.example", "250-");
        for _ in 0..2 {
            let challenge = session.exchange(&first, "334 ");
            let challenge = Base64::decode_vec(challenge.trim_start_matches("334 ").trim_end()).unwrap();
            let challenge = String::from_utf8(challenge).unwrap();
            let (nonce, rest) = challenge.split_once(',').unwrap();
            assert!(nonce.starts_with("r=x") && nonce.len() >= "r=x".len() + 18, "{challenge}");
            assert_eq!(rest, format!("s={},i=4096", Base64::encode_string(b"salt of an account")));
            nonces.push(nonce.to_owned());
            session.exchange("*", "501 5.7.0 ");
        }
        session.quit();
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 4, "{nonces:?}");
}

/// Nor anything of somebody's password, whoever knows his name: what is made up for others is made of no password.
#[test]
fn scram_does_not_tell_who_has_an_account() {
    let scratch = with_accounts("");
    let mut heard = Vec::new();
    for password in [PASSWORD, WRONG] {
        scratch.write("accounts", format!("{}:secret:a secret that nobody can guess\n", account(password)));
        for name in ["fred", "nobody"] {
            let mut session = secured(&scratch);
            session.exchange("EHLO client.example", "250-");
            let first = Base64::encode_string(format!("n,,n={name},r=x").as_bytes());
            let challenge = session.exchange(&format!("AUTH SCRAM-SHA-256 {first}"), "334 ");
            let challenge = Base64::decode_vec(challenge.trim_start_matches("334 ").trim_end()).unwrap();
            let challenge = String::from_utf8(challenge).unwrap();
            let (nonce, rest) = challenge.split_once(',').unwrap();
            let last =
                Base64::encode_string(format!("c=biws,{nonce},p={}", Base64::encode_string(&[0; 32])).as_bytes());
            let refusal = session.exchange(&last, "535 5.7.8 ");
            session.quit();
            heard.push((rest.to_owned(), refusal));
        }
    }
    let [fred, nobody, fred_later, nobody_later] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((fred, nobody), (fred_later, nobody_later));
    assert_eq!(fred.1, nobody.1);
    assert!(fred.0 != nobody.0 && fred.0.len() == nobody.0.len() && nobody.0.ends_with(",i=4096"), "{heard:?}");
}

#[test]
fn three_failures_end_the_session() {
    let scratch = with_accounts("");
    let mut session = secured(&scratch);
    session.exchange("EHLO client.example", "250-");
    for (name, text) in [("fred", "failed: wrong"), ("nobody", "failed: wrong"), ("fred", "failed too often")] {
        let plain = Base64::encode_string(format!("\0{name}\0{WRONG}").as_bytes());
        session.exchange(&format!("AUTH PLAIN {plain}"), &format!("535 5.7.8 Authentication {text}"));
    }
    assert_eq!(session.rest(), "");
    let log = wait_until("the end of the session", || {
        let log = scratch.log();
        log.iter().any(|line| line.contains("connection closed")).then_some(log)
    });
    assert_eq!(log.iter().filter(|line| line.contains("ERROR: 535 ")).count(), 3, "{log:#?}");
}

/// STARTTLS, behind which everything begins anew, gives nobody more tries.
#[test]
fn failures_are_remembered_at_starttls() {
    let scratch = with_accounts("auth_plaintext on\n");
    let plain = format!("AUTH PLAIN {}", Base64::encode_string(format!("\0fred\0{WRONG}").as_bytes()));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange(&plain, "535 5.7.8 Authentication failed: wrong");
    session.exchange(&plain, "535 5.7.8 Authentication failed: wrong");
    session.start_tls(&client());
    session.exchange("EHLO client.example", "250-");
    session.exchange(&plain, "535 5.7.8 Authentication failed too often");
    assert_eq!(session.rest(), "");
}
