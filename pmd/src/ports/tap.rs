//! A TAP interface: the kernel is the other side, and a peer like any other.
//!
//! ```text
//!   /dev/net/tun ─► sys (ioctls) ─► TapPort (cold)       info, link, stop
//!                                       │ queue pairs, one file descriptor each
//!                                   TapQueue (hot):      readv into mbufs, writev out of them
//! ```
//!
//! What we create we bring up, and it goes when we close it, unless `persist=on`; addresses are the user's to give.
//! What is there already (`ip tuntap add`) is used as it is and left as it was. Every frame costs one system call, and
//! every poll that finds nothing costs one: this port is for reaching the kernel, not for speed.
//!
//! Each frame is preceded by a virtio-net header (`IFF_VNET_HDR`, 12 bytes). With offloads (the default where a TCP/IP stack
//! uses the port; `offload=on|off` says otherwise) the kernel takes frames without a checksum and of 64 KiB, and gives
//! them; without, it sums and segments before we see a frame, and the header says nothing.
//! Source: Linux `Documentation/networking/tuntap.rst`, `drivers/net/tun.c`.

mod queue;
#[allow(unsafe_code)] // ioctls, readv, writev
mod sys;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use thiserror::Error;

use crate::port::{Link, Offloads, OpenConfig, Port, PortEvent, PortInfo, QueuePair};
use crate::virtio::spec::net;
use crate::virtio::transport::TransportError;
use queue::TapQueue;
use sys::Control;

/// The longest name an interface can have, in bytes. Source: Linux `IFNAMSIZ`.
const MAX_NAME_BYTES: usize = libc::IFNAMSIZ - 1;

/// The most queues a TAP interface can have. Source: Linux `MAX_TAP_QUEUES`.
const MAX_QUEUES: u16 = 256;

/// Which interface, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TapSpec {
    /// Name of the interface.
    pub name: String,
    /// How many queue pairs.
    pub queues: u16,
    /// The interface stays when we close it.
    pub persist: bool,
    /// Whether checksums and segmentation are left to the other side, if the user says so.
    pub offload: Option<bool>,
}

impl TapSpec {
    /// One queue pair, gone when closed.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err("no interface; its name follows, as in tap:bw0".to_owned());
        }
        if name.len() > MAX_NAME_BYTES {
            let len = name.len();
            return Err(format!(
                "an interface name has at most {MAX_NAME_BYTES} characters, {name:?} has {len}"
            ));
        }
        let bad = |c: &char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%');
        if let Some(bad) = name.chars().find(bad) {
            return Err(format!("an interface name cannot have {bad:?} in it"));
        }
        if matches!(name, "." | "..") {
            return Err(format!("an interface cannot be called {name:?}"));
        }
        Ok(Self { name: name.to_owned(), queues: 1, persist: false, offload: None })
    }

    /// Reads the number of queues.
    ///
    /// # Errors
    /// Which numbers there are.
    pub(crate) fn set_queues(&mut self, text: &str) -> Result<(), String> {
        self.queues = match text.parse() {
            Ok(queues @ 1..=MAX_QUEUES) => queues,
            _ => return Err(format!("queues={text}: a TAP interface has 1 to {MAX_QUEUES} queues")),
        };
        Ok(())
    }
}

/// Why there is no TAP interface.
#[derive(Debug, Error)]
pub enum TapError {
    /// The kernel has no TUN/TAP driver, or this container does not show it.
    #[error(
        "no /dev/net/tun; load the driver with `sudo modprobe tun`, or give it to the container (--device /dev/net/tun)"
    )]
    NoDriver {
        /// errno.
        source: io::Error,
    },
    /// `/dev/net/tun` is somebody else's.
    #[error("no permission to open /dev/net/tun; run as root, or let root do `chmod 666 /dev/net/tun`")]
    Device {
        /// errno.
        source: io::Error,
    },
    /// Making an interface, or using one that is not ours, needs a capability.
    #[error(
        "no permission to {} interface {name}: that needs CAP_NET_ADMIN; run as root, or let root make it for you: \
         {}sudo ip tuntap add dev {name} mode tap user $USER{} && sudo ip link set {name} up",
        if *existed { "use" } else { "create" },
        // One that is there cannot be given to somebody else.
        if *existed { format!("sudo ip link del {name} && ") } else { String::new() },
        if *queues > 1 { " multi_queue" } else { "" }
    )]
    Permission {
        /// The interface.
        name: String,
        /// Queues asked for.
        queues: u16,
        /// Whether it is there.
        existed: bool,
        /// errno.
        source: io::Error,
    },
    /// An interface of that name is no TAP, or not one with as many queues.
    #[error(
        "interface {name} exists and is no TAP interface{}; see `ip -d link show {name}`, choose another name or delete it \
         with `sudo ip link del {name}`",
        if *queues > 1 { " with multi_queue" } else { "" }
    )]
    OtherKind {
        /// The interface.
        name: String,
        /// Queues asked for.
        queues: u16,
        /// errno.
        source: io::Error,
    },
    /// Somebody has it open.
    #[error(
        "TAP interface {name} is open in another process (or another port of this one); end it, or choose another name"
    )]
    Busy {
        /// The interface.
        name: String,
        /// errno.
        source: io::Error,
    },
    /// Both ends of a link need addresses of their own.
    #[error(
        "mac={} is the kernel's own address of {name}; choose another, the two ends of a link differ",
        colons(mac)
    )]
    SameMac {
        /// The interface.
        name: String,
        /// The address.
        mac: [u8; 6],
    },
    /// Anything else.
    #[error("cannot {what} TAP interface {name}")]
    System {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// errno.
        source: io::Error,
    },
}

fn colons(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A TAP interface, open.
pub(crate) struct TapPort {
    text: String,
    info: PortInfo,
    control: Control,
    /// The interface as it was called last.
    interface: String,
    /// One for each queue.
    files: Vec<Arc<OwnedFd>>,
    shared: Arc<Shared>,
    /// The interface was deleted.
    gone: bool,
    pairs: Vec<Box<dyn QueuePair>>,
}

/// What a port tells its queues.
#[derive(Debug, Default)]
struct Shared {
    /// The port has been stopped.
    stopped: AtomicBool,
    /// How many times a deleted interface came back and the queues were attached to it again.
    revivals: AtomicU32,
}

impl TapPort {
    /// Attaches to the interface, creating it if it is not there. `mac` is our end's address, if it is not to be
    /// derived from the name.
    pub(crate) fn open(
        text: String,
        spec: &TapSpec,
        mac: Option<[u8; 6]>,
        config: &OpenConfig<'_>,
    ) -> Result<Self, TapError> {
        let name = spec.name.as_str();
        let failed = |what| move |source: io::Error| TapError::System { name: name.to_owned(), what, source };
        let control = Control::open().map_err(failed("ask about"))?;
        let existed = control.exists(name).map_err(failed("ask about"))?;
        let queues = attach(spec, existed)?;
        let offload = spec.offload.unwrap_or(config.offloads);
        for queue in &queues {
            prepare(queue, offload).map_err(failed("agree on headers and offloads with"))?;
        }
        if !existed {
            // What waits for us waits there: the length of our receive queue.
            control.set_queue_len(name, config.rx_descriptors).map_err(failed("set the queue length of"))?;
            control.set_up(name).map_err(failed("bring up"))?;
        }
        let kernels = control.mac(name).map_err(failed("read the address of"))?;
        if mac == Some(kernels) {
            return Err(TapError::SameMac { name: name.to_owned(), mac: kernels });
        }
        let info = PortInfo {
            driver: "tap",
            mac: mac.unwrap_or_else(|| derived_mac(name, kernels)),
            mtu: control.mtu(name).map_err(failed("read the MTU of"))?,
            rx_descriptors: control.queue_len(name).map_err(failed("read the queue length of"))?,
            tx_descriptors: config.tx_descriptors,
            queue_pairs: spec.queues,
            features: 0,
            offloads: if offload { Offloads::ALL } else { Offloads::default() },
        };
        if spec.persist {
            sys::set_persistent(&queues[0]).map_err(failed("keep"))?;
        }
        let shared = Arc::<Shared>::default();
        let pair = |file: &Arc<OwnedFd>| -> Box<dyn QueuePair> {
            Box::new(TapQueue::new(Arc::clone(file), Arc::clone(&shared), &info))
        };
        let pairs = queues.iter().map(pair).collect();
        let interface = name.to_owned();
        Ok(Self { text, info, control, interface, files: queues, shared, gone: false, pairs })
    }

    /// Attaches the queues to an interface of the name that has turned up: the very file descriptors that the cores
    /// poll. It is not made anew here: whoever deleted it may have meant to.
    fn attach_again(&self) -> io::Result<()> {
        for file in &self.files {
            if sys::name(file).is_ok() {
                continue; // the try before came this far
            }
            let several = if self.files.len() > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
            sys::attach(file, &self.interface, several).or_else(|error| match error.raw_os_error() {
                // As in `attach`.
                Some(libc::EINVAL) => sys::attach(file, &self.interface, libc::IFF_MULTI_QUEUE),
                _ => Err(error),
            })?;
            prepare(file, self.info.offloads != Offloads::default())?;
        }
        Ok(())
    }
}

/// Agrees with the kernel on what lies in front of each frame, and what that may ask for.
fn prepare(queue: &OwnedFd, offload: bool) -> io::Result<()> {
    sys::set_header_bytes(queue, net::HEADER_BYTES)?;
    sys::set_offloads(queue, offload)
}

/// One file descriptor a queue.
fn attach(spec: &TapSpec, existed: bool) -> Result<Vec<Arc<OwnedFd>>, TapError> {
    let TapSpec { name, queues, .. } = spec;
    let several = if *queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut files = Vec::new();
    for _ in 0..*queues {
        let file = sys::open().map_err(|source| match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => TapError::Device { source },
            _ => TapError::NoDriver { source },
        })?;
        let mut attached = sys::attach(&file, name, several);
        if existed && several == 0 && matches!(&attached, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
            // One made with `multi_queue` takes only those who ask for it; one queue of it will do.
            attached = sys::attach(&file, name, libc::IFF_MULTI_QUEUE);
        }
        attached.map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                TapError::Permission { name: name.clone(), queues: *queues, existed, source }
            }
            Some(libc::EINVAL) if existed => {
                TapError::OtherKind { name: name.clone(), queues: *queues, source }
            }
            Some(libc::EBUSY) => TapError::Busy { name: name.clone(), source },
            _ => TapError::System { name: name.clone(), what: "attach to", source },
        })?;
        files.push(Arc::new(file));
    }
    Ok(files)
}

/// Our end's address, the same each time on this machine, and different on others whose interface has the same name:
/// locally administered, `02:62:77` and three bytes of a hash. Never the kernel's end's.
fn derived_mac(name: &str, kernels: [u8; 6]) -> [u8; 6] {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let [a, b, c, ..] = fnv_1a(machine.iter().copied().chain(name.bytes())).to_le_bytes();
    let mac = [0x02, b'b', b'w', a, b, c];
    if mac == kernels { [0x02, b'b', b'w', a, b, c ^ 1] } else { mac }
}

/// FNV-1a, 64 bits: short, and the same in every version of everything.
fn fnv_1a(bytes: impl Iterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

impl Port for TapPort {
    fn name(&self) -> &str {
        &self.text
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Up while the interface is up and the port not stopped; it may have another name by now, or be in another
    /// namespace.
    fn link(&self) -> Link {
        // ORDERING: Relaxed. A flag on its own; see `stop`, its partner.
        if self.shared.stopped.load(Ordering::Relaxed) {
            return Link::Down;
        }
        let Ok(name) = sys::name(&self.files[0]) else { return Link::Down }; // deleted
        match self.control.is_up(&name) {
            Ok(false) => Link::Down,
            // An interface that was moved to another namespace cannot be asked from here; it is there.
            Ok(true) | Err(_) => Link::Up,
        }
    }

    fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
        match sys::name(&self.files[0]) {
            Ok(name) if !self.gone => self.interface = name,
            Err(_) if !self.gone => {
                self.gone = true;
                let name = &self.interface;
                visit(PortEvent::Gone {
                    why: format!(
                        "interface {name} was deleted; once there is a TAP interface {name} again, this port uses it"
                    ),
                });
                return;
            }
            _ if matches!(self.control.exists(&self.interface), Ok(true)) && self.attach_again().is_ok() => {
                self.gone = false;
                // ORDERING: Relaxed. The queues find out by the next system call whether they are attached.
                //           Partner: `TapQueue::has_revived`.
                self.shared.revivals.fetch_add(1, Ordering::Relaxed);
                visit(PortEvent::Back);
            }
            _ => return,
        }
        if let Ok(mtu) = self.control.mtu(&self.interface)
            && mtu != self.info.mtu
        {
            self.info.mtu = mtu;
            visit(PortEvent::Mtu(mtu));
        }
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        std::mem::take(&mut self.pairs)
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        // ORDERING: Relaxed. Nothing is handed over with it: the kernel copies within the call, and none of our
        //           memory is ever its own. Partner: the loads in `TapQueue`.
        self.shared.stopped.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for TapPort {
    fn drop(&mut self) {
        // ORDERING: as in `stop`.
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused_with_the_reason() {
        let problem = |name| TapSpec::new(name).unwrap_err();
        assert!(problem("").contains("as in tap:bw0"));
        assert!(problem("sixteen-letters-").contains("at most 15 characters"));
        assert!(TapSpec::new("fifteen-letters").is_ok());
        for (name, bad) in
            [("a/b", "'/'"), ("a:b", "':'"), ("tap%d", "'%'"), ("a b", "' '"), ("b\u{e4}", "'ä'")]
        {
            assert!(problem(name).contains(bad), "{name}");
        }
        assert!(problem("..").contains(".."));
    }

    #[test]
    fn the_number_of_queues_is_bounded() {
        let mut spec = TapSpec::new("bw0").unwrap();
        for bad in ["0", "257", "-1", "two", ""] {
            assert!(spec.set_queues(bad).unwrap_err().contains("1 to 256"), "{bad}");
        }
        spec.set_queues("256").unwrap();
        assert_eq!(spec.queues, 256);
    }

    #[test]
    fn our_address_is_stable_ours_and_not_the_kernels() {
        let mac = derived_mac("bw0", [0; 6]);
        assert_eq!(mac, derived_mac("bw0", [0; 6]));
        assert_ne!(mac, derived_mac("bw1", [0; 6]));
        assert_eq!(mac[0] & 3, 2, "unicast and locally administered");
        assert_ne!(derived_mac("bw0", mac), mac);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // The algorithm's published test vectors.
        assert_eq!(fnv_1a(b"".iter().copied()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"foobar".iter().copied()), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn messages_name_the_command_that_helps() {
        let name = || "bw0".to_owned();
        let errno = || io::Error::from_raw_os_error(libc::EPERM);
        let error =
            TapError::Permission { name: name(), queues: 2, existed: false, source: errno() }.to_string();
        assert!(error.contains("create interface bw0: that needs CAP_NET_ADMIN"), "{error}");
        assert!(error.contains(": sudo ip tuntap add dev bw0 mode tap user $USER multi_queue &&"), "{error}");
        let error =
            TapError::Permission { name: name(), queues: 1, existed: true, source: errno() }.to_string();
        assert!(
            error.contains("use interface bw0") && error.contains("link del bw0 && sudo ip tuntap"),
            "{error}"
        );
        let error = TapError::OtherKind { name: name(), queues: 1, source: errno() }.to_string();
        assert!(error.contains("bw0 exists and is no TAP interface; see"), "{error}");
    }
}
