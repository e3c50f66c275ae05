//! Rings against a naive model, with indices that begin near the wrap; and against a liar.

#![allow(clippy::cast_possible_truncation)] // patterns of bytes

use std::collections::VecDeque;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::memory::Alone;

const SIZE: u32 = 64;

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Pop(usize),
    Peek(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..100usize).prop_map(Op::Push),
        (0..100usize).prop_map(Op::Pop),
        (0..100usize).prop_map(Op::Peek)
    ]
}

/// Where indices begin: anywhere, but often just before they wrap.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0..200u32).prop_map(|before| before.wrapping_neg())]
}

proptest! {
    #[test]
    fn byte_ring_does_what_a_deque_of_bytes_does(start in start(), ops in prop::collection::vec(op(), 0..200)) {
        let memory = Alone::new(SIZE, start);
        let ring = memory.ring();
        let (mut producer, mut consumer) = (Producer::starting_at(start), Consumer::starting_at(start));
        let (mut model, mut next) = (VecDeque::new(), 0u8);
        for op in ops {
            match op {
                Op::Push(len) => {
                    let data: Vec<_> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                    let pushed = producer.push(ring, &data).unwrap();
                    prop_assert_eq!(pushed, len.min(SIZE as usize - model.len()));
                    model.extend(&data[..pushed]);
                    next = next.wrapping_add(pushed as u8);
                }
                Op::Pop(len) => {
                    let mut data = vec![0; len];
                    let popped = consumer.pop(ring, &mut data).unwrap();
                    prop_assert_eq!(popped, len.min(model.len()));
                    prop_assert_eq!(&data[..popped], model.drain(..popped).collect::<Vec<_>>());
                }
                Op::Peek(len) => {
                    let mut data = vec![0; len];
                    let seen = consumer.peek(ring, &mut data).unwrap() as usize;
                    prop_assert_eq!(seen, len.min(model.len()));
                    prop_assert!(data[..seen].iter().eq(model.range(..seen)));
                }
            }
            prop_assert_eq!(producer.is_drained(ring).unwrap(), model.is_empty());
        }
    }

    #[test]
    fn datagram_ring_does_what_a_deque_of_datagrams_does(
        start in start(),
        ops in prop::collection::vec((any::<bool>(), 0..120usize, any::<u16>(), any::<bool>()), 0..200),
    ) {
        let memory = Alone::new(256, start);
        let ring = memory.ring();
        let (mut producer, mut consumer) = (Producer::starting_at(start), Consumer::starting_at(start));
        let mut model: VecDeque<(SocketAddr, Vec<u8>)> = VecDeque::new();
        for (push, len, port, v6) in ops {
            if push {
                let ip = if v6 { "2001:db8::7" } else { "192.0.2.7" };
                let address = SocketAddr::new(ip.parse().unwrap(), port);
                let data: Vec<_> = (0..len).map(|i| (i as u8) ^ (port as u8)).collect();
                let used: usize = model.iter().map(|(_, data)| data.len() + RECORD_BYTES as usize).sum();
                let fits = used + len + RECORD_BYTES as usize <= 256;
                prop_assert_eq!(producer.push_datagram(ring, address, &data).unwrap(), fits);
                if fits {
                    model.push_back((address, data));
                }
            } else {
                let mut data = vec![0; len];
                let taken = consumer.peek_datagram(ring, &mut data).unwrap();
                prop_assert_eq!(consumer.pop_datagram(ring).unwrap(), taken.is_some());
                let wanted = model.pop_front();
                prop_assert_eq!(taken, wanted.as_ref().map(|(address, data)| (*address, data.len())));
                if let Some((_, wanted)) = wanted {
                    let copied = wanted.len().min(len);
                    prop_assert_eq!(&data[..copied], &wanted[..copied]);
                }
            }
        }
    }

    /// The other side writes anything into its index at any moment: an error, or a bounded amount of rubbish.
    #[test]
    fn liar_gets_errors_and_bounded_rubbish(
        start in start(),
        lies in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u32>(), 0..100usize), 1..50),
    ) {
        let memory = Alone::new(SIZE, start);
        let ring = memory.ring();
        let (mut producer, mut consumer) = (Producer::starting_at(start), Consumer::starting_at(start));
        let address = "192.0.2.1:1".parse().unwrap();
        for (of_producer, near, lie, len) in lies {
            let mut data = vec![7; len];
            if of_producer {
                let lie = if near { consumer.tail.wrapping_add(lie % 130) } else { lie };
                ring.header.tail.0.store(lie, Ordering::Relaxed);
                prop_assert!(consumer.pop(ring, &mut data).map_or(0, |count| count as u32) <= SIZE);
                prop_assert!(consumer.known() <= SIZE);
                // Whatever stands in the ring as a datagram's head.
                ring.area.copy_in(consumer.head, &lie.to_le_bytes());
                if let Ok(Some((_, len))) = consumer.peek_datagram(ring, &mut data) {
                    prop_assert!(len as u32 + RECORD_BYTES <= SIZE);
                }
                let _ = consumer.pop_datagram(ring);
                prop_assert!(consumer.known() <= SIZE);
            } else {
                let lie = if near { producer.head.wrapping_add(lie % 130) } else { lie };
                ring.header.head.0.store(lie, Ordering::Relaxed);
                prop_assert!(producer.push(ring, &data).map_or(0, |count| count as u32) <= SIZE);
                let _ = producer.push_datagram(ring, address, &data);
                prop_assert!(producer.used() <= SIZE);
            }
        }
    }
}

#[test]
fn index_that_passes_the_other_or_goes_back_is_a_lie() {
    let memory = Alone::new(SIZE, u32::MAX - 3);
    let ring = memory.ring();
    let mut consumer = Consumer::starting_at(u32::MAX - 3);
    ring.header.tail.0.store(61, Ordering::Relaxed);
    assert_eq!(consumer.pop(ring, &mut [0; 8]), Err(Lie::Index { moved: 65, allowed: 64 }));
    ring.header.tail.0.store(u32::MAX - 4, Ordering::Relaxed);
    assert_eq!(consumer.pop(ring, &mut [0; 8]), Err(Lie::Index { moved: u32::MAX, allowed: 64 }));

    let mut producer = Producer::starting_at(0);
    let memory = Alone::new(SIZE, 0);
    let ring = memory.ring();
    assert_eq!(producer.push(ring, &[1; 64]), Ok(64));
    ring.header.head.0.store(65, Ordering::Relaxed);
    assert_eq!(producer.push(ring, &[1]), Err(Lie::Index { moved: 65, allowed: 64 }));
}

#[test]
fn datagram_longer_than_what_is_there_or_of_no_family_is_a_lie() {
    let address: SocketAddr = "192.0.2.1:9".parse().unwrap();
    for (at, byte) in [(0, 5), (3, 255), (4, 5), (5, 1)] {
        let memory = Alone::new(SIZE, 0);
        let ring = memory.ring();
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        assert_eq!(producer.push_datagram(ring, address, b"1234"), Ok(true));
        ring.area.copy_in(at, &[byte]);
        assert!(matches!(consumer.peek_datagram(ring, &mut [0; 9]), Err(Lie::Datagram { .. })), "byte {at}");
    }
}
