//! Cursors and event suppression against plain arithmetic.

use proptest::prelude::*;

use super::{Areas, Cursor, Event};
use crate::virtio::spec::packed::{
    DESC_F_AVAIL, DESC_F_USED, EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE, EVENT_WRAP,
};

/// Areas of which only the size is used.
fn ring(size: u16) -> Areas {
    let nowhere = std::ptr::null_mut();
    // SAFETY: the tests below touch none of the areas.
    unsafe { Areas::new(nowhere, nowhere, nowhere, size) }
}

/// The cursor after `steps` descriptors from the start.
fn after(size: u16, steps: u32) -> Cursor {
    let (lap, position) = (steps / u32::from(size), steps % u32::from(size));
    ring(size).cursor(u16::try_from(position).unwrap(), lap.is_multiple_of(2))
}

#[test]
fn flags_are_those_of_the_specification() {
    // virtio 1.2 §2.8.1: available is AVAIL == wrap, USED != wrap; used is both == wrap.
    let ring = ring(3);
    let [first, second] = [true, false].map(|wrap| ring.cursor(1, wrap));
    assert_eq!((first.available_flags(), first.used_flags()), (DESC_F_AVAIL, DESC_F_AVAIL | DESC_F_USED));
    assert_eq!((second.available_flags(), second.used_flags()), (DESC_F_USED, 0));
    assert!(first.is_available(DESC_F_AVAIL | 3) && !first.is_used(DESC_F_AVAIL));
    assert!(second.is_used(2) && !second.is_available(2) && !first.is_used(2));
    assert_eq!((first.off_wrap(), second.off_wrap()), (1 | EVENT_WRAP, 1));
}

proptest! {
    #[test]
    fn advancing_is_counting(
        size in prop_oneof![1_u16..20, Just(32_768)],
        steps in 0_u32..200_000,
        count in any::<u16>(),
    ) {
        let count = count % (size + 1);
        let there = ring(size).advance(after(size, steps), count);
        prop_assert_eq!(there, after(size, steps + u32::from(count)));
    }

    /// A notification is sent exactly if the descriptor that was asked for is among those handed over.
    #[test]
    fn an_event_is_wanted_once_its_descriptor_is_handed_over(
        size in prop_oneof![1_u16..20, Just(32_768)],
        steps in 0_u32..100_000,
        count in any::<u16>(),
        ahead in any::<u16>(),
    ) {
        let (count, ahead) = (count % (size + 1), ahead % size);
        let end = after(size, steps + u32::from(count));
        let asked = Event { off_wrap: after(size, steps + u32::from(ahead)).off_wrap(), flags: EVENT_F_DESC };
        prop_assert_eq!(ring(size).wants(asked, end, count), ahead < count);
        let with = |flags| ring(size).wants(Event { flags, ..asked }, end, count);
        prop_assert_eq!((with(EVENT_F_ENABLE), with(EVENT_F_DISABLE)), (true, false));
    }
}
