//! The device's side of the control virtqueue: commands of a hostile driver, taken one after the other.
//!
//! A command's bytes are copied before they are looked at, from however many buffers of the chain; the byte behind them,
//! which the device writes, gets the answer. A chain that breaks the rules stops the queue with a named fault; a command
//! that makes no sense is refused, and the next one is served.

use super::command::MAX_BYTES;
use crate::port::QueueFault;
use crate::virtio::attach::{Position, Ring};
use crate::virtio::packed::{self, Cursor, Event, Tail};
use crate::virtio::ring::{Buffer, Peer};
use crate::virtio::spec::net::control;
use crate::virtio::spec::packed::{Descriptor as PackedDescriptor, EVENT_F_ENABLE, EVENT_WRAP};
use crate::virtio::spec::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElement};
use crate::virtio::split;

/// The most commands that one call serves; their sender waits for each.
const COMMANDS: usize = 16;

enum Format {
    Split { areas: split::Areas, next: u16, next_used: u16 },
    Packed { areas: packed::Areas, next: Cursor },
}

/// The control virtqueue of one driver, device side. Cold.
pub(crate) struct ControlServer {
    format: Format,
    peer: Peer,
}

/// A chain: what to know it by, how many descriptors of the ring it takes, its buffers and which of them we write.
struct Taken {
    id: u16,
    descriptors: u16,
    readable: usize,
}

/// One descriptor, of either format.
struct Link {
    address: u64,
    len: u32,
    flags: u16,
}

impl ControlServer {
    /// Serves `ring` from where it says. Asks for notifications.
    pub(crate) fn new(ring: &Ring) -> Self {
        let Ring { descriptors, available, used, size, .. } = *ring;
        let format = if ring.packed {
            // SAFETY: `Ring::new` checked sizes and alignment; the areas stay mapped as long as the memory, which the
            //         peer keeps; a driver's memory is never borrowed.
            let areas = unsafe { packed::Areas::new(descriptors, available, used, size) };
            areas.set_device_event(Event { off_wrap: 0, flags: EVENT_F_ENABLE });
            let at = ring.start.next_available;
            // A place beyond the ring is refused where the start comes from.
            let next = areas.cursor((at & !EVENT_WRAP).min(size - 1), at & EVENT_WRAP != 0);
            Format::Packed { areas, next }
        } else {
            // SAFETY: as above.
            let areas = unsafe { split::Areas::new(descriptors, available, used, size) };
            areas.set_used_flags(0);
            let Position { next_available: next, next_used } = ring.start;
            Format::Split { areas, next, next_used }
        };
        Self { format, peer: Peer::new(ring) }
    }

    /// How far it has come.
    pub(crate) fn position(&self) -> Position {
        match &self.format {
            Format::Split { next, next_used, .. } => {
                Position { next_available: *next, next_used: *next_used }
            }
            Format::Packed { next, .. } => {
                Position { next_available: next.off_wrap(), next_used: next.off_wrap() }
            }
        }
    }

    /// Why it stopped, if it did.
    #[cfg(test)]
    pub(crate) fn fault(&self) -> Option<QueueFault> {
        self.peer.check().err()
    }

    /// Carries out what the driver asks for, at most 16 commands, and answers each as `obey` says. Returns whether there
    /// may be more.
    pub(crate) fn serve(&mut self, mut obey: impl FnMut(&[u8]) -> bool) -> bool {
        for _ in 0..COMMANDS {
            match self.next() {
                Ok(Some(taken)) => self.answer(&taken, &mut obey),
                Ok(None) => return false,
                Err(fault) => {
                    log::warn!("control queue stopped: {fault}");
                    return false;
                }
            }
        }
        true
    }

    /// Takes the next chain apart, its buffers into the peer's pieces.
    fn next(&mut self) -> Result<Option<Taken>, QueueFault> {
        self.peer.check()?;
        self.peer.pieces.clear();
        let mut taken = Taken { id: 0, descriptors: 0, readable: 0 };
        match &self.format {
            Format::Split { areas, next, .. } => {
                let (next, size) = (*next, areas.size());
                match areas.available_index().wrapping_sub(next) {
                    0 => return Ok(None),
                    moved if moved > size => {
                        return Err(self.peer.fails(QueueFault::AvailIndexJump { moved, size }));
                    }
                    _ => {}
                }
                taken.id = areas.read_available(next);
                let mut id = taken.id;
                loop {
                    if id >= size {
                        return Err(self.peer.fails(QueueFault::DescriptorOutOfRange { id, size }));
                    }
                    if taken.descriptors == size {
                        return Err(self.peer.fails(QueueFault::ChainTooLong { size }));
                    }
                    taken.descriptors += 1;
                    let Descriptor { address, len, flags, next } = areas.read_descriptor(id);
                    add(&mut self.peer, &mut taken, &Link { address, len, flags }, size, false)?;
                    if flags & DESC_F_NEXT == 0 {
                        return Ok(Some(taken));
                    }
                    id = next;
                }
            }
            Format::Packed { areas, next } => {
                let (mut at, size) = (*next, areas.size());
                loop {
                    let Tail { len, id, flags } = areas.read_tail(at);
                    if !at.is_available(flags) {
                        if taken.descriptors == 0 {
                            return Ok(None);
                        }
                        let descriptors = taken.descriptors;
                        return Err(self.peer.fails(QueueFault::ChainNotAvailable { descriptors }));
                    }
                    if taken.descriptors == size {
                        return Err(self.peer.fails(QueueFault::ChainTooLong { size }));
                    }
                    (taken.id, taken.descriptors) = (id, taken.descriptors + 1);
                    let link = Link { address: areas.read_address(at), len, flags };
                    add(&mut self.peer, &mut taken, &link, size, true)?;
                    if flags & DESC_F_NEXT == 0 {
                        return Ok(Some(taken));
                    }
                    at = areas.advance(at, 1);
                }
            }
        }
    }

    /// Carries a command out and gives its chain back.
    fn answer(&mut self, taken: &Taken, obey: &mut impl FnMut(&[u8]) -> bool) {
        let mut bytes = Vec::new();
        let (readable, writable) = self.peer.pieces.split_at(taken.readable);
        let mut fits = true;
        for &Buffer { ptr, len } in readable {
            let (had, count) = (bytes.len(), len as usize);
            fits &= had + count <= MAX_BYTES;
            if fits {
                bytes.resize(had + count, 0);
                // SAFETY: translated with its length, its memory is kept by the peer; the driver may write there
                //         meanwhile, which only spoils its own command.
                unsafe { bytes.as_mut_ptr().add(had).copy_from_nonoverlapping(ptr, count) };
            }
        }
        let mut written = 0;
        if let Some(&Buffer { ptr, .. }) = writable.iter().find(|buffer| buffer.len > 0) {
            let done = fits && obey(&bytes);
            // SAFETY: as above; at least one byte, and the driver offers it for writing.
            unsafe { ptr.write_volatile(if done { control::OK } else { control::ERR }) };
            written = 1;
        }
        match &mut self.format {
            Format::Split { areas, next, next_used } => {
                areas.write_used(*next_used, UsedElement { id: taken.id.into(), len: written });
                (*next, *next_used) = (next.wrapping_add(1), next_used.wrapping_add(1));
                areas.publish_used(*next_used);
            }
            Format::Packed { areas, next } => {
                areas.write_tail(*next, Tail { len: written, id: taken.id, flags: next.used_flags() });
                *next = areas.advance(*next, taken.descriptors);
            }
        }
        if let Some(call) = &self.peer.call {
            // Commands are rare: the driver is told always. A counter that is full has been signalled already.
            let _ = call.write(1);
        }
    }
}

/// Adds a descriptor's buffer to the chain, or the buffers of the table that it names.
fn add(
    peer: &mut Peer,
    taken: &mut Taken,
    link: &Link,
    size: u16,
    is_packed: bool,
) -> Result<(), QueueFault> {
    let &Link { address, len, flags } = link;
    if flags & DESC_F_INDIRECT == 0 {
        return add_buffer(peer, taken, link, size);
    }
    if flags & DESC_F_NEXT != 0 {
        return Err(peer.fails(QueueFault::IndirectChained { flags }));
    }
    let table = peer.table(address, len, size)?;
    let mut index = 0;
    for _ in 0..table.count() {
        let (entry, following) = if is_packed {
            let PackedDescriptor { address, len, flags, .. } = table.read_packed(index);
            (Link { address, len, flags }, (index + 1 < table.count()).then_some(index + 1))
        } else {
            let Descriptor { address, len, flags, next } = table.read_split(index);
            (Link { address, len, flags }, (flags & DESC_F_NEXT != 0).then_some(next))
        };
        if entry.flags & DESC_F_INDIRECT != 0 {
            return Err(peer.fails(QueueFault::IndirectNested { flags: entry.flags }));
        }
        add_buffer(peer, taken, &entry, size)?;
        match following {
            None => return Ok(()),
            Some(id) if id < table.count() => index = id,
            Some(id) => return Err(peer.fails(QueueFault::DescriptorOutOfRange { id, size: table.count() })),
        }
    }
    Err(peer.fails(QueueFault::ChainTooLong { size: table.count() }))
}

/// What is read comes before what is written. virtio 1.2 §2.6.4.2.
fn add_buffer(
    peer: &mut Peer,
    taken: &mut Taken,
    &Link { address, len, flags }: &Link,
    size: u16,
) -> Result<(), QueueFault> {
    if peer.pieces.len() >= usize::from(size) {
        return Err(peer.fails(QueueFault::ChainTooLong { size }));
    }
    let all_readable = taken.readable == peer.pieces.len();
    if flags & DESC_F_WRITE == 0 {
        if !all_readable {
            return Err(peer.fails(QueueFault::BadDescriptorFlags { flags }));
        }
        taken.readable += 1;
    }
    peer.take(address, len)
}

#[cfg(test)]
mod tests;
