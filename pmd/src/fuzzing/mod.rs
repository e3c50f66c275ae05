//! What the fuzz targets (`pmd/fuzz/`) drive: our sides of a virtqueue, with bytes that decide what the other side does.
//!
//! Nothing may panic, spin or leave the memory that is shared, whatever the bytes; AddressSanitizer watches.

mod device;
mod driver;
mod input;

pub use device::device;
pub use driver::driver;

use std::sync::Arc;

use crate::mem::{HomePool, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, QueuePair};
use input::Input;

/// The most things that happen in one run.
const MOST_STEPS: usize = 128;

/// Descriptors of each queue, the largest.
const SIZE: u16 = 16;

fn region(len_bytes: usize) -> Arc<Region> {
    let config = RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None };
    Region::new(config).expect("ordinary memory")
}

/// Small rooms, so that frames span several.
const POOL: PoolConfig = PoolConfig { mbufs: 64, headroom_bytes: 128, data_room_bytes: 256 };

fn pool(region: &Arc<Region>) -> HomePool {
    Pool::new(region, POOL).and_then(|pool| pool.adopt()).expect("room for the pool")
}

/// Writes bytes of the input anywhere in shared memory.
fn scribble(region: &Region, input: &mut Input<'_>) {
    let (at, bytes) = (input.u32() as usize % region.len_bytes(), input.bytes());
    let len = bytes.len().min(region.len_bytes() - at);
    // SAFETY: within the region; memory that a device may write is never borrowed (the DMA contract), which is what is
    // tried out here.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.base().add(at), len) };
}

/// Receives as a loop does, and looks at every byte that came.
fn receive(pair: &mut dyn QueuePair, pool: &HomePool, budget: usize) {
    let mut burst = Burst::new();
    let received = pair.rx_burst(pool, &mut burst, budget);
    assert_eq!(received, burst.len());
    assert!(received <= budget);
    for frame in &burst {
        let bytes: usize =
            frame.segments().map(|segment| segment.data().iter().map(|_| 1).sum::<usize>()).sum();
        assert_eq!(bytes, frame.pkt_len());
    }
}

/// Sends `frames` of them, of one segment or several.
fn send(pair: &mut dyn QueuePair, pool: &HomePool, frames: usize, len: usize, segments: usize) {
    let mut burst = Burst::new();
    for _ in 0..frames {
        let Some(mut frame) = pool.alloc() else { break };
        if frame.append(len).is_err() {
            break;
        }
        for _ in 1..segments {
            let Some(mut more) = pool.alloc() else { break };
            if more.append(len).is_ok() {
                frame.chain(more);
            }
        }
        burst.push(frame);
    }
    let had = burst.len();
    let sent = pair.tx_burst(&mut burst);
    assert_eq!(sent + burst.len(), had);
}

/// Everything is home again once the queues are gone.
fn all_home(pool: &HomePool) {
    let levels = pool.levels();
    assert_eq!(levels.free, levels.mbufs, "an mbuf is lost");
}
