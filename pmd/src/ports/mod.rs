//! Ports that are no virtqueue: the kernel as the other side, files, nothing, links that are worse than they need to
//! be, and ports that outlive their device.

pub(crate) mod lasting;
pub(crate) mod netem;
pub(crate) mod null;
pub(crate) mod pcap;
pub(crate) mod tap;
pub(crate) mod xdp;
