//! Two servers in a row: a relay in front of a receiver.

use std::net::SocketAddr;

use anyhow::Result;

use super::account::USERS;
use super::server::Server;
use crate::drive;
use crate::observation::Message;
use crate::recipe::Role;
use crate::session::{Filling, Hello};

/// A relay that passes mail on to a receiver. When this is dropped, the relay passes mail on to the next hop again.
#[derive(Debug)]
pub struct InChain<'s> {
    name: String,
    relay: &'s mut Server,
    receiver: &'s mut Server,
}

impl<'s> InChain<'s> {
    pub(super) fn new(relay: &'s mut Server, receiver: &'s mut Server) -> Result<Self> {
        relay.pass_on_to(Some(receiver.address().port()))?;
        let name = format!("{} before {}", relay.recipe().name, receiver.recipe().name);
        Ok(Self { name, relay, receiver })
    }
}

impl Drop for InChain<'_> {
    fn drop(&mut self) {
        // If it does not come back, its next use reports that.
        let _ = self.relay.pass_on_to(None);
    }
}

impl drive::Server for InChain<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> SocketAddr {
        self.relay.address()
    }

    fn hello(&self) -> Hello {
        self.relay.recipe().hello
    }

    fn login(&self) -> Option<String> {
        self.relay.recipe().login()
    }

    fn filling(&self, token: &str) -> Filling {
        let [destination, second_destination] = USERS.map(|user| format!("{user}@{}", self.receiver.domain()));
        Filling {
            token: token.to_owned(),
            source: super::server::SOURCE.to_owned(),
            destination,
            second_destination,
            domain: self.relay.domain().to_owned(),
        }
    }

    fn take_messages(&mut self) -> Result<Vec<Message>> {
        self.relay.in_role(Role::Relay).take_messages()?;
        self.receiver.take_delivered()
    }

    fn take_log(&mut self) -> Vec<String> {
        let mut log = self.relay.take_log();
        log.extend(self.receiver.take_log());
        log
    }

    /// The relay is checked first: what it has passed on is at the receiver by then.
    fn is_drained(&mut self) -> Result<bool> {
        Ok(self.relay.is_drained()? && self.receiver.is_drained()?)
    }

    fn ended(&mut self) -> Option<String> {
        self.relay.ended().or_else(|| self.receiver.ended())
    }

    fn restart(&mut self) -> Result<()> {
        if self.receiver.ended().is_some() {
            self.receiver.restart()?;
        }
        self.relay.restart()
    }
}
