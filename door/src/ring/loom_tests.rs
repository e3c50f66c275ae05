//! Every interleaving of a producer and a consumer: loom watches each byte of the ring.
//! Run with `./ci.sh model`.

#![allow(clippy::cast_possible_truncation)] // patterns of bytes

use std::sync::Arc;

use super::{Consumer, Producer};
use crate::memory::Alone;

#[test]
fn loom_bytes_arrive_once_in_order_across_the_wrap() {
    loom::model(|| {
        let start = u32::MAX - 1;
        let memory = Arc::new(Alone::new(2, start));
        let producer = loom::thread::spawn({
            let memory = memory.clone();
            move || {
                let (mut producer, mut sent) = (Producer::starting_at(start), 1u8);
                while sent <= 4 {
                    let data = [sent, sent + 1];
                    let len = data.len().min(usize::from(5 - sent));
                    sent += producer.push(memory.ring(), &data[..len]).unwrap() as u8;
                    loom::thread::yield_now();
                }
            }
        });
        let (mut consumer, mut got) = (Consumer::starting_at(start), Vec::<u8>::new());
        while got.len() < 4 {
            let mut data = [0; 2];
            let count = consumer.pop(memory.ring(), &mut data).unwrap();
            got.extend(&data[..count]);
            loom::thread::yield_now();
        }
        producer.join().unwrap();
        assert_eq!(got, [1, 2, 3, 4]);
    });
}

#[test]
fn loom_datagrams_are_whole_when_seen() {
    loom::model(|| {
        let memory = Arc::new(Alone::new(32, 20));
        let from = "192.0.2.1:7".parse().unwrap();
        let producer = loom::thread::spawn({
            let memory = memory.clone();
            move || {
                let mut producer = Producer::starting_at(20);
                for datagram in [b"ab", b"cd"] {
                    while !producer.push_datagram(memory.ring(), from, datagram).unwrap() {
                        loom::thread::yield_now();
                    }
                }
            }
        });
        let mut consumer = Consumer::starting_at(20);
        for wanted in [b"ab", b"cd"] {
            let mut data = [0; 4];
            let taken = loop {
                if let Some(taken) = consumer.peek_datagram(memory.ring(), &mut data).unwrap() {
                    break taken;
                }
                loom::thread::yield_now();
            };
            assert_eq!((taken, &data[..2]), ((from, 2), &wanted[..]));
            assert!(consumer.pop_datagram(memory.ring()).unwrap());
        }
        producer.join().unwrap();
    });
}
