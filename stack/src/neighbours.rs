//! Neighbour table: IP address to Ethernet address, for ARP and for neighbour discovery.
//!
//! One table and one state machine (RFC 4861 §7.3) for both: RFC 826 leaves ageing open. Memory is bounded by
//! the number of entries and of pending packets, whatever the link sends. An entry that we have used gets a
//! second chance before it makes room (the clock algorithm), so a flood of strangers does not push out the
//! gateway.
//!
//! ```text
//!               lookup                    answer
//!   (nothing) ─────────► Incomplete ─────────────────► Reachable ──30 s──► Stale
//!                          │ 3 requests, 1 s apart        ▲                  │ lookup
//!                          ▼                              │ answer           ▼
//!                       Unresolvable ◄── 3 × 1 s ────── Probe ◄──── 5 s ── Delay
//! ```

use core::hash::BuildHasher;
use core::time::Duration;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use smoltcp::wire::{EthernetAddress, IpAddress};

use crate::clock::Time;

pub(crate) mod pending;

/// How long an answer is believed. Source: RFC 4861 §10, `REACHABLE_TIME` (without its jitter).
const REACHABLE: Duration = Duration::from_secs(30);
/// How long a stale entry is used before it is asked again. Source: RFC 4861 §10, `DELAY_FIRST_PROBE_TIME`.
const DELAY: Duration = Duration::from_secs(5);
/// Time between two requests to one destination. Source: RFC 4861 §10, `RETRANS_TIMER`.
const RETRANSMIT: Duration = Duration::from_secs(1);
/// Requests before a destination is given up. Source: RFC 4861 §10, `MAX_MULTICAST_SOLICIT`.
const TRIES: u8 = 3;
/// The table is not walked more often than this, so that many entries due one after another cost little.
const WALK_INTERVAL: Duration = Duration::from_millis(10);
/// How many used entries are passed over before one of them has to go.
const SECOND_CHANCES: usize = 16;

/// Keyed hash of a table, so that nobody can choose keys that collide.
#[derive(Clone)]
pub(crate) struct Keyed(SipHasher13);

impl Keyed {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked; packets wait.
    Incomplete { tries: u8, next: Time },
    /// Answered not long ago.
    Reachable { until: Time },
    /// Known, but for long unconfirmed or only from hearsay.
    Stale,
    /// Stale and in use: asked when this runs out.
    Delay { until: Time },
    /// Asked again, by unicast; still in use.
    Probe { tries: u8, next: Time },
}

#[derive(Debug)]
struct Entry {
    address: IpAddress,
    mac: EthernetAddress,
    state: State,
    /// Looked up by us since the clock's hand last passed.
    used: bool,
    /// Packets that wait for it, in `pending::Pending`.
    queue: pending::Queue,
}

/// What the table knows of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Usable now.
    Known(EthernetAddress),
    /// Asked already; wait.
    Pending,
    /// New: the caller sends the first request now.
    Ask,
}

/// What a piece of news did to the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// Nothing that anybody waits for.
    Noted,
    /// There was no such entry and none was wanted.
    Ignored,
    /// Somebody waited: send these packets now.
    Resolved(pending::Queue),
}

/// How sure a piece of news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    /// The answer to a question of ours: the neighbour is reachable.
    pub(crate) solicited: bool,
    /// A different address replaces the one that is known.
    pub(crate) replace: bool,
    /// Make an entry if there is none.
    pub(crate) create: bool,
}

/// What a due entry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Ask everybody.
    Ask(IpAddress),
    /// Ask the one who had it last.
    Probe(IpAddress, EthernetAddress),
    /// No answer; the entry is gone. These packets are to be dropped; `waited` if it was never resolved.
    Failed { address: IpAddress, queue: pending::Queue, waited: bool },
}

/// A walk over the table in search of what is due.
struct Walk {
    at: usize,
    /// The earliest time at which something is due after this walk.
    next: Option<Time>,
}

impl Walk {
    fn note(&mut self, due: Time) {
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }
}

/// The table.
pub(crate) struct Neighbours {
    slots: Vec<Entry>,
    index: HashMap<IpAddress, usize, Keyed>,
    limit: usize,
    hand: usize,
    /// No entry is due before this.
    next_due: Option<Time>,
    walked: Option<Time>,
    walk: Option<Walk>,
    /// Changes whenever an address may resolve otherwise than before.
    generation: u64,
}

impl Neighbours {
    /// A table of at most `limit` entries (at least 8). Allocates all it will ever need.
    pub(crate) fn new(limit: usize, key: &[u8; 16]) -> Self {
        let limit = limit.max(8);
        let hasher = Keyed::new(key);
        Self {
            slots: Vec::with_capacity(limit),
            index: // At most half full, it is cleared of what was removed in place, where a fuller one would grow.
            HashMap::with_capacity_and_hasher(2 * (limit + 1), hasher),
            limit,
            hand: 0,
            next_due: None,
            walked: None,
            walk: None,
            generation: 0,
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// A number that stays the same only while no known address changes or goes.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Looks up an address that we want to send to, and makes an entry if there is none.
    ///
    /// `evicted` gets the packets of an entry that had to make room.
    pub(crate) fn lookup(
        &mut self,
        now: Time,
        address: IpAddress,
        evicted: &mut Option<pending::Queue>,
    ) -> Lookup {
        let Some(&at) = self.index.get(&address) else {
            let next = now + RETRANSMIT;
            let state = State::Incomplete { tries: 1, next };
            *evicted = self.insert(address, EthernetAddress::default(), state, true);
            self.due_at(next);
            return Lookup::Ask;
        };
        let entry = &mut self.slots[at];
        entry.used = true;
        match entry.state {
            State::Incomplete { .. } => Lookup::Pending,
            State::Reachable { until } if until > now => Lookup::Known(entry.mac),
            State::Reachable { .. } | State::Stale => {
                let until = now + DELAY;
                entry.state = State::Delay { until };
                let mac = entry.mac;
                self.due_at(until);
                Lookup::Known(mac)
            }
            State::Delay { .. } | State::Probe { .. } => Lookup::Known(entry.mac),
        }
    }

    /// The packets that wait for `address`, if it is being asked for.
    pub(crate) fn queue(&mut self, address: IpAddress) -> Option<&mut pending::Queue> {
        let entry = &mut self.slots[*self.index.get(&address)?];
        matches!(entry.state, State::Incomplete { .. }).then_some(&mut entry.queue)
    }

    /// Until when a lookup would give the same answer without changing anything (for a cache of one entry).
    pub(crate) fn fresh_until(&self, address: IpAddress) -> Option<Time> {
        match self.slots[*self.index.get(&address)?].state {
            State::Reachable { until } | State::Delay { until } => Some(until),
            _ => None,
        }
    }

    /// Takes in that `mac` has `address`. `evicted` as for [`Neighbours::lookup`].
    pub(crate) fn learn(
        &mut self,
        now: Time,
        address: IpAddress,
        mac: EthernetAddress,
        news: News,
        evicted: &mut Option<pending::Queue>,
    ) -> Learnt {
        let reachable = State::Reachable { until: now + REACHABLE };
        let Some(&at) = self.index.get(&address) else {
            if !news.create {
                return Learnt::Ignored;
            }
            *evicted = self.insert(address, mac, State::Stale, false);
            return Learnt::Noted;
        };
        let entry = &mut self.slots[at];
        if let State::Incomplete { .. } = entry.state {
            entry.mac = mac;
            entry.state = if news.solicited { reachable } else { State::Stale };
            self.generation += 1;
            return Learnt::Resolved(core::mem::take(&mut self.slots[at].queue));
        }
        if entry.mac != mac {
            if !news.replace {
                // RFC 4861 §7.2.5: doubt, so ask before it is used for long.
                if let State::Reachable { .. } = entry.state {
                    entry.state = State::Stale;
                    self.generation += 1;
                }
                return Learnt::Noted;
            }
            entry.mac = mac;
            entry.state = State::Stale;
            self.generation += 1;
        }
        if news.solicited {
            self.slots[at].state = reachable;
        }
        Learnt::Noted
    }

    /// The Ethernet address that we have for `address`, however old.
    pub(crate) fn mac(&self, address: IpAddress) -> Option<EthernetAddress> {
        let entry = &self.slots[*self.index.get(&address)?];
        (!matches!(entry.state, State::Incomplete { .. })).then_some(entry.mac)
    }

    /// Whether we have asked for `address` and wait for the answer.
    pub(crate) fn is_asked(&self, address: IpAddress) -> bool {
        self.index
            .get(&address)
            .is_some_and(|&at| matches!(self.slots[at].state, State::Incomplete { .. } | State::Probe { .. }))
    }

    /// The next thing that is due; `None` when there is nothing more. Call until `None`: together one walk
    /// over the table, and none at all before something is due.
    pub(crate) fn due(&mut self, now: Time) -> Option<Due> {
        let mut walk = self.walk.take().or_else(|| self.begin_walk(now))?;
        while walk.at < self.slots.len() {
            let (due, entry) = (now + RETRANSMIT, &mut self.slots[walk.at]);
            let (address, mac) = (entry.address, entry.mac);
            let act = match entry.state {
                State::Incomplete { next, .. } | State::Probe { next, .. } if next > now => {
                    walk.note(next);
                    None
                }
                State::Delay { until } if until > now => {
                    walk.note(until);
                    None
                }
                State::Reachable { .. } | State::Stale => None,
                State::Incomplete { tries, .. } if tries < TRIES => {
                    entry.state = State::Incomplete { tries: tries + 1, next: due };
                    Some(Due::Ask(address))
                }
                State::Delay { .. } => {
                    entry.state = State::Probe { tries: 1, next: due };
                    Some(Due::Probe(address, mac))
                }
                State::Probe { tries, .. } if tries < TRIES => {
                    entry.state = State::Probe { tries: tries + 1, next: due };
                    Some(Due::Probe(address, mac))
                }
                State::Incomplete { .. } | State::Probe { .. } => {
                    let waited = matches!(entry.state, State::Incomplete { .. });
                    let queue = self.remove(walk.at).queue;
                    self.walk = Some(walk);
                    return Some(Due::Failed { address, queue, waited });
                }
            };
            walk.at += 1;
            if act.is_some() {
                walk.note(due);
                self.walk = Some(walk);
                return act;
            }
        }
        if let Some(next) = walk.next {
            self.due_at(next);
        }
        None
    }

    fn begin_walk(&mut self, now: Time) -> Option<Walk> {
        self.next_due.take_if(|due| *due <= now)?;
        self.walked = Some(now);
        Some(Walk { at: 0, next: None })
    }

    /// When [`Neighbours::due`] has something to do.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.next_due
    }

    /// Has the table walked at `due`, or a little later if it was walked just now.
    fn due_at(&mut self, due: Time) {
        let due = self.walked.map_or(due, |w| due.max(w + WALK_INTERVAL));
        self.next_due = Some(self.next_due.map_or(due, |n| n.min(due)));
    }

    /// Adds an entry; gives back the packets of the one that made room.
    fn insert(
        &mut self,
        address: IpAddress,
        mac: EthernetAddress,
        state: State,
        used: bool,
    ) -> Option<pending::Queue> {
        let mut queue = None;
        if self.slots.len() >= self.limit {
            let at = self.victim();
            queue = Some(self.remove(at).queue);
        }
        self.index.insert(address, self.slots.len());
        self.slots.push(Entry { address, mac, state, used, queue: pending::Queue::default() });
        queue
    }

    /// The entry that goes when there is no room: the next under the clock's hand that we have not used since
    /// the hand last passed.
    fn victim(&mut self) -> usize {
        for _ in 0..SECOND_CHANCES {
            self.hand = (self.hand + 1) % self.slots.len();
            let entry = &mut self.slots[self.hand];
            if !core::mem::take(&mut entry.used) {
                return self.hand;
            }
        }
        self.hand
    }

    fn remove(&mut self, at: usize) -> Entry {
        self.generation += 1;
        let entry = self.slots.swap_remove(at);
        self.index.remove(&entry.address);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.address, at);
        }
        entry
    }
}

#[cfg(test)]
mod tests;
