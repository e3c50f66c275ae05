//! Fetching memory before it is needed.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Asks for `lines` cache lines from `address` on. Only a hint: any address may be given.
#[inline(always)]
pub(crate) fn prefetch(address: usize, lines: usize) {
    for line in 0..lines {
        // SAFETY: A prefetch reads nothing that the program can observe and does not fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address.wrapping_add(line * 64))) };
    }
}
