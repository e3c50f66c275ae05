//! Driver side over a vhost-user socket: another process is the device ("virtio-user").
//!
//! ```text
//!   open                  owner, features, protocol features, number of queues
//!   set_driver_features   features, memory table: the engine's region, its addresses ours
//!   enable_queue          num, base, addr, call, kick, enable
//!   reset, drop           GET_VRING_BASE for each enabled queue; the device when it can be
//! ```
//!
//! That is the order backends insist on. What vhost-user has no message for is kept here: the device status
//! (backends start a queue at its kick, and stop it at GET_VRING_BASE). A backend without the CONFIG protocol feature has
//! no configuration space for us, so the features that stand for its fields are not shown to the driver: the MAC
//! address is then the port's own, and the link is up as long as the socket is.
//!
//! Source: QEMU `docs/interop/vhost-user.rst`.

mod connect;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Error as WireError, Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

use super::poll::poll;
use super::{Interrupt, Notifier, RingLayout, Transport, TransportError};
use crate::mem::Region;
use crate::virtio::spec::{feature, net, split};
pub use connect::VhostUserError;
use connect::connect;

/// How long one request to the backend may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Protocol features we make use of where they are offered. STATUS is not among them: the device status is kept
/// here.
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::RESET_DEVICE);

/// Features that vhost-user has no messages for: dirty logging (26), its own bit, an IOTLB.
const HIDDEN: u64 = 1 << 26 | feature::VHOST_USER_PROTOCOL | feature::ACCESS_PLATFORM;

/// Features that need a control queue. vhost-user says nothing of one: backends that offer these leave it to the
/// frontend to make one up for its guest, unless the user knows better. Several queue pairs do without it here.
const NEEDS_CONTROL_QUEUE: u64 = feature::CTRL_VQ
    | feature::CTRL_GUEST_OFFLOADS
    | feature::CTRL_RX
    | feature::CTRL_VLAN
    | feature::CTRL_RX_EXTRA
    | feature::GUEST_ANNOUNCE
    | feature::CTRL_MAC_ADDR
    | feature::NOTF_COAL
    | feature::HASH_REPORT
    | feature::RSS;

/// Features that say that a field of the configuration space is there, beside the number of queue pairs, which
/// vhost-user has a message for.
const NEEDS_CONFIG: u64 = feature::MAC
    | feature::STATUS
    | feature::MTU
    | feature::SPEED_DUPLEX
    | feature::RSS
    | feature::HASH_REPORT;

/// The most queue pairs that a backend is asked for: messages name a virtqueue in eight bits.
const MAX_PAIRS: u16 = 127;

/// What to open.
#[derive(Clone, Debug)]
pub struct VhostUserConfig {
    /// The backend's socket.
    pub path: PathBuf,
    /// Queue pairs to use.
    pub queue_pairs: u16,
    /// Whether fewer will do, where the backend has fewer.
    pub fewer: bool,
    /// The backend serves a control queue, as the virtqueue behind the last pair. Nothing in the protocol says so; the
    /// device side of this crate does.
    pub control_queue: bool,
    /// Limit for every single answer of the backend; [`ANSWER_WITHIN`] unless in a hurry.
    pub answer_within: Duration,
}

/// What changes over the life of the connection.
#[derive(Debug, Default)]
struct State {
    status: u8,
    enabled: Vec<u16>,
    /// What the backend signals, of each queue that was ever enabled.
    calls: HashMap<u16, Interrupt>,
    /// It was we who closed the connection, because an answer did not come.
    gave_up: bool,
}

/// A vhost-user backend, as a device.
pub struct VhostUser {
    frontend: Frontend,
    // The same socket, to look whether the backend is there and to give up on it.
    socket: UnixStream,
    region: Arc<Region>,
    answer_within: Duration,
    /// As the backend offers them.
    offered: u64,
    protocol: VhostUserProtocolFeatures,
    /// Of the backend, at most as many as are asked for; where it has a control queue, all of them, as that comes behind.
    queue_pairs: u16,
    control_queue: bool,
    state: Mutex<State>,
}

impl VhostUser {
    /// Connects to the backend and learns what it can do. Blocks, at most `answer_within` for each of five answers.
    ///
    /// # Errors
    /// [`VhostUserError`], a different one for each thing to be done about it.
    pub fn open(config: &VhostUserConfig, region: Arc<Region>) -> Result<Self, VhostUserError> {
        let path = &config.path;
        let handshake = |source| VhostUserError::Handshake { path: path.clone(), source };
        let socket = connect(path)?;
        let clone = |socket: &UnixStream| {
            socket.try_clone().map_err(|source| VhostUserError::Connect { path: path.clone(), source })
        };
        let mut this = Self {
            frontend: Frontend::from_stream(clone(&socket)?, 2 * u64::from(MAX_PAIRS) + 1),
            socket,
            region,
            answer_within: config.answer_within,
            offered: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            queue_pairs: config.queue_pairs,
            control_queue: config.control_queue,
            state: Mutex::default(),
        };
        this.ask("take us as its owner", |frontend| frontend.set_owner()).map_err(handshake)?;
        this.offered =
            this.ask("state its features", |frontend| frontend.get_features()).map_err(handshake)?;
        if this.offered & feature::VERSION_1 == 0 {
            return Err(VhostUserError::Legacy { path: path.clone(), offered: this.offered });
        }
        if this.offered & feature::VHOST_USER_PROTOCOL != 0 {
            this.negotiate_protocol().map_err(handshake)?;
        }
        let pairs = this.backend_queue_pairs().map_err(handshake)?;
        if pairs < u64::from(config.queue_pairs) && !config.fewer || pairs == 0 {
            return Err(VhostUserError::QueuePairs {
                path: path.clone(),
                wanted: config.queue_pairs,
                offered: pairs,
            });
        }
        let pairs = u16::try_from(pairs).map_or(MAX_PAIRS, |pairs| pairs.min(MAX_PAIRS));
        this.queue_pairs = if this.control_queue { pairs } else { pairs.min(config.queue_pairs) };
        Ok(this)
    }

    fn negotiate_protocol(&mut self) -> Result<(), TransportError> {
        let offered = self.ask("state its protocol features", |frontend| frontend.get_protocol_features())?;
        let protocol = offered & PROTOCOL_FEATURES;
        self.ask("accept protocol features", |frontend| frontend.set_protocol_features(protocol))?;
        self.protocol = protocol;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            // From here on a refusal comes back as an error instead of being found out by silence.
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        Ok(())
    }

    /// States where a queue starts: at the beginning of its first lap, which for a packed one means both wrap counters
    /// set. Written by hand: the crate's request has no room for the counter of the used side.
    fn set_vring_base(&self, queue: u16, packed: bool) -> Result<(), TransportError> {
        const SET_VRING_BASE: u32 = 10;
        const VERSION: u32 = 1;
        let what = "take a virtqueue's start";
        let base = if packed { 1 << 15 | 1 << 31 } else { 0 };
        let words = [SET_VRING_BASE, VERSION, 8, u32::from(queue), base];
        let request: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // No answer is asked for; a backend that does not like it says so to the next request.
        self.within_limit(what, || (&self.socket).write_all(&request))?
            .map_err(|_| TransportError::Gone { what })
    }

    /// How many queue pairs the backend has. Written by hand: backends of network devices answer with queue *pairs*,
    /// and the crate's request would take that for the number of virtqueues that may be spoken of.
    fn backend_queue_pairs(&self) -> Result<u64, TransportError> {
        const GET_QUEUE_NUM: u32 = 17;
        const VERSION: u32 = 1;
        if self.queue_pairs == 1 && !self.control_queue
            || !self.protocol.contains(VhostUserProtocolFeatures::MQ)
        {
            return Ok(1);
        }
        let what = "state its number of queues";
        let mut answer = [0_u8; 20];
        self.within_limit(what, || {
            let words = [GET_QUEUE_NUM, VERSION, 0];
            let request: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            (&self.socket).write_all(&request)?;
            (&self.socket).read_exact(&mut answer)
        })?
        .map_err(|_| TransportError::Gone { what })?;
        let (header, body) = answer.split_at(12);
        if header[..4] != GET_QUEUE_NUM.to_le_bytes() || header[8..] != 8_u32.to_le_bytes() {
            return Err(TransportError::Protocol(format!("it was to {what} and answered {header:x?}")));
        }
        Ok(u64::from_le_bytes(body.try_into().expect("20 - 12 bytes")))
    }

    /// Runs one request and its answer.
    fn ask<T>(
        &self,
        what: &'static str,
        request: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, TransportError> {
        self.within_limit(what, || request(&mut self.frontend.clone()))?.map_err(|error| match error {
            vhost::Error::VhostUserProtocol(
                WireError::Disconnected | WireError::PartialMessage | WireError::SocketBroken(_),
            ) => TransportError::Gone { what },
            vhost::Error::VhostUserProtocol(WireError::BackendInternalError) => {
                TransportError::Protocol(format!("it was to {what} and refused"))
            }
            other => TransportError::Protocol(format!("it was to {what}: {other}")),
        })
    }

    /// Runs `exchange` and closes the connection when that takes too long. A timeout of the socket itself would not
    /// do: the crate takes it for a passing disturbance and tries again, without end.
    fn within_limit<T>(&self, what: &'static str, exchange: impl FnOnce() -> T) -> Result<T, TransportError> {
        let limit = self.answer_within;
        let socket = &self.socket;
        let (done, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let guard = std::thread::Builder::new()
                .name("vhost-user".into())
                .spawn_scoped(scope, move || {
                    let late = waiting.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
                    if late {
                        drop(socket.shutdown(std::net::Shutdown::Both));
                    }
                    late
                })
                .map_err(|source| TransportError::Io { what: "start a thread", source })?;
            let result = exchange();
            drop(done);
            match guard.join() {
                Ok(false) => Ok(result),
                _ => {
                    self.state().gave_up = true;
                    Err(self.timeout(what))
                }
            }
        })
    }

    fn has_config(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::CONFIG)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_enabled(&self) -> Result<Option<u16>, TransportError> {
        let state = self.state();
        match state.enabled.last() {
            Some(_) if state.gave_up => Err(self.timeout("stop its virtqueues")),
            last => Ok(last.copied()),
        }
    }

    fn timeout(&self, what: &'static str) -> TransportError {
        let limit_ms = u64::try_from(self.answer_within.as_millis()).unwrap_or(u64::MAX);
        TransportError::Timeout { what, limit_ms }
    }

    fn check_queue(&self, queue: u16, size: u16) -> Result<(), TransportError> {
        let max = self.max_queue_size(queue)?;
        if size > max { Err(TransportError::Queue { queue, size, max }) } else { Ok(()) }
    }
}

impl Transport for VhostUser {
    /// Whether the backend's end of the socket is open.
    fn is_present(&self) -> bool {
        poll([self.socket.as_fd()], Some(Duration::ZERO)).is_ok_and(|[socket]| !socket.gone)
    }

    fn gone(&self) -> Option<String> {
        (!self.is_present()).then(|| {
            if self.state().gave_up {
                let limit_ms = self.answer_within.as_millis();
                format!("the backend did not answer within {limit_ms} ms")
            } else {
                "the backend has closed the connection, or has ended".to_owned()
            }
        })
    }

    fn device_features(&self) -> Result<u64, TransportError> {
        let without_config = if self.has_config() { 0 } else { NEEDS_CONFIG };
        let without_control = if self.control_queue { 0 } else { NEEDS_CONTROL_QUEUE };
        let single = if self.queue_pairs > 1 { 0 } else { feature::MQ };
        Ok(self.offered & !HIDDEN & !without_config & !without_control & !single)
    }

    fn set_driver_features(&self, features: u64) -> Result<(), TransportError> {
        // Its own bit stands for the enable message.
        let features = (features | feature::VHOST_USER_PROTOCOL) & self.offered;
        self.ask("accept our features", |frontend| frontend.set_features(features))?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: self.region.iova().0,
            memory_size: self.region.len_bytes() as u64,
            userspace_addr: self.region.base() as u64,
            mmap_offset: 0,
            mmap_handle: self.region.fd().as_raw_fd(),
        };
        self.ask("map our memory", |frontend| frontend.set_mem_table(&[region]).map(drop))
    }

    fn status(&self) -> Result<u8, TransportError> {
        if self.is_present() {
            Ok(self.state().status)
        } else {
            Err(TransportError::Gone { what: "read the status" })
        }
    }

    fn set_status(&self, status: u8) -> Result<(), TransportError> {
        self.state().status |= status;
        Ok(())
    }

    /// As the trait says. A backend that has hung up of its own accord is past touching our memory: the socket of a
    /// process that died is closed after its mappings went, and one that lives has to stop before it closes. After we
    /// hung up on it nothing is known, and this fails for good.
    fn reset(&self) -> Result<(), TransportError> {
        self.state().status = 0;
        let mut used = false;
        while let Some(queue) = self.last_enabled()? {
            used = true;
            match self.ask("stop a virtqueue", |frontend| frontend.get_vring_base(usize::from(queue))) {
                Ok(_) => drop(self.state().enabled.pop()),
                Err(TransportError::Gone { .. }) => self.state().enabled.clear(),
                Err(other) => return Err(other),
            }
        }
        if used && self.protocol.contains(VhostUserProtocolFeatures::RESET_DEVICE) {
            match self.ask("reset", |frontend| frontend.reset_device()) {
                Ok(()) | Err(TransportError::Gone { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TransportError> {
        if let (net::config::MAX_VIRTQUEUE_PAIRS, [low, high]) = (offset, &mut *bytes) {
            // There is a message for it, also for those that know no CONFIG.
            [*low, *high] = self.queue_pairs.to_le_bytes();
            return Ok(());
        }
        let start = u32::try_from(offset).unwrap_or(u32::MAX);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // The request carries a payload as long as the answer.
        let (_, answer) = self.ask("state its configuration", |frontend| {
            frontend.get_config(start, length, VhostUserConfigFlags::empty(), bytes)
        })?;
        // As long as asked for: the crate has checked it.
        bytes.copy_from_slice(&answer);
        Ok(())
    }

    fn queue_count(&self) -> Result<u16, TransportError> {
        Ok(2 * self.queue_pairs + u16::from(self.control_queue))
    }

    /// vhost-user has no message for it: any size that virtio allows; a backend that has a smaller limit refuses.
    fn max_queue_size(&self, queue: u16) -> Result<u16, TransportError> {
        Ok(if queue < self.queue_count()? { split::MAX_SIZE } else { 0 })
    }

    fn enable_queue(&self, queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        self.check_queue(queue, layout.size)?;
        let index = usize::from(queue);
        let event =
            || Interrupt::new().map_err(|source| TransportError::Io { what: "make an eventfd", source });
        let kick = event()?;
        let known = self.state().calls.get(&queue).cloned();
        let call = known.map_or_else(event, Ok)?;
        self.state().calls.insert(queue, call.clone());
        let addresses = VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: layout.descriptors.0,
            used_ring_addr: layout.used.0,
            avail_ring_addr: layout.available.0,
            log_addr: None,
        };
        // The backend may use the queue from the kick on.
        self.state().enabled.push(queue);
        self.ask("take a virtqueue's size", |frontend| frontend.set_vring_num(index, layout.size))?;
        self.set_vring_base(queue, layout.packed)?;
        self.ask("take a virtqueue's addresses", |frontend| frontend.set_vring_addr(index, &addresses))?;
        self.ask("take a virtqueue's call eventfd", |frontend| frontend.set_vring_call(index, call.event()))?;
        self.ask("start a virtqueue", |frontend| frontend.set_vring_kick(index, kick.event()))?;
        if self.offered & feature::VHOST_USER_PROTOCOL != 0 {
            self.ask("enable a virtqueue", |frontend| frontend.set_vring_enable(index, true))?;
        }
        Ok(Notifier::EventFd(Arc::clone(kick.event())))
    }

    fn interrupt(&self, queue: u16) -> Option<Interrupt> {
        self.state().calls.get(&queue).cloned()
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        if let Err(error) = self.reset() {
            log::warn!("vhost-user backend could not be stopped: {error}");
        }
    }
}
