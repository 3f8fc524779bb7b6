//! The network: the peer's connection, what a proxy says in front of it, looking names up, and where `listen` listens.

pub mod conn;
pub(crate) mod dns;
mod dns_message;
pub mod listener;
pub mod proxy;
mod unix_socket;
