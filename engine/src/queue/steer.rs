//! Steering: each flow has one core, and a frame that reached another is moved there.
//!
//! ```text
//!   driver ─► rx_burst ─► owner(frame) ─┬─ this core ───────────────────────────► Burst
//!                                       ├─ another ── ring (from, to) ──────────► that core's Burst
//!                                       └─ all (ARP, ND, RA): itself here, a copy to each of the others
//! ```
//!
//! One ring for each pair of cores, so each has one producer and one consumer; bounded: what does not fit is dropped and
//! counted (`steer_full`), and TCP slows down as for any loss. For all cores a frame is *copied*: a clone by reference
//! would keep a whole data room for 42 bytes of ARP, and cost two atomic operations per core and frame.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use door::{Caller, CoreBell};
use pmd::port::{Arm, Burst, QueuePair};
use pmd::{HomePool, Mbuf};
use stack::steer::Owner;

use crate::tsc::Tsc;

/// Frames that may wait between two cores: a few turns' bursts. More would only add to the delay of a core that cannot
/// keep up.
pub(crate) const RING_FRAMES: usize = 512;

/// Frames from one core to another.
pub(crate) type Ring = Arc<ArrayQueue<Mbuf>>;

/// Which of `count` cores a frame belongs to. Must not allocate; called for every frame received.
pub type OwnerOf = fn(frame: &[u8], count: u16) -> Owner;

/// The rings between a port's cores: `[from][to]`, `None` from a core to itself.
pub(crate) fn rings(count: usize) -> Vec<Vec<Option<Ring>>> {
    let ring = |from, to| (from != to).then(|| Arc::new(ArrayQueue::new(RING_FRAMES)));
    (0..count).map(|from| (0..count).map(|to| ring(from, to)).collect()).collect()
}

/// One core's queue pair of a port whose flows are dealt to several cores.
pub(crate) struct Steered {
    inner: Box<dyn QueuePair>,
    dealer: Dealer,
    /// From every other core.
    inboxes: Vec<Ring>,
    /// Which inbox is looked at first, so that none starves.
    first: usize,
    /// Whether this poll's odd frame of the budget is the inboxes'.
    odd: bool,
    /// What the driver received, until it is dealt.
    arrived: Box<Burst>,
    steered_in: u64,
    /// Frames went to other cores since it was last asked.
    handed_on: bool,
}

impl Steered {
    /// The queue pair of core `index`, given the rings of [`rings`] and the cores' bells, if they may sleep.
    pub(crate) fn new(
        inner: Box<dyn QueuePair>,
        owner_of: OwnerOf,
        index: u16,
        rings: &[Vec<Option<Ring>>],
        bells: &[Arc<CoreBell>],
    ) -> Steered {
        let at = usize::from(index);
        let (out, bells) = (rings[at].clone(), bells.to_vec());
        Steered {
            inner,
            dealer: Dealer { owner_of, index, out, bells, steered_out: 0, steer_full: 0, steer_nombuf: 0 },
            handed_on: false,
            inboxes: rings.iter().filter_map(|from| from[at].clone()).collect(),
            first: 0,
            odd: false,
            arrived: Box::default(),
            steered_in: 0,
        }
    }

    /// Takes at most `most` frames that other cores handed over.
    fn take(&mut self, burst: &mut Burst, most: usize) -> usize {
        let (mut taken, count) = (0, self.inboxes.len());
        for at in 0..count {
            let inbox = &self.inboxes[(self.first + at) % count];
            while taken < most {
                let Some(frame) = inbox.pop() else { break };
                burst.push(frame);
                taken += 1;
            }
        }
        self.first = (self.first + 1) % count.max(1);
        self.steered_in += taken as u64;
        taken
    }
}

/// Where the frames of one core go.
struct Dealer {
    owner_of: OwnerOf,
    index: u16,
    /// To each core; `None` to ourselves.
    out: Vec<Option<Ring>>,
    /// Of each core; none if cores never sleep.
    bells: Vec<Arc<CoreBell>>,
    steered_out: u64,
    steer_full: u64,
    steer_nombuf: u64,
}

impl Dealer {
    /// Keeps our own frames, hands the others over. A frame's headers are in its first segment, unless a device cut
    /// it to pieces on purpose: then it goes where its first bytes say, and is dropped there.
    fn deal(&mut self, arrived: &mut Burst, pool: &HomePool, burst: &mut Burst) {
        // As the loop does elsewhere; a steered frame keeps the stamp of the core that received it.
        let now = Tsc::now();
        #[allow(clippy::cast_possible_truncation)] // one for each core, and their numbers are u16
        let count = self.out.len() as u16;
        for mut frame in arrived.drain(..) {
            frame.set_rx_ticks(now.0);
            match (self.owner_of)(frame.data(), count) {
                Owner::Core(core) if core == self.index => burst.push(frame),
                Owner::Core(core) => self.hand(core, frame),
                Owner::All => {
                    let own = self.index;
                    for core in (0..count).filter(|core| *core != own) {
                        match frame.copy_linear(pool) {
                            Ok(copy) => self.hand(core, copy),
                            Err(_) => self.steer_nombuf += 1,
                        }
                    }
                    burst.push(frame);
                }
            }
        }
    }

    /// Wakes those who sleep though their ring holds something: one fence for all.
    fn ring(&self) {
        if self.bells.is_empty() {
            return;
        }
        door::full_fence();
        for (ring, bell) in self.out.iter().zip(&self.bells) {
            if ring.as_ref().is_some_and(|ring| !ring.is_empty()) {
                bell.ring_after_fence(Caller::Core);
            }
        }
    }

    fn hand(&mut self, core: u16, frame: Mbuf) {
        let ring = self.out.get(usize::from(core)).and_then(Option::as_ref);
        match ring.map(|ring| ring.push(frame)) {
            Some(Ok(())) => self.steered_out += 1,
            _ => self.steer_full += 1,
        }
    }
}

impl QueuePair for Steered {
    forward!(inner: tx_burst, tx_room, tx_room_urgent, tx_waiting, quiesce, counters, fault, disarm, wait_fds);

    /// Half of the budget is for frames from other cores, as far as there are any, the rest for the driver's.
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let (before, budget) = (burst.len(), budget.min(burst.remaining_capacity()));
        self.odd = !self.odd;
        let mut received = self.take(burst, (budget + usize::from(self.odd)) / 2);
        if received < budget && self.inner.rx_burst(pool, &mut self.arrived, budget - received) > 0 {
            let steered = self.dealer.steered_out;
            self.dealer.deal(&mut self.arrived, pool, burst);
            if self.dealer.steered_out != steered {
                self.handed_on = true;
                self.dealer.ring();
            }
            received = burst.len() - before;
        }
        received + self.take(burst, budget - received)
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("steered_in", self.steered_in);
        visit("steered_out", self.dealer.steered_out);
        visit("steer_full", self.dealer.steer_full);
        visit("steer_nombuf", self.dealer.steer_nombuf);
        self.inner.extra_counters(visit);
    }

    fn arm(&mut self) -> Arm {
        let is_empty = self.inboxes.iter().all(|inbox| inbox.is_empty());
        let ours = if is_empty { Arm::Armed } else { Arm::Ready };
        ours.and(self.inner.arm())
    }

    fn take_handed_on(&mut self) -> bool {
        std::mem::take(&mut self.handed_on) | self.inner.take_handed_on()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_pair::{TestPair, Wire, extra, frame, home};
    use super::*;
    use std::sync::Mutex;

    /// The first byte says whose a frame is; 255 is everybody's.
    fn by_first_byte(frame: &[u8], _count: u16) -> Owner {
        match frame[0] {
            255 => Owner::All,
            core => Owner::Core(u16::from(core)),
        }
    }

    fn team(count: u16) -> Vec<(Steered, Arc<Mutex<Wire>>)> {
        let rings = rings(usize::from(count));
        let member = |index| {
            let (inner, wire) = TestPair::new(64);
            (Steered::new(inner, by_first_byte, index, &rings, &[]), wire)
        };
        (0..count).map(member).collect()
    }

    fn poll(pair: &mut Steered, pool: &HomePool, budget: usize) -> Vec<[u8; 2]> {
        let mut burst = Burst::new();
        let received = pair.rx_burst(pool, &mut burst, budget);
        assert_eq!(received, burst.len());
        assert!(received <= budget);
        assert!(burst.iter().all(|frame| frame.rx_ticks() != 0), "stamped where it was received");
        burst.iter().map(|frame| *frame.data().first_chunk().unwrap()).collect()
    }

    #[test]
    fn each_frame_reaches_its_core_in_order_and_one_for_all_reaches_each() {
        let pool = home(64);
        let mut team = team(3);
        let bytes = [[0, 1], [1, 2], [255, 3], [2, 4], [1, 5], [0, 6]];
        team[0].1.lock().unwrap().rx.extend(bytes.iter().map(|bytes| frame(&pool, bytes)));
        assert_eq!(poll(&mut team[0].0, &pool, 64), [[0, 1], [255, 3], [0, 6]]);
        assert_eq!(poll(&mut team[1].0, &pool, 64), [[1, 2], [255, 3], [1, 5]]);
        assert_eq!(poll(&mut team[2].0, &pool, 64), [[255, 3], [2, 4]]);
        assert_eq!((extra(&team[0].0, "steered_out"), extra(&team[0].0, "steered_in")), (5, 0));
        assert_eq!((extra(&team[1].0, "steered_in"), extra(&team[2].0, "steered_in")), (3, 2));
        assert_eq!(pool.levels().free, 64);
    }

    #[test]
    fn a_core_that_does_not_keep_up_costs_counted_drops_and_no_more_than_a_ring_of_mbufs() {
        let pool = home(RING_FRAMES + 200);
        let mut team = team(2);
        for _ in 0..RING_FRAMES + 100 {
            team[0].1.lock().unwrap().rx.push_back(frame(&pool, &[1, 0]));
            assert!(poll(&mut team[0].0, &pool, 64).is_empty());
        }
        assert_eq!(
            (extra(&team[0].0, "steered_out"), extra(&team[0].0, "steer_full")),
            (RING_FRAMES as u64, 100)
        );
        assert_eq!(pool.levels().free, 200);
        let mut got = 0;
        while got < RING_FRAMES {
            got += poll(&mut team[1].0, &pool, 64).len();
        }
        assert_eq!(pool.levels().free, RING_FRAMES + 200);
    }

    #[test]
    fn neither_the_driver_nor_other_cores_starve_whatever_the_budget() {
        let pool = home(1200);
        for budget in [1, 2, 3, 64] {
            let mut team = team(3);
            for from in [1, 2] {
                team[from].1.lock().unwrap().rx.extend((0..128).map(|_| frame(&pool, &[0, from as u8])));
                while !team[from].1.lock().unwrap().rx.is_empty() {
                    poll(&mut team[from].0, &pool, 64);
                }
            }
            team[0].1.lock().unwrap().rx.extend((0..128).map(|_| frame(&pool, &[0, 0])));
            let mut seen = [0; 3];
            let mut polls = 0;
            while seen.iter().any(|count| *count < 10) {
                poll(&mut team[0].0, &pool, budget)
                    .iter()
                    .for_each(|[_, from]| seen[usize::from(*from)] += 1);
                polls += 1;
                assert!(polls < 400, "budget {budget}: {seen:?}");
            }
        }
    }

    #[test]
    fn without_an_mbuf_for_the_copy_the_frame_stays_here_and_that_is_counted() {
        let pool = home(2);
        let mut team = team(3);
        team[0].1.lock().unwrap().rx.push_back(frame(&pool, &[255, 9]));
        assert_eq!(poll(&mut team[0].0, &pool, 64), [[255, 9]]);
        assert_eq!((extra(&team[0].0, "steered_out"), extra(&team[0].0, "steer_nombuf")), (1, 1));
        // An owner that there is not: dropped, counted.
        team[0].1.lock().unwrap().rx.push_back(frame(&pool, &[7, 0]));
        assert!(poll(&mut team[0].0, &pool, 64).is_empty());
        assert_eq!(extra(&team[0].0, "steer_full"), 1);
    }
}
