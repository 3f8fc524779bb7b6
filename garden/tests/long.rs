//! Every server that can be had, with every case, twice; pairs of relays and receivers; mutations; and ordinary mails,
//! which nobody may stumble over.
//!
//!     cargo test --test long -- --ignored --no-capture
//!
//! `GARDEN_REPORTS` may name a folder for the reports, which are gone otherwise.
//!
//! Needs root, for the namespaces, and the packages, which are got where they are not there yet. It prints how many
//! findings there are, and which of them are public, and nothing of the others.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and this one tells")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use smtp_garden::compare::{Class, Stand};
use smtp_garden::report::Report;

mod receiver;
use receiver::mailrecv;

/// What is publicly known and has to be found again.
const PUBLIC: [&str; 6] = [
    "CVE-2023-51764",
    "CVE-2023-51766",
    "CVE-2024-27305",
    "emersion/go-smtp#246",
    "marlam/msmtp#199",
    "smtpd/qpsmtpd#317",
];

#[test]
#[ignore = "takes an hour"]
fn every_server_with_every_case_twice() {
    let folder = tempfile::tempdir().unwrap();
    let reports = std::env::var_os("GARDEN_REPORTS").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    let hold = |name: &str, arguments: &[&str]| {
        let begun = Instant::now();
        let report = run(arguments, &reports.join(format!("{name}.json")));
        println!("{name}: {:?} in {} s", report.numbers, begun.elapsed().as_secs());
        report
    };
    let first = hold("first", &["all", "--mutations", "0", "--mutate-for", "10m"]);
    let made = first.mutations.unwrap().made.to_string();
    // Twice are the sessions. What is in a case does not get smaller in another way the second time.
    let second = hold("second", &["all", "--mutations", &made, "--shrink", "0"]);
    let reports = [first, second];
    for report in &reports {
        tell(report);
        let named: BTreeSet<&str> =
            report.findings.iter().flat_map(|finding| &finding.public).map(|public| public.name.as_str()).collect();
        assert_eq!(named, PUBLIC.into_iter().collect::<BTreeSet<_>>());
    }
    let [first, second] = reports.each_ref().map(stands);
    let others = first.iter().filter(|(place, class)| second.get(*place) != Some(class)).count();
    println!("{others} of {} verdicts are others the second time", first.len());
    // One in fifty is what a busy machine may do to sessions.
    assert!(others * 50 < first.len(), "{others} of {}", first.len());
}

#[test]
#[ignore = "takes minutes, and gets mails from the network; if GARDEN_MAILS names a folder with mails (.eml), it takes those"]
fn nobody_stumbles_over_ordinary_mails() {
    let folder = tempfile::tempdir().unwrap();
    let mails = std::env::var("GARDEN_MAILS").unwrap_or_else(|_| {
        let mails = folder.path().join("mails").to_str().unwrap().to_owned();
        let gather = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/gather-mails");
        assert!(Command::new(gather).arg(&mails).status().unwrap().success());
        mails
    });
    let report = run(&["--folder", &mails, "--shrink", "0"], &folder.path().join("report"));
    assert!(report.numbers.cases > 200, "{} mails", report.numbers.cases);
    tell(&report);
    assert_eq!(report.findings.len(), 0);
}

fn run(arguments: &[&str], json: &Path) -> Report {
    let output = Command::new(std::env::var_os("CARGO_BIN_EXE_smtp-garden").unwrap())
        .arg("run")
        .args(arguments)
        .args(["--cache", concat!(env!("CARGO_TARGET_TMPDIR"), "/packages"), "--mailrecv"])
        .arg(mailrecv())
        .arg("--json")
        .arg(json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Report::from_json(&fs::read_to_string(json).unwrap()).unwrap()
}

/// Numbers, and names of what is public.
fn tell(report: &Report) {
    let mut classes: BTreeMap<Class, usize> = BTreeMap::new();
    for finding in &report.findings {
        *classes.entry(finding.kind.class()).or_default() += 1;
    }
    println!("findings by class: {classes:?}; unsteady: {}; chains: {}", report.unsteady.len(), report.chains.len());
    for server in report.servers.iter().filter(|server| server.absent.is_some()) {
        println!("{} did not take part", server.name);
    }
}

/// The class of each server and case: nothing where it stands with the others.
fn stands(report: &Report) -> BTreeMap<(String, String), Option<Class>> {
    let of_run = report.cases.iter().filter(|entry| entry.of.is_none());
    let verdicts = of_run.flat_map(|entry| entry.judgement.verdicts.iter().map(move |verdict| (entry, verdict)));
    verdicts
        .map(|(entry, verdict)| {
            let class = match &verdict.stand {
                Stand::Apart(_) => verdict.class(),
                _ => None,
            };
            ((verdict.server.clone(), entry.case.name.clone()), class)
        })
        .collect()
}
