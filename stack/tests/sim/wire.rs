//! The network between the stacks: a switch whose every path loses, delays, reorders, duplicates and damages frames.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::rng::Rng;

/// What the network does to frames. Chances are in parts per million, times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Impairments {
    pub loss: u32,
    pub duplication: u32,
    /// A flipped bit behind the Ethernet header, or a frame cut short.
    pub corruption: u32,
    pub delay_ns: u64,
    /// Up to so much more delay, drawn for each frame: frames overtake each other.
    pub jitter_ns: u64,
    /// Bits in a second that each stack may send; none for no limit.
    pub bandwidth: Option<u64>,
    /// How long a frame may wait for the bandwidth before it is dropped.
    pub queue_ns: u64,
}

/// A frame on its way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at_ns: u64,
    /// Equal times keep the order of sending.
    order: u64,
    to: usize,
    frame: Vec<u8>,
}

pub struct Wire {
    impairments: Impairments,
    rng: Rng,
    flights: BinaryHeap<Reverse<Flight>>,
    order: u64,
    /// When each stack's sending side is free again.
    free_at_ns: Vec<u64>,
}

/// What has happened to a frame that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Carried,
    Lost,
    Damaged,
}

impl Wire {
    pub fn new(stacks: usize, impairments: Impairments, seed: u64) -> Self {
        Self {
            impairments,
            rng: Rng::new(seed),
            flights: BinaryHeap::new(),
            order: 0,
            free_at_ns: vec![0; stacks],
        }
    }

    /// Puts a frame on its way to one stack.
    pub fn send(&mut self, now_ns: u64, from: usize, to: usize, frame: &[u8]) -> Fate {
        let rules = self.impairments.clone();
        let mut leaves_ns = now_ns;
        if let Some(bandwidth) = rules.bandwidth {
            let starts_ns = self.free_at_ns[from].max(now_ns);
            if starts_ns - now_ns > rules.queue_ns {
                return Fate::Lost;
            }
            leaves_ns = starts_ns + frame.len() as u64 * 8 * 1_000_000_000 / bandwidth;
            self.free_at_ns[from] = leaves_ns;
        }
        if self.rng.chance(rules.loss) {
            return Fate::Lost;
        }
        if self.rng.chance(rules.duplication) {
            self.fly(leaves_ns, to, frame.to_vec());
        }
        let mut frame = frame.to_vec();
        let mut fate = Fate::Carried;
        if self.rng.chance(rules.corruption) {
            fate = Fate::Damaged;
            // ARP has no checksum of its own: what an Ethernet checksum would have dropped is dropped here.
            if frame[12..14] == [0x08, 0x06] {
                return Fate::Lost;
            }
            if self.rng.below(4) == 0 {
                frame.truncate(self.rng.below_usize(frame.len()));
            } else {
                let bit = self.rng.below_usize((frame.len() - 14) * 8);
                frame[14 + bit / 8] ^= 1 << (bit % 8);
            }
        }
        self.fly(leaves_ns, to, frame);
        fate
    }

    fn fly(&mut self, leaves_ns: u64, to: usize, frame: Vec<u8>) {
        let jitter_ns = self.rng.between(0, self.impairments.jitter_ns);
        let at_ns = leaves_ns + self.impairments.delay_ns + jitter_ns;
        self.order += 1;
        self.flights.push(Reverse(Flight { at_ns, order: self.order, to, frame }));
    }

    /// When the next frame arrives.
    pub fn next_ns(&self) -> Option<u64> {
        self.flights.peek().map(|Reverse(flight)| flight.at_ns)
    }

    /// The next frame that has arrived by now, and for whom.
    pub fn arrived(&mut self, now_ns: u64) -> Option<(usize, Vec<u8>)> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.flights.pop().map(|Reverse(flight)| (flight.to, flight.frame))
    }
}
