use super::NoRoom;
use crate::mem::{HomePool, Mbuf, PageSize, Pool, PoolConfig, Region, RegionConfig};

fn pool(mbufs: usize) -> HomePool {
    let config = PoolConfig { mbufs, headroom_bytes: 128, data_room_bytes: 512 };
    let len_bytes = config.region_bytes();
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    Pool::new(&region, config).unwrap().adopt().unwrap()
}

fn holding(pool: &HomePool, bytes: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().unwrap();
    mbuf.append(bytes.len()).unwrap().copy_from_slice(bytes);
    mbuf
}

#[test]
fn fresh_mbuf_is_empty_behind_its_headroom() {
    let pool = pool(1);
    let mbuf = pool.alloc().unwrap();
    assert_eq!((mbuf.headroom(), mbuf.len(), mbuf.tailroom()), (128, 0, 512));
    assert!(mbuf.data().is_empty() && mbuf.next().is_none() && mbuf.rx_ticks() == 0);
}

#[test]
fn push_put_pull_trim_move_the_bounds_and_keep_the_bytes() {
    let pool = pool(1);
    let mut mbuf = holding(&pool, b"payload");
    mbuf.prepend(4).unwrap().copy_from_slice(b"head");
    mbuf.append(4).unwrap().copy_from_slice(b"tail");
    assert_eq!(mbuf.data(), b"headpayloadtail");
    mbuf.adj(4).unwrap();
    mbuf.trim(4).unwrap();
    assert_eq!(mbuf.data(), b"payload");
    assert_eq!(mbuf.headroom(), 128);
}

#[test]
fn changes_that_do_not_fit_are_refused_with_the_room_and_change_nothing() {
    let pool = pool(1);
    let mut mbuf = holding(&pool, b"1234");
    assert_eq!(mbuf.prepend(129).unwrap_err(), NoRoom::Short { asked: 129, room: 128 });
    assert_eq!(mbuf.append(509).unwrap_err(), NoRoom::Short { asked: 509, room: 508 });
    assert_eq!(mbuf.adj(5).unwrap_err(), NoRoom::Short { asked: 5, room: 4 });
    assert_eq!(mbuf.trim(usize::MAX).unwrap_err(), NoRoom::Short { asked: usize::MAX, room: 4 });
    assert_eq!(mbuf.data(), b"1234");
}

#[test]
fn chain_counts_every_segment_and_frees_them_all() {
    let pool = pool(4);
    let mut head = holding(&pool, b"one");
    head.chain(holding(&pool, b"two"));
    head.chain(holding(&pool, b"three"));
    assert_eq!(head.pkt_len(), 11);
    let lengths: Vec<usize> = head.segments().map(Mbuf::len).collect();
    assert_eq!(lengths, [3, 3, 5]);
    assert_eq!(head.copy_linear(&pool).unwrap().data(), b"onetwothree");
    let rest = head.unchain().unwrap();
    assert_eq!((head.pkt_len(), rest.pkt_len()), (3, 8));
    drop((head, rest));
    assert_eq!(pool.levels().free, 4);
}

#[test]
fn clone_shares_the_bytes_and_forbids_writing_until_one_is_left() {
    let pool = pool(3);
    let mut original = holding(&pool, b"shared");
    let mut clone = original.clone_ref(&pool).unwrap();
    assert_eq!(clone.data_ptr(), original.data_ptr());
    assert!(original.data_mut().is_none() && clone.data_mut().is_none());
    assert_eq!(original.append(1).unwrap_err(), NoRoom::Shared);
    assert_eq!(clone.prepend(1).unwrap_err(), NoRoom::Shared);
    clone.adj(2).unwrap();
    assert_eq!((original.data(), clone.data()), (&b"shared"[..], &b"ared"[..]));
    let second = clone.clone_ref(&pool).unwrap();
    drop(original);
    drop(clone);
    assert_eq!(pool.levels().free, 1, "the original's bytes are still shown by the second clone");
    assert_eq!(second.data(), b"ared");
    drop(second);
    assert_eq!(pool.levels().free, 3);
    let fresh: Vec<Mbuf> = pool.alloc_bulk(3).collect();
    assert!(fresh.iter().all(|mbuf| mbuf.headroom() == 128 && !mbuf.is_shared()));
    let distinct: std::collections::HashSet<_> = fresh.iter().map(Mbuf::data_ptr).collect();
    assert_eq!(distinct.len(), 3, "each element has its own room back");
}

#[test]
fn last_clone_may_write() {
    let pool = pool(2);
    let original = holding(&pool, b"x");
    let mut clone = original.clone_ref(&pool).unwrap();
    drop(original);
    clone.data_mut().unwrap()[0] = b'y';
    assert_eq!(clone.data(), b"y");
}

#[test]
fn clone_of_a_chain_needs_an_element_a_segment_or_gives_all_back() {
    let pool = pool(3);
    let mut head = holding(&pool, b"a");
    head.chain(holding(&pool, b"b"));
    assert_eq!(head.clone_ref(&pool).unwrap_err(), NoRoom::Empty);
    assert_eq!(pool.levels().free, 1);
    assert!(!head.is_shared());
}

#[test]
fn very_long_chain_is_freed_without_recursion() {
    let pool = pool(20_000);
    let mut chain = pool.alloc().unwrap();
    for mut head in pool.alloc_bulk(19_999) {
        head.chain(chain);
        chain = head;
    }
    drop(chain);
    assert_eq!(pool.levels().free, 20_000);
}

mod model {
    use super::{holding, pool};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Change {
        Prepend(Vec<u8>),
        Append(Vec<u8>),
        Adj(usize),
        Trim(usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..150).prop_map(Change::Prepend),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Change::Append),
            (0_usize..200).prop_map(Change::Adj),
            (0_usize..200).prop_map(Change::Trim),
        ]
    }

    proptest! {
        /// Any sequence of changes against a Vec with explicit room at either end.
        #[test]
        fn bounds_follow_a_naive_model(changes in prop::collection::vec(change(), 0..40)) {
            let pool = pool(1);
            let mut mbuf = holding(&pool, b"");
            let (mut head, mut bytes) = (128_usize, Vec::new());
            for change in changes {
                match change {
                    Change::Prepend(new) => {
                        let fits = new.len() <= head;
                        let got = mbuf.prepend(new.len()).map(|room| room.copy_from_slice(&new));
                        prop_assert_eq!(got.is_ok(), fits);
                        if fits { head -= new.len(); bytes.splice(0..0, new); }
                    }
                    Change::Append(new) => {
                        let fits = head + bytes.len() + new.len() <= 128 + 512;
                        let got = mbuf.append(new.len()).map(|room| room.copy_from_slice(&new));
                        prop_assert_eq!(got.is_ok(), fits);
                        if fits { bytes.extend(new); }
                    }
                    Change::Adj(count) => {
                        prop_assert_eq!(mbuf.adj(count).is_ok(), count <= bytes.len());
                        if count <= bytes.len() { head += count; bytes.drain(..count); }
                    }
                    Change::Trim(count) => {
                        prop_assert_eq!(mbuf.trim(count).is_ok(), count <= bytes.len());
                        if count <= bytes.len() { bytes.truncate(bytes.len() - count); }
                    }
                }
                prop_assert_eq!(mbuf.data(), &bytes[..]);
                prop_assert_eq!(mbuf.headroom(), head);
                prop_assert_eq!(mbuf.headroom() + mbuf.len() + mbuf.tailroom(), 640);
            }
        }
    }
}
