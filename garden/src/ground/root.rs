//! The root folder of a server: in memory, with the programs of the host beneath those of its packages, and nothing
//! else of the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

use super::plan::{Made, Plan};

/// Makes the root folder and enters it. The calling process has a mount namespace and a process namespace of its own.
///
/// # Errors
///
/// Something could not be made.
pub(super) fn make(plan: &Plan) -> Result<()> {
    enter_memory()?;
    for (folder, mode) in
        [("/root", 0o700), ("/tmp", 0o1777), ("/home", 0o755), ("/mnt", 0o755), ("/srv", 0o755), ("/garden", 0o755)]
    {
        make_folder(Path::new(folder), mode)?;
    }
    make_system(plan)?;
    make_processes()?;
    make_devices()?;
    for (from, to) in &plan.programs {
        show(&on_host(from), to)?;
    }
    umount2(HOST, MntFlags::MNT_DETACH).context("letting go of the host's files")?;
    fs::remove_dir(HOST)?;
    for folder in &plan.folders {
        make_folder(&folder.path, folder.mode)?;
        own(folder)?;
    }
    for (file, text) in &plan.files {
        if let Some(folder) = file.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        // A package may have put a symbolic link there.
        let _ = fs::remove_file(&file.path);
        fs::write(&file.path, text).with_context(|| format!("writing {}", file.path.display()))?;
        own(file)?;
    }
    Ok(())
}

/// Where the host's root folder is until the new one is complete.
const HOST: &str = "/host";

fn on_host(path: &Path) -> PathBuf {
    Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path))
}

/// Enters an empty root folder in memory, in which the host's is mounted.
fn enter_memory() -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("making our mounts our own")?;
    // Any folder would do: the host's /tmp is seen again when the root folder is the new one. Its size is more than any
    // server should need, and limited so that one gone mad does not take the machine's memory.
    mount(Some("garden"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=2g"))
        .context("mounting a tmpfs")?;
    fs::create_dir("/tmp/host")?;
    pivot_root("/tmp", "/tmp/host").context("changing the root folder")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Makes /usr, /etc, /var, /run, and the usual links beside them.
fn make_system(plan: &Plan) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt"] {
        let (host, ours) = (Path::new(HOST).join(name), Path::new("/").join(name));
        if let Ok(target) = fs::read_link(&host) {
            symlink(target, ours)?;
        } else if host.is_dir() {
            show(&host, &ours)?;
        }
    }
    let packages = Path::new("/packages");
    if let Some(folder) = &plan.packages {
        show(&on_host(folder), packages)?;
    }
    lay_over("usr", &[&packages.join("usr"), &Path::new(HOST).join("usr")])?;
    // Servers must not see the host's own settings and data, and do not need the rest of them.
    lay_over("etc", &[&packages.join("etc")])?;
    lay_over("var", &[&packages.join("var")])?;
    let etc = Path::new(HOST).join("etc");
    for name in OF_ETC {
        copy_missing(&etc.join(name), &Path::new("/etc").join(name))?;
    }
    for entry in fs::read_dir(&etc)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(b"python3") {
            copy_missing(&etc.join(&name), &Path::new("/etc").join(&name))?;
        }
    }
    for folder in ["/run/lock", "/var/cache", "/var/lib", "/var/log", "/var/spool", "/usr/local/bin"] {
        make_folder(Path::new(folder), 0o755)?;
    }
    make_folder(Path::new("/var/tmp"), 0o1777)?;
    make_folder(Path::new("/var/mail"), 0o2775)?;
    for (link, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
        if fs::symlink_metadata(link).is_err() {
            symlink(target, link)?;
        }
    }
    Ok(())
}

/// What programs that are not mail servers need of the host's /etc: the linker, interpreters, TLS, names of ports. The
/// folder of Python has its version in its name.
const OF_ETC: [&str; 15] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "perl",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// A folder of its own, on top of those of these folders that exist.
fn lay_over(name: &str, below: &[&Path]) -> Result<()> {
    let ours = Path::new("/").join(name);
    fs::create_dir(&ours)?;
    let below: Vec<&str> = below.iter().filter(|folder| folder.is_dir()).filter_map(|folder| folder.to_str()).collect();
    if below.is_empty() {
        return Ok(());
    }
    let layers = Path::new("/layers").join(name);
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir(&work)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", below.join(":"), upper.display(), work.display());
    mount(Some("garden"), &ours, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("mounting an overlay on /{name}; does this kernel have overlayfs?"))
}

/// Shows a file or folder of the host, read-only.
fn show(from: &Path, to: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    let what = || format!("showing {} as {}", from.display(), to.display());
    if from.is_dir() {
        fs::create_dir_all(to).with_context(what)?;
    } else {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(what)?;
        }
        fs::write(to, "").with_context(what)?;
    }
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).with_context(what)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, to, NONE, flags, NONE).with_context(what)
}

fn make_processes() -> Result<()> {
    const NONE: Option<&str> = None;
    make_folder(Path::new("/proc"), 0o555)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).context("mounting /proc")?;
    // Root could change settings of the whole machine there.
    show(Path::new("/proc/sys"), Path::new("/proc/sys"))
}

/// The devices that programs expect. /dev/log is made by its reader.
fn make_devices() -> Result<()> {
    const NONE: Option<&str> = None;
    make_folder(Path::new("/dev"), 0o755)?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let (host, ours) = (Path::new(HOST).join("dev").join(name), Path::new("/dev").join(name));
        fs::write(&ours, "")?;
        mount(Some(&host), &ours, NONE, MsFlags::MS_BIND, NONE).with_context(|| format!("showing /dev/{name}"))?;
    }
    make_folder(Path::new("/dev/shm"), 0o1777)?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, Path::new("/dev").join(link))?;
    }
    Ok(())
}

/// Copies what is missing; links stay links.
fn copy_missing(from: &Path, to: &Path) -> Result<()> {
    let Ok(kind) = fs::symlink_metadata(from) else { return Ok(()) };
    let what = || format!("copying {}", from.display());
    if kind.is_dir() {
        fs::create_dir_all(to).with_context(what)?;
        for entry in fs::read_dir(from).with_context(what)? {
            let name = entry?.file_name();
            copy_missing(&from.join(&name), &to.join(&name))?;
        }
    } else if fs::symlink_metadata(to).is_err() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(what)?;
        }
        if kind.is_symlink() {
            symlink(fs::read_link(from)?, to).with_context(what)?;
        } else {
            fs::copy(from, to).with_context(what)?;
        }
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn own(made: &Made) -> Result<()> {
    let what = || format!("giving {} its owner and its permissions", made.path.display());
    chown(&made.path, Some(made.uid), Some(made.gid)).with_context(what)?;
    fs::set_permissions(&made.path, fs::Permissions::from_mode(made.mode)).with_context(what)
}
