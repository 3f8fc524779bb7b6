//! Every example of the texts for people is run. Those that are lines of a configuration are loaded here, commands that
//! install something are typed here, and the rest is run by tests that take it from its text: [`RUN`] says which, and
//! [`NOT_RUN`] what nobody runs, and why.

use clap::error::ErrorKind;
use mailrecv::{cli, config};
use testkit::certificates::{Authority, Request};
use testkit::{output, repository, succeeds};

use crate::support::{CONFIG, MAILRECV, Scratch};
use crate::typed;

/// A part of a text, by something that it has in it.
enum Part {
    /// All that the section of the README with this heading shows.
    Section(&'static str),
    /// An example with these words.
    Block(&'static str),
    /// A command of an example with these words.
    Line(&'static str),
}
use Part::{Block, Line, Section};

/// Who runs what is not run here: the part of a text, the file of the test, and the words in it by which it finds the
/// part, or holds to it.
const RUN: &[(&str, Part, &str, &str)] = &[
    (README, Section("Try it"), "tests/activation/readme.rs", "readme_commands(\"Try it\")"),
    (README, Line("packaging/deb"), "tests/packages.rs", "path(\"packaging/deb\")"),
    (README, Line("dpkg --install"), "tests/packages.rs", "\"dpkg\", &[\"--install\""),
    (README, Line("packaging/image"), "tests/packages.rs", "path(\"packaging/image\")"),
    (README, Line("journalctl --follow"), "tests/systemd/sink.rs", "\"--output=cat\", \"--identifier=mailrecv-sink\""),
    (README, Block("smtp stream "), "tests/activation/support/super_server.rs", "starts_with(\"smtp stream \")"),
    (README, Line("listen --socket-group "), "tests/documents/typed.rs", "fn sockets_for_mail_servers_are_made"),
    (README, Section("TLS and accounts"), "tests/tls/readme.rs", "readme_commands(\"TLS and accounts\")"),
    (README, Section("See what a program sends"), "tests/delivery/sink.rs", "(\"See what a program sends\")"),
    (README, Section("A filtering relay"), "tests/filtering_relay.rs", "readme_commands(\"A filtering relay\")"),
    (README, Line("swaks --protocol LMTP"), "tests/brokers/front.rs", "starts_with(\"swaks --protocol LMTP \")"),
    (README, Section("Check and explain"), "tests/delivery/explain.rs", "readme_commands(\"Check and explain\")"),
    (README, Section("Try a change on yesterday's sessions"), "tests/replay/readme.rs", "(\"Try a change on yest"),
    (README, Section("Metrics"), "tests/activation/metrics.rs", "readme_commands(\"Metrics\")"),
    (README, Line("fail2ban-regex "), "tests/activation/bans.rs", "fail2ban(\"fail2ban-regex\")"),
    (MANUAL, Block("mailrecv metrics >"), "tests/documents/typed.rs", "fn metrics_are_written_for_others"),
    (MANUAL, Line("etc/mailrecv-try.conf listen "), "tests/activation/readme.rs", "etc/mailrecv-try.conf"),
    (MANUAL, Line("nc 127.0.0.1 "), "tests/activation/readme.rs", "\"nc.openbsd\""),
    (MANUAL, Line("jq .reply.code"), "tests/documents/typed.rs", "fn a_question_of_the_manual_is_answered"),
    (MANUAL, Block("service smtp"), "tests/documents/typed.rs", "fn what_the_manual_shows_of_shipped_files"),
    (MANUAL, Block("KillMode=mixed"), "tests/documents/typed.rs", "fn what_the_manual_shows_of_shipped_files"),
    (MANUAL, Block("FileDescriptorName=metrics"), "tests/systemd/service.rs", ".Pa mailrecv-metrics.socket"),
    (MANUAL, Block("mailbox_transport = "), "tests/activation/lmtp.rs", "\"mailbox_transport = \""),
    (MANUAL, Block("begin transports"), "tests/activation/lmtp.rs", "begin transports"),
    (MANUAL, Block("tcpserver "), "tests/activation/support/super_server.rs", "\"tcpserver \""),
    (MANUAL, Block("socat "), "tests/activation/super_servers.rs", "\"socat \""),
    (MANUAL, Block("mailrecv: listening on "), "tests/activation/support/super_server.rs", "listening on "),
    (REFERENCE, Block("#!/bin/sh"), "tests/systemd/keys.rs", "of_the_manual(\"#!/bin/sh"),
    (REFERENCE, Block("LoadCredential="), "tests/systemd/keys.rs", "of_the_manual(\"LoadCredential=\")"),
    (REFERENCE, Line("mailrecv passwd "), "tests/tls/readme.rs", "readme_commands(\"TLS and accounts\")"),
    (REFERENCE, Block("echo \":secret:"), "tests/documents/typed.rs", "fn a_secret_is_added_as_the_manual_says"),
    (REFERENCE, Block("] ERROR: 550 No one"), "tests/documents/typed.rs", "fn lines_of_the_log_look_as_the_manual"),
    (REFERENCE, Block("] Mail id=ID"), "tests/documents/typed.rs", "fn lines_of_the_log_look_as_the_manual"),
    (REFERENCE, Block("530 5.7.0 "), "tests/filtering_relay.rs", "550 5.7.1 Sender domain not allowed"),
    (REFERENCE, Block("-c /etc/mailrecv-relay.conf"), "tests/filtering_relay.rs", "\"LISTEN_HOST\""),
    (REFERENCE, Block("printf 'include"), "tests/systemd/keys.rs", "of_the_manual(\"printf 'include\")"),
    (REFERENCE, Block("haproxy.cfg"), "tests/activation/proxies.rs", "haproxy.cfg"),
    (GARDEN, Line("smtp-garden run end-of-data "), "garden/tests/short.rs", "end-of-data"),
    (PAYLOADS, Block("smtp-garden payload\n"), "garden/src/payload/tests.rs", "fn the_examples_of_the_manual_are"),
    (PAYLOADS, Block("helo EHLO client.example"), "garden/src/payload/tests.rs", "fn the_examples_of_the_manual_are"),
    (PAYLOADS, Block("mine.payload:4:26"), "garden/src/payload/tests.rs", "fn the_mistake_of_the_manual_is_told"),
    (PAYLOADS, Line("smtp-garden send template.txt"), "garden/tests/commands.rs", "\"template.txt\""),
    (RECIPES, Block("description = "), "garden/src/recipe/mod.rs", "docs/recipes.md"),
];

/// What nobody runs, and why.
const NOT_RUN: &[(&str, Part, &str)] = &[
    (README, Line("skopeo "), "no container can be started in the containers that tests run in"),
    (README, Line("install -d -o 8 "), "the same"),
    (README, Line("podman "), "the same"),
    (README, Line("postconf -e"), "Postfix's own; what it sets, the manual shows as well"),
    (README, Line("journalctl --unit"), "shows the system's journal"),
    (README, Line("fail2ban-client reload"), "is told to a server of the whole system"),
    (README, Block("──"), "a drawing"),
    (MANUAL, Block("scrape_configs:"), "Prometheus' own; the address is that of the example in front"),
    (RECIPES, Line("--recipes my-recipes"), "a made-up server; `garden/tests/recipes.rs` has a recipe of its own"),
    ("docs/architecture.md", Block("main lib cli"), "a drawing"),
    ("docs/testing.md", Block("/sys/fs/cgroup/slow"), "slows down whoever types it"),
];

pub(crate) const README: &str = "README.md";
pub(crate) const MANUAL: &str = "etc/man/mailrecv.8";
pub(crate) const REFERENCE: &str = "etc/man/mailrecv.conf.5";
const GARDEN: &str = "garden/README.md";
const PAYLOADS: &str = "garden/docs/payloads.md";
const RECIPES: &str = "garden/docs/recipes.md";

/// A literal piece of a text, without what makes it one.
struct Example {
    document: String,
    section: String,
    text: String,
}

impl Example {
    /// Whether all of it is lines of a configuration.
    fn is_configuration(&self) -> bool {
        let is_directive = |line: &str| {
            let first = line.split_whitespace().next();
            first.is_none_or(|first| first.starts_with('#') || config::directives().any(|name| name == first))
        };
        self.text.lines().all(is_directive) && self.text.lines().any(|line| !line.starts_with('#'))
    }

    /// Its commands, each on one line, without prompt and comment.
    fn commands(&self) -> Vec<String> {
        let text = self.text.replace("\\\n", " ").replace("&&\n", "&& ");
        let commands = text.lines().map(|line| {
            let line = line.strip_prefix("$ ").unwrap_or(line);
            let line = line.split(" # ").next().unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        commands.filter(|command| !command.is_empty() && !command.starts_with('#')).collect()
    }

    /// `# and in /etc/mailrecv.conf: DIRECTIVE`, and the comments below, say what belongs into the configuration.
    fn told_directives(&self) -> Option<String> {
        let (_, told) = self.text.split_once("# and in /etc/mailrecv.conf: ")?;
        let below = told.lines().skip(1).map_while(|line| line.strip_prefix("# "));
        Some(told.lines().take(1).chain(below).map(str::trim).collect::<Vec<_>>().join("\n"))
    }

    fn has(&self, document: &str, part: &Part, command: &str) -> bool {
        let is_it = match part {
            Section(heading) => self.section == *heading,
            Block(words) => self.text.contains(words),
            Line(words) => command.contains(words),
        };
        self.document == document && is_it
    }
}

/// All that the texts for people show.
fn examples() -> Vec<Example> {
    let mut documents: Vec<String> =
        [README, GARDEN, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(str::to_owned).into();
    for folder in ["docs", "garden/docs"] {
        let root = repository::path("");
        let files = repository::files(folder, "md").into_iter();
        documents.extend(files.map(|file| file.strip_prefix(&root).unwrap().display().to_string()));
    }
    let of_pages = [MANUAL, REFERENCE].into_iter().flat_map(|page| {
        let shown = repository::page_examples(page).into_iter();
        shown.map(|text| Example { document: page.to_owned(), section: String::new(), text })
    });
    documents.iter().flat_map(|document| of_markdown(document)).chain(of_pages).collect()
}

/// The commands that the README shows, each on one line.
pub(crate) fn readme_commands() -> Vec<String> {
    of_markdown(README).iter().flat_map(Example::commands).collect()
}

/// Indented paragraphs, and what stands between fences.
fn of_markdown(document: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let (mut section, mut text, mut is_fenced) = (String::new(), String::new(), false);
    // An indented line within a paragraph goes on with it, as in a list.
    let mut is_within_paragraph = false;
    for line in repository::text(document).lines().chain([""]) {
        let is_fence = line.starts_with("```");
        is_fenced ^= is_fence;
        match line.strip_prefix("    ") {
            _ if is_fenced && is_fence => {}
            _ if is_fenced => text += &format!("{line}\n"),
            Some(_) if is_within_paragraph => {}
            Some(line) => text += &format!("{line}\n"),
            None if !text.is_empty() => {
                let text = std::mem::take(&mut text);
                examples.push(Example { document: document.to_owned(), section: section.clone(), text });
            }
            None => {}
        }
        is_within_paragraph = !line.is_empty() && (is_within_paragraph || !line.starts_with("    "));
        if let Some((_, heading)) =
            line.split_once("# ").filter(|(level, _)| !is_fenced && level.chars().all(|it| it == '#'))
        {
            section = heading.to_owned();
        }
    }
    examples
}

/// Who writes an example makes somebody run it.
#[test]
fn every_example_is_run() {
    let examples = examples();
    // What a manual page has from the README is run there.
    let readme: Vec<String> = readme_commands();
    let mut is_used = vec![false; RUN.len() + NOT_RUN.len()];
    let mut forgotten = String::new();
    for example in &examples {
        if example.is_configuration() {
            continue;
        }
        for command in example.commands() {
            let entries = RUN.iter().map(|(document, part, ..)| (document, part));
            let entries = entries.chain(NOT_RUN.iter().map(|(document, part, _)| (document, part)));
            let mut is_run = is_of_the_tests(&command)
                || (example.document == README && typed::is_installation(&command))
                || (example.document != README && readme.contains(&command));
            for (number, (document, part)) in entries.enumerate() {
                let is_it = example.has(document, part, &command);
                is_used[number] |= is_it;
                is_run |= is_it;
            }
            if !is_run {
                forgotten += &format!("{}: {command}\n", example.document);
            }
        }
    }
    assert!(forgotten.is_empty(), "nobody runs these examples: add a test of each, and say in RUN which:\n{forgotten}");
    let unused: Vec<usize> = (0..is_used.len()).filter(|number| !is_used[*number]).collect();
    assert!(
        unused.is_empty(),
        "no example is what these entries of RUN, and behind them NOT_RUN, are about: {unused:?}"
    );
    for (document, _, test, words) in RUN {
        assert!(repository::text(test).contains(words), "{test}, which should run {document}, has no `{words}`");
    }
}

/// Commands that run the tests or build: what they select is there (`tests/links.rs`), and `.ci/run` has run them.
fn is_of_the_tests(command: &str) -> bool {
    let is_variable = |word: &&str| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|it| it.is_ascii_uppercase() || it == '_'))
    };
    let program = command.split(' ').find(|word| !is_variable(word)).unwrap_or_default();
    ["cargo", "tests/run", "fuzz/run", ".ci/run"].contains(&program)
}

/// Each example that is lines of a configuration is one, and so is what texts say within a line.
#[test]
fn examples_of_configurations_are_sound() {
    let examples = examples();
    let mut texts: Vec<String> =
        examples.iter().filter(|example| example.is_configuration()).map(|example| example.text.clone()).collect();
    texts.extend(examples.iter().filter_map(Example::told_directives));
    let readme = repository::text(README);
    let is_directive = |span: &&str| {
        span.split_once(' ')
            .is_some_and(|(first, rest)| !rest.starts_with('=') && config::directives().any(|name| name == first))
    };
    texts.extend(
        spans(&readme).filter(is_directive).map(|span| span.replace("ADDRESS", "192.0.2.1").replace("DIR", "mails")),
    );
    assert!(texts.len() > 20, "{texts:#?}");
    let scratch = Scratch::new();
    // What they name is there.
    for folder in ["mailrecv.d", "etc/mailrecv/example.net", "etc/letsencrypt/live/mail.example.com"] {
        std::fs::create_dir_all(scratch.path(folder)).unwrap();
    }
    let (certificate, key) = Authority::new().issue(&scratch.path(""), "fullchain", &Request::of(&["mydomain.com"]));
    for folder in ["etc/mailrecv", "etc/mailrecv/example.net", "etc/letsencrypt/live/mail.example.com"] {
        std::fs::copy(&certificate, scratch.path(folder).join("fullchain.pem")).unwrap();
        std::fs::copy(&key, scratch.path(folder).join("privkey.pem")).unwrap();
    }
    scratch.write("etc/mailrecv.passwd", succeeds(scratch.command(MAILRECV, &["passwd", "fred"]), "secret\n"));
    scratch.write("etc/mailrecv/amqp-password", "secret\n");
    for text in texts {
        scratch.write(CONFIG, text.replace("/etc/", "./etc/"));
        let mut check = scratch.command(MAILRECV, &["-c", CONFIG, "check"]);
        check.env("SMTP_AUTH_PASSWORD", "secret");
        let output = output(check);
        assert_eq!(output.status.code(), Some(0), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What stands in backticks within lines.
fn spans(markdown: &str) -> impl Iterator<Item = &str> {
    let prose = markdown.lines().filter(|line| !line.starts_with("    "));
    prose.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Wherever a text calls the program, it does so with options and arguments that there are.
#[test]
fn examples_of_command_lines_are_understood() {
    let shown: Vec<String> = examples().iter().flat_map(Example::commands).collect();
    let mut named = Vec::new();
    for document in [README, "docs/testing.md", "docs/decisions.md", "SECURITY.md", "CHANGELOG.md"] {
        named.extend(spans(&repository::text(document)).map(str::to_owned));
    }
    for page in [MANUAL, REFERENCE] {
        let page = repository::text(page);
        named.extend(page.lines().filter_map(|line| line.strip_prefix(".Ql ")).map(without_punctuation));
    }
    let scratch = Scratch::new();
    let lines = shown.iter().map(|line| (line, true)).chain(named.iter().map(|line| (line, false)));
    let mut count = 0;
    for (line, is_whole) in lines {
        let line = line.strip_prefix("exec ").unwrap_or(line);
        // What it says, and what a transcript begins with.
        let is_said =
            |arguments: &str| ["listening on", "transcript 1"].iter().any(|words| arguments.starts_with(words));
        let is_call = line.strip_prefix("mailrecv ").is_some_and(|arguments| !is_said(arguments));
        if !is_call || line.contains("...") {
            continue;
        }
        count += 1;
        // A shell takes quotes and variables away; what follows the command is another's.
        let call = line.split(['|', '>', '&', ';']).next().unwrap_or_default();
        // Those groups need not be here.
        let call = call.replace("-group postfix", "-group mail").replace("-group Debian-exim", "-group mail");
        let words = succeeds(scratch.command("sh", &["-fc", &format!("set -- {call}; printf '%s\\n' \"$@\"")]), "");
        if let Err(error) = cli::command().try_get_matches_from(words.lines())
            && error.use_stderr()
        {
            // Within a line of text stands as much of it as is spoken of.
            let lacks_something = INCOMPLETE.contains(&error.kind());
            assert!(!is_whole && lacks_something, "{line}\n{error}");
        }
    }
    assert!(count > 25, "{count}");
}

/// What stands behind a word in a manual page, parted by a blank.
fn without_punctuation(words: &str) -> String {
    words.trim_end_matches([' ', ',', '.', ';', ':', ')']).to_owned()
}

/// What is wrong with a command of which only a part stands there, or one with a word in place of a value.
const INCOMPLETE: [ErrorKind; 3] =
    [ErrorKind::MissingRequiredArgument, ErrorKind::InvalidValue, ErrorKind::ValueValidation];
