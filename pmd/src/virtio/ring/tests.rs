//! The driver's side of every format against one naive model, with devices that work in any order, in order, and in
//! order by batches; in every size and from places near the wraps.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::played::{Held, Played, packed_start};
use super::{DriverRing, Piece, QueueMemory, Tables};
use crate::mem::{HomePool, Mbuf, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::virtio::packed::driver::PackedDriver;
use crate::virtio::spec::feature;
use crate::virtio::split::driver::SplitDriver;
use crate::virtio::transport::Notifier;

/// A format, for the tests: how to start it anywhere, and what it stands for.
pub(crate) trait TestRing: DriverRing {
    const PACKED: bool;
    const IN_ORDER: bool;
    /// Starts `start` places after the beginning.
    fn start(memory: &QueueMemory, region: &Arc<Region>, features: u64, start: u16) -> Self;
}

impl<const IN_ORDER: bool> TestRing for SplitDriver<IN_ORDER> {
    const PACKED: bool = false;
    const IN_ORDER: bool = IN_ORDER;
    fn start(memory: &QueueMemory, region: &Arc<Region>, features: u64, start: u16) -> Self {
        Self::starting_at(memory, region, features, start)
    }
}

impl<const IN_ORDER: bool> TestRing for PackedDriver<IN_ORDER> {
    const PACKED: bool = true;
    const IN_ORDER: bool = IN_ORDER;
    fn start(memory: &QueueMemory, region: &Arc<Region>, features: u64, start: u16) -> Self {
        Self::starting_at(memory, region, features, packed_start(memory.size, start))
    }
}

/// A queue, its device, and the pool of what goes through it.
struct Bed<R> {
    driver: R,
    device: Played,
    pool: HomePool,
    event: EventFd,
}

impl<R: TestRing> Bed<R> {
    fn new(size: u16, mbufs: usize, start: u16, event_idx: bool, indirect: bool) -> Self {
        let pool = PoolConfig { mbufs, headroom_bytes: 64, data_room_bytes: 64 };
        let len_bytes = pool.region_bytes() + QueueMemory::region_bytes(size) + Tables::REGION_BYTES + 4096;
        let region =
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
        let memory = QueueMemory::carve(&region, size, R::PACKED).unwrap();
        let features = if event_idx { feature::EVENT_IDX } else { 0 };
        let mut driver = R::start(&memory, &region, features, start);
        if indirect {
            driver.lend(Tables::new(&region, size, R::PACKED).unwrap());
        }
        let device = Played::of(&memory, start, event_idx);
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        driver.set_notifier(Notifier::EventFd(event.try_clone().unwrap().into()));
        Self { driver, device, pool: Pool::new(&region, pool).unwrap().adopt().unwrap(), event }
    }

    fn frame(&self, tag: u64) -> Mbuf {
        let mut mbuf = self.pool.alloc().unwrap();
        mbuf.append(8).unwrap().copy_from_slice(&tag.to_be_bytes());
        mbuf
    }
}

/// The tag of a frame, all ones for an empty one.
fn tag(mbuf: &Mbuf) -> u64 {
    mbuf.data().first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver posts one buffer.
    Post,
    /// The driver posts empty mbufs wherever there is room.
    Rooms,
    /// A chain of a header and so many segments.
    Chain(usize),
    Publish,
    /// The device asks for a notification so far ahead, or for none.
    Want(Option<u16>),
    /// The device takes up to so many buffers.
    Take(usize),
    /// The device gives back the n-th of those it holds.
    GiveBack(usize, u32),
    /// The first so many of them, with one used element.
    Batch(usize, u32),
    /// The driver takes back up to so many, having asked how many there are.
    Complete(usize),
    /// The same in one go, of which it has had enough after so many.
    TakeEach(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Post),
        2 => (1_usize..9).prop_map(Step::Chain),
        3 => Just(Step::Publish),
        1 => prop::option::of(0_u16..12).prop_map(Step::Want),
        2 => (0_usize..20).prop_map(Step::Take),
        4 => (any::<usize>(), any::<u32>()).prop_map(|(which, len)| Step::GiveBack(which, len)),
        2 => (1_usize..12, any::<u32>()).prop_map(|(count, len)| Step::Batch(count, len)),
        2 => (0_usize..40).prop_map(Step::Complete),
        2 => (0_usize..40, 0_usize..80).prop_map(|(most, enough)| Step::TakeEach(most, enough)),
        1 => Just(Step::Rooms),
    ];
    prop::collection::vec(step, 0..300)
}

/// What the driver has given to the device, and not got back.
struct Expected {
    tag: u64,
    pieces: Vec<(u64, u32)>,
}

/// Whether the event of `wish` lies within the places `old..new`, counted from the beginning and told modulo `period`.
fn is_due(wish: Option<u64>, old: u64, new: u64, period: u64) -> bool {
    wish.is_some_and(|wish| (old..new).any(|place| place % period == wish % period))
}

/// What the driver posts, the device sees once published, in order and byte for byte; what the device gives back comes
/// out with its own mbuf and length; no descriptor is ever in two places; a notification is sent when it was asked for.
fn follows_the_model<R: TestRing>(size: u16, start: u16, event_idx: bool, indirect: bool, steps: &[Step]) {
    let Bed { mut driver, mut device, pool, event, .. } =
        Bed::<R>::new(size, 9 * usize::from(size) + 16, start, event_idx, indirect);
    let frame = |tag: u64| {
        let mut mbuf = pool.alloc().unwrap();
        mbuf.append(8).unwrap().copy_from_slice(&tag.to_be_bytes());
        mbuf
    };
    let (mut unpublished, mut published) = (VecDeque::new(), VecDeque::<Expected>::new());
    let mut held: VecDeque<(Held, u64)> = VecDeque::new();
    let mut given_back: VecDeque<(u64, u32, Held)> = VecDeque::new();
    let (mut free, mut next_tag, mut outstanding) = (usize::from(size), 0, 0_u16);
    // Places: buffers of a split queue, descriptors of a packed one.
    let (mut posted, mut shown, mut taken) = (0_u64, 0_u64, 0_u64);
    let period = if R::PACKED { 2 * u64::from(size) } else { 65_536 };
    // Indirect tables that are free, and what a chain takes of the ring.
    let mut tables = if indirect { 64 } else { 0 };
    let in_ring =
        |pieces: usize, tables: usize| if (5..=40).contains(&pieces) && tables > 0 { 1 } else { pieces };
    let mut wish = None;
    device.want(None);
    if event_idx && !R::PACKED {
        wish = Some(65_535);
    }
    for step in steps {
        match *step {
            Step::Post if free > 0 => {
                let mbuf = frame(next_tag);
                let piece = Piece::of(&mbuf);
                driver.post(mbuf, piece, false);
                unpublished.push_back(Expected { tag: next_tag, pieces: vec![(piece.address, piece.len)] });
                (next_tag, free, outstanding, posted) = (next_tag + 1, free - 1, outstanding + 1, posted + 1);
            }
            Step::Chain(segments) if free >= in_ring(segments + 1, tables) => {
                let mut mbuf = frame(next_tag);
                for _ in 1..segments {
                    mbuf.chain(frame(u64::MAX));
                }
                let first = Piece { address: 0xabc0, len: 12 };
                let pieces: Vec<(u64, u32)> = std::iter::once((first.address, first.len))
                    .chain(mbuf.segments().map(|s| (s.iova().0, 8)))
                    .collect();
                let taken = in_ring(pieces.len(), tables);
                assert_eq!(driver.needs(pieces.len()), taken);
                tables -= usize::from(taken < pieces.len());
                posted += if R::PACKED { taken as u64 } else { 1 };
                free -= taken;
                driver.post_chain(mbuf, first);
                unpublished.push_back(Expected { tag: next_tag, pieces });
                (next_tag, outstanding) = (next_tag + 1, outstanding + 1);
            }
            Step::Rooms => {
                let mut tags = Vec::new();
                let count = driver.post_rooms((0..free.min(7)).map(|_| {
                    let mbuf = pool.alloc().unwrap();
                    let room = Piece::room_of(&mbuf);
                    tags.push(Expected { tag: u64::MAX, pieces: vec![(room.address, room.len)] });
                    mbuf
                }));
                assert_eq!(usize::from(count), free.min(7));
                (free, outstanding, posted) =
                    (free - tags.len(), outstanding + count, posted + u64::from(count));
                unpublished.extend(tags);
            }
            Step::Post | Step::Chain(_) => {}
            Step::Publish => {
                let expected = if event_idx {
                    is_due(wish, shown, posted, period)
                } else {
                    wish.is_some() && shown < posted
                };
                assert_eq!(driver.publish(), expected, "{shown}..{posted}, wish {wish:?}");
                assert_eq!(event.read().ok(), expected.then_some(1), "one write for all of them");
                published.append(&mut unpublished);
                shown = posted;
            }
            Step::Want(ahead) => {
                let ahead = ahead.map(|ahead| ahead % size);
                device.want(ahead);
                wish = match ahead {
                    // A whole lap of the index away.
                    None if event_idx && !R::PACKED => Some(taken + period - 1),
                    ahead => ahead.map(|ahead| taken + u64::from(ahead)),
                };
            }
            Step::Take(most) => {
                for _ in 0..most {
                    let Some(got) = device.take() else {
                        assert!(published.is_empty());
                        break;
                    };
                    let expected = published.pop_front().expect("the device sees only what was published");
                    let seen: Vec<(u64, u32)> = got.descriptors.iter().map(|d| (d.0, d.1)).collect();
                    assert_eq!(seen, expected.pieces);
                    taken += if R::PACKED { u64::from(got.in_ring) } else { 1 };
                    held.push_back((got, expected.tag));
                }
            }
            Step::GiveBack(which, len) if !held.is_empty() => {
                let which = if R::IN_ORDER { 0 } else { which % held.len() };
                let (got, tag) = held.remove(which).unwrap();
                device.give_back(&got, len);
                given_back.push_back((tag, len, got));
            }
            Step::Batch(count, len) if R::IN_ORDER => {
                let count = count.min(held.len());
                let (batch, tags): (Vec<Held>, Vec<u64>) = held.drain(..count).unzip();
                device.give_back_batch(&batch, len);
                for (at, (got, tag)) in batch.into_iter().zip(tags).enumerate() {
                    // 64 bytes of room, from the start of the data.
                    let len = if at + 1 == count { len } else { 64 };
                    given_back.push_back((tag, len, got));
                }
            }
            Step::GiveBack(..) | Step::Batch(..) => {}
            Step::TakeEach(most, enough) => {
                let mut taken = Vec::new();
                driver.take_each::<true>(most, |mbuf, len| {
                    taken.push((tag(&mbuf), len));
                    taken.len() < enough
                });
                assert_eq!(taken.len(), most.min(enough.max(1)).min(given_back.len()));
                for got in taken {
                    let (expected, stated, held) = given_back.pop_front().unwrap();
                    assert_eq!(got, (expected, stated));
                    (free, outstanding) = (free + usize::from(held.in_ring), outstanding - 1);
                    tables += usize::from(usize::from(held.in_ring) < held.descriptors.len());
                }
            }
            Step::Complete(most) => {
                let ready = usize::from(driver.ready(most).unwrap());
                assert!(ready <= given_back.len() && ready >= most.min(given_back.len()), "{ready}");
                for _ in 0..ready.min(most) {
                    let (expected, stated, held) = given_back.pop_front().unwrap();
                    assert_eq!(driver.peek().map(tag), Some(expected));
                    let (mbuf, len) = driver.complete().unwrap();
                    assert_eq!((tag(&mbuf), len), (expected, stated));
                    (free, outstanding) = (free + usize::from(held.in_ring), outstanding - 1);
                    tables += usize::from(usize::from(held.in_ring) < held.descriptors.len());
                }
            }
        }
        assert_eq!((usize::from(driver.free()), driver.outstanding()), (free, outstanding));
    }
    drop(driver);
    drop((held, published));
    assert_eq!(pool.levels().free, pool.levels().mbufs);
}

/// Powers of two for the split format, any size for the packed one.
pub(crate) fn sizes(packed: bool) -> BoxedStrategy<u16> {
    if packed { (1_u16..=70).boxed() } else { (0_u32..=8).prop_map(|log| 1 << log).boxed() }
}

pub(crate) fn start() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(u16::MAX), 65_500..=u16::MAX, any::<u16>()]
}

proptest! {
    #[test]
    fn split_follows_the_model(size in sizes(false), start in start(), extras in any::<(bool, bool)>(), steps in steps()) {
        follows_the_model::<SplitDriver<false>>(size, start, extras.0, extras.1, &steps);
    }

    #[test]
    fn split_in_order_follows_the_model(
        size in sizes(false), start in start(), extras in any::<(bool, bool)>(), steps in steps(),
    ) {
        follows_the_model::<SplitDriver<true>>(size, start, extras.0, extras.1, &steps);
    }

    #[test]
    fn packed_follows_the_model(size in sizes(true), start in start(), extras in any::<(bool, bool)>(), steps in steps()) {
        follows_the_model::<PackedDriver<false>>(size, start, extras.0, extras.1, &steps);
    }

    #[test]
    fn packed_in_order_follows_the_model(
        size in sizes(true), start in start(), extras in any::<(bool, bool)>(), steps in steps(),
    ) {
        follows_the_model::<PackedDriver<true>>(size, start, extras.0, extras.1, &steps);
    }
}

/// Whoever sleeps is told: arming looks once more, and from then on the device knows that it has to speak.
fn arms_and_disarms<R: TestRing>(event_idx: bool) {
    for start in [0, 7, 65_535] {
        let mut bed = Bed::<R>::new(8, 16, start, event_idx, false);
        assert!(!bed.device.driver_wants_next(), "it polls from the start");
        for number in 0..40 {
            let frame = bed.frame(number);
            let piece = Piece::of(&frame);
            bed.driver.post(frame, piece, false);
            bed.driver.publish();
            let held = bed.device.take().unwrap();
            assert!(bed.driver.arm(), "nothing was used yet");
            assert!(bed.device.driver_wants_next());
            bed.driver.disarm();
            assert!(!bed.device.driver_wants_next());
            bed.device.give_back(&held, 0);
            assert!(!bed.driver.arm(), "something is there: no sleep");
            bed.driver.disarm();
            assert_eq!(bed.driver.ready(1).unwrap(), 1);
            assert!(!bed.driver.arm(), "still there");
            assert_eq!(bed.driver.complete().map(|(mbuf, _)| tag(&mbuf)), Some(number));
            bed.driver.disarm();
        }
    }
}

#[test]
fn every_format_arms_and_disarms() {
    for event_idx in [false, true] {
        arms_and_disarms::<SplitDriver<false>>(event_idx);
        arms_and_disarms::<SplitDriver<true>>(event_idx);
        arms_and_disarms::<PackedDriver<false>>(event_idx);
        arms_and_disarms::<PackedDriver<true>>(event_idx);
    }
}
