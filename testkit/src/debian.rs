//! Programs of Debian's packages, installed or unpacked by `tests/run`. What every Debian has (coreutils, util-linux, a
//! shell) is started by its name; everything else is looked for here, so that what is missing says how to get it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Folder, repository};

/// Where a program of a package is. Fails if it is nowhere.
#[track_caller]
pub fn program(package: &str, name: &str) -> PathBuf {
    let unpacked = FOLDERS.map(|folder| unpacked(package).join(folder));
    // Daemons are not in everybody's PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).chain(DAEMONS.map(|folder| Path::new("/").join(folder)));
    let mut places = unpacked.into_iter().chain(installed).map(|folder| folder.join(name));
    let Some(found) = places.find(|path| path.is_file()) else {
        panic!("`{name}` of Debian's package {package} is missing: run tests/run, which installs it");
    };
    found
}

/// Where another file of a package is, by its path from the root. Fails if it is not there.
#[track_caller]
pub fn file(package: &str, path: &str) -> PathBuf {
    let file = root(package).join(path);
    assert!(file.is_file(), "`/{path}` of Debian's package {package} is missing: run tests/run, which installs it");
    file
}

/// A command that runs a program of a package.
#[track_caller]
pub fn command(package: &str, name: &str) -> Command {
    Command::new(program(package, name))
}

/// A program of fail2ban, which is in Python: unpacked, it finds its modules beside it.
#[track_caller]
pub fn fail2ban(name: &str) -> Command {
    let mut command = command("fail2ban", name);
    let modules = unpacked("fail2ban").join("usr/lib/python3/dist-packages");
    if modules.is_dir() {
        command.env("PYTHONPATH", modules);
    }
    command
}

/// Python with the modules of a package.
#[track_caller]
pub fn python_with(package: &str) -> Command {
    let modules = root(package).join("usr/lib/python3/dist-packages");
    let mut command = command("python3", "python3");
    command.env("PYTHONPATH", modules);
    command
}

/// A program of Postfix; unpacked, it finds its libraries only when it is told.
#[track_caller]
pub fn postfix(name: &str) -> Command {
    let mut command = command("postfix", name);
    command.env("LD_LIBRARY_PATH", root("postfix").join("usr/lib/postfix"));
    command
}

/// Dovecot's `doveadm` with this configuration. Unpacked, it finds its libraries only when it is told, and the program
/// that reads its configuration has to start it.
#[track_caller]
pub fn doveadm(config: &Path) -> Command {
    let mut command = command("dovecot-core", "doveconf");
    command.args(["-f", "service=doveadm", "-m", "doveadm", "-c"]).arg(config).arg("-e");
    command.arg(program("dovecot-core", "doveadm"));
    command.env("LD_LIBRARY_PATH", root("dovecot-core").join("usr/lib/dovecot"));
    command
}

/// A command that runs what is added to it where the files of unpacked packages lie in their places: in a mount namespace
/// of its own, in which /etc, /usr and /var can be written to, and of which nothing is left.
pub fn laid_over(packages: &[&str], folder: &Folder) -> Command {
    let over = folder.path("over");
    fs::create_dir_all(&over).unwrap();
    let roots: Vec<String> = packages.iter().map(|package| root(package).display().to_string()).collect();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", LAY_OVER, "sh"]).arg(over).arg(roots.join(" "));
    command
}

/// Where the files of a package are: below its own folder, or where everything is.
pub fn root(package: &str) -> PathBuf {
    let unpacked = unpacked(package);
    if unpacked.is_dir() { unpacked } else { PathBuf::from("/") }
}

/// Where a package is, or would be, that is unpacked and not installed.
pub fn unpacked(package: &str) -> PathBuf {
    repository::path("target/debian").join(package)
}

/// Gives a file or folder to a user, or to a user and group (`user:group`).
pub fn chown(path: impl AsRef<Path>, owner: impl AsRef<OsStr>) {
    let (path, owner) = (path.as_ref(), owner.as_ref());
    let changed = Command::new("chown").arg(owner).arg(path).status().expect("starting chown");
    assert!(changed.success(), "chown {} {}", owner.display(), path.display());
}

/// A user without privileges that every Debian has.
pub const USER: &str = "mail";

const FOLDERS: [&str; 5] = ["usr/bin", "bin", DAEMONS[0], DAEMONS[1], DAEMONS[2]];
const DAEMONS: [&str; 3] = ["usr/sbin", "sbin", "usr/lib/postfix/sbin"];

/// A package that is installed lies in its place already.
const LAY_OVER: &str = r#"
set -e
over=$1 roots=$2
shift 2
mount -t tmpfs none "$over"
for name in etc usr var; do
    mkdir -p "$over/upper/$name" "$over/work/$name"
    lower=
    for files in $roots; do
        [ "$files" = / ] || [ ! -d "$files/$name" ] || lower=$lower$files/$name:
    done
    mount -t overlay -o "lowerdir=$lower/$name,upperdir=$over/upper/$name,workdir=$over/work/$name" overlay "/$name"
done
mount -t tmpfs none /run
exec "$@""#;
