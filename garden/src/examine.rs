//! Makes a report of what was observed: judges every case, repeats sessions that show differences, makes their cases
//! smaller, and reports each finding once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;

use crate::case::{Case, Unit};
use crate::compare::{
    Expected, Judgement, Kind, Learned, Stand, TIMES, Verdict, chains, controls, judge, judge_against, learn,
    standing_apart, weigh,
};
use crate::observation::{Observation, Servers};
use crate::report::{CaseEntry, ChainEntry, FORMAT, Finding, Numbers, Report, ServerEntry, Unsteady, public};
use crate::shrink::{SESSIONS, Shrunk, Wanted, is_same, is_within, shrink};

/// What was observed so far.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// The servers in the order of the report, including those that cannot be had.
    pub servers: Vec<ServerEntry>,
    /// The cases in the order of the report.
    pub cases: Vec<Case>,
    /// The observations, in any order.
    pub observations: Vec<Observation>,
}

/// Limits for further sessions.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Whether differences are confirmed by three more sessions.
    pub confirms: bool,
    /// How many sessions may be used to make one case smaller; 0 for none.
    pub sessions_per_case: usize,
    /// How many sessions may be used for this in all.
    pub sessions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { confirms: true, sessions_per_case: SESSIONS, sessions: 20 * SESSIONS }
    }
}

/// What is being done, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// This many sessions are repeated.
    Again(usize),
    /// A case is made smaller.
    Shrinking {
        /// Its name.
        case: &'a str,
        /// Which of the cases it is, counted from 1.
        number: usize,
        /// How many cases there are. Those that show nothing new take no time.
        of: usize,
        /// How many sessions were used so far to make cases smaller.
        sessions: usize,
    },
}

/// Holds the controls and the cases with each server, one server after another.
///
/// # Errors
///
/// As of [`Servers::hold`].
pub fn gather(servers: &mut dyn Servers, cases: &[Case]) -> Result<Gathered> {
    let mut gathered = Gathered { cases: cases.to_vec(), ..Gathered::default() };
    for name in servers.names() {
        let learned = learn(&servers.hold(&name, &controls())?);
        gathered.observations.extend(servers.hold(&name, cases)?);
        gathered.servers.push(ServerEntry { name, version: None, absent: None, learned: Some(learned) });
    }
    Ok(gathered)
}

/// Makes a report of what was gathered. `bounds` limits the sessions that are held to confirm differences and to make
/// cases smaller.
///
/// `oracle` knows the outcome of a case according to the standard, if it is determined.
///
/// # Errors
///
/// As of [`Servers::hold`].
pub fn examine(
    servers: &mut dyn Servers,
    gathered: Gathered,
    oracle: &dyn Fn(&Case) -> Option<Expected>,
    bounds: Bounds,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Report> {
    let learned: BTreeMap<String, Learned> =
        gathered.servers.iter().filter_map(|server| Some((server.name.clone(), server.learned.clone()?))).collect();
    let mut examination = Examination {
        servers,
        learned: &learned,
        oracle,
        bounds,
        tell,
        numbers: Numbers { cases: gathered.cases.len(), sessions: gathered.observations.len(), ..Numbers::default() },
        unsteady: Vec::new(),
        findings: Vec::new(),
        smallest: Vec::new(),
        gone_through: 0,
    };
    let mut entries = examination.judge(&gathered.servers, gathered.cases, gathered.observations)?;
    // Small cases first, so that what they show is already known in larger ones.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&index| size(&entries[index].case));
    for index in order {
        examination.gone_through += 1;
        examination.find(&entries[index])?;
    }
    let Examination { mut numbers, unsteady, mut findings, smallest, .. } = examination;
    findings.sort_by(|a, b| (a.kind, &a.server, &a.case).cmp(&(b.kind, &b.server, &b.case)));
    numbers.findings = findings.len();
    let chains = chains(entries.iter().map(|entry| (&entry.case, &entry.observations[..], &entry.judgement)));
    let chains = chains.into_iter().map(|chain| ChainEntry { chain, stand: None, came_out: None }).collect();
    entries.extend(smallest);
    let program = format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let mut report = Report {
        format: FORMAT,
        program,
        options: Vec::new(),
        mutations: None,
        servers: gathered.servers,
        cases: entries,
        findings,
        unsteady,
        chains,
        numbers,
    };
    public::label(&mut report)?;
    Ok(report)
}

struct Examination<'a> {
    servers: &'a mut dyn Servers,
    learned: &'a BTreeMap<String, Learned>,
    oracle: &'a dyn Fn(&Case) -> Option<Expected>,
    bounds: Bounds,
    tell: &'a mut dyn FnMut(Progress<'_>),
    numbers: Numbers,
    unsteady: Vec<Unsteady>,
    findings: Vec<Finding>,
    smallest: Vec<CaseEntry>,
    /// In how many cases findings were looked for, including the present one.
    gone_through: usize,
}

impl Examination<'_> {
    /// Judges each case; differences that do not come each time are marked.
    fn judge(
        &mut self,
        servers: &[ServerEntry],
        cases: Vec<Case>,
        observations: Vec<Observation>,
    ) -> Result<Vec<CaseEntry>> {
        let ignorant: BTreeMap<String, Learned> =
            self.learned.keys().map(|name| (name.clone(), Learned { is_known: true, ..Learned::default() })).collect();
        // Observations are many and large, so each is kept once.
        let mut seen: HashMap<(String, String), Observation> = observations
            .into_iter()
            .map(|observation| ((observation.case.clone(), observation.server.clone()), observation))
            .collect();
        let mut entries = Vec::new();
        for case in cases {
            let mut of_case = |server: &ServerEntry| seen.remove(&(case.name.clone(), server.name.clone()));
            let observations: Vec<Observation> = servers.iter().filter_map(&mut of_case).collect();
            let all: Vec<&Observation> = observations.iter().collect();
            let expected = (self.oracle)(&case);
            self.numbers.apart_unscreened += apart(&judge(&case, &all, &ignorant, expected.as_ref())).count();
            let judgement = judge(&case, &all, self.learned, expected.as_ref());
            self.numbers.apart += apart(&judgement).count();
            entries.push(CaseEntry { case, of: None, expected, judgement, observations });
        }
        if self.bounds.confirms {
            self.confirm(&mut entries)?;
        }
        self.numbers.steady += entries.iter().map(|entry| apart(&entry.judgement).count()).sum::<usize>();
        Ok(entries)
    }

    /// Repeats everything that shows a difference, and marks what does not come each time.
    fn confirm(&mut self, entries: &mut [CaseEntry]) -> Result<()> {
        let mut asked: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
        for entry in entries.iter() {
            for server in standing_apart(&entry.judgement) {
                asked.entry(server).or_default().extend(vec![entry.case.clone(); TIMES]);
            }
        }
        let asked: Vec<(String, Vec<Case>)> =
            asked.into_iter().map(|(server, cases)| (server.to_owned(), cases)).collect();
        let sessions = asked.iter().map(|(_, cases)| cases.len()).sum();
        if sessions == 0 {
            return Ok(());
        }
        (self.tell)(Progress::Again(sessions));
        let held = self.servers.hold_each(&asked)?;
        for entry in entries {
            let mut again: BTreeMap<&str, Vec<&Observation>> = BTreeMap::new();
            for ((server, _), observations) in asked.iter().zip(&held) {
                let of_case = observations.iter().filter(|observation| observation.case == entry.case.name);
                again.insert(server, of_case.collect());
            }
            self.mark(entry, &again);
        }
        Ok(())
    }

    fn mark(&mut self, entry: &mut CaseEntry, again: &BTreeMap<&str, Vec<&Observation>>) {
        let observations: Vec<&Observation> = entry.observations.iter().collect();
        let expected = entry.expected.as_ref();
        for found in weigh(&entry.case, &observations, self.learned, expected, &entry.judgement, again) {
            if found.is_steady() {
                continue;
            }
            let mut verdicts = entry.judgement.verdicts.iter_mut();
            let Some(verdict) = verdicts.find(|verdict| verdict.server == found.server) else {
                continue;
            };
            let Stand::Apart(differences) = std::mem::replace(&mut verdict.stand, Stand::WithTheOthers) else {
                continue;
            };
            self.unsteady.push(Unsteady {
                case: entry.case.name.clone(),
                server: found.server,
                differences: differences.clone(),
                again: found.again,
                otherwise: found.otherwise,
            });
            verdict.stand = Stand::Unsteady { differences, again: found.again };
        }
    }

    /// The findings of a case: for each kind the servers that differ in this way, with the smallest case that shows it.
    fn find(&mut self, entry: &CaseEntry) -> Result<()> {
        let kinds: BTreeSet<Kind> = apart(&entry.judgement).map(|(_, kind)| kind).collect();
        for kind in kinds {
            let mut rest: Vec<String> =
                apart(&entry.judgement).filter(|(_, own)| *own == kind).map(|(server, _)| server.to_owned()).collect();
            rest.retain(|server| !self.is_known(entry, kind, server));
            while !rest.is_empty() {
                let found = self.smallest(entry, kind, &rest)?;
                let (case, is_smallest, servers) = match found {
                    Some((shrunk, servers)) => (shrunk, true, servers),
                    None => (entry.case.name.clone(), false, std::mem::take(&mut rest)),
                };
                rest.retain(|server| !servers.contains(server));
                for server in servers {
                    self.tell_once(entry, kind, server, &case, is_smallest);
                }
            }
        }
        Ok(())
    }

    fn tell_once(&mut self, entry: &CaseEntry, kind: Kind, server: String, case: &str, is_smallest: bool) {
        let is_known = |known: &&mut Finding| known.kind == kind && known.server == server && known.case == case;
        if let Some(known) = self.findings.iter_mut().find(is_known) {
            known.found_in.push(entry.case.name.clone());
            return;
        }
        let difference = entry.judgement.verdict(&server).and_then(Verdict::difference);
        self.findings.push(Finding {
            kind,
            server,
            case: case.to_owned(),
            is_smallest,
            found_in: vec![entry.case.name.clone()],
            detail: difference.map(|difference| difference.detail.clone()).unwrap_or_default(),
            public: Vec::new(),
        });
    }

    /// Whether it is a finding already, with a case that is contained in this one.
    fn is_known(&mut self, entry: &CaseEntry, kind: Kind, server: &str) -> bool {
        let smallest = &self.smallest;
        let known = self.findings.iter_mut().find(|finding| {
            finding.kind == kind
                && finding.server == server
                && smallest.iter().any(|small| small.case.name == finding.case && is_within(&small.case, &entry.case))
        });
        match known {
            Some(finding) => {
                finding.found_in.push(entry.case.name.clone());
                true
            }
            None => false,
        }
    }

    /// Makes the case smaller for some of the servers, and finds out for which of them the result holds. Returns the
    /// name of the smallest case.
    fn smallest(&mut self, entry: &CaseEntry, kind: Kind, apart: &[String]) -> Result<Option<(String, Vec<String>)>> {
        const OTHERS: usize = 2;
        let others: Vec<String> = entry.judgement.reference().take(OTHERS).map(str::to_owned).collect();
        let Some((Shrunk { mut case, observations, .. }, shown_by)) = self.shrink(entry, kind, apart, &others)? else {
            return Ok(None);
        };
        // Two cases may become the same one.
        let same = self.smallest.iter().position(|known| is_same(&known.case, &case));
        let name = match same {
            Some(index) => self.smallest[index].case.name.clone(),
            None => format!("{}~{}", entry.case.name, self.smallest.len() + 1),
        };
        case.name.clone_from(&name);
        let small = self.ask_all(entry, case, observations, &others)?;
        let shows = |server: &&String| {
            shown_by.contains(server)
                || small.judgement.verdict(server).and_then(Verdict::difference).is_some_and(|found| found.kind == kind)
        };
        let servers = apart.iter().filter(shows).cloned().collect();
        if same.is_none() {
            self.smallest.push(small);
        }
        Ok(Some((name, servers)))
    }

    /// Makes the case smaller for the first of these servers that are apart, and returns those for which it is.
    fn shrink<'s>(
        &mut self,
        entry: &CaseEntry,
        kind: Kind,
        apart: &'s [String],
        others: &[String],
    ) -> Result<Option<(Shrunk, &'s [String])>> {
        // At the end all servers are asked about the result.
        let left = self.bounds.sessions.saturating_sub(self.numbers.shrink_sessions + self.learned.len());
        let mut sessions = self.bounds.sessions_per_case.min(left);
        if sessions == 0 {
            return Ok(None);
        }
        (self.tell)(Progress::Shrinking {
            case: &entry.case.name,
            number: self.gone_through,
            of: self.numbers.cases,
            sessions: self.numbers.shrink_sessions,
        });
        // Each further server costs a session for each try, so that two represent the rest. If these two do not show
        // the same together, they may differ for different reasons.
        let represent: &[usize] = if apart.len() > 1 { &[2, 1] } else { &[1] };
        for &number in represent {
            let apart = &apart[..number];
            let wanted = Wanted { kind, apart, others, learned: self.learned, oracle: self.oracle, sessions };
            let (shrunk, held) = shrink(self.servers, &entry.case, wanted)?;
            self.numbers.shrink_sessions += held;
            sessions -= held;
            if let Some(shrunk) = shrunk {
                return Ok(Some((shrunk, apart)));
            }
        }
        Ok(None)
    }

    /// Asks the servers that were not asked about a smaller case yet, and judges it.
    fn ask_all(
        &mut self,
        entry: &CaseEntry,
        case: Case,
        mut observations: Vec<Observation>,
        trusted: &[String],
    ) -> Result<CaseEntry> {
        let is_asked = |server: &&String| !observations.iter().any(|observation| observation.server == **server);
        let rest: Vec<_> =
            self.learned.keys().filter(is_asked).map(|server| (server.clone(), vec![case.clone()])).collect();
        self.numbers.shrink_sessions += rest.len();
        observations.extend(self.servers.hold_each(&rest)?.concat());
        for observation in &mut observations {
            observation.case.clone_from(&case.name);
        }
        let order =
            |observation: &Observation| entry.observations.iter().position(|one| one.server == observation.server);
        observations.sort_by_key(|observation| order(observation).unwrap_or(usize::MAX));
        let expected = (self.oracle)(&case);
        let trusted: Vec<_> = trusted.iter().map(String::as_str).collect();
        let all: Vec<_> = observations.iter().collect();
        let judgement = judge_against(&case, &all, self.learned, expected.as_ref(), &trusted);
        Ok(CaseEntry { case, of: Some(entry.case.name.clone()), expected, judgement, observations })
    }
}

fn apart(judgement: &Judgement) -> impl Iterator<Item = (&str, Kind)> {
    judgement.verdicts.iter().filter_map(|verdict| Some((verdict.server.as_str(), verdict.difference()?.kind)))
}

fn size(case: &Case) -> usize {
    let size = |unit: &Unit| match unit {
        Unit::Send { octets, .. } => octets.len(),
        _ => 1,
    };
    case.units.iter().map(size).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::case::Part;
    use crate::compare::stored::{Made, plain};

    const EVEN: &str = "A: even\n\nt0t0t0t0t\n";
    const ODD: &str = "A: odd\n\nt0t0t0t0t\n";
    const ONE_MORE: &str = "A: even\nB: more\n\nt0t0t0t0t\n";

    /// What is found of these servers, with a case that has these octets: the server, the kind, what is left of the
    /// octets, and whether that is the smallest case.
    fn found(
        servers: &[&str],
        octets: &str,
        sessions_per_case: usize,
        makes: &dyn Fn(&str, &str) -> &'static str,
    ) -> Vec<(String, Kind, String, bool)> {
        let units = vec![Unit::Send { part: Part::Body, octets: octets.into() }];
        let cases = vec![Case { name: "a".into(), units }];
        let mut made = Made { makes, held: Vec::new() };
        let mut gathered = Gathered { cases: cases.clone(), ..Gathered::default() };
        for (name, learned) in plain(servers) {
            gathered.observations.extend(made.hold(&name, &cases).unwrap());
            gathered.servers.push(ServerEntry { name, version: None, absent: None, learned: Some(learned) });
        }
        let bounds = Bounds { confirms: false, sessions_per_case, ..Bounds::default() };
        let before = made.held.len();
        let report = examine(&mut made, gathered, &|_| None, bounds, &mut |_| {}).unwrap();
        assert_eq!(report.numbers.shrink_sessions, made.held.len() - before);
        let left = |name: &str| {
            let case = &report.case(name).unwrap().case;
            String::from_utf8(crate::compare::text::octets_of(case)).unwrap()
        };
        let findings = report.findings.iter();
        findings.map(|found| (found.server.clone(), found.kind, left(&found.case), found.is_smallest)).collect()
    }

    #[test]
    fn who_shows_another_kind_in_a_smallest_case_has_one_of_its_own() {
        // Two differ as long as there is an x. The third does, too, but without a y in another way.
        let servers = ["even-1", "even-2", "even-3", "even-4", "odd-1", "odd-2", "odd-3"];
        let found = found(&servers, "wxyz", SESSIONS, &|server, octets| match server {
            _ if !octets.contains('x') || server.starts_with("even") => EVEN,
            "odd-3" if !octets.contains('y') => ONE_MORE,
            _ => ODD,
        });
        let expected = [("odd-1", "x"), ("odd-2", "x"), ("odd-3", "xy")];
        assert_eq!(found, expected.map(|(server, left)| (server.into(), Kind::Bytes, left.into(), true)));
    }

    #[test]
    fn who_differs_no_more_leaves_the_others_their_smallest_case() {
        let times = Cell::new(0);
        let servers = ["even-1", "even-2", "even-3", "odd-1", "odd-2"];
        let makes = |server: &str, octets: &str| match server {
            "odd-2" if times.replace(times.get() + 1) > 0 => EVEN,
            _ if octets.contains('x') && server.starts_with("odd") => ODD,
            _ => EVEN,
        };
        let expected = [("odd-1", "x", true), ("odd-2", "wxy", false)];
        let expected = expected.map(|(server, left, is)| (server.into(), Kind::Bytes, left.into(), is));
        assert_eq!(found(&servers, "wxy", SESSIONS, &makes), expected);
        // Of ten sessions four are held with both, and six with one of them and two others.
        times.set(0);
        let asked = Cell::new(0);
        found(&servers, "wxy", 10, &|server, octets| {
            asked.set(asked.get() + usize::from(server == "odd-1"));
            makes(server, octets)
        });
        assert_eq!(asked.get(), 1 + 1 + 2);
    }
}
