//! Who besides root and ourselves can write the configuration, or a table: whoever can write the one can run commands, and
//! with the other take mail or refuse it.
//!
//! A file that others can write is refused. A folder on the way to it lets those who can write to it put another file in
//! the place of ours, unless it has the sticky bit; `mailrecv check` tells of such folders, sessions do not look.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::unistd::{getegid, geteuid};
use rustix::io::Errno;

use crate::files::MAX_LINKS;

/// What is in a file, and so what others must not write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// Lines of the configuration.
    Configuration,
    /// The addresses of a table.
    Table,
    /// Names and hashes of passwords.
    Accounts,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::Configuration => "it says which commands are run",
            Content::Table => "it says whose mail is taken",
            Content::Accounts => "it says who may log in",
        })
    }
}

/// An error if others can write this open file, which has this name.
pub(super) fn refuse_others(file: &File, metadata: &Metadata, path: &Path, content: Content) -> anyhow::Result<()> {
    let ours = Ours::new(None);
    if metadata.mode() & 0o002 != 0 {
        bail!("is writable by everybody, and {content}: run chmod o-w on it");
    }
    if !ours.has_user(metadata.uid()) {
        bail!("belongs to user {}, who is neither root nor the user we run as ({})", metadata.uid(), ours.user);
    }
    // With an ACL these bits are its mask: where they do not let anybody write, none of its entries does (acl(5)).
    if metadata.mode() & 0o020 != 0 {
        let (group, ours_group) = (metadata.gid(), ours.group);
        if !ours.has_group(group) {
            bail!("is writable by group {group}, which is neither root's nor ours ({ours_group}): run chmod g-w on it");
        }
        let acl = read_acl(|value| rustix::fs::fgetxattr(file, ACL, value)).context("its ACL cannot be read")?;
        if let Some(writer) = ours.other_writer(&acl) {
            let path = path.display();
            bail!("has an ACL that lets {writer} write it, and {content}: run setfacl -b {path}");
        }
    }
    Ok(())
}

/// What is to be said of the folders on the way to a file, also those that symbolic links lead through: each that lets
/// others put another file in its place. A link of somebody else was not followed. `user` is whom sessions become.
pub(super) fn on_the_way(path: &Path, user: Option<u32>) -> Vec<String> {
    let ours = Ours::new(user);
    let Ok(path) = std::path::absolute(path) else { return Vec::new() };
    let mut way = reversed_components(&path);
    let (mut at, mut links, mut found) = (PathBuf::new(), 0, Vec::new());
    while let Some(component) = way.pop() {
        at.push(component);
        // What cannot be looked at is no file that we could have read.
        let Ok(metadata) = std::fs::symlink_metadata(&at) else { break };
        // A link can lead through a folder a second time.
        if let Some(message) =
            ours.others_in(&metadata, &at).map(|why| format!("{}, on the way to it, {why}", at.display()))
            && !found.contains(&message)
        {
            found.push(message);
        }
        if metadata.is_symlink() {
            links += 1;
            let Some(target) = std::fs::read_link(&at).ok().filter(|_| links <= MAX_LINKS) else { break };
            way.extend(reversed_components(&target));
            at.pop();
        }
    }
    found
}

/// Those who may write: root, ourselves, and the user that we are to become.
struct Ours {
    user: u32,
    later: Option<u32>,
    group: u32,
}

/// Somebody who is none of them.
enum Writer {
    User(u32),
    Group(u32),
    /// The list is none that we can read.
    Others,
}

impl Ours {
    fn new(later: Option<u32>) -> Self {
        Self { user: geteuid().as_raw(), later, group: getegid().as_raw() }
    }

    fn has_user(&self, user: u32) -> bool {
        user == 0 || user == self.user || Some(user) == self.later
    }

    fn has_group(&self, group: u32) -> bool {
        group == 0 || group == self.group
    }

    /// Why others can put another file in the place of one in this folder, and what to do about it. In one with the sticky
    /// bit only the owners of the file and of the folder can.
    fn others_in(&self, folder: &Metadata, path: &Path) -> Option<String> {
        if !folder.is_dir() {
            return None;
        }
        let (mode, group, shown) = (folder.mode(), folder.gid(), path.display());
        if !self.has_user(folder.uid()) {
            let user = folder.uid();
            return Some(format!("belongs to user {user}, who can put another in its place: run chown root {shown}"));
        }
        if mode & 0o1000 != 0 {
            return None;
        }
        if mode & 0o002 != 0 {
            return Some(format!("is writable by everybody, who can put another in its place: run chmod o-w {shown}"));
        }
        if mode & 0o020 == 0 {
            return None;
        }
        if !self.has_group(group) {
            return Some(format!(
                "is writable by group {group}, which can put another in its place: run chmod g-w {shown}"
            ));
        }
        let acl = read_acl(|value| rustix::fs::getxattr(path, ACL, value)).unwrap_or_default();
        let writer = self.other_writer(&acl)?;
        Some(format!(
            "has an ACL that lets {writer} write to it, and so put another in its place: run setfacl -b {shown}"
        ))
    }

    /// Who else may write by this list, if somebody may; an empty one adds nobody to what the mode says.
    fn other_writer(&self, acl: &[u8]) -> Option<Writer> {
        if acl.is_empty() {
            return None;
        }
        let Some((VERSION, entries)) =
            acl.split_first_chunk().map(|(version, rest)| (u32::from_le_bytes(*version), rest))
        else {
            return Some(Writer::Others);
        };
        let (entries, []) = entries.as_chunks::<8>() else { return Some(Writer::Others) };
        let entries =
            entries.iter().map(|[tag, _, permissions, _, id @ ..]| (*tag, *permissions, u32::from_le_bytes(*id)));
        let is_masked = entries.clone().any(|(tag, permissions, _)| tag == MASK && permissions & WRITE == 0);
        let mut writers = entries.filter(|(_, permissions, _)| !is_masked && permissions & WRITE != 0);
        writers.find_map(|(tag, _, id)| match tag {
            NAMED_USER if !self.has_user(id) => Some(Writer::User(id)),
            NAMED_GROUP if !self.has_group(id) => Some(Writer::Group(id)),
            _ => None,
        })
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Writer::User(id) => write!(f, "user {id}"),
            Writer::Group(id) => write!(f, "group {id}"),
            Writer::Others => f.write_str("others"),
        }
    }
}

/// The list of who may do what with a file, as the kernel hands it out; empty if there is none.
fn read_acl(read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut acl = vec![0; LONGEST_ACL];
    match read(&mut acl) {
        Ok(length) => acl.truncate(length),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => acl.clear(),
        Err(error) => return Err(error),
    }
    Ok(acl)
}

fn reversed_components(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|component| component.as_os_str().to_owned()).collect()
}

/// Where Linux keeps the list (acl(5)): a version, and entries of eight bytes, all little-endian (posix_acl_xattr.h).
const ACL: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const NAMED_USER: u8 = 0x02;
const NAMED_GROUP: u8 = 0x08;
const MASK: u8 = 0x10;
const WRITE: u8 = 0x02;

/// No extended attribute is longer (xattr(7)).
const LONGEST_ACL: usize = 64 * 1024;
