//! The driver behind a virtqueue, as either layout of ring meets it: its memory, how to reach it, and what it did
//! wrong.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::device::Buffer;
use crate::mem::Iova;
use crate::port::QueueFault;
use crate::virtio::attach::{GuestMemory, Ring};
use crate::virtio::spec::{packed, split};

/// Bytes of a descriptor, in the ring and in a table, split and packed.
const DESCRIPTOR_BYTES: u32 = 16;

pub(crate) struct Peer {
    pub memory: Arc<GuestMemory>,
    /// Written to interrupt it.
    pub call: Option<Arc<EventFd>>,
    err: Option<Arc<EventFd>>,
    /// The buffers of the chain that is being walked. Room for as many as a chain may have.
    pub pieces: Vec<Buffer>,
    fault: Option<QueueFault>,
}

impl Peer {
    pub(crate) fn new(ring: &Ring) -> Self {
        Self {
            memory: Arc::clone(&ring.memory),
            call: ring.call.clone(),
            err: ring.err.clone(),
            pieces: Vec::with_capacity(ring.size.into()),
            fault: None,
        }
    }

    /// # Errors
    /// What it did wrong.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), QueueFault> {
        self.fault.map_or(Ok(()), Err)
    }

    /// It broke the rules: tells it, once.
    #[cold]
    pub(crate) fn fails(&mut self, fault: QueueFault) -> QueueFault {
        if self.fault.is_none() {
            self.fault = Some(fault);
            if let Some(err) = &self.err {
                // A counter that is full has been signalled already.
                let _ = err.write(1);
            }
        }
        fault
    }

    /// Adds a buffer to the pieces.
    ///
    /// # Errors
    /// [`QueueFault::AddressNotShared`]
    pub(crate) fn take(&mut self, address: u64, len: u32) -> Result<(), QueueFault> {
        let Some(ptr) = self.memory.translate(Iova(address), len as usize) else {
            return Err(self.fails(QueueFault::AddressNotShared { address, len }));
        };
        self.pieces.push(Buffer { ptr, len });
        Ok(())
    }

    /// A table of descriptors in its memory: at most `most`, as many as its ring has.
    ///
    /// # Errors
    /// [`QueueFault::BadIndirectTable`], [`QueueFault::AddressNotShared`]
    pub(crate) fn table(&mut self, address: u64, len: u32, most: u16) -> Result<Table, QueueFault> {
        let count = u16::try_from(len / DESCRIPTOR_BYTES).unwrap_or(u16::MAX);
        if !len.is_multiple_of(DESCRIPTOR_BYTES) || count == 0 || count > most {
            return Err(self.fails(QueueFault::BadIndirectTable { len, size: most }));
        }
        let Some(start) = self.memory.translate(Iova(address), len as usize) else {
            return Err(self.fails(QueueFault::AddressNotShared { address, len }));
        };
        Ok(Table { start, count })
    }
}

/// Descriptors outside the ring (virtio 1.2 §2.7.5.3, §2.8.7); valid as long as the driver's memory.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    start: *mut u8,
    count: u16,
}

impl Table {
    /// How many there are: at least one.
    #[inline]
    pub(crate) fn count(self) -> u16 {
        self.count
    }

    /// Reads one, below [`count`](Self::count): address, length, and two words whose order is the ring's.
    #[inline]
    fn words(self, index: u16) -> (u64, u32, u16, u16) {
        assert!(index < self.count, "descriptor {index} of a table of {}", self.count);
        // SAFETY: translated with its length, which holds `count` descriptors; the memory is kept by the queue whose
        // walk this is. The driver chose the alignment, and writes there when it likes: a private copy.
        let bytes = unsafe {
            let at = self.start.add(usize::from(index) * DESCRIPTOR_BYTES as usize);
            std::ptr::read_volatile(at.cast::<[u8; 16]>())
        };
        let word = u128::from_le_bytes(bytes);
        #[allow(clippy::cast_possible_truncation)] // its parts
        (word as u64, (word >> 64) as u32, (word >> 96) as u16, (word >> 112) as u16)
    }

    /// A descriptor of a split virtqueue's table.
    #[inline]
    pub(crate) fn read_split(self, index: u16) -> split::Descriptor {
        let (address, len, flags, next) = self.words(index);
        split::Descriptor { address, len, flags, next }
    }

    /// A descriptor of a packed virtqueue's table.
    #[inline]
    pub(crate) fn read_packed(self, index: u16) -> packed::Descriptor {
        let (address, len, id, flags) = self.words(index);
        packed::Descriptor { address, len, id, flags }
    }
}
