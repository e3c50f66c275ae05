//! Ports that are no virtqueue: the kernel as the other side, files, nothing, and links that are worse than they need
//! to be.

pub(crate) mod netem;
pub(crate) mod null;
pub(crate) mod pcap;
pub(crate) mod tap;
