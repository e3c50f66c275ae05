//! The asking end: urgent messages on one connection, normal ones on the others, both at their times whatever the server
//! does.
//!
//! ```text
//!   connect ─► all established ─► settle ─► messages due now count ─► no more messages ─► last answers ─► done
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use stack::{Closed, Conn, ConnId, ConnectOptions, IpEndpoint, Net, Service, TcpOptions, Time};

use super::{BULK, ECHO, EF, MESSAGE_BYTES, SERVER, SMALL_BYTES};

/// The tag of the connection with urgent messages; those of the others are their numbers.
const URGENT: u64 = u64::MAX;
/// Slots of the latencies.
const URGENT_TIME: usize = 0;
const NORMAL_TIME: usize = 1;
/// Messages that one turn starts at most: a loop that was late must not be late for everything else too.
const STARTED_A_TURN: u32 = 64;
/// Messages of a connection that have room before their list must grow.
const UNDER_WAY: usize = 4096;

/// Normal messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Offered {
    /// None at all.
    Nothing,
    /// So many a second, over all connections.
    Rate(f64),
    /// As many as fit: the send buffers are kept full.
    Everything,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub offered: Offered,
    /// Connections for normal messages.
    pub connections: u16,
    /// Urgent messages a second.
    pub urgent_rate: f64,
    /// How long to go on before messages count.
    pub settle: Duration,
    /// How long they count.
    pub length: Duration,
}

/// Times at even distances, a rate a second.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Time,
    interval_ns: f64,
    /// How many there were.
    count: u64,
}

impl Schedule {
    fn new(start: Time, rate: f64) -> Self {
        Self { start, interval_ns: 1e9 / rate, count: 0 }
    }

    /// The time of the next one.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of minutes
    fn next(&self) -> Time {
        Time::from_ns(self.start.ns() + (self.count as f64 * self.interval_ns) as u64)
    }
}

/// When messages count, and what is due.
#[derive(Clone, Copy, Debug)]
struct Run {
    from: Time,
    until: Time,
    urgent: Schedule,
    normal: Option<Schedule>,
}

impl Run {
    fn counts(&self, at: Time) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// A connection with normal messages.
#[derive(Debug)]
struct Bulk {
    id: ConnId,
    /// When the messages that are not answered were due, in order.
    due: VecDeque<Time>,
    /// Bytes of them that are not in the send buffer yet.
    unwritten: usize,
}

/// Asks, and measures.
pub struct Client {
    plan: Plan,
    bulks: Vec<Bulk>,
    urgent: Option<ConnId>,
    /// When the urgent messages under way were due.
    urgent_due: VecDeque<Time>,
    established: usize,
    run: Option<Run>,
    /// Whether the time is up and what was not begun is forgotten.
    has_ended: bool,
    urgent_sent: u64,
    urgent_answered: u64,
    normal_sent: u64,
    normal_answered: u64,
    normal_in_time: u64,
    normal_unsent: u64,
    failed: u64,
}

impl Client {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            bulks: Vec::new(),
            urgent: None,
            urgent_due: VecDeque::with_capacity(UNDER_WAY),
            established: 0,
            run: None,
            has_ended: false,
            urgent_sent: 0,
            urgent_answered: 0,
            normal_sent: 0,
            normal_answered: 0,
            normal_in_time: 0,
            normal_unsent: 0,
            failed: 0,
        }
    }

    fn connect(&mut self, net: &mut Net<'_>, port: u16, tag: u64, dscp: u8) -> Option<ConnId> {
        let tcp = TcpOptions { dscp, ..TcpOptions::default() };
        let options = ConnectOptions { tag, tcp, ..ConnectOptions::default() };
        let id = net.connect(IpEndpoint::new(SERVER, port), options).ok();
        self.failed += u64::from(id.is_none());
        id
    }

    fn begin(&mut self, now: Time) {
        let from = now + self.plan.settle;
        let normal = match self.plan.offered {
            Offered::Rate(rate) => Some(Schedule::new(now, rate)),
            Offered::Nothing | Offered::Everything => None,
        };
        let urgent = Schedule::new(now, self.plan.urgent_rate);
        self.run = Some(Run { from, until: from + self.plan.length, urgent, normal });
    }

    /// Sends the urgent messages that are due, as far as there is room.
    fn send_urgent(&mut self, net: &mut Net<'_>) -> bool {
        let (Some(run), Some(id)) = (&mut self.run, self.urgent) else { return false };
        let now = net.now();
        let Some(mut conn) = net.conn(id) else { return false };
        let mut started = 0;
        while run.urgent.next() <= now && started < STARTED_A_TURN && conn.send_room() >= SMALL_BYTES {
            let mut message = [0x5a; SMALL_BYTES];
            message[..8].copy_from_slice(&self.urgent_sent.to_le_bytes());
            conn.send_slice(&message);
            self.urgent_due.push_back(run.urgent.next());
            run.urgent.count += 1;
            self.urgent_sent += 1;
            started += 1;
        }
        started > 0
    }

    fn take_urgent(&mut self, conn: &mut Conn<'_>) {
        let mut answer = [0; SMALL_BYTES];
        while conn.recv_queue() >= answer.len() {
            conn.recv_slice(&mut answer);
            let is_right = answer.starts_with(&self.urgent_answered.to_le_bytes());
            self.urgent_answered += 1;
            match self.urgent_due.pop_front() {
                Some(due) if is_right => record(conn, self.run, URGENT_TIME, due),
                _ => self.failed += 1,
            }
        }
    }

    /// Adds the normal messages that are due, each to the next connection in turn.
    fn send_normal(&mut self, net: &mut Net<'_>) -> bool {
        let now = net.now();
        let mut started = 0;
        while let Some(schedule) = self.run.as_mut().and_then(|run| run.normal.as_mut()) {
            if schedule.next() > now || started == STARTED_A_TURN {
                break;
            }
            let number = schedule.count;
            let due = schedule.next();
            schedule.count += 1;
            started += 1;
            #[allow(clippy::cast_possible_truncation)] // less than their number
            let bulk = &mut self.bulks[(number % u64::from(self.plan.connections)) as usize];
            bulk.due.push_back(due);
            bulk.unwritten += MESSAGE_BYTES;
            self.normal_sent += 1;
            if let Some(mut conn) = net.conn(bulk.id) {
                bulk.write(&mut conn);
            }
        }
        started > 0
    }

    /// Keeps the send buffer full, if so planned.
    fn fill(&mut self, number: usize, conn: &mut Conn<'_>) {
        let bulk = &mut self.bulks[number];
        bulk.write(conn);
        let fills = self.plan.offered == Offered::Everything && self.run.is_some() && !self.has_ended;
        while fills && bulk.unwritten == 0 && conn.send_room() > 0 {
            bulk.due.push_back(conn.now());
            bulk.unwritten = MESSAGE_BYTES;
            self.normal_sent += 1;
            bulk.write(conn);
        }
    }

    fn take_normal(&mut self, number: usize, conn: &mut Conn<'_>) {
        let mut answer = [0; SMALL_BYTES];
        while conn.recv_queue() >= answer.len() {
            conn.recv_slice(&mut answer);
            self.normal_answered += 1;
            self.normal_in_time += u64::from(self.run.is_some_and(|run| run.counts(conn.now())));
            match self.bulks[number].due.pop_front() {
                Some(due) => record(conn, self.run, NORMAL_TIME, due),
                None => self.failed += 1,
            }
        }
    }

    /// Messages of which not a byte was written are not sent any more.
    fn end(&mut self) {
        self.has_ended = true;
        for bulk in &mut self.bulks {
            let unsent = bulk.unwritten / MESSAGE_BYTES;
            bulk.unwritten %= MESSAGE_BYTES;
            bulk.due.truncate(bulk.due.len() - unsent);
            self.normal_sent -= unsent as u64;
            self.normal_unsent += unsent as u64;
        }
    }
}

impl Bulk {
    /// Writes what is due, as far as there is room.
    fn write(&mut self, conn: &mut Conn<'_>) {
        while self.unwritten > 0 {
            let written = conn.send(|room| {
                let count = room.len().min(self.unwritten);
                room[..count].fill(0x5a);
                (count, count)
            });
            if written == 0 {
                return;
            }
            self.unwritten -= written;
        }
    }
}

/// Records a message's time if the message counts.
fn record(conn: &mut Conn<'_>, run: Option<Run>, slot: usize, due: Time) {
    if run.is_some_and(|run| run.counts(due)) {
        let ns = conn.now().since(due).as_nanos();
        conn.record(slot, u64::try_from(ns).unwrap_or(u64::MAX));
    }
}

impl Service for Client {
    fn configured(&mut self, net: &mut Net<'_>) {
        if self.urgent.is_some() {
            return;
        }
        self.urgent = self.connect(net, ECHO, URGENT, EF);
        for number in 0..u64::from(self.plan.connections) {
            let Some(id) = self.connect(net, BULK, number, 0) else { return };
            self.bulks.push(Bulk { id, due: VecDeque::with_capacity(UNDER_WAY), unwritten: 0 });
        }
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.established += 1;
        if self.established > self.bulks.len() {
            self.begin(conn.now());
        }
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        if conn.tag() == URGENT {
            return self.take_urgent(conn);
        }
        // A tag is a number that `configured` gave.
        if let Ok(number) = usize::try_from(conn.tag()) {
            self.take_normal(number, conn);
            self.fill(number, conn);
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let Some(run) = self.run else { return false };
        if self.has_ended {
            return false;
        }
        if net.now() >= run.until {
            self.end();
            return true;
        }
        // Their first messages; from then on each goes on when there is room.
        if self.plan.offered == Offered::Everything && self.normal_sent == 0 {
            for number in 0..self.bulks.len() {
                if let Some(mut conn) = net.conn(self.bulks[number].id) {
                    self.fill(number, &mut conn);
                }
            }
        }
        self.send_urgent(net) | self.send_normal(net)
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {
        self.failed += 1;
    }

    fn latencies(&self) -> &'static [&'static str] {
        &["urgent", "normal"]
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("urgent_sent", self.urgent_sent);
        visit("urgent_answered", self.urgent_answered);
        visit("normal_sent", self.normal_sent);
        visit("normal_answered", self.normal_answered);
        visit("normal_in_time", self.normal_in_time);
        visit("normal_unsent", self.normal_unsent);
        visit("failed", self.failed);
    }

    fn is_done(&self) -> bool {
        let is_answered = self.urgent_due.is_empty() && self.bulks.iter().all(|bulk| bulk.due.is_empty());
        self.failed > 0 || self.has_ended && is_answered
    }
}
