//! The network: the peer's connection, and looking names up.

pub mod conn;
pub(crate) mod dns;
mod dns_message;
