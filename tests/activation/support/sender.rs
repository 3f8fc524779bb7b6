//! Programs that people send mail with.

use std::net::SocketAddr;
use std::process::Command;

use testkit::{Session, debian, repository, succeeds};

/// A way to send a mail to fred@example.com.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    /// swaks, the Swiss army knife for SMTP.
    Swaks,
    /// Python's smtplib.
    Smtplib,
    /// msmtp, which sends for cron and for mail programs.
    Msmtp,
    /// smtp-source, Postfix's load generator.
    SmtpSource,
    /// A person at `nc`, who reads each reply before typing on; lines end with LF.
    NcTyped,
    /// The same lines from a here-document, all of them sent before the greeting arrives.
    NcHeredoc,
}

impl Sender {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Swaks, Self::Smtplib, Self::Msmtp, Self::SmtpSource, Self::NcTyped, Self::NcHeredoc];

    /// Sends a mail. Fails if the server does not take it.
    pub(crate) fn send(self, server: SocketAddr, subject: &str) {
        match self {
            Self::Swaks => swaks(server, subject),
            Self::Smtplib => smtplib(server, &message(subject)),
            Self::Msmtp => msmtp(server, &message(subject)),
            Self::SmtpSource => smtp_source(server, &message(subject)),
            Self::NcTyped => nc_typed(server, subject),
            Self::NcHeredoc => nc_heredoc(server, subject),
        }
    }
}

fn swaks(server: SocketAddr, subject: &str) {
    let mut swaks = debian::command("swaks", "swaks");
    if server.is_ipv6() {
        swaks.arg("-6");
    }
    swaks
        .args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()])
        .args(["--helo", "mydomain.com", "--from", "me@mydomain.com", "--to", "fred@example.com"])
        .args(["--header", &format!("Subject: {subject}"), "--body", "Test message line 1.\\nTest line 2.\\n"]);
    succeeds(swaks, "");
}

fn smtplib(server: SocketAddr, message: &str) {
    let mut python = debian::command("python3", "python3");
    python.arg(repository::path("tests/clients/programs/python_smtplib.py"));
    python.args([server.ip().to_string(), server.port().to_string()]).args(["me@mydomain.com", "fred@example.com"]);
    succeeds(python, &message.replace('\n', "\r\n"));
}

fn msmtp(server: SocketAddr, message: &str) {
    let mut msmtp = debian::command("msmtp", "msmtp");
    // No configuration, and headers as they are.
    msmtp.args(["--file=/dev/null", "--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off"]);
    msmtp.arg(format!("--host={}", server.ip())).arg(format!("--port={}", server.port()));
    msmtp.args(["--domain=mydomain.com", "--from=me@mydomain.com", "fred@example.com"]);
    succeeds(msmtp, message);
}

fn smtp_source(server: SocketAddr, message: &str) {
    let mut smtp_source = debian::postfix("smtp-source");
    smtp_source.args(["-M", "mydomain.com", "-f", "me@mydomain.com", "-t", "fred@example.com", "-F", "/dev/stdin"]);
    smtp_source.arg(server.to_string());
    succeeds(smtp_source, message);
}

/// The session that the original's document shows.
fn nc_typed(server: SocketAddr, subject: &str) {
    let mut peer = Session::over_pipes(nc(server));
    peer.types();
    assert_eq!(peer.reply(), "220 mail.example.com ESMTP (RFC 821/822) mailrecv");
    for (command, code) in [
        ("help", "214"),
        ("helo mydomain.com", "250"),
        ("mail from: <me@mydomain.com>", "250"),
        ("rcpt to: <fred@example.com>", "250"),
        ("data", "354"),
        (&format!("{}.", message(subject)), "250"),
        ("quit", "221"),
    ] {
        peer.exchange(command, code);
    }
    // Debian's nc ends when both sides have ended.
    assert_eq!(peer.end(), (Vec::new(), 0));
}

fn nc_heredoc(server: SocketAddr, subject: &str) {
    let session = format!(
        "helo mydomain.com\nmail from: <me@mydomain.com>\nrcpt to: <fred@example.com>\ndata\n{}.\nquit\n",
        message(subject)
    );
    let replies = succeeds(nc(server), &session);
    let codes: Vec<&str> = replies.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "221"], "{replies}");
}

fn nc(server: SocketAddr) -> Command {
    let mut nc = debian::command("netcat-openbsd", "nc.openbsd");
    nc.args([server.ip().to_string(), server.port().to_string()]);
    nc
}

/// A message as it is typed.
fn message(subject: &str) -> String {
    format!("From: Me <me@mydomain.com>\nSubject: {subject}\n\nTest message line 1.\nTest line 2.\n")
}
