//! AF_XDP: frames of a kernel's interface, taken before its stack sees them; the rest stays with the kernel.
//!
//! ```text
//!   spec, filter ─► program (BPF) ─► bpf (map, program, link)      which frames are ours
//!                                      │
//!   interface (rtnetlink) ─► XdpPort (cold): info, link, stop      umem: the engine's region, seen by the kernel
//!                                      │ a queue pair for each queue, a socket each
//!                                  XdpQueue (hot): fill ─► rx      ring: shared with the kernel
//!                                                  tx ─► completion
//! ```
//!
//! The engine's one region is the sockets' memory (UMEM): the kernel, or the NIC in zero-copy mode, writes into mbufs
//! and reads out of them. The XDP program is tied to the interface by a BPF link, and sockets are file descriptors: when
//! the process ends, however it does, nothing of ours is left on the interface.
//!
//! A received frame begins 256 bytes into its mbuf's room (`XDP_PACKET_HEADROOM`), and does not span mbufs: the
//! interface's MTU must fit. The kernel tells nothing about checksums. A peer on the same machine (`veth`) leaves them
//! half made unless told otherwise: `ethtool -K PEER tx off`.
//! Source: Linux `Documentation/networking/af_xdp.rst`.

#[allow(dead_code)]
mod abi;
#[allow(unsafe_code)] // bpf
mod bpf;
mod error;
pub(crate) mod filter;
mod interface;
mod probe;
mod program;
mod queue;
#[allow(unsafe_code)] // mmap, and memory that the kernel writes
mod ring;
mod spec;
#[allow(unsafe_code)] // sockets
mod sys;
#[allow(unsafe_code)] // mmap
mod umem;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::mem::PageSize;
use crate::port::{Link, Offloads, OpenConfig, Port, PortEvent, PortInfo, QueuePair};
use crate::virtio::transport::TransportError;
pub use error::XdpError;
use interface::Interface;
use probe::{Probe, patiently};
use queue::{PortState, QueueConfig, Socket, XdpQueue};
use ring::{Consumer, Producer, Ring};
pub(crate) use spec::XdpSpec;
use spec::{Copying, XdpMode};
use sys::{Control, RingKind};

/// Ethernet header and one VLAN tag, in bytes.
const LINK_HEADER_BYTES: u32 = 18;

/// The least headroom that an mbuf has, in bytes: a part of its chunk.
const HEADROOM_BYTES: usize = 64;

/// Frames that the kernel should send in one system call: two of the largest bursts.
const SEND_BUDGET: u32 = 128;

/// Sizes of rings, in entries.
const RING_SIZES: std::ops::RangeInclusive<u16> = 64..=32768;

/// Why there is no zero-copy where the driver would do it.
const NO_HUGEPAGES: &str = "packet memory has no hugepages, run ./hugepage-setup.sh";

/// Several queues of an interface, taken.
pub(crate) struct XdpPort {
    text: String,
    info: PortInfo,
    control: Control,
    ifindex: u32,
    /// What it is called now.
    interface: String,
    has_told_gone: bool,
    state: Arc<PortState>,
    /// While it is open the program is on the interface.
    link: Option<OwnedFd>,
    /// Which the program redirects to; ours to keep while it does.
    _sockets: OwnedFd,
    pairs: Vec<Box<dyn QueuePair>>,
}

impl XdpPort {
    /// Takes the interface's queues. `mac` is our address, if it is not the interface's own.
    pub(crate) fn open(
        text: String,
        spec: &XdpSpec,
        mac: Option<[u8; 6]>,
        config: &OpenConfig<'_>,
    ) -> Result<Self, XdpError> {
        let opening = Opening { name: &spec.name, spec, config };
        let control = Control::open().map_err(opening.failed("ask"))?;
        let interface = interface::by_name(&control, &spec.name)
            .map_err(|source| XdpError::NoInterface { name: spec.name.clone(), source })?;
        let chunk_bytes = opening.chunk_bytes()?;
        let mtu = opening.check_mtu(&interface, chunk_bytes)?;
        let own_mac = interface.mac.ok_or_else(|| XdpError::NoEthernet { name: spec.name.clone() })?;
        if spec.filter.takes_all()
            && !spec.all
            && interface::has_default_route(&control, interface.index)
                .map_err(opening.failed("read the routes"))?
        {
            return Err(XdpError::DefaultRoute { name: spec.name.clone() });
        }
        let queues = opening.queues(&control)?;
        let (mut sockets, zero_copy) = opening.sockets(interface.index, queues, chunk_bytes)?;
        let busy_poll = opening.prefer_busy_poll(&sockets);
        let (map, link) = opening.attach(&control, interface.index, &mut sockets)?;
        opening.look_at_peer(&control, &interface);

        let state = Arc::new(PortState::default());
        state.set_mtu(mtu);
        let info = PortInfo {
            driver: if zero_copy { "af_xdp (zero-copy)" } else { "af_xdp" },
            mac: mac.unwrap_or(own_mac),
            mtu,
            rx_descriptors: opening.ring_size(config.rx_descriptors),
            tx_descriptors: opening.ring_size(config.tx_descriptors),
            queue_pairs: queues,
            features: 0,
            offloads: Offloads::default(),
        };
        let queue = QueueConfig {
            region: Arc::clone(config.region),
            rx_descriptors: info.rx_descriptors,
            tx_descriptors: info.tx_descriptors,
            chunk_bytes,
            zero_copy,
            busy_poll,
            state: Arc::clone(&state),
        };
        let pair = |(number, socket)| -> Result<Box<dyn QueuePair>, XdpError> {
            let probe = Probe::new(interface.index, number).map_err(opening.failed("make a socket"))?;
            Ok(Box::new(XdpQueue::new(socket, probe, queue.clone())))
        };
        let pairs = (0..).zip(sockets).map(pair).collect::<Result<_, _>>()?;
        Ok(Self {
            text,
            info,
            control,
            ifindex: interface.index,
            interface: interface.name,
            has_told_gone: false,
            state,
            link: Some(link),
            _sockets: map,
            pairs,
        })
    }

    /// Whether the interface was deleted; from then on the queue pairs say so.
    fn is_gone(&self) -> bool {
        let asked = interface::by_index(&self.control, self.ifindex);
        let gone = matches!(asked, Err(error) if error.raw_os_error() == Some(libc::ENODEV));
        if gone {
            // ORDERING: Relaxed. A flag on its own. Partner: the load in `XdpQueue::is_still`.
            self.state.gone.store(true, Ordering::Relaxed);
        }
        gone
    }
}

/// A port that is being opened.
struct Opening<'a> {
    name: &'a str,
    spec: &'a XdpSpec,
    config: &'a OpenConfig<'a>,
}

impl Opening<'_> {
    /// An error of the system's, by what was tried.
    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> XdpError {
        let name = self.name.to_owned();
        move |source| {
            let name = name.clone();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => XdpError::Permission { name, what, source },
                _ => XdpError::System { name, what, source },
            }
        }
    }

    fn ring_size(&self, descriptors: u16) -> u16 {
        descriptors.clamp(*RING_SIZES.start(), *RING_SIZES.end()).next_power_of_two()
    }

    /// What the kernel may write of each mbuf: as much as fits into a page.
    fn chunk_bytes(&self) -> Result<u32, XdpError> {
        let room = self.config.data_room_bytes + HEADROOM_BYTES;
        let least = abi::MIN_CHUNK_BYTES as usize;
        if room < least {
            return Err(XdpError::DataRoom {
                bytes: self.config.data_room_bytes,
                least: least - HEADROOM_BYTES,
            });
        }
        Ok(u32::try_from(room).unwrap_or(u32::MAX).min(abi::MAX_CHUNK_BYTES))
    }

    fn check_mtu(&self, interface: &Interface, chunk_bytes: u32) -> Result<u16, XdpError> {
        let most = chunk_bytes - abi::PACKET_HEADROOM - LINK_HEADER_BYTES;
        match u16::try_from(interface.mtu) {
            Ok(mtu) if interface.mtu <= most => Ok(mtu),
            _ => Err(XdpError::Mtu { name: self.name.to_owned(), mtu: interface.mtu, most }),
        }
    }

    /// How many queues are taken, from the first.
    fn queues(&self, control: &Control) -> Result<u16, XdpError> {
        // Interfaces that do not tell have one.
        let has = control.receive_queues(self.name).unwrap_or(1).max(1);
        let most = u16::try_from(has).unwrap_or(u16::MAX);
        let queues = match self.spec.queues {
            Some(asked) if asked > most => {
                return Err(XdpError::TooFewQueues { name: self.name.to_owned(), has, asked });
            }
            Some(asked) => asked,
            None => self.config.queue_pairs.clamp(1, most),
        };
        if u32::from(queues) < has {
            let name = self.name;
            log::warn!(
                "port xdp:{name} takes {queues} of {has} receive queues, what arrives on the others stays with the kernel; \
                 use queues={has}, or `sudo ethtool -L {name} combined {queues}`"
            );
        }
        Ok(queues)
    }

    /// A bound socket for each queue, and whether frames are not copied.
    fn sockets(&self, ifindex: u32, queues: u16, chunk_bytes: u32) -> Result<(Vec<Socket>, bool), XdpError> {
        let mut sockets: Vec<Socket> = Vec::new();
        let mut zero_copy = false;
        for queue in 0..u32::from(queues) {
            let fd = sys::socket().map_err(|source| match source.raw_os_error() {
                Some(libc::EAFNOSUPPORT) => XdpError::NoSockets { source },
                _ => self.failed("open an AF_XDP socket")(source),
            })?;
            let first = sockets.first().map(|first| first.fd.as_fd());
            if first.is_none() {
                self.register(fd.as_fd(), chunk_bytes)?;
            }
            let socket = self.rings(fd)?;
            match first {
                None => zero_copy = self.bind_first(socket.fd.as_fd(), ifindex)?,
                Some(_) => {
                    let bound = patiently(|| sys::bind(socket.fd.as_fd(), ifindex, queue, 0, first));
                    bound.map_err(|source| self.not_bound(queue, source))?;
                }
            }
            sockets.push(socket);
        }
        Ok((sockets, zero_copy))
    }

    fn register(&self, socket: BorrowedFd<'_>, chunk_bytes: u32) -> Result<(), XdpError> {
        umem::register(socket, self.config.region, chunk_bytes).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::ENOBUFS) => {
                    XdpError::Memlock { len_bytes: self.config.region.len_bytes(), source }
                }
                Some(libc::EINVAL) => XdpError::OldKernel { what: "no unaligned chunks", source },
                _ => self.failed("register the packet memory")(source),
            }
        })
    }

    fn rings(&self, fd: OwnedFd) -> Result<Socket, XdpError> {
        let failed = self.failed("make the rings");
        let rx_size = u32::from(self.ring_size(self.config.rx_descriptors));
        let tx_size = u32::from(self.ring_size(self.config.tx_descriptors));
        let rings = [
            (RingKind::Fill, rx_size),
            (RingKind::Completion, tx_size),
            (RingKind::Rx, rx_size),
            (RingKind::Tx, tx_size),
        ];
        for (kind, size) in rings {
            sys::make_ring(fd.as_fd(), kind, size).map_err(&failed)?;
        }
        sys::set_send_budget(fd.as_fd(), SEND_BUDGET.min(tx_size));
        let offsets = sys::ring_offsets(fd.as_fd()).map_err(|source| match source.kind() {
            io::ErrorKind::Unsupported => XdpError::OldKernel { what: "no need-wakeup flags", source },
            _ => failed(source),
        })?;
        let on = fd.as_fd();
        let fill = Ring::new(on, RingKind::Fill, rx_size, &offsets.fr).map_err(&failed)?;
        let rx = Ring::new(on, RingKind::Rx, rx_size, &offsets.rx).map_err(&failed)?;
        let tx = Ring::new(on, RingKind::Tx, tx_size, &offsets.tx).map_err(&failed)?;
        let completion = Ring::new(on, RingKind::Completion, tx_size, &offsets.cr).map_err(&failed)?;
        Ok(Socket {
            fill: Producer::new(fill),
            rx: Consumer::new(rx),
            tx: Producer::new(tx),
            completion: Consumer::new(completion),
            fd,
        })
    }

    /// Binds the first socket, in zero-copy mode if that is wanted and can be had. Returns whether it is.
    fn bind_first(&self, socket: BorrowedFd<'_>, ifindex: u32) -> Result<bool, XdpError> {
        let bind = |flag| patiently(|| sys::bind(socket, ifindex, 0, flag | libc::XDP_USE_NEED_WAKEUP, None));
        let copying = self.spec.copying;
        if copying != Copying::Copy {
            let is_huge = self.config.region.page_size() != PageSize::Ordinary;
            let why = if !is_huge && copying == Copying::Auto {
                (NO_HUGEPAGES.to_owned(), None)
            } else {
                match bind(libc::XDP_ZEROCOPY) {
                    Ok(()) if is_huge => return Ok(true),
                    // Buffers cross pages, which may be anywhere for a device.
                    Ok(()) => (NO_HUGEPAGES.to_owned(), None),
                    Err(source) if source.raw_os_error() == Some(libc::EBUSY) => {
                        return Err(self.not_bound(0, source));
                    }
                    Err(source) => (format!("its driver refuses: {source}"), Some(source)),
                }
            };
            let name = self.name;
            match (copying, why) {
                (Copying::ZeroCopy, (why, source)) => {
                    return Err(XdpError::NotZeroCopy { name: name.to_owned(), why, source });
                }
                (_, (why, _)) => {
                    log::warn!(
                        "port xdp:{name}: the kernel copies frames ({why}); mode=copy says that this is meant"
                    );
                }
            }
        }
        bind(libc::XDP_COPY).map_err(|source| self.not_bound(0, source))?;
        Ok(false)
    }

    fn not_bound(&self, queue: u32, source: io::Error) -> XdpError {
        let name = self.name.to_owned();
        match source.raw_os_error() {
            Some(libc::EBUSY) => XdpError::QueueTaken { name, queue, source },
            _ => self.failed("bind an AF_XDP socket")(source),
        }
    }

    /// Whether the driver's receive work is to be done in our calls, on the core that needs its frames; else it is done
    /// where its interrupts arrive.
    fn prefer_busy_poll(&self, sockets: &[Socket]) -> bool {
        let Some(budget) = self.spec.busy_poll else { return false };
        let set = sockets.iter().try_for_each(|socket| sys::prefer_busy_poll(socket.fd.as_fd(), budget));
        if let Err(error) = &set {
            log::warn!(
                "port xdp:{}: the kernel does not let us poll its driver ({error}; it takes Linux 5.11 and \
                 CAP_NET_ADMIN); busy_poll=off says that this is meant",
                self.name
            );
        }
        set.is_ok()
    }

    /// The sockets' map and the link that ties the program to the interface.
    fn attach(
        &self,
        control: &Control,
        ifindex: u32,
        sockets: &mut [Socket],
    ) -> Result<(OwnedFd, OwnedFd), XdpError> {
        let map = bpf::create_socket_map(u32::try_from(sockets.len()).unwrap_or(u32::MAX))
            .map_err(self.failed("make the map of sockets"))?;
        for (queue, socket) in (0..).zip(sockets) {
            bpf::set_socket(map.as_fd(), queue, socket.fd.as_fd())
                .map_err(self.failed("put a socket into the map"))?;
        }
        let insns = program::assemble(&self.spec.filter, std::os::fd::AsRawFd::as_raw_fd(&map));
        let program = bpf::load_program(&insns).map_err(|(source, log)| match source.raw_os_error() {
            Some(libc::EPERM) => self.failed("load the XDP program")(source),
            _ => XdpError::Program { log, source },
        })?;
        let link = self.link(control, ifindex, program.as_fd())?;
        Ok((map, link))
    }

    fn link(&self, control: &Control, ifindex: u32, program: BorrowedFd<'_>) -> Result<OwnedFd, XdpError> {
        let name = self.name;
        let attach = |flags| bpf::attach(program, ifindex, flags);
        let generic =
            || attach(abi::XDP_FLAGS_SKB_MODE).map_err(|source| self.not_attached(control, ifindex, source));
        match self.spec.mode {
            XdpMode::Generic => generic(),
            mode => match attach(abi::XDP_FLAGS_DRV_MODE) {
                Ok(link) => Ok(link),
                Err(source) if is_taken(&source) => Err(self.not_attached(control, ifindex, source)),
                Err(source) if mode == XdpMode::Native => {
                    Err(XdpError::NotNative { name: name.to_owned(), source })
                }
                Err(source) => {
                    log::warn!(
                        "port xdp:{name}: the interface's driver runs no XDP programs ({source}), the kernel's stack does, \
                         more slowly; xdp_mode=generic says that this is meant"
                    );
                    generic()
                }
            },
        }
    }

    fn not_attached(&self, control: &Control, ifindex: u32, source: io::Error) -> XdpError {
        if !is_taken(&source) {
            return self.failed("attach the XDP program")(source);
        }
        let id = interface::by_index(control, ifindex).ok().and_then(|there| there.xdp_program);
        let program = id.and_then(bpf::program_name);
        XdpError::ProgramThere { name: self.name.to_owned(), program, id, source }
    }

    /// The other end of a `veth` pair leaves checksums to whoever needs them, and we do not know which it did.
    fn look_at_peer(&self, control: &Control, interface: &Interface) {
        if interface.kind.as_deref() != Some("veth") {
            return;
        }
        let name = self.name;
        let peer = interface.peer.and_then(|peer| interface::by_index(control, peer).ok());
        match peer.map(|peer| peer.name) {
            Some(peer) if control.leaves_checksums(&peer).unwrap_or(false) => log::warn!(
                "port xdp:{name}: its peer {peer} sends TCP and UDP without finished checksums, which TCP/IP stacks drop; \
                 run `sudo ethtool -K {peer} tx off`"
            ),
            Some(_) => {}
            None => log::info!(
                "port xdp:{name}: its peer is in another network namespace; if datagrams from there have wrong checksums, \
                 run `ethtool -K PEER tx off` there"
            ),
        }
    }
}

/// Whether the errno says that there is a program already.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

impl Port for XdpPort {
    fn name(&self) -> &str {
        &self.text
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Up while the interface is up with a carrier and the port not stopped; it may have another name by now.
    fn link(&self) -> Link {
        // ORDERING: Relaxed. A flag on its own; see `stop`, its partner.
        if self.state.stopped.load(Ordering::Relaxed) || self.is_gone() {
            return Link::Down;
        }
        match interface::by_index(&self.control, self.ifindex) {
            Ok(interface) if interface.is_up => Link::Up,
            Ok(_) | Err(_) => Link::Down,
        }
    }

    fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
        if self.has_told_gone {
            return;
        }
        if self.is_gone() {
            self.has_told_gone = true;
            visit(PortEvent::Gone { why: format!("interface {} was deleted", self.interface) });
            return;
        }
        let Ok(interface) = interface::by_index(&self.control, self.ifindex) else { return };
        self.interface = interface.name;
        if let Ok(mtu) = u16::try_from(interface.mtu)
            && mtu != self.info.mtu
        {
            self.info.mtu = mtu;
            self.state.set_mtu(mtu);
            visit(PortEvent::Mtu(mtu));
        }
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        std::mem::take(&mut self.pairs)
    }

    /// The program leaves the interface, and the queue pairs move nothing. What was under way may still be written into
    /// mbufs that a queue pair holds; it closes its socket, and waits for that, before it gives them back.
    fn stop(&mut self) -> Result<(), TransportError> {
        self.link = None;
        // ORDERING: Relaxed. A flag on its own. Partner: the load in `XdpQueue::is_still`.
        self.state.stopped.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for XdpPort {
    fn drop(&mut self) {
        // ORDERING: as in `stop`.
        self.state.stopped.store(true, Ordering::Relaxed);
    }
}
