//! All flows of a core: the slab, the table from 4-tuple to slot, and the buffers they hold.

use hashbrown::HashTable;
use smoltcp::socket::tcp;
use smoltcp::wire::IpEndpoint;

use crate::buffers::Buffers;
use crate::clock::{FlowClock, Time};
use crate::flow::{DEFAULT_MSS, Flow, Phase, Sent};
use crate::id::ConnId;
use crate::options::{Congestion, TcpOptions};
use crate::prefetch::prefetch;
use crate::recovery::Recovery;
use crate::tuple::{HashKey, Tuple};

/// No flow.
pub(crate) const NIL: u32 = u32::MAX;

/// A table entry: enough of the hash to be almost sure without reading the slot.
#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    check: u32,
}

fn check(hash: u64) -> u32 {
    // hashbrown takes its group from the low and its tag from the top 7 bits: the middle is independent of both.
    u32::try_from(hash >> 25 & 0xffff_ffff).unwrap_or(0)
}

/// The flows. `slots` is declared before `buffers`: sockets go before the memory they borrow.
pub(crate) struct Flows {
    slots: Vec<Flow>,
    free: Vec<u32>,
    table: HashTable<Entry>,
    /// Flows for which the table need not grow.
    roomy: usize,
    key: HashKey,
    limit: usize,
    live: usize,
    buffers: Buffers,
}

impl Flows {
    /// For at most `limit` flows. Reserves address space for all of them, so that slots never move.
    pub fn new(limit: usize, key: HashKey) -> Self {
        Flows {
            slots: Vec::with_capacity(limit),
            free: Vec::new(),
            table: HashTable::new(),
            roomy: 0,
            key,
            limit,
            live: 0,
            buffers: Buffers::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.live
    }

    pub fn is_full(&self) -> bool {
        self.live >= self.limit
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Slots that were ever used.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub fn buffers_lent(&self) -> usize {
        self.buffers.lent()
    }

    pub fn hash(&self, tuple: &Tuple) -> u64 {
        self.key.hash(tuple)
    }

    /// The slot that the hash probably leads to. Reads the table only, no slot.
    pub fn guess(&self, hash: u64) -> Option<u32> {
        let check = check(hash);
        self.table.find(hash, |entry| entry.check == check).map(|entry| entry.index)
    }

    pub fn find(&self, hash: u64, tuple: &Tuple) -> Option<u32> {
        let check = check(hash);
        let same = |e: &Entry| e.check == check && self.slots[e.index as usize].tuple == *tuple;
        self.table.find(hash, same).map(|entry| entry.index)
    }

    /// Whether slot `index` holds the flow that the table has for `tuple`.
    #[inline]
    pub fn has(&self, index: u32, tuple: &Tuple) -> bool {
        let flow = &self.slots[index as usize];
        !matches!(flow.phase, Phase::Vacant | Phase::Unread) && flow.tuple == *tuple
    }

    /// Fetches a slot.
    pub fn prefetch_slot(&self, index: u32) {
        let at = self.slots.as_ptr() as usize + index as usize * size_of::<Flow>();
        prefetch(at, size_of::<Flow>().div_ceil(64));
    }

    /// Fetches the socket of a slot that was fetched, and where its next bytes go.
    pub fn prefetch_socket(&self, index: u32) {
        let Some(flow) = self.slots.get(index as usize) else { return };
        prefetch(flow.socket_at, 7);
        prefetch(flow.recv_at, 2);
        if let Some(tx) = &flow.tx {
            prefetch(tx.address(), 2);
        }
    }

    pub fn get(&self, id: ConnId) -> Option<&Flow> {
        let flow = self.slots.get(id.index as usize)?;
        (flow.generation == id.generation && flow.phase != Phase::Vacant).then_some(flow)
    }

    pub fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    /// Any slot that ever was, vacant ones included.
    pub fn at(&mut self, index: u32) -> &mut Flow {
        &mut self.slots[index as usize]
    }

    pub fn peek(&self, index: u32) -> &Flow {
        &self.slots[index as usize]
    }

    /// A new flow with a closed socket. `None` when the limit is reached or memory is. Allocates only when there were never so many
    /// flows, or none with such buffers.
    pub fn insert(
        &mut self,
        tuple: Tuple,
        hash: u64,
        options: &TcpOptions,
        scale: u32,
        now: Time,
    ) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let rx = self.buffers.lend(options.rx_bytes)?;
        let Some(tx) = self.buffers.lend(options.tx_bytes) else {
            self.buffers.give_back(rx);
            return None;
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Flow::vacant());
                // Room to give every slot back without allocating.
                self.free.reserve(self.slots.len());
                self.grow_table();
                u32::try_from(self.slots.len() - 1).expect("the limit is far less")
            }
        };
        let clock = FlowClock::new(scale);
        let socket = new_socket(&rx, &tx, options, clock);
        let flow = &mut self.slots[index as usize];
        flow.handle = flow.set.add(socket);
        flow.socket_at = std::ptr::from_ref(flow.socket()) as usize;
        flow.recv_at = rx.address();
        (flow.rx, flow.tx) = (Some(rx), Some(tx));
        (flow.tuple, flow.hash, flow.clock) = (tuple, hash, clock);
        // `queued` and `waiting` stay: they say which lists hold the slot.
        (flow.edge, flow.unanswered, flow.scales) = (false, false, false);
        flow.peer_mss = DEFAULT_MSS;
        (flow.seen_send_queue, flow.seen_recv_queue, flow.seen_fin) = (0, 0, false);
        (flow.next_hop, flow.sent, flow.tag, flow.listener, flow.why) =
            (None, Sent::default(), 0, None, None);
        flow.recovery = Recovery::default();
        (flow.began, flow.heard) = (now, now);
        (flow.keep_alive, flow.timeout) = (options.keep_alive, options.timeout);
        flow.traffic_class = options.dscp << 2;
        let slots = &self.slots;
        self.table.insert_unique(hash, Entry { index, check: check(hash) }, |e| slots[e.index as usize].hash);
        self.live += 1;
        Some(index)
    }

    /// Makes room in the table for as many flows as there are slots. At most half full, it is cleared of what was
    /// removed in place, where a fuller one would grow.
    fn grow_table(&mut self) {
        if self.slots.len() > self.roomy {
            let slots = &self.slots;
            let wanted = 2 * (slots.len() + 1);
            self.table.reserve(wanted - self.table.len(), |entry| slots[entry.index as usize].hash);
            self.roomy = self.table.capacity() / 2 - 1;
        }
    }

    /// Takes a flow out of the table: its tuple is free again. Does nothing if it was out.
    pub fn forget_tuple(&mut self, index: u32) {
        let hash = self.slots[index as usize].hash;
        if let Ok(entry) = self.table.find_entry(hash, |entry| entry.index == index) {
            entry.remove();
        }
    }

    /// Ends a flow: socket dropped, buffers back, id dead.
    pub fn remove(&mut self, index: u32) {
        self.forget_tuple(index);
        let flow = &mut self.slots[index as usize];
        // The socket goes first: the buffers are its.
        drop(flow.set.remove(flow.handle));
        for loan in [flow.rx.take(), flow.tx.take()].into_iter().flatten() {
            self.buffers.give_back(loan);
        }
        flow.generation = flow.generation.wrapping_add(1);
        flow.phase = Phase::Vacant;
        self.free.push(index);
        self.live -= 1;
    }

    /// Whether a local endpoint is in use towards `remote`.
    pub fn is_used(&self, local: IpEndpoint, remote: IpEndpoint) -> bool {
        let tuple = Tuple { local, remote };
        self.find(self.hash(&tuple), &tuple).is_some()
    }
}

/// smoltcp's socket on lent buffers.
#[allow(unsafe_code)]
fn new_socket(
    rx: &crate::buffers::Loan,
    tx: &crate::buffers::Loan,
    options: &TcpOptions,
    clock: FlowClock,
) -> tcp::Socket<'static> {
    // SAFETY: The loans are stored beside the socket in its slot; `remove` drops the socket before it gives them back,
    // and `Flows` drops the slots before the pool. Each is sliced once in that time: here.
    let (rx, tx) = unsafe { (rx.slice(), tx.slice()) };
    let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(rx), tcp::SocketBuffer::new(tx));
    socket.set_nagle_enabled(!options.nodelay);
    socket.set_ack_delay(options.ack_delay.map(|delay| clock.duration(delay)));
    socket.set_keep_alive(options.keep_alive.map(|interval| clock.duration(interval)));
    socket.set_hop_limit(Some(options.hop_limit));
    socket.set_congestion_control(match options.congestion {
        Congestion::Cubic => tcp::CongestionControl::Cubic,
        Congestion::Reno => tcp::CongestionControl::Reno,
        Congestion::None => tcp::CongestionControl::None,
    });
    socket
}
