//! The virtio-net devices of the guest, and where their frames go.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The largest frame a [`HostLink`] takes: Ethernet header and 64 KiB of payload.
const MAX_FRAME_BYTES: usize = 14 + 65_536;

/// What a NIC is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    /// A hub inside QEMU, by number: every NIC of it hears the others.
    Hub(u8),
    /// Datagrams to this process, one a frame.
    Host,
    /// A TAP interface of the network namespace that QEMU runs in.
    Tap(String),
    /// A vhost-user backend that listens on this socket, and how many queue pairs to drive.
    VhostUser(PathBuf, u16),
}

/// One virtio-net-pci device. Unless told otherwise it is a modern one (virtio 1.2) that goes through the
/// guest's virtual IOMMU, alone in its IOMMU group.
#[derive(Clone, Debug)]
pub struct Nic {
    backend: Backend,
    legacy: bool,
    iommu_platform: bool,
    packed: bool,
    conventional: bool,
    hot: bool,
    options: String,
}

impl Nic {
    fn new(backend: Backend) -> Self {
        Self {
            backend,
            legacy: false,
            iommu_platform: true,
            packed: false,
            conventional: false,
            hot: false,
            options: String::new(),
        }
    }

    /// A NIC on hub `number` inside QEMU. Two NICs on one hub are wired to each other.
    pub fn hub(number: u8) -> Self {
        Self::new(Backend::Hub(number))
    }

    /// A NIC whose other end is this process: see [`Guest::link`](super::Guest::link).
    pub fn host() -> Self {
        Self::new(Backend::Host)
    }

    /// A NIC on TAP interface `name`, which must be there; see
    /// [`Builder::in_namespace`](super::Builder::in_namespace). The kernel is the other end.
    pub fn tap(name: &str) -> Self {
        Self::new(Backend::Tap(name.to_owned()))
    }

    /// A NIC whose device is the vhost-user backend that listens on `socket`, which must be there. It reaches the guest's
    /// memory past the virtual IOMMU. A backend that comes back there is found within a second.
    pub fn vhost_user(socket: impl Into<PathBuf>) -> Self {
        // QEMU 7.2 without KVM crashes when the driver of such a device uses MSI-X.
        Self::new(Backend::VhostUser(socket.into(), 1)).without_iommu_platform().option("vectors=0")
    }

    /// Drives so many queue pairs of a [`vhost_user`](Self::vhost_user) device.
    pub fn queue_pairs(mut self, pairs: u16) -> Self {
        if let Backend::VhostUser(_, queue_pairs) = &mut self.backend {
            *queue_pairs = pairs;
        }
        self.option("mq=on")
    }

    /// Whether the guest's memory must be shared with others.
    pub(super) fn shares_memory(&self) -> bool {
        matches!(self.backend, Backend::VhostUser(..))
    }

    /// Makes it a transitional device without its modern half, so without virtio capabilities
    /// (virtio 1.2 §4.1.4.8); such a device cannot use an IOMMU.
    pub fn legacy_only(mut self) -> Self {
        self.legacy = true;
        self.iommu_platform = false;
        self
    }

    /// Takes the feature VIRTIO_F_ACCESS_PLATFORM away: the device would access memory past the IOMMU.
    pub fn without_iommu_platform(mut self) -> Self {
        self.iommu_platform = false;
        self
    }

    /// Offers packed virtqueues as well.
    pub fn packed(mut self) -> Self {
        self.packed = true;
        self
    }

    /// Puts it on a conventional PCI bus, where all such devices share one IOMMU group.
    pub fn on_shared_bus(mut self) -> Self {
        self.conventional = true;
        self
    }

    /// Puts it into a slot of its own from which it can be unplugged: [`Guest::unplug`](super::Guest::unplug). One of a
    /// guest, and without [`on_shared_bus`](Self::on_shared_bus).
    pub fn hot(mut self) -> Self {
        self.hot = true;
        self
    }

    /// Whether it can be unplugged.
    pub(super) fn is_hot(&self) -> bool {
        self.hot
    }

    /// Adds properties of QEMU's virtio-net-pci as they are, such as `mq=on,vectors=6`.
    pub fn option(mut self, properties: &str) -> Self {
        self.options.push(',');
        self.options.push_str(properties);
        self
    }

    /// Whether it stands on the conventional bus.
    pub(super) fn is_on_shared_bus(&self) -> bool {
        self.conventional
    }

    /// The address in the guest of NIC `index`.
    pub(super) fn address(&self, index: usize) -> String {
        if self.hot {
            return "0000:01:00.0".to_owned(); // behind the first bridge there is
        }
        let bus = u8::from(self.conventional);
        format!("0000:{bus:02x}:{:02x}.0", 3 + index)
    }

    /// The hardware address of NIC `index`: 52:54:00:00:00:0N, counted from 1.
    pub(super) fn mac(index: usize) -> [u8; 6] {
        let number = u8::try_from(index + 1).expect("at most a few NICs");
        [0x52, 0x54, 0, 0, 0, number]
    }

    /// QEMU's arguments for NIC `index`.
    pub(super) fn arguments(&self, index: usize, dir: &Path) -> Vec<String> {
        let netdev = match &self.backend {
            Backend::Hub(hub) => format!("hubport,id=net{index},hubid={hub}"),
            Backend::Host => format!(
                "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                guest_end(dir, index).display(),
                host_end(dir, index).display()
            ),
            Backend::Tap(name) => format!("tap,id=net{index},ifname={name},script=no,downscript=no"),
            Backend::VhostUser(socket, queue_pairs) => {
                let chardev = format!("socket,id=vhost{index},path={},reconnect=1", socket.display());
                let netdev = format!("vhost-user,id=net{index},chardev=vhost{index},queues={queue_pairs}");
                return ["-chardev", &chardev, "-netdev", &netdev, "-device", &self.device(index)]
                    .map(str::to_owned)
                    .into();
            }
        };
        vec!["-netdev".into(), netdev, "-device".into(), self.device(index)]
    }

    /// The device of NIC `index`, as QEMU's command line and its monitor take it.
    pub(super) fn device(&self, index: usize) -> String {
        let onoff = |on: bool| if on { "on" } else { "off" };
        let mac = Self::mac(index).map(|byte| format!("{byte:02x}")).join(":");
        let (bus, addr) = match (self.conventional, self.hot) {
            (_, true) => (format!("hot{index}"), 0),
            (true, _) => ("conventional".to_owned(), 3 + index),
            _ => ("pcie.0".to_owned(), 3 + index),
        };
        format!(
            "virtio-net-pci,id=nic{index},netdev=net{index},bus={bus},addr={addr:#x},mac={mac},romfile=,\
             disable-legacy={},disable-modern={},iommu_platform={},packed={}{}",
            onoff(!self.legacy),
            onoff(self.legacy),
            onoff(self.iommu_platform),
            onoff(self.packed),
            self.options
        )
    }

    /// Opens this process's end, which QEMU wants to find when it starts.
    pub(super) fn open_host_link(&self, index: usize, dir: &Path) -> Result<Option<HostLink>> {
        if self.backend != Backend::Host {
            return Ok(None);
        }
        let path = host_end(dir, index);
        let socket = UnixDatagram::bind(&path).with_context(|| format!("bind {}", path.display()))?;
        Ok(Some(HostLink { socket, peer: guest_end(dir, index) }))
    }
}

fn host_end(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("nic{index}.host"))
}

fn guest_end(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("nic{index}.qemu"))
}

/// This process's end of a NIC's wire. No frame is lost on it: a full socket makes the sender wait.
#[derive(Debug)]
pub struct HostLink {
    socket: UnixDatagram,
    peer: PathBuf,
}

impl HostLink {
    /// Sends one Ethernet frame, without frame check sequence, to the guest's NIC.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if QEMU took nothing for two seconds, as with a NIC that has no driver.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.set_write_timeout(Some(Duration::from_secs(2)))?;
        self.socket.send_to(frame, &self.peer).map(drop)
    }

    /// Waits at most `timeout` for one frame that the guest's NIC sent.
    ///
    /// # Errors
    /// Whatever the socket gives but a timeout, which is `None`.
    pub fn receive(&self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        // A zero timeout would mean to wait for ever.
        self.socket.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        let mut frame = vec![0; MAX_FRAME_BYTES];
        match self.socket.recv(&mut frame) {
            Ok(len) => {
                frame.truncate(len);
                Ok(Some(frame))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_device_cannot_ask_for_the_iommu() {
        let line = Nic::hub(0).legacy_only().arguments(0, Path::new("/t")).join(" ");
        assert!(line.contains("disable-legacy=off,disable-modern=on,iommu_platform=off"), "{line}");
    }

    #[test]
    fn devices_of_the_shared_bus_stand_behind_the_bridge() {
        let nic = Nic::host().on_shared_bus();
        assert_eq!(nic.address(1), "0000:01:04.0");
        assert!(nic.arguments(1, Path::new("/t"))[3].contains("bus=conventional,addr=0x4"));
    }
}
