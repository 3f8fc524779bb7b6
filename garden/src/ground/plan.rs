//! What the first process of a server is told, and what it reports.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What it has to make and run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The name of the host.
    pub(super) domain: String,
    /// The folder with unpacked Debian packages, on the host.
    pub(super) packages: Option<PathBuf>,
    /// Files and folders of the host, and the paths under which the server sees them, read-only.
    pub(super) programs: Vec<(PathBuf, PathBuf)>,
    /// The folders to make, in this order.
    pub(super) folders: Vec<Made>,
    /// The files to make, with their texts, in this order.
    pub(super) files: Vec<(Made, String)>,
    /// The environment of all commands.
    pub(super) environment: BTreeMap<String, String>,
    /// Commands that are run to their end, in this order.
    pub(super) setup: Vec<Vec<String>>,
    /// Commands that are run beside the server.
    pub(super) beside: Vec<Vec<String>>,
    /// The command of the server.
    pub(super) run: Vec<String>,
}

/// A file or folder, as the server sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// A report of the first process, one line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// The root folder is made. The process waits for a line, so that `/dev/log` can be opened before any command is
    /// run.
    Rooted,
    /// The server is started.
    Started,
    /// Something went wrong; nothing else is reported.
    Failed(String),
    /// The server ended in this way.
    Ended(String),
    /// A command beside the server ended in another way than with exit status 0: which, and how.
    EndedBeside(String),
}

/// The file in the server's root folder with the output of all commands.
pub(super) const OUTPUT: &str = "/output";
