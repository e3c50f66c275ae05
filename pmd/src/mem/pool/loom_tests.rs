//! Every interleaving of a few threads over a pool of a few mbufs.
//! Run with `./ci.sh model`, or `RUSTFLAGS="--cfg loom" cargo test -p bywash-pmd --release loom`.

use super::{Pool, PoolConfig};
use crate::mem::{PageSize, Region, RegionConfig};

fn pool(mbufs: usize) -> Pool {
    let config = PoolConfig { mbufs, headroom_bytes: 64, data_room_bytes: 64 };
    let len_bytes = config.region_bytes();
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    Pool::new(&region, config).unwrap()
}

#[test]
fn loom_foreign_frees_come_home_while_the_home_allocates_and_frees() {
    loom::model(|| {
        let home = pool(3).adopt().unwrap();
        let (first, second) = (home.alloc().unwrap(), home.alloc().unwrap());
        let foreign = loom::thread::spawn(move || {
            drop(first);
            drop(second);
        });
        // One is here in any case; more only if the other thread has freed some.
        let mine: Vec<_> = home.alloc_bulk(3).collect();
        assert!((1..=3).contains(&mine.len()));
        drop(mine);
        foreign.join().unwrap();
        assert_eq!(home.alloc_bulk(4).count(), 3);
        assert_eq!(home.levels().free, 3);
    });
}

#[test]
fn loom_next_home_finds_what_the_last_one_and_strangers_freed() {
    loom::model(|| {
        let pool = pool(3);
        let home = pool.adopt().unwrap();
        let (mine, theirs) = (home.alloc().unwrap(), home.alloc().unwrap());
        let stranger = loom::thread::spawn(move || drop(theirs));
        let next = loom::thread::spawn({
            let pool = pool.clone();
            move || match pool.adopt() {
                // Too early: the first home is still there, and stays unharmed.
                Err(_) => None,
                Ok(home) => Some(home.alloc_bulk(3).count()),
            }
        });
        drop(mine);
        drop(home);
        stranger.join().unwrap();
        if let Some(found) = next.join().unwrap() {
            assert!((2..=3).contains(&found));
        }
        assert_eq!(pool.adopt().unwrap().alloc_bulk(4).count(), 3);
    });
}

#[test]
fn loom_last_of_two_clones_frees_the_bytes_once_and_may_write_them_before() {
    loom::model(|| {
        let home = pool(2).adopt().unwrap();
        let mut original = home.alloc().unwrap();
        original.append(1).unwrap()[0] = 7;
        let mut clone = original.clone_ref(&home).unwrap();
        let other = loom::thread::spawn(move || {
            if let Some(bytes) = clone.data_mut() {
                bytes[0] = 8;
            }
        });
        if original.data_mut().is_none() {
            assert_eq!(original.data()[0], 7, "shared bytes do not change");
        }
        drop(original);
        other.join().unwrap();
        assert_eq!(home.alloc_bulk(3).count(), 2);
    });
}
