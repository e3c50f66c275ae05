//! TIME-WAIT without a socket: what is needed to answer a late FIN, and to let the peer begin anew.

use std::time::Duration;

use hashbrown::HashTable;

use crate::clock::Time;
use crate::tuple::Tuple;

/// A connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub tuple: Tuple,
    pub hash: u64,
    /// Our next sequence number.
    pub snd_nxt: u32,
    /// The peer's next sequence number.
    pub rcv_nxt: u32,
    until: Time,
    /// Still in the table (a tuple may be used again before its time).
    live: bool,
}

/// The table: a ring in the order of expiry, as all stay equally long, and a hash table of places in it.
pub(crate) struct TimeWait {
    ring: Vec<Entry>,
    limit: usize,
    /// Place of the oldest, and how many follow it.
    first: usize,
    len: usize,
    table: HashTable<u32>,
    remembered: usize,
    timeout: Duration,
}

/// What a segment to a connection in TIME-WAIT means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A new connection may begin (RFC 9293 §3.10.7.4, RFC 1122 §4.2.2.13).
    Reopen,
    /// Acknowledge again.
    Acknowledge,
    /// The peer has no such connection: forget it.
    End,
    /// Nothing to do.
    Ignore,
}

impl TimeWait {
    /// At most `limit` connections for `timeout` each. Reserves address space for all; nothing is allocated later.
    pub fn new(limit: usize, timeout: Duration) -> Self {
        TimeWait {
            ring: Vec::with_capacity(limit),
            limit,
            first: 0,
            len: 0,
            // At most half full, it is cleared of what was removed in place, where a fuller one would grow.
            table: HashTable::with_capacity(2 * (limit + 1)),
            remembered: 0,
            timeout,
        }
    }

    pub fn remembered(&self) -> usize {
        self.remembered
    }

    /// Takes a connection in; the oldest makes room. Returns whether one had to go before its time.
    pub fn insert(&mut self, tuple: Tuple, hash: u64, snd_nxt: u32, rcv_nxt: u32, now: Time) -> bool {
        if self.limit == 0 {
            return true;
        }
        self.expire(now);
        self.remove(hash, &tuple);
        let mut early = false;
        if self.len == self.limit {
            early = self.ring[self.first].live;
            self.drop_first();
        }
        let place = (self.first + self.len) % self.limit;
        let entry = Entry { tuple, hash, snd_nxt, rcv_nxt, until: now + self.timeout, live: true };
        match self.ring.get_mut(place) {
            Some(old) => *old = entry,
            None => self.ring.push(entry),
        }
        self.len += 1;
        self.remembered += 1;
        let ring = &self.ring;
        let place = u32::try_from(place).expect("the limit is far less");
        self.table.insert_unique(hash, place, |&place| ring[place as usize].hash);
        early
    }

    fn drop_first(&mut self) {
        let entry = self.ring[self.first];
        if entry.live {
            self.unlink(self.first);
        }
        self.first = (self.first + 1) % self.limit;
        self.len -= 1;
    }

    fn unlink(&mut self, place: usize) {
        let hash = self.ring[place].hash;
        if let Ok(found) = self.table.find_entry(hash, |&at| at as usize == place) {
            found.remove();
        }
        self.ring[place].live = false;
        self.remembered -= 1;
    }

    /// Forgets those whose time is over. Each is passed once, so this costs nothing more over time than inserting.
    pub fn expire(&mut self, now: Time) {
        while self.len > 0 && (!self.ring[self.first].live || self.ring[self.first].until <= now) {
            self.drop_first();
        }
    }

    pub fn find(&self, hash: u64, tuple: &Tuple, now: Time) -> Option<Entry> {
        let same = |&place: &u32| self.ring[place as usize].tuple == *tuple;
        let place = *self.table.find(hash, same)?;
        let entry = self.ring[place as usize];
        (entry.until > now).then_some(entry)
    }

    /// Ends a connection's TIME-WAIT.
    pub fn remove(&mut self, hash: u64, tuple: &Tuple) -> bool {
        let same = |&place: &u32| self.ring[place as usize].tuple == *tuple;
        match self.table.find(hash, same).copied() {
            Some(place) => {
                self.unlink(place as usize);
                true
            }
            None => false,
        }
    }
}

impl Entry {
    /// What to do with a segment. `fin`, `syn`, `ack`, `rst`: its flags.
    pub fn judge(&self, syn: bool, ack: bool, rst: bool, seq: u32, len: u32) -> Verdict {
        let ahead = seq.wrapping_sub(self.rcv_nxt);
        if rst {
            // RFC 9293 §3.10.7.4 lets a reset end TIME-WAIT, which RFC 1337 warns of: a late one would make room for late
            // data. But a peer that begins anew with a lower number depends on it: it resets upon our acknowledgement,
            // and its next SYN is let in. So as in RFC 5961 §3.2, and Linux: only at the very place.
            return if ahead == 0 { Verdict::End } else { Verdict::Ignore };
        }
        if syn && !ack {
            // A sequence number that the old connection did not use: later than all it had. Otherwise the answer is
            // the old acknowledgement, to which a peer in SYN-SENT replies with a reset.
            return if ahead < 1 << 31 { Verdict::Reopen } else { Verdict::Acknowledge };
        }
        // A pure acknowledgement at the right place needs no answer; anything else gets one.
        if len == 0 && ahead == 0 && !syn { Verdict::Ignore } else { Verdict::Acknowledge }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{IpAddress, IpEndpoint};

    fn tuple(port: u16) -> Tuple {
        let at = |last, port| IpEndpoint::new(IpAddress::v4(10, 0, 0, last), port);
        Tuple { local: at(1, 80), remote: at(2, port) }
    }

    fn hash(port: u16) -> u64 {
        u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn the_oldest_makes_room_and_time_ends_it() {
        let mut table = TimeWait::new(3, Duration::from_secs(10));
        let at = |s| Time::from_ms(s * 1000);
        for port in 1..=4u16 {
            assert_eq!(table.insert(tuple(port), hash(port), 1, 2, at(u64::from(port))), port == 4);
        }
        assert_eq!(table.remembered(), 3);
        assert!(table.find(hash(1), &tuple(1), at(4)).is_none(), "made room");
        assert!(table.find(hash(2), &tuple(2), at(11)).is_some());
        assert!(table.find(hash(2), &tuple(2), at(12)).is_none(), "its time is over");
        assert!(table.remove(hash(3), &tuple(3)));
        assert!(!table.remove(hash(3), &tuple(3)));
        table.expire(at(100));
        assert_eq!(table.remembered(), 0);
        for port in 1..=100u16 {
            table.insert(tuple(port % 7), hash(port % 7), 1, 2, at(200));
        }
        assert_eq!(table.remembered(), 3);
        assert_eq!(table.table.len(), 3);
    }

    #[test]
    fn segments_are_judged_by_their_sequence_number() {
        let mut table = TimeWait::new(1, Duration::from_secs(10));
        table.insert(tuple(1), hash(1), 100, u32::MAX - 1, Time::ZERO);
        let entry = table.find(hash(1), &tuple(1), Time::ZERO).unwrap();
        assert_eq!(entry.judge(true, false, false, 5, 1), Verdict::Reopen, "past the wrap");
        assert_eq!(entry.judge(true, false, false, u32::MAX - 100, 1), Verdict::Acknowledge);
        assert_eq!(entry.judge(false, true, false, u32::MAX - 2, 1), Verdict::Acknowledge, "FIN again");
        assert_eq!(entry.judge(false, true, false, u32::MAX - 1, 0), Verdict::Ignore);
        assert_eq!(entry.judge(false, false, true, u32::MAX - 1, 0), Verdict::End, "at the very place");
        assert_eq!(entry.judge(false, true, true, u32::MAX - 1, 0), Verdict::End);
        assert_eq!(entry.judge(false, false, true, u32::MAX, 0), Verdict::Ignore, "somewhere in the window");
        assert_eq!(entry.judge(false, false, true, 0, 0), Verdict::Ignore);
        assert_eq!(entry.judge(false, false, true, u32::MAX - 2, 0), Verdict::Ignore);
    }
}
