//! Real mail servers side by side, each shut off in namespaces of its own, and what they make of the same bytes.

pub mod case;
pub mod compare;
pub mod examine;
pub mod observation;
pub mod report;
pub mod shrink;
