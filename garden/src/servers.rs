//! `servers`: which there are.

use anyhow::Result;

use crate::packages::{Cache, NotYet};
use crate::recipe::{Protocol, Recipe, Role};
use crate::recipes::Recipes;
use crate::terminal;

/// Shows a table: a line for each server, with the reason where there is none.
pub(crate) fn show(recipes: &Recipes, cache: &Cache) -> Result<()> {
    terminal::print(&line(["NAME", "VERSION", "PROTOCOL", "ROLES", "STATE"]));
    for recipe in recipes.iter() {
        let (version, state) = match cache.look(recipe) {
            Ok(fetched) => (fetched.version, "here".to_owned()),
            Err(error) if error.is::<NotYet>() => ("?".to_owned(), "fetched when it is wanted".to_owned()),
            Err(error) => ("-".to_owned(), format!("{error:#}")),
        };
        terminal::print(&line([&recipe.name, &version, protocol(recipe.protocol), &roles(recipe), &state]));
    }
    Ok(())
}

fn line(columns: [&str; 5]) -> String {
    let [name, version, protocol, roles, state] = columns;
    format!("{name:<20} {version:<22} {protocol:<8} {roles:<12} {state}").trim_end().to_owned()
}

/// How a protocol is shown.
pub(crate) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Smtp => "SMTP",
        Protocol::Lmtp => "LMTP",
    }
}

fn roles(recipe: &Recipe) -> String {
    let names = recipe.roles.iter().map(|role| match role {
        Role::Local => "local",
        Role::Relay => "relay",
    });
    names.collect::<Vec<_>>().join(" ")
}
