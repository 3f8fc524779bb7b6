//! What opening and keeping files has to mind, wherever they are.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// An error if the path is a symbolic link that is neither root's nor ours: in a folder that others can write, theirs
/// could lead anywhere.
pub(crate) fn refuse_foreign_link(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(link) if link.is_symlink() && link.uid() != 0 && link.uid() != nix::unistd::geteuid().as_raw() => {
            Err(io::Error::other(format!(
                "{} is a symbolic link of user {}, who is neither root nor the user we run as",
                path.display(),
                link.uid()
            )))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The folder that holds the name of a file.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
