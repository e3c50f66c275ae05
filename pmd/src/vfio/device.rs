//! One PCI device, open: its configuration space, its BARs, and the right to reach the region.

use std::any::Any;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioDevice, VfioRegionInfoCap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::error::VfioError;
use super::host::{Host, PciAddress};
use super::iommu::{Attached, Space};
use super::mmio::Window;
use super::pci::{self, Bar, CONFIG_BYTES, Capability, ConfigSpace, register};
use crate::mem::Region;
use crate::virtio::transport::Interrupt;

/// A device that is ours until the last handle and the last [`Window`] of it are dropped; then the region is taken
/// from it and it goes back to vfio-pci, which resets it.
pub(crate) struct OpenDevice {
    address: PciAddress,
    /// `None` only while it is being dropped.
    device: Option<Attached>,
    space: Arc<Space>,
    /// It is being unplugged, or was.
    gone: AtomicBool,
}

impl OpenDevice {
    /// Checks, opens, and lets the device reach the region (once it is a bus master).
    pub(crate) fn open(
        address: PciAddress,
        region: &Arc<Region>,
        host: &Host,
    ) -> Result<Arc<Self>, VfioError> {
        let group = host.check(address)?;
        let space = Space::of(region, host, address)?;
        let device = space.attach(address, group)?;
        Ok(Arc::new(Self { address, device: Some(device), space, gone: AtomicBool::new(false) }))
    }

    fn device(&self) -> &VfioDevice {
        self.device.as_deref().expect("taken out in drop only")
    }

    /// A copy of the first 256 bytes of the configuration space.
    pub(crate) fn config(&self) -> Result<ConfigSpace, VfioError> {
        let mut config = [0; CONFIG_BYTES];
        self.read(0, &mut config).map_err(self.failed("read the configuration space"))?;
        Ok(config)
    }

    /// An eventfd that becomes readable when the system wants the device back: it is being unplugged, or unbound from
    /// vfio-pci, and the kernel waits until it is closed. `None` where the kernel has no such event.
    pub(crate) fn request_event(&self) -> Result<Option<EventFd>, VfioError> {
        if self.device().get_irq_info(VFIO_PCI_REQ_IRQ_INDEX).is_none_or(|irq| irq.count == 0) {
            return Ok(None);
        }
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(self.failed("make an eventfd for"))?;
        let enabled = self.device().enable_irq(VFIO_PCI_REQ_IRQ_INDEX, vec![&event]);
        let refused = |error: vfio_ioctls::VfioError| io::Error::other(error.to_string());
        enabled.map_err(refused).map_err(self.failed("ask for word of the unplugging of"))?;
        Ok(Some(event))
    }

    /// Turns on MSI-X and has its first vectors signal eventfds: `wanted` of them, or as many as the device has. None
    /// where it has no MSI-X: INTx is not supported, since its one line would have to be acknowledged in the device.
    pub(crate) fn enable_msix(&self, wanted: u16) -> Result<Vec<Interrupt>, VfioError> {
        let has = self.device().get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).map_or(0, |irq| irq.count);
        let count = u16::try_from(has).unwrap_or(u16::MAX).min(wanted);
        if count == 0 {
            return Ok(Vec::new());
        }
        let interrupts: Vec<Interrupt> = (0..count)
            .map(|_| Interrupt::new())
            .collect::<io::Result<_>>()
            .map_err(self.failed("make an eventfd for"))?;
        let refused = |error: vfio_ioctls::VfioError| io::Error::other(error.to_string());
        let events = interrupts.iter().map(|interrupt| &**interrupt.event()).collect();
        self.device().enable_msix(events).map_err(refused).map_err(self.failed("turn on MSI-X of"))?;
        Ok(interrupts)
    }

    /// Takes note that it is being unplugged, or was.
    pub(crate) fn set_gone(&self) {
        // ORDERING: Relaxed. Read when the last handle is dropped, which orders it.
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether the bus still answers for it: the vendor of a device that is not there reads as all ones.
    /// PCI Local Bus 3.0 §6.1.
    pub(crate) fn is_on_the_bus(&self) -> bool {
        let mut vendor = [0xff; 2];
        self.read(0, &mut vendor).is_ok() && vendor != [0xff; 2]
    }

    /// What the six BARs are, by what the kernel says of them; whether one is I/O ports is in `config` alone.
    pub(crate) fn bars(&self, config: &ConfigSpace) -> [Bar; 6] {
        let device = self.device();
        std::array::from_fn(|index| {
            let region = u32::try_from(index).expect("below 6");
            let size = device.get_region_size(region);
            if size == 0 {
                return Bar::Absent;
            }
            if pci::is_io_bar(config, index) {
                return Bar::IoPorts { size };
            }
            if device.get_region_flags(region) & VFIO_REGION_INFO_FLAG_MMAP == 0 {
                return Bar::Memory { size, mappable: Vec::new() };
            }
            let parts = device.get_region_caps(region).into_iter().find_map(|capability| match capability {
                VfioRegionInfoCap::SparseMmap(sparse) => Some(sparse.areas),
                _ => None,
            });
            let mappable = match parts {
                Some(areas) => areas.iter().map(|area| (area.offset, area.size)).collect(),
                None => vec![(0, size)],
            };
            Bar::Memory { size, mappable }
        })
    }

    /// Sets bits of the PCI command register, and sees that they are.
    pub(crate) fn set_command(&self, bits: u16) -> Result<(), VfioError> {
        let wanted = self.command()? | bits;
        self.write_command(wanted)?;
        let got = self.command()?;
        if got & bits == bits {
            Ok(())
        } else {
            Err(VfioError::Command { address: self.address, wanted, got })
        }
    }

    fn clear_command(&self, bits: u16) -> Result<(), VfioError> {
        self.write_command(self.command()? & !bits)
    }

    fn command(&self) -> Result<u16, VfioError> {
        let mut bytes = [0; 2];
        self.read(register::COMMAND, &mut bytes).map_err(self.failed("read the command register"))?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write_command(&self, value: u16) -> Result<(), VfioError> {
        let bytes = value.to_le_bytes();
        let at = self.config_offset(register::COMMAND);
        // SAFETY: the descriptor is open and the bytes live across the call, which only reads them.
        let written =
            unsafe { libc::pwrite(self.device().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), at) };
        complete(written, bytes.len()).map_err(self.failed("write the command register"))
    }

    /// Maps what a virtio capability names, which [`pci::choose`] must have accepted.
    pub(crate) fn map(self: &Arc<Self>, place: &Capability) -> Result<Window, VfioError> {
        let bar = self.device().get_region_offset(u32::from(place.bar));
        let fd = self.device().as_raw_fd();
        let owner: Arc<dyn Any + Send + Sync> = Arc::clone(self) as _;
        Window::map(fd, bar + u64::from(place.offset), place.length, owner).map_err(self.failed("map a BAR"))
    }

    /// Reads the configuration space, all of `bytes` or fails. (The reads of vfio-ioctls swallow errors.)
    fn read(&self, offset: usize, bytes: &mut [u8]) -> io::Result<()> {
        let at = self.config_offset(offset);
        // SAFETY: the descriptor is open; the call writes at most as many bytes as the slice has.
        let read =
            unsafe { libc::pread(self.device().as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), at) };
        complete(read, bytes.len())
    }

    fn config_offset(&self, offset: usize) -> libc::off_t {
        let region = self.device().get_region_offset(VFIO_PCI_CONFIG_REGION_INDEX);
        // The kernel puts region n at n << 40 and the offset is below 256: far from the type's limit.
        libc::off_t::try_from(region + offset as u64).unwrap_or(libc::off_t::MAX)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> VfioError {
        let address = self.address;
        move |source| VfioError::Io { what, address, source }
    }
}

/// While it lives, the device may access memory. PCI Local Bus 3.0 §6.2.2.
pub(crate) struct BusMaster(Arc<OpenDevice>);

impl BusMaster {
    /// Lets the device access memory; it must have been reset before, or it might go on with what an earlier owner
    /// asked for.
    pub(crate) fn enable(device: &Arc<OpenDevice>) -> Result<Self, VfioError> {
        device.set_command(pci::command::BUS_MASTER)?;
        Ok(Self(Arc::clone(device)))
    }
}

impl Drop for BusMaster {
    fn drop(&mut self) {
        // The mapping in the IOMMU goes when the device is closed; this is for a device that did not let itself be
        // reset while a queue pair, which keeps it open, is still alive.
        if let Err(error) = self.0.clear_command(pci::command::BUS_MASTER) {
            log::warn!("{error}; it is closed all the same");
        }
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            // ORDERING: as in `set_gone`.
            self.space.detach(self.address, device, self.gone.load(Ordering::Relaxed));
        }
    }
}

/// Turns the result of a read or write into an error unless all bytes were moved.
fn complete(moved: isize, wanted: usize) -> io::Result<()> {
    match usize::try_from(moved) {
        Ok(moved) if moved == wanted => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
