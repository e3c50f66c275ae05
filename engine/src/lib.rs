//! The loop per core.
