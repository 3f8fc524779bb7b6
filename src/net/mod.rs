//! The network: the peer's connection, TLS on it and a proxy's header in front of it; connections to servers; name
//! look-ups; and listening sockets.

pub mod client;
pub(crate) mod conn;
pub(crate) mod dialogue;
pub(crate) mod dns;
mod dns_message;
pub mod listener;
pub(crate) mod patience;
pub mod proxy;
pub(crate) mod ticket;
pub mod tls;
mod unix_socket;
