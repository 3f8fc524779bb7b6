//! Real mail servers side by side, each isolated in its own namespaces, and what they do with the same octets.

pub mod case;
mod children;
pub mod cli;
pub mod compare;
mod connection;
pub mod device_log;
pub mod drive;
pub mod examine;
pub mod generate;
pub mod ground;
pub mod hop;
mod interruption;
pub mod names;
pub mod observation;
pub mod oracle;
pub mod packages;
pub mod payload;
pub mod recipe;
pub mod recipes;
pub mod report;
mod run;
mod send;
mod servers;
pub mod session;
pub mod shrink;
mod terminal;
mod up;

pub use cli::main;
