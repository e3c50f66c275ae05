//! Which of the driver's receive queues a packet goes to, and whether it goes there at all: what the control side decides
//! and the cores that poll the queue pairs follow.
//!
//! ```text
//!   control queue, SET_VRING_ENABLE ─► Steering::change ─► Policy, one generation further
//!                                                              │ seen at the next burst
//!   a core: transmit queue q ─► FlowTable: this flow ─► q      ▼
//!           receive queue    ◄─ Policy: RSS, else what the table says, else the core's own
//! ```
//!
//! The driver chooses: by RSS (virtio 1.2 §5.1.6.5.6.4), or without words, by the transmit queue on which it sends a flow's
//! packets: the device is to deliver the flow's other direction to the receive queue of the same pair (§5.1.6.5.6).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::virtio::ctrl::{Command, Mac, ReceiveMode};
use crate::virtio::rss::{Hasher, Rss, hash_type};

/// Flows of which each bucket remembers so many: a cache line.
const WAYS: usize = 8;

/// Buckets: 4,096 flows at most; one more takes the place of another.
const BUCKETS: usize = 512;

#[derive(Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// Where the driver last sent each flow's packets. A bucket is found by the hash of what the driver sends, under a key of
/// ours that nobody knows; an entry is the whole hash, so that a flow is taken for another only if all 32 bits agree, and
/// the queue. A flow that finds its bucket full takes another's place, which then stays where it would be without the
/// table.
pub(super) struct FlowTable(Box<[Bucket]>);

impl FlowTable {
    fn new() -> Self {
        Self((0..BUCKETS).map(|_| Bucket::default()).collect())
    }

    fn bucket(&self, hash: u32) -> &[AtomicU64; WAYS] {
        &self.0[hash as usize % BUCKETS].0
    }

    /// The flow's packets were sent by `queue`. Returns whether that is news.
    #[inline]
    pub(super) fn learn(&self, hash: u32, queue: u16) -> bool {
        let (bucket, entry) = (self.bucket(hash), (u64::from(hash) << 32) | (u64::from(queue) + 1));
        // ORDERING: Relaxed, here and below. Hints of one word each: whoever reads an old one delivers to the old queue
        //           once more, and of two that write at once one flow stays unknown until its next packet.
        let of = |way: &AtomicU64| way.load(Ordering::Relaxed);
        let mine = bucket.iter().find(|way| of(way) >> 32 == u64::from(hash) && of(way) != 0);
        let way = mine.or_else(|| bucket.iter().find(|way| of(way) == 0));
        let way = way.unwrap_or(&bucket[(hash >> 29) as usize]);
        let news = of(way) != entry;
        if news {
            way.store(entry, Ordering::Relaxed);
        }
        news
    }

    /// The queue by which the flow's packets were sent last.
    #[inline]
    fn find(&self, hash: u32) -> Option<u16> {
        // ORDERING: Relaxed; see `learn`.
        let mut entries = self.bucket(hash).iter().map(|way| way.load(Ordering::Relaxed));
        let found = entries.find(|entry| entry >> 32 == u64::from(hash) && *entry != 0)?;
        #[allow(clippy::cast_possible_truncation)] // its lower half, one more than a u16
        let queue = (found as u32 & 0xffff) as u16;
        queue.checked_sub(1)
    }

    fn forget(&self) {
        // ORDERING: Relaxed; see `learn`.
        self.0.iter().flat_map(|bucket| &bucket.0).for_each(|way| way.store(0, Ordering::Relaxed));
    }
}

/// Which packets the driver wants. virtio 1.2 §5.1.6.5.1 to §5.1.6.5.3. A device starts promiscuous, as hypervisors'
/// devices do: drivers that never ask expect everything.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    modes: [bool; 6],
    own: Option<Mac>,
    unicast: Vec<Mac>,
    multicast: Vec<Mac>,
    /// One bit for each VLAN; `None` lets all in.
    vlans: Option<Box<[u64; 64]>>,
}

impl Filter {
    fn new(filters_vlans: bool) -> Self {
        let mut modes = [false; 6];
        modes[ReceiveMode::Promiscuous as usize] = true;
        let vlans = filters_vlans.then(|| Box::new([0; 64]));
        Self { modes, own: None, unicast: Vec::new(), multicast: Vec::new(), vlans }
    }

    fn is(&self, mode: ReceiveMode) -> bool {
        self.modes[mode as usize]
    }

    /// Whether every packet passes.
    pub(super) fn passes_all(&self) -> bool {
        self.is(ReceiveMode::Promiscuous)
    }

    /// Whether the driver wants this frame.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        if self.passes_all() {
            return true;
        }
        let Some((to, rest)) = frame.split_first_chunk::<6>() else { return true };
        if let (Some(vlans), [_, _, _, _, _, _, 0x81, 0, high, low, ..]) = (&self.vlans, rest) {
            let vlan = usize::from(u16::from_be_bytes([high & 0x0f, *low]));
            if vlans[vlan / 64] >> (vlan % 64) & 1 == 0 {
                return false;
            }
        }
        match to {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => !self.is(ReceiveMode::NoBroadcast),
            [first, ..] if first & 1 == 1 => {
                !self.is(ReceiveMode::NoMulticast)
                    && (self.is(ReceiveMode::AllMulticast) || self.multicast.contains(to))
            }
            _ => {
                !self.is(ReceiveMode::NoUnicast)
                    // Nobody has said what the driver's address is.
                    && (self.own.is_none_or(|own| own == *to)
                        || self.is(ReceiveMode::AllUnicast)
                        || self.unicast.contains(to))
            }
        }
    }
}

/// What the cores follow.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// Receive queues that take packets: set up, enabled and in use; in order.
    pub active: Vec<u16>,
    pub rss: Option<Rss>,
    /// What is reported with each packet, where RSS does not say.
    pub hash: Option<Hasher>,
    pub filter: Filter,
}

impl Policy {
    /// The receive queue for a frame that the core of queue pair `own` sends, and whether its driver wants it at all.
    #[inline]
    pub(super) fn place(&self, frame: &[u8], own: u16, flows: &FlowTable, hasher: &Hasher) -> Option<u16> {
        if !self.filter.passes_all() && !self.filter.passes(frame) {
            return None;
        }
        let is_active = |queue: &u16| self.active.contains(queue);
        let chosen = match &self.rss {
            Some(rss) => Some(rss.place(frame).0),
            None => hasher.answered(frame).and_then(|hash| flows.find(hash)),
        };
        // A queue that is not there (yet, or any more) is no reason to lose a packet.
        let fallback = || if is_active(&own) { Some(own) } else { self.active.first().copied() };
        chosen.filter(is_active).or_else(fallback)
    }
}

/// What has been asked for so far.
struct State {
    /// By queue pair: its receive queue is set up and enabled.
    enabled: Vec<bool>,
    /// How many pairs the driver uses, from the first on.
    in_use: u16,
    policy: Policy,
}

/// The control side's half and the cores' half of one device.
pub(crate) struct Steering {
    pairs: u16,
    /// Counts the changes; written under the mutex.
    generation: AtomicU64,
    published: Mutex<(State, Arc<Policy>)>,
    pub(super) flows: FlowTable,
    /// Of the packets that the driver sends, and of those that answer them.
    pub(super) hasher: Hasher,
}

impl Steering {
    /// Of a device with so many queue pairs, none of which is set up.
    pub(crate) fn new(pairs: u16) -> Arc<Self> {
        let policy = Policy { active: Vec::new(), rss: None, hash: None, filter: Filter::new(false) };
        let random = RandomState::new();
        let key: Vec<u8> = (0..5_u64).flat_map(|word| random.hash_one(word).to_ne_bytes()).collect();
        let state = State { enabled: vec![false; pairs.into()], in_use: pairs, policy: policy.clone() };
        Arc::new(Self {
            pairs,
            generation: AtomicU64::new(1),
            published: Mutex::new((state, Arc::new(policy))),
            flows: FlowTable::new(),
            hasher: Hasher::new(hash_type::SUPPORTED, &key).expect("40 bytes"),
        })
    }

    fn lock(&self) -> MutexGuard<'_, (State, Arc<Policy>)> {
        // Replaced as a whole: a poisoned one is as good as any.
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut guard = self.lock();
        let (state, published) = &mut *guard;
        change(state);
        state.policy.active =
            (0..state.in_use).filter(|pair| state.enabled.get(usize::from(*pair)) == Some(&true)).collect();
        *published = Arc::new(state.policy.clone());
        // ORDERING: Relaxed. Only the hint that there is something to fetch: it is fetched under the mutex, which is
        //           held here. Partner: `changed`.
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is a policy newer than the one `seen`: to be asked once a burst. One load.
    #[inline]
    pub(super) fn changed(&self, seen: u64) -> bool {
        // ORDERING: Relaxed; see `change`. Seen a burst late, the old policy holds for a burst more.
        self.generation.load(Ordering::Relaxed) != seen
    }

    /// The policy, and its generation. Cold: takes a mutex.
    pub(super) fn policy(&self) -> (u64, Arc<Policy>) {
        let guard = self.lock();
        // ORDERING: Relaxed: changes only under the mutex, which is held here.
        (self.generation.load(Ordering::Relaxed), Arc::clone(&guard.1))
    }

    /// A driver begins anew: everything as at the start, one queue pair in use if it has to say so for more.
    pub(crate) fn restart(&self, says_how_many: bool, filters_vlans: bool) {
        self.flows.forget();
        self.change(|state| {
            state.in_use = if says_how_many { 1 } else { self.pairs };
            (state.policy.rss, state.policy.hash) = (None, None);
            state.policy.filter = Filter::new(filters_vlans);
        });
    }

    /// The receive queue of `pair` was set up and enabled, or is no longer.
    pub(crate) fn enable(&self, pair: u16, enabled: bool) {
        self.change(|state| {
            if let Some(before) = state.enabled.get_mut(usize::from(pair)) {
                *before = enabled;
            }
        });
    }

    /// Does as the driver asks. Returns whether it could be done.
    pub(crate) fn obey(&self, command: Command) -> bool {
        let pairs = self.pairs;
        match command {
            Command::QueuePairs(count) if (1..=pairs).contains(&count) => {
                self.change(|state| (state.in_use, state.policy.rss) = (count, None));
            }
            Command::QueuePairs(_) => return false,
            Command::Rss(config) => match Rss::new(&config, pairs) {
                Ok(rss) => self.change(|state| {
                    // The table may name receive queues beyond the transmit queues that are used.
                    state.in_use = pairs;
                    state.policy.rss = Some(rss);
                }),
                Err(error) => return refused(&error),
            },
            Command::Hash(config) => match Hasher::new(config.hash_types, &config.key) {
                Ok(hasher) => self.change(|state| state.policy.hash = Some(hasher)),
                Err(error) => return refused(&error),
            },
            Command::Receive(mode, on) => self.filter(|filter| filter.modes[mode as usize] = on),
            Command::MacTable { unicast, multicast } => {
                self.filter(|filter| (filter.unicast, filter.multicast) = (unicast, multicast));
            }
            Command::MacAddress(mac) => self.filter(|filter| filter.own = Some(mac)),
            Command::VlanAdd(vlan) => self.vlan(vlan, true),
            Command::VlanRemove(vlan) => self.vlan(vlan, false),
            // Whoever asked for it takes note.
            Command::Announced => {}
        }
        true
    }

    fn filter(&self, change: impl FnOnce(&mut Filter)) {
        self.change(|state| change(&mut state.policy.filter));
    }

    fn vlan(&self, vlan: u16, passes: bool) {
        self.filter(|filter| {
            if let Some(words) = &mut filter.vlans {
                let (word, bit) = (usize::from(vlan) / 64 % 64, 1 << (vlan % 64));
                words[word] = if passes { words[word] | bit } else { words[word] & !bit };
            }
        });
    }
}

fn refused(error: &dyn std::error::Error) -> bool {
    log::warn!("driver asks for what is not possible: {error}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::rss::{RssConfig, SYMMETRIC_KEY};

    fn frame(to: Mac, vlan: Option<u16>) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.extend([2; 6]);
        if let Some(vlan) = vlan {
            frame.extend([0x81, 0]);
            frame.extend((vlan | 0xe000).to_be_bytes());
        }
        frame.extend([8, 6, 0, 0]);
        frame
    }

    /// A UDP packet of a flow.
    fn flow(src: u8, dst: u8, source_port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, src, 10, 0, 0, dst]);
        frame.extend(source_port.to_be_bytes());
        frame.extend([0, 53, 0, 8, 0, 0]);
        frame
    }

    fn passes(steering: &Steering, frame: &[u8]) -> bool {
        steering.policy().1.filter.passes(frame)
    }

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];
    const ALL: Mac = [0xff; 6];

    #[test]
    fn only_what_the_driver_wants_passes() {
        let steering = Steering::new(1);
        steering.restart(false, true);
        let set = |mode, on| assert!(steering.obey(Command::Receive(mode, on)));
        let who = || [OWN, OTHER, GROUP, ALL].map(|to| passes(&steering, &frame(to, None)));
        assert_eq!(who(), [true; 4], "promiscuous at the start");
        set(ReceiveMode::Promiscuous, false);
        assert_eq!(who(), [true, true, false, true], "its address is not known");
        steering.obey(Command::MacAddress(OWN));
        assert_eq!(who(), [true, false, false, true]);
        steering.obey(Command::MacTable { unicast: vec![OTHER], multicast: vec![GROUP] });
        assert_eq!(who(), [true; 4]);
        steering.obey(Command::MacTable { unicast: vec![], multicast: vec![] });
        set(ReceiveMode::AllMulticast, true);
        assert_eq!(who(), [true, false, true, true]);
        set(ReceiveMode::AllUnicast, true);
        assert_eq!(who(), [true; 4]);
        set(ReceiveMode::NoMulticast, true);
        set(ReceiveMode::NoBroadcast, true);
        assert_eq!(who(), [true, true, false, false]);
        set(ReceiveMode::NoUnicast, true);
        assert_eq!(who(), [false; 4]);
        steering.restart(false, false);
        assert_eq!(who(), [true; 4]);
    }

    #[test]
    fn vlans_are_shut_out_until_they_are_let_in_where_that_was_negotiated() {
        for (filters, expected) in [(true, [false, true, false]), (false, [true; 3])] {
            let steering = Steering::new(1);
            steering.restart(false, filters);
            steering.obey(Command::Receive(ReceiveMode::Promiscuous, false));
            let at = |vlan| passes(&steering, &frame(ALL, Some(vlan)));
            let before = at(4095);
            assert!(steering.obey(Command::VlanAdd(4095)));
            let between = at(4095);
            assert!(steering.obey(Command::VlanRemove(4095)));
            assert_eq!([before, between, at(4095)], expected);
            assert!(passes(&steering, &frame(ALL, None)), "without a tag");
        }
    }

    #[test]
    fn a_flow_goes_where_its_driver_sent_it_last_both_directions_and_all_of_it() {
        let steering = Steering::new(3);
        (0..3).for_each(|pair| steering.enable(pair, true));
        let (_, policy) = steering.policy();
        let place = |frame: &[u8], own| policy.place(frame, own, &steering.flows, &steering.hasher).unwrap();
        let (there, back) = (flow(1, 2, 1000), {
            let mut back = flow(2, 1, 53);
            back[36..38].copy_from_slice(&1000_u16.to_be_bytes());
            assert_eq!(back[34..38], [0, 53, 3, 0xe8]);
            back
        });
        assert_eq!((place(&back, 0), place(&back, 2)), (0, 2), "not known: where it comes from");
        let hash = steering.hasher.hash(&there).unwrap().0;
        assert!(steering.flows.learn(hash, 1));
        assert!(!steering.flows.learn(hash, 1), "no news");
        assert_eq!((place(&back, 0), place(&back, 2), place(&there, 2)), (1, 1, 2), "what answers it");
        assert!(steering.flows.learn(hash, 2));
        assert_eq!(place(&back, 0), 2, "the driver moved it");
        assert_eq!(place(&flow(1, 2, 1001), 0), 0, "another flow is another");
        assert_eq!(place(&frame(ALL, None), 1), 1, "and what is none stays");
        steering.enable(2, false);
        let (_, policy) = steering.policy();
        assert_eq!(policy.place(&back, 0, &steering.flows, &steering.hasher), Some(0));
        assert_eq!(policy.place(&back, 2, &steering.flows, &steering.hasher), Some(0));
    }

    #[test]
    fn the_table_of_flows_stays_bounded_and_never_mistakes_one_for_another() {
        let table = FlowTable::new();
        for hash in 0..20_000_u32 {
            table.learn(hash.wrapping_mul(0x9e37_79b1), (hash % 4) as u16);
        }
        let found = (0..20_000_u32).filter(|hash| {
            let found = table.find(hash.wrapping_mul(0x9e37_79b1));
            assert!(found.is_none_or(|queue| queue == (hash % 4) as u16));
            found.is_some()
        });
        assert!((WAYS * BUCKETS / 2..=WAYS * BUCKETS).contains(&found.count()));
    }

    #[test]
    fn queue_pairs_are_used_once_they_are_set_up_enabled_and_asked_for() {
        let steering = Steering::new(3);
        let active = || steering.policy().1.active.clone();
        steering.restart(true, false);
        (0..3).for_each(|pair| steering.enable(pair, true));
        assert_eq!(active(), [0]);
        assert!(steering.obey(Command::QueuePairs(2)));
        assert_eq!(active(), [0, 1]);
        for count in [0, 4, 0x8000] {
            assert!(!steering.obey(Command::QueuePairs(count)));
        }
        let rss = |queue, transmit_queues| {
            Command::Rss(RssConfig {
                hash_types: hash_type::SUPPORTED,
                table: vec![queue; 2],
                unclassified_queue: 1,
                transmit_queues,
                key: SYMMETRIC_KEY.to_vec(),
            })
        };
        assert!(!steering.obey(rss(3, 1)), "a queue that there is not");
        assert_eq!(active(), [0, 1], "and nothing has changed");
        assert!(steering.obey(rss(2, 3)));
        let (_, policy) = steering.policy();
        let place = |frame: &[u8]| policy.place(frame, 0, &steering.flows, &steering.hasher);
        assert_eq!(place(&flow(1, 2, 7)), Some(2));
        assert_eq!(place(&frame(ALL, None)), Some(1));
        (0..3).for_each(|pair| steering.enable(pair, false));
        assert_eq!(steering.policy().1.place(&flow(1, 2, 7), 0, &steering.flows, &steering.hasher), None);
    }
}
