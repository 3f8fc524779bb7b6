//! What is fuzzed, one module a target: each has a `check`, which panics if something is wrong with what the program does
//! with an input.
//!
//! The fuzzer runs these functions (`fuzz/run`), and so do the ordinary tests: tests/corpus.rs over every input that the
//! fuzzer found worth keeping, tests/properties.rs over inputs of its own. So nothing here knows the fuzzer.

pub mod command;
pub mod config;
pub mod conversation;
pub mod data;
pub mod driver;
pub mod letter;
pub mod log;
pub mod mboxrd;
pub mod pieces;
pub mod proxy;
pub mod reference;
pub mod relay;
pub mod reply;
pub mod session;

/// A target's name and what it checks.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("command", command::check),
    ("config", config::check),
    ("data", data::check),
    ("letter", letter::check),
    ("log", log::check),
    ("mboxrd", mboxrd::check),
    ("proxy", proxy::check),
    ("relay", relay::check),
    ("reply", reply::check),
    ("session", session::check),
];
