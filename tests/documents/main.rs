//! What is written about the program is true: the shipped configurations load, the manual pages name every directive and
//! every option, the completions are those of the command line, and somebody runs each example.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod examples;
#[path = "../support/mod.rs"]
mod support;
mod typed;

use clap_complete::Shell;
use mailrecv::config::{self, Flags, Limits};
use mailrecv::metrics;
use support::{CONFIG, MAILRECV, Scratch};
use testkit::certificates::{Authority, Request};
use testkit::{debian, output, repository, succeeds};

/// `mailrecv check` has nothing to say about this text.
fn assert_sound(text: &str, what: &str) {
    let scratch = Scratch::with_config(text);
    let mut check = scratch.command(MAILRECV, &["-c", CONFIG, "check"]);
    // What of the environment has no default, or one that is only an example.
    check.envs([("SMTP_AUTH_PASSWORD", "secret"), ("RELAY_HOST", "localhost"), ("RELAY_USE_TLS", "False")]);
    check.env("HPFEEDS_SECRET", "secret");
    let output = output(check);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{what}");
    assert_eq!(output.status.code(), Some(0), "{what}");
}

#[test]
fn shipped_configurations_are_sound() {
    let files = repository::files("etc", "conf");
    assert!(files.len() >= 2);
    for file in files {
        // What everybody has to change first is told.
        let text = std::fs::read_to_string(&file).unwrap().replace("domain example.com\n", "domain mx.example\n");
        assert_sound(&text, &file.display().to_string());
    }
}

/// The reference shows directives behind a `#`: taking it away is all that is needed.
#[test]
fn the_examples_in_the_reference_are_sound() {
    let reference = repository::text("etc/mailrecv.conf");
    let is_example = |line: &str| {
        let rest = line.strip_prefix('#').unwrap_or_default();
        config::directives().any(|name| rest.split(' ').next() == Some(name))
    };
    let uncommented: Vec<&str> =
        reference.lines().map(|line| if is_example(line) { &line[1..] } else { line }).collect();
    assert!(uncommented.iter().filter(|line| !line.is_empty() && !line.starts_with('#')).count() > 20);
    let scratch = Scratch::new();
    // What it includes is in a folder beside it.
    std::fs::create_dir(scratch.path("mailrecv.d")).unwrap();
    // And so are here the files that TLS and authentication need: what this machine has is not asked about.
    Authority::new().issue(&scratch.path(""), "fullchain", &Request::of(&["example.com"]));
    std::fs::rename(scratch.path("fullchain.key"), scratch.path("privkey.pem")).unwrap();
    scratch.write("tickets", [7; 32]);
    scratch.write("mailrecv.passwd", succeeds(scratch.command(MAILRECV, &["passwd", "fred"]), "secret\n"));
    let beside = |line: &&str| match line.split('_').next() {
        Some("tls") => line.replace("/etc/mailrecv/", "./"),
        Some("auth") => line.replace("/etc/", "./"),
        _ => (*line).to_owned(),
    };
    scratch.write(CONFIG, uncommented.iter().map(beside).collect::<Vec<_>>().join("\n"));
    let mut check = scratch.command(MAILRECV, &["-c", CONFIG, "check"]);
    check.envs([("FRED_PASSWORD", "secret"), ("HPFEEDS_SECRET", "secret")]);
    let output = output(check);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for directive in config::directives().chain(FORMS) {
        assert!(uncommented.iter().any(|line| has_directive(line, directive)), "no example of `{directive}`");
    }
}

/// Whether a line begins with the words of a directive.
fn has_directive(line: &str, directive: &str) -> bool {
    let mut words = line.split_whitespace();
    directive.split(' ').all(|wanted| words.next() == Some(wanted))
}

/// The forms of directives that have several; each has a description and an example of its own.
const FORMS: [&str; 5] = ["allow remotehost", "deny remotehost", "allow mail_from", "error mail_from", "error rcpt_to"];

/// What is described is what the tables of the program have.
#[test]
fn the_manual_page_describes_every_directive() {
    let page = repository::text("etc/man/mailrecv.conf.5");
    let described: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".It Ic ")).collect();
    let is_described = |words: &str| described.iter().any(|item| has_directive(item, words));
    assert!(config::directives().count() > 20);
    for directive in config::directives().chain(FORMS) {
        assert!(is_described(&directive.replace("error rcpt_to", "error")), "`{directive}` is not described");
    }
    assert!(config::actions().count() >= 5);
    for action in config::actions() {
        assert!(is_described(action), "`{action}` is not described");
    }
    let flags = Flags::ALL.iter().map(|(letter, _, words)| (*letter, *words));
    for (letter, words) in flags.chain([('a', "all of these but t"), ('-', "none; takes back the letters before it")]) {
        assert!(page.contains(&format!("\n.It Cm {letter}\n{words}\n")), "the flag `{letter}` is not described");
    }
}

/// Nor does the page describe what is not there.
#[test]
fn every_directive_that_is_described_is_one() {
    let page = repository::text("etc/man/mailrecv.conf.5");
    let limits = config::directives().filter_map(|name| name.strip_prefix("limit."));
    let known: Vec<&str> = config::directives().chain(config::actions()).chain(limits).collect();
    for item in page.lines().filter_map(|line| line.strip_prefix(".It Ic ")) {
        for name in item.split(" , ").filter_map(|item| item.split(' ').next()) {
            assert!(known.contains(&name), "mailrecv.conf(5) describes `{name}`, which there is not");
        }
    }
}

/// The table of limits has the defaults that the program has.
#[test]
fn the_manual_page_tells_the_defaults() {
    let page = repository::text("etc/man/mailrecv.conf.5");
    for (name, value, code, text) in Limits::DEFAULTS {
        // Without a text none is ever sent.
        let reply = if text.is_empty() { String::new() } else { format!(" {code} {text}") };
        let row = format!(".It Ic {name} Ta {value} Ta{reply}");
        assert!(page.lines().any(|line| line.trim_end() == row), "the page lacks\n{row}");
    }
}

#[test]
fn the_manual_page_describes_every_option() {
    let page = repository::text("etc/man/mailrecv.8");
    let mut command = mailrecv::cli::command();
    command.build();
    let subcommands: Vec<_> = command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    for command in std::iter::once(&command).chain(subcommands.iter().copied()) {
        for argument in command.get_arguments() {
            let long = argument.get_long().map(|name| format!("Fl -{name}"));
            let short = argument.get_short().map(|letter| format!("Fl {letter}"));
            let positional = (long.is_none() && short.is_none()).then(|| "Ar address : Ns Ar port".to_owned());
            for shown in [long, short, positional].into_iter().flatten() {
                let is_there = page.contains(&shown) || page.contains(&shown.replace("Fl -", ", -"));
                assert!(is_there, "mailrecv(8) lacks `{shown}` of `{}`", command.get_name());
            }
        }
    }
    for subcommand in subcommands {
        assert!(
            page.contains(&format!("\n.Ss {}\n", subcommand.get_name())),
            "{} is not described",
            subcommand.get_name()
        );
    }
}

/// The lines for inetd, which a test gives to a real one, stand in two places.
#[test]
fn the_manual_page_has_the_readmes_lines_for_inetd() {
    let (readme, page) = (repository::text("README.md"), repository::text("etc/man/mailrecv.8"));
    let lines: Vec<&str> = readme.lines().map(str::trim).filter(|line| line.starts_with("smtp stream ")).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert!(page.lines().any(|of_page| of_page == line), "mailrecv(8) lacks `{line}`");
    }
}

/// What `tests/run` brings onto a machine is said beforehand.
#[test]
fn the_packages_that_the_tests_need_are_told() {
    let (run, told) = (repository::text("tests/run"), repository::text("docs/testing.md"));
    let told: Vec<&str> = told.split([' ', ',', '\n', '.', ';']).collect();
    for list in ["tools=\"", "daemons=\""] {
        let list = run.lines().find_map(|line| line.strip_prefix(list)).unwrap().trim_end_matches('"');
        for package in list.split(' ') {
            assert!(told.contains(&package), "docs/testing.md lacks {package}");
        }
    }
}

/// What we say to programs that we start, and what a user may set.
#[test]
fn the_manual_page_describes_every_variable_of_our_own() {
    let page = repository::text("etc/man/mailrecv.8");
    let (_, page) = page.split_once("\n.Sh ENVIRONMENT\n").unwrap();
    let (page, _) = page.split_once("\n.Sh ").unwrap();
    let mut grep = std::process::Command::new("grep");
    grep.args(["-rhoE", "\"MAILRECV_[A-Z_]+\""]).arg(repository::path("src"));
    let sources = output(grep);
    let names = String::from_utf8(sources.stdout).unwrap();
    assert!(names.lines().count() > 3, "{names}");
    for name in names.lines().map(|name| name.trim_matches('"')) {
        assert!(page.split_whitespace().any(|word| word == name), "mailrecv(8) lacks {name}");
    }
}

/// Each metric with every value of its label.
#[test]
fn the_manual_page_describes_every_metric() {
    let page = repository::text("etc/man/mailrecv.8");
    assert!(metrics::described().count() > 10);
    for (name, values) in metrics::described() {
        let item = page.split_once(&format!("\n.It Cm {name}")).map(|(_, item)| item).unwrap_or_default();
        let item = item.split("\n.It ").next().unwrap_or_default();
        assert!(!item.trim().is_empty(), "mailrecv(8) lacks {name}");
        let words: Vec<&str> = item.split([' ', ',', '\n', ':', ';', '(', ')']).collect();
        for value in values {
            assert!(words.iter().any(|word| word.trim_end_matches('.') == *value), "{name} lacks {value}");
        }
    }
}

/// A destination that is not counted would be counted as another.
#[test]
fn every_action_is_counted() {
    let counted: Vec<_> = metrics::described().filter(|(name, _)| name.starts_with("mailrecv_deliver")).collect();
    for name in ["mailrecv_deliveries_total", "mailrecv_deliveries_repeated_total", "mailrecv_delivery_failures_total"]
    {
        let (_, values) = counted.iter().find(|(counted, _)| *counted == name).unwrap();
        assert!(config::actions().eq(values.iter().copied()), "{name}");
    }
}

#[test]
fn the_manual_pages_are_well_formed() {
    let scratch = Scratch::new();
    for page in ["etc/man/mailrecv.8", "etc/man/mailrecv.conf.5"] {
        let output = scratch.run(
            debian::program("mandoc", "mandoc"),
            &["-T", "lint", "-W", "warning", repository::path(page).to_str().unwrap()],
        );
        // Pages of other packages, which need not be installed here, are referred to.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints: Vec<&str> = said.lines().filter(|line| !line.contains("referenced manual not found")).collect();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}

/// With REGENERATE=1 in the environment the files are written in place of being compared.
#[test]
fn completions_are_those_of_the_command_line() {
    for (shell, name) in [(Shell::Bash, "mailrecv.bash"), (Shell::Zsh, "_mailrecv"), (Shell::Fish, "mailrecv.fish")] {
        let mut generated = Vec::new();
        clap_complete::generate(shell, &mut mailrecv::cli::command(), "mailrecv", &mut generated);
        let file = repository::path("etc/completions").join(name);
        if std::env::var_os("REGENERATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &generated).unwrap();
        }
        let shipped = std::fs::read(&file).unwrap_or_default();
        assert!(
            shipped == generated,
            "{} is out of date: run REGENERATE=1 cargo test --test documents",
            file.display()
        );
    }
}

/// A shell can read them.
#[test]
fn completions_are_shell_scripts() {
    let scratch = Scratch::new();
    let script = format!(
        "source {}; COMP_WORDS=(mailrecv lis); COMP_CWORD=1; _mailrecv mailrecv lis mailrecv; echo \"${{COMPREPLY[*]}}\"",
        repository::path("etc/completions/mailrecv.bash").display()
    );
    let output = scratch.run("bash", &["-c", &script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "listen\n", "{}", String::from_utf8_lossy(&output.stderr));
}
