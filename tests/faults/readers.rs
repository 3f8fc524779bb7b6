//! Other programs' view of the mailboxes: Python's `mailbox`, which locks as mail readers do, and `formail`, which has
//! a mind of its own about what begins a message.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use testkit::{debian, output, wait_until};

use crate::support::Scratch;

/// The messages of an mbox as Python's `mailbox` sees them, under its lock: `From ` line and text, without the empty
/// line that separates it from the next.
pub fn python_mbox(scratch: &Scratch, mbox: &Path) -> Vec<Vec<u8>> {
    let mut command = scratch.command(debian::program("python3", "python3"), &["-c", PYTHON_MBOX]);
    command.arg(mbox);
    let output = output(command);
    assert!(output.status.success(), "python3: {}", String::from_utf8_lossy(&output.stderr));
    let mut rest = &output.stdout[..];
    let mut messages = Vec::new();
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        let length: usize = std::str::from_utf8(&rest[..at]).unwrap().parse().unwrap();
        let (message, behind) = rest[at + 1..].split_at(length);
        messages.push(message.to_vec());
        rest = behind;
    }
    messages
}

/// The same with `formail -s`.
pub fn formail(scratch: &Scratch, mbox: &Path) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir_in(scratch.path(".")).expect("a temporary folder");
    let mut command =
        scratch.command(debian::program("procmail", "formail"), &["-s", "sh", "-c", "cat >\"$0/$FILENO\""]);
    command.arg(folder.path()).stdin(File::open(mbox).expect("the mbox"));
    let output = output(command);
    assert!(output.status.success(), "formail: {}", String::from_utf8_lossy(&output.stderr));
    let numbered = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap(), path);
    let mut files: Vec<_> = files_in(folder.path()).into_iter().map(numbered).collect();
    files.sort();
    let read = |(_, path)| {
        let mut message = fs::read(path).expect("what formail wrote");
        assert_eq!(message.pop(), Some(b'\n'), "a message is followed by an empty line");
        message
    };
    files.into_iter().map(read).collect()
}

/// Python's `mailbox` keeps asking for the lock; here nobody else wants it for long.
const PYTHON_MBOX: &str = r"
import mailbox, sys, time
box = mailbox.mbox(sys.argv[1], create=False)
for attempt in range(1000):
    try:
        box.lock()
        break
    except mailbox.ExternalClashError:
        time.sleep(0.01)
else:
    sys.exit('the lock is not to be had')
for key in box.keys():
    message = box.get_bytes(key, from_=True)
    sys.stdout.buffer.write(b'%d\n' % len(message) + message)
box.unlock()
";

/// The messages of a maildir that its readers would see.
pub fn maildir(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = ["new", "cur"].iter().flat_map(|folder| files_in(&directory.join(folder)));
    paths.map(|path| (path.clone(), fs::read(&path).expect("a message"))).collect()
}

/// The files in a folder; none if there is no folder.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map_or_else(|_| Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
}

/// Waits until no process has its current folder here or below any more: commands outlive a receiver that was killed.
pub fn wait_for_processes(scratch: &Scratch) {
    let folder = scratch.path(".").canonicalize().expect("the folder");
    wait_until("the end of all commands", || {
        let mut processes = fs::read_dir("/proc").expect("/proc").flatten();
        let found = processes
            .any(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder)));
        (!found).then_some(())
    });
}
