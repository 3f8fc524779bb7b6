//! Configurations: no text of one makes the program stumble, and every finding is about a place that is there.
//!
//! An input is the text of a configuration.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Instant, SystemTime};

use mailrecv::address::{Mailbox, ReversePath};
use mailrecv::config::{self, Config, Destinations, Diagnostic, MailPlace, Severity, Trace, Unusable, Who};
use mailrecv::peer::Peer;

/// Loads the configuration and uses it.
pub fn check(input: &[u8]) {
    let findings = findings_of(input, input);
    // Comments, blanks and CRs at the ends of lines mean nothing; no line with a comment is read by the short cut for
    // many plain ones.
    assert_eq!(findings_of(&with_comments(input), input), findings, "with comments at the ends of lines");
    check_included(input);
}

/// What stands in an included file counts as if it stood there.
fn check_included(text: &[u8]) {
    let Some(length) = text[text.len() / 2..].iter().position(|byte| *byte == b'\n') else { return };
    let (before, rest) = text.split_at(text.len() / 2 + length + 1);
    // An empty file is a mistake, and a byte order mark is one but at the beginning of a file.
    if rest.trim_ascii().is_empty() || rest.starts_with(BYTE_ORDER_MARK) {
        return;
    }
    let (_file, path) = file_with(rest);
    let including = [before, format!("include {}\n", path.display()).as_bytes()].concat();
    let lines_before = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let as_one = located(&[before, b"#\n", rest].concat(), text, "", 0);
    let as_two = located(&including, text, &path.display().to_string(), lines_before);
    assert_eq!(as_two, as_one, "with its second half included");
}

/// What becomes of a configuration, without what names lines. In the file of this name so many lines are to be added to
/// the number of each.
fn located(text: &[u8], ruled: &[u8], included: &str, lines_before: usize) -> Findings {
    let (diagnostics, answers) = match load(text) {
        Ok(config) => (config.check(), answers(&config, ruled)),
        Err(unusable) => (unusable.errors, Vec::new()),
    };
    let without_place = |found: Diagnostic| {
        let more = if found.file.as_deref() == Some(included) { lines_before } else { 0 };
        let line = found.line + u32::try_from(more).expect("few lines");
        let message = found.message.split(" (included from ").next().unwrap_or_default();
        (line, found.column, if message.contains("line ") { String::new() } else { message.to_owned() })
    };
    Findings { diagnostics: diagnostics.into_iter().map(without_place).collect(), answers }
}

/// Loads a configuration that is not in a file.
pub fn load(text: &[u8]) -> Result<Config, Unusable> {
    let (_file, path) = file_with(text);
    config::load(&path).map(|config| *config)
}

/// A file with this text, which is there until it is dropped, and a path that leads to it.
fn file_with(text: &[u8]) -> (File, PathBuf) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(text).expect("writing to a temporary file");
    // A file that was written just now might not be whole yet, and would be waited for.
    file.set_modified(SystemTime::UNIX_EPOCH).expect("a time for the file in memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

/// What became of a configuration, without what depends on where in the file its lines begin.
#[derive(Debug, PartialEq)]
struct Findings {
    /// Line, column, message.
    diagnostics: Vec<(u32, usize, String)>,
    /// What the rules say to some addresses; none if the configuration cannot be used.
    answers: Vec<String>,
}

/// Addresses to ask the rules about are those in `ruled`.
fn findings_of(text: &[u8], ruled: &[u8]) -> Findings {
    let loaded = load(text);
    let (diagnostics, answers) = match &loaded {
        Ok(config) => (config.check(), answers(config, ruled)),
        Err(unusable) => {
            check_errors(&unusable.errors);
            (unusable.errors.clone(), Vec::new())
        }
    };
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    diagnostics.iter().for_each(|diagnostic| check_diagnostic(diagnostic, &lines));
    // Of a comment behind the text of a reply it is told that it is one.
    let diagnostics =
        diagnostics.into_iter().filter(|found| !found.message.starts_with("the text of the reply ends here"));
    let diagnostics = diagnostics.map(|found| (found.line, found.column, found.message)).collect();
    Findings { diagnostics, answers }
}

/// Every line is reported once, in order, and nothing but errors makes a configuration unusable.
fn check_errors(errors: &[Diagnostic]) {
    assert!(!errors.is_empty(), "unusable without a reason");
    assert!(errors.iter().all(|error| error.severity == Severity::Error));
    // A line can include several files with mistakes, and other files have lines of their own.
    let own = errors.iter().filter(|error| error.file.is_none() && !error.source.contains("include"));
    assert!(own.is_sorted_by(|one, other| one.line < other.line), "{errors:?}");
}

/// The place is one in the file, and what is shown of it is fit for a terminal.
fn check_diagnostic(diagnostic: &Diagnostic, lines: &[&[u8]]) {
    assert!(!diagnostic.message.is_empty());
    let shown = diagnostic.cited("mailrecv.conf").to_string();
    assert!(!shown.contains(|c: char| c.is_control() && c != '\t' && c != '\n'), "{shown:?}");
    if diagnostic.file.is_some() {
        return;
    }
    if diagnostic.line == 0 {
        let is_about_all = ["is empty", "there is no user "].iter().any(|words| diagnostic.message.starts_with(words));
        assert!(is_about_all || diagnostic.severity == Severity::Warning, "an error without a line: {shown}");
        return;
    }
    let line = *lines.get(diagnostic.line as usize - 1).unwrap_or_else(|| panic!("no such line: {shown}"));
    // A byte order mark is no part of the first.
    let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| diagnostic.line == 1).unwrap_or(line);
    let width = diagnostic.source.chars().count();
    assert!((1..=width + 1).contains(&diagnostic.column), "no such column: {shown}");
    assert!(
        diagnostic.column - 1 + diagnostic.width <= width.max(diagnostic.column),
        "carets beyond the line: {shown}"
    );
    if !line.windows(2).any(|pair| pair == b"${") {
        // In the place of a secret there are stars.
        let is_shown =
            diagnostic.source.chars().zip(as_text(line).chars()).all(|(shown, is)| shown == is || shown == '*');
        assert!(is_shown && width <= as_text(line).chars().count(), "not the line that is meant: {shown}");
    }
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

/// A line as diagnostics cite it: a mark for each byte that is no text.
fn as_text(line: &[u8]) -> String {
    let chunks = line.utf8_chunks();
    chunks.map(|chunk| chunk.valid().to_owned() + &"\u{fffd}".repeat(chunk.invalid().len())).collect()
}

/// What the rules say about a peer, and about some senders and recipients.
fn answers(config: &Config, text: &[u8]) -> Vec<String> {
    let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
    let peer = Peer { address: address.into(), hostname: Some("mail.example.net".to_owned()) };
    let limits = &config.limits;
    let times = [&limits.connection_secs, &limits.idle_secs, &limits.greet_secs, &limits.pipe_secs, &limits.dns_secs];
    for time in times.map(|limit| limit.value) {
        assert!(Instant::now().checked_add(time).is_some(), "no clock can tell when {time:?} are over");
    }
    let mut trace = Trace::new(true);
    let mut answers = vec![format!("{:?}", config.rules.admit(&peer, &mut trace))];
    for mailbox in mailboxes(config, text) {
        let sender = config.rules.sender(&ReversePath::Mailbox(mailbox.clone()), &mut trace);
        answers.push(format!("from {mailbox}: {sender:?}"));
        let who = Who::in_the_clear(&peer);
        let actions = config.rules.route(&mailbox, who, &config.domain, &mut trace).map(|destinations| {
            assert!(destinations.shown().count() > 0, "{mailbox} is accepted and goes nowhere");
            assert!(are_within_reach(config, &peer, &destinations), "out of reach: {destinations:?}");
            destinations.shown().map(|(action, origin)| format!("{action} ({origin:?})")).collect::<Vec<_>>()
        });
        answers.push(format!("to {mailbox}: {actions:?}"));
    }
    assert!(trace.take(&config.rules).iter().all(|finding| !finding.to_string().contains('\n')));
    answers
}

/// Whether the sandbox will let the deliveries happen.
fn are_within_reach(config: &Config, peer: &Peer, destinations: &Destinations) -> bool {
    let places = config.rules.needs().places();
    destinations.shown().all(|(action, _)| {
        let action = action.to_string();
        let (name, operand) = action.split_once(' ').unwrap_or((&action, ""));
        let path =
            Path::new(operand.strip_prefix('\'').and_then(|operand| operand.strip_suffix('\'')).unwrap_or_default());
        let is_below_a_place =
            || places.iter().any(|place| matches!(place, MailPlace::Below(at) if is_below(path, at)));
        match name {
            "append" => places.contains(&MailPlace::Mailbox(path.to_owned())) || is_below_a_place(),
            "maildir" | "eml" => places.contains(&MailPlace::Maildir(path.to_owned())) || is_below_a_place(),
            "pipe" | "pipe_raw" => {
                let is_this = |command: &&str| action == format!("{name} '{command}'");
                let for_any_name = config.rules.commands_for_any_name(peer.address.ip().expect("it has one"));
                config.rules.commands_for(peer).iter().any(is_this) && for_any_name.iter().any(is_this)
            }
            // Of a server its port has to be within reach, whatever goes there.
            "print" | "discard" | "relay" | "hpfeeds" | "amqp" => true,
            other => panic!("nobody knows what {other} needs"),
        }
    })
}

/// Whether a path leads to something in a folder; an empty one is the current folder, which is below `/` like the rest.
fn is_below(path: &Path, folder: &Path) -> bool {
    let (path, folder) = (plain(path), plain(folder));
    if folder == Path::new("/") {
        return true;
    }
    path.has_root() == folder.has_root() && path.strip_prefix(folder).is_ok_and(|rest| !rest.starts_with(".."))
}

/// The path without `.`, and without `..` where that has something to lead out of.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match (component, plain.components().next_back()) {
            (Component::ParentDir, Some(Component::Normal(_))) => {
                plain.pop();
            }
            (Component::ParentDir, Some(Component::RootDir)) | (Component::CurDir, _) => {}
            _ => plain.push(component),
        }
    }
    plain
}

/// Addresses that the first rules are about, and two more.
fn mailboxes(config: &Config, text: &[u8]) -> Vec<Mailbox> {
    let text = String::from_utf8_lossy(text);
    let ruled = text.split("rcpt_to").skip(1).filter_map(|rest| rest.split_ascii_whitespace().next());
    let words = ["postmaster", "fred@example.net"].into_iter().chain(ruled);
    let mailboxes = words.filter_map(|word| Mailbox::parse_or_qualify(word, &config.domain).ok());
    mailboxes.take(MOST_ADDRESSES).collect()
}

/// The text with a comment and a CR before each LF, on an empty line a blank; a CR that is there counts as one. What
/// follows the last LF stays.
fn with_comments(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n').map(|line| match line.strip_suffix(b"\n") {
        Some(line) if line.trim_ascii().is_empty() => [line.strip_suffix(b"\r").unwrap_or(line), b" \r\n"].concat(),
        Some(line) => [line.strip_suffix(b"\r").unwrap_or(line), b" #\r\n"].concat(),
        None => line.to_vec(),
    });
    lines.collect::<Vec<_>>().concat()
}

/// Enough to meet most rules of a short configuration, and few enough to be quick.
const MOST_ADDRESSES: usize = 6;

/// What some editors put in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
