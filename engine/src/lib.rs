//! The loop per core: run-to-completion programs over ports, and all that starts, feeds and reads them.
//!
//! ```text
//!   Engine (builder) ──start──► Running ──snapshot──► Snapshot
//!                                  │
//!                   one thread a core: Lcore ──► rx_burst ─► Program ─► tx_burst
//! ```
//!
//! The loop is `lcore.rs`; what runs on it implements [`Program`] and knows frames. One program is a TCP/IP host:
//! [`StackNode`].

// Tests make bytes out of counters all the time.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod capture;
pub mod config;
pub mod control;
pub mod idle;
pub mod latency;
mod launch;
mod lcore;
mod news;
mod offload;
mod phy;
mod program;
mod queue;
mod stack_node;
pub mod stats;
#[allow(unsafe_code)]
pub mod tsc;

pub use idle::Idle;
pub use launch::{Engine, PortIndex, PortNews, PortRef, Running, StartError, StopError};
pub use pmd::port::{Burst, Hub, MAX_BURST, PortEvent};
pub use program::{Cx, Program, ProgramError};
pub use queue::priority::{DscpSet, Priority};
pub use queue::steer::OwnerOf;
pub use stack::steer::Owner;
pub use stack_node::{StackNode, StackNodeError, StackSettings};
