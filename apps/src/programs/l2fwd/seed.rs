//! The frames that `--tx-first` begins with.

use pmd::Mbuf;

/// Frames in a burst: testpmd's default.
pub const FRAMES: usize = 32;
/// Bytes of a frame without FCS: testpmd's default.
const FRAME_BYTES: usize = 64;
/// "Local Experimental EtherType 1": no stack takes it for its own. Source: IEEE 802 §9.2.3.
const ETHER_TYPE: [u8; 2] = 0x88b5_u16.to_be_bytes();

/// A frame of zeros without addresses, or `None` if it does not fit into the mbuf.
pub fn fill(mut frame: Mbuf) -> Option<Mbuf> {
    let bytes = frame.append(FRAME_BYTES).ok()?;
    bytes.fill(0);
    bytes[12..14].copy_from_slice(&ETHER_TYPE);
    Some(frame)
}
