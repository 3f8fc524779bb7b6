//! Clients that end with the message: how each is started.

use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use testkit::debian;
use testkit::process::succeeds_within;

use crate::client::{Mail, built, program, run};
use crate::messages::SENDER;

pub fn smtplib(mail: &Mail<'_>) -> String {
    let mut python = Command::new(SYSTEM_PYTHON);
    python.arg(program("python_smtplib.py"));
    mail.feed_program(python)
}

pub fn curl(mail: &Mail<'_>) -> String {
    let mut curl = debian::command("curl", "curl");
    curl.args(["--disable", "--no-progress-meter", "--verbose", "--upload-file", "-", "--mail-rcpt-allowfails"]);
    curl.args(["--url", &format!("smtp://{}/client.example", mail.server), "--mail-from", mail.sender]);
    curl.args(mail.recipients.iter().flat_map(|recipient| ["--mail-rcpt", recipient]));
    mail.feed(curl)
}

pub fn swaks(mail: &Mail<'_>) -> String {
    let mut swaks = debian::command("swaks", "swaks");
    swaks.args(["--server", &mail.server.ip().to_string(), "--port", &mail.server.port().to_string()]);
    swaks.args(["--helo", "client.example", "--from", mail.sender, "--to", &mail.recipients.join(",")]);
    swaks.args(["--suppress-data", "--data", "@/dev/stdin"]);
    mail.feed(swaks)
}

pub fn msmtp(mail: &Mail<'_>) -> String {
    let mut msmtp = debian::command("msmtp", "msmtp");
    // No configuration, and headers as they are.
    msmtp.args(["--file=/dev/null", "--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off"]);
    msmtp.arg(format!("--host={}", mail.server.ip())).arg(format!("--port={}", mail.server.port()));
    msmtp.args(["--domain=client.example", &format!("--from={}", mail.sender), "--"]).args(mail.recipients);
    mail.feed(msmtp)
}

pub fn nodemailer(mail: &Mail<'_>) -> String {
    let mut node = debian::command("nodejs", "node");
    // Where Debian has its packages, of which another build of Node.js does not know.
    node.env("NODE_PATH", "/usr/share/nodejs").arg(program("nodemailer.js"));
    mail.feed_program(node)
}

pub fn emailjs(mail: &Mail<'_>) -> String {
    let mut node = debian::command("nodejs", "node");
    node.env("EMAILJS", built("emailjs/node_modules/emailjs/dist/index.js")).arg(program("emailjs.mjs"));
    mail.feed_program(node)
}

pub fn net_smtp(mail: &Mail<'_>) -> String {
    let mut perl = debian::command("perl", "perl");
    perl.arg(program("perl_net_smtp.pl"));
    mail.feed_program(perl)
}

pub fn email_sender(mail: &Mail<'_>) -> String {
    let mut perl = debian::command("perl", "perl");
    perl.arg(program("perl_email_sender.pl"));
    mail.feed_program(perl)
}

pub fn phpmailer(mail: &Mail<'_>) -> String {
    let mut php = debian::command("php-cli", "php");
    php.arg(program("phpmailer.php"));
    mail.feed_program(php)
}

pub fn ruby(mail: &Mail<'_>) -> String {
    let mut ruby = debian::command("ruby", "ruby");
    ruby.arg(program("ruby_net_smtp.rb"));
    mail.feed_program(ruby)
}

pub fn go(mail: &Mail<'_>) -> String {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let mut go = debian::command("golang-go", "go");
        go.env("GOCACHE", built("go-cache")).env("GO111MODULE", "off");
        go.args(["build", "-o"]).arg(built("go_net_smtp")).arg(program("go_net_smtp.go"));
        succeeds_within(go, "", LONGEST_BUILD);
    });
    mail.feed_program(Command::new(built("go_net_smtp")))
}

pub fn lettre(mail: &Mail<'_>) -> String {
    static BUILT: Once = Once::new();
    let cargo = |verb| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([verb, "--quiet", "--locked", "--target-dir"]).arg(built("lettre"));
        cargo.arg("--manifest-path").arg(program("lettre/Cargo.toml"));
        cargo
    };
    BUILT.call_once(|| drop(succeeds_within(cargo("build"), "", LONGEST_BUILD)));
    let mut run = cargo("run");
    run.arg("--");
    mail.feed_program(run)
}

pub fn javax_mail(mail: &Mail<'_>) -> String {
    let mut java = debian::command("default-jdk-headless", "java");
    java.args(["-cp", "/usr/share/java/javax.mail.jar:/usr/share/java/javax.activation.jar"]);
    java.arg(program("JavaMail.java"));
    mail.feed_program(java)
}

pub fn twisted(mail: &Mail<'_>) -> String {
    let mut python = Command::new(SYSTEM_PYTHON);
    python.arg(program("python_twisted.py"));
    mail.feed_program(python)
}

pub fn ssmtp(mail: &Mail<'_>) -> String {
    let config = format!("mailhub={}\nhostname=client.example\nFromLineOverride=YES\n", mail.server);
    let mut ssmtp = debian::command("ssmtp", "ssmtp");
    ssmtp.arg(format!("-C{}", mail.folder.write("ssmtp.conf", config).display()));
    ssmtp.arg(format!("-f{}", mail.sender)).args(mail.recipients);
    mail.feed(ssmtp)
}

pub fn s_nail(mail: &Mail<'_>) -> String {
    let mut s_nail = debian::command("s-nail", "s-nail");
    s_nail.args(["-:/", "-S", "v15-compat=yes", "-S", &format!("mta=smtp://{}", mail.server), "-S", "smtp-auth=none"]);
    s_nail.args(["-S", "hostname=client.example", "-S", "nosave", "-S", "mime-encoding=8bit"]);
    s_nail.args(["-S", "ttycharset=utf-8", "-S", "sendcharsets=utf-8"]);
    s_nail.args(["-s", "subject", "-r", mail.sender, "-."]).args(mail.recipients);
    run(s_nail, mail.text())
}

pub fn mutt(mail: &Mail<'_>) -> String {
    let mut mutt = debian::command("mutt", "mutt");
    mutt.args(["-n", "-F", "/dev/null", "-s", "subject"]);
    for setting in [
        &format!("smtp_url=smtp://{}/", mail.server),
        "ssl_starttls=no",
        "ssl_force_tls=no",
        "copy=no",
        "hostname=client.example",
        "from=me@client.example",
        "use_envelope_from=yes",
        &format!("envelope_from_address={}", mail.sender),
        "charset=utf-8",
        "allow_8bit=yes",
    ] {
        mutt.args(["-e", &format!("set {setting}")]);
    }
    mutt.arg("--").args(mail.recipients).env("HOME", mail.folder.path("")).env("LC_ALL", "C.UTF-8");
    run(mutt, mail.text())
}

pub fn git_send_email(mail: &Mail<'_>) -> String {
    let mut git = debian::command("git-email", "git");
    git.current_dir(mail.folder.path("")).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", mail.folder.path(""));
    git.env("GIT_COMMITTER_NAME", "Me").env("GIT_COMMITTER_EMAIL", SENDER);
    git.arg("send-email").arg(format!("--smtp-server={}", mail.server.ip()));
    git.arg(format!("--smtp-server-port={}", mail.server.port())).arg("--smtp-domain=client.example");
    git.args(["--quiet", "--confirm=never", "--suppress-cc=all", "--no-thread", "--8bit-encoding=UTF-8"]);
    git.arg(format!("--from={SENDER}")).arg(format!("--envelope-sender={}", mail.sender));
    git.args(mail.recipients.iter().map(|recipient| format!("--to={recipient}")));
    git.arg(mail.folder.write("message.patch", &mail.message));
    run(git, "")
}

/// The one that Debian's packages are for.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// How long it may take to build a program, on a machine that has to fetch what it needs.
const LONGEST_BUILD: Duration = Duration::from_mins(30);
