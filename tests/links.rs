//! The texts for people lead somewhere: every link, and every file, function, test and command that they name, is there.
//!
//! What is looked at in a text is its links and what stands in backticks: a path; `src/FILE.rs` `NAME`, which is a name in
//! that file; and `TARGET::NAME` or `MODULE::NAME`, which is a test or a function (`unit` are the tests in src).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

use std::path::{Path, PathBuf};

#[test]
fn links_lead_to_files() {
    let mut found = 0;
    let missing = missing(|text| {
        let targets = text.content.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap_or_default());
        let inside = targets.filter(|target| !target.is_empty() && !target.contains("://"));
        let (there, missing): (Vec<&str>, Vec<&str>) =
            inside.partition(|target| text.file.parent().unwrap().join(target).exists());
        found += there.len();
        missing.into_iter().map(str::to_owned).collect()
    });
    assert!(missing.is_empty(), "these links lead nowhere:\n{missing}");
    assert!(found > 10, "only {found} links were found");
}

#[test]
fn named_files_are_there() {
    let mut found = 0;
    let missing = missing(|text| {
        let (there, missing): (Vec<&str>, Vec<&str>) =
            text.code().into_iter().map(|span| span.code).filter(|code| is_path(code)).partition(|path| is_there(path));
        found += there.len();
        missing.into_iter().map(str::to_owned).collect()
    });
    assert!(missing.is_empty(), "these files are not there:\n{missing}");
    assert!(found > 100, "only {found} files were found");
}

/// `src/deliver/mod.rs` `deliver`, `hand_over`; or `failure` in `src/deliver/mod.rs`
#[test]
fn names_are_in_the_files_that_are_said() {
    let mut found = 0;
    let missing = missing(|text| {
        let (there, missing): (Vec<_>, Vec<_>) = text.names_in_files().into_iter().partition(|(file, name)| {
            let sources = [root().join(file), root().join("src").join(file)].map(std::fs::read_to_string);
            let source = sources.into_iter().find_map(Result::ok).unwrap_or_default();
            name.split("::").all(|name| defines(&source, name))
        });
        found += there.len();
        missing.into_iter().map(|(file, name)| format!("{file} {name}")).collect()
    });
    assert!(missing.is_empty(), "these names are not in their files:\n{missing}");
    assert!(found > 20, "only {found} names were found");
}

#[test]
fn named_tests_and_functions_are_there() {
    let mut found = 0;
    let missing = missing(|text| {
        let named = text.code().into_iter().map(|span| span.code).filter(|code| is_name(code) && !has_capital(code));
        let qualified = named.filter_map(|code| Some((code, code.rsplit_once("::")?)));
        let (there, missing): (Vec<_>, Vec<_>) = qualified.partition(|(_, (place, name))| {
            places(place).iter().any(|place| has_source(place, &|_, source| source.contains(&format!("fn {name}("))))
        });
        found += there.len();
        missing.into_iter().map(|(code, _)| code.to_owned()).collect()
    });
    assert!(missing.is_empty(), "these tests and functions are not there:\n{missing}");
    assert!(found > 40, "only {found} tests and functions were found");
}

/// A filter that selects nothing would pass.
#[test]
fn commands_run_tests_that_are_there() {
    let mut found = 0;
    let missing = missing(|text| {
        let (there, missing): (Vec<&str>, Vec<&str>) =
            text.content.split("--test ").skip(1).partition(|rest| runs_a_test(rest));
        found += there.len();
        missing.into_iter().map(|rest| format!("--test {}", rest.lines().next().unwrap_or_default())).collect()
    });
    assert!(missing.is_empty(), "these commands run nothing:\n{missing}");
    assert!(found > 10, "only {found} commands were found");
}

/// Whether this is a target, followed perhaps by a filter that a test or a file of its has in its name.
fn runs_a_test(arguments: &str) -> bool {
    let mut words = arguments.lines().next().unwrap_or_default().split(['`', ' ']);
    let target = words.next().unwrap_or_default();
    let filter = words.next().unwrap_or_default();
    let places = [root().join(format!("tests/{target}.rs")), root().join("tests").join(target)];
    let is_selected = |file: &Path, source: &str| {
        let in_name = file.file_stem().is_some_and(|name| name.to_string_lossy().contains(filter));
        let functions = source.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
        !is_name(filter) || in_name || functions.into_iter().any(|name| name.contains(filter))
    };
    places.iter().any(|place| has_source(place, &is_selected))
}

/// A text for people.
struct Text {
    file: PathBuf,
    content: String,
}

/// What stands in backticks, and what is between it and the one before.
struct Span<'t> {
    before: &'t str,
    code: &'t str,
}

impl Text {
    /// What stands in backticks within a line.
    fn code(&self) -> Vec<Span<'_>> {
        let (mut spans, mut in_block) = (Vec::new(), false);
        for line in self.content.lines() {
            in_block ^= line.starts_with("```");
            if in_block || line.starts_with("```") || line.starts_with("    ") {
                continue;
            }
            let pieces: Vec<&str> = line.split('`').collect();
            assert!(pieces.len() % 2 == 1, "{}: a backtick alone: {line}", self.file.display());
            spans.extend(pieces.chunks_exact(2).map(|pair| Span { before: pair[0], code: pair[1] }));
        }
        spans
    }

    /// The names that are said to be in a file, with the file.
    fn names_in_files(&self) -> Vec<(&str, &str)> {
        let spans = self.code();
        let is_file = |span: &Span<'_>| span.code.ends_with(".rs");
        let mut named = Vec::new();
        let mut file = None;
        for [one, next] in spans.array_windows() {
            file = match (file, next.before) {
                (_, " ") if is_file(one) && is_name(next.code) => Some(one.code),
                (Some(file), ", ") if is_name(next.code) => Some(file),
                _ => None,
            };
            named.extend(file.map(|file| (file, next.code)));
            named
                .extend((next.before == " in " && is_name(one.code) && is_file(next)).then_some((next.code, one.code)));
        }
        named
    }
}

/// What `look` misses in each text, a line each.
fn missing(mut look: impl FnMut(&Text) -> Vec<String>) -> String {
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)).into();
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    files.extend(docs.map(|entry| entry.unwrap().path()).filter(|file| file.extension().is_some_and(|it| it == "md")));
    let mut missing = String::new();
    for file in files {
        let content = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let text = Text { file, content };
        look(&text).iter().for_each(|it| missing += &format!("{}: {it}\n", text.file.display()));
    }
    missing
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether this is meant as a path in the repository.
fn is_path(code: &str) -> bool {
    let folders =
        ["src", "tests", "docs", "etc", "fuzz", "benches", "testkit", "systemd-socket", "xinetd.d", ".ci", ".cargo"];
    let is_below = |folder| code.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    !code.contains([' ', '*', '=']) && (folders.into_iter().any(is_below) || code.ends_with(".rs"))
}

/// Whether it is there, in the repository or in `src`, or is the name of a test target.
fn is_there(path: &str) -> bool {
    [root().join(path), root().join("src").join(path), root().join(format!("{path}.rs"))].iter().any(|it| it.exists())
}

/// Whether this is a name in the program, `collides_with` or `Transaction::collides_with`.
fn is_name(code: &str) -> bool {
    code.starts_with(|first: char| first.is_ascii_alphabetic())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte))
}

fn has_capital(code: &str) -> bool {
    code.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether the name is made in this source, or a method of the type is.
fn defines(source: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let keywords = ["fn", "struct", "enum", "const", "static", "type", "trait", "mod", "impl"];
    keywords.iter().any(|keyword| source.split(&format!("{keyword} {name}")).skip(1).any(ends))
}

/// Where a test target or a module has its source.
fn places(name: &str) -> Vec<PathBuf> {
    let name = name.rsplit("::").next().unwrap_or(name);
    if name == "unit" {
        return vec![root().join("src")];
    }
    let modules = std::fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    let folders = modules.filter(|path| path.is_dir()).chain([root().join("src"), root().join("tests")]);
    folders.flat_map(|folder| [folder.join(format!("{name}.rs")), folder.join(name)]).collect()
}

/// Whether a source file, or one below a folder, is such a one.
fn has_source(place: &Path, is_it: &dyn Fn(&Path, &str) -> bool) -> bool {
    match std::fs::read_dir(place) {
        Ok(entries) => entries.into_iter().any(|entry| has_source(&entry.unwrap().path(), is_it)),
        Err(_) => std::fs::read_to_string(place).is_ok_and(|source| is_it(place, &source)),
    }
}
