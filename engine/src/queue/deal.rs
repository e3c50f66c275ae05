//! Dealing a port's queue pairs to the cores that share it.
//!
//! Queue pair `q` of a port goes to core `q mod cores`. A core for which there is none relays what it sends to core
//! `index mod queue pairs`, and receives by steering alone.

use std::sync::Arc;

use door::CoreBell;
use pmd::port::QueuePair;

use super::priority::{DscpSet, Prioritised, Priority, WAITING};
use super::relay::{Carrier, Relay, UPLINK_FRAMES, Uplink};
use super::several::Several;
use super::steer::{OwnerOf, RING_FRAMES, Steered, rings};

/// How a port is shared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Cores, at least 1.
    pub cores: u16,
    pub priority: Option<Priority>,
    /// How frames find their core, if they are to.
    pub owner_of: Option<OwnerOf>,
    /// It is a stack's flows that they find it by, so that the device can be told.
    pub flows: bool,
}

impl Terms {
    /// Whether frames come with their receive stamp, as they may be another core's.
    pub(crate) fn stamps(&self) -> bool {
        self.cores > 1 && self.owner_of.is_some()
    }

    /// Mbufs of one core's pool that may lie between the cores, or wait to be sent.
    pub(crate) fn held_mbufs(&self) -> usize {
        let others = usize::from(self.cores) - 1;
        let steered = if self.stamps() { others * RING_FRAMES } else { 0 };
        let relayed = if others > 0 { 2 * UPLINK_FRAMES } else { 0 };
        let waiting = if self.priority.is_some() { 2 * WAITING } else { 0 };
        steered + relayed + waiting
    }
}

/// One end for each core, in order. `bells` are the cores', in the same order; none if cores never sleep.
pub(crate) fn deal(
    pairs: Vec<Box<dyn QueuePair>>,
    terms: &Terms,
    bells: &[Arc<CoreBell>],
) -> Vec<Box<dyn QueuePair>> {
    let cores = usize::from(terms.cores);
    let owners = pairs.len().min(cores);
    let mut hands: Vec<Vec<Box<dyn QueuePair>>> = (0..cores).map(|_| Vec::new()).collect();
    for (queue, pair) in pairs.into_iter().enumerate() {
        hands[queue % cores].push(pair);
    }
    let classes = terms.priority.map_or(DscpSet::NONE, |priority| priority.urgent);
    let uplink = |guest: usize| Arc::new(Uplink::new(classes, bells.get(guest % owners).cloned()));
    let uplinks: Vec<Arc<Uplink>> = (owners..cores).map(uplink).collect();
    let rings = rings(cores);
    let end = |(index, hand): (u16, Vec<Box<dyn QueuePair>>)| {
        let at = usize::from(index);
        let mut end: Box<dyn QueuePair> = if hand.is_empty() {
            Box::new(Relay::new(Arc::clone(&uplinks[at - owners])))
        } else {
            let own = Several::of(hand);
            let own = match terms.priority {
                Some(priority) => Box::new(Prioritised::new(own, priority)),
                None => own,
            };
            let guests = (owners..cores).filter(|guest| guest % owners == at);
            Carrier::of(own, guests.map(|guest| Arc::clone(&uplinks[guest - owners])).collect())
        };
        if let Some(owner_of) = terms.owner_of.filter(|_| terms.stamps()) {
            end = Box::new(Steered::new(end, owner_of, index, &rings, bells));
        }
        end
    };
    (0..).zip(hands).map(end).collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_pair::{TestPair, extra, frame, home};
    use super::*;
    use pmd::port::Burst;
    use stack::steer::Owner;

    fn to_last(_frame: &[u8], count: u16) -> Owner {
        Owner::Core(count - 1)
    }

    #[test]
    fn every_core_sends_and_a_frame_received_anywhere_reaches_its_owner() {
        for queue_pairs in 1..=4_u16 {
            for cores in 1..=4_u16 {
                for priority in [None, Some(Priority::default())] {
                    let pool = home(64);
                    let (pairs, wires): (Vec<Box<dyn QueuePair>>, Vec<_>) = (0..queue_pairs)
                        .map(|_| TestPair::new(64))
                        .map(|(pair, wire)| (pair as Box<dyn QueuePair>, wire))
                        .unzip();
                    let terms = Terms { cores, priority, owner_of: Some(to_last), flows: false };
                    let mut ends = deal(pairs, &terms, &[]);
                    assert_eq!(ends.len(), usize::from(cores));

                    for (index, end) in ends.iter_mut().enumerate() {
                        assert!(end.tx_room() > 0);
                        let mut burst = Burst::new();
                        burst.push(frame(&pool, &[index as u8; 60]));
                        assert_eq!(end.tx_burst(&mut burst), 1);
                    }
                    wires.iter().for_each(|wire| wire.lock().unwrap().rx.push_back(frame(&pool, &[9; 60])));
                    let mut received = vec![0; ends.len()];
                    for _ in 0..2 {
                        for (end, count) in ends.iter_mut().zip(&mut received) {
                            let mut burst = Burst::new();
                            *count += end.rx_burst(&pool, &mut burst, 64);
                        }
                    }
                    let mut expected = vec![0; ends.len()];
                    *expected.last_mut().unwrap() = usize::from(queue_pairs);
                    assert_eq!(received, expected, "{queue_pairs} queue pairs, {cores} cores");

                    // Core c sends by queue pair c, or by the one that it shares.
                    for (queue, wire) in (0..queue_pairs).zip(&wires) {
                        let sent: Vec<u8> =
                            wire.lock().unwrap().tx.iter().map(|frame| frame.data()[0]).collect();
                        let expected: Vec<u8> = (0..cores)
                            .filter(|core| core % queue_pairs.min(cores) == queue)
                            .map(|core| core as u8)
                            .collect();
                        assert_eq!(sent, expected, "queue {queue} of {queue_pairs}, {cores} cores");
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_queue_holds_a_core_without_one_back_and_nothing_is_lost_or_reordered() {
        let pool = home(1024);
        let (pair, wire) = TestPair::new(32);
        let terms = Terms { cores: 2, priority: None, owner_of: None, flows: false };
        let mut ends = deal(vec![pair], &terms, &[]);
        let (mut sent, mut arrived): (u32, Vec<u32>) = (0, Vec::new());
        while arrived.len() < 2000 {
            let mut burst = Burst::new();
            for _ in 0..ends[1].tx_room().min(64) {
                burst.push(frame(&pool, &sent.to_be_bytes()));
                sent += 1;
            }
            ends[1].tx_burst(&mut burst);
            assert!(burst.is_empty(), "there was room");
            ends[0].rx_burst(&pool, &mut Burst::new(), 64);
            assert!(ends[0].tx_room() > 0, "the core whose queue it is keeps a share");
            let out: Vec<_> = wire.lock().unwrap().tx.drain(..).collect();
            arrived.extend(out.iter().map(|frame| u32::from_be_bytes(*frame.data().first_chunk().unwrap())));
        }
        assert_eq!(arrived, (0..arrived.len() as u32).collect::<Vec<_>>());
        assert_eq!(extra(&*ends[1], "tx_relayed"), u64::from(sent));
        drop(ends);
        assert_eq!(pool.levels().free, 1024, "what was still between the cores is home");
    }

    #[test]
    fn an_urgent_frame_of_a_core_without_a_queue_passes_what_others_wait_with() {
        let pool = home(1024);
        let (pair, wire) = TestPair::new(64);
        let priority = Priority { normal_limit: 4, ..Priority::default() };
        let terms = Terms { cores: 2, priority: Some(priority), owner_of: None, flows: false };
        let mut ends = deal(vec![pair], &terms, &[]);
        let ip = |tos: u8| [&[0; 12][..], &[0x08, 0x00, 0x45, tos], &[0; 18]].concat();
        let mut burst: Burst = (0..60).map(|_| frame(&pool, &ip(0))).collect();
        burst.push(frame(&pool, &ip(46 << 2)));
        ends[1].tx_burst(&mut burst);
        ends[0].rx_burst(&pool, &mut Burst::new(), 64);
        let place = wire.lock().unwrap().tx.iter().position(|frame| frame.data()[15] != 0);
        assert!(place.is_some_and(|place| place <= 4), "{place:?}");
    }
}
