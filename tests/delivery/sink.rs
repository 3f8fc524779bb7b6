//! The sink: somebody wants to see what programs send, or a job waits for it. Each test reads as the README does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};
use testkit::certificates::{Authority, Request};
use testkit::client::on_the_wire;
use testkit::process::{children, output, peak_memory};
use testkit::tls::TlsClient;
use testkit::{Client, Daemon, debian, repository, wait_until};

use crate::decisions::fields;
use crate::support::{MAILRECV, Scratch, path};

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

/// However many come at once, each stands together: in a file that sessions share, and in a pipe.
#[test]
fn messages_are_not_mixed() {
    let scratch =
        Scratch::with_config("domain mx.example\nlogfile stderr\nprint_lines 1000\ndeliver rcpt_to * print\n");
    let lines: usize = 400;
    for way in ["exec $0 -c mailrecv.conf listen 127.0.0.1:0", "$0 -c mailrecv.conf listen 127.0.0.1:0 2>&1 | cat"] {
        let (mut sink, server) = listening(&scratch, scratch.command("sh", &["-c", way, MAILRECV]));
        thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || {
                    let mut peer = Client::connect(server);
                    peer.expect("220 ");
                    peer.begin_message(&["fred@mx.example"]);
                    peer.send(format!("Subject: {number}\r\n\r\n{}.\r\n", format!("{number}\r\n").repeat(lines)));
                    peer.expect("250 ");
                });
            }
        });
        let end = format!("| {}\n", "=".repeat(40));
        let said = sink.until("all mails", |said| (said.matches(&end).count() == 8).then(|| said.to_owned()));
        let mails = said.split("| === NEW EMAIL ===\n").skip(1).map(|mail| mail.split(&end).next().unwrap());
        for mail in mails {
            let mut texts = mail.lines().filter_map(|line| Some(line.split_once("| ")?.1));
            let number = texts.find_map(|text| text.strip_prefix("Subject: ")).unwrap();
            assert_eq!(texts.filter(|text| *text == number).count(), lines, "{way}: {mail}");
        }
    }
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
    // Whoever waits for it may be another user, as for any file that is made.
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode();
    assert_eq!(mode(ready), mode(scratch.write("another", "")));

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

/// A message that comes again is neither printed nor counted: what a job waits for is as much as it reads.
#[test]
fn a_job_waits_for_other_mail_than_it_has() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlogfile ./log\ndebug +\nexactly_once once\ndeliver rcpt_to fred@mx.example eml mails\n",
    );
    let mut command = scratch.mailrecv(&["listen", "--json", "--ready-file", "ready"]);
    command.args(["--count", "2", "127.0.0.1:0"]);
    let mut job = Daemon::start(command, scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let begun = || {
        let mut peer = Client::connect(server);
        peer.expect("220 ");
        peer.begin_message(&["fred@mx.example"]);
        peer
    };
    let mut unread = begun();
    unread.send("Subject: once\r\n.\r\n");
    wait_until("the delivery", || scratch.read("log").contains("Mail id=").then_some(()));
    unread.reset();
    // It is known that nobody has read the 250 once the session is over.
    wait_until("its end", || scratch.read("log").contains("WARNING").then_some(()));
    let mut again = begun();
    let reply = again.ask("Subject: once\r\n.");
    assert!(reply.starts_with("250 ") && reply.contains("before"), "{reply}");
    again.exchange("QUIT", "221 ");
    thread::sleep(Duration::from_millis(300));
    assert!(job.ended().is_none(), "{}", job.output());
    let mut other = begun();
    other.exchange("Subject: another\r\n.", "250 ");
    assert_eq!(job.exit_code(), 0);
    assert_eq!(scratch.count_files("mails"), 2);
    assert_eq!(job.output().matches("\"subject\":").count(), 2, "{}", job.output());
}

/// A job reads what was sent: an object a message on standard output, however many come at once, and nothing else.
#[test]
fn a_job_reads_mail_as_json() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to fred@mx.example print\n");
    let mut command = scratch.mailrecv(&["listen", "--json", "--attachments", "files", "--ready-file", "ready"]);
    command.args(["--count", "9", "127.0.0.1:0"]);
    let mut job = Daemon::start(command, scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    // Each is more than a pipe takes in one piece.
    let body = format!("{}\r\n", "x".repeat(70)).repeat(2_000);
    thread::scope(|scope| {
        for number in 0..8 {
            let body = &body;
            scope.spawn(move || {
                let mut peer = Client::connect(server);
                peer.expect("220 ");
                peer.begin_message(&["fred@mx.example"]);
                peer.send(format!("Subject: {number}\r\n\r\n{body}.\r\n"));
                peer.expect("250 ");
                peer.exchange("QUIT", "221 ");
            });
        }
    });
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    let refused = peer.offer("nobody@mx.example");
    assert!(refused.starts_with("550 "), "{refused}");
    peer.exchange("RSET", "250 ");
    peer.begin_message(&["fred@mx.example"]);
    peer.send(
        "Subject: =?utf-8?q?=C3=BC?=\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n\
         --x\r\n\r\ntext \u{1b}\"\r\n\
         --x\r\nContent-Type: text/html\r\n\r\n<b>html</b>\r\n\
         --x\r\nContent-Type: image/png; name=\"../a b.png\"\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n\
         --x--\r\n.\r\n",
    );
    peer.expect("250 ");
    peer.exchange("QUIT", "221 ");
    assert_eq!(job.exit_code(), 0);

    let script = "import hashlib, json\n\
        mails = [json.loads(line) for line in open('said') if not line.startswith('mailrecv: listening on ')]\n\
        assert sorted(mail['subject'] for mail in mails[:8]) == list('01234567'), mails\n\
        assert all(mail['text'].count('x') == 140000 for mail in mails[:8])\n\
        mail, = mails[8:]\n\
        assert mail['subject'] == '\u{fc}' and mail['headers'][0]['raw'] == '=?utf-8?q?=C3=BC?=', mail\n\
        assert mail['envelope'] == {'from': 'sender@client.example', 'to': ['fred@mx.example'], 'hello': 'client.example'}, mail\n\
        assert mail['peer']['address'] == '127.0.0.1' and mail['left_out'] == 0, mail\n\
        assert mail['text'] == 'text \\x1b\"' and mail['html'] == '<b>html</b>', mail\n\
        file, = mail['attachments']\n\
        assert (file['name'], file['type'], file['size']) == ('../a b.png', 'image/png', 5), file\n\
        assert file['sha256'] == hashlib.sha256(open(file['file'], 'rb').read()).hexdigest(), file\n\
        print(file['file'].rsplit('/', 1)[1].removeprefix(mail['id']))\n";
    assert_eq!(scratch.python(script, &[]), "-1-.._a_b.png\n");
    assert_eq!(scratch.count_files("files"), 1);
}

/// Who waits for reports gets one of each message that is taken, and of no other: what he makes no room for is kept by
/// its sender, and what has come of such a report is a line by itself.
#[test]
fn mail_that_cannot_be_reported_is_not_taken() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.idle_secs 2\nlogfile log\ndeliver rcpt_to piped@mx.example pipe_raw cat >piped\n\
         deliver rcpt_to * append inbox\ncopy rcpt_to fred@mx.example eml mails\n",
    );
    assert!(scratch.run("mkfifo", &["reports"]).status.success());
    let listen = "exec $0 -c mailrecv.conf listen --json --attachments files --ready-file ready 127.0.0.1:0 >reports";
    let mut job = Daemon::start(scratch.command("sh", &["-c", listen, MAILRECV]), scratch.path("said"));
    let mut reader = File::options().read(true).open(scratch.path("reports")).unwrap();
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    let send = |peer: &mut Client, recipient: &str, text: &str, reply: &str| {
        peer.begin_message(&[recipient]);
        peer.send(format!("Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n{text}\r\n--y\r\nContent-Type: image/png\r\n\r\nx\r\n.\r\n"));
        peer.expect(reply);
    };
    // It is more than a pipe takes.
    let large = format!("{}\r\n", "x".repeat(70)).repeat(2_000);
    send(&mut peer, "fred@mx.example", &large, "451 ");
    assert_eq!(scratch.read("inbox"), "");
    assert_eq!((scratch.count_files("files"), scratch.count_files("mails")), (0, 0));
    let mut broken_off = vec![0; 1024 * 1024];
    let length = reader.read(&mut broken_off).unwrap();
    assert!(length > 4096 && !broken_off[..length].contains(&b'\n'), "{length}");
    // The line that broke off is ended once, whoever has begun it.
    let mut other = Client::connect(server);
    other.expect("220 ");
    for (peer, text) in [(&mut other, "first"), (&mut peer, "second")] {
        send(peer, "fred@mx.example", text, "250 ");
    }
    assert_eq!((scratch.count_files("files"), scratch.count_files("mails")), (2, 2));
    let mut lines = BufReader::new(&reader).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "");
    for text in ["first", "second"] {
        let report: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(report["text"], text);
    }
    // What a command has taken is taken, reported or not.
    drop(lines);
    send(&mut peer, "piped@mx.example", &large, "250 ");
    assert!(scratch.read("piped").contains(&"x".repeat(70)));
    assert!(scratch.read("log").contains("is delivered, but not reported"), "{}", scratch.read("log"));
    // The last reader leaves.
    drop(reader);
    assert_eq!(job.exit_code(), 74);
    assert!(job.output().contains("mailrecv: nobody reads standard output any more\n"), "{}", job.output());
}

/// Sessions take turns, however much they have to say and however slowly it is read.
#[test]
fn large_reports_are_not_mixed() {
    let scratch = Scratch::with_config("domain mx.example\nlogfile log\ndeliver rcpt_to * discard\n");
    assert!(scratch.run("mkfifo", &["reports"]).status.success());
    let listen = "exec $0 -c mailrecv.conf listen --json --ready-file ready 127.0.0.1:0 >reports";
    let mut job = Daemon::start(scratch.command("sh", &["-c", listen, MAILRECV]), scratch.path("said"));
    let reader = File::open(scratch.path("reports")).unwrap();
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let peers = ["a", "b", "c", "d"].map(|letter| {
        thread::spawn(move || {
            let mut peer = Client::connect(server);
            peer.expect("220 ");
            for _ in 0..2 {
                peer.begin_message(&["fred@mx.example"]);
                peer.send(format!("\r\n{}.\r\n", format!("{}\r\n", letter.repeat(70)).repeat(2_000)));
                peer.expect("250 ");
            }
        })
    });
    let lines: Vec<String> = BufReader::new(reader).lines().take(8).map(Result::unwrap).collect();
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    for line in lines {
        let report: Value = serde_json::from_str(&line).unwrap();
        let text: String = report["text"].as_str().unwrap().split_whitespace().collect();
        assert_eq!(text, text[..1].repeat(140_000));
    }
}

/// Who has shown a message and stays connected keeps nobody from showing another.
#[test]
fn who_has_had_its_turn_lets_others_have_one() {
    let scratch = Scratch::with_config("domain mx.example\nlimit.idle_secs 20\nlogfile log\ndeliver rcpt_to * print\n");
    let (_job, server) = listening(&scratch, scratch.mailrecv(&["listen", "127.0.0.1:0"]));
    let [mut first, mut second] = [(); 2].map(|()| Client::connect(server));
    for peer in [&mut first, &mut second] {
        peer.expect("220 ");
        peer.deliver_subject("fred@mx.example", "shown");
    }
    first.deliver_subject("fred@mx.example", "shown");
    assert_eq!(scratch.read("log").matches("| Subject: shown").count(), 3);
}

/// Who wants one message and has got it need not stay for the end.
#[test]
fn a_job_reads_one_mail_and_leaves() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * discard\n");
    let pipeline = "$0 -c mailrecv.conf listen --json --count 1 --ready-file ready 127.0.0.1:0 | head -n 1";
    let command = scratch.command("bash", &["-o", "pipefail", "-c", pipeline, MAILRECV]);
    let mut job = Daemon::start(command, scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    peer.deliver_subject("fred@mx.example", "the one");
    assert_eq!(job.exit_code(), 0, "{}", job.output());
    assert!(job.output().contains(r#""subject":"the one""#), "{}", job.output());
}

/// Whatever comes is shown somehow and taken, to people at a terminal as to programs.
#[test]
fn hostile_mail_is_shown_and_taken() {
    let scratch = Scratch::new();
    let sink = repository::path("etc/mailrecv-sink.conf");
    let listen = format!("{MAILRECV} -c {} listen --json --ready-file ready 127.0.0.1:0 >reports", sink.display());
    let mut command = scratch.command("script", &["-qefc", &listen, "/dev/null"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let mut terminal = Daemon::start(command, scratch.path("said"));
    let server: SocketAddr = terminal.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mails = std::fs::read_dir(repository::path("fuzz/seeds/letter")).unwrap().map(|entry| entry.unwrap().path());
    let mails: Vec<_> = mails.map(|path| std::fs::read(path).unwrap()).collect();
    assert!(mails.len() > 20);
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    peer.exchange("HELO client.example", "250 ");
    for mail in &mails {
        peer.exchange("MAIL FROM:<>", "250 ");
        peer.exchange("RCPT TO:<fred@mx.example>", "250 ");
        peer.exchange("DATA", "354 ");
        peer.send(on_the_wire(mail));
        peer.send("\r\n.\r\n");
        peer.expect("250 ");
    }
    let end = "\u{1b}[32m========================================\u{1b}[0m\r\n";
    let said = terminal.until("all mails", |said| (said.matches(end).count() == mails.len()).then(|| said.to_owned()));
    let own = ["1;32", "32", "33", "36", "0"].map(|colour| format!("\u{1b}[{colour}m"));
    let without_own = own.iter().fold(said.replace("\r\n", "\n"), |said, colour| said.replace(colour, ""));
    let acts = |character: &char| character.is_control() && !matches!(character, '\n' | '\t');
    assert_eq!(without_own.chars().find(acts), None, "{said}");
    let reports = scratch.read("reports");
    let reports: Vec<Value> = reports.lines().map(|report| serde_json::from_str(report).unwrap()).collect();
    assert_eq!(reports.len(), mails.len());
}

/// Node gives its children sockets where a shell gives pipes; systemd does as well.
#[test]
fn a_job_in_node_reads_mail() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * discard\n");
    let script = "const options = { stdio: ['ignore', 'pipe', 'inherit'] }\n\
        const listen = ['-c', 'mailrecv.conf', 'listen', '--json', '--count', '2', '--ready-file', 'ready', '127.0.0.1:0']\n\
        const job = require('child_process').spawn(process.argv[1], listen, options)\n\
        let reports = ''\n\
        job.stdout.on('data', data => reports += data)\n\
        job.on('close', status => {\n\
            for (const line of reports.trim().split('\\n')) console.log(JSON.parse(line).subject)\n\
            process.exit(status)\n\
        })";
    let mut command = debian::command("node", "nodejs");
    command.args(["-e", script, MAILRECV]).current_dir(scratch.path(""));
    let mut job = Daemon::start(command, scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    peer.deliver_subject("fred@mx.example", "one");
    peer.deliver_subject("fred@mx.example", "other");
    assert_eq!(job.exit_code(), 0, "{}", job.output());
    assert!(job.output().ends_with("one\nother\n"), "{}", job.output());
}

/// What one recipient of LMTP has is not what another has: each report has files of its own.
#[test]
fn each_recipient_of_lmtp_has_attachments_of_its_own() {
    let scratch = Scratch::with_config("domain mx.example\nprotocol lmtp\nlogfile log\ndeliver rcpt_to * discard\n");
    let listen =
        "exec $0 -c mailrecv.conf listen --json --attachments files --ready-file ready --count 1 127.0.0.1:0 >reports";
    let mut job = Daemon::start(scratch.command("sh", &["-c", listen, MAILRECV]), scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    peer.exchange("LHLO client.example", "250");
    peer.exchange("MAIL FROM:<>", "250 ");
    peer.exchange("RCPT TO:<fred@mx.example>", "250 ");
    peer.exchange("RCPT TO:<jane@mx.example>", "250 ");
    peer.exchange("DATA", "354 ");
    peer.send("Content-Type: image/png; name=a.png\r\n\r\nx\r\n.\r\n");
    peer.expect("250 ");
    peer.expect("250 ");
    assert_eq!(job.exit_code(), 0, "{}", job.output());
    let reports = scratch.read("reports");
    let reports: Vec<Value> = reports.lines().map(|report| serde_json::from_str(report).unwrap()).collect();
    let file = |report: &Value| report["attachments"][0]["file"].as_str().unwrap().to_owned();
    assert_eq!(reports.len(), 2);
    assert_ne!(file(&reports[0]), file(&reports[1]));
    assert_eq!(scratch.count_files("files"), 2);
    assert!(
        reports.iter().all(|report| file(report).ends_with("a.png") && std::path::Path::new(&file(report)).exists())
    );
}

/// Each field says what was so, also where that is the exception: TLS, a user, several recipients, several texts, attachments
/// of one name, fields that come twice, and more parts than are looked at.
#[test]
fn a_report_says_what_was_so() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlogfile log\nauth_user fred pencil\ntls_certificate own.pem\ntls_key own.key\n\
         deliver rcpt_to * discard\n",
    );
    let authority = Authority::new();
    authority.issue(&scratch.path(""), "own", &Request::of(&["mx.example"]));
    let listen =
        "exec $0 -c mailrecv.conf listen --json --attachments files --ready-file ready --count 1 127.0.0.1:0 >reports";
    let mut job = Daemon::start(scratch.command("sh", &["-c", listen, MAILRECV]), scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    peer.exchange("EHLO client.example", "250");
    peer.start_tls(&TlsClient::new(&authority.root(), "mx.example"));
    peer.exchange("EHLO [192.0.2.1]", "250");
    peer.exchange(&format!("AUTH PLAIN {}", Base64::encode_string(b"\0fred\0pencil")), "235 ");
    peer.exchange("MAIL FROM:<\"a b\"@client.example>", "250 ");
    peer.exchange("RCPT TO:<fred@mx.example>", "250 ");
    peer.exchange("RCPT TO:<jane@mx.example>", "250 ");
    peer.exchange("DATA", "354 ");
    let mail = format!(
        "Subject: one\r\nSubject: =?utf-8?q?t=77o?=\r\n\tthree\r\nX-Name: \u{fc}\r\n\
         Content-Type: multipart/mixed; boundary=x\r\n\r\n\
         --x\r\n\r\nfirst\r\n--x\r\nContent-Type: text/html\r\n\r\n<p>\r\n\
         --x\r\nContent-Type: image/png; name=a\r\n\r\n1\r\n--x\r\nContent-Type: image/png; name=a\r\n\r\n22\r\n\
         --x\r\n\r\nsecond\r\n{}--x--\r\n",
        "--x\r\nContent-Type: a/b\r\n\r\n\r\n".repeat(200)
    );
    peer.send(format!("{mail}.\r\n"));
    let reply = peer.expect("250 ");
    assert_eq!(job.exit_code(), 0, "{}", job.output());
    let report: Value = serde_json::from_str(&scratch.read("reports")).unwrap();
    for (field, value) in [
        ("/id", json!(reply.rsplit_once("id=").unwrap().1.trim_end())),
        ("/peer/address", json!("127.0.0.1")),
        ("/user", json!("fred")),
        ("/protocol", json!("ESMTPSA")),
        ("/tls", json!(true)),
        ("/envelope/hello", json!("[192.0.2.1]")),
        ("/envelope/from", json!("\"a b\"@client.example")),
        ("/envelope/to", json!(["fred@mx.example", "jane@mx.example"])),
        ("/size", json!(mail.len())),
        ("/subject", json!("one")),
        ("/headers/1", json!({"name": "Subject", "value": "two three", "raw": "=?utf-8?q?t=77o?=\n\tthree"})),
        ("/headers/2/value", json!("\u{fc}")),
        ("/text", json!("first\nsecond")),
        ("/html", json!("<p>")),
        ("/attachments/0/size", json!(1)),
        ("/attachments/1/size", json!(2)),
        ("/left_out", json!(0)),
        ("/more_parts", json!(true)),
    ] {
        assert_eq!(report.pointer(field), Some(&value), "{field}: {report:#}");
    }
    for (number, content) in ["1", "22"].into_iter().enumerate() {
        let attachment = &report["attachments"][number];
        let file = attachment["file"].as_str().unwrap();
        assert!(file.ends_with(&format!("{}-{}-a", report["id"].as_str().unwrap(), number + 1)), "{file}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), content);
        let sum = scratch.run("sha256sum", &[file]);
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(sum.split(' ').next(), attachment["sha256"].as_str());
    }
}

/// However much longer than the message a report is, there is not all of it in memory, nor of the message twice.
#[test]
fn a_report_is_longer_than_what_it_takes_of_memory() {
    let scratch = Scratch::with_config("domain mx.example\nlogfile log\ndeliver rcpt_to * discard\n");
    let listen = "exec $0 -c mailrecv.conf listen --json --ready-file ready 127.0.0.1:0 >reports";
    let mut job = Daemon::start(scratch.command("sh", &["-c", listen, MAILRECV]), scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    // Each of these octets is six in the report.
    let text = format!("{}\r\n", "\u{1b}".repeat(70)).repeat(60_000);
    let attachment = format!("{}\r\n", "QUJD".repeat(18)).repeat(60_000);
    for body in [
        format!("\r\n{text}"),
        format!("Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n{attachment}"),
        format!("Content-Transfer-Encoding: base64\r\n\r\n{attachment}"),
        format!("X-Long: {}\r\n\r\n", text.replace("\r\n", "\r\n\t")),
    ] {
        let mut peer = Client::connect(server);
        peer.expect("220 ");
        peer.begin_message(&["fred@mx.example"]);
        peer.send(format!("{body}.\r\n"));
        peer.expect("250 ");
        let session = children(job.pid()).trim().parse().map(Pid::from_raw).expect("one session");
        let peak = peak_memory(session).expect("its peak") * 1024;
        assert!(peak < 4 * body.len() as u64, "{peak} bytes of memory for {} bytes of mail", body.len());
        peer.exchange("QUIT", "221 ");
        wait_until("its end", || children(job.pid()).is_empty().then_some(()));
    }
    let reports = scratch.read("reports");
    let reports: Vec<Value> = reports.lines().map(|report| serde_json::from_str(report).unwrap()).collect();
    assert_eq!(reports[0]["text"].as_str().unwrap().matches('\u{1b}').count(), 70 * 60_000);
    assert_eq!(reports[1]["attachments"][0]["size"], 54 * 60_000);
    assert_eq!(reports[2]["text"].as_str().unwrap(), "ABC".repeat(18 * 60_000));
    assert_eq!(reports[3]["headers"][0]["raw"].as_str().unwrap().matches('\u{1b}').count(), 70 * 60_000);
}

/// Better to learn of it now than from mail that is never taken: as those whom sessions become, if somebody makes them that.
#[test]
fn a_folder_where_no_files_can_be_made_is_told_at_once() {
    let scratch = Scratch::with_config("domain mx.example\nuser mail\nlogfile stderr\ndeliver rcpt_to * discard\n");
    scratch.write("file", "");
    for folder in ["file", "file/files", "no/files", "files"] {
        let mut command = scratch.mailrecv(&["listen", "--json", "--attachments", folder, "--timeout", "1"]);
        command.arg("127.0.0.1:0");
        let output = output(command);
        let said = String::from_utf8(output.stderr).unwrap();
        let path = scratch.path(folder);
        let who =
            if geteuid().is_root() { "user `mail`, whom sessions become, cannot make" } else { "no files can be made" };
        let is_made = folder == "files" && !geteuid().is_root();
        assert_eq!(output.status.code(), Some(if is_made { 124 } else { 71 }), "{said}");
        let is_told = said.starts_with(&format!("mailrecv: --attachments {}: {who}", path.display()));
        assert!(is_made || is_told && said.lines().count() == 1, "{said}");
    }
    if !geteuid().is_root() {
        return;
    }
    assert!(!scratch.path("files").exists());
    scratch.run("mkdir", &["theirs"]);
    scratch.run("chmod", &["o+rx", "."]);
    scratch.run("chmod", &["o+rwx", "theirs"]);
    // It is made, and then it is there.
    for _ in 0..2 {
        let mut command = scratch.mailrecv(&["listen", "--json", "--attachments", "theirs/files", "--timeout", "1"]);
        command.arg("127.0.0.1:0");
        assert_eq!(output(command).status.code(), Some(124));
        let made = scratch.path("theirs/files").metadata().unwrap();
        assert_eq!((made.uid() != 0, made.mode() & 0o777), (true, 0o700));
        assert_eq!(scratch.count_files("theirs"), 0);
    }
}

/// One object a message, in the documented form.
#[test]
fn a_message_for_programs_has_every_field() {
    let page = repository::text("etc/man/mailrecv.8");
    let section = page.split(".Sh MESSAGES FOR PROGRAMS").nth(1).expect("the section").split("\n.Sh ").next().unwrap();
    let documented =
        section.lines().filter_map(|line| line.strip_prefix(".It Va ")).flat_map(|names| names.split(" , "));
    let mut documented: Vec<String> = documented.map(str::to_owned).collect();
    let scratch = Scratch::with_config("domain mx.example\nlogfile log\ndeliver rcpt_to * discard\n");
    let listen = "exec $0 -c mailrecv.conf listen --json --ready-file ready --count 1 127.0.0.1:0 >reports";
    let mut job = Daemon::start(scratch.command("sh", &["-c", listen, MAILRECV]), scratch.path("said"));
    let server: SocketAddr = job.until("the ready file", |_| scratch.read("ready").trim().parse().ok());
    let mut peer = Client::connect(server);
    peer.expect("220 ");
    peer.begin_message(&["fred@mx.example"]);
    peer.send("Subject: x\r\nContent-Type: image/png\r\n\r\nx\r\n.\r\n");
    peer.expect("250 ");
    assert_eq!(job.exit_code(), 0, "{}", job.output());
    let report: Value = serde_json::from_str(&scratch.read("reports")).unwrap();
    let mut found = Vec::new();
    fields(&report, "", &mut found);
    [&mut documented, &mut found].into_iter().for_each(|names| names.sort());
    found.dedup();
    assert_eq!(found, documented);
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

/// The README's commands, pasted: by somebody at a terminal, and by a job that ran before.
#[test]
fn the_commands_of_the_readme_work() {
    let scratch = Scratch::new();
    symlink(repository::path("etc"), scratch.path("etc")).unwrap();
    let blocks = repository::readme_commands("See what a program sends");
    let [listen, swaks, job] = &blocks[..] else { panic!("{blocks:?}") };
    let shell = |commands: &str| {
        let mut shell = scratch.command("/bin/sh", &["-c", commands]);
        shell.env("PATH", path());
        shell
    };
    let at_any_port = [("mailrecv ", "exec mailrecv "), ("127.0.0.1:2525", "127.0.0.1:0")];
    let (mut sink, server) = listening(&scratch, shell(&repository::replaced(listen, &at_any_port)));
    succeeds(shell(&repository::replaced(swaks, &[("127.0.0.1:2525", &server.to_string())])));
    sink.until("the mail", |said| said.contains("| It works.\n").then_some(()));

    scratch.write("ready", "127.0.0.1:1\n");
    let said = testkit::succeeds(shell(job), "");
    assert!(said.ends_with("\ntrue\n"), "{said}");
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
