//! The network: the peer's connection and TLS on it, what a proxy says in front of it, connections to servers, looking names
//! up, and where `listen` listens.

pub mod client;
pub mod conn;
pub(crate) mod dialogue;
pub(crate) mod dns;
mod dns_message;
pub mod listener;
pub(crate) mod patience;
pub mod proxy;
pub(crate) mod ticket;
pub mod tls;
mod unix_socket;
