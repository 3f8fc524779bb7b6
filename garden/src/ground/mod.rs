//! The ground that servers stand on: a network that has nothing but itself, and for each server a root folder, processes
//! and a host name of its own.
//!
//! Nothing of this is on the host. The files of a server are in memory, in a mount that only its own processes are in; when
//! the first of these processes ends, the kernel ends the others, and mount and network go with the last of them. The first
//! process ends when we do, however we end, because it reads from a pipe that only we hold.

mod account;
mod chain;
pub mod first_process;
mod garden;
mod network;
mod plan;
mod root;
mod server;

pub use chain::InChain;
pub use garden::Garden;
pub use network::is_allowed;
pub use server::{InRole, Server};
