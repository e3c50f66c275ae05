//! Ports that are no virtqueue: the kernel as the other side, and links that are worse than they need to be.

pub(crate) mod netem;
pub(crate) mod tap;
