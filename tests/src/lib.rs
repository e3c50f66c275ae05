//! The peers we are tested and measured against.

pub mod require;
