//! What `listen` itself wants to know of the configuration: where to log, and which peers an administrator expects.
//! Sessions read it for themselves.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::sessions::Standing;
use crate::cli::Options;
use crate::config::{self, Config, Diagnostic, Flags, LogTarget, Protocol, Trace, Unusable, Version, Versions};
use crate::log::{Event, Log};

/// The configuration, as of when it was looked at last.
pub(super) struct Configuration<'a> {
    options: &'a Options,
    /// What was read; `None` if nothing could be.
    version: Option<Version>,
    /// The files that it includes.
    included: Versions,
    loaded: Result<Box<Config>, Unusable>,
    /// When that was.
    looked: Instant,
    /// One that never waits: while we do, nobody is served.
    log: Log,
}

impl<'a> Configuration<'a> {
    pub(super) fn load(options: &'a Options) -> Self {
        // Looked at first: a change while it is read is one since.
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

    /// Reads it again if it has changed, or could not be read for a reason that may have passed; but never when that would
    /// take time. What could be read last counts until then. Returns whether it is as it is now.
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

    /// Waits a moment for the end of an edit: what somebody asks for behind it is about the files as they are then.
    pub(super) fn wait_for_quiet(&mut self) {
        let until = Instant::now() + MOMENT;
        while !self.refresh() && Instant::now() < until {
            std::thread::sleep(MOMENT / 20);
        }
    }

    /// The log, where it is wanted now.
    pub(super) fn log(&mut self) -> &Log {
        self.refresh();
        &self.log
    }

    /// Whom sessions become, if we can make them that.
    pub(super) fn user(&self) -> Option<&str> {
        let user = self.loaded.as_ref().map_or_else(|unusable| &unusable.user, |config| &config.user);
        user.as_deref().filter(|_| nix::unistd::geteuid().is_root())
    }

    /// Every reason why it cannot be used.
    pub(super) fn errors(&self) -> &[Diagnostic] {
        self.loaded.as_ref().err().map_or(&[], |unusable| &unusable.errors)
    }

    /// Tells the log of the errors.
    pub(super) fn log_errors(&mut self) {
        self.refresh();
        for error in self.errors() {
            self.log.event_about(super::LISTEN, &Event::ConfigurationError(error, &self.options.config));
        }
    }

    /// What there is to know for who asks how we are.
    pub(super) fn status(&self) -> String {
        match self.errors().len() {
            0 => "Accepting connections".to_owned(),
            count => format!("No mail is taken, errors in {}: {count}", self.options.config.display()),
        }
    }

    /// What sessions would speak, as far as is known.
    pub(super) fn protocol(&self) -> Protocol {
        let configured = self.loaded.as_ref().map_or(Protocol::Smtp, |config| config.protocol);
        self.options.protocol.unwrap_or(configured)
    }

    /// What the file, as it is now, makes of a peer at this address.
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

/// Between two looks at a configuration that cannot be used and has not changed.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an edit is waited for.
const MOMENT: Duration = Duration::from_millis(200);
