//! What sessions need to report messages (`--json`): our standard output, and a file to lock while they write to it.
//!
//! Both are inherited by every session, and by no other process that we start.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::configuration::Configuration;
use crate::deliver::{eml, report};
use crate::log::Outlet;
use crate::user;
use crate::wait::is_ready;

/// The descriptors and the folder that sessions get.
pub(super) struct Reports {
    output: OwnedFd,
    turn: OwnedFd,
    attachments: Option<PathBuf>,
}

impl Reports {
    /// Fails if sessions could not report anything, or could not make files in the folder for attachments.
    pub(super) fn new(attachments: Option<&Path>, configuration: &mut Configuration<'_>) -> anyhow::Result<Self> {
        let output = io::stdout().as_fd().try_clone_to_owned().context("standard output")?;
        Outlet::inherited(output.as_raw_fd()).context("standard output cannot be passed to sessions, for --json")?;
        let turn = memfd_create(c"mailrecv-report", MFdFlags::empty()).context("a lock for --json")?;
        for inherited in [output.as_fd(), turn.as_fd()] {
            fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty())).context("a descriptor for --json")?;
        }
        let attachments = attachments.map(std::path::absolute).transpose().context("the folder of --attachments")?;
        if let Some(folder) = &attachments {
            try_as_sessions(folder, configuration).with_context(|| format!("--attachments {}", folder.display()))?;
        }
        Ok(Self { output, turn, attachments })
    }

    /// Standard output. poll(2) reports that nobody reads it any more without being asked for any event.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Whether somebody may still read standard output.
    pub(super) fn are_read(&self) -> bool {
        let mut output = [PollFd::new(self.output(), PollFlags::empty())];
        poll(&mut output, PollTimeout::ZERO).is_ok() && !is_ready(&output[0])
    }

    /// Passes them to a session, or makes sure that it gets none.
    pub(super) fn pass(reports: Option<&Self>, command: &mut Command) {
        match reports {
            Some(Self { output, turn, attachments }) => {
                command.env(report::INHERITED, format!("{} {}", output.as_raw_fd(), turn.as_raw_fd()));
                match attachments {
                    Some(folder) => command.env(report::ATTACHMENTS, folder),
                    None => command.env_remove(report::ATTACHMENTS),
                };
            }
            None => _ = command.env_remove(report::INHERITED),
        }
    }
}

/// Makes the folder if it is missing, and checks, as the user that sessions become, that files can be made in it.
fn try_as_sessions(folder: &Path, configuration: &mut Configuration<'_>) -> anyhow::Result<()> {
    let user = configuration.user().map(str::to_owned);
    let log = configuration.log();
    match user {
        Some(user) => user::as_user(&user, || eml::try_folder(log, folder))?
            .with_context(|| format!("user `{user}`, whom sessions become, cannot make files there")),
        None => eml::try_folder(log, folder).context("no files can be made there"),
    }
}
