//! Gets the software of servers into a cache folder: Debian packages, which are unpacked; Python environments; npm
//! packages; programs around a crate. Nothing is installed on the host.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use crate::children;
use crate::recipe::{Crate, Recipe};

/// The software of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The folder with unpacked Debian packages.
    pub packages: Option<PathBuf>,
    /// Other files and folders, and the paths under which the server sees them.
    pub programs: Vec<(PathBuf, PathBuf)>,
    /// Which version it is.
    pub version: String,
}

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    mailrecv: Option<PathBuf>,
    may_get: bool,
}

/// The software of a server is not in the cache, and should not be fetched now.
#[derive(Debug)]
pub struct NotYet;

impl std::error::Error for NotYet {}

impl std::fmt::Display for NotYet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("not fetched yet")
    }
}

impl Cache {
    /// The cache in `folder`, or the user's own: `$XDG_CACHE_HOME/smtp-garden` or `~/.cache/smtp-garden`. `mailrecv` is
    /// the path of that program.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or its place is unknown.
    pub fn open(folder: Option<PathBuf>, mailrecv: Option<PathBuf>) -> Result<Self> {
        let of_user = || {
            let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
            Some(cache.join("smtp-garden"))
        };
        let folder = folder.or_else(of_user).context("HOME is not set; say --cache FOLDER")?;
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder: fs::canonicalize(folder)?, mailrecv, may_get: true })
    }

    /// The software of this server, if it is in the cache.
    ///
    /// # Errors
    ///
    /// [`NotYet`], or why it cannot be had.
    pub fn look(&self, recipe: &Recipe) -> Result<Fetched> {
        Self { may_get: false, ..self.clone() }.fetch(recipe)
    }

    /// The software of this server, which is fetched if it is not in the cache. Meanwhile nobody else fetches the same
    /// kind.
    ///
    /// # Errors
    ///
    /// Why it cannot be had.
    pub fn fetch(&self, recipe: &Recipe) -> Result<Fetched> {
        if let Some(reason) = &recipe.missing {
            bail!("{reason}");
        }
        let programs = &recipe.programs;
        let mut fetched = Fetched::default();
        let mut versions = Vec::new();
        if !programs.debian.is_empty() {
            let (folder, version) = self.debian(&programs.debian)?;
            fetched.packages = Some(folder);
            versions.push(version);
        }
        if !programs.pip.is_empty() {
            fetched.programs.push((self.pip(&programs.pip)?, PathBuf::from("/program/pip")));
            versions.push(pinned(&programs.pip[0], "==")?);
        }
        if !programs.npm.is_empty() {
            fetched.programs.push((self.npm(&programs.npm)?, PathBuf::from("/program/npm")));
            versions.push(pinned(&programs.npm[0], "@")?);
        }
        if let Some(krate) = &programs.krate {
            fetched.programs.push((self.krate(krate)?, PathBuf::from("/program/crate")));
            versions.push(krate.version.clone());
        }
        if let (Some(source), Some(packages)) = (&programs.go, &fetched.packages) {
            fetched.programs.push((self.go(source, packages)?, PathBuf::from("/program/go")));
        }
        if programs.is_mailrecv {
            let program = self.mailrecv()?;
            versions.push(output(Command::new(&program).arg("--version"))?.trim().replace("mailrecv ", ""));
            fetched.programs.push((program, PathBuf::from("/program/mailrecv")));
        }
        // The version is that of the first package.
        fetched.version = versions.into_iter().next().unwrap_or_default();
        Ok(fetched)
    }

    /// The folder with these packages, and the version of the first.
    fn debian(&self, packages: &[String]) -> Result<(PathBuf, String)> {
        let folder = self.made("debian")?;
        let known = folder.join(format!("{}-{:016x}", packages[0], hash(&packages)));
        let state = format!("{:016x}", hash(&state_of_apt()));
        // Asking apt takes a second. As long as its state is the same, its answer is too.
        if let Some(known) = fs::read_to_string(&known).ok().and_then(|text| known_packages(&text, &state))
            && known.0.is_dir()
        {
            return Ok(known);
        }
        let work = self.work("debian")?;
        let debs = work.folder.join("debs");
        fs::create_dir_all(debs.join("partial"))?;
        let apt = || {
            let mut apt = Command::new("apt-get");
            apt.args([
                "install",
                "-qq",
                "--yes",
                "--no-install-recommends",
                "--reinstall",
                "--allow-change-held-packages",
            ])
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"])
            .arg("-o")
            .arg(format!("Dir::Cache={}", work.folder.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", debs.display()))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
            apt
        };
        let needed = output(apt().arg("--print-uris").args(packages))
            .context("apt-get cannot get it (if its lists are old or not there, `apt-get update` helps)")?;
        let mut names: Vec<&str> = needed.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        names.sort_unstable();
        let version = names.iter().find_map(|name| name.strip_prefix(&packages[0])?.strip_prefix('_'));
        let version = version.and_then(|rest| rest.split('_').next()).unwrap_or_default().replace("%3a", ":");
        let unpacked = folder.join(format!("{}_{version}-{:016x}", packages[0], hash(&names)));
        if !unpacked.is_dir() {
            output(apt().arg("--download-only").args(packages)).context("apt-get cannot get it")?;
            let files = work.folder.join("files");
            for deb in fs::read_dir(&debs)? {
                let deb = deb?.path();
                if deb.extension().is_some_and(|extension| extension == "deb") {
                    output(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&files))?;
                }
            }
            merge_usr(&files)?;
            fs::rename(&files, &unpacked).context("keeping the packages")?;
        }
        fs::write(known, format!("{state}\n{}\n{version}\n", unpacked.display()))?;
        Ok((unpacked, version))
    }

    fn pip(&self, packages: &[String]) -> Result<PathBuf> {
        let kept = self.made("pip")?.join(file_name(packages));
        if kept.is_dir() {
            return Ok(kept);
        }
        let work = self.work("pip")?;
        // Another process may have fetched it meanwhile.
        if kept.is_dir() {
            return Ok(kept);
        }
        let files = work.folder.join("files");
        // A Python of the user's own would not be visible to servers.
        output(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&files))
            .context("Python makes no environment; apt-get install python3-venv")?;
        output(
            Command::new(files.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(packages),
        )
        .context("pip cannot get it")?;
        fs::rename(&files, &kept).context("keeping the environment")?;
        Ok(kept)
    }

    fn npm(&self, packages: &[String]) -> Result<PathBuf> {
        let kept = self.made("npm")?.join(file_name(packages));
        if kept.is_dir() {
            return Ok(kept);
        }
        let work = self.work("npm")?;
        if kept.is_dir() {
            return Ok(kept);
        }
        let files = work.folder.join("files");
        fs::create_dir(&files)?;
        output(
            Command::new("npm")
                .args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
                .arg(&files)
                .args(packages)
                .current_dir(&files),
        )
        .context("npm cannot get it; it is in Debian's package npm")?;
        fs::rename(&files, &kept).context("keeping the packages")?;
        Ok(kept)
    }

    fn krate(&self, krate: &Crate) -> Result<PathBuf> {
        let kept = self.made("crate")?.join(format!("{}-{}-{:016x}", krate.name, krate.version, hash(&krate.source)));
        if kept.is_dir() {
            return Ok(kept);
        }
        let work = self.work("crate")?;
        if kept.is_dir() {
            return Ok(kept);
        }
        let (project, files) = (work.folder.join("project"), work.folder.join("files"));
        fs::create_dir_all(project.join("src"))?;
        fs::create_dir(&files)?;
        let Crate { name, version, default_features, source } = krate;
        let manifest = format!(
            "[package]\nname = \"server\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
             {name} = {{ version = \"={version}\", default-features = {default_features} }}\n"
        );
        fs::write(project.join("Cargo.toml"), manifest)?;
        fs::write(project.join("src/main.rs"), source)?;
        // npm installs into this folder, regardless of settings in the folders above it.
        output(
            Command::new("cargo")
                .args(["install", "--quiet", "--no-track", "--path"])
                .arg(&project)
                .arg("--root")
                .arg(&work.folder)
                .arg("--target-dir")
                .arg(work.folder.join("target")),
        )
        .context("cargo cannot build it")?;
        fs::rename(work.folder.join("bin/server"), files.join("server")).context("the program built")?;
        fs::rename(&files, &kept).context("keeping the program")?;
        Ok(kept)
    }

    /// Builds a Go program with the compiler and libraries in these packages.
    fn go(&self, source: &str, packages: &Path) -> Result<PathBuf> {
        let kept = self.made("go")?.join(format!("{:016x}", hash(&(source, packages))));
        if kept.is_dir() {
            return Ok(kept);
        }
        let root = fs::read_dir(packages.join("usr/lib"))
            .context("packages without a compiler")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|folder| folder.join("bin/go").exists())
            .context("there is no compiler of Go among the packages; add golang-go")?;
        let work = self.work("go")?;
        if kept.is_dir() {
            return Ok(kept);
        }
        let files = work.folder.join("files");
        fs::create_dir(&files)?;
        fs::write(work.folder.join("server.go"), source)?;
        output(
            Command::new(root.join("bin/go"))
                .args(["build", "-o"])
                .arg(files.join("server"))
                .arg("server.go")
                .current_dir(&work.folder)
                .env("GOROOT", &root)
                .env("GOPATH", packages.join("usr/share/gocode"))
                .env("GOCACHE", work.folder.join("cache"))
                .env("GOFLAGS", "")
                .env("GO111MODULE", "off")
                .env("CGO_ENABLED", "0"),
        )
        .context("Go cannot build it")?;
        fs::rename(&files, &kept).context("keeping the program")?;
        Ok(kept)
    }

    /// The mailrecv that was named, or the one beside our own program.
    fn mailrecv(&self) -> Result<PathBuf> {
        let named = self.mailrecv.clone();
        let beside = || {
            let own = std::env::current_exe().ok()?;
            // Test programs are one folder further down.
            own.ancestors().skip(1).take(2).find_map(|folder| {
                // The workspace is built into `target`, and the garden into `target/garden`.
                let garden = folder.ancestors().find(|ancestor| ancestor.ends_with("garden"));
                let workspace =
                    garden.and_then(|garden| Some(garden.parent()?.join(folder.strip_prefix(garden).ok()?)));
                let mut programs = [Some(folder.to_owned()), workspace].into_iter().flatten();
                programs.find_map(|folder| Some(folder.join("mailrecv")).filter(|program| program.is_file()))
            })
        };
        let program = named.or_else(beside).context("say --mailrecv PROGRAM, or build it: cargo build")?;
        fs::canonicalize(&program).with_context(|| format!("looking for {}", program.display()))
    }

    /// Keeps a report that is not written anywhere else, so that its cases can be held again. Reports of the last few
    /// runs are kept. Returns its path.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn keep_report(&self, json: &str) -> Result<PathBuf> {
        const KEPT: usize = 10;
        let folder = self.made("reports")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let file = folder.join(format!("{}-{}.json", now.as_secs(), std::process::id()));
        fs::write(&file, json).with_context(|| format!("writing {}", file.display()))?;
        let mut all: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
        all.sort_unstable();
        for old in &all[..all.len().saturating_sub(KEPT)] {
            // Another run may have removed it.
            let _ = fs::remove_file(old);
        }
        Ok(file)
    }

    fn work(&self, kind: &str) -> Result<Work> {
        if !self.may_get {
            return Err(NotYet.into());
        }
        Work::new(&self.made(kind)?)
    }

    fn made(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }
}

/// A folder for work, which is removed afterwards. Only one process works at a time, and removes what an interrupted
/// one left.
struct Work {
    folder: PathBuf,
    _lock: File,
}

impl Work {
    fn new(beside: &Path) -> Result<Self> {
        let lock = beside.join("lock");
        let lock = File::create(&lock).with_context(|| format!("writing {}", lock.display()))?;
        lock.lock().context("waiting for somebody else who gets something")?;
        let folder = beside.join("work");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder, _lock: lock })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // If we cannot, the next one does.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// When the files that apt reads were last changed.
fn state_of_apt() -> Vec<Option<SystemTime>> {
    let changed = |path: &str| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    ["/var/lib/dpkg/status", "/var/lib/apt/lists", "/etc/apt/sources.list", "/etc/apt/sources.list.d"]
        .map(changed)
        .to_vec()
}

fn known_packages(text: &str, state: &str) -> Option<(PathBuf, String)> {
    let mut lines = text.lines();
    let is_it = lines.next()? == state;
    is_it.then_some((PathBuf::from(lines.next()?), lines.next()?.to_owned()))
}

/// Moves what is in /lib and similar folders to where these lead on Debian since version 12.
fn merge_usr(files: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let folder = files.join(name);
        if folder.is_dir() {
            let merged = files.join("usr").join(name);
            fs::create_dir_all(&merged)?;
            output(Command::new("cp").arg("--archive").arg(folder.join(".")).arg(&merged))?;
            fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

/// The version in a pinned package name.
fn pinned(package: &str, separator: &str) -> Result<String> {
    let version = package.rsplit_once(separator).map(|(_, version)| version.to_owned());
    version.with_context(|| format!("`{package}`: say which version, as in NAME{separator}VERSION"))
}

fn file_name(packages: &[String]) -> String {
    packages.join("+").replace('/', "%")
}

fn hash(of: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The output of a command that is run to its end.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = children::output(command).with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let mut last: Vec<&str> = said.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
        last.reverse();
        bail!("{program}: {}: {}", output.status, last.join("; "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
