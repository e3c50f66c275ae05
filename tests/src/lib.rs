//! The peers we are tested and measured against.
