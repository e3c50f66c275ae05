//! The `bywash` command.
fn main() {}
