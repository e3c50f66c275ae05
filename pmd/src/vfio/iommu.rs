//! The address space that the devices of one engine share: a VFIO container with the region mapped into it, once.
//!
//! Source: Linux Documentation/driver-api/vfio.rst, include/uapi/linux/vfio.h.

use std::any::Any;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_TYPE, vfio_iommu_type1_info,
    vfio_iova_range,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError as KernelError, VfioOps};
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::ioctl_io_nr;

use super::error::{Ranges, VfioError};
use super::host::{Host, PciAddress};
use crate::mem::Region;

// vfio-ioctls has every request but this one.
ioctl_io_nr!(VFIO_IOMMU_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 12);

/// The most the kernel may answer to `VFIO_IOMMU_GET_INFO`; it needs some 200 bytes.
const MAX_INFO_BYTES: usize = 64 << 10;

/// One container, in which one region is mapped as long as a device is open.
pub(crate) struct Space {
    container: Arc<VfioContainer>,
    region: Arc<Region>,
    host: Host,
    open: Mutex<Vec<PciAddress>>,
}

impl Space {
    /// The space of a region: the one there is, or a new one.
    pub(crate) fn of(region: &Arc<Region>, host: &Host, address: PciAddress) -> Result<Arc<Self>, VfioError> {
        region.shared(|| {
            let container = VfioContainer::new(None).map_err(|error| explain(error, host, address, None))?;
            Ok(Arc::new(Self {
                container: Arc::new(container),
                // A weak reference leads from the region to here, so this one makes no circle.
                region: region.keep(),
                host: host.clone(),
                open: Mutex::default(),
            }))
        })
    }

    /// Opens a device of IOMMU group `group` and lets it reach the region.
    pub(crate) fn attach(&self, address: PciAddress, group: u32) -> Result<Attached, VfioError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains(&address) {
            // The kernel would open it a second time for the same process.
            return Err(VfioError::Busy { address, group, holder: "this process".into() });
        }
        let first = open.is_empty();
        if first {
            self.host.memlock().check(self.region.len_bytes() as u64)?;
        }
        let dir = self.host.device_dir(address);
        // Mapping is possible only when the first group is in the container.
        let device = Attached::open(&dir, &self.container)
            .map_err(|error| explain(error, &self.host, address, Some(group)))?;
        if first {
            self.map(address)?;
        }
        open.push(address);
        Ok(device)
    }

    /// Closes a device; with the last one the region is taken out of the IOMMU.
    ///
    /// A device that is `gone` takes its group along: the kernel may take it out of the container before we do, and the
    /// container then keeps a group that is none. When the device, and with it a group of the same number, is there
    /// again, it gets another container.
    pub(crate) fn detach(&self, address: PciAddress, device: Attached, gone: bool) {
        // A device can be pulled at any time: one that sysfs has no more is gone, announced or not.
        let gone = gone || !self.host.device_dir(address).join("iommu_group").exists();
        if gone {
            self.region.forget_shared();
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| *other != address);
        if open.is_empty()
            && let Err(error) = self.container.vfio_dma_unmap(self.region.iova().0, self.region.len_bytes())
        {
            // The kernel unmaps all when the container's last group goes, which is next.
            log::warn!("cannot take packet memory back from PCI device {address}: {error}");
        }
        if gone {
            device.close_without_group();
        }
    }

    fn map(&self, address: PciAddress) -> Result<(), VfioError> {
        let (iova, len_bytes) = (self.region.iova().0, self.region.len_bytes());
        let (start, end) = (iova, iova + (len_bytes as u64 - 1));
        let ranges = self.ranges().map_err(|source| {
            let what = "ask the IOMMU for its addresses, on behalf";
            VfioError::Io { what, address, source }
        })?;
        if let Some(ranges) = ranges
            && !ranges.cover(start, end)
        {
            return Err(VfioError::IovaRange { start, end, ranges });
        }
        // SAFETY: the range is the region's whole mapping, which lives as long as `self.region` and so longer than
        //         the container. Devices then read and write it at any time: what that means for everybody who
        //         touches it is the DMA contract at `mem::Region`.
        let mapped = unsafe { self.container.vfio_dma_map(iova, len_bytes, self.region.base()) };
        mapped.map_err(|source| match &source {
            // The limit as seen before may have been used up by another thread meanwhile, or not have been ours
            // to exceed (CAP_IPC_LOCK in a user namespace only).
            KernelError::IommuDmaMap(errno) if errno.errno() == libc::ENOMEM => {
                let limit = self.host.memlock();
                limit.check(len_bytes as u64).err().unwrap_or(VfioError::DmaMap { iova, len_bytes, source })
            }
            _ => VfioError::DmaMap { iova, len_bytes, source },
        })
    }

    /// What the IOMMU translates; `None` if the kernel does not say (before Linux 5.4).
    fn ranges(&self) -> io::Result<Option<Ranges>> {
        let mut info_bytes = 4096;
        loop {
            // Of u64, so that it is aligned for the structure at its beginning.
            let mut buffer = vec![0_u64; info_bytes / 8];
            let info = buffer.as_mut_ptr().cast::<vfio_iommu_type1_info>();
            // SAFETY: the buffer is larger than the structure and aligned for it, and nobody else has it. The kernel
            //         writes at most `argsz` bytes, which is the buffer's size.
            let (got, argsz) = unsafe {
                (*info).argsz = u32::try_from(info_bytes).unwrap_or(u32::MAX);
                let got = ioctl_with_mut_ptr(&*self.container, VFIO_IOMMU_GET_INFO(), info);
                (got, (*info).argsz as usize)
            };
            if got < 0 {
                return Err(io::Error::last_os_error());
            }
            if argsz <= info_bytes {
                let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
                return Ok(parse_ranges(&bytes[..argsz]));
            }
            if argsz > MAX_INFO_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            info_bytes = argsz.next_multiple_of(8);
        }
    }
}

/// A device in a container; dropping it closes it and takes its group out of the container.
///
/// When a `VfioDevice` is dropped it looks up its group's number in sysfs, after it has closed the device, and insists
/// on an answer. A device that is being unplugged leaves sysfs as soon as it is closed, so for such a one that must
/// not happen.
pub(crate) struct Attached {
    device: VfioDevice,
    way: Arc<Way>,
}

/// What a `VfioDevice` finds its container by.
struct Way {
    container: Arc<VfioContainer>,
    /// The container is not to be found any more.
    closed: AtomicBool,
}

impl VfioOps for Way {
    fn as_any(&self) -> &dyn Any {
        // ORDERING: Relaxed. Only the thread that drops the device sets it, before it does.
        if self.closed.load(Ordering::Relaxed) { self } else { self.container.as_any() }
    }
}

impl Attached {
    fn open(dir: &Path, container: &Arc<VfioContainer>) -> Result<Self, KernelError> {
        let way = Arc::new(Way { container: Arc::clone(container), closed: AtomicBool::new(false) });
        let device = VfioDevice::new(dir, Arc::clone(&way) as _, false)?;
        Ok(Self { device, way })
    }

    /// Closes the device and leaves its group to the container, with which it ends.
    fn close_without_group(self) {
        // ORDERING: as in `as_any`.
        self.way.closed.store(true, Ordering::Relaxed);
        let fd = self.device.as_raw_fd();
        drop(self.device);
        // SAFETY: a `VfioDevice` whose container is not to be found leaves its descriptor open, which is then nobody's.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

impl Deref for Attached {
    type Target = VfioDevice;

    fn deref(&self) -> &VfioDevice {
        &self.device
    }
}

/// The capability with the IOVA ranges in an answer to `VFIO_IOMMU_GET_INFO`; `None` if there is none, or none that
/// can be read.
fn parse_ranges(info: &[u8]) -> Option<Ranges> {
    /// Identification, version, offset of the next. `struct vfio_info_cap_header`.
    const HEADER_BYTES: usize = 8;
    const RANGE_BYTES: usize = size_of::<vfio_iova_range>();
    let u32_at = |at: usize| Some(u32::from_ne_bytes(info.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(info.get(at..at.checked_add(8)?)?.try_into().ok()?));
    if u32_at(std::mem::offset_of!(vfio_iommu_type1_info, flags))? & VFIO_IOMMU_INFO_CAPS == 0 {
        return None;
    }
    let mut at = u32_at(std::mem::offset_of!(vfio_iommu_type1_info, cap_offset))? as usize;
    // Offsets only grow in what the kernel writes; one that does not would be read for ever.
    let mut last = 0;
    while at > last {
        let kind = u32_at(at)? & 0xffff;
        if kind == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = u32_at(at + HEADER_BYTES)? as usize;
            let first = at + HEADER_BYTES + 8;
            let starts = (0..count).map(|index| first + index * RANGE_BYTES);
            return starts
                .map(|start| Some((u64_at(start)?, u64_at(start + 8)?)))
                .collect::<Option<_>>()
                .map(Ranges);
        }
        last = at;
        at = u32_at(at + 4)? as usize;
    }
    None
}

/// Finds the cause behind what vfio-ioctls says.
fn explain(error: KernelError, host: &Host, address: PciAddress, group: Option<u32>) -> VfioError {
    let path = match &error {
        KernelError::OpenGroup(_, id) => format!("/dev/vfio/{id}"),
        _ => "/dev/vfio/vfio".into(),
    };
    match (error, group) {
        (KernelError::GroupViable, Some(group)) => {
            VfioError::GroupNotViable { address, group, members: host.members(group) }
        }
        (KernelError::OpenGroup(source, _), Some(group)) if source.raw_os_error() == Some(libc::EBUSY) => {
            VfioError::Busy { address, group, holder: host.holder(group) }
        }
        (KernelError::OpenContainer(source) | KernelError::OpenGroup(source, _), _) => match source.kind() {
            io::ErrorKind::PermissionDenied => VfioError::Access { path, address, uid: user_id(), source },
            io::ErrorKind::NotFound => VfioError::NoVfio { path, source },
            // A device node without its module.
            _ if source.raw_os_error() == Some(libc::ENODEV) => VfioError::NoVfio { path, source },
            _ => VfioError::Io { what: "open VFIO on behalf", address, source },
        },
        (KernelError::VfioExtension, _) => VfioError::NoType1,
        (KernelError::ContainerSetIOMMU(errno), _) if errno.errno() == libc::EPERM => {
            VfioError::NoInterruptRemapping { address }
        }
        (source, _) => VfioError::Kernel { address, source },
    }
}

/// Who we are to the kernel's permission checks.
fn user_id() -> u32 {
    Path::new("/proc/self").metadata().map_or(0, |metadata| metadata.uid())
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("container", &self.container.as_raw_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer with a capability of another kind first, as the kernel orders them.
    fn info(ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |words: &[u32]| words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        put(&[0, VFIO_IOMMU_INFO_CAPS | 1, 0x1000, 0, 24, 0]);
        put(&[2 | 1 << 16, 48, 0, 0, 0, 0]);
        put(&[VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE | 1 << 16, 0]);
        put(&[u32::try_from(ranges.len()).unwrap(), 0]);
        for (start, end) in ranges {
            bytes.extend(start.to_ne_bytes());
            bytes.extend(end.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn ranges_are_found_behind_another_capability() {
        let expected = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];
        let ranges = parse_ranges(&info(&expected)).unwrap();
        assert_eq!(ranges, Ranges(expected.to_vec()));
        assert!(ranges.cover(0x1_0000_0000, 0x1_001f_ffff));
        assert!(ranges.cover(0xfef0_0000, 0x7f_ffff_ffff));
        assert!(!ranges.cover(0xfed0_0000, 0xfeff_ffff), "the MSI window lies in between");
        assert!(!ranges.cover(0x7f12_3400_0000, 0x7f12_341f_ffff), "47 bits");
        assert_eq!(ranges.to_string(), "0x0-0xfedfffff, 0xfef00000-0x7fffffffff");
    }

    #[test]
    fn kernel_that_says_nothing_is_believed() {
        let mut bytes = info(&[(0, 1)]);
        bytes[4] = 1;
        assert_eq!(parse_ranges(&bytes), None);
        assert_eq!(parse_ranges(&[]), None);
    }

    #[test]
    fn list_that_goes_back_ends() {
        let mut bytes = info(&[(0, 1)]);
        bytes[28..32].copy_from_slice(&24_u32.to_ne_bytes());
        assert_eq!(parse_ranges(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_read(
            cut in 0_usize..96, at in 0_usize..96, value: u8, noise in any::<[u8; 64]>(), noisy: bool,
        ) {
            let mut bytes = if noisy { noise.to_vec() } else { info(&[(0, 10), (20, 30)]) };
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(cut);
            if let Some(ranges) = parse_ranges(&bytes) {
                prop_assert!(ranges.0.len() * 16 <= bytes.len());
            }
        }
    }

    #[test]
    fn causes_are_told_apart() {
        let host = Host::at("/nowhere");
        let address: PciAddress = "00:03.0".parse().unwrap();
        let text = |error| explain(error, &host, address, Some(5)).to_string();
        let os = io::Error::from_raw_os_error;
        let access = text(KernelError::OpenGroup(os(libc::EACCES), "5".into()));
        assert!(
            access.starts_with("/dev/vfio/5 cannot be opened by user ") && access.contains("--user"),
            "{access}"
        );
        assert!(
            text(KernelError::OpenContainer(os(libc::ENOENT)))
                .contains("/dev/vfio/vfio is missing; run modprobe")
        );
        assert!(text(KernelError::OpenContainer(os(libc::ENODEV))).contains("/dev/vfio/vfio is missing"));
        assert!(text(KernelError::OpenGroup(os(libc::EBUSY), "5".into())).contains("group 5 is held by"));
        assert!(text(KernelError::GroupViable).contains("IOMMU group 5 of 0000:00:03.0 is not viable"));
        assert!(text(KernelError::VfioExtension).contains("modprobe vfio_iommu_type1"));
        let refused = KernelError::ContainerSetIOMMU(vmm_sys_util::errno::Error::new(libc::EPERM));
        assert!(text(refused).contains("interrupt remapping"));
        assert!(text(KernelError::GroupSetContainer).contains("VFIO refuses PCI device 0000:00:03.0"));
    }
}
