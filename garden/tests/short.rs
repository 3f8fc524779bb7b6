//! A dozen servers side by side, with the cases that have told servers apart most often: what is publicly known of them
//! is found again, and those of whom nothing is known have nothing to be told of.
//!
//! Needs root, for the namespaces, and the packages, which are got where they are not there yet.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use smtp_garden::compare::{Class, Stand};
use smtp_garden::report::Report;

mod receiver;
use receiver::mailrecv;

const SERVERS: &str = "aiosmtpd/1.4.4,chasquid,courier,dovecot-lmtp,dovecot-submission,exim,mailrecv,mailrecv/relay,msmtpd,\
                       nullmailer,opensmtpd,postfix,postfix/normalize,qpsmtpd,sendmail";

/// The server, the case, the class, and what it is publicly known as.
const CANARIES: [(&str, &str, Class, &str); 4] = [
    ("postfix", "end-of-data/CRLF.CRCRLF/blob/crlf-header", Class::Count, "CVE-2023-51764"),
    ("qpsmtpd", "end-of-data/LF.CRLF/blob/crlf-header", Class::Count, "smtpd/qpsmtpd#317"),
    ("msmtpd", "octets/NUL/body", Class::Bytes, "marlam/msmtp#199"),
    ("aiosmtpd/1.4.4", "end-of-data/LF.CRLF/blob/crlf-header", Class::Count, "CVE-2024-27305"),
];

/// Of these nothing is known, and nothing of these classes may be found. What is passed on has no line that ends with
/// LF alone: a relay makes CRLF of it, in a header too, where it refuses no such thing.
const SOUND: [(&str, &[Class]); 3] = [
    ("postfix/normalize", &[Class::Died, Class::Count, Class::Forged, Class::Cut, Class::Header]),
    ("mailrecv", &[Class::Died, Class::Count, Class::Forged, Class::Cut, Class::Header]),
    ("mailrecv/relay", &[Class::Died, Class::Count, Class::Forged, Class::Cut]),
];

#[test]
fn what_is_known_is_found_again_and_nothing_else_of_those_that_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("report.json"), folder.path().join("report.html"));
    let before = traces();
    let output = Command::new(std::env::var_os("CARGO_BIN_EXE_smtp-garden").unwrap())
        .args(["run", "short", "--shrink", "0", "--servers", SERVERS, "--mailrecv"])
        .arg(mailrecv())
        .args(["--cache"])
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/packages"))
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let (mounts, first_processes) = traces();
    // What was there before is somebody else's, and may be gone.
    assert_eq!(mounts.iter().filter(|mount| !before.0.contains(mount)).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(first_processes.difference(&before.1).collect::<Vec<_>>(), Vec::<&String>::new());
    let report = Report::from_json(&fs::read_to_string(&json).unwrap()).unwrap();
    assert!(fs::read_to_string(&html).unwrap().contains("end-of-data/LF.LF/blob/crlf-header"));
    let absent: Vec<_> = report.servers.iter().filter_map(|server| server.absent.as_ref()).collect();
    assert!(absent.is_empty(), "{absent:?}");
    assert_eq!(report.servers.len(), SERVERS.split(',').count());

    let classes = classes(&report);
    for (server, case, class, public) in CANARIES {
        let found = &classes[&(name_in(&report, server), case)];
        assert!(found.contains(&class), "{server} with {case}: {found:?}");
        let is_named = |name: &smtp_garden::report::PublicName| name.name == public;
        let is_known = report
            .findings
            .iter()
            .any(|finding| finding.server == name_in(&report, server) && finding.public.iter().any(is_named));
        assert!(is_known, "{server}: {public} is not named");
    }
    for (server, grave) in SOUND {
        let name = name_in(&report, server);
        for ((found, case), classes) in &classes {
            let is_grave = *found == name && classes.iter().any(|class| grave.contains(class));
            assert!(!is_grave, "{server} with {case}: {classes:?}");
        }
    }
}

/// What a server is called in the report, in whichever role.
fn name_in<'r>(report: &'r Report, server: &str) -> &'r str {
    let names = report.server_names();
    let is_it = |name: &&str| name.strip_suffix(":relay").unwrap_or(name) == server;
    names.into_iter().find(is_it).unwrap()
}

/// The classes of what a server does otherwise with a case, each time: by server and case.
fn classes(report: &Report) -> BTreeMap<(&str, &str), BTreeSet<Class>> {
    let mut classes: BTreeMap<_, BTreeSet<Class>> = BTreeMap::new();
    for entry in &report.cases {
        for verdict in &entry.judgement.verdicts {
            let found = classes.entry((&*verdict.server, &*entry.case.name)).or_default();
            if let Stand::Apart(differences) = &verdict.stand {
                found.extend(differences.iter().map(|difference| difference.kind.class()));
            }
        }
    }
    classes
}

/// Mounts and processes that a garden could leave.
fn traces() -> (Vec<String>, BTreeSet<String>) {
    // Other tests have mounts of their own meanwhile.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of_garden = |line: &&str| line.starts_with("garden ") || line.contains("/packages");
    let mounts = mounts.lines().filter(of_garden).map(str::to_owned).collect();
    let mut first_processes = BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if words.split(|&octet| octet == 0).nth(1) == Some(b"first-process") {
            first_processes.insert(process.file_name().to_string_lossy().into_owned());
        }
    }
    (mounts, first_processes)
}
