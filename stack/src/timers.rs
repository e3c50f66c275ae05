//! A hashed timing wheel: when each flow next wants to be looked at.
//!
//! One intrusive list a slot over arrays indexed by flow, so setting and expiring allocate nothing. A flow that moves
//! its time *later* is left where it is and looked at once for nothing: a retransmission timer moves with every
//! segment, and relinking would touch two other flows' links each time.
//!
//! Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", scheme 6.

use crate::clock::Time;

/// No flow.
const NIL: u32 = u32::MAX;
/// Slots of the wheel, a power of two.
const SLOTS: usize = 8192;
/// A tick is 2^20 ns, about a millisecond; the wheel turns once in 8.6 s.
const TICK_BITS: u32 = 20;

#[derive(Clone, Copy)]
struct Entry {
    prev: u32,
    next: u32,
    /// Tick of the slot it is linked into; `u64::MAX`: not linked.
    tick: u64,
    /// When it is really due.
    due: Time,
}

const UNLINKED: Entry = Entry { prev: NIL, next: NIL, tick: u64::MAX, due: Time::MAX };

/// The wheel.
pub(crate) struct Timers {
    heads: Box<[u32]>,
    /// One bit for each slot that is not empty.
    occupied: Box<[u64]>,
    entries: Vec<Entry>,
    /// All ticks before it have been expired.
    current: u64,
    linked: usize,
}

impl Timers {
    /// A wheel for at most `capacity` flows, that starts at `now`.
    pub fn new(capacity: usize, now: Time) -> Self {
        Timers {
            heads: vec![NIL; SLOTS].into_boxed_slice(),
            occupied: vec![0; SLOTS / 64].into_boxed_slice(),
            entries: Vec::with_capacity(capacity),
            current: now.ns() >> TICK_BITS,
            linked: 0,
        }
    }

    /// Makes room for flow `index`.
    pub fn cover(&mut self, index: u32) {
        if self.entries.len() <= index as usize {
            self.entries.resize(index as usize + 1, UNLINKED);
        }
    }

    /// Flow `index` is due at `due`; [`Time::MAX`]: never.
    #[inline]
    pub fn set(&mut self, index: u32, due: Time) {
        let entry = &mut self.entries[index as usize];
        entry.due = due;
        // The tick after: a timer must not fire early.
        let tick = (due.ns() >> TICK_BITS).saturating_add(1).max(self.current);
        if entry.tick != u64::MAX {
            if tick >= entry.tick {
                return;
            }
            self.unlink(index);
        } else if due == Time::MAX {
            return;
        }
        self.link(index, tick);
    }

    /// Flow `index` is gone.
    pub fn cancel(&mut self, index: u32) {
        if self.entries[index as usize].tick != u64::MAX {
            self.unlink(index);
        }
        self.entries[index as usize].due = Time::MAX;
    }

    fn slot(tick: u64) -> usize {
        usize::try_from(tick % SLOTS as u64).unwrap_or(0)
    }

    fn link(&mut self, index: u32, tick: u64) {
        // Beyond one turn: looked at after one turn and linked again.
        let tick = tick.min(self.current + SLOTS as u64 - 1);
        let slot = Self::slot(tick);
        let head = self.heads[slot];
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next, entry.tick) = (NIL, head, tick);
        if head != NIL {
            self.entries[head as usize].prev = index;
        }
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.linked += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, tick, .. } = self.entries[index as usize];
        let slot = Self::slot(tick);
        match prev {
            NIL => self.heads[slot] = next,
            prev => self.entries[prev as usize].next = next,
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if self.heads[slot] == NIL {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.entries[index as usize].tick = u64::MAX;
        self.linked -= 1;
    }

    /// Whether [`expire`](Self::expire) has anything to do: at most once a tick.
    #[inline]
    pub fn is_due(&self, now: Time) -> bool {
        self.current <= now.ns() >> TICK_BITS
    }

    /// Calls `due` for at most `budget` flows whose time has come by `now`; each is then set no more. Returns how many
    /// were looked at; less than `budget` means all are done.
    pub fn expire(&mut self, now: Time, budget: usize, mut due: impl FnMut(u32)) -> usize {
        let end = now.ns() >> TICK_BITS;
        let mut looked_at = 0;
        while self.current <= end {
            if self.linked == 0 {
                self.current = end + 1;
                break;
            }
            let slot = Self::slot(self.current);
            while self.heads[slot] != NIL {
                if looked_at == budget {
                    return looked_at;
                }
                looked_at += 1;
                let index = self.heads[slot];
                self.unlink(index);
                let at = self.entries[index as usize].due;
                if at <= now {
                    self.entries[index as usize].due = Time::MAX;
                    due(index);
                } else if at != Time::MAX {
                    self.link(index, ((at.ns() >> TICK_BITS) + 1).max(self.current + 1));
                }
            }
            // Empty slots are passed over 64 at a time.
            self.current += 1;
            let word = Self::slot(self.current);
            if word.is_multiple_of(64) && self.occupied[word / 64] == 0 {
                self.current = (self.current + 64).min(end + 1);
            }
        }
        looked_at
    }

    /// A time at which something may be due: never later than the earliest timer, rounded up to its tick.
    pub fn next(&self) -> Option<Time> {
        if self.linked == 0 {
            return None;
        }
        let mut tick = self.current;
        loop {
            let slot = Self::slot(tick);
            let word = self.occupied[slot / 64] >> (slot % 64);
            if word != 0 {
                let tick = tick + u64::from(word.trailing_zeros());
                return Some(Time::from_ns(tick << TICK_BITS));
            }
            tick += 64 - slot as u64 % 64;
        }
    }
}

#[cfg(test)]
mod tests;
