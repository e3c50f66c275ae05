//! Fetching memory before it is needed.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Asks for `lines` cache lines from `address` on. Only a hint: any address may be given.
#[inline(always)]
pub(crate) fn prefetch(address: usize, lines: usize) {
    for line in 0..lines {
        // SAFETY: A prefetch reads nothing that the program can observe and does not fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address.wrapping_add(line * 64))) };
    }
}

/// Lines of a frame that are asked for: headers, and the data of a small segment.
const FRAME_LINES: usize = 3;

/// Asks for the front of a received frame, and for the right to write there: an answer is written into the memory that
/// was freed last, which is this as a rule. With the right to read alone the other side's core would have to be asked
/// again, and the answer's sums, which read what was just written, would wait for it.
#[inline(always)]
pub(crate) fn prefetch_frame(frame: &[u8]) {
    let address = frame.as_ptr() as usize;
    let lines = (address % 64 + frame.len()).div_ceil(64).min(FRAME_LINES);
    for line in 0..lines {
        let address = address.wrapping_add(line * 64);
        // Not `_mm_prefetch`: for a target that may lack this kind the compiler makes one for reading of it.
        // SAFETY: A hint, whatever the address, and no operation on a processor that lacks this kind.
        unsafe {
            asm!("prefetchw byte ptr [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
        }
    }
}
