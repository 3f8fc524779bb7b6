//! How the source is laid out (docs/architecture.md): an import leads down, and the protocol touches nothing. And that no
//! crate costs a start what no test of behaviour would see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test may panic, and is nobody's interface"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules, from the ground up: each imports from floors below its own only.
const FLOORS: [&[&str]; 12] = [
    &["date", "exit", "files", "hexadecimal", "panics", "scram_keys", "signals", "system_calls", "unread", "untrusted"],
    &["wait"],
    &["accounts", "metrics", "user"],
    &["address", "peer"],
    &["net"],
    &["config", "systemd"],
    &["cli", "smtp"],
    &["log", "message", "transcript"],
    &["deliver", "sandbox"],
    &["policy"],
    &["check", "passwd", "scrape", "server"],
    &["explain", "listen", "receive", "replay"],
];

/// What the protocol may know, and nothing that is a file, a clock, a log or a connection.
const PROTOCOL: [&str; 6] = ["address", "config", "hexadecimal", "peer", "scram_keys", "smtp"];

/// And of the standard library nothing that reaches outside.
const STD: [&str; 8] = ["borrow", "fmt", "iter", "mem", "num", "ops", "rc", "str"];

#[test]
fn an_import_leads_down() {
    for file in sources() {
        let module = module_of(&file);
        for import in imports(&file).into_iter().filter(|import| *import != module) {
            let (from, to) = (floor(&module), floor(&import));
            assert!(to < from, "{}: `{import}` is on floor {to}, `{module}` on floor {from}", file.display());
        }
    }
}

#[test]
fn the_protocol_touches_nothing() {
    for file in sources().into_iter().filter(|file| module_of(file) == "smtp") {
        for import in imports(&file) {
            assert!(PROTOCOL.contains(&&*import), "{}: `{import}`", file.display());
        }
        for import in paths(&file, "std::") {
            assert!(STD.contains(&&*import), "{}: `std::{import}`", file.display());
        }
        assert!(paths(&file, "nix::").is_empty(), "{}: a system call", file.display());
    }
}

#[test]
fn every_module_has_its_floor() {
    let modules: BTreeSet<String> = sources().iter().map(|file| module_of(file)).collect();
    let listed: BTreeSet<String> = FLOORS.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(modules, listed);
}

/// With its feature `std`, which any crate can ask for on behalf of all, `memchr` has the processor tell at each start what
/// it can; a virtual machine answers that slowly (Cargo.toml).
#[test]
fn no_start_asks_the_processor() {
    let arguments = "tree --locked --offline --package=mailrecv --edges=normal,features --invert=memchr";
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments.split(' ')).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.starts_with("memchr "), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!tree.contains("memchr feature \"std\""), "{tree}");
}

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("`{module}` has no floor"))
}

/// Every source file but main.rs and lib.rs, which are the roof.
fn sources() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                None => folders.push(path),
                Some(extension) if extension == "rs" => found.push(path),
                Some(_) => {}
            }
        }
    }
    found.retain(|file| !["main.rs", "lib.rs"].iter().any(|roof| *file == root().join(roof)));
    found
}

/// The module that a file belongs to: a folder or a file right below src/.
fn module_of(file: &Path) -> String {
    let path = file.strip_prefix(root()).unwrap();
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a file names.
fn imports(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    assert!(!text.contains("super::super"), "{}: write `crate::` where that leads far up", file.display());
    paths(file, "crate::")
}

/// The lower-case names that follow this in a file, one by one or in braces.
fn paths(file: &Path, root: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let mut found = BTreeSet::new();
    for rest in text.split(root).skip(1) {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split_once('}').map_or(list, |(list, _)| list);
                assert!(!list.contains('{'), "{}: braces in braces hide what is imported", file.display());
                list.split(',').collect()
            }
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.starts_with(char::is_lowercase) {
                found.insert(name);
            }
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
