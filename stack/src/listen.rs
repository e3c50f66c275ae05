//! Listeners, and the list of half-open connections, oldest first.

use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use crate::error::ListenError;
use crate::flows::{Flows, NIL};
use crate::id::ListenerId;
use crate::options::ListenOptions;

pub(crate) struct Listener {
    pub at: IpListenEndpoint,
    pub options: ListenOptions,
    pub half_open: usize,
}

struct Slot {
    generation: u32,
    listener: Option<Listener>,
}

/// The listeners of a stack.
pub(crate) struct Listeners {
    slots: Vec<Slot>,
    /// Port and slot, sorted: looked up by bisection.
    by_port: Vec<(u16, u32)>,
    limit: usize,
}

impl Listeners {
    pub fn new(limit: usize) -> Self {
        Listeners { slots: Vec::new(), by_port: Vec::new(), limit }
    }

    pub fn add(&mut self, at: IpListenEndpoint, options: ListenOptions) -> Result<ListenerId, ListenError> {
        if at.port == 0 {
            return Err(ListenError::NoPort);
        }
        if self
            .on_port(at.port)
            .any(|index| self.slots[index as usize].listener.as_ref().is_some_and(|l| l.at == at))
        {
            return Err(ListenError::InUse(at));
        }
        if self.by_port.len() >= self.limit {
            return Err(ListenError::TooMany(self.limit));
        }
        let index = match self.slots.iter().position(|slot| slot.listener.is_none()) {
            Some(index) => index,
            None => {
                self.slots.push(Slot { generation: 0, listener: None });
                self.slots.len() - 1
            }
        };
        self.slots[index].listener = Some(Listener { at, options, half_open: 0 });
        let index = u32::try_from(index).expect("the limit is far less");
        let place = self.by_port.partition_point(|entry| *entry < (at.port, index));
        self.by_port.insert(place, (at.port, index));
        Ok(ListenerId { index, generation: self.slots[index as usize].generation })
    }

    pub fn remove(&mut self, id: ListenerId) -> bool {
        if self.get(id).is_none() {
            return false;
        }
        let slot = &mut self.slots[id.index as usize];
        slot.listener = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.by_port.retain(|(_, index)| *index != id.index);
        true
    }

    pub fn get(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?
            .listener
            .as_mut()
    }

    fn on_port(&self, port: u16) -> impl Iterator<Item = u32> {
        let from = self.by_port.partition_point(|(p, _)| *p < port);
        self.by_port[from..].iter().take_while(move |(p, _)| *p == port).map(|(_, index)| *index)
    }

    /// Who takes a connection to `local`: a listener on that very address before one on all.
    pub fn find(&self, local: IpEndpoint) -> Option<ListenerId> {
        let mut found = None;
        for index in self.on_port(local.port) {
            let slot = &self.slots[index as usize];
            let id = ListenerId { index, generation: slot.generation };
            match slot.listener.as_ref().and_then(|listener| listener.at.addr) {
                Some(addr) if addr == local.addr => return Some(id),
                Some(_) => {}
                None => found = Some(id),
            }
        }
        found
    }

    /// Whether somebody listens on the port, whatever the address.
    pub fn has_port(&self, port: u16) -> bool {
        self.on_port(port).next().is_some()
    }
}

/// Half-open connections in the order of their SYNs; the links are in the flows.
pub(crate) struct HalfOpen {
    oldest: u32,
    newest: u32,
    pub len: usize,
}

impl Default for HalfOpen {
    fn default() -> Self {
        HalfOpen { oldest: NIL, newest: NIL, len: 0 }
    }
}

impl HalfOpen {
    pub fn push(&mut self, flows: &mut Flows, index: u32) {
        let flow = flows.at(index);
        (flow.older, flow.newer) = (self.newest, NIL);
        match self.newest {
            NIL => self.oldest = index,
            newest => flows.at(newest).newer = index,
        }
        self.newest = index;
        self.len += 1;
    }

    pub fn remove(&mut self, flows: &mut Flows, index: u32) {
        let (older, newer) = (flows.peek(index).older, flows.peek(index).newer);
        match older {
            NIL => self.oldest = newer,
            older => flows.at(older).newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => flows.at(newer).older = older,
        }
        self.len -= 1;
    }

    /// The oldest of all, or of one listener. A search among the half-open ones in the second case: bounded by the
    /// limit, and usually short, as the oldest of a flooded listener is near the front.
    pub fn oldest(&self, flows: &Flows, of: Option<ListenerId>) -> Option<u32> {
        let mut at = self.oldest;
        while at != NIL {
            if of.is_none() || flows.peek(at).listener == of {
                return Some(at);
            }
            at = flows.peek(at).newer;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::IpAddress;

    #[test]
    fn the_more_specific_listener_takes_it() {
        let mut listeners = Listeners::new(3);
        let address = IpAddress::v4(10, 0, 0, 1);
        let all = listeners.add(80.into(), ListenOptions::default()).unwrap();
        let one = listeners.add((address, 80).into(), ListenOptions::default()).unwrap();
        assert_eq!(listeners.find((address, 80).into()), Some(one));
        assert_eq!(listeners.find((IpAddress::v4(10, 0, 0, 2), 80).into()), Some(all));
        assert_eq!(listeners.find((address, 81).into()), None);
        assert_eq!(listeners.add(80.into(), ListenOptions::default()), Err(ListenError::InUse(80.into())));
        assert_eq!(listeners.add(0.into(), ListenOptions::default()), Err(ListenError::NoPort));
        listeners.add(79.into(), ListenOptions::default()).unwrap();
        assert_eq!(listeners.add(78.into(), ListenOptions::default()), Err(ListenError::TooMany(3)));
        assert!(listeners.remove(one) && !listeners.remove(one));
        assert_eq!(listeners.find((address, 80).into()), Some(all));
        let again = listeners.add((address, 80).into(), ListenOptions::default()).unwrap();
        assert_eq!(again.index(), one.index());
        assert_ne!(again, one, "the old id stays dead");
    }
}
