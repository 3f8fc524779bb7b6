//! The sink: somebody wants to see what programs send, or a job waits for it. Each test reads as the README does.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use testkit::{Client, Daemon, debian, repository};

use crate::support::{MAILRECV, Scratch};

/// `mailrecv listen` shows what swaks and Python send to the person who started it: with colours and the time, and with
/// nothing in front of the lines.
#[test]
fn a_person_sees_what_programs_send() {
    let scratch = Scratch::new();
    let sink = repository::path("etc/mailrecv-sink.conf");
    let on_a_terminal = format!("{MAILRECV} -c {} listen 127.0.0.1:0", sink.display());
    let mut command = scratch.command("script", &["-qefc", &on_a_terminal, "/dev/null"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let (mut terminal, server) = listening(&scratch, command);

    let mut swaks = debian::command("swaks", "swaks");
    swaks.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()]);
    swaks.args([
        "--from",
        "sender@test.com",
        "--to",
        "test@yourdomain.com",
        "--header",
        "Subject: Hello [you] \u{1b}[31m",
    ]);
    swaks.args(["--body", "It's\\there.\\n"]);
    succeeds(swaks);
    let python = format!(
        "import smtplib\n\
         server = smtplib.SMTP('{}', {})\n\
         server.sendmail('sender@test.com', ['recipient@test.com'], 'Subject: Test\\n\\nTest message')\n\
         server.quit()",
        server.ip(),
        server.port()
    );
    let mut command = debian::command("python3", "python3");
    command.args(["-c", &python]);
    succeeds(command);

    let said =
        terminal.until("both mails", |said| (said.matches("\n\u{1b}[32m====").count() == 2).then(|| said.to_owned()));
    assert_eq!(said.matches("\u{1b}[1;32m=== NEW EMAIL ===\u{1b}[0m ").count(), 2, "{said}");
    for line in [
        "\u{1b}[36mEnvelope sender:\u{1b}[0m <sender@test.com>\r\n",
        "\u{1b}[36mEnvelope recipients:\u{1b}[0m <test@yourdomain.com>\r\n",
        "\u{1b}[36mPeer:\u{1b}[0m 127.0.0.1",
        "\u{1b}[36mFrom:\u{1b}[0m sender@test.com\r\n",
        "\u{1b}[36mTo:\u{1b}[0m test@yourdomain.com\r\n",
        "\u{1b}[36mSubject:\u{1b}[0m Hello [you] <0x1b>[31m\r\n",
        "\u{1b}[36mSubject:\u{1b}[0m Test\r\n",
        "\r\nTest message\r\n",
    ] {
        assert!(said.contains(line), "{line:?} in\n{said}");
    }
    let mut of_the_log = said.lines().filter(|line| line.contains("MAILRECV["));
    assert!(of_the_log.all(|line| line.contains("running as root")), "{said}");
}

/// A job waits for three mails: where to send them is in a file, and the end is that of the last one.
#[test]
fn a_job_waits_for_mail() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to fred@mx.example eml mails\n");
    let ready = scratch.path("ready");
    let arguments = ["--count", "3", "--ready-file", ready.to_str().unwrap(), "127.0.0.1:0", "[::1]:0"];
    let (mut job, server) = listening(&scratch, scratch.mailrecv(&[&["listen"][..], &arguments].concat()));
    let written = scratch.read("ready");
    assert!(written.starts_with(&format!("{server}\n[::1]:")) && written.lines().count() == 2, "{written}");

    let mut first = Client::connect(server);
    first.expect("220 ");
    first.deliver_subject("fred@mx.example", "one");
    first.exchange("MAIL FROM:<>", "250 ");
    first.exchange("RCPT TO:<nobody@mx.example>", "550 ");
    first.exchange("RSET", "250 ");
    let mut second = Client::connect(server);
    second.expect("220 ");
    second.deliver_subject("fred@mx.example", "two");
    second.exchange("QUIT", "221 ");
    thread::sleep(Duration::from_millis(300));
    assert!(job.ended().is_none(), "{}", job.output());
    // The first one stays connected.
    first.deliver_subject("fred@mx.example", "three");
    assert_eq!(job.exit_code(), 0);
    assert!(first.rest().starts_with("421 "));
    assert_eq!(scratch.count_files("mails"), 3);
}

#[test]
fn a_job_does_not_wait_for_ever() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * eml mails\n");
    let (mut job, server) =
        listening(&scratch, scratch.mailrecv(&["listen", "--count", "1", "--timeout", "1", "127.0.0.1:0"]));
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    assert_eq!(job.exit_code(), 124);
    assert!(peer.rest().starts_with("421 "));
    assert_eq!(scratch.count_files("mails"), 0);
}

/// What the command has started, and where that listens.
fn listening(scratch: &Scratch, command: Command) -> (Daemon, SocketAddr) {
    let mut daemon = Daemon::start(command, scratch.path("said"));
    let address = daemon.until("the ready line", |said| {
        let addresses = said.split_once('\n')?.0.strip_prefix("mailrecv: listening on ")?;
        addresses.split_whitespace().next()?.parse().ok()
    });
    (daemon, address)
}

#[track_caller]
fn succeeds(mut command: Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
}
