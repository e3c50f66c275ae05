//! Captured frames: files of them, and the ring in which they travel between a core and the thread that reads or writes
//! such a file.
//!
//! ```text
//!   file ─► Reader (pcap, pcapng) ─► frame_ring ─► core          the pcap: port receives
//!   core ─► frame_ring ─► Writer (pcapng) ─► file, socket        the pcap: port sends; a capture of a running engine
//! ```

mod pipe;
mod read;
mod ring;
mod write;

pub use pipe::Pipe;
pub use read::{Frame, ReadError, Reader, Statistics};
pub use ring::{FrameConsumer, FrameProducer, RECORD_BYTES, Stamped, frame_ring};
pub use write::{Direction, Writer};

/// Link type of Ethernet frames. Source: the registry of link types at tcpdump.org.
pub const ETHERNET: i32 = 1;
