//! The receiver of this workspace, as one of the servers.

use std::path::PathBuf;

/// Its program, which whoever runs these tests has built.
pub(crate) fn mailrecv() -> PathBuf {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    let built =
        ["debug/mailrecv", "x86_64-unknown-linux-gnu/debug/mailrecv", "aarch64-unknown-linux-gnu/debug/mailrecv"];
    let found = built.iter().map(|path| PathBuf::from(target).join(path)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("build the receiver first, as tests/run does: cargo build"))
}
