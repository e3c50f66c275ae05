// Tests make bytes out of counters all the time.
#![allow(clippy::cast_possible_truncation)]

use proptest::prelude::*;

use super::*;

const LIMITS: ReassemblyLimits = ReassemblyLimits { datagrams: 8, bytes: 300_000 };

fn key(ident: u32) -> Key {
    let (src, dst) = (IpAddress::v4(10, 0, 0, 2), IpAddress::v4(10, 0, 0, 1));
    Key { src, dst, ident, protocol: Some(IpProtocol::Udp) }
}

fn fragment(ident: u32, offset: usize, data: &[u8], more: bool) -> Fragment<'_> {
    Fragment { key: key(ident), protocol: IpProtocol::Udp, offset, more, header: &[0x45; 20], data }
}

/// What adding came to, as something that can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Waiting,
    Whole(Vec<u8>),
    Refused(Refused),
}

fn add(reassembly: &mut Reassembly, fragment: &Fragment<'_>) -> Came {
    match reassembly.add(Time::from_ns(0), fragment, &mut 0) {
        Ok(Added::Waiting) => Came::Waiting,
        Ok(Added::Whole(whole)) => {
            let bytes = whole.with_header(0, |_| ());
            let came = bytes.clone();
            reassembly.recycle(bytes);
            Came::Whole(came)
        }
        Err(why) => Came::Refused(why),
    }
}

/// The plainest reassembly there is: a byte or nothing for each place.
#[derive(Default)]
struct Model {
    bytes: Vec<Option<u8>>,
    total: Option<usize>,
    poisoned: bool,
}

impl Model {
    fn add(&mut self, offset: usize, data: &[u8], more: bool) -> Came {
        let end = offset + data.len();
        if data.is_empty() || (more && !data.len().is_multiple_of(8)) || end + 20 > 65_535 {
            return Came::Refused(Refused::Bad);
        }
        if self.poisoned {
            return Came::Refused(Refused::Overlap);
        }
        let told_end = if more { None } else { Some(end) };
        let beyond = match (self.total, told_end) {
            (Some(total), None) => end >= total,
            (Some(total), Some(told)) => told != total,
            (None, Some(told)) => self.bytes.len() > told,
            (None, None) => false,
        };
        if self.bytes.len() < end {
            self.bytes.resize(end, None);
        }
        let place = &mut self.bytes[offset..end];
        let duplicate = place.iter().zip(data).all(|(have, new)| *have == Some(*new));
        if beyond || (!duplicate && place.iter().any(Option::is_some)) {
            self.poisoned = true;
            return Came::Refused(Refused::Overlap);
        }
        for (have, new) in place.iter_mut().zip(data) {
            *have = Some(*new);
        }
        if !duplicate {
            self.total = self.total.or(told_end);
        }
        match (self.total, self.bytes.iter().copied().collect::<Option<Vec<u8>>>()) {
            (Some(total), Some(whole)) if whole.len() == total && !duplicate => Came::Whole(whole),
            _ => Came::Waiting,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Fragments at random places in a small datagram, so that they meet: the same verdicts as the model's.
    #[test]
    fn agrees_with_a_byte_by_byte_model(
        fragments in prop::collection::vec((0usize..12, 1usize..40, any::<bool>(), 0u8..8), 1..40),
    ) {
        let mut reassembly = Reassembly::new(LIMITS);
        let mut model = Model::default();
        for (place, len, more, lie) in fragments {
            let (offset, len) = (place * 8, if more { len.div_ceil(8) * 8 } else { len });
            // Bytes that depend on their place only, so that copies are true ones; seldom a lie.
            let tint = if lie == 0 { 0x80 } else { 0 };
            let data: Vec<u8> = (offset..offset + len).map(|n| (n % 101) as u8 | tint).collect();
            let came = add(&mut reassembly, &fragment(1, offset, &data, more));
            let expected = model.add(offset, &data, more);
            prop_assert_eq!(&came, &expected);
            prop_assert!(reassembly.bytes() <= LIMITS.bytes);
            if matches!(came, Came::Whole(_)) {
                prop_assert_eq!((reassembly.len(), reassembly.bytes()), (0, 0));
                model = Model::default();
            }
        }
    }

    /// Any order of the fragments of any datagram puts it together, with duplicates among them.
    #[test]
    fn any_order_makes_the_datagram(
        len in 1usize..20_000,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let data: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
        let pieces: Vec<_> = crate::fragment::pieces(len, 20, 1500).collect();
        let mut reassembly = Reassembly::new(LIMITS);
        let mut sent: Vec<usize> = order.iter().map(|i| i.index(pieces.len())).collect();
        sent.extend(0..pieces.len());
        let mut whole = None;
        for n in sent {
            let (offset, len, more) = pieces[n];
            match add(&mut reassembly, &fragment(1, offset, &data[offset..offset + len], more)) {
                Came::Whole(bytes) => {
                    whole = Some(bytes);
                    break;
                }
                came => prop_assert_eq!(came, Came::Waiting),
            }
        }
        prop_assert_eq!(whole, Some(data));
    }
}

#[test]
fn the_oldest_makes_room_for_the_newest() {
    let mut reassembly = Reassembly::new(LIMITS);
    let mut evicted = 0;
    for ident in 0..20 {
        let fragment = fragment(ident, 8, &[1; 8], true);
        reassembly.add(Time::from_ns(u64::from(ident)), &fragment, &mut evicted).unwrap();
    }
    assert_eq!((reassembly.len(), evicted), (8, 12));
    assert_eq!(add(&mut reassembly, &fragment(12, 0, &[1; 8], true)), Came::Waiting);
    assert_eq!(reassembly.len(), 8, "12 is among the eight newest");
}

#[test]
fn bytes_are_bounded_even_by_lone_fragments_at_the_far_end() {
    let mut reassembly = Reassembly::new(LIMITS);
    let mut evicted = 0;
    for ident in 0..100 {
        let fragment = fragment(ident, 65_000, &[1; 8], true);
        reassembly.add(Time::from_ns(0), &fragment, &mut evicted).unwrap();
        assert!(reassembly.bytes() <= LIMITS.bytes);
    }
    assert!(evicted >= 90);
    // One datagram that is larger than all memory there is.
    let mut small = Reassembly::new(ReassemblyLimits { datagrams: 8, bytes: 1000 });
    assert_eq!(add(&mut small, &fragment(1, 0, &[0; 800], true)), Came::Waiting);
    assert_eq!(add(&mut small, &fragment(1, 800, &[0; 800], true)), Came::Refused(Refused::Full));
    assert_eq!(small.bytes(), 0);
    assert_eq!(add(&mut small, &fragment(2, 0, &[0; 800], true)), Came::Waiting);
}

#[test]
fn too_many_gaps_are_refused() {
    let mut reassembly = Reassembly::new(LIMITS);
    for n in 0..MAX_RUNS {
        assert_eq!(add(&mut reassembly, &fragment(1, n * 16, &[0; 8], true)), Came::Waiting);
    }
    let next = MAX_RUNS * 16;
    assert_eq!(add(&mut reassembly, &fragment(1, next, &[0; 8], true)), Came::Refused(Refused::Full));
    assert_eq!(
        add(&mut reassembly, &fragment(1, 8, &[0; 8], true)),
        Came::Refused(Refused::Overlap),
        "dropped"
    );
}

#[test]
fn time_runs_out_per_version() {
    let mut reassembly = Reassembly::new(LIMITS);
    add(&mut reassembly, &fragment(1, 0, &[7; 16], true));
    let v6 = IpAddress::v6(0x2001, 0, 0, 0, 0, 0, 0, 1);
    let key = Key { src: v6, dst: v6, ident: 1, protocol: None };
    add(&mut reassembly, &Fragment { key, ..fragment(1, 8, &[7; 16], true) });
    let second = |s: u64| Time::from_ns(s * 1_000_000_000);
    assert_eq!(reassembly.poll_at(), Some(second(30)));
    let mut reported = Vec::new();
    assert!(!reassembly.expire(second(29), |_| panic!("too early")));
    assert!(reassembly.expire(second(30), |first| reported.extend([first.header, first.payload].concat())));
    assert_eq!(reported, [&[0x45; 20][..], &[7; 16]].concat());
    assert_eq!(reassembly.poll_at(), Some(second(60)));
    assert!(reassembly.expire(second(60), |_| panic!("its first fragment is missing")));
    assert_eq!((reassembly.len(), reassembly.bytes(), reassembly.poll_at()), (0, 0, None));
}

#[test]
fn memory_is_used_again() {
    let mut reassembly = Reassembly::new(LIMITS);
    let data = [5; 8000];
    let mut place = None;
    for ident in 0..50 {
        add(&mut reassembly, &fragment(ident, 0, &data, true));
        let memory = reassembly.datagrams[0].memory.as_ptr();
        // After the first datagram the buffer is large enough, and stays.
        assert!(ident < 2 || place == Some(memory));
        place = Some(memory);
        assert!(matches!(add(&mut reassembly, &fragment(ident, 8000, &data, false)), Came::Whole(_)));
        place = Some(reassembly.spare[0].as_ptr()).or(place);
    }
}
