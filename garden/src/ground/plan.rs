//! What the first process of a server is told, and what it says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What it is to make and to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The name of the host.
    pub(super) domain: String,
    /// The folder with unpacked Debian packages, on the host.
    pub(super) packages: Option<PathBuf>,
    /// What of the host is seen at which path, read-only.
    pub(super) programs: Vec<(PathBuf, PathBuf)>,
    /// Folders, in this order.
    pub(super) folders: Vec<Made>,
    /// Files with their texts, in this order.
    pub(super) files: Vec<(Made, String)>,
    /// The environment of everything that is run.
    pub(super) environment: BTreeMap<String, String>,
    /// What is run to its end, in this order.
    pub(super) setup: Vec<Vec<String>>,
    /// What is run beside the server.
    pub(super) beside: Vec<Vec<String>>,
    /// The server.
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

/// What the first process says, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// The root folder is made. It waits for a line, so that `/dev/log` can be opened before anything is run.
    Rooted,
    /// The server is started.
    Started,
    /// Something went wrong; it is the last word.
    Failed(String),
    /// The server ended, in this way.
    Ended(String),
}

/// What everything that is run prints, in the server's root folder.
pub(super) const OUTPUT: &str = "/output";
