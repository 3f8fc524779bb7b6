//! The files that passing mail on needs, opened before the session enters its sandbox.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{Config, Hop, HopAddress, secret};
use crate::net::client::ClientFiles;
use crate::unread::Unread;

/// The files of the servers that rules pass mail on to.
#[derive(Debug, Default)]
pub(crate) struct RelayFiles {
    /// The files for connections, one entry for each file of authorities that a URL names, and one for URLs that name
    /// none.
    files: Vec<(Option<PathBuf>, ClientFiles)>,
    password: Option<Unread>,
}

impl RelayFiles {
    /// Opens them. A file that cannot be opened is an error only when it is needed.
    pub(crate) fn open(config: &Config) -> Self {
        let mut opened = Self::default();
        for hop in config.hops() {
            let is_at_port = matches!(hop.address, HopAddress::Tcp(_));
            if is_at_port && opened.files.iter().all(|(ca_file, _)| *ca_file != hop.ca_file) {
                let ca_file = hop.ca_file.as_deref().or(config.ca_file.as_deref());
                opened.files.push((hop.ca_file.clone(), ClientFiles::open(ca_file)));
            }
        }
        if config.hops().iter().any(|hop| config.user_at(hop).is_some() && hop.password.is_none()) {
            opened.password = config.relay_password_file.as_deref().map(Unread::open);
        }
        opened
    }

    /// The files for a connection to this server.
    pub(super) fn of(&self, hop: &Hop) -> anyhow::Result<&ClientFiles> {
        let found = self.files.iter().find(|(ca_file, _)| *ca_file == hop.ca_file);
        found.map(|(_, files)| files).context("no file was opened for this server when the session began")
    }

    /// The password for a server whose URL has a user but no password.
    pub(super) fn password(&self, config: &Config) -> anyhow::Result<String> {
        match (&self.password, &config.relay_password) {
            (Some(file), _) => file.parsed(secret),
            (None, Some(password)) => Ok(password.reveal().to_owned()),
            (None, None) => anyhow::bail!("there is no password for this server"),
        }
    }
}
