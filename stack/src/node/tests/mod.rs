//! Two stacks, joined by a wire in memory, on a clock of their own.

mod basics;
mod forgotten;
mod harness;
mod hostile;
mod losses;
mod network;
mod offloads;
