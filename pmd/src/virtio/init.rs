//! Device initialization, step by step as in virtio 1.2 §3.1.1, over any transport.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::ctrl::ControlError;
use super::ring::{DriverRing, QueueMemory};
use super::spec::{feature, split, status};
use super::transport::{Transport, TransportError};
use crate::mem::{Region, RegionError};
use crate::port::Offloads;

/// Why a device could not be brought up.
#[derive(Debug, Error)]
pub enum InitError {
    /// The transport failed.
    #[error("{step} failed")]
    Transport {
        /// Which step of virtio 1.2 §3.1.1.
        step: &'static str,
        /// How.
        source: TransportError,
    },
    /// The device lacks a feature without which nothing works.
    #[error("device does not offer {}, it offers {}; {hint}", feature::names(*missing), feature::names(*offered))]
    MissingFeature {
        /// The bits that are missing.
        missing: u64,
        /// The bits it offers.
        offered: u64,
        /// What to do about it.
        hint: &'static str,
    },
    /// The device refused our choice of features.
    #[error("device refuses the features {} (virtio 1.2 §3.1.1 step 6)", feature::names(*accepted))]
    FeaturesRefused {
        /// What we accepted.
        accepted: u64,
    },
    /// The device has fewer virtqueues than asked for.
    #[error("device has {has} virtqueues, {needs} are needed")]
    TooFewQueues {
        /// How many it has.
        has: u16,
        /// How many are needed.
        needs: u16,
    },
    /// The device asks to be reset before it has begun.
    #[error("device needs a reset straight after initialization (virtio 1.2 §2.1.1); its log may say why")]
    NeedsReset,
    /// The device runs, but does not take what it is told first.
    #[error("the device does not take its first settings")]
    Control(#[from] ControlError),
    /// No memory for the rings.
    #[error("no memory for the virtqueues")]
    Memory(#[from] RegionError),
}

/// A device that has been brought to life; reset, at the latest, when the last handle goes.
pub(crate) struct Device {
    transport: Arc<dyn Transport>,
    features: u64,
    /// Set once the device has been reset and touches nothing any more.
    stopped: Mutex<bool>,
}

/// The queues to be brought up: for each, how many descriptors are wished for.
pub(crate) struct Queues<'a> {
    pub region: &'a Arc<Region>,
    pub wanted_sizes: &'a [u16],
}

fn step<T>(step: &'static str, result: Result<T, TransportError>) -> Result<T, InitError> {
    result.map_err(|source| InitError::Transport { step, source })
}

impl Device {
    /// Steps 1 to 6: reset, acknowledge, negotiate. `wanted` features are taken where offered; `VERSION_1`, what the
    /// transport needs and what the user insists on must be there.
    pub(crate) fn negotiate(
        transport: Arc<dyn Transport>,
        wanted: u64,
        insisted: u64,
    ) -> Result<Self, InitError> {
        step("reset", transport.reset())?;
        step("ACKNOWLEDGE", transport.set_status(status::ACKNOWLEDGE))?;
        step("DRIVER", transport.set_status(status::DRIVER))?;
        let offered = step("reading the features", transport.device_features())?;
        let required = feature::VERSION_1 | transport.required_features() | insisted;
        let accepted = Offloads::consistent(required | (wanted & offered));
        if let missing @ 1.. = required & !(offered & accepted) {
            let _ = transport.set_status(status::FAILED);
            let hint = missing_hint(missing, insisted);
            return Err(InitError::MissingFeature { missing, offered, hint });
        }
        step("accepting features", transport.set_driver_features(accepted))?;
        step("FEATURES_OK", transport.set_status(status::FEATURES_OK))?;
        if step("reading the status", transport.status())? & status::FEATURES_OK == 0 {
            let _ = transport.set_status(status::FAILED);
            return Err(InitError::FeaturesRefused { accepted });
        }
        Ok(Self { transport, features: accepted, stopped: Mutex::new(false) })
    }

    /// Step 7, for the virtqueues from `first` on: sets each up and lets the device use it, in order. A size is what
    /// was wished for or the most the device allows; a power of two unless the queues are packed.
    ///
    /// `R` is of the format that was negotiated.
    pub(crate) fn enable_queues<R: DriverRing>(
        &self,
        first: u16,
        queues: &Queues<'_>,
    ) -> Result<Vec<R>, InitError> {
        let needs = u16::try_from(queues.wanted_sizes.len()).unwrap_or(u16::MAX).saturating_add(first);
        let has = step("counting the virtqueues", self.transport.queue_count())?;
        if has < needs {
            return Err(InitError::TooFewQueues { has, needs });
        }
        let packed = self.features & feature::RING_PACKED != 0;
        let mut enabled = Vec::with_capacity(queues.wanted_sizes.len());
        for (queue, &wanted) in (first..).zip(queues.wanted_sizes) {
            let max = step("asking for the queue size", self.transport.max_queue_size(queue))?;
            let most = wanted.min(max).min(split::MAX_SIZE);
            let size = if packed { most } else { previous_power_of_two(most) };
            if size == 0 {
                let source = TransportError::Queue { queue, size: wanted, max };
                return Err(InitError::Transport { step: "choosing the queue size", source });
            }
            let memory = QueueMemory::carve(queues.region, size, packed)?;
            // All of fresh memory is zero, so the queue is complete before the device looks at it.
            let mut driver = R::new(&memory, queues.region, self.features);
            driver.set_notifier(step(
                "enabling a virtqueue",
                self.transport.enable_queue(queue, &memory.layout()),
            )?);
            enabled.push(driver);
        }
        Ok(enabled)
    }

    /// Step 8: sets the device going, once its queues are enabled.
    pub(crate) fn go(&self) -> Result<(), InitError> {
        step("DRIVER_OK", self.transport.set_status(status::DRIVER_OK))?;
        if step("reading the status", self.transport.status())? & status::DEVICE_NEEDS_RESET != 0 {
            return Err(InitError::NeedsReset);
        }
        Ok(())
    }

    /// The negotiated feature bits.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Resets the device if that has not been done. Once it returned `Ok`, memory that was with the device is ours.
    pub(crate) fn stop(&self) -> Result<(), TransportError> {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stopped {
            self.transport.reset()?;
            *stopped = true;
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!("device left running: {error}");
        }
    }
}

fn missing_hint(missing: u64, insisted: u64) -> &'static str {
    if missing & feature::VERSION_1 != 0 {
        "it is a legacy device: with QEMU use disable-legacy=on, or a newer backend"
    } else if missing & insisted != 0 {
        "leave the option of the port string out, or let the device offer it"
    } else {
        "without it the device reaches memory past the IOMMU: with QEMU use iommu_platform=on"
    }
}

/// The largest power of two up to `size`, 0 for 0.
fn previous_power_of_two(size: u16) -> u16 {
    size.checked_ilog2().map_or(0, |log| 1 << log)
}

#[cfg(test)]
mod tests {
    use super::previous_power_of_two;

    #[test]
    fn queue_sizes_are_rounded_down_to_powers_of_two() {
        for (size, power) in [(0, 0), (1, 1), (2, 2), (3, 2), (1023, 512), (1024, 1024), (65_535, 32_768)] {
            assert_eq!(previous_power_of_two(size), power);
        }
    }
}
