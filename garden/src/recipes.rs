//! All recipes: those in this program, and those in a folder that adds to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use include_dir::{Dir, include_dir};

use crate::recipe::Recipe;

/// All recipes, sorted by name.
#[derive(Clone, Debug)]
pub struct Recipes(BTreeMap<String, Recipe>);

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");

const FILE: &str = "recipe.toml";

impl Recipes {
    /// The recipes in this program, with those in `folder` added. A folder of the same name there replaces one of ours,
    /// with its variants.
    ///
    /// # Errors
    ///
    /// What cannot be read, or is wrong in a recipe.
    pub fn read(folder: Option<&Path>) -> Result<Self> {
        let mut by_folder = BTreeMap::new();
        for folder in EMBEDDED.dirs() {
            let name = folder.path().to_string_lossy().into_owned();
            let read = |file: &str| {
                let file = EMBEDDED.get_file(folder.path().join(file)).context("there is no such file")?;
                Ok(file.contents_utf8().context("it is not in UTF-8")?.to_owned())
            };
            by_folder.insert(name.clone(), Recipe::parse(&name, &read(FILE).context(name.clone())?, &read)?);
        }
        if let Some(folder) = folder {
            for added in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
                let added = added?.path();
                if !added.join(FILE).exists() {
                    continue;
                }
                let name = added.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let read = |file: &str| {
                    let file = added.join(file);
                    fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
                };
                let recipes = Recipe::parse(&name, &read(FILE)?, &read)
                    .with_context(|| format!("the recipes in {}", folder.display()))?;
                by_folder.insert(name, recipes);
            }
        }
        Ok(Self(by_folder.into_values().flatten().map(|recipe| (recipe.name.clone(), recipe)).collect()))
    }

    /// The recipe with this name.
    ///
    /// # Errors
    ///
    /// There is none; the message lists the names.
    pub fn named(&self, name: &str) -> Result<&Recipe> {
        match self.0.get(name) {
            Some(recipe) => Ok(recipe),
            None => {
                let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
                bail!("there is no server `{name}`; there are {}", names.join(", "))
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Recipe> {
        self.0.values()
    }
}
