//! What servers run in: a network that is not connected to anything, and for each server its own root folder, processes
//! and host name.
//!
//! None of this is visible on the host. The files of a server are in memory, in a mount that only its own processes
//! see. When the first of these processes ends, the kernel ends the others, and mount and network disappear with the
//! last of them. The first process ends when we do, in whatever way, because it reads from a pipe that only we hold.

mod account;
mod chain;
pub mod first_process;
mod garden;
mod network;
mod plan;
mod root;
mod running;
mod server;

pub use chain::InChain;
pub use garden::Garden;
pub use network::is_allowed;
pub use server::{InRole, Server};
