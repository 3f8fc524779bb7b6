//! Where deliveries could go, for the sandbox: not rule by rule, there may be 100,000, but place by place.

use std::path::{Component, Path, PathBuf};

use super::action::{Action, Need};

/// What the destinations of a configuration need.
#[derive(Debug, Default)]
pub struct Reach {
    places: Vec<Place>,
    /// The deepest a path may be, once there were too many places.
    max_depth: Option<usize>,
    /// A folder, up to its `/`, whose files are within a place: most rules have the same as the rule before them.
    known_folder: Vec<u8>,
    /// The allow groups of the lines with commands, each once; `None` stands for everybody.
    pub(super) commands: Vec<Option<usize>>,
}

/// A place that mail is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file that is appended to, or made.
    Mailbox(PathBuf),
    /// A maildir, which is made if it is missing.
    Maildir(PathBuf),
    /// Many of both, somewhere below this folder.
    Below(PathBuf),
}

impl Reach {
    /// Where mail may be written, each place once, and at most [`MAX_PLACES`].
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Takes in what a line of this group, or of none, does with mail.
    pub(super) fn add(&mut self, action: &Action<'_>, group: Option<usize>) {
        match action.needs() {
            Need::Mailbox(file) => self.add_mailbox(file),
            Need::Maildir(directory) => self.add_place(Place::Maildir(directory.to_owned())),
            Need::Programs if self.commands.contains(&group) => {}
            Need::Programs => self.commands.push(group),
            Need::Nothing => {}
        }
    }

    /// Takes in a file that is appended to. Of 100,000 rules nearly all have a file or folder that is known already.
    pub(super) fn add_mailbox(&mut self, file: &Path) {
        let text = file.as_os_str().as_encoded_bytes();
        let name = text.strip_prefix(&*self.known_folder).filter(|_| !self.known_folder.is_empty());
        if name.is_some_and(|name| name != b".." && !name.contains(&b'/')) {
            return;
        }
        let place_of = |place: &&Place| match place {
            Place::Mailbox(known) => known.as_os_str() == file.as_os_str(),
            Place::Below(folder) => is_below(file, folder) && !leads_back(file),
            Place::Maildir(_) => false,
        };
        match self.places.iter().find(place_of) {
            None => self.add_place(Place::Mailbox(file.to_owned())),
            Some(Place::Below(_)) => {
                let folder = memchr::memrchr(b'/', text).map_or(0, |at| at + 1);
                self.known_folder.clear();
                self.known_folder.extend_from_slice(&text[..folder]);
            }
            Some(_) => {}
        }
    }

    fn add_place(&mut self, place: Place) {
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

impl Place {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Place::Mailbox(path) | Place::Maildir(path) | Place::Below(path) => path,
        }
    }

    /// The place itself, or the folder above it that has only so many components.
    fn no_deeper_than(self, depth: usize) -> Self {
        if self.path().components().count() <= depth {
            return self;
        }
        if leads_back(self.path()) {
            return Place::Below(PathBuf::from("/"));
        }
        // The root is a component that an absolute path keeps.
        let depth = if self.path().has_root() { depth.max(1) } else { depth };
        Place::Below(self.path().components().take(depth).collect())
    }
}

/// Whether the path has a `..`: where that leads to cannot be told from the text.
fn leads_back(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

/// Whether the path is one below this folder, going by their texts.
fn is_below(path: &Path, folder: &Path) -> bool {
    let (path, folder) = (path.as_os_str().as_encoded_bytes(), folder.as_os_str().as_encoded_bytes());
    match folder {
        b"" => !path.starts_with(b"/"),
        b"/" => path.starts_with(b"/"),
        _ => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/")),
    }
}

/// A sandbox with more places than this would take longer to make than a session takes.
const MAX_PLACES: usize = 12;

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::config::Keep;

    fn mailboxes(files: impl IntoIterator<Item = String>) -> Reach {
        let mut reach = Reach::default();
        files.into_iter().for_each(|file| reach.add(&Action::Keep(Keep::Append(Cow::Owned(file))), None));
        reach
    }

    #[test]
    fn few_places_are_kept_as_they_are() {
        let files = ["/var/mail/a", "/var/mail/b", "/var/mail/a", "c"];
        let reach = mailboxes(files.map(str::to_owned));
        assert_eq!(reach.places(), ["/var/mail/a", "/var/mail/b", "c"].map(|file| Place::Mailbox(file.into())));
    }

    #[test]
    fn many_places_become_the_folders_above_them() {
        let mut reach = mailboxes((0..100_000).map(|number| format!("/home/user{number}/mail/inbox")));
        reach.add_mailbox(Path::new("/var/mail/a"));
        reach.add_mailbox(Path::new("/x"));
        assert_eq!(
            reach.places(),
            ["/home", "/var"]
                .map(|folder| Place::Below(folder.into()))
                .into_iter()
                .chain([Place::Mailbox("/x".into())])
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn many_files_in_one_folder_are_that_folder() {
        let reach = mailboxes((0..1000).map(|number| format!("/var/mail/{number}")));
        assert_eq!(reach.places(), [Place::Below("/var/mail".into())]);
        let reach = mailboxes((0..1000).map(|number| number.to_string()));
        assert_eq!(reach.places(), [Place::Below("".into())]);
    }
}
