//! `bywash l2fwd`: forwards frames between pairs of ports.

mod rewrite;

pub use rewrite::{Addresses, ForwardMode, paired_with, set_addresses, swap_addresses};
