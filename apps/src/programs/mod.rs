//! What runs on the loop: one program a file or folder, and the flags that make one.

pub mod echo;
pub mod generator;
pub mod http;
pub mod l2fwd;
pub mod load;
pub mod ping;
pub mod resolve;
pub mod rxonly;
pub mod units;

/// A pool of ordinary pages, of the calling thread.
#[cfg(test)]
pub(crate) fn test_pool(mbufs: usize) -> pmd::HomePool {
    use pmd::mem::{PageSize, Pool, PoolConfig, Region, RegionConfig};
    let config = PoolConfig { mbufs, ..PoolConfig::default() };
    let len_bytes = config.region_bytes();
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    Pool::new(&region, config).unwrap().adopt().unwrap()
}
