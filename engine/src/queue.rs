//! Queue pairs around queue pairs: what lies between a port's driver and a loop that shares the port with others.
//!
//! ```text
//!   loop ─► Steered ─► Carrier ─► Prioritised ─► Several ─► the driver's queue pair      core with queue pairs
//!   loop ─► Steered ─► Relay ┄ ring ┄► Carrier of another core                           core without
//! ```
//!
//! Each is a [`QueuePair`](pmd::QueuePair) and is there only where it was asked for, so that a program which has a port
//! to itself is a call away from the driver. [`deal`] puts them together.

pub(crate) mod arrange;
/// Methods of a [`QueuePair`](pmd::QueuePair) that one around another leaves to that one: the impl shows what it does
/// itself.
macro_rules! forward {
    ($inner:ident: $($method:ident),+) => {
        $($crate::queue::forward!(@$inner $method);)+
    };
    (@$inner:ident tx_burst) => {
        fn tx_burst(&mut self, burst: &mut pmd::port::Burst) -> usize { self.$inner.tx_burst(burst) }
    };
    (@$inner:ident tx_room) => {
        fn tx_room(&mut self) -> usize { self.$inner.tx_room() }
    };
    (@$inner:ident tx_room_urgent) => {
        fn tx_room_urgent(&mut self) -> usize { self.$inner.tx_room_urgent() }
    };
    (@$inner:ident tx_waiting) => {
        fn tx_waiting(&mut self) -> usize { self.$inner.tx_waiting() }
    };
    (@$inner:ident quiesce) => {
        fn quiesce(&mut self) { self.$inner.quiesce(); }
    };
    (@$inner:ident counters) => {
        fn counters(&self) -> pmd::port::QueueCounters { self.$inner.counters() }
    };
    (@$inner:ident extra_counters) => {
        fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) { self.$inner.extra_counters(visit); }
    };
    (@$inner:ident fault) => {
        fn fault(&self) -> Option<pmd::port::QueueFault> { self.$inner.fault() }
    };
    (@$inner:ident arm) => {
        fn arm(&mut self) -> pmd::port::Arm { self.$inner.arm() }
    };
    (@$inner:ident disarm) => {
        fn disarm(&mut self) { self.$inner.disarm(); }
    };
    (@$inner:ident wait_fds) => {
        fn wait_fds(&self, visit: &mut dyn FnMut(std::os::fd::BorrowedFd<'_>)) { self.$inner.wait_fds(visit); }
    };
    (@$inner:ident take_handed_on) => {
        fn take_handed_on(&mut self) -> bool { self.$inner.take_handed_on() }
    };
}
pub(crate) use forward;

pub(crate) mod deal;
pub(crate) mod priority;
pub(crate) mod relay;
pub(crate) mod several;
pub(crate) mod steer;
#[cfg(test)]
pub(crate) mod test_pair;
