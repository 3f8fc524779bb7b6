//! `servers`: lists the servers.

use anyhow::Result;

use crate::packages::{Cache, NotYet};
use crate::recipe::{Protocol, Recipe, Role};
use crate::recipes::Recipes;
use crate::terminal;

/// Prints a table with a row for each server, and the reason if it cannot be had.
pub(crate) fn show(recipes: &Recipes, cache: &Cache) -> Result<()> {
    let mut rows = vec![["NAME", "VERSION", "PROTOCOL", "ROLES", "STATE"].map(str::to_owned)];
    for recipe in recipes.iter() {
        let (version, state) = match cache.look(recipe) {
            Ok(fetched) => (fetched.version, "here".to_owned()),
            Err(error) if error.is::<NotYet>() => ("?".to_owned(), "fetched when it is wanted".to_owned()),
            Err(error) => ("-".to_owned(), format!("{error:#}")),
        };
        let protocol = protocol(recipe.protocol).to_owned();
        rows.push([recipe.name.clone(), version, protocol, roles(recipe), state]);
    }
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    for row in &rows {
        terminal::print(&line(row, widths));
    }
    Ok(())
}

fn line(cells: &[String; 5], widths: [usize; 5]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// The name of a protocol for display.
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
