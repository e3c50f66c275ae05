//! The control virtqueue: what a driver asks of a network device while it runs. virtio 1.2 §5.1.6.5.
//!
//! ```text
//!   Port::configure ─► queue (driver): encode, post, wait ─► control virtqueue ─► serve (device): decode, Settings
//! ```
//!
//! Everything here is cold: commands are rare, each waits for its answer, and both sides may allocate.

#[deny(unsafe_code)]
mod command;
pub(crate) mod queue;
pub(crate) mod serve;

pub use command::{Command, CommandError, Mac, ReceiveMode};

use thiserror::Error;

use crate::port::QueueFault;

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody to ask: the port is not of a kind that has such settings, or its device has no control queue.
    #[error("this port cannot {0}; it has no control queue (for a virtio device: ctrl_vq=on)")]
    NoControlQueue(&'static str),
    /// The device did not offer what the command needs.
    #[error("the device cannot {what}: it does not offer {}", crate::virtio::spec::feature::names(*needs))]
    NotOffered {
        /// What was asked for.
        what: &'static str,
        /// The feature bits that it takes.
        needs: u64,
    },
    /// More queue pairs than were set up, or none.
    #[error("{pairs} queue pairs cannot be in use; {have} are set up")]
    QueuePairs {
        /// What was asked for.
        pairs: u16,
        /// How many there are.
        have: u16,
    },
    /// The device answered with an error. virtio 1.2 §5.1.6.5 `VIRTIO_NET_ERR`.
    #[error("the device refused to {0}")]
    Refused(&'static str),
    /// The command cannot be put into a message.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The device did not answer in time. What it does with the buffers is not known, so the queue is not used again.
    #[error("the device did not {what} within {limit_ms} ms; its control queue is not used any more")]
    Timeout {
        /// What was asked for.
        what: &'static str,
        /// How long we waited.
        limit_ms: u64,
    },
    /// The device broke the rules of the queue.
    #[error("the device's control queue stopped")]
    Fault(#[from] QueueFault),
}
