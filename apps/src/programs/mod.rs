//! What runs on the loop: one program a file or folder, and the flags that make one.

pub mod generator;
pub mod units;
