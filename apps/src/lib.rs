//! The programs of the `bywash` command as a library, so that tests and benchmarks run the very same code.

pub mod doctor;
pub mod output;
pub mod programs;
