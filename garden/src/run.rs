//! `run`: holds cases with servers side by side, and reports what each did with them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::ProgressBar;

use crate::case::Case;
use crate::compare::{self, Chain, Expected, ExpectedMessage, Stand, Verdict, judge_chain, learn};
use crate::drive;
use crate::examine::{Bounds, Gathered, Progress, examine};
use crate::ground::{Garden, Server};
use crate::observation::{Observation, Patience, Servers};
use crate::oracle;
use crate::packages::Cache;
use crate::recipe::{Recipe, Role};
use crate::recipes::Recipes;
use crate::report::{self, Mutations, Report, ServerEntry};
use crate::{generate, payload};
use crate::{interruption, terminal};

/// The options of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// The cases.
    pub(crate) cases: Vec<Case>,
    /// How to make mutations and hold them after the cases, if at all.
    pub(crate) mutations: Option<Mutate>,
    /// The names of the servers, with `:relay` for those that should pass mail on; empty for all.
    pub(crate) servers: Vec<String>,
    /// Limits for confirming differences and making cases smaller.
    pub(crate) bounds: Bounds,
    /// What is printed.
    pub(crate) shows: Shows,
    /// Where the report is written as JSON; `None` for the cache.
    pub(crate) json: Option<PathBuf>,
    /// Where it is written as a page.
    pub(crate) html: Option<PathBuf>,
    /// The options about recipes, programs and packages, as they were typed.
    pub(crate) options: Vec<String>,
}

/// How mutations are made and held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutate {
    /// For how long.
    pub(crate) time: Duration,
    /// With which seed.
    pub(crate) seed: u64,
}

/// What a run prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// The grid, and what was found.
    Grid,
    /// The smallest cases as payload files.
    Smallest,
}

/// Does a run, and shows its results.
///
/// # Errors
///
/// We may not make a garden, a name is unknown, or a file cannot be written. A server that cannot be had is only a row
/// of the report.
pub(crate) fn run(recipes: &Recipes, cache: &Cache, run: Run) -> Result<()> {
    // A run may take hours, so a report that cannot be written is noticed before it.
    for file in run.json.iter().chain(&run.html) {
        may_be_written(file).with_context(|| format!("writing {}", file.display()))?;
    }
    let mut report = report(recipes, cache, run.cases, run.mutations, &run.servers, run.bounds)?;
    report.options = run.options;
    let json = report.to_json()? + "\n";
    let write = |file: &Path, text: &str| fs::write(file, text).with_context(|| format!("writing {}", file.display()));
    // An error in writing is reported at the end, after everything that can be shown.
    let (kept, written) = match run.json {
        // The smallest cases are kept nowhere else.
        None => (cache.keep_report(&json)?, Ok(())),
        Some(file) => match write(&file, &json) {
            Ok(()) => (file, Ok(())),
            Err(error) => {
                let kept = cache.keep_report(&json)?;
                let at = format!("the report is in {}", kept.display());
                (kept, Err(error.context(at)))
            }
        },
    };
    let again = report.again(&terminal::program(), &kept.to_string_lossy());
    match run.shows {
        Shows::Grid => terminal::print(report::grid(&report, &again, terminal::has_colours()).trim_end()),
        Shows::Smallest => show_smallest(&report),
    }
    let page = run.html.map_or(Ok(()), |file| write(&file, &report::page(&report, &again)?));
    written.and(page)
}

/// Checks that the file can be opened for writing; it stays as it is.
fn may_be_written(file: &Path) -> io::Result<()> {
    let is_there = file.exists();
    OpenOptions::new().append(true).create(true).open(file)?;
    if !is_there {
        fs::remove_file(file)?;
    }
    Ok(())
}

fn show_smallest(report: &Report) {
    for entry in report.cases.iter().filter(|entry| entry.of.is_some()) {
        for finding in report.findings.iter().filter(|finding| finding.case == entry.case.name) {
            terminal::complain(&format!("{}: {} ({})", finding.server, finding.kind.meaning(), finding.detail));
        }
        terminal::print(&payload::write(&entry.case));
    }
    if report.findings.is_empty() {
        terminal::complain("nobody stands apart, so there is nothing to make smaller");
    }
}

fn report(
    recipes: &Recipes,
    cache: &Cache,
    cases: Vec<Case>,
    mutate: Option<Mutate>,
    names: &[String],
    bounds: Bounds,
) -> Result<Report> {
    crate::ground::is_allowed()?;
    interruption::watch()?;
    let seats = seats(recipes, names)?;
    let mut absent: BTreeMap<String, String> = BTreeMap::new();
    let mut wanted = Vec::new();
    let bar = terminal::bar(None);
    for recipe in recipes.iter().filter(|recipe| seats.iter().any(|(name, _)| *name == recipe.name)) {
        bar.set_message(format!("getting {}", recipe.name));
        match cache.fetch(recipe) {
            Ok(fetched) => wanted.push((recipe.clone(), fetched)),
            Err(error) => {
                absent.insert(recipe.name.clone(), format!("{error:#}"));
            }
        }
    }
    let mut garden = Garden::lay(None)?;
    bar.set_message(format!("starting {} servers", wanted.len()));
    absent.extend(garden.start(wanted).into_iter().map(|(name, error)| (name, format!("{error:#}"))));
    bar.finish_and_clear();
    if garden.servers().is_empty() {
        bail!("no server is up: {}", absent.into_values().collect::<Vec<_>>().join("; "));
    }
    let (mut gathered, mut standing) = gather(&mut garden, &seats, cases, absent)?;
    let mutations = mutate.map(|mutate| hold_mutations(&mut standing, &mut gathered, mutate)).transpose()?;
    let bar = terminal::bar(None);
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Again(sessions) => bar.set_message(format!("{sessions} sessions again")),
        Progress::Shrinking { case, number, of, sessions } => {
            bar.set_message(format!("smaller: {case}, case {number} of {of}, {sessions} sessions so far"));
        }
    };
    let mut report = examine(&mut standing, gathered, &expected, bounds, &mut tell)?;
    report.mutations = mutations;
    if bounds.confirms {
        bar.set_message(format!("{} chains", report.chains.len()));
        hold_chains(&mut garden, &mut report);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Holds the case of each chain with a real chain of the two servers.
fn hold_chains(garden: &mut Garden, report: &mut Report) {
    let mut chains = std::mem::take(&mut report.chains);
    for entry in &mut chains {
        match hold_chain(garden, report, &entry.chain) {
            Ok((verdict, came_out)) => (entry.stand, entry.came_out) = (Some(verdict.stand), Some(came_out)),
            Err(error) => entry.stand = Some(Stand::Unknown(format!("{error:#}"))),
        }
    }
    report.chains = chains;
}

fn hold_chain(garden: &mut Garden, report: &Report, chain: &Chain) -> Result<(Verdict, Observation)> {
    let entry = report.case(&chain.case).context("its case is not in the report")?;
    let is_relayed = |observation: &&Observation| observation.server == chain.relay;
    let relayed = entry.observations.iter().find(is_relayed).context("the relay was not observed with its case")?;
    let learned = |name: &str| {
        let server = report.servers.iter().find(|server| server.name == name);
        server.and_then(|server| server.learned.clone()).unwrap_or_default()
    };
    let patience = patience(garden.server_mut(role_of(&chain.relay).0)?);
    let mut pair = garden.in_chain(role_of(&chain.relay).0, role_of(&chain.receiver).0)?;
    let held = drive::hold(&mut pair, std::slice::from_ref(&entry.case), patience)?;
    let came_out = held.into_iter().next().context("a case without an observation")?;
    let verdict = judge_chain(&entry.case, relayed, &learned(&chain.relay), &came_out, &learned(&chain.receiver));
    Ok((verdict, came_out))
}

/// A server in a role.
type Seat = (String, Role);

/// The name of a server in a role.
fn seat_name((name, role): &Seat) -> String {
    match role {
        Role::Local => name.clone(),
        Role::Relay => format!("{name}:relay"),
    }
}

/// The name and role in such a name.
fn role_of(name: &str) -> (&str, Role) {
    match name.strip_suffix(":relay") {
        Some(name) => (name, Role::Relay),
        None => (name, Role::Local),
    }
}

/// The servers and roles to ask: those that are named, or all.
fn seats(recipes: &Recipes, names: &[String]) -> Result<Vec<Seat>> {
    let roles = |recipe: &Recipe| recipe.roles.iter().map(|role| (recipe.name.clone(), *role)).collect::<Vec<_>>();
    if names.is_empty() {
        return Ok(recipes
            .iter()
            .flat_map(|recipe| match recipe.missing {
                // It has no role, but gets a row all the same.
                Some(_) => vec![(recipe.name.clone(), Role::Local)],
                None => roles(recipe),
            })
            .collect());
    }
    let mut seats = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        let (recipe, role) = match name.strip_suffix(":relay") {
            Some(name) => (recipes.named(name)?, Role::Relay),
            None => {
                let recipe = recipes.named(name)?;
                // A server that only passes mail on needs no `:relay`.
                (recipe, *recipe.roles.first().unwrap_or(&Role::Local))
            }
        };
        if recipe.missing.is_none() && !recipe.roles.contains(&role) {
            bail!("`{}` does not {}", recipe.name, if role == Role::Relay { "pass mail on" } else { "deliver" });
        }
        let seat = (recipe.name.clone(), role);
        if !seats.contains(&seat) {
            seats.push(seat);
        }
    }
    Ok(seats)
}

/// Observations of the controls, and of the cases.
type Held = (Vec<Observation>, Vec<Observation>);

/// Holds all cases with all servers, each server in its own thread.
fn gather<'g>(
    garden: &'g mut Garden,
    seats: &[Seat],
    cases: Vec<Case>,
    absent: BTreeMap<String, String>,
) -> Result<(Gathered, Standing<'g>)> {
    let controls = compare::controls();
    let bar = terminal::bar(Some(u64::try_from(seats.len() * (controls.len() + cases.len()))?));
    let gathered: Mutex<BTreeMap<String, Result<Held>>> = Mutex::default();
    let at_work: Mutex<BTreeSet<String>> =
        Mutex::new(garden.servers().iter().map(|server| server.recipe().name.clone()).collect());
    thread::scope(|scope| {
        for server in garden.servers_mut() {
            let (bar, cases, controls, gathered, at_work) = (&bar, &cases, &controls, &gathered, &at_work);
            let roles = seats.iter().filter(|(name, _)| *name == server.recipe().name).map(|(_, role)| *role);
            let roles: Vec<Role> = roles.collect();
            scope.spawn(move || {
                for role in roles {
                    let held = hold(server, role, controls, bar)
                        .and_then(|controls| Ok((controls, hold(server, role, cases, bar)?)));
                    let name = seat_name(&(server.recipe().name.clone(), role));
                    gathered.lock().unwrap_or_else(PoisonError::into_inner).insert(name, held);
                }
                // All wait for the slowest server, so it is worth showing which one that is.
                let mut at_work = at_work.lock().unwrap_or_else(PoisonError::into_inner);
                at_work.remove(&server.recipe().name);
                let left: Vec<&str> = at_work.iter().map(String::as_str).collect();
                if !left.is_empty() {
                    bar.set_message(format!("those of {} are left", left.join(", ")));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut gathered = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut result = Gathered { cases, ..Gathered::default() };
    let mut names = Vec::new();
    for seat in seats {
        let name = seat_name(seat);
        let version = garden
            .servers()
            .iter()
            .find(|server| server.recipe().name == seat.0)
            .map(|server| server.version().to_owned());
        let entry = match gathered.remove(&name) {
            Some(Ok((controls, observations))) => {
                result.observations.extend(observations);
                names.push(name.clone());
                ServerEntry { name, version, absent: None, learned: Some(learn(&controls)) }
            }
            Some(Err(error)) => ServerEntry { name, version, absent: Some(format!("{error:#}")), learned: None },
            None => {
                let reason = absent.get(&seat.0).cloned().unwrap_or_else(|| "it was not asked".into());
                ServerEntry { name, version, absent: Some(reason), learned: None }
            }
        };
        result.servers.push(entry);
    }
    Ok((result, Standing { garden, names }))
}

/// Makes mutations and holds them in rounds until the time is up. Each is held with all servers or with none.
fn hold_mutations(standing: &mut Standing<'_>, gathered: &mut Gathered, mutate: Mutate) -> Result<Mutations> {
    let Mutate { time, seed } = mutate;
    let end = Instant::now() + time;
    let bar = terminal::bar_until(end);
    let base = generate::mutation_base();
    let known: HashSet<String> = gathered.cases.iter().map(|case| case.name.clone()).collect();
    let mut made = 0;
    let mut names = standing.names();
    while Instant::now() < end && !names.is_empty() {
        bar.set_message(format!("{made} mutations"));
        let first = made;
        let all = (first..).map(|number| generate::mutation(&base, seed, number));
        let round: Vec<Case> = all.take(AT_ONCE).collect();
        made += u64::try_from(round.len())?;
        let cases: Vec<Case> = round.into_iter().filter(|case| !known.contains(&case.name)).collect();
        for (name, held) in standing.hold_all(&names, &cases) {
            match held {
                Ok(observations) => gathered.observations.extend(observations),
                Err(error) => {
                    names.retain(|left| *left != name);
                    let server = gathered.servers.iter_mut().find(|server| server.name == name);
                    if let Some(learned) = server.and_then(|server| server.learned.as_mut()) {
                        learned
                            .unexplained
                            .push(format!("it was asked no mutations from number {first} on: {error:#}"));
                    }
                }
            }
        }
        gathered.cases.extend(cases);
    }
    bar.finish_and_clear();
    Ok(Mutations { seed, made })
}

/// How many sessions are held before their results are examined. A larger number takes less time, a smaller one loses
/// less if a server dies.
const AT_ONCE: usize = 20;

fn hold(server: &mut Server, role: Role, cases: &[Case], bar: &ProgressBar) -> Result<Vec<Observation>> {
    let patience = patience(server);
    let mut observations = Vec::with_capacity(cases.len());
    for cases in cases.chunks(AT_ONCE) {
        observations.extend(drive::hold(&mut server.in_role(role), cases, patience)?);
        bar.inc(u64::try_from(cases.len())?);
    }
    Ok(observations)
}

/// How long to wait for an empty queue. What is in it afterwards stays unknown.
const DRAINED: Duration = Duration::from_secs(40);

fn patience(server: &Server) -> Patience {
    Patience { reply: server.recipe().limits.reply, drained: DRAINED }
}

/// The servers of a garden, for further sessions.
struct Standing<'g> {
    garden: &'g mut Garden,
    names: Vec<String>,
}

impl Standing<'_> {
    /// Holds the same cases with each of these servers; the results are by name.
    fn hold_all(&mut self, names: &[String], cases: &[Case]) -> BTreeMap<String, Result<Vec<Observation>>> {
        let asked: Vec<(&str, &[Case])> = names.iter().map(|name| (name.as_str(), cases)).collect();
        self.hold_at_once(&asked)
    }

    /// Each server has its own thread; one that is asked in two roles is asked in one after the other.
    fn hold_at_once(&mut self, asked: &[(&str, &[Case])]) -> BTreeMap<String, Result<Vec<Observation>>> {
        let held: Mutex<BTreeMap<String, Result<Vec<Observation>>>> = Mutex::default();
        thread::scope(|scope| {
            for server in self.garden.servers_mut() {
                let held = &held;
                scope.spawn(move || {
                    for (name, cases) in asked {
                        let (own, role) = role_of(name);
                        if own == server.recipe().name {
                            let observations = hold(server, role, cases, &ProgressBar::hidden());
                            held.lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .insert((*name).to_owned(), observations);
                        }
                    }
                });
            }
        });
        held.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers for Standing<'_> {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn hold(&mut self, server: &str, cases: &[Case]) -> Result<Vec<Observation>> {
        let (name, role) = role_of(server);
        hold(self.garden.server_mut(name)?, role, cases, &ProgressBar::hidden())
    }

    fn hold_each(&mut self, asked: &[(String, Vec<Case>)]) -> Result<Vec<Vec<Observation>>> {
        let of_each: Vec<(&str, &[Case])> =
            asked.iter().map(|(name, cases)| (name.as_str(), cases.as_slice())).collect();
        let mut held = self.hold_at_once(&of_each);
        let of = |(name, _): &(String, Vec<Case>)| {
            held.remove(name).unwrap_or_else(|| Err(anyhow!("`{name}` is not in the garden")))
        };
        asked.iter().map(of).collect()
    }
}

/// The outcome of a case according to the standard, if it is determined.
fn expected(case: &Case) -> Option<Expected> {
    let expected = oracle::expected(case);
    let may_refuse = !expected.is_definite();
    let messages: Vec<ExpectedMessage> = expected
        .messages
        .into_iter()
        .map(|message| ExpectedMessage { copies: message.recipients.len(), octets: message.octets })
        .collect();
    // The oracle counts messages; here they are counted for each recipient.
    let at_most = expected.at_most.map(|number| match number <= messages.len() {
        true => messages.iter().map(|message| message.copies).sum(),
        false => number * messages.iter().map(|message| message.copies).max().unwrap_or(1),
    });
    Some(Expected { messages, may_refuse, at_most })
}
