//! Real mail servers side by side, each shut off in namespaces of its own, and what they make of the same bytes.

pub mod case;
mod connection;
pub mod device_log;
pub mod drive;
pub mod hop;
pub mod names;
pub mod observation;
pub mod oracle;
pub mod payload;
pub mod session;
