//! The command line: what may be typed, and what it asks for.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};

use crate::case::Case;
use crate::examine::Bounds;
use crate::generate::{self, Options, corpus, listing};
use crate::ground::first_process;
use crate::packages::Cache;
use crate::payload::Assignments;
use crate::recipes::Recipes;
use crate::report::{self, Report};
use crate::session::{Filling, Hello};
use crate::shrink::SESSIONS;
use crate::{run, send, servers, terminal, up};

/// Puts real mail servers side by side and shows what each makes of the same bytes.
#[derive(Debug, Parser)]
#[command(name = "smtp-garden", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows which servers there are, or why not.
    Servers(Shared),
    /// Keeps servers running, for you to play with; Ctrl-C ends them.
    Up {
        #[command(flatten)]
        shared: Shared,
        /// Their names; without any, all that can be had.
        #[arg(value_name = "SERVER", value_delimiter = ',')]
        servers: Vec<String>,
    },
    /// Holds the sessions of a payload file with a server, and shows what is said.
    Send(Send),
    /// Holds cases with servers side by side, and shows what each made of them.
    Run {
        #[command(flatten)]
        shared: Shared,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Makes cases as small as they show the same with the same servers, and prints them as payload files.
    Shrink {
        #[command(flatten)]
        shared: Shared,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Lists cases, or writes them as payload files.
    Payloads {
        #[command(subcommand)]
        what: Payloads,
    },
    /// Shows the grid of a report.
    Grid {
        /// A report that `run --json` wrote.
        report: PathBuf,
    },
    /// Makes a page of a report, for a browser.
    Report {
        /// A report that `run --json` wrote.
        report: PathBuf,
        /// The page.
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
    },
    /// The first process of a server; nobody types that.
    #[command(hide = true)]
    FirstProcess,
}

/// What goes for all commands that have to do with servers.
#[derive(Debug, Args)]
struct Shared {
    /// A folder with recipes, to be added to ours or to replace those of the same name.
    #[arg(long, value_name = "FOLDER")]
    recipes: Option<PathBuf>,
    /// Where packages are kept, in place of ~/.cache/smtp-garden.
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// The mailrecv to look at, in place of the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    mailrecv: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Send {
    /// The payload file, or one in the form of sendmsg.py; with --case a report that `run --json` wrote.
    file: PathBuf,
    /// The case of the report; may be given again.
    #[arg(long = "case", value_name = "CASE")]
    named: Vec<String>,
    /// Where the server is: a host, a port, or both, in two words or as HOST:PORT; localhost and 25 without it.
    #[arg(value_name = "HOST|PORT")]
    host: Option<String>,
    /// Its port.
    #[arg(value_name = "PORT")]
    port: Option<u16>,
    /// A value of a variable; one that comes again makes one more case.
    #[arg(long = "assign", value_name = "__NAME__=VALUE")]
    assignments: Vec<String>,
    /// Greets with LHLO.
    #[arg(long)]
    lmtp: bool,
    /// Logs in behind the greeting.
    #[arg(long, value_name = "USER:PASSWORD")]
    login: Option<String>,
    /// What __SOURCE__ stands for.
    #[arg(long, default_value = "someone@elsewhere.example", value_name = "ADDRESS")]
    source: String,
    /// What __DEST__ stands for.
    #[arg(long, default_value = "user1@localhost", value_name = "ADDRESS")]
    destination: String,
    /// How many milliseconds a reply is waited for.
    #[arg(long, default_value_t = 10_000, value_name = "MILLISECONDS")]
    patience: u64,
}

impl Send {
    fn cases(&self) -> Result<Vec<Case>> {
        if self.named.is_empty() {
            return send::read(&self.file, &assignments(&self.assignments)?);
        }
        let report = read_report(&self.file)?;
        let named = self.named.iter().map(|name| {
            let entry = report.case(name).with_context(|| format!("`{name}` is not in {}", self.file.display()))?;
            Ok(entry.case.clone())
        });
        named.collect()
    }

    fn send(self) -> Result<()> {
        let cases = self.cases()?;
        let login = match &self.login {
            Some(login) => Some(login.split_once(':').context("--login takes the user, a colon and the password")?),
            None => None,
        };
        let domain = self.destination.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
        let to = send::To {
            server: server(self.host.as_deref(), self.port)?,
            hello: if self.lmtp { Hello::Lhlo } else { Hello::AsItIs },
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
            filling: Filling {
                token: String::new(),
                source: self.source.clone(),
                destination: self.destination.clone(),
                second_destination: format!("user2@{domain}"),
                domain: domain.to_owned(),
            },
            patience: Duration::from_millis(self.patience),
        };
        send::send(&cases, &to)
    }
}

/// Host and port of the server that mail is sent to: localhost and 25, where they are not given.
fn server(host: Option<&str>, port: Option<u16>) -> Result<String> {
    let is_number = |word: &str| !word.is_empty() && word.chars().all(|character| character.is_ascii_digit());
    Ok(match (host, port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        // A number alone is a port, as it is for `sendmsg.py`. One that is too large would be looked up as an address.
        (Some(word), None) if is_number(word) => {
            let port: u16 = word.parse().with_context(|| format!("`{word}` is no port"))?;
            format!("localhost:{port}")
        }
        // Both in one word, as `up` prints them. An address of IPv6 has colons of its own.
        (Some(word), None) => match word.rsplit_once(':') {
            Some((host, port)) if is_number(port) && (!host.contains(':') || host.ends_with(']')) => word.to_owned(),
            _ => format!("{word}:25"),
        },
        (None, port) => format!("localhost:{}", port.unwrap_or(25)),
    })
}

fn minutes_or_seconds(text: &str) -> Result<Duration, String> {
    let units = [("m", 60), ("s", 1)];
    let number = |(unit, seconds): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds);
    let seconds = units.into_iter().find_map(number);
    seconds.map(Duration::from_secs).ok_or_else(|| "a number with m or s behind, as in 10m or 90s".to_owned())
}

fn assignments(texts: &[String]) -> Result<Assignments> {
    let mut assignments = Assignments::new();
    for text in texts {
        assignments.assign(text).map_err(|wrong| anyhow!("--assign: {wrong}"))?;
    }
    Ok(assignments)
}

#[derive(Debug, Subcommand)]
enum Payloads {
    /// Lists the sets of cases; or the cases that are named, with what the standard says of each.
    List {
        #[command(flatten)]
        made: Made,
    },
    /// Writes cases into a folder, a file each.
    Write {
        /// The folder.
        folder: PathBuf,
        #[command(flatten)]
        made: Made,
    },
}

impl Payloads {
    fn show(self) -> Result<()> {
        match self {
            Self::List { made } => {
                let mut text = Vec::new();
                listing::list(&mut text, &made.words, made.options())?;
                terminal::print(String::from_utf8_lossy(&text).trim_end());
                Ok(())
            }
            Self::Write { folder, made } => {
                let number = listing::write(&folder, &made.words, made.options())?;
                terminal::complain(&format!("{number} files in {}", folder.display()));
                Ok(())
            }
        }
    }
}

/// Cases that are made.
#[derive(Debug, Args)]
struct Made {
    /// Sets of cases, cases, or what names of cases begin with; `payloads list` shows them.
    #[arg(value_name = "CASES")]
    words: Vec<String>,
    /// What mutations are chosen by.
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,
    /// How many mutations there are.
    #[arg(long, default_value_t = Options::default().mutations)]
    mutations: u64,
}

impl Made {
    fn options(&self) -> Options {
        Options { seed: self.seed, mutations: self.mutations }
    }
}

/// Which cases, which servers, and what becomes of it.
#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    made: Made,
    /// A case by its whole name, of a report that is named or of the sets; may be given again.
    #[arg(long = "case", value_name = "CASE")]
    named: Vec<String>,
    /// A report that `run --json` wrote: its cases, or those that --case names; may be given again.
    #[arg(long = "report", value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// A folder with payload files, recorded sessions or mails (.eml); may be given again.
    #[arg(long = "folder", value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// A payload file; may be given again.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A value of a variable in payload files; one that comes again makes one more case.
    #[arg(long = "assign", value_name = "__NAME__=VALUE")]
    assignments: Vec<String>,
    /// For how long mutations are made and held behind the cases that are named: minutes or seconds, such as 10m or 90s.
    #[arg(long, value_name = "TIME", value_parser = minutes_or_seconds)]
    mutate_for: Option<Duration>,
    /// The servers, with commas between them, and :relay behind those that are to pass mail on; all without it.
    #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
    servers: Vec<String>,
    /// Writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the report as a page for a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Does not look again at what stands apart.
    #[arg(long)]
    once: bool,
    /// How many sessions may be held to make a case smaller; 0 takes a fraction of the time.
    #[arg(long, default_value_t = SESSIONS, value_name = "SESSIONS")]
    shrink: usize,
}

impl Chosen {
    fn cases(&self) -> Result<Vec<Case>> {
        let reported = self.reported()?;
        let is_reported = |name: &&String| reported.iter().any(|case| case.name == **name);
        let mut cases = generate::select(&self.made.words, self.made.options()).map_err(|wrong| anyhow!(wrong))?;
        for name in self.named.iter().filter(|name| !is_reported(name)) {
            let case = generate::select(std::slice::from_ref(name), self.made.options());
            cases.extend(case.map_err(|wrong| match self.reports.as_slice() {
                [] => anyhow!(wrong),
                reports => {
                    let reports: Vec<String> = reports.iter().map(|file| file.display().to_string()).collect();
                    anyhow!("`{name}` is neither in {} nor in a set", reports.join(", "))
                }
            })?);
        }
        cases.extend(reported);
        let assignments = assignments(&self.assignments)?;
        for file in &self.files {
            cases.extend(send::read(file, &assignments)?);
        }
        for folder in &self.folders {
            let gathered = corpus::folder(folder)?;
            for (file, why) in gathered.left_out {
                terminal::complain(&format!("{} is left out: {why}", file.display()));
            }
            cases.extend(gathered.cases);
        }
        if cases.is_empty() && self.mutate_for.is_none() {
            bail!("no case is named: `smtp-garden payloads list` shows what there is; --file and --folder take yours");
        }
        // One that is named twice is held once.
        let mut distinct: Vec<Case> = Vec::with_capacity(cases.len());
        let mut places: HashMap<String, usize> = HashMap::new();
        for case in cases {
            match places.get(&case.name) {
                None => {
                    places.insert(case.name.clone(), distinct.len());
                    distinct.push(case);
                }
                Some(&place) if distinct[place] == case => {}
                Some(_) => bail!("two cases are called `{}`; a line `name` in a payload file gives another", case.name),
            }
        }
        Ok(distinct)
    }

    /// The cases of the reports that are named, or those of them that are chosen.
    fn reported(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for file in &self.reports {
            let is_meant = |case: &Case| self.named.is_empty() || self.named.contains(&case.name);
            let of_report = read_report(file)?.cases.into_iter().map(|entry| entry.case);
            cases.extend(of_report.filter(is_meant));
        }
        Ok(cases)
    }

    fn run(self, shared: Shared, shows: run::Shows) -> Result<()> {
        let cases = self.cases()?;
        let options = shared.words();
        let (recipes, cache) = shared.open()?;
        let bounds = Bounds { confirms: !self.once, sessions_per_case: self.shrink, ..Bounds::default() };
        let mutations = self.mutate_for.map(|time| run::Mutate { time, seed: self.made.seed });
        let run = run::Run {
            cases,
            mutations,
            servers: self.servers,
            bounds,
            shows,
            json: self.json,
            html: self.html,
            options,
        };
        run::run(&recipes, &cache, run)
    }
}

fn read_report(file: &Path) -> Result<Report> {
    let what = || format!("reading {}", file.display());
    Report::from_json(&fs::read_to_string(file).with_context(what)?).with_context(what)
}

/// What to type to hold a case of this report again.
fn again(report: &Report, file: &Path) -> String {
    report.again(&terminal::program(), &file.to_string_lossy())
}

fn write_page(file: &Path, page: &Path) -> Result<()> {
    let report = read_report(file)?;
    let text = report::page(&report, &again(&report, file))?;
    fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

impl Shared {
    /// The words that it was made of.
    fn words(&self) -> Vec<String> {
        let options = [("--recipes", &self.recipes), ("--cache", &self.cache), ("--mailrecv", &self.mailrecv)];
        let given = options.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?)));
        given.flat_map(|(name, path)| [name.to_owned(), path.to_string_lossy().into_owned()]).collect()
    }

    fn open(self) -> Result<(Recipes, Cache)> {
        Ok((Recipes::read(self.recipes.as_deref())?, Cache::open(self.cache, self.mailrecv)?))
    }
}

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::FirstProcess => return first_process::run(),
        Command::Servers(shared) => shared.open().and_then(|(recipes, cache)| servers::show(&recipes, &cache)),
        Command::Send(send) => send.send(),
        Command::Run { shared, chosen } => chosen.run(shared, run::Shows::Grid),
        Command::Shrink { shared, chosen } => chosen.run(shared, run::Shows::Smallest),
        Command::Payloads { what } => what.show(),
        Command::Grid { report: file } => read_report(&file).map(|report| {
            terminal::print(report::grid(&report, &again(&report, &file), terminal::has_colours()).trim_end());
        }),
        Command::Report { report, html } => write_page(&report, &html),
        Command::Up { shared, servers } => {
            shared.open().and_then(|(recipes, cache)| up::keep(&recipes, &cache, &servers))
        }
    };
    terminal::clear();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("smtp-garden: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
