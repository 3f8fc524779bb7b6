//! What README.md says that can be typed, typed: each row of its two tables, as it stands there, with real servers; and
//! the lines that a report says to type.
//!
//! Needs root, for the namespaces, and the packages, which are got where they are not there yet.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use smtp_garden::case::Case;
use smtp_garden::compare::Kind;
use smtp_garden::generate::{self, Options};
use smtp_garden::observation::Place;
use smtp_garden::report::{Mutations, Report};

#[test]
fn every_row_of_the_table_of_commands_does_what_it_says() {
    let desk = Desk::new();
    let rows = rows("## What it does");
    // What a row takes, a row above it makes.
    for [typed, says] in &rows {
        match says.split_whitespace().next().unwrap() {
            "shows" if typed == "`smtp-garden servers`" => {
                let shown = desk.types_row(typed, &[]);
                for folder in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes")).unwrap() {
                    let name = folder.unwrap().file_name().into_string().unwrap();
                    assert!(shown.lines().any(|line| line.split_whitespace().next() == Some(&name)), "{name}: {shown}");
                }
                let james = shown.lines().find(|line| line.starts_with("james ")).unwrap();
                assert!(james.split_whitespace().count() > 6, "no reason: {james}");
            }
            // Its servers stand in the other table.
            "keeps" | "holds" if typed.starts_with("`smtp-garden up ") || typed.starts_with("`smtp-garden send ") => {}
            "lists" => {
                assert!(desk.types_row(typed, &[(" [CASES]", "")]).contains("\nend-of-data "));
                let shown = desk.types_row(typed, &[("[CASES]", "duplicates/From")]);
                assert_eq!(shown.lines().count(), 3, "{shown}");
            }
            "writes" => {
                desk.types_row(typed, &[("[CASES]", CASE)]);
                let file = desk.path("FOLDER").join(format!("{CASE}.payload"));
                assert!(fs::read_to_string(file).unwrap().starts_with("smtp-garden payload\n"));
            }
            "holds" if typed.starts_with("`smtp-garden run ") => {
                assert!(says.contains("`--json`") && says.contains("`--html`"));
                let shown = desk.types_row(
                    typed,
                    &[("CASES", CASE), ("A,B", SERVERS), ("\n", " --json REPORT --html PAGE --shrink 10")],
                );
                assert!(shown.contains(CASE) && shown.contains("CVE-2024-27305"), "{shown}");
                assert!(fs::read_to_string(desk.path("PAGE")).unwrap().contains(CASE));
                the_line_of_a_finding_shows_it_again(&desk, &shown);
            }
            "prints" => {
                let shown = desk.types_row(typed, &[("CASES", CASE), ("A,B", SERVERS), ("\n", " --shrink 5")]);
                assert!(shown.starts_with("smtp-garden payload\nname "), "{shown}");
            }
            "shows" if typed == "`smtp-garden grid REPORT`" => {
                let shown = desk.types_row(typed, &[]);
                assert!(shown.contains(CASE) && shown.contains("CVE-2024-27305"), "{shown}");
            }
            "makes" => {
                fs::remove_file(desk.path("PAGE")).unwrap();
                desk.types_row(typed, &[]);
                assert!(fs::read_to_string(desk.path("PAGE")).unwrap().contains(CASE));
            }
            _ => panic!("a row that nobody knows how to run: {typed} | {says}"),
        }
    }
    assert!(rows.len() >= 9, "{rows:?}");
}

/// One that ends the data where it does not end, and some that do not.
const SERVERS: &str = "aiosmtpd/1.4.4,mailrecv,opensmtpd";
const CASE: &str = "end-of-data/LF.CRLF/blob/crlf-header";

/// The last of the lines that the grid has for findings, and those that are in the report.
fn the_line_of_a_finding_shows_it_again(desk: &Desk, shown: &str) {
    let report = desk.report("REPORT");
    let finding =
        report.findings.iter().find(|finding| finding.server == "aiosmtpd/1.4.4" && finding.kind == Kind::More);
    let finding = finding.unwrap();
    assert!(finding.is_smallest && finding.case.contains('~'), "{finding:?}");
    let line = shown.lines().find(|line| line.contains(" --case ") && line.contains(&finding.case)).unwrap().trim();
    assert!(line.starts_with("smtp-garden run --report REPORT "), "{line}");
    // What it adds is only that it is made no smaller. A run that is told of no place for its report keeps it, and says
    // where.
    let shown = desk.types(&format!("{line} --shrink 0"));
    let again = shown.lines().find(|line| line.contains(" --case ")).unwrap();
    let (_, kept) = again.split_once("--report ").unwrap();
    let kept = Report::from_json(&fs::read_to_string(kept.split(' ').next().unwrap()).unwrap()).unwrap();
    assert!(kept.findings.iter().any(|same| same.server == finding.server && same.kind == finding.kind), "{shown}");
    assert_eq!(kept.cases[0].case, report.case(&finding.case).unwrap().case);
}

#[test]
fn every_row_for_who_knows_the_garden_of_containers_does_what_it_says() {
    let desk = Desk::new();
    let rows = rows("## For who knows the SMTP Garden of containers");
    // What is to be up all the while.
    let [_, up] = rows.iter().find(|[_, here]| here.starts_with("`smtp-garden up ")).unwrap();
    let garden = Up::start(&desk, &format!("{} dovecot-lmtp dovecot-submission", words(up)[0]));
    for [there, here] in &rows {
        let typed = words(here);
        match words(there)[..] {
            ["docker compose build soil", ..] => {
                assert!(typed.is_empty());
                let shown = desk.types("smtp-garden servers");
                assert!(shown.lines().any(|line| line.starts_with("echo ") && line.ends_with("here")), "{shown}");
            }
            ["docker build --build-arg=RELAYHOST=echo ..."] => {
                assert!(typed.is_empty());
                let [postfix, exim] = ["postfix", "exim"].map(|name| garden.server(name));
                for address in ["user2@exim.garden", "somebody@elsewhere.example"] {
                    garden.types(&format!("smtp-garden send FILE {} --destination {address}", postfix.port));
                }
                exim.waits_for_mail("user2", "TOKEN-send00000");
                garden.waits_for(" to <somebody@elsewhere.example>:\n");
            }
            ["docker compose up echo postfix exim"] => {
                let named: Vec<_> = garden.servers[..3].iter().map(|server| server.name.as_str()).collect();
                assert_eq!(named, ["echo", "postfix", "exim"]);
                for server in &garden.servers {
                    let greeting =
                        BufReader::new(TcpStream::connect(&*server.on_host).unwrap()).lines().next().unwrap();
                    assert!(greeting.unwrap().starts_with("220"), "{}", server.name);
                }
            }
            ["./sendmsg.py FILE", "./sendmsg.py FILE 2501", "./sendmsg.py FILE localhost 2501"] => {
                assert_eq!((typed.len(), garden.server("echo").port), (3, 2501));
                let shown: BTreeSet<String> = typed.into_iter().map(|line| garden.types(line)).collect();
                assert_eq!(shown.len(), 1, "{shown:?}");
                let shown = shown.first().unwrap();
                assert!(shown.contains("> DATA\\r\\n\n< 354 "), "{shown}");
                assert!(shown.contains("\\r\\n\\r\\nTOKEN-send00000 with \\x00 and \\xff\\r\\n.\\r\\n"), "{shown}");
            }
            ["python3 gen.py -t template.txt --assign __PEER__=\"['a','b']\""] => {
                let line = typed[0].replace("FILE", "template.txt").replace("=a", "=postfix").replace("=b", "=exim");
                let shown = garden.types(&format!("{line} {}", garden.server("postfix").port));
                assert!(
                    shown.contains("RCPT TO:<user1@postfix.garden>") && shown.contains("RCPT TO:<user1@exim.garden>")
                );
                garden.server("postfix").waits_for_mail("user1", "for postfix");
                garden.server("exim").waits_for_mail("user1", "for exim");
            }
            [] if there == "a message for LMTP or a submission server, written by hand" => {
                assert_eq!(typed, ["--lmtp", "--login USER:PASSWORD"]);
                let lmtp = garden.server("dovecot-lmtp");
                let send = format!("smtp-garden send FILE {}", lmtp.port);
                garden.types(&format!("{send} {} --destination user1@{}", typed[0], lmtp.domain));
                lmtp.waits_for_mail("user1", "TOKEN-send00000");
                let submission = garden.server("dovecot-submission");
                let login = typed[1].replace("USER:PASSWORD", "user1:garden");
                let shown = garden.types(&format!("smtp-garden send FILE {} {login}", submission.port));
                assert!(shown.contains("\n< 235 ") && shown.contains("\n< 354 "), "{shown}");
            }
            ["images/exim/home/user1/Maildir"] => {
                assert_eq!(typed, ["up", "home/user1/Maildir"]);
                let exim = garden.server("exim");
                garden.types(&format!("smtp-garden send FILE {} --destination user1@exim.garden", exim.port));
                exim.waits_for_mail("user1", "TOKEN-send00000");
            }
            ["echo"] if there == "the output of `echo`" => {
                assert_eq!(typed, ["up", "run"]);
                garden.waits_for("    TOKEN-send00000 with \\x00 and \\xff\\r\\n");
            }
            ["diffnew.sh", "shownew.sh"] => {
                assert_eq!(typed, ["smtp-garden run"]);
                desk.types(&format!(
                    "{} --file FILE --servers aiosmtpd/1.4.4,aiosmtpd/1.4.4:relay --json REPORT --html PAGE",
                    typed[0]
                ));
                assert!(fs::read_to_string(desk.path("PAGE")).unwrap().contains("aiosmtpd/1.4.4:relay"));
                let report = desk.report("REPORT");
                let messages = report.cases[0].observations.iter().flat_map(|observation| &observation.messages);
                assert!(messages.clone().any(|message| message.place == Place::Wire), "{messages:?}");
            }
            ["purge.sh", "docker compose down"] => assert!(here == "Ctrl-C"),
            _ => panic!("a row that nobody knows how to run: {there} | {here}"),
        }
    }
    let status = garden.interrupt();
    assert!(status.success(), "{status}");
}

#[test]
fn mutations_are_held_until_the_time_is_over_and_can_be_made_again() {
    let desk = Desk::new();
    let run = "smtp-garden run controls/clean/plain mutations/7/3 --once --shrink 0 --servers aiosmtpd/1.4.4,mailrecv";
    let shown = desk.types(&format!("{run} --mutate-for 2s --seed 7 --json REPORT"));
    let report = desk.report("REPORT");
    let Mutations { seed, made } = report.mutations.unwrap();
    assert!(seed == 7 && made > 0, "{made}");
    assert!(shown.contains(&format!("`mutations --seed 7 --mutations {made}`")), "{shown}");
    let again = generate::select(&["mutations".to_owned()], Options { seed, mutations: made }).unwrap();
    let is_named_before = |case: &Case| case.name == "mutations/7/00003";
    assert_eq!(
        (report.cases[0].case.name.as_str(), is_named_before(&report.cases[1].case)),
        ("controls/clean/plain", true)
    );
    let held: Vec<Case> = report.cases[2..].iter().map(|entry| entry.case.clone()).collect();
    assert_eq!(held, again.into_iter().filter(|case| !is_named_before(case)).collect::<Vec<_>>());
    for entry in &report.cases {
        let servers: Vec<&str> = entry.observations.iter().map(|observation| observation.server.as_str()).collect();
        assert_eq!(servers, ["aiosmtpd/1.4.4", "mailrecv"], "{}", entry.case.name);
    }
    let wrong = desk.shell("smtp-garden run --mutate-for 10").output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("as in 10m or 90s"), "{wrong:?}");
}

#[test]
fn a_report_that_has_no_place_is_told_before_a_run_and_one_that_cannot_be_written_is_kept() {
    let desk = Desk::new();
    let run = "smtp-garden run controls/clean/plain --shrink 0";
    for option in ["--json", "--html"] {
        let errors = desk.fails(&format!("{run} --servers nobody {option} no-folder/REPORT"));
        assert!(errors.starts_with("smtp-garden: writing no-folder/REPORT: No such file"), "{errors}");
    }
    // To look whether it can be written leaves nothing, and takes nothing away.
    fs::write(desk.path("PAGE"), "an earlier one").unwrap();
    desk.fails(&format!("{run} --servers nobody --json REPORT --html PAGE"));
    assert!(!desk.path("REPORT").exists());
    assert_eq!(fs::read_to_string(desk.path("PAGE")).unwrap(), "an earlier one");
    // Who is named twice is asked once.
    let line = format!("{run} --servers 'aiosmtpd/1.4.4, aiosmtpd/1.4.4' --json /dev/full --html PAGE");
    let output = desk.shell(&line).output().unwrap();
    let [shown, errors] = [&output.stdout, &output.stderr].map(|octets| String::from_utf8_lossy(octets).into_owned());
    assert!(!output.status.success() && shown.contains("\ncontrols/clean/plain  .\n"), "{shown}\n{errors}");
    assert!(fs::read_to_string(desk.path("PAGE")).unwrap().contains("controls/clean/plain"));
    let (_, kept) = errors.split_once("smtp-garden: the report is in ").unwrap();
    let (kept, why) = kept.split_once(": ").unwrap();
    assert!(why.starts_with("writing /dev/full: No space left on device"), "{errors}");
    let report = Report::from_json(&fs::read_to_string(kept).unwrap()).unwrap();
    assert_eq!(report.server_names().collect::<Vec<_>>(), ["aiosmtpd/1.4.4"]);
    assert!(report.servers[0].absent.is_none());
    let errors = desk.fails(&format!("smtp-garden run --report {kept} --case no/such~7 --servers aiosmtpd/1.4.4"));
    assert_eq!(errors, format!("smtp-garden: `no/such~7` is neither in {kept} nor in a set\n"));
    for line in [format!("send {kept} 1"), format!("run --file {kept} --servers nobody")] {
        let errors = desk.fails(&format!("smtp-garden {line}"));
        assert!(errors.starts_with(&format!("smtp-garden: {kept} is a report: ")), "{errors}");
    }
}

#[test]
fn where_a_server_is_may_be_said_in_one_word_or_two() {
    let desk = Desk::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let ways = [format!("{port}"), format!("localhost {port}"), format!("127.0.0.1:{port}")];
    let visitors = ways.len();
    let server = thread::spawn(move || {
        for client in listener.incoming().take(visitors) {
            io::Write::write_all(&mut client.unwrap(), b"554 nobody is at home\r\n").unwrap();
        }
    });
    for way in ways {
        let output = desk.shell(&format!("smtp-garden send FILE {way}")).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.starts_with("< 554 nobody is at home\n"), "{way}: {output:?}");
    }
    server.join().unwrap();
    let errors = desk.fails("smtp-garden send FILE 99999");
    assert!(errors.starts_with("smtp-garden: `99999` is no port: "), "{errors}");
}

#[test]
fn a_list_may_be_cut_off_by_who_reads_it_and_columns_stand_below_each_other() {
    let desk = Desk::new();
    for line in ["smtp-garden payloads list", "smtp-garden payloads list all", "smtp-garden servers"] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = desk.shell(line).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    }
    let shown = desk.types("smtp-garden servers");
    let at = shown.find("PROTOCOL").unwrap();
    for line in shown.lines().skip(1) {
        assert!(matches!(line.get(at - 1..at + 5), Some(" SMTP " | " LMTP ")), "{line}\n{shown}");
    }
    let errors = desk.fails("smtp-garden up aiosmtpd:relay,nobody");
    assert!(errors.starts_with("smtp-garden: there is no server `nobody`; "), "{errors}");
}

/// The rows of the table behind a heading of README.md, of two cells each.
fn rows(heading: &str) -> Vec<[String; 2]> {
    let (_, behind) = include_str!("../README.md").split_once(&format!("\n{heading}\n")).unwrap();
    let table = behind.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows = table.skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        <[&str; 2]>::try_from(cells).unwrap().map(str::to_owned)
    });
    rows.collect()
}

/// What stands in backticks.
fn words(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Where somebody sits and types: a folder with the files that README.md names, and the program in the search path.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "cache"] {
            fs::create_dir(desk.path(folder)).unwrap();
        }
        symlink(std::env::var_os("CARGO_BIN_EXE_smtp-garden").unwrap(), desk.path("bin/smtp-garden")).unwrap();
        symlink(concat!(env!("CARGO_TARGET_TMPDIR"), "/packages"), desk.path("cache/smtp-garden")).unwrap();
        fs::create_dir_all(concat!(env!("CARGO_TARGET_TMPDIR"), "/packages")).unwrap();
        // In the form of sendmsg.py, with escapes of Python.
        let text = "EHLO client.example\\r\\n\nMAIL FROM:<__SOURCE__>\\r\\n\nRCPT TO:<__DEST__>\\r\\n\nDATA\\r\\n\n\
            From: Sender <sender@client.example>\\r\\nSubject: of its own\\r\\n\\r\\nTOKEN-__TOKEN__ with \\0 and \\377\\r\\n.\\r\\n\n\
            QUIT\\r\\n\n";
        fs::write(desk.path("FILE"), text).unwrap();
        // In that of a template of gen.py.
        let text = "EHLO client.example\\r\\n\nMAIL FROM:<__SOURCE__>\\r\\n\nRCPT TO:<user1@__PEER__.garden>\\r\\n\nDATA\\r\\n\n\
            Subject: for __PEER__\\r\\n\\r\\nThe text for __PEER__.\\r\\n.\\r\\n\nQUIT\\r\\n\n";
        fs::write(desk.path("template.txt"), text).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn report(&self, name: &str) -> Report {
        Report::from_json(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    /// What is printed when a cell of a row is typed, with words put in place of others; a line end stands for the
    /// cell's end.
    fn types_row(&self, cell: &str, puts: &[(&str, &str)]) -> String {
        let mut line = format!("{}\n", words(cell)[0]);
        for (word, other) in puts {
            assert!(line.contains(word), "{line}");
            line = line.replace(word, other);
        }
        self.types(line.trim_end())
    }

    /// What is complained of when a line is typed that cannot be done.
    fn fails(&self, line: &str) -> String {
        let output = self.shell(line).output().unwrap();
        assert!(!output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn types(&self, line: &str) -> String {
        succeeds(line, &self.shell(line).output().unwrap())
    }

    fn shell(&self, line: &str) -> Command {
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {line}")]).current_dir(self.folder.path());
        shell.env("PATH", path).env("XDG_CACHE_HOME", self.path("cache"));
        shell
    }
}

fn succeeds(line: &str, output: &Output) -> String {
    let [said, errors] = [&output.stdout, &output.stderr].map(|octets| String::from_utf8_lossy(octets).into_owned());
    assert!(output.status.success(), "{line}: {}\n{said}\n{errors}", output.status);
    said
}

/// A garden that is up.
struct Up<'d> {
    desk: &'d Desk,
    program: Child,
    servers: Vec<Server>,
    printed: Arc<Mutex<String>>,
}

struct Server {
    name: String,
    domain: String,
    on_host: String,
    /// In the garden.
    port: u16,
    root: PathBuf,
}

impl<'d> Up<'d> {
    fn start(desk: &'d Desk, line: &str) -> Self {
        let mut program = desk.shell(line).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        // `NAME VERSION PROTOCOL at ADDRESS: domain DOMAIN, files in ROOT`, and a line that says that all are there.
        let of_servers = lines.by_ref().take_while(|line| !line.contains("Ctrl-C"));
        let servers: Vec<Server> = of_servers
            .zip(2501..)
            .map(|(line, port)| {
                let (what, at) = line.split_once(" at ").unwrap();
                let (on_host, behind) = at.split_once(": domain ").unwrap();
                let (domain, root) = behind.split_once(", files in ").unwrap();
                let name = what.split(' ').next().unwrap().to_owned();
                Server { name, domain: domain.into(), on_host: on_host.into(), port, root: root.into() }
            })
            .collect();
        let printed = Arc::new(Mutex::new(String::new()));
        let to = Arc::clone(&printed);
        thread::spawn(move || lines.for_each(|line| *to.lock().unwrap() += &(line + "\n")));
        let garden = Self { desk, program, servers, printed };
        assert_eq!(garden.servers.len(), line.split(' ').count() - 2, "not all are up");
        garden.listens_at_the_port_of_mail();
        garden
    }

    fn server(&self, name: &str) -> &Server {
        self.servers.iter().find(|server| server.name == name).unwrap()
    }

    fn network(&self) -> PathBuf {
        self.servers[0].root.parent().unwrap().join("ns/net")
    }

    /// Who is named no port comes to port 25, where the first server is in this garden as well.
    fn listens_at_the_port_of_mail(&self) {
        let network = File::open(self.network()).unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind(("127.0.0.1", 25)).unwrap();
            ready.send(()).unwrap();
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", 2501)).unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| copy(&client, &server));
                    copy(&server, &client);
                });
            }
        });
        is_ready.recv().unwrap();
    }

    /// What is printed when a line is typed in the network of the garden.
    fn types(&self, line: &str) -> String {
        let inside = format!("nsenter --net={} {line}", self.network().display());
        succeeds(line, &self.desk.shell(&inside).output().unwrap())
    }

    fn waits_for(&self, text: &str) {
        wait_until(text, || self.printed.lock().unwrap().contains(text), || self.printed.lock().unwrap().clone());
    }

    fn interrupt(mut self) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.program.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.program.wait().unwrap()
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        // It has ended, where the test came to its end.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Server {
    /// Until a mail with this text is in the user's mailbox.
    fn waits_for_mail(&self, user: &str, text: &str) {
        let mailbox = self.root.join("home").join(user).join("Maildir/new");
        let has_it = |file: &Path| fs::read(file).is_ok_and(|mail| String::from_utf8_lossy(&mail).contains(text));
        let has_mail = || fs::read_dir(&mailbox).unwrap().flatten().any(|file| has_it(&file.path()));
        wait_until(text, has_mail, || format!("{:?}", fs::read_dir(&mailbox).unwrap().collect::<Vec<_>>()));
    }
}

/// With a patience that nothing that goes right comes near.
fn wait_until(what: &str, is_so: impl Fn() -> bool, there_is: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come; there is: {}", there_is());
        thread::sleep(Duration::from_millis(10));
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
