//! Packets that wait until the Ethernet address of their next hop is known.
//!
//! One pool for all destinations: slots linked into one queue per destination. Slots keep the memory of packets
//! of ordinary size, so a warmed-up pool allocates nothing for those.

/// Memory that an empty slot keeps, bytes: a packet of an ordinary link.
const KEEP_BYTES: usize = 2048;

/// Ends of one destination's queue of slots.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    head: Option<u32>,
    tail: Option<u32>,
    len: u32,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Slot {
    packet: Vec<u8>,
    next: Option<u32>,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Pending {
    slots: Vec<Slot>,
    free: Option<u32>,
    used: usize,
    bytes: usize,
    limits: PendingLimits,
}

/// Bounds of the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingLimits {
    /// Packets for one destination.
    pub(crate) packets_per_destination: u32,
    /// Bytes for one destination; one packet always fits.
    pub(crate) bytes_per_destination: usize,
    /// Packets for all destinations.
    pub(crate) packets: u32,
    /// Bytes for all destinations.
    pub(crate) bytes: usize,
}

impl Pending {
    pub(crate) fn new(limits: PendingLimits) -> Self {
        Self { slots: Vec::with_capacity(limits.packets as usize), free: None, used: 0, bytes: 0, limits }
    }

    /// Packets in all queues.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Adds a packet of `len` bytes, which `fill` writes. `false` if a limit is reached; then `fill` is not called.
    pub(crate) fn push(&mut self, queue: &mut Queue, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let over_bytes = queue.len > 0 && queue.bytes + len > self.limits.bytes_per_destination;
        let full = queue.len >= self.limits.packets_per_destination || self.bytes + len > self.limits.bytes;
        if full || over_bytes {
            return false;
        }
        let at = match self.free {
            Some(at) => {
                self.free = self.slots[at as usize].next.take();
                at
            }
            None => {
                let Some(at) = u32::try_from(self.slots.len()).ok().filter(|&n| n < self.limits.packets)
                else {
                    return false;
                };
                self.slots.push(Slot::default());
                at
            }
        };
        let slot = &mut self.slots[at as usize];
        slot.packet.clear();
        slot.packet.resize(len, 0);
        fill(&mut slot.packet);
        match queue.tail {
            Some(tail) => self.slots[tail as usize].next = Some(at),
            None => queue.head = Some(at),
        }
        queue.tail = Some(at);
        queue.len += 1;
        queue.bytes += len;
        self.bytes += len;
        self.used += 1;
        true
    }

    /// Takes the oldest packet out. Give the memory back with [`Pending::free`].
    pub(crate) fn pop(&mut self, queue: &mut Queue) -> Option<(u32, Vec<u8>)> {
        let at = queue.head?;
        let slot = &mut self.slots[at as usize];
        queue.head = slot.next.take();
        if queue.head.is_none() {
            queue.tail = None;
        }
        queue.len -= 1;
        let packet = core::mem::take(&mut slot.packet);
        queue.bytes -= packet.len();
        self.bytes -= packet.len();
        Some((at, packet))
    }

    /// Takes back what [`Pending::pop`] gave.
    pub(crate) fn free(&mut self, (at, packet): (u32, Vec<u8>)) {
        let slot = &mut self.slots[at as usize];
        if packet.capacity() <= KEEP_BYTES {
            slot.packet = packet;
        }
        slot.next = self.free.replace(at);
        self.used -= 1;
    }

    /// Empties a queue; returns how many packets it had.
    pub(crate) fn discard(&mut self, mut queue: Queue) -> u64 {
        let mut packets = 0;
        while let Some(taken) = self.pop(&mut queue) {
            self.free(taken);
            packets += 1;
        }
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pending {
        Pending::new(PendingLimits {
            packets_per_destination: 4,
            bytes_per_destination: 1000,
            packets: 6,
            bytes: 100_000,
        })
    }

    #[test]
    fn packets_leave_in_the_order_they_came() {
        let mut pool = pool();
        let mut queue = Queue::default();
        for n in 1..=3u8 {
            assert!(pool.push(&mut queue, usize::from(n), |b| b.fill(n)));
        }
        for n in 1..=3u8 {
            let taken = pool.pop(&mut queue).unwrap();
            assert_eq!(taken.1, vec![n; usize::from(n)]);
            pool.free(taken);
        }
        assert!(pool.pop(&mut queue).is_none());
        assert_eq!((pool.len(), queue), (0, Queue::default()));
    }

    #[test]
    fn count_and_bytes_are_bounded_per_destination_and_in_all() {
        let mut pool = pool();
        let mut queues = [Queue::default(), Queue::default(), Queue::default()];
        let [a, b, c] = &mut queues;
        assert!(pool.push(a, 60_000, |_| ()), "one packet always fits");
        assert!(!pool.push(a, 1, |_| ()), "bytes");
        for _ in 0..4 {
            assert!(pool.push(b, 10, |_| ()));
        }
        assert!(!pool.push(b, 10, |_| ()), "count");
        assert!(pool.push(c, 10, |_| ()));
        assert!(!pool.push(c, 10, |_| ()), "all");
        let discarded = queues.map(|q| pool.discard(q));
        assert_eq!(discarded, [1, 4, 1]);
        assert_eq!(pool.len(), 0);
        let [a, b, _] = &mut [Queue::default(), Queue::default(), Queue::default()];
        assert!(pool.push(a, 60_000, |_| ()));
        assert!(!pool.push(b, 60_000, |_| ()), "bytes of all");
        let taken = pool.pop(a).unwrap();
        pool.free(taken);
        assert!(pool.slots.iter().all(|slot| slot.packet.capacity() <= KEEP_BYTES));
        let mut again = Queue::default();
        assert!(pool.push(&mut again, 10, |_| ()), "slots are used again");
        assert_eq!(pool.slots.len(), 6);
    }
}
