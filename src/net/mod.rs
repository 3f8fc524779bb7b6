//! The network: the peer's connection, looking names up, and where `listen` listens.

pub mod conn;
pub(crate) mod dns;
mod dns_message;
pub mod listener;
mod unix_socket;
