//! A device that agrees to everything and does nothing: what it does to its driver's rings is for tests and the fuzz
//! targets to decide.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Notifier, RingLayout, Transport, TransportError};

/// A transport of one queue pair without a configuration space.
#[derive(Default)]
pub(crate) struct Willing {
    offered: u64,
    size: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: u8,
    layouts: Vec<RingLayout>,
}

impl Willing {
    /// Offers these features, and virtqueues of up to `size` descriptors.
    pub(crate) fn new(offered: u64, size: u16) -> Self {
        Self { offered, size, state: Mutex::default() }
    }

    /// The virtqueues that were enabled, in order.
    pub(crate) fn layouts(&self) -> Vec<RingLayout> {
        self.lock().layouts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Willing {
    fn device_features(&self) -> Result<u64, TransportError> {
        Ok(self.offered)
    }
    fn set_driver_features(&self, _features: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn status(&self) -> Result<u8, TransportError> {
        Ok(self.lock().status)
    }
    fn set_status(&self, status: u8) -> Result<(), TransportError> {
        self.lock().status |= status;
        Ok(())
    }
    fn reset(&self) -> Result<(), TransportError> {
        self.lock().status = 0;
        Ok(())
    }
    fn read_config(&self, _offset: usize, bytes: &mut [u8]) -> Result<(), TransportError> {
        bytes.fill(0);
        Ok(())
    }
    fn queue_count(&self) -> Result<u16, TransportError> {
        Ok(2)
    }
    fn max_queue_size(&self, _queue: u16) -> Result<u16, TransportError> {
        Ok(self.size)
    }
    fn enable_queue(&self, _queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        self.lock().layouts.push(*layout);
        Ok(Notifier::Polled)
    }
}
