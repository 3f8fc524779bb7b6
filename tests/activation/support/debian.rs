//! Programs from Debian's packages, installed or unpacked by `tests/run`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a program of a package is. Fails if it is nowhere.
pub(crate) fn program(package: &str, name: &str) -> PathBuf {
    let folders = [unpacked(package), PathBuf::from("/")];
    folders
        .iter()
        .flat_map(|root| ["usr/sbin", "usr/bin", "sbin", "bin"].map(|folder| root.join(folder).join(name)))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("`{name}` is missing: `tests/run` installs it from Debian's package {package}"))
}

/// A command that runs a program of a package, bounded in time, so that a client that waits for ever is a failure.
pub(crate) fn bounded(package: &str, name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "60"]).arg(program(package, name));
    command
}

/// A program of fail2ban, which is in Python: unpacked, it finds its modules beside it.
pub(crate) fn fail2ban(name: &str) -> Command {
    let mut command = Command::new(program("fail2ban", name));
    let modules = unpacked("fail2ban").join("usr/lib/python3/dist-packages");
    if modules.is_dir() {
        command.env("PYTHONPATH", modules);
    }
    command
}

/// Where Postfix's files are, which are not all in the folders of other programs.
pub(crate) fn postfix() -> PathBuf {
    let unpacked = unpacked("postfix");
    if unpacked.is_dir() { unpacked } else { PathBuf::from("/") }
}

/// Postfix's load generator, bounded in time; unpacked, it finds its libraries only when it is told.
pub(crate) fn smtp_source() -> Command {
    let mut command = bounded("postfix", "smtp-source");
    command.env("LD_LIBRARY_PATH", postfix().join("usr/lib/postfix"));
    command
}

/// The modules of an rsyslogd that is not where it was built for.
pub(crate) fn rsyslog_modules() -> Option<PathBuf> {
    let libraries = std::fs::read_dir(unpacked("rsyslog").join("usr/lib")).ok()?;
    libraries.flatten().map(|entry| entry.path().join("rsyslog")).find(|path| path.is_dir())
}

fn unpacked(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian").join(package)
}
