//! tests/hostile/README says where each known attack is tested; this says that it is true of the names in it.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

use crate::case;

#[test]
fn the_index_names_what_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = std::fs::read_to_string(root.join("tests/hostile/README")).unwrap();
    let name = Regex::new(r"(?-u)\b([a-z_]+)/([a-z0-9-]+)\b|\b([a-z_]+)::([a-z0-9_]+)").unwrap();
    let mut named = BTreeSet::new();
    let mut missing = Vec::new();
    for found in name.captures_iter(&index) {
        let is_there = match (found.get(1), found.get(3)) {
            (Some(folder), _) if folder.as_str() == "cases" => {
                named.insert(found[2].to_owned());
                root.join(format!("tests/hostile/cases/{}.txt", &found[2])).exists()
            }
            (Some(folder), _) if folder.as_str() == "dialogs" => {
                root.join(format!("tests/dialogs/{}.txt", &found[2])).exists()
            }
            (_, Some(target)) => has_function(root, target.as_str(), &found[4]),
            _ => true,
        };
        if !is_there {
            missing.push(found[0].to_owned());
        }
    }
    assert!(missing.is_empty(), "the README names what is not there: {missing:?}");
    let unnamed: Vec<String> =
        case::all().into_iter().map(|case| case.name).filter(|case| !named.contains(case)).collect();
    assert!(unnamed.is_empty(), "the README does not say what these cases are for: {unnamed:?}");
}

/// Whether some source file of this test target (`delivery`), or of the library (`unit`), has the function.
fn has_function(root: &Path, target: &str, function: &str) -> bool {
    let places = match target {
        "unit" => vec![root.join("src")],
        _ => vec![root.join(format!("tests/{target}.rs")), root.join(format!("tests/{target}"))],
    };
    places.iter().any(|place| contains(place, &format!("fn {function}(")))
}

fn contains(place: &Path, text: &str) -> bool {
    match std::fs::read_dir(place) {
        Ok(entries) => entries.into_iter().any(|entry| contains(&entry.unwrap().path(), text)),
        Err(_) => std::fs::read_to_string(place).is_ok_and(|content| content.contains(text)),
    }
}
