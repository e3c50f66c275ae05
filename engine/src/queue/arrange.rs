//! What a device with receive-side scaling is told, so that a flow arrives at the core that owns it.
//!
//! A stack's flows belong to cores by a Toeplitz hash ([`stack::steer`]). A device that is given its key and a table in
//! which every entry names a queue pair of the right core leaves nothing to be handed over; entries of cores that have no
//! queue pair are dealt to the others, whose cores hand their flows over.

use pmd::port::RssConfig;
use pmd::virtio::rss::{SYMMETRIC_KEY, hash_type};
use stack::steer::{KEY_WORD, TABLE};

const _: () = assert!(SYMMETRIC_KEY[0] == KEY_WORD[0] && SYMMETRIC_KEY[1] == KEY_WORD[1]);

/// For a port of so many queue pairs that so many cores share: pair `q` is core `q mod cores`'s. Everything that is not
/// TCP or UDP goes to the first pair, as to the first core.
pub(crate) fn arrangement(cores: u16, pairs: u16) -> RssConfig {
    let queue = |entry: u16| {
        let core = entry % cores;
        if core >= pairs {
            return core % pairs;
        }
        // The core's pairs are `core`, `core + cores`, and so on; its entries take turns.
        let own = (pairs - core).div_ceil(cores);
        core + cores * (entry / cores % own)
    };
    RssConfig {
        hash_types: hash_type::TRANSPORT,
        table: (0..TABLE).map(queue).collect(),
        unclassified_queue: 0,
        transmit_queues: pairs,
        key: SYMMETRIC_KEY.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmd::virtio::rss::Rss;
    use stack::steer::{Owner, owner};

    fn frame(number: u32, v6: bool, protocol: u8) -> Vec<u8> {
        let [a, b, c, d] = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
        let mut frame = vec![2; 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, a, 0, 0, 0, 0, b, 0, 0, 0, 0, c]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, a, b, 10, 0, 0, 1]);
        }
        frame.extend([c, d, 0, 80]);
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn a_device_delivers_each_flow_to_its_owner_wherever_that_has_a_queue_pair() {
        for cores in 1..=5_u16 {
            for pairs in 1..=7_u16 {
                let rss = Rss::new(&arrangement(cores, pairs), pairs).unwrap();
                let mut seen = vec![0; pairs.into()];
                for number in 0..2000 {
                    for (v6, protocol) in [(false, 6), (false, 17), (true, 6), (true, 17)] {
                        let frame = frame(number, v6, protocol);
                        let Owner::Core(owner) = owner(&frame, cores) else { panic!("one core's") };
                        let (queue, _) = rss.place(&frame);
                        assert!(owner >= pairs || queue % cores == owner, "{cores} cores, {pairs} pairs");
                        seen[usize::from(queue)] += 1;
                    }
                }
                let least = 8000 / usize::from(pairs) / 3;
                assert!(seen.iter().all(|count| *count > least), "{cores} cores: {seen:?}");
            }
        }
    }

    #[test]
    fn what_is_no_flow_goes_to_the_first_core() {
        let rss = Rss::new(&arrangement(2, 2), 2).unwrap();
        for protocol in [1, 58] {
            assert_eq!(rss.place(&frame(7, false, protocol)), (0, None));
            assert_eq!(owner(&frame(7, false, protocol), 2), Owner::Core(0));
        }
    }
}
