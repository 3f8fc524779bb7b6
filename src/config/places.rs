//! Checks for `mailrecv check` whether mail can be written where the configuration says, and whether the programs that
//! it names can be run, as the user that sessions will have.
//!
//! Nothing is created or changed. There may be 100,000 mailboxes in one folder, so each folder is tried once.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::shell::{PATH, SHELL};
use crate::files;
use crate::metrics::{Flaw, Record};

/// What was found out so far.
#[derive(Debug)]
pub(super) struct Places {
    /// The user, for messages.
    who: String,
    /// For each folder why no file can be made in it, or `None` if it can.
    folders: HashMap<PathBuf, Option<String>>,
    /// The messages so far, so that none is repeated.
    said: HashSet<String>,
}

impl Places {
    /// `user` is the user that sessions become, as which this process runs now.
    pub(super) fn new(user: Option<&str>) -> Self {
        let who = user.map_or_else(|| "this user".to_owned(), |user| format!("user `{user}`"));
        Self { who, folders: HashMap::new(), said: HashSet::new() }
    }

    /// Why mail, or a log, cannot be appended to this file.
    pub(super) fn file(&mut self, path: &Path) -> Option<String> {
        let trouble = written_oddly(path).or_else(|| self.file_trouble(path))?;
        self.once(trouble)
    }

    /// Why counts cannot be added to this file, or why the present ones will be lost.
    pub(super) fn metrics(&mut self, path: &Path) -> Option<String> {
        if let Some(trouble) = self.file(path) {
            return Some(trouble);
        }
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Some(format!("{} is no ordinary file, and nothing is counted in it", path.display()));
        }
        match Record::to_read(path).map_err(Flaw::Unreadable).and_then(|record| record.read()) {
            Ok(_) | Err(Flaw::Empty) => None,
            Err(Flaw::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(Flaw::Unreadable(error)) => {
                Some(format!("{} cannot read {}: {}", self.who, path.display(), plain(&error)))
            }
            Err(flaw @ Flaw::OtherForm) => Some(format!("{}: {flaw}; the next session begins it anew", path.display())),
            Err(flaw @ Flaw::Foreign) => Some(format!("{}: {flaw}", path.display())),
        }
    }

    /// Why mail cannot be delivered into this maildir.
    pub(super) fn maildir(&mut self, path: &Path) -> Option<String> {
        let trouble = written_oddly(path).or_else(|| self.maildir_trouble(path))?;
        self.once(trouble)
    }

    /// Why no files can be made in this folder, which is made if it is missing.
    pub(super) fn folder_to_make(&mut self, path: &Path) -> Option<String> {
        let is_missing = path.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let folder = if is_missing { files::directory_of(path) } else { path };
        let trouble = written_oddly(path).or_else(|| self.no_file_in(folder))?;
        self.once(trouble)
    }

    /// Why large messages cannot be kept in this folder.
    pub(super) fn folder(&mut self, path: &Path) -> Option<String> {
        written_oddly(path).or_else(|| self.no_file_in(path))
    }

    /// Why the table of `exactly_once` cannot be in this folder, which is made if it is missing.
    pub(super) fn records(&mut self, path: &Path) -> Option<String> {
        if let Some(trouble) = self.folder_to_make(path) {
            return Some(trouble);
        }
        let opened = files::open_folder(path, OFlag::O_RDONLY).and_then(|folder| {
            match files::open_to_others(&folder.metadata()?) {
                Some(why) => Err(io::Error::other(why)),
                None => files::open_own(&folder, files::RECORDS),
            }
        });
        let why = opened.err().filter(|error| error.kind() != io::ErrorKind::NotFound)?;
        Some(format!("{}: {why}; what comes again would be delivered again", path.display()))
    }

    /// Why commands cannot be run at all.
    pub(super) fn shell(&mut self) -> Option<String> {
        let trouble = self.program(SHELL)?;
        self.once(format!("{trouble}, and that is what runs commands"))
    }

    /// Why a shell could not run this program.
    pub(super) fn program(&self, name: &str) -> Option<String> {
        if name.contains(' ') && !Path::new(name).exists() {
            return Some(format!(
                "there is no program `{name}`: the quotes make one word of all of it, leave them out"
            ));
        }
        if !name.contains('/') {
            let is_known = BUILTINS.contains(&name)
                || PATH.split(':').any(|folder| may(&Path::new(folder).join(name), Access::EXEC_OK).is_ok());
            return (!is_known).then(|| format!("there is no program `{name}` in {PATH}, where commands look"));
        }
        let path = Path::new(name);
        if !path.is_absolute() {
            return None;
        }
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!("there is no `{name}`")),
            Err(error) => Some(format!("`{name}` cannot be looked at by {}: {}", self.who, plain(&error))),
            Ok(metadata) if metadata.is_dir() => Some(format!("`{name}` is a folder, and no program")),
            Ok(_) => match may(path, Access::EXEC_OK) {
                Err(error) => Some(format!("`{name}` cannot be run by {}: {}", self.who, plain(&error))),
                Ok(()) => interpreter(path).filter(|interpreter| !interpreter.exists()).map(|interpreter| {
                    format!("`{name}` begins with `#!{0}`, and there is no {0}", interpreter.display())
                }),
            },
        }
    }

    fn once(&mut self, trouble: String) -> Option<String> {
        self.said.insert(trouble.clone()).then_some(trouble)
    }

    fn file_trouble(&mut self, path: &Path) -> Option<String> {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.no_file_in(files::directory_of(path)),
            Err(error) => return self.looked_at(path, &error),
        };
        if metadata.is_symlink() {
            // A link is followed only if it belongs to root or to us.
            let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            return match files::open(path, flags, Mode::empty()) {
                Ok(_) => path.metadata().ok().and_then(|metadata| self.refused_file(path, &metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let target = std::fs::read_link(path).ok()?;
                    let target = files::directory_of(path).join(target);
                    self.no_file_in(files::directory_of(&target))
                }
                // A FIFO without a reader at the moment.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => None,
                Err(error) => Some(format!("{} cannot write to {}: {}", self.who, path.display(), plain(&error))),
            };
        }
        self.refused_file(path, &metadata)
    }

    fn refused_file(&self, path: &Path, metadata: &Metadata) -> Option<String> {
        let shown = path.display();
        if metadata.is_dir() {
            return Some(format!("{shown} is a folder, and no file"));
        }
        if metadata.is_file() && metadata.nlink() > 1 {
            return Some(format!(
                "{shown} has {} names (hard links), as `cp -al` gives them, and is not written to: put a copy in its place, \
                 `cp -p` and `mv`",
                metadata.nlink()
            ));
        }
        let error = may(path, Access::WRITE_OK).err()?;
        Some(format!("{} cannot write to {shown}: {}", self.who, plain(&error)))
    }

    fn maildir_trouble(&mut self, path: &Path) -> Option<String> {
        match path.metadata() {
            Ok(metadata) if !metadata.is_dir() => Some(format!("{} is a file, and no folder", path.display())),
            Ok(_) => ["tmp", "new"].iter().map(|name| path.join(name)).find_map(|folder| match folder.exists() {
                true => self.no_file_in(&folder),
                false => self.no_file_in(path),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.no_file_in(files::directory_of(path)),
            Err(error) => self.looked_at(path, &error),
        }
    }

    fn looked_at(&self, path: &Path, error: &io::Error) -> Option<String> {
        Some(format!("{} cannot be looked at by {}: {}", path.display(), self.who, plain(error)))
    }

    /// Why no file can be made in a folder.
    fn no_file_in(&mut self, folder: &Path) -> Option<String> {
        if let Some(known) = self.folders.get(folder) {
            return known.clone();
        }
        let shown = folder.display();
        let trouble = match folder.metadata() {
            Ok(metadata) if !metadata.is_dir() => Some(format!("{shown} is no folder")),
            Ok(_) => may(folder, Access::WRITE_OK | Access::EXEC_OK)
                .err()
                .map(|error| format!("{} cannot make files in {shown}: {}", self.who, plain(&error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!("there is no folder {shown}")),
            Err(error) => self.looked_at(folder, &error),
        };
        self.folders.insert(folder.to_owned(), trouble.clone());
        trouble
    }
}

/// The warning about a path that probably leads elsewhere than expected.
pub(super) fn written_oddly(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    if ["/dev/stdin", "/dev/stdout", "/dev/fd/0", "/dev/fd/1", "/proc/self/fd/0", "/proc/self/fd/1"].contains(&text) {
        return Some("in a session this is the connection to the peer; a log can go to `stderr`".to_owned());
    }
    let has_variable =
        text.match_indices('$').any(|(at, _)| text[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic()));
    if !has_variable && ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
        return None;
    }
    Some(if text.starts_with('~') {
        "`~` is a part of the name here: write the whole path".to_owned()
    } else if has_variable {
        "`$` is a part of the name here: write the whole path, or `${NAME}` for a variable of the environment"
            .to_owned()
    } else {
        format!(
            "this is below the folder in which mailrecv is started, which for a super-server is mostly `/`: write the \
             whole path, or `./{text}` if that is meant"
        )
    })
}

/// Whether the current user may do this.
fn may(path: &Path, access: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, access, AtFlags::EACCESS)?)
}

/// The interpreter in the first line of a script.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    BufReader::new(file.take(LONGEST_FIRST_LINE)).read_until(b'\n', &mut line).ok()?;
    let line = std::str::from_utf8(line.strip_prefix(b"#!")?).ok()?;
    line.split_ascii_whitespace().next().map(PathBuf::from)
}

/// The message of the error without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Linux looks no further for the name of an interpreter (execve(2)).
const LONGEST_FIRST_LINE: u64 = 255;

/// What a shell does itself, including words of its grammar (POSIX.1-2024, 2.9 and 2.15).
const BUILTINS: &[&str] = &[
    ".", ":", "[", "alias", "bg", "break", "cd", "continue", "done", "echo", "esac", "eval", "exit", "export", "false",
    "fc", "fg", "fi", "getopts", "hash", "jobs", "kill", "local", "printf", "pwd", "read", "readonly", "return", "set",
    "shift", "test", "times", "trap", "true", "type", "ulimit", "umask", "unalias", "unset", "wait",
];
