//! Two messages in a form in which only differences are left that matter: whatever one of the two servers does to every
//! message is done to both.

use std::collections::BTreeMap;

use super::learn::Change;
use super::meaning;
use super::outcome::{Delivered, Outcome};
use super::text::{LineEnds, Text, canonical, end_of, ends_for_some, with_replaced};

/// Two texts in a form for comparison: whatever one of the two servers does to every message is done to both.
pub(crate) fn comparable(one: (&Outcome, &Delivered), other: (&Outcome, &Delivered)) -> (Text, Text) {
    let ends = match (one.1.ends, other.1.ends) {
        (LineEnds::Wire, LineEnds::Wire) => LineEnds::Wire,
        _ => LineEnds::Mailbox,
    };
    let octets = [one, other].map(|(_, message)| canonical(&message.octets, ends));
    let mut texts = octets.each_ref().map(|octets| Text::parse(octets, ends));
    let pairs = [(one.0, other.0), (other.0, one.0)];
    for (text, (own, theirs)) in texts.iter_mut().zip(pairs) {
        if own.quotes_from || theirs.quotes_from {
            // Some of these servers quote lines of headers, others do not.
            for field in &mut text.fields {
                field.octets = with_replaced(&field.octets, b"\n>From ", b"\nFrom ");
            }
        }
        // In a text all of them quote. A server that quotes has failed to do so if the quote is missing.
        if theirs.quotes_from && !own.quotes_from {
            text.body = with_replaced(&text.body, b"\nFrom ", b"\n>From ");
        }
        rename(text, &own.changes);
        // If this server usually removes a field and has kept it here, that is a difference.
        for (name, _) in theirs.changes.iter().filter(|(_, change)| **change == Change::Removed) {
            text.fields.retain(|field| field.name != *name);
        }
        for (name, change) in own.changes.iter().chain(&theirs.changes) {
            apply(text, name, change, ends);
        }
        if own.refolds || theirs.refolds {
            for field in text.fields.iter_mut().filter(|field| !field.name.is_empty()) {
                field.octets = [&field.label(), &b" "[..], &field.unfolded(ends), end_of(ends)].concat();
            }
        }
    }
    let has_mime = |text: &Text| text.fields.iter().any(|field| meaning::is_of_mime(&field.name));
    if (one.0.recodes || other.0.recodes)
        && texts.iter().any(has_mime)
        && let [Some(contents), Some(others)] = octets.each_ref().map(|octets| meaning::contents(octets))
    {
        for (text, contents) in texts.iter_mut().zip([contents, others]) {
            without_mime(text);
            text.body = contents;
        }
    }
    let [one, other] = texts;
    (one, other)
}

/// Removes the fields that describe the encoding, one of each name. A second one of the same name is never ordinary.
fn without_mime(text: &mut Text) {
    let mut seen: Vec<String> = Vec::new();
    text.fields.retain(|field| {
        let is_first = meaning::is_of_mime(&field.name) && !seen.contains(&field.name);
        if is_first {
            seen.push(field.name.clone());
        }
        !is_first
    });
}

/// Gives renamed fields their old names. A field that kept its name, although this server renames it, is marked as
/// such.
fn rename(text: &mut Text, changes: &BTreeMap<String, Change>) {
    for (name, change) in changes {
        let Change::Renamed(to) = change else {
            continue;
        };
        for field in &mut text.fields {
            let other = match &field.name {
                own if own == to => name,
                own if own == name => to,
                _ => continue,
            };
            let behind = field.octets.get(field.name.len()..).unwrap_or_default();
            field.octets = [other.as_bytes(), behind].concat();
            field.name.clone_from(other);
        }
    }
}

/// Does to fields of this name what a server does to them.
fn apply(text: &mut Text, name: &str, change: &Change, ends: LineEnds) {
    if *change == Change::Removed {
        return;
    }
    for field in text.fields.iter_mut().filter(|field| field.name == name) {
        let mut value = field.unfolded(ends);
        match change {
            Change::Respelled => value = meaning::addresses(name, &value).unwrap_or(value),
            // A new value contains none of these characters.
            Change::Rewritten => value.retain(|&octet| ends_for_some(octet)),
            Change::Refolded | Change::Renamed(_) | Change::Removed => {}
        }
        field.octets = [&field.label(), &b" "[..], &value, end_of(ends)].concat();
    }
}

#[cfg(test)]
mod tests {
    use super::super::learn::Learned;
    use super::super::outcome::OfCase;
    use super::super::stored::{message, observation, passed_on};
    use super::*;

    /// What a server that does this to every message is known to have made of a case.
    fn outcome(learned: &Learned, octets: &str) -> Outcome {
        let case = message(1, "__TOKEN__\r\n.\r\n");
        let passed_on = passed_on("<__SOURCE__>", &["<__DEST__>"], &format!("{octets}.\r\n"));
        Outcome::seen(&case, &OfCase::new(&case, None), &observation("a", &case, "22232", vec![passed_on]), learned)
    }

    fn is_same(one: (&Learned, &str), other: (&Learned, &str)) -> bool {
        let (one, other) = (outcome(one.0, one.1), outcome(other.0, other.1));
        let [there, back] = [(&one, &other), (&other, &one)].map(|(a, b)| {
            let (a_text, b_text) = comparable((a, &a.delivered[0]), (b, &b.delivered[0]));
            a_text == b_text
        });
        assert_eq!(there, back);
        there
    }

    #[test]
    fn from_is_quoted_by_who_quotes_and_missing_where_it_is_not() {
        let (plain, quoting) = (Learned::default(), Learned { quotes_from: true, ..Learned::default() });
        let [bare, quoted] = ["A: 1\r\n\r\n\nFrom b\r\n", "A: 1\r\n\r\n\n>From b\r\n"];
        assert!(is_same((&plain, bare), (&quoting, quoted)));
        assert!(!is_same((&plain, bare), (&quoting, bare)));
        assert!(!is_same((&plain, bare), (&plain, quoted)));
        assert!(is_same((&quoting, quoted), (&quoting, quoted)));
        assert!(!is_same((&quoting, quoted), (&quoting, bare)));
        // In a header not all of them do.
        let [bare, quoted] = ["A: 1\nFrom b\r\n\r\n", "A: 1\n>From b\r\n\r\n"];
        assert!(is_same((&quoting, quoted), (&quoting, bare)));
        assert!(is_same((&quoting, quoted), (&plain, bare)));
        assert!(!is_same((&plain, quoted), (&plain, bare)));
    }

    #[test]
    fn white_space_is_the_same_if_one_of_them_changes_it() {
        let (plain, refolding) = (Learned::default(), Learned { refolds: true, ..Learned::default() });
        let [folded, unfolded] = ["A: 1\r\n  2\r\n\r\n", "A: 1 2\r\n\r\n"];
        assert!(is_same((&plain, folded), (&refolding, unfolded)));
        assert!(is_same((&refolding, folded), (&refolding, unfolded)));
        assert!(!is_same((&plain, folded), (&plain, unfolded)));
    }

    #[test]
    fn contents_are_compared_if_one_of_them_encodes_anew() {
        let (plain, recoding) = (Learned::default(), Learned { recodes: true, ..Learned::default() });
        let quoted = "Content-Transfer-Encoding: quoted-printable\r\n\r\n=41\r\n";
        let [decoded, other] = ["\r\nA\r\n", "\r\nB\r\n"];
        assert!(is_same((&plain, quoted), (&recoding, decoded)));
        assert!(!is_same((&plain, quoted), (&recoding, other)));
        assert!(!is_same((&plain, quoted), (&plain, decoded)));
        // Where nothing is encoded, octets are compared.
        assert!(!is_same((&plain, "\r\nA \r\n"), (&recoding, "\r\nA\r\n")));
    }
}
