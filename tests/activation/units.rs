//! The systemd units, as they are shipped: systemd understands every line, and finds the sandbox tight.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testkit::repository;
use testkit::{debian, output, succeeds};

use crate::support::receiver::Receiver;

#[test]
fn systemd_understands_every_line() {
    let receiver = Receiver::new("");
    let units = install(&receiver);
    let mut analyze = analyze();
    // What templates depend on: they are verified as if they were for `i`. The manual pages are not installed.
    receiver.write("units/i.service", "[Service]\nExecStart=/bin/true\n");
    analyze.args(["verify", "--man=no"]).args(&units);
    let output = output(analyze);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty() && output.stdout.is_empty(), "{}: {said}", output.status);
}

#[test]
fn the_sandbox_is_tight() {
    let receiver = Receiver::new("");
    install(&receiver);
    // On systemd's scale from 0 to 10, most daemons are beyond 9. In tenths.
    let mut analyze = analyze();
    analyze.args(["security", "--offline=true", "--threshold=15"]).arg(receiver.path("units/mailrecv.service"));
    succeeds(analyze, "");
}

/// Every service that serves all is confined as mailrecv.service is.
#[test]
fn the_others_are_confined_as_well() {
    let lines = |unit: &str| -> BTreeSet<String> {
        let text = repository::text(&format!("systemd-socket/{unit}"));
        text.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(str::to_owned).collect()
    };
    for other in [
        "mailrecv-sink@.service",
        "mailrecv-collector.service",
        "mailrecv-submission.service",
        "mailrecv-submissions.service",
    ] {
        let own: Vec<String> = lines("mailrecv.service").difference(&lines(other)).cloned().collect();
        let differs = |line: &&String| !OWN.iter().any(|own| line.starts_with(own));
        let missing: Vec<&String> = own.iter().filter(differs).collect();
        assert!(missing.is_empty(), "{other}: {missing:?}");
    }
}

/// The two for submission differ in what their ports are, and in nothing else.
#[test]
fn the_ports_of_submission_are_alike() {
    let settings = |unit: &str| -> Vec<String> {
        let text = repository::text(&format!("systemd-socket/{unit}"));
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("Description="));
        lines.map(str::to_owned).collect()
    };
    for kind in ["socket", "service"] {
        let of_587: Vec<String> = settings(&format!("mailrecv-submission.{kind}"))
            .iter()
            .map(|line| {
                line.replace("mailrecv-submission.", "mailrecv-submissions.")
                    .replace("=587", "=465")
                    .replace("USE_TLS=False STARTTLS=require", "USE_TLS=True STARTTLS=")
            })
            .collect();
        assert_eq!(of_587, settings(&format!("mailrecv-submissions.{kind}")));
    }
}

/// What a service has of its own: who it is, what it depends on, what it may write, how long it may take to end.
const OWN: [&str; 10] = [
    "After=",
    "Also=",
    "Description=",
    "ExecStart=",
    "Group=",
    "ReadWritePaths=",
    "Requires=",
    "TasksMax=",
    "TimeoutStopSec=",
    "User=",
];

/// What `verify` would not miss: no outsider can shut the socket or crowd others out, nothing failed is left behind, and
/// a delivery is not cut short.
#[test]
fn the_settings_that_protect_the_service_are_there() {
    for (unit, settings) in [
        ("mailrecv.socket", &["TriggerLimitIntervalSec=0"][..]),
        (
            "mailrecv.service",
            &["StartLimitIntervalSec=0", "OOMPolicy=continue", "KillMode=mixed", "TimeoutStopSec=6min"],
        ),
        (
            "mailrecv-sink@.socket",
            &["DefaultDependencies=no", "StartLimitIntervalSec=0", "TriggerLimitIntervalSec=0", "ReusePort=yes"],
        ),
        (
            "mailrecv-sink@.service",
            &["StartLimitIntervalSec=0", "MemoryMax=512M", "CPUQuota=50%", "LogRateLimitBurst=1000000"],
        ),
        ("mailrecv-submission.socket", &["TriggerLimitIntervalSec=0"]),
        (
            "mailrecv-submission.service",
            &["StartLimitIntervalSec=0", "OOMPolicy=continue", "KillMode=mixed", "TimeoutStopSec=6min"],
        ),
        ("mailrecv-percon.socket", &["MaxConnections=200", "MaxConnectionsPerSource=50", "TriggerLimitIntervalSec=0"]),
        ("mailrecv-collector.socket", &["SocketMode=0660", "TriggerLimitIntervalSec=0"]),
        ("mailrecv-collector.service", &["StartLimitIntervalSec=0", "KillMode=mixed", "TimeoutStopSec=2min"]),
        ("mailrecv-lmtp.socket", &["SocketMode=0660", "MaxConnections=200", "TriggerLimitIntervalSec=0"]),
        ("mailrecv-lmtp@.service", &["CollectMode=inactive-or-failed", "KillMode=mixed", "TimeoutStopSec=6min"]),
        ("mailrecv-percon@.service", &["CollectMode=inactive-or-failed", "KillMode=mixed", "TimeoutStopSec=6min"]),
    ] {
        let text = repository::text(&format!("systemd-socket/{unit}"));
        for setting in settings {
            assert!(text.lines().any(|line| line == *setting), "{unit}: {setting}");
        }
    }
}

/// Writes the units beside the binary; only its path is replaced.
fn install(receiver: &Receiver) -> Vec<PathBuf> {
    let folder = receiver.path("units");
    fs::create_dir(&folder).unwrap();
    let binary = receiver.binary().display().to_string();
    let units = fs::read_dir(repository::path("systemd-socket")).unwrap().map(|unit| unit.unwrap().path());
    units
        .map(|unit| {
            let text = fs::read_to_string(&unit).unwrap().replace("/usr/sbin/mailrecv", &binary);
            let path = folder.join(unit.file_name().unwrap());
            fs::write(&path, text).unwrap();
            path
        })
        .collect()
}

fn analyze() -> Command {
    let mut analyze = debian::command("systemd", "systemd-analyze");
    analyze.env("SYSTEMD_PAGER", "");
    analyze
}
