//! What the built program is, whatever the target that it is built for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use support::MAILRECV;
use testkit::{debian, succeeds};

/// It needs no file but itself, lies at another address each time, and nothing in it can be both written and run.
#[test]
fn the_program_is_static_and_hardened() {
    let mut readelf = debian::command("binutils", "readelf");
    readelf.args(["--file-header", "--program-headers", "--dynamic", "--wide", MAILRECV]);
    let said = succeeds(readelf, "");
    let segment = |kind: &str| said.lines().find(|line| line.trim_start().starts_with(kind));
    assert!(said.contains("DYN (Position-Independent Executable file)"), "{said}");
    assert_eq!(segment("INTERP"), None, "{said}");
    for of_libraries in ["(NEEDED)", "(RPATH)", "(RUNPATH)", "(TEXTREL)"] {
        assert!(!said.contains(of_libraries), "{said}");
    }
    assert!(segment("GNU_RELRO").is_some() && said.contains("BIND_NOW"), "{said}");
    assert!(segment("GNU_STACK").is_some() && !said.contains(" RWE "), "{said}");
}
