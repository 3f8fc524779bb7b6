//! Debian booted by a real systemd, in a container of its own with a network of its own (systemd-nspawn(1)). Needs root.

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Daemon, Folder, debian, output, succeeds, wait_until};

/// The machine; dropped, its power is cut.
pub struct Machine {
    folder: Folder,
    nspawn: Daemon,
    /// Its process 1, by the number that it has here.
    init: Pid,
}

impl Machine {
    /// Boots a fresh one, once `prepare` has put into its files what it needs.
    pub fn boot(prepare: impl FnOnce(&Path)) -> Self {
        let folder = Folder::new();
        let (root, launcher) = (folder.path("root"), folder.write("launch", LAUNCHER));
        // What it changes is kept beside the files that all have in common.
        let layers = ["upper", "work"].map(|name| folder.path(name));
        layers.iter().chain([&root]).for_each(|layer| fs::create_dir(layer).expect("a folder of a machine"));
        let common = debian::unpacked("machine");
        assert!(common.is_dir(), "{} is missing: run tests/run, which makes it", common.display());
        let [upper, work] = layers.map(|layer| layer.display().to_string());
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", common.display());
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "-o", &options, "overlay"]).arg(&root);
        succeeds(mount, "");
        prepare(&root);
        let mut nspawn = Command::new("sh");
        nspawn.arg(launcher).arg(debian::program("systemd-container", "systemd-nspawn")).arg(&root);
        let mut nspawn = Daemon::start(nspawn, folder.path("console"));
        let launcher = nspawn.pid();
        let init = nspawn.until("process 1 of a machine", |_| process_1(launcher));
        let machine = Self { folder, nspawn, init };
        wait_until("the end of a boot", || machine.is_up().then_some(()));
        machine
    }

    /// Its files.
    pub fn root(&self) -> PathBuf {
        self.folder.path("root")
    }

    /// What it has said on its console.
    pub fn console(&self) -> String {
        self.nspawn.output()
    }

    /// A program that runs in it, as root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", program]);
        command
    }

    /// Runs a program in it that has to succeed; what it prints.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        succeeds(command, "")
    }

    /// Runs a program in it; what it prints, and whether it succeeds.
    #[track_caller]
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> (String, bool) {
        let mut command = self.command(program);
        command.args(arguments);
        let output = output(command);
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    /// systemctl(1), which has to succeed.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        self.run("systemctl", &[&["--no-pager"], arguments].concat())
    }

    /// A property of a unit, as `MainPID`.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit]).trim_end().to_owned()
    }

    /// What the journal has, with these options of journalctl(1).
    #[track_caller]
    pub fn journal(&self, options: &[&str]) -> String {
        // What is on its way to the journal's files, which are what is read.
        self.run("journalctl", &["--sync"]);
        self.run("journalctl", &[&["--no-pager"], options].concat())
    }

    /// Does something in its network, where its loopback addresses are: connections made there stay there.
    #[track_caller]
    pub fn in_its_network<T: Send>(&self, deed: impl FnOnce() -> T + Send) -> T {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.init)).expect("the network of a machine");
        // The network is the thread's, which must not go on in it as another one.
        let inside = || {
            setns(&network, CloneFlags::CLONE_NEWNET).expect("entering the network of a machine");
            deed()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn is_up(&self) -> bool {
        let (state, _) = self.try_run("systemctl", &["is-system-running"]);
        ["running", "degraded"].contains(&state.trim_end())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Everything in it ends with its process 1.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = wait_until("the end of a machine", || self.nspawn.ended());
        let _ = output(self.folder.command("umount", &["--lazy", "root"]));
        for hierarchy in HIERARCHIES {
            remove_groups(&Path::new(hierarchy).join(format!("test-{}", self.nspawn.pid())));
        }
    }
}

/// The process below this one that is the first of its namespace.
fn process_1(pid: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let child = Pid::from_raw(child.parse().ok()?);
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        if numbers.ends_with("\t1") { Some(child) } else { process_1(child) }
    })
}

/// Control groups are folders that hold nothing but folders.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Where control groups are, in either layout.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Starts it in control groups of its own: its systemd takes those that it is in for all there are. nspawn itself forbids
/// Landlock unless it is told not to.
const LAUNCHER: &str = r#"
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    if [ -e $hierarchy/cgroup.procs ]; then
        mkdir $hierarchy/test-$$
        echo $$ >$hierarchy/test-$$/cgroup.procs
    fi
done
nspawn=$1 root=$2
exec "$nspawn" --quiet --register=no --keep-unit --private-network --directory="$root" --boot \
    --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self"
"#;
