//! An engine whose loops turn, and how it ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use door::{Caller, CoreBell};
use pmd::port::{Command, Offloads, Port, PortInfo, QueuePair};
use pmd::virtio::spec::feature;
use thiserror::Error;

use super::builder::{LcorePlan, Plan, StartError};
use super::keeper::{Keeper, PortNews, PortRef, Shared, lock};
use super::pools::CorePools;
use crate::capture::Captures;
use crate::control::{
    self, Control, ControlError, Facts, Folder, Metrics, Server, Telemetry, View, runtime_folder,
};
use crate::idle::{Idle, Idler};
use crate::latency::{RESIDENCE, TURN};
use crate::lcore::{Lcore, Node, Signals};
use crate::news::{Board, board};
use crate::offload::joining::Joining;
use crate::offload::segmenting::Segmenting;
use crate::program::Lane;
use crate::queue::arrange::arrangement;
use crate::queue::deal::{Terms, deal};
use crate::stats::{Collector, CoreReport, Monitor, PortLabel, Snapshot, mailbox};
use crate::tsc::Tsc;

/// Why an engine did not stop as it should. Everything that could be given back was.
#[derive(Debug, Error)]
pub enum StopError {
    /// A loop's thread died: a bug in a program.
    #[error("loop {lcore} panicked; its program has a bug, and its last counts are missing")]
    Panicked {
        /// Which loop.
        lcore: usize,
        /// The figures of the others.
        snapshot: Box<Snapshot>,
    },
    /// A device could not be stopped.
    #[error("port {port} did not stop")]
    Port {
        /// The port string.
        port: String,
        /// Why.
        source: pmd::virtio::transport::TransportError,
        /// The figures.
        snapshot: Box<Snapshot>,
    },
}

/// An engine whose loops turn. Dropping it stops it.
pub struct Running {
    tsc: Tsc,
    signals: Arc<Signals>,
    monitor: Arc<Monitor>,
    /// Somebody outside wants it to stop.
    stop_wanted: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Lcore>>,
    /// Of the loops, which may sleep.
    bells: Vec<Arc<CoreBell>>,
    ports: Shared,
    keeper: Option<Keeper>,
    /// Answers other processes, if they may ask.
    outside: Option<Outside>,
    /// Of all loops, until the queue pairs have given back what they held.
    pools: Vec<CorePools>,
}

impl Running {
    pub(super) fn launch(plan: Plan) -> Result<Self, StartError> {
        let Plan { lcores: plans, burst: budget, latency, idle, tsc, pools, mut ports, terms, .. } = plan;
        let (data_room_bytes, control, facts) = (plan.data_room_bytes, plan.control, plan.facts);
        let bells: Vec<Arc<CoreBell>> = plans.iter().map(|plan| Arc::clone(&plan.bell)).collect();
        if idle != Idle::Poll {
            bells.iter().try_for_each(|bell| bell.open()).map_err(StartError::Bell)?;
        }
        let members = members(&plans, &terms);
        let labels = ports
            .iter()
            .map(|port| PortLabel { name: port.name().to_owned(), driver: port.info().driver.to_owned() });
        let labels: Vec<PortLabel> = labels.collect();
        let long = ports.iter().any(|port| {
            let Offloads { tso4, tso6, lro4, lro6, .. } = port.info().offloads;
            tso4 || tso6 || lro4 || lro6
        });
        let takers = |port: usize| {
            let mut nodes = plans.iter().flat_map(|plan| &plan.nodes);
            nodes.any(|(program, ends)| program.offloads() && ends.iter().any(|(end, _)| *end == port))
        };
        let mut ends: Vec<PortEnds> = ports
            .iter_mut()
            .zip(terms.iter().zip(&members))
            .enumerate()
            .map(|(index, (port, (terms, members)))| {
                let make = Make { segments: long, frames: plan.gro && takers(index) };
                let callees: Vec<Arc<CoreBell>> = match idle {
                    Idle::Poll => Vec::new(),
                    _ => members.iter().map(|lcore| Arc::clone(&bells[*lcore])).collect(),
                };
                PortEnds::of(&mut **port, terms, &callees, data_room_bytes, make)
            })
            .collect();
        let signals = Arc::new(Signals::default());
        let (mut lcores, mut inboxes, mut boards) = (Vec::new(), Vec::new(), Vec::<Board>::new());
        for (index, plan) in plans.into_iter().enumerate() {
            let cpu = plan.cpu;
            let Nodes { nodes, rows, latencies } = nodes(plan, &mut ends, &tsc, latency)?;
            let blank = CoreReport::new(index, cpu, &rows, &latencies);
            let (outbox, inbox) = mailbox(Box::new(blank.clone()));
            inboxes.push((inbox.ringing(Arc::clone(&bells[index])), blank.clone()));
            let (report, signals) = (Box::new(blank), Arc::clone(&signals));
            let idler = Idler::new(idle, Arc::clone(&bells[index]), &tsc);
            let (burst, done, winding_down) = (Box::default(), false, false);
            let (board, news) = board(Arc::clone(&bells[index]));
            boards.push(board);
            lcores.push(Lcore {
                nodes,
                budget,
                tsc,
                latency,
                signals,
                report,
                outbox,
                burst,
                rushed: false,
                idler,
                news,
                done,
                winding_down,
            });
        }
        // ORDERING: Relaxed. Before any thread exists.
        signals.unfinished.store(lcores.len(), Ordering::Relaxed);
        let monitor = Arc::new(Monitor::new(Collector::new(tsc, labels, inboxes)));
        let ports: Shared = ports.into_iter().map(Mutex::new).collect();
        let mut running = Self {
            tsc,
            signals,
            monitor,
            stop_wanted: Arc::default(),
            threads: Vec::new(),
            bells,
            ports,
            keeper: None,
            outside: None,
            pools,
        };
        for (index, lcore) in lcores.into_iter().enumerate() {
            let pool = running.pools[index].clone();
            // On an error `running` is dropped, which stops what turns already.
            running.threads.push(spawn(index, lcore, pool)?);
        }
        if let Some(control) = control {
            running.outside = Some(running.listen(&control, facts, boards.clone(), members)?);
        }
        let keeper = Keeper::start(Arc::clone(&running.ports), boards, longest_mtu(data_room_bytes))
            .map_err(StartError::Keeper)?;
        running.keeper = Some(keeper);
        Ok(running)
    }

    /// Lets other processes ask.
    fn listen(
        &self,
        control: &Control,
        facts: Facts,
        boards: Vec<Board>,
        members: Vec<Vec<usize>>,
    ) -> Result<Outside, ControlError> {
        let stopping = Arc::<AtomicBool>::default();
        let captures = Arc::new(Captures::new(boards, members, self.tsc, Arc::clone(&stopping)));
        let view = Arc::new(View {
            name: control.name.clone(),
            program: control.program.clone(),
            facts,
            monitor: Arc::clone(&self.monitor),
            ports: Arc::clone(&self.ports),
            stop_wanted: Arc::clone(&self.stop_wanted),
        });
        let parent = control.folder.clone().map_or_else(runtime_folder, Ok);
        let telemetry = control
            .telemetry
            .as_ref()
            .map(|folder| Telemetry::start(folder, Arc::clone(&view), Arc::clone(&stopping)));
        let metrics =
            control.metrics.map(|address| Metrics::start(address, Arc::clone(&view), Arc::clone(&stopping)));
        let (telemetry, metrics) = (telemetry.transpose()?, metrics.transpose()?);
        let started = parent.and_then(|parent| Folder::new(&parent, &control.name)).and_then(|folder| {
            let handlers = control::handlers(&view, &captures, &stopping);
            Server::start(&folder, stopping, handlers)
        });
        let server = match started {
            Err(error) if !control.required => {
                log::info!("other processes cannot ask this engine: {error}");
                None
            }
            started => Some(started?),
        };
        Ok(Outside { _server: server, _telemetry: telemetry, metrics })
    }

    /// Where the page of metrics is, if there is one: what was asked for, with the port that the system chose for port 0.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.outside.as_ref()?.metrics.as_ref().map(Metrics::address)
    }

    /// Whether somebody has asked for its end on the control socket. Whoever owns the engine looks here now and then, and
    /// [`finish`](Self::finish)es it.
    #[must_use]
    pub fn stop_wanted(&self) -> bool {
        // ORDERING: Relaxed. A flag on its own. Partner: the request `stop`.
        self.stop_wanted.load(Ordering::Relaxed)
    }

    /// The scale of its clock.
    #[must_use]
    pub fn tsc(&self) -> &Tsc {
        &self.tsc
    }

    /// The ports, in the order in which they were added. While one is looked at, the keeper waits for it.
    pub fn ports(&self) -> impl Iterator<Item = PortRef<'_>> {
        self.ports.iter().map(|port| lock(port).into())
    }

    /// What has happened to the ports since the start, oldest first; the last 1,024 events.
    #[must_use]
    pub fn port_events(&self) -> Vec<PortNews> {
        self.keeper.as_ref().map(Keeper::history).unwrap_or_default()
    }

    /// What every core and port did until now. Waits for the loops some microseconds, at most 200 ms; they wait for
    /// nothing.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = self.monitor.collect();
        snapshot.port_events = self.port_events();
        snapshot
    }

    /// Whether all programs have done what they were to do of their own accord, or their loops have died.
    #[must_use]
    pub fn is_done(&self) -> bool {
        // ORDERING: Relaxed. A count that is polled; nothing is handed over with it.
        self.signals.unfinished.load(Ordering::Relaxed) == 0 || self.has_died()
    }

    /// Whether a loop ended without being told to, which only a panic of its program does.
    #[must_use]
    pub fn has_died(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Asks the programs to finish what is under way, waits until they are done (at most `timeout`), and stops.
    ///
    /// # Errors
    /// [`StopError`].
    pub fn finish(self, timeout: Duration) -> Result<Snapshot, StopError> {
        // ORDERING: Relaxed. A hint that the loops may see a turn late.
        self.signals.winding_down.store(true, Ordering::Relaxed);
        self.wake_all();
        let deadline = Instant::now() + timeout;
        while !self.is_done() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.stop()
    }

    /// Stops the loops after their present turn, then the devices, and gives all memory back.
    ///
    /// # Errors
    /// [`StopError`]; everything that can be given back is.
    pub fn stop(mut self) -> Result<Snapshot, StopError> {
        self.halt()
    }

    /// Wakes the loops that sleep, to look at what they were signalled.
    fn wake_all(&self) {
        self.bells.iter().for_each(|bell| bell.ring(Caller::Control));
    }

    fn halt(&mut self) -> Result<Snapshot, StopError> {
        // First the keeper: that ports go down from here on is our doing.
        if let Some(keeper) = &mut self.keeper {
            keeper.stop();
        }
        // ORDERING: Relaxed. Joining the threads orders everything.
        self.signals.stop.store(true, Ordering::Relaxed);
        self.wake_all();
        let lcores: Vec<Option<Lcore>> = self.threads.drain(..).map(|thread| thread.join().ok()).collect();
        let dead = lcores.iter().position(Option::is_none);
        let last = lcores.iter().map(|lcore| lcore.as_ref().map(|lcore| (*lcore.report).clone())).collect();
        let mut snapshot = self.monitor.finish(last);
        snapshot.port_events = self.port_events();
        // The devices first, while the queue pairs still hold what is posted.
        let mut refused = None;
        for port in &*self.ports {
            let mut port = lock(port);
            if let Err(source) = port.stop() {
                refused.get_or_insert((port.name().to_owned(), source));
            }
        }
        // Captures end with the loops' ends of them; then whoever reads one gets the rest.
        drop(lcores);
        drop(self.outside.take());
        self.ports = Arc::default();
        self.pools.clear();
        let snapshot = Box::new(snapshot);
        match (dead, refused) {
            (Some(lcore), _) => Err(StopError::Panicked { lcore, snapshot }),
            (None, Some((port, source))) => Err(StopError::Port { port, source, snapshot }),
            (None, None) => Ok(*snapshot),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let halted = self.threads.is_empty() && self.ports.is_empty();
        if !halted && let Err(error) = self.halt() {
            log::warn!("{error}");
        }
    }
}

/// Where other processes may ask.
struct Outside {
    _server: Option<Server>,
    _telemetry: Option<Telemetry>,
    metrics: Option<Metrics>,
}

/// The nodes of one loop.
struct Nodes {
    nodes: Vec<Node>,
    /// Its ends of ports, as indices of port and of the core among those that share it.
    rows: Vec<(usize, u16)>,
    /// Names of its latencies, by slot.
    latencies: Vec<&'static str>,
}

/// What is done in software where a port does not do it.
#[derive(Clone, Copy)]
struct Make {
    /// Segments of frames that stand for several: such can come up in the engine.
    segments: bool,
    /// Such frames of received segments.
    frames: bool,
}

/// A port, as the programs that share it see it.
struct PortEnds {
    info: PortInfo,
    stamped: bool,
    shared: bool,
    /// One for each core, until its program has taken it.
    ends: Vec<Option<Box<dyn QueuePair>>>,
}

/// Has a device with receive-side scaling deliver a stack's flows to their owners. One that spreads them over as many
/// queue pairs as there are cores does so already.
fn tell_device(port: &mut dyn Port, info: &PortInfo, terms: &Terms) {
    let is_even = info.queue_pairs == terms.cores;
    if !terms.flows || is_even || info.queue_pairs < 2 || info.features & feature::RSS == 0 {
        return;
    }
    if let Err(error) = port.configure(&Command::Rss(arrangement(terms.cores, info.queue_pairs))) {
        log::warn!("{}: flows will be handed over between the cores: {error}", port.name());
    }
}

/// The largest MTU of a port: what leaves lies in one mbuf, with its Ethernet header and perhaps a VLAN tag.
fn longest_mtu(data_room_bytes: u32) -> u16 {
    u16::try_from(data_room_bytes.saturating_sub(18)).unwrap_or(u16::MAX)
}

impl PortEnds {
    /// `bells` are those of the cores that share it, in their order; none if cores never sleep.
    fn of(
        port: &mut dyn Port,
        terms: &Terms,
        bells: &[Arc<CoreBell>],
        data_room_bytes: u32,
        make: Make,
    ) -> PortEnds {
        let mut info = port.info().clone();
        tell_device(port, &info, terms);
        let mut pairs = port.take_queue_pairs();
        if make.segments {
            pairs = pairs.into_iter().map(Segmenting::around).collect();
        }
        if make.frames && !(info.offloads.lro4 && info.offloads.lro6) {
            pairs = pairs.into_iter().map(Joining::around).collect();
        }
        let ends = deal(pairs, terms, bells);
        info.mtu = info.mtu.min(longest_mtu(data_room_bytes));
        let (stamped, shared) = (terms.stamps(), terms.cores > 1);
        PortEnds { info, stamped, shared, ends: ends.into_iter().map(Some).collect() }
    }
}

/// For each port the loops that share it, in their order. The plan was checked: each end has one taker.
fn members(plans: &[LcorePlan], terms: &[Terms]) -> Vec<Vec<usize>> {
    let mut members: Vec<Vec<usize>> = terms.iter().map(|terms| vec![0; terms.cores.into()]).collect();
    for (lcore, plan) in plans.iter().enumerate() {
        for (port, end) in plan.nodes.iter().flat_map(|(_, ends)| ends) {
            members[*port][usize::from(*end)] = lcore;
        }
    }
    members
}

fn nodes(plan: LcorePlan, ports: &mut [PortEnds], tsc: &Tsc, latency: bool) -> Result<Nodes, StartError> {
    let (mut nodes, mut rows) = (Vec::new(), Vec::new());
    let mut latencies = if latency { vec![RESIDENCE, TURN] } else { Vec::new() };
    for (mut program, ends) in plan.nodes {
        let infos: Vec<PortInfo> = ends.iter().map(|(port, _)| ports[*port].info.clone()).collect();
        program.prepare(&infos, tsc).map_err(StartError::Program)?;
        let slots =
            latency.then(|| program.latencies().iter().map(|name| slot(&mut latencies, name)).collect());
        let mut lanes = Vec::new();
        for (port, end) in ends {
            let PortEnds { stamped, shared, ends, .. } = &mut ports[port];
            let queue_pair =
                ends[usize::from(end)].take().expect("the plan was checked: one taker for each end");
            let mut lane = Lane::new(queue_pair, rows.len(), *stamped, *shared);
            lane.patient = program.offloads();
            lanes.push(lane);
            rows.push((port, end));
        }
        nodes.push(Node { program, lanes, slots });
    }
    Ok(Nodes { nodes, rows, latencies })
}

/// The slot of `name`; programs on one core that use one name share it.
fn slot(latencies: &mut Vec<&'static str>, name: &'static str) -> usize {
    latencies.iter().position(|have| *have == name).unwrap_or_else(|| {
        latencies.push(name);
        latencies.len() - 1
    })
}

/// Starts a loop's thread and waits until it is pinned and has adopted its pool.
fn spawn(index: usize, mut lcore: Lcore, pool: CorePools) -> Result<JoinHandle<Lcore>, StartError> {
    let cpu = lcore.report.cpu;
    let (ready, started) = mpsc::channel();
    let body = move || {
        let pinned = cpu.is_none_or(|id| core_affinity::set_for_current(CoreId { id }));
        match pool.adopt() {
            Ok(home) => {
                let told = ready.send(if pinned { Ok(()) } else { Err(refusal(cpu)) });
                if pinned && told.is_ok() {
                    lcore.run(&home);
                }
            }
            Err(error) => drop(ready.send(Err(error.into()))),
        }
        lcore
    };
    let thread = thread::Builder::new()
        .name(format!("lcore-{index}"))
        .spawn(body)
        .map_err(|source| StartError::Thread { lcore: index, source })?;
    match started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(_) => {
            let _ = thread.join();
            let source = std::io::Error::other("the thread died at once");
            Err(StartError::Thread { lcore: index, source })
        }
    }
}

/// The core was allowed a moment ago and is refused now.
fn refusal(cpu: Option<usize>) -> StartError {
    let allowed = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    StartError::Core { cpu: cpu.unwrap_or_default(), allowed }
}
