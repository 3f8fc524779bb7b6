//! "Did you mean": the word that somebody meant who typed another.

/// The known word that is nearest to the typed one, if it is near enough.
pub(super) fn closest<'k>(typed: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let typed = plain(typed);
    let distances = known.map(|word| (distance(&typed, &plain(word)), word));
    let (distance, word) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= allowance(word)).then_some(word)
}

/// `: did you mean ...?`, or nothing.
pub(super) fn did_you_mean<'k>(typed: &str, known: impl Iterator<Item = &'k str>) -> String {
    closest(typed, known).map_or_else(String::new, |close| format!(": did you mean `{close}`?"))
}

/// How many letters may be wrong: one in a short word, two in a long one.
fn allowance(word: &str) -> usize {
    match word.len() {
        ..4 => usize::from(word.len() == 3),
        4..8 => 1,
        _ => 2,
    }
}

/// Letter case, underscores and hyphens are easily confused, so they are ignored.
fn plain(word: &str) -> Vec<char> {
    word.to_lowercase().chars().filter(|character| !matches!(character, '_' | '-')).collect()
}

/// How many letters have to be changed, added, removed, or exchanged with their neighbour to turn one word into the
/// other.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut row = vec![at + 1];
        for (other_at, other_letter) in other.iter().enumerate() {
            let changed = last[other_at] + usize::from(letter != other_letter);
            let mut best = changed.min(last[other_at + 1] + 1).min(row[other_at] + 1);
            if at > 0 && other_at > 0 && *letter == other[other_at - 1] && one[at - 1] == *other_letter {
                best = best.min(before[other_at - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

/// `a, b or c`
pub(super) fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        let known = ["domain", "deliver", "error", "allow", "allowgroup", "rcpt_to", "on", "limit.smtp_rcpt_to"];
        for (typed, meant) in [
            ("domian", Some("domain")),
            ("rcptto", Some("rcpt_to")),
            ("rcpt-to", Some("rcpt_to")),
            ("RCPT_TO", Some("rcpt_to")),
            ("recpt_to", Some("rcpt_to")),
            ("rctp_to", Some("rcpt_to")),
            ("Domain", Some("domain")),
            ("delivr", Some("deliver")),
            ("eror", Some("error")),
            ("alow", Some("allow")),
            ("allow_group", Some("allowgroup")),
            ("limit.smtp_rcptto", Some("limit.smtp_rcpt_to")),
            ("limit.smtp_commands_per_day", None),
            ("in", None),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, known.into_iter()), meant, "{typed}");
        }
    }
}
