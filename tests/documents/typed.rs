//! Examples of the README and the manual pages that need little more than the program, typed as they stand there.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use testkit::daemon::Daemon;
use testkit::{is_root, repository, succeeds};

use crate::examples::{MANUAL, README, REFERENCE, readme_commands};
use crate::support::{CONFIG, LOG, MAILRECV, Scratch, path};

/// What puts files or units into their place.
pub(crate) fn is_installation(command: &str) -> bool {
    let begins = ["install ", "systemctl ", "echo HPFEEDS_SECRET="].iter().any(|words| command.starts_with(words));
    // That of a container's host.
    begins && !command.contains(" -o 8 ")
}

/// What the README installs is there, and what it switches on is what it has installed: typed in their order, with another
/// folder in place of the root.
#[test]
fn the_readme_installs_what_it_switches_on() {
    if !is_root("to give files away") {
        return;
    }
    let scratch = Scratch::new();
    let root = scratch.path("root").display().to_string();
    // What Debian and the packages of others have.
    let others = [
        "etc/xinetd.d",
        "etc/logrotate.d",
        "etc/fail2ban/filter.d",
        "etc/fail2ban/jail.d",
        "etc/systemd/system",
        "usr/sbin",
        "var/log",
    ];
    for folder in others {
        std::fs::create_dir_all(scratch.path("root").join(folder)).unwrap();
    }
    // The system's own manager is not asked: units are switched on by links, and not started.
    let mut script = format!(
        "systemctl() {{\n    case \"$*\" in\n    daemon-reload | 'reload xinetd') ;;\n    \
         'enable --now '*) shift 2 && command systemctl --root={root} enable \"$@\" ;;\n    *) false ;;\n    esac\n}}\n"
    );
    for command in readme_commands().into_iter().filter(|command| is_installation(command)) {
        let mut command = command.replace("target/*/release/mailrecv", MAILRECV);
        for folder in ["etc", "run", "srv", "usr", "var"] {
            command = command.replace(&format!(" /{folder}/"), &format!(" {root}/{folder}/"));
        }
        script += &(command + "\n");
    }
    assert!(script.lines().count() > 40, "{script}");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(repository::path(""));
    succeeds(shell, "");
    for unit in ["mailrecv.socket", "mailrecv-lmtp.socket", "mailrecv-collector.socket", "mailrecv-submission.socket"] {
        let link = scratch.path("root/etc/systemd/system/sockets.target.wants").join(unit);
        assert!(link.symlink_metadata().is_ok(), "{unit} is not switched on");
    }
}

/// Those for Postfix and Exim, but for their folders, and groups that are there without them.
#[test]
fn sockets_for_mail_servers_are_made() {
    if !is_root("to give a socket to a group") {
        return;
    }
    let commands: Vec<String> =
        readme_commands().into_iter().filter(|command| command.contains("listen --socket-group ")).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let scratch = Scratch::with_config("domain mx.example\nuser mail\ndeliver rcpt_to * discard\n");
        let (before, place) = command.split_once(" unix:").unwrap();
        let (options, _) = before.rsplit_once(' ').unwrap();
        let socket = Path::new(place).file_name().unwrap().to_str().unwrap();
        let options = options.strip_prefix("mailrecv ").unwrap();
        let typed = format!("exec {MAILRECV} -c {CONFIG} {options} mail unix:$PWD/{socket}");
        let mut daemon = Daemon::start(scratch.command("sh", &["-c", &typed]), scratch.path("said"));
        daemon.until("the ready line", |said| said.starts_with("mailrecv: listening on unix:/").then_some(()));
        // Debian's number of the group `mail`.
        assert_eq!(scratch.path(socket).metadata().unwrap().gid(), 8);
    }
}

#[test]
fn metrics_are_written_for_others() {
    let example = repository::page_example(MANUAL, "mailrecv metrics >");
    let scratch = Scratch::with_config("domain mx.example\nmetrics_file counted\ndeliver rcpt_to * discard\n");
    scratch.greeted().quit();
    let here = format!("{}/", scratch.path("").display());
    let typed = repository::replaced(
        &example,
        &[("/var/lib/prometheus/node-exporter/", &here), ("mailrecv metrics", "mailrecv -c mailrecv.conf metrics")],
    );
    succeeds(shell(&scratch, &typed), "");
    let told = scratch.read("mailrecv.prom");
    assert!(told.contains("\nmailrecv_sessions_total{end=\"closed\"} 1\n"), "{told}");
}

#[test]
fn a_question_of_the_manual_is_answered() {
    let example = repository::page_example(MANUAL, "jq .reply.code");
    let scratch = Scratch::with_config("domain example.com\ndeliver rcpt_to status@example.com append status\n");
    let typed = repository::replaced(&example, &[("$ mailrecv ", "mailrecv -c mailrecv.conf ")]);
    assert_eq!(succeeds(shell(&scratch, &typed), ""), "250\n");
}

/// What the manual shows of a file that comes along, or of several, is in there, line by line.
#[test]
fn what_the_manual_shows_of_shipped_files_is_in_them() {
    for (words, shipped) in [
        ("service smtp", &["xinetd.d/mailrecv"][..]),
        ("KillMode=mixed", &["systemd-socket/mailrecv.socket", "systemd-socket/mailrecv.service"]),
    ] {
        let shipped: String = shipped.iter().map(|file| repository::text(file)).collect();
        let has = |line: &str| shipped.lines().any(|shipped| same_words(shipped, line));
        let missing: Vec<String> =
            repository::page_example(MANUAL, words).lines().filter(|line| !has(line)).map(str::to_owned).collect();
        assert!(missing.is_empty(), "{missing:#?}");
    }
}

fn same_words(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// Once there is one, who asks cannot find out which accounts there are, which `check` warns of.
#[test]
fn a_secret_is_added_as_the_manual_says() {
    let scratch =
        Scratch::with_config("domain mx.example\nauth_file passwd\nauth_plaintext on\ndeliver rcpt_to * discard\n");
    let account = succeeds(scratch.command(MAILRECV, &["passwd", "--hash", "scram-sha-256", "fred"]), "secret\n");
    scratch.write("passwd", account.lines().last().unwrap().to_owned() + "\n");
    let check = || scratch.run(MAILRECV, &["-c", CONFIG, "check"]).stderr;
    assert!(String::from_utf8_lossy(&check()).contains("has no line `:secret:...`"));
    let example = repository::page_example(REFERENCE, ":secret:$(");
    succeeds(shell(&scratch, &repository::replaced(&example, &[("/etc/mailrecv.passwd", "passwd")])), "");
    let said = check();
    assert!(!String::from_utf8_lossy(&said).contains(":secret:"), "{}", String::from_utf8_lossy(&said));
}

/// A refusal and a delivery, but for what is different each time.
#[test]
fn lines_of_the_log_look_as_the_manual_says() {
    let scratch = Scratch::with_config(
        "domain example.com\nlimit.fcrdns_check off\ndebug +\ndeliver rcpt_to c@d.example append c\n",
    );
    let mut session = scratch.session(&["--peer", "192.0.2.7"]);
    session.expect("220 ");
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<nobody@example.com>", "550 ");
    session.exchange("RCPT TO:<c@d.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: x\r\n.", "250 ");
    session.quit();
    let log = scratch.read(LOG);
    let refusal = repository::page_example(REFERENCE, "] ERROR: 550 No one");
    let logged = log.lines().find(|line| line.contains("ERROR")).expect("the refusal");
    let ((prefix, text), (shown_prefix, shown_text)) =
        (logged.split_once("]: ").unwrap(), refusal.trim_end().split_once("]: ").unwrap());
    assert_eq!((shape(prefix), text), (shape(shown_prefix), shown_text));
    // `... [192.0.2.7] Mail id=ID from=<a@b> to=<c@d> size=123 append '/var/mail/c': delivered`
    let delivery =
        repository::page_example(REFERENCE, "] Mail id=ID").replace("a@b", "a@b.example").replace("c@d", "c@d.example");
    let (_, shown) = delivery.trim_end().split_once("... ").unwrap();
    let shown: Vec<&str> = shown.split(' ').collect();
    let line = log.lines().find(|line| line.contains("] Mail id=")).expect("the delivery");
    let line = line.split_once("]: ").unwrap().1.replace("'c'", "'/var/mail/c'");
    let is_alike = |(word, shown): (&str, &str)| {
        let varies = |name: &str| word.starts_with(name) && shown.starts_with(name);
        word == shown || varies("id=") || varies("size=")
    };
    assert!(line.split(' ').count() == shown.len() && line.split(' ').zip(shown).all(is_alike), "{line}");
}

/// A text with one 0 for each number, a letter for each letter, and a blank for any number of them.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    for character in text.chars() {
        let kind = match character {
            _ if character.is_ascii_digit() => '0',
            _ if character.is_ascii_alphabetic() => 'a',
            other => other,
        };
        if kind == 'a' || !shape.ends_with(kind) {
            shape.push(kind);
        }
    }
    shape
}

fn shell(scratch: &Scratch, typed: &str) -> Command {
    let mut shell = scratch.command("sh", &["-ec", typed]);
    shell.env("PATH", path());
    shell
}

/// Who installs a unit by hand as the README says has the configuration that it is for.
#[test]
fn the_readme_installs_what_units_read() {
    let readme = repository::text(README);
    let units = repository::files("systemd-socket", "service");
    let texts = units.iter().map(|unit| std::fs::read_to_string(unit).unwrap());
    let named: Vec<String> =
        texts.filter_map(|text| Some(text.split_once(" -c /etc/")?.1.split_whitespace().next()?.to_owned())).collect();
    assert!(named.len() > 3, "{named:?}");
    for name in named {
        assert!(readme.contains(&format!("\n    install -m 644 etc/{name} /etc/")), "{name} is not installed");
    }
}
