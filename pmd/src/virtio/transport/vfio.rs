//! A virtio PCI device through VFIO. Source: virtio 1.2 §4.1.
//!
//! The registers are the device's, and the device is not trusted: every value is read once and checked, every wait
//! is bounded.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::poll::poll;
use super::{Interrupt, Notifier, RingLayout, Transport, TransportError};
use crate::mem::Region;
use crate::vfio::pci::{self, Structure};
use crate::vfio::{BusMaster, Host, OpenDevice, PciAddress, VfioError, Window};
use crate::virtio::spec::feature;
use crate::virtio::transport::MmioNotify;

/// Offsets in `struct virtio_pci_common_cfg`. virtio 1.2 §4.1.4.3.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(super) const DEVICE_FEATURE: usize = 4;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const CONFIG_MSIX_VECTOR: usize = 16;
    pub(super) const NUM_QUEUES: usize = 18;
    pub(super) const DEVICE_STATUS: usize = 20;
    pub(super) const CONFIG_GENERATION: usize = 21;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_MSIX_VECTOR: usize = 26;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 30;
    pub(super) const QUEUE_DESC: usize = 32;
    pub(super) const QUEUE_DRIVER: usize = 40;
    pub(super) const QUEUE_DEVICE: usize = 48;
}

/// `VIRTIO_MSI_NO_VECTOR`: no interrupt, we poll. virtio 1.2 §4.1.5.1.2.
const NO_VECTOR: u16 = 0xffff;

/// What a register of a device that was unplugged reads as.
const ALL_ONES: u8 = 0xff;

/// How long a reset may take.
const RESET_LIMIT: Duration = Duration::from_secs(1);

/// How often a configuration that changes while it is read is read again.
const CONFIG_READS: u32 = 16;

/// The registers of one virtio PCI device.
pub(crate) struct Vfio {
    common: Window,
    notify: Arc<Window>,
    notify_off_multiplier: u32,
    config: Window,
    /// Taken for every sequence that writes a `select` register first.
    selection: Mutex<()>,
    /// `None` only over a picture of a device, in tests.
    bus_master: Option<BusMaster>,
    /// MSI-X vectors, by number: of the receive queue of each queue pair. virtio 1.2 §4.1.5.1.2.
    vectors: Vec<Interrupt>,
    /// Those that the device has taken, by the number of the queue.
    interrupts: Mutex<HashMap<u16, Interrupt>>,
    /// Readable when the system wants the device back.
    request: Option<EventFd>,
    /// `None` only over a picture of a device, in tests.
    device: Option<Arc<OpenDevice>>,
}

impl Vfio {
    /// Opens the device at `address`, lets it reach `region`, and resets it. The receive queues of the first `waiting`
    /// queue pairs can be waited for, as far as the device has an MSI-X vector for each: one that two cores slept on would
    /// be drained by the first to wake.
    ///
    /// # Errors
    /// [`VfioError`], a different one for each thing that can be wrong with a machine or a device.
    pub(crate) fn open(
        address: PciAddress,
        region: &Arc<Region>,
        host: &Host,
        waiting: u16,
    ) -> Result<Self, VfioError> {
        let device = OpenDevice::open(address, region, host)?;
        let config_space = device.config()?;
        let wrong = |source| VfioError::Pci { address, source };
        let capabilities = pci::virtio_capabilities(&config_space).map_err(wrong)?;
        let is_transitional =
            pci::config_u16(&config_space, pci::register::DEVICE_ID) == pci::VIRTIO_NET_TRANSITIONAL;
        if is_transitional && !capabilities.iter().any(|found| found.structure == Structure::Common) {
            return Err(VfioError::LegacyOnly { address });
        }
        // Without it the BARs cannot be mapped, or read as all ones.
        device.set_command(pci::command::MEMORY_SPACE)?;
        let bars = device.bars(&config_space);
        let choose = |structure| pci::choose(&capabilities, structure, &bars).map_err(wrong);
        let notify = choose(Structure::Notify)?;
        let mut this = Self {
            common: device.map(&choose(Structure::Common)?)?,
            notify: Arc::new(device.map(&notify)?),
            notify_off_multiplier: notify.notify_off_multiplier,
            config: device.map(&choose(Structure::Device)?)?,
            selection: Mutex::default(),
            vectors: Vec::new(),
            interrupts: Mutex::default(),
            bus_master: None,
            request: device.request_event()?,
            device: Some(Arc::clone(&device)),
        };
        let failed = |source| VfioError::Device { address, source };
        this.reset().map_err(failed)?;
        if this.device_features().map_err(failed)? & feature::ACCESS_PLATFORM == 0 {
            return Err(VfioError::NoAccessPlatform { address });
        }
        this.bus_master = Some(BusMaster::enable(&device)?);
        let pairs = waiting.min(this.queue_count().map_err(failed)? / 2);
        if pairs > 0 {
            this.vectors = device.enable_msix(pairs)?;
            let (has, address) = (this.vectors.len(), address.to_string());
            if has < usize::from(pairs) {
                log::warn!(
                    "{address}: {has} MSI-X vectors for {pairs} receive queues; the others are polled"
                );
            }
        }
        Ok(this)
    }

    /// Gives the selected queue its vector, if there is one. virtio 1.2 §4.1.5.1.2.1: a device that has no room for it
    /// says so when the register is read back.
    fn give_vector(&self, queue: u16) {
        let vector = queue / 2;
        let interrupt = self.vectors.get(usize::from(vector)).filter(|_| queue.is_multiple_of(2));
        let mut interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        self.common.write_u16(common::QUEUE_MSIX_VECTOR, interrupt.map_or(NO_VECTOR, |_| vector));
        match interrupt {
            Some(interrupt) if self.common.read_u16(common::QUEUE_MSIX_VECTOR) == vector => {
                interrupts.insert(queue, interrupt.clone());
            }
            _ => drop(interrupts.remove(&queue)),
        }
    }

    fn select(&self) -> MutexGuard<'_, ()> {
        // It guards registers, which a panic elsewhere leaves as good as any.
        self.selection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status register, or that the device is gone.
    fn read_status(&self, what: &'static str) -> Result<u8, TransportError> {
        match self.common.read_u8(common::DEVICE_STATUS) {
            ALL_ONES => Err(TransportError::Gone { what }),
            status => Ok(status),
        }
    }

    /// Selects `queue` and returns its largest size.
    fn select_queue(&self, _selection: &MutexGuard<'_, ()>, queue: u16) -> u16 {
        self.common.write_u16(common::QUEUE_SELECT, queue);
        self.common.read_u16(common::QUEUE_SIZE)
    }

    /// Where the notification register of the selected queue is. virtio 1.2 §4.1.4.4, §4.1.4.4.1.
    fn notify_register(&self, queue: u16) -> Result<*mut u16, TransportError> {
        let notify_off = self.common.read_u16(common::QUEUE_NOTIFY_OFF);
        let offset = u64::from(notify_off) * u64::from(self.notify_off_multiplier);
        let len_bytes = self.notify.len_bytes();
        match usize::try_from(offset) {
            Ok(offset)
                if offset.is_multiple_of(2) && offset.checked_add(2).is_some_and(|end| end <= len_bytes) =>
            {
                Ok(self.notify.register(offset))
            }
            _ => Err(TransportError::Protocol(format!(
                "it puts the notification register of virtqueue {queue} at {offset:#x} of {len_bytes} bytes"
            ))),
        }
    }

    /// Copies configuration bytes as they are now. Fields of two or four bytes are read as such, others (the MAC
    /// address) byte by byte. virtio 1.2 §4.1.3.1.
    fn copy_config(&self, offset: usize, bytes: &mut [u8]) {
        match bytes.len() {
            2 if offset.is_multiple_of(2) => {
                bytes.copy_from_slice(&self.config.read_u16(offset).to_le_bytes())
            }
            4 if offset.is_multiple_of(4) => {
                bytes.copy_from_slice(&self.config.read_u32(offset).to_le_bytes())
            }
            _ => (offset..).zip(bytes).for_each(|(at, byte)| *byte = self.config.read_u8(at)),
        }
    }
}

impl Transport for Vfio {
    fn required_features(&self) -> u64 {
        feature::ACCESS_PLATFORM
    }

    fn is_present(&self) -> bool {
        self.read_status("see whether it is there").is_ok()
    }

    /// First whether it is wanted back, which touches no register of it.
    fn gone(&self) -> Option<String> {
        let wanted = self.request.as_ref().is_some_and(|request| {
            // SAFETY: the eventfd is open as long as `self`.
            let fd = unsafe { BorrowedFd::borrow_raw(request.as_raw_fd()) };
            poll([fd], Some(Duration::ZERO)).is_ok_and(|[request]| request.readable)
        });
        if wanted || !self.is_present() {
            self.device.iter().for_each(|device| device.set_gone());
        }
        if wanted {
            return Some("the device is being unplugged, or taken from vfio-pci".to_owned());
        }
        (!self.is_present()).then(|| "the device was unplugged; its registers read as all ones".to_owned())
    }

    fn device_features(&self) -> Result<u64, TransportError> {
        self.read_status("read its features")?;
        let _selection = self.select();
        let half = |select: u32| {
            self.common.write_u32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read_u32(common::DEVICE_FEATURE))
        };
        Ok(half(0) | half(1) << 32)
    }

    fn set_driver_features(&self, features: u64) -> Result<(), TransportError> {
        self.read_status("accept features")?;
        let _selection = self.select();
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.common.write_u32(common::DRIVER_FEATURE_SELECT, select);
            self.common.write_u32(common::DRIVER_FEATURE, half);
        }
        Ok(())
    }

    fn status(&self) -> Result<u8, TransportError> {
        self.read_status("read its status")
    }

    fn set_status(&self, status: u8) -> Result<(), TransportError> {
        let before = self.read_status("set its status")?;
        self.common.write_u8(common::DEVICE_STATUS, before | status);
        Ok(())
    }

    /// As the trait says. A device that is not on the bus any more accesses no memory.
    fn reset(&self) -> Result<(), TransportError> {
        if self.read_status("reset it").is_err() && self.device.as_ref().is_some_and(|d| !d.is_on_the_bus()) {
            return Ok(());
        }
        self.common.write_u8(common::DEVICE_STATUS, 0);
        wait_for_reset(RESET_LIMIT, || self.read_status("reset it"))?;
        self.common.write_u16(common::CONFIG_MSIX_VECTOR, NO_VECTOR);
        Ok(())
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TransportError> {
        let len_bytes = self.config.len_bytes();
        if offset.checked_add(bytes.len()).is_none_or(|end| end > len_bytes) {
            let asked = bytes.len();
            return Err(TransportError::Protocol(format!(
                "its configuration has {len_bytes} bytes, too few for {asked} at {offset}"
            )));
        }
        self.read_status("read its configuration")?;
        let generation = || self.common.read_u8(common::CONFIG_GENERATION);
        read_in_one_generation(generation, || self.copy_config(offset, bytes))
    }

    fn queue_count(&self) -> Result<u16, TransportError> {
        self.read_status("count its virtqueues")?;
        Ok(self.common.read_u16(common::NUM_QUEUES))
    }

    fn max_queue_size(&self, queue: u16) -> Result<u16, TransportError> {
        self.read_status("ask for the size of a virtqueue")?;
        Ok(self.select_queue(&self.select(), queue))
    }

    fn enable_queue(&self, queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        self.read_status("enable a virtqueue")?;
        let size = layout.size;
        let selection = self.select();
        let max = self.select_queue(&selection, queue);
        if size == 0 || size > max {
            return Err(TransportError::Queue { queue, size, max });
        }
        // virtio 1.2 §4.1.5.1.3. The size is read back, because a device that ignores it would look for the rings'
        // entries where they are not.
        self.common.write_u16(common::QUEUE_SIZE, size);
        let got = self.common.read_u16(common::QUEUE_SIZE);
        if got != size {
            return Err(TransportError::Queue { queue, size, max: got });
        }
        self.give_vector(queue);
        self.common.write_u64(common::QUEUE_DESC, layout.descriptors.0);
        self.common.write_u64(common::QUEUE_DRIVER, layout.available.0);
        self.common.write_u64(common::QUEUE_DEVICE, layout.used.0);
        let register = self.notify_register(queue)?;
        self.common.write_u16(common::QUEUE_ENABLE, 1);
        drop(selection);
        let mapping: Arc<dyn Any + Send + Sync> = Arc::clone(&self.notify) as _;
        // SAFETY: `Window::register` has checked that the address is mapped and aligned, and the window lives as
        //         long as `mapping`.
        Ok(Notifier::Mmio(unsafe { MmioNotify::new(register, queue, mapping) }))
    }

    fn interrupt(&self, queue: u16) -> Option<Interrupt> {
        self.interrupts.lock().unwrap_or_else(PoisonError::into_inner).get(&queue).cloned()
    }
}

impl Drop for Vfio {
    /// Resets the device, then (as the fields go) takes bus mastering from it, unmaps its BARs and closes it.
    fn drop(&mut self) {
        match self.reset() {
            Ok(()) | Err(TransportError::Gone { .. }) => {}
            Err(error) => log::warn!("{error}; it may access memory no more all the same"),
        }
    }
}

/// Waits until the status register reads 0. virtio 1.2 §4.1.4.3.2.
fn wait_for_reset(
    limit: Duration,
    status: impl Fn() -> Result<u8, TransportError>,
) -> Result<(), TransportError> {
    let deadline = Instant::now() + limit;
    while status()? != 0 {
        if Instant::now() >= deadline {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            return Err(TransportError::Timeout { what: "come back from its reset", limit_ms });
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Reads the configuration again while its generation changes underneath. virtio 1.2 §2.5.1.
fn read_in_one_generation(
    mut generation: impl FnMut() -> u8,
    mut copy: impl FnMut(),
) -> Result<(), TransportError> {
    for _ in 0..CONFIG_READS {
        let before = generation();
        copy();
        if generation() == before {
            return Ok(());
        }
    }
    Err(TransportError::Protocol(format!("its configuration changed during each of {CONFIG_READS} reads")))
}

#[cfg(test)]
mod tests;
