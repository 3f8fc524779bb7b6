//! The exchanges of a transcript: what the peer said, each time, and what came of it then.

use crate::smtp::Outcome;
use crate::smtp::reply::Reply;
use crate::transcript::{Entry, Octets, Piece, Ruled, Transcript, lines_of};

/// Something that the peer said, and what came of it then.
pub(super) struct Exchange<'t> {
    pub(super) line: usize,
    pub(super) said: Said<'t>,
    pub(super) then: Then<'t>,
    /// How others than the rules refused.
    pub(super) asked: Option<&'t Reply>,
    /// How each delivery ended, and our name for the message.
    pub(super) deliveries: Vec<(Outcome, &'t str)>,
    pub(super) is_secured: bool,
    pub(super) user: Option<&'t str>,
    /// How much is known of what came of it.
    pub(super) extent: Extent,
}

/// How much of what came of an exchange is in the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it, and the session went on.
    Whole,
    /// All of it, and we have closed the session then.
    Closed,
    /// Perhaps only the beginning: the transcript was cut, or the peer was gone or out of time, or we were asked to stop.
    Cut,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Said<'t> {
    /// It had connected.
    Nothing,
    Line(&'t Octets),
    Text(&'t Octets),
}

/// The same as the transcript has it.
#[derive(Default)]
pub(super) struct Then<'t> {
    pub(super) rules: Vec<&'t Ruled>,
    pub(super) replies: Vec<&'t str>,
}

/// What the rules said, and what we answered, a line each.
#[derive(Debug, Default, Clone)]
pub(super) struct Told {
    pub(super) rules: Vec<Ruled>,
    pub(super) replies: Vec<String>,
}

/// Puts together what the peer said and what came of that. What behind the end of a session was said is the server's.
pub(super) fn exchanges(transcript: &Transcript) -> Vec<Exchange<'_>> {
    let mut exchanges = vec![Exchange::new(0, Said::Nothing)];
    for (line, entry) in &transcript.entries {
        let line = *line;
        match entry {
            Entry::Said(octets) => exchanges.push(Exchange::new(line, Said::Line(octets))),
            Entry::Text(octets) => exchanges.push(Exchange::new(line, Said::Text(octets))),
            Entry::Ended(_) => break,
            entry => {
                if let Some(last) = exchanges.last_mut() {
                    last.line = if last.line == 0 { line } else { last.line };
                    last.take(entry);
                }
            }
        }
    }
    if let Some(last) = exchanges.last_mut() {
        last.extent = if transcript.was_closed() { Extent::Closed } else { Extent::Cut };
    }
    exchanges
}

/// The place of the last exchange of the login that begins here.
pub(super) fn end_of_login(exchanges: &[Exchange<'_>], begin: usize) -> usize {
    let is_line = |at: usize| matches!(exchanges.get(at), Some(Exchange { said: Said::Line(_), .. }));
    // A response that is too long came in pieces, of which the last one is answered.
    let goes_on = |at: usize| exchanges[at].is_answered("334") || (at > begin && exchanges[at].then.replies.is_empty());
    (begin..).find(|at| !(goes_on(*at) && is_line(at + 1))).unwrap_or(begin)
}

impl Said<'_> {
    /// The same for people.
    pub(super) fn shown(self) -> String {
        let octets = match self {
            Said::Nothing => return "(connected)".to_owned(),
            Said::Text(_) => return "(text of the message)".to_owned(),
            Said::Line(octets) => octets,
        };
        let shown = octets.pieces().iter().map(|piece| match piece {
            Piece::Shown(octets) => octets.strip_suffix(b"\r\n").unwrap_or(octets).escape_ascii().to_string(),
            Piece::Secret => "(not shown)".to_owned(),
            Piece::LeftOut(octets) => format!("({octets} bytes)"),
        });
        shown.collect()
    }
}

impl<'t> Exchange<'t> {
    pub(super) fn new(line: usize, said: Said<'t>) -> Self {
        let (asked, deliveries) = (None, Vec::new());
        let (then, extent) = (Then::default(), Extent::Whole);
        Self { line, said, then, asked, deliveries, is_secured: false, user: None, extent }
    }

    pub(super) fn take(&mut self, entry: &'t Entry) {
        match entry {
            Entry::Reply(line) => self.then.replies.push(line),
            Entry::Ruled(ruled) => self.then.rules.push(ruled),
            Entry::Asked(reply) => self.asked = Some(reply),
            Entry::Delivered(id, words) => self.deliveries.push((Ok(words.clone()), id)),
            Entry::NotDelivered(reply) => self.deliveries.push((Err(reply.clone()), "")),
            Entry::Secured(_) => self.is_secured = true,
            Entry::Authenticated(user, _) => self.user = Some(user),
            Entry::Said(_) | Entry::Text(_) | Entry::Ended(_) => {}
        }
    }

    pub(super) fn is_auth(&self) -> bool {
        self.begins_with(b"AUTH")
    }

    pub(super) fn begins_with(&self, verb: &[u8]) -> bool {
        let Said::Line(octets) = self.said else { return false };
        let Some(Piece::Shown(shown)) = octets.pieces().first() else { return false };
        let first = shown.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
        first.is_some_and(|word| word.eq_ignore_ascii_case(verb))
    }

    pub(super) fn is_answered(&self, code: &str) -> bool {
        self.then.replies.last().is_some_and(|reply| reply.starts_with(code))
    }
}

impl Then<'_> {
    pub(super) fn told(&self) -> Told {
        let rules = self.rules.iter().map(|ruled| (*ruled).clone());
        Told { rules: rules.collect(), replies: self.replies.iter().map(ToString::to_string).collect() }
    }
}

impl Told {
    /// Whether the rules say the same in both.
    pub(super) fn has_rules_of(&self, other: &Self) -> bool {
        self.rules.len() == other.rules.len() && are_among(&self.rules, &other.rules)
    }

    /// Whether the last reply has this code.
    pub(super) fn is_answered(&self, code: &str) -> bool {
        self.replies.last().is_some_and(|reply| reply.starts_with(code))
    }

    pub(super) fn add(&mut self, reply: &Reply, is_extended: bool) {
        self.replies.extend(lines_of(reply, is_extended));
    }

    /// Whether both say the same, as far as it is known what was said then.
    pub(super) fn agrees_with(&self, then: &Then<'_>, extent: Extent) -> bool {
        let are_as_many = self.rules.len() == then.rules.len() && self.replies.len() == then.replies.len();
        let are_enough = self.rules.len() >= then.rules.len() && self.replies.len() >= then.replies.len();
        (are_as_many || (extent == Extent::Cut && are_enough))
            && are_among(then.rules.iter().copied(), &self.rules)
            && then.replies.iter().zip(&self.replies).all(|(then, now)| then == now)
    }
}

/// Whether each of these decisions is one of the others. In which order a recipient's destinations are named makes no
/// difference to its mail.
pub(super) fn are_among<'r>(these: impl IntoIterator<Item = &'r Ruled>, others: &[Ruled]) -> bool {
    let mut left: Vec<&Ruled> = others.iter().collect();
    these.into_iter().all(|one| {
        let found = left.iter().position(|other| one.agrees_with(other));
        found.map(|place| left.swap_remove(place)).is_some()
    })
}
