//! What a port does not do with frames, done here: segments made of a frame that stands for several, and one frame of
//! segments.
//!
//! ```text
//!   the loop ─► Segmenting ─► Cut (gso) ─► the port          only where the port may not segment
//!   the loop ◄─ Joining ◄─── join (gro) ◄─ the port          only where it was asked for, and the port does not join
//! ```
//!
//! Checksums are completed a storey below, by the ports, as that takes no knowledge of IP.

mod gro;
mod gso;
pub(crate) mod headers;
pub(crate) mod joining;
pub(crate) mod segmenting;
#[cfg(test)]
mod test_frames;
