//! What `listen` itself needs from the configuration: where to log, and which peers an administrator expects. Sessions
//! read the configuration themselves.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::sessions::Standing;
use crate::cli::Options;
use crate::config::{self, Config, Diagnostic, Flags, LogTarget, Protocol, Trace, Unusable, Version, Versions};
use crate::log::{Event, Log};

/// The configuration, as it was when its files were last looked at.
pub(super) struct Configuration<'a> {
    options: &'a Options,
    /// Which version of the file was read; `None` if it could not be looked at.
    version: Option<Version>,
    /// The versions of the files that it includes.
    included: Versions,
    loaded: Result<Box<Config>, Unusable>,
    /// When the files were last read.
    looked: Instant,
    /// A log that never waits: while `listen` waits, nobody is served.
    log: Log,
}

impl<'a> Configuration<'a> {
    pub(super) fn load(options: &'a Options) -> Self {
        // The version is looked at first, so that a change during reading is noticed later.
        let version = Version::at(&options.config);
        Self::of(options, version, options.load())
    }

    fn of(options: &'a Options, version: Option<Version>, loaded: Result<Box<Config>, Unusable>) -> Self {
        let included = match &loaded {
            Ok(config) => config.included_versions(),
            Err(unusable) => unusable.included.clone(),
        };
        let log = open_log(options, &loaded);
        Self { options, version, included, loaded, looked: Instant::now(), log }
    }

    /// Reads the configuration again if it has changed, or if an error may have passed; but not if that would take
    /// time. Then the last version stays in use. Returns whether it is up to date.
    pub(super) fn refresh(&mut self) -> bool {
        let path = &self.options.config;
        let version = Version::at(path);
        let is_worth_a_try = self.loaded.is_err() && self.looked.elapsed() >= PAUSE;
        if !is_worth_a_try && version == self.version && self.included.are_current() {
            return true;
        }
        let loaded = if config::would_wait(path) { None } else { self.options.load_settled() };
        let Some(loaded) = loaded else { return false };
        *self = Self::of(self.options, version, loaded);
        true
    }

    /// Waits a moment for the end of an edit: somebody who sends a signal after an edit wants to hear about the edited
    /// files.
    pub(super) fn wait_for_quiet(&mut self) {
        let until = Instant::now() + MOMENT;
        while !self.refresh() && Instant::now() < until {
            std::thread::sleep(MOMENT / 20);
        }
    }

    /// The log, at the place where it is wanted now.
    pub(super) fn log(&mut self) -> &Log {
        self.refresh();
        &self.log
    }

    /// The user that sessions become, if `listen` runs as root and so can let them.
    pub(super) fn user(&self) -> Option<&str> {
        let user = self.loaded.as_ref().map_or_else(|unusable| &unusable.user, |config| &config.user);
        user.as_deref().filter(|_| nix::unistd::geteuid().is_root())
    }

    /// All errors in it.
    pub(super) fn errors(&self) -> &[Diagnostic] {
        self.loaded.as_ref().err().map_or(&[], |unusable| &unusable.errors)
    }

    /// Writes the errors to the log.
    pub(super) fn log_errors(&mut self) {
        self.refresh();
        for error in self.errors() {
            self.log.event_about(super::LISTEN, &Event::ConfigurationError(error, &self.options.config));
        }
    }

    /// The status line for systemd.
    pub(super) fn status(&self) -> String {
        match self.errors().len() {
            0 => "Accepting connections".to_owned(),
            count => format!("No mail is taken, errors in {}: {count}", self.options.config.display()),
        }
    }

    /// The protocol of sessions, as far as it is known.
    pub(super) fn protocol(&self) -> Protocol {
        let configured = self.loaded.as_ref().map_or(Protocol::Smtp, |config| config.protocol);
        self.options.protocol.unwrap_or(configured)
    }

    /// What the current configuration says of a peer at this address.
    pub(super) fn standing(&mut self, peer: IpAddr) -> Standing {
        self.refresh();
        match &self.loaded {
            Ok(config) if config.rules.is_proxy(peer, &mut Trace::default()).unwrap_or(false) => Standing::Proxy,
            Ok(config) if config.rules.expects(peer) => Standing::Expected,
            _ => Standing::Stranger,
        }
    }
}

fn open_log(options: &Options, loaded: &Result<Box<Config>, Unusable>) -> Log {
    let (target, user) = match loaded {
        Ok(config) => (&config.log, &config.user),
        Err(unusable) => (&unusable.log, &unusable.user),
    };
    let target = match options.log.as_ref().unwrap_or(target) {
        // A log file that root makes could not be written by the sessions, which become that user.
        LogTarget::File(_) if user.is_some() && nix::unistd::geteuid().is_root() => LogTarget::Syslog,
        target => target.clone(),
    };
    Log::new(target, Flags::default(), true, super::LISTEN.to_owned()).without_waiting()
}

/// How long a configuration with errors stays in use before it is read again without having changed.
const PAUSE: Duration = Duration::from_secs(1);

/// How long to wait for the end of an edit.
const MOMENT: Duration = Duration::from_millis(200);
