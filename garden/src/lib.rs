//! Real mail servers side by side, each shut off in namespaces of its own, and what they make of the same bytes.

pub mod case;
pub mod generate;
pub mod observation;
pub mod oracle;
pub mod payload;
