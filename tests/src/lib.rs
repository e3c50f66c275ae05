//! The peers we are tested and measured against.
//!
//! | module | one sentence |
//! |---|---|
//! | [`process`] | a child process: output captured, every wait bounded, killed on drop |
//! | [`require`] | the skip rule: a suite that cannot run says so, or fails where it is required |

#[allow(unsafe_code)] // fork and signals
pub mod process;
pub mod require;
