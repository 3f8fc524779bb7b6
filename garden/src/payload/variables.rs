//! `__NAME__` in payloads: a variable with one or more values. Each combination of values makes a case.

use std::collections::HashSet;

use super::problem::Fault;
use crate::case::{Placeholder, escaped};

/// Octets with variables that have no value yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Octets(Vec<u8>),
    /// The name with its underscores, and its position in the line.
    Variable(String, usize),
}

/// Variables and their values, in the order in which they were first named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignments(Vec<(String, Vec<Template>)>);

impl Assignments {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `__NAME__=VALUE`, with escapes as in payload files. If the name occurs again, it gets another value.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what to write instead.
    pub fn assign(&mut self, text: &str) -> Result<(), String> {
        let parsed = text.split_once('=').filter(|(name, _)| is_variable(name.trim_end()));
        let Some((name, value)) = parsed else {
            return Err(format!(
                "`{text}` assigns nothing: write __NAME__=VALUE, with a name of capital letters and digits"
            ));
        };
        let value = value.trim_start_matches(' ');
        let template = Template::parse(value).map_err(|fault| {
            let place = value.get(fault.at.clone()).unwrap_or_default();
            format!("`{text}`: `{place}`: {}: {}", fault.message, fault.advice)
        })?;
        self.add(name.trim_end(), template);
        Ok(())
    }

    pub(super) fn add(&mut self, name: &str, value: Template) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// Whether this variable has a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values(name).is_some()
    }

    /// These assignments, and those of the others for names that are not among these.
    pub(super) fn over(&self, others: &Self) -> Self {
        let mut all = others.clone();
        for (name, values) in &self.0 {
            match all.0.iter_mut().find(|(known, _)| known == name) {
                Some((_, replaced)) => values.clone_into(replaced),
                None => all.0.push((name.clone(), values.clone())),
            }
        }
        all
    }

    fn values(&self, name: &str) -> Option<&[Template]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, values)| values.as_slice())
    }

    /// The names whose values templates need, in the order of the assignments. A placeholder without an assigned value
    /// is not among them, because it stays as it is.
    ///
    /// # Errors
    ///
    /// A variable that has no value, or that is part of its own value. For a variable in a template its position and
    /// the template are returned.
    pub(super) fn needed<'t>(
        &self,
        templates: impl Iterator<Item = &'t Template>,
    ) -> Result<Vec<&str>, Vec<(usize, Fault)>> {
        let (mut needed, mut faults) = (HashSet::new(), Vec::new());
        for (number, template) in templates.enumerate() {
            for (name, at) in template.variables() {
                if let Err((message, advice)) = self.visit(name, &mut Vec::new(), &mut needed) {
                    faults.push((number, Fault::new(at..at + name.len(), message, advice)));
                }
            }
        }
        match faults.is_empty() {
            true => Ok(self.0.iter().map(|(name, _)| name.as_str()).filter(|name| needed.contains(*name)).collect()),
            false => Err(faults),
        }
    }

    /// Notes the name, and those that its values need.
    fn visit(
        &self,
        name: &str,
        on_the_way: &mut Vec<String>,
        needed: &mut HashSet<String>,
    ) -> Result<(), (String, String)> {
        if on_the_way.iter().any(|known| known == name) {
            let way = on_the_way.join(" = ");
            return Err((
                format!("`{name}` is a part of its own value: {way} = {name}"),
                format!("assign values to `{name}` that do without it"),
            ));
        }
        let Some(values) = self.values(name) else {
            return match is_placeholder(name) {
                true => Ok(()),
                false => Err((
                    format!("`{name}` has no value"),
                    format!(
                        "add a line `{name} = VALUE`, or several, or say `--assign {name}=VALUE`; write \\x5f for the first _ \
                         if no variable is meant"
                    ),
                )),
            };
        };
        if !needed.insert(name.to_owned()) {
            return Ok(());
        }
        on_the_way.push(name.to_owned());
        for (inner, _) in values.iter().flat_map(Template::variables) {
            self.visit(inner, on_the_way, needed)?;
        }
        on_the_way.pop();
        Ok(())
    }

    /// Each combination of values for these names, with a suffix that distinguishes it. The last name changes fastest.
    ///
    /// # Errors
    ///
    /// The number of combinations, if there are too many.
    pub(super) fn combinations<'a>(&'a self, names: &[&'a str]) -> Result<Vec<Combination<'a>>, usize> {
        let lists: Vec<_> = names.iter().map(|name| (*name, self.values(name).unwrap_or_default())).collect();
        let number = lists.iter().fold(1_usize, |product, (_, values)| product.saturating_mul(values.len()));
        if number > MOST_COMBINATIONS {
            return Err(number);
        }
        let mut combinations = vec![Combination::default()];
        for (name, values) in lists {
            let labels = labels(values);
            combinations = combinations
                .iter()
                .flat_map(|before| {
                    values.iter().zip(&labels).map(|(value, label)| {
                        let mut combination = before.clone();
                        combination.values.push((name, value));
                        combination.suffix.extend((values.len() > 1).then(|| format!("/{label}")));
                        combination
                    })
                })
                .collect();
        }
        Ok(combinations)
    }
}

/// More combinations than this are probably a mistake.
pub(super) const MOST_COMBINATIONS: usize = 100_000;

/// A value for each variable.
#[derive(Clone, Debug, Default)]
pub(super) struct Combination<'a> {
    values: Vec<(&'a str, &'a Template)>,
    /// The suffix for the name of the case.
    pub(super) suffix: String,
}

impl Combination<'_> {
    /// The octets of the template with these values.
    pub(super) fn fill(&self, template: &Template) -> Vec<u8> {
        let mut octets = Vec::new();
        for piece in &template.0 {
            match piece {
                Piece::Octets(known) => octets.extend_from_slice(known),
                Piece::Variable(name, _) => match self.values.iter().find(|(known, _)| known == name) {
                    Some((_, value)) => octets.extend(self.fill(value)),
                    None => octets.extend_from_slice(name.as_bytes()),
                },
            }
        }
        octets
    }
}

/// Labels of the values in names of cases: the values themselves if they are short words, otherwise their numbers.
fn labels(values: &[Template]) -> Vec<String> {
    let word = |value: &Template| match value.0.as_slice() {
        [Piece::Octets(octets)] => {
            let is_word =
                octets.len() <= 32 && octets.iter().all(|o| o.is_ascii_alphanumeric() || b".@+-_".contains(o));
            is_word.then(|| String::from_utf8_lossy(octets).into_owned())
        }
        _ => None,
    };
    let words: Option<Vec<String>> = values.iter().map(word).collect();
    let words = words.filter(|words| words.iter().collect::<HashSet<_>>().len() == words.len());
    words.unwrap_or_else(|| (1..=values.len()).map(|number| number.to_string()).collect())
}

impl Template {
    /// Reads octets in the form of [`escaped`], with variables.
    ///
    /// # Errors
    ///
    /// A wrong escape or an invisible character, with its position in the text.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let (mut pieces, mut octets, mut at) = (Vec::new(), Vec::new(), 0);
        while let Some(character) = text[at..].chars().next() {
            let rest = &text[at..];
            if let Some(name) = variable(rest) {
                if !octets.is_empty() {
                    pieces.push(Piece::Octets(std::mem::take(&mut octets)));
                }
                pieces.push(Piece::Variable(name.to_owned(), at));
                at += name.len();
                continue;
            }
            let taken = match character {
                '\\' => {
                    let length = if rest[1..].starts_with('x') { 4 } else { 2 };
                    let escape: String = rest.chars().take(length).collect();
                    let unescaped = escaped::unescape(&escape);
                    octets.extend(unescaped.map_err(|_| wrong_escape(at..at + escape.len(), &escape))?);
                    escape.len()
                }
                character if character.is_control() => {
                    let mut buffer = [0; 4];
                    let advice = escaped::escape(character.encode_utf8(&mut buffer).as_bytes());
                    let fault = at..at + character.len_utf8();
                    return Err(Fault::new(fault, "a character that cannot be seen", format!("write {advice}")));
                }
                character => {
                    octets.extend_from_slice(&rest.as_bytes()[..character.len_utf8()]);
                    character.len_utf8()
                }
            };
            at += taken;
        }
        if text.ends_with(' ') {
            let blanks = text.len() - text.trim_end_matches(' ').len();
            let at = text.len() - blanks..text.len();
            return Err(Fault::new(
                at,
                "a blank at the end, which cannot be seen",
                "write \\x20 for it, or take it away",
            ));
        }
        if !octets.is_empty() {
            pieces.push(Piece::Octets(octets));
        }
        Ok(Self(pieces))
    }

    fn variables(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable(name, at) => Some((name.as_str(), *at)),
            Piece::Octets(_) => None,
        })
    }
}

fn wrong_escape(at: std::ops::Range<usize>, escape: &str) -> Fault {
    let advice = match escape.chars().nth(1) {
        Some('0'..='7') => "write an octet in hexadecimal digits: \\x00",
        _ => "write \\\\ for a backslash, \\r, \\n, \\t, or \\xHH with two hexadecimal digits for any octet",
    };
    Fault::new(at, format!("`{escape}` stands for nothing"), advice)
}

/// The variable at the beginning of the text.
pub(super) fn variable(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("__")?;
    if !inside.starts_with(|first: char| first.is_ascii_uppercase()) {
        return None;
    }
    let end = inside.find("__")?;
    let is_name =
        inside[..end].bytes().all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'_');
    is_name.then(|| &text[..end + 4])
}

/// Whether this is exactly one variable.
pub(super) fn is_variable(text: &str) -> bool {
    variable(text) == Some(text)
}

/// Whether this is replaced when the session is held, unless a value is assigned to it.
pub(super) fn is_placeholder(name: &str) -> bool {
    Placeholder::ALL.iter().any(|placeholder| placeholder.text() == name)
}
