//! What the fuzzer knows, without the fuzzer: every input of fuzz/corpus/ and fuzz/seeds/ goes through the same checks
//! again. `fuzz/run` finds more of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

#[test]
fn every_input_passes() {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = TARGETS.iter().map(|target| scope.spawn(|| failures(target))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("the thread of a target")).collect()
    });
    assert!(failures.is_empty(), "these inputs fail, their panics are above:\n{}", failures.join("\n"));
}

/// The inputs of a target that it panics at.
fn failures((name, check): &Target) -> Vec<String> {
    let inputs = [inputs("corpus", name), inputs("seeds", name)].concat();
    let fails = |file: &PathBuf| {
        let input = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        std::panic::catch_unwind(|| check(&input)).is_err()
    };
    inputs.into_iter().filter(fails).map(|file| file.display().to_string()).collect()
}

/// A target that was left out of one of these would not be noticed.
#[test]
fn every_target_is_fuzzed_and_has_inputs() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let manifest = std::fs::read_to_string(fuzz("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next());
    assert_eq!(bins.collect::<BTreeSet<&str>>(), names);
    for folder in ["corpus", "seeds"] {
        for name in &names {
            assert!(!inputs(folder, name).is_empty(), "fuzz/{folder}/{name} is empty");
        }
    }
}

/// The inputs are a part of the repository: they are worth some room, but not any.
#[test]
fn the_corpus_is_small() {
    let files: Vec<PathBuf> = TARGETS.iter().flat_map(|(name, _)| inputs("corpus", name)).collect();
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(files.len() <= 3000 && bytes <= 2_000_000, "{} inputs of {bytes} bytes: run fuzz/run", files.len());
}

fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = fuzz(folder).join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry of the folder").path()).collect()
}

fn fuzz(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}
