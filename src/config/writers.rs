//! Who besides root and ourselves can write to the configuration or a table: the former contains commands, and with the
//! latter mail can be accepted or refused.
//!
//! A file that others can write to is refused. Others who can write to a folder on the way to it could replace the
//! file, unless the folder has the sticky bit; `mailrecv check` warns about such folders, sessions do not check them.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::unistd::{getegid, geteuid};
use rustix::io::Errno;

use crate::files::MAX_LINKS;

/// What a file contains, and so why others must not write to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// Lines of the configuration.
    Configuration,
    /// Addresses of a table.
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

/// It is an error if others can write to this open file, which has this name.
pub(super) fn refuse_others(file: &File, metadata: &Metadata, path: &Path, content: Content) -> anyhow::Result<()> {
    let ours = Ours::new(None);
    if metadata.mode() & 0o002 != 0 {
        bail!("is writable by everybody, and {content}: run chmod o-w on it");
    }
    if !ours.has_user(metadata.uid()) {
        bail!("belongs to user {}, who is neither root nor the user we run as ({})", metadata.uid(), ours.user);
    }
    // If the file has an ACL, these bits are its mask: without them no entry of the ACL permits writing (acl(5)).
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

/// Warnings about folders on the way to a file, including those that symbolic links lead through, in which others could
/// replace something. Links of other users were not followed. `user` is the user that sessions become.
pub(super) fn on_the_way(path: &Path, user: Option<u32>) -> Vec<String> {
    let ours = Ours::new(user);
    let Ok(path) = std::path::absolute(path) else { return Vec::new() };
    let mut way = reversed_components(&path);
    let (mut at, mut links, mut found) = (PathBuf::new(), 0, Vec::new());
    while let Some(component) = way.pop() {
        at.push(component);
        // If this cannot be examined, the file could not have been read in this way.
        let Ok(metadata) = std::fs::symlink_metadata(&at) else { break };
        // Links can lead through a folder twice.
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

/// The users who may write: root, our own user, and the user that sessions become.
struct Ours {
    user: u32,
    later: Option<u32>,
    group: u32,
}

/// Somebody else who can write.
enum Writer {
    User(u32),
    Group(u32),
    /// The ACL cannot be understood.
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

    /// Why others could replace a file in this folder, and what to do about it. In a folder with the sticky bit, only
    /// the owners of the file and of the folder can.
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

    /// Who else may write according to this ACL, if anybody; an empty ACL adds nobody to the mode.
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

/// The ACL of a file in the kernel's format; empty if there is none.
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

/// The extended attribute with the ACL (acl(5)): a version, followed by entries of eight bytes, all little-endian
/// (posix_acl_xattr.h).
const ACL: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const NAMED_USER: u8 = 0x02;
const NAMED_GROUP: u8 = 0x08;
const MASK: u8 = 0x10;
const WRITE: u8 = 0x02;

/// The longest extended attribute (xattr(7)).
const LONGEST_ACL: usize = 64 * 1024;
