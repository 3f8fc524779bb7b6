//! Where deliveries could go, for the sandbox: not for each rule, of which there may be 100,000, but for each place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::action::{Broker, Need};
use super::bytes::{Bytes, put};
use super::relay_url::Hop;

/// Everything that the destinations of a configuration need.
#[derive(Debug, Default)]
pub struct Needs {
    /// Where mail may be written.
    pub(super) written: Written,
    /// The commands, in the order of their lines, each with the allow group of its line; `None` stands for everybody.
    pub(super) commands: Vec<(Option<usize>, Box<str>)>,
    /// The brokers, each once.
    brokers: Vec<Broker>,
    /// The servers that mail is passed on to, each once.
    hops: Vec<Hop>,
    /// Whether a `deliver` line, or the dead letter file, has another destination than such a server.
    has_other_ways: bool,
    /// The allow groups of the `deliver` lines that pass mail on, each once; `None` stands for everybody.
    groups_of_hops: Vec<Option<usize>>,
}

/// Where mail may be written, as far as the lines so far say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    places: Vec<MailPlace>,
    /// The deepest a path may be, once there were too many places.
    max_depth: Option<usize>,
    /// A folder, up to its `/`, that is a place with all that is below it: most rules are about the same as the rule
    /// before them.
    known_folder: Option<PathBuf>,
}

/// A place that mail is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailPlace {
    /// A file that is appended to, or made.
    Mailbox(PathBuf),
    /// A maildir, or another folder for files of messages, which is made if it is missing.
    Maildir(PathBuf),
    /// Many files and folders, somewhere below this folder.
    Below(PathBuf),
}

impl Needs {
    /// The places that mail may be written to, each once, at most [`MAX_PLACES`].
    pub fn places(&self) -> &[MailPlace] {
        &self.written.places
    }

    /// The brokers that mail may be published through.
    pub(super) fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// The servers that mail may be passed on to.
    pub(crate) fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// The server that the mail of every recipient is passed on to, if there is only one, and the groups that may send
    /// there.
    pub(super) fn only_hop(&self) -> Option<(&Hop, &[Option<usize>])> {
        match &self.hops[..] {
            [hop] if !self.has_other_ways => Some((hop, &self.groups_of_hops)),
            _ => None,
        }
    }

    /// Notes the destination of a `deliver` line of this group, or of everybody. `copy` lines do not count.
    pub(super) fn add_way(&mut self, need: Need<'_>, group: Option<usize>) {
        match need {
            Need::Hop(_) if self.groups_of_hops.contains(&group) => {}
            Need::Hop(_) => self.groups_of_hops.push(group),
            _ => self.has_other_ways = true,
        }
    }

    /// Notes what a line of this group, or of everybody, needs.
    pub(super) fn add(&mut self, need: Need<'_>, group: Option<usize>) {
        match need {
            Need::Mailbox(_) | Need::Maildir(_) => self.written.add(need),
            // Many lines in a row may be about one command.
            Need::Command(text) if self.commands.last().is_some_and(|(of, last)| *of == group && **last == *text) => {}
            Need::Command(text) => self.commands.push((group, text.into())),
            Need::Broker(broker) if self.brokers.contains(&broker) => {}
            Need::Broker(broker) => self.brokers.push(broker),
            Need::Hop(hop) if self.hops.contains(hop) => {}
            Need::Hop(hop) => self.hops.push(hop.clone()),
            Need::Nothing => {}
        }
    }

    /// Takes in what many lines need that only write mail, if where it may be written is so far what it was `before` them
    /// when that was found out; `after` is what they made of it. Both are as [`Written::encode`] leaves them.
    pub(super) fn add_many(&mut self, before: &[u8], after: &[u8]) -> Option<()> {
        if self.written.encode() != before {
            return None;
        }
        self.written = Written::decode(after)?;
        self.has_other_ways = true;
        Some(())
    }
}

impl Written {
    fn add(&mut self, need: Need<'_>) {
        let (Need::Mailbox(path) | Need::Maildir(path)) = need else { return };
        if self.is_in_known_folder(path) {
            return;
        }
        match self.places.iter().find(|place| place.covers(need)) {
            Some(MailPlace::Below(folder)) => {
                let folder = folder.join("");
                self.known_folder = Some(folder);
            }
            Some(MailPlace::Mailbox(_) | MailPlace::Maildir(_)) => {}
            None if matches!(need, Need::Maildir(_)) => self.add_place(MailPlace::Maildir(path.to_owned())),
            None => self.add_place(MailPlace::Mailbox(path.to_owned())),
        }
    }

    /// All of it as bytes, for an index: two that are the same have the same.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for place in &self.places {
            let kind = match place {
                MailPlace::Mailbox(_) => b"f",
                MailPlace::Maildir(_) => b"m",
                MailPlace::Below(_) => b"b",
            };
            put(&mut bytes, kind);
            put(&mut bytes, place.path().as_os_str().as_bytes());
        }
        if let Some(depth) = self.max_depth {
            put(&mut bytes, b"d");
            put(&mut bytes, &(depth as u64).to_le_bytes());
        }
        if let Some(folder) = &self.known_folder {
            put(&mut bytes, b"k");
            put(&mut bytes, folder.as_os_str().as_bytes());
        }
        bytes
    }

    /// Reads that again; `None` if it is something else.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut bytes, mut written) = (Bytes(bytes), Self::default());
        while !bytes.0.is_empty() {
            let (kind, value) = (bytes.piece()?, bytes.piece()?);
            let path = PathBuf::from(OsStr::from_bytes(value));
            match kind {
                b"f" => written.places.push(MailPlace::Mailbox(path)),
                b"m" => written.places.push(MailPlace::Maildir(path)),
                b"b" => written.places.push(MailPlace::Below(path)),
                b"d" => written.max_depth = Some(usize::try_from(Bytes(value).u64()?).ok()?),
                b"k" => written.known_folder = Some(path),
                _ => return None,
            }
        }
        Some(written)
    }

    /// Whether the path is below the folder that was found last, as those of nearly all of 100,000 rules are.
    fn is_in_known_folder(&self, path: &Path) -> bool {
        let Some(folder) = &self.known_folder else { return false };
        let rest = path.as_os_str().as_encoded_bytes().strip_prefix(folder.as_os_str().as_encoded_bytes());
        let leads_back =
            |rest: &[u8]| memchr::memchr(b'.', rest).is_some() && rest.windows(2).any(|pair| pair == b"..");
        rest.is_some_and(|rest| !rest.starts_with(b"/") && !leads_back(rest))
    }

    fn add_place(&mut self, place: MailPlace) {
        let place = match self.max_depth {
            Some(depth) => place.no_deeper_than(depth),
            None => place,
        };
        if self.places.contains(&place) {
            return;
        }
        self.places.push(place);
        while self.places.len() > MAX_PLACES {
            let deepest = self.places.iter().map(|place| place.path().components().count()).max().unwrap_or(0);
            let depth = deepest.saturating_sub(1);
            self.max_depth = Some(depth);
            for place in std::mem::take(&mut self.places) {
                let place = place.no_deeper_than(depth);
                if !self.places.contains(&place) {
                    self.places.push(place);
                }
            }
        }
    }
}

impl MailPlace {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            MailPlace::Mailbox(path) | MailPlace::Maildir(path) | MailPlace::Below(path) => path,
        }
    }

    /// Whether this place includes what is needed.
    fn covers(&self, need: Need<'_>) -> bool {
        match (self, need) {
            (MailPlace::Mailbox(known), Need::Mailbox(path)) | (MailPlace::Maildir(known), Need::Maildir(path)) => {
                known.as_os_str() == path.as_os_str()
            }
            (MailPlace::Below(folder), Need::Mailbox(path) | Need::Maildir(path)) => {
                is_below(path, folder) && !leads_back(path)
            }
            _ => false,
        }
    }

    /// The place itself, or the folder above it with at most so many components.
    fn no_deeper_than(self, depth: usize) -> Self {
        if self.path().components().count() <= depth {
            return self;
        }
        if leads_back(self.path()) {
            return MailPlace::Below(PathBuf::from("/"));
        }
        // An absolute path keeps the root as a component.
        let depth = if self.path().has_root() { depth.max(1) } else { depth };
        MailPlace::Below(self.path().components().take(depth).collect())
    }
}

/// Whether the path has a `..`: the text does not show where that leads.
fn leads_back(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

/// Whether the path is below this folder, as far as their texts show.
fn is_below(path: &Path, folder: &Path) -> bool {
    let (path, folder) = (path.as_os_str().as_encoded_bytes(), folder.as_os_str().as_encoded_bytes());
    match folder {
        b"" => !path.starts_with(b"/"),
        b"/" => path.starts_with(b"/"),
        _ => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/")),
    }
}

/// Making a sandbox with more places would take longer than a session.
const MAX_PLACES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn mailboxes(files: impl IntoIterator<Item = String>) -> Needs {
        let mut needs = Needs::default();
        files.into_iter().for_each(|file| needs.add(Need::Mailbox(file.as_ref()), None));
        needs
    }

    #[test]
    fn few_places_are_kept_as_they_are() {
        let files = ["/var/mail/a", "/var/mail/b", "/var/mail/a", "c"];
        let needs = mailboxes(files.map(str::to_owned));
        assert_eq!(needs.places(), ["/var/mail/a", "/var/mail/b", "c"].map(|file| MailPlace::Mailbox(file.into())));
    }

    #[test]
    fn many_places_become_the_folders_above_them() {
        let mut needs = mailboxes((0..100_000).map(|number| format!("/home/user{number}/mail/inbox")));
        needs.add(Need::Mailbox(Path::new("/var/mail/a")), None);
        needs.add(Need::Mailbox(Path::new("/x")), None);
        assert_eq!(
            needs.places(),
            ["/home", "/var"]
                .map(|folder| MailPlace::Below(folder.into()))
                .into_iter()
                .chain([MailPlace::Mailbox("/x".into())])
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn many_files_in_one_folder_are_that_folder() {
        let needs = mailboxes((0..1000).map(|number| format!("/var/mail/{number}")));
        assert_eq!(needs.places(), [MailPlace::Below("/var/mail".into())]);
        let needs = mailboxes((0..1000).map(|number| number.to_string()));
        assert_eq!(needs.places(), [MailPlace::Below("".into())]);
    }

    #[test]
    fn maildirs_and_mailboxes_share_their_folders() {
        let mut needs = Needs::default();
        for number in 0..1000 {
            needs.add(Need::Maildir(format!("/home/{number}/Maildir").as_ref()), None);
            needs.add(Need::Mailbox(format!("/home/{number}/mbox").as_ref()), None);
        }
        assert_eq!(needs.places(), [MailPlace::Below("/home".into())]);
        // Where that leads to cannot be told from its text.
        needs.add(Need::Maildir(Path::new("/home/a/../../etc")), None);
        assert_eq!(needs.places(), [MailPlace::Below("/home".into()), MailPlace::Below("/".into())]);
    }
}
