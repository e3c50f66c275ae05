//! What an engine is to consist of, checked and put together.

use std::sync::Arc;

use door::CoreBell;
use pmd::mem::{PageSize, PoolConfig, PoolError, Region, RegionConfig, RegionError};
use pmd::port::{self, Hub, MAX_BURST, OpenConfig, OpenError, Port, PortSpec};
use thiserror::Error;

use stack::Service;

use super::pools::{CorePools, PoolsConfig};
use super::running::Running;
use crate::control::{Control, ControlError, Facts, LcoreFacts, PortFacts};
use crate::idle::Idle;
use crate::program::{Program, ProgramError};
use crate::queue::deal::Terms;
use crate::queue::priority::{DscpSet, Priority};
use crate::queue::steer::OwnerOf;
use crate::stack_node::{StackNode, StackSettings};
use crate::tsc::Tsc;

/// Mbufs beyond those that queues hold: bursts on their way, frames that programs keep.
const SPARE_MBUFS: usize = 2048;

/// Memory that rings and pools may waste by alignment.
const SLACK_BYTES: usize = 64 << 10;

/// Why an engine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Nothing to run.
    #[error("an engine needs at least one core with a program")]
    Empty,
    /// A program was given a port number that does not exist, or one that another program has.
    #[error("port {port} of {ports} is given to {takers} programs; each port belongs to exactly one")]
    PortTakers {
        /// Which.
        port: usize,
        /// How many ports there are.
        ports: usize,
        /// How many programs want it.
        takers: usize,
    },
    /// The burst is out of range.
    #[error("a burst of {burst} frames; 1 to {MAX_BURST} are possible")]
    Burst {
        /// What was asked for.
        burst: usize,
    },
    /// The process may not run on this processor, or it does not exist.
    #[error("cannot run on core {cpu}; this process may use {}", list(allowed))]
    Core {
        /// What was asked for.
        cpu: usize,
        /// What is allowed.
        allowed: Vec<usize>,
    },
    /// No packet memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// No pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A port did not open.
    #[error(transparent)]
    Port(#[from] OpenError),
    /// A program refused its ports.
    #[error("{0}")]
    Program(#[source] ProgramError),
    /// Nothing for a loop to sleep on.
    #[error("cannot make an eventfd for a loop to sleep on; raise `ulimit -n`, or use --idle poll")]
    Bell(#[source] std::io::Error),
    /// No thread for the keeper.
    #[error("cannot start the thread that looks after the ports")]
    Keeper(#[source] std::io::Error),
    /// The engine cannot be reached from outside, and is to be.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No thread.
    #[error("cannot start the thread of loop {lcore}")]
    Thread {
        /// Which loop.
        lcore: usize,
        /// errno.
        source: std::io::Error,
    },
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// One port to open.
#[derive(Clone, Debug)]
struct PortPlan {
    spec: String,
    rxd: u16,
    txd: u16,
    terms: Terms,
}

impl PortPlan {
    /// The most queue pairs that the port will have. A string that is no port fails when it is opened.
    fn queue_pairs(&self) -> u16 {
        let cores = self.terms.cores;
        self.spec.parse::<PortSpec>().map_or(cores, |spec| spec.queue_pairs(cores))
    }
}

/// One core's end of a port: the port, and which of the cores that share it this is.
pub(super) type PortEnd = (PortIndex, u16);

/// One loop.
pub(super) struct LcorePlan {
    pub cpu: Option<usize>,
    pub bell: Arc<CoreBell>,
    pub nodes: Vec<(Box<dyn Program>, Vec<PortEnd>)>,
}

/// What is left to start once memory and ports are there.
pub(super) struct Plan {
    pub lcores: Vec<LcorePlan>,
    pub burst: usize,
    pub latency: bool,
    /// Received segments are joined in software for programs that take long frames.
    pub gro: bool,
    pub idle: Idle,
    pub tsc: Tsc,
    pub pools: Vec<CorePools>,
    pub ports: Vec<Box<dyn Port>>,
    /// How each of them is shared.
    pub terms: Vec<Terms>,
    pub data_room_bytes: u32,
    /// Whether other processes may ask it.
    pub control: Option<Control>,
    /// What they are told of how it was built.
    pub facts: Facts,
}

/// An engine to be.
///
/// ```
/// use engine::{Burst, Cx, Engine, Program};
///
/// struct Reflect;
/// impl Program for Reflect {
///     fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
///         cx.send_burst(port, burst);
///     }
/// }
///
/// let mut engine = Engine::builder();
/// let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
/// let core = engine.lcore(None); // not pinned
/// engine.program(core, Reflect, [a]);
/// engine.program(core, Reflect, [b]);
/// let mut running = engine.start().unwrap();
/// let snapshot = running.snapshot();
/// assert_eq!(snapshot.ports[0].label.name, "loop:a");
/// running.stop().unwrap();
/// ```
pub struct Engine {
    ports: Vec<PortPlan>,
    lcores: Vec<LcorePlan>,
    mbufs: Option<usize>,
    data_room_bytes: u32,
    page: PageSize,
    numa_node: Option<u32>,
    burst: usize,
    rxd: u16,
    txd: u16,
    latency: bool,
    gro: bool,
    idle: Idle,
    hub: Hub,
    control: Option<Control>,
}

/// Handle of a port in the engine it was added to: its index.
pub type PortIndex = usize;

impl Engine {
    /// An engine without ports or cores, and the defaults: 1,024 descriptors a queue, bursts of 64, data rooms of
    /// 2 KiB, as many mbufs as the queues can hold and some, hugepages if there are enough, latencies recorded.
    #[must_use]
    pub fn builder() -> Self {
        Self {
            ports: Vec::new(),
            lcores: Vec::new(),
            mbufs: None,
            data_room_bytes: 2048,
            page: PageSize::Auto,
            numa_node: None,
            burst: MAX_BURST,
            rxd: 1024,
            txd: 1024,
            latency: true,
            gro: false,
            idle: Idle::default(),
            hub: Hub::default(),
            control: None,
        }
    }

    /// Mbufs in all, divided among the loops.
    pub fn mbufs(&mut self, mbufs: usize) -> &mut Self {
        self.mbufs = Some(mbufs);
        self
    }

    /// Bytes for data in each mbuf: 64 to 65,600.
    pub fn data_room_bytes(&mut self, bytes: u32) -> &mut Self {
        self.data_room_bytes = bytes;
        self
    }

    /// Which pages packet memory consists of, and of which NUMA node.
    pub fn memory(&mut self, page: PageSize, numa_node: Option<u32>) -> &mut Self {
        (self.page, self.numa_node) = (page, numa_node);
        self
    }

    /// The most frames taken from a queue per turn, 1 to 64.
    pub fn burst(&mut self, frames: usize) -> &mut Self {
        self.burst = frames;
        self
    }

    /// Receive and transmit descriptors of the ports added from now on.
    pub fn descriptors(&mut self, rxd: u16, txd: u16) -> &mut Self {
        (self.rxd, self.txd) = (rxd, txd);
        self
    }

    /// Whether latencies are recorded (at less than 2 % of the packet rate).
    pub fn latency(&mut self, record: bool) -> &mut Self {
        self.latency = record;
        self
    }

    /// Whether TCP segments that follow each other in a burst are joined into one frame before a stack gets them (generic
    /// receive offload), on ports that do not do it themselves. Off by default: whether it pays is not measured yet.
    pub fn gro(&mut self, join: bool) -> &mut Self {
        self.gro = join;
        self
    }

    /// What loops do while nothing comes: [`Idle`]. They poll unless told otherwise.
    pub fn idle(&mut self, idle: Idle) -> &mut Self {
        self.idle = idle;
        self
    }

    /// Where this engine's `loop:` ports meet those of other engines.
    pub fn hub(&mut self, hub: &Hub) -> &mut Self {
        self.hub = hub.clone();
        self
    }

    /// Lets other processes of this user ask the engine while it runs: [`control`](crate::control).
    pub fn control(&mut self, control: Control) -> &mut Self {
        self.control = Some(control);
        self
    }

    /// Adds a port; it is opened at the start, in the order of adding.
    pub fn port(&mut self, spec: impl Into<String>) -> PortIndex {
        let terms = Terms { cores: 1, priority: None, owner_of: None, flows: false };
        self.ports.push(PortPlan { spec: spec.into(), rxd: self.rxd, txd: self.txd, terms });
        self.ports.len() - 1
    }

    /// Makes a port send urgent frames first: [`Priority`]. Without it frames leave in the order in which they were
    /// sent, at the least cost. To be said before the port's [`stack`](Self::stack).
    ///
    /// # Panics
    /// When there is no such port.
    pub fn priority(&mut self, port: PortIndex, priority: Priority) -> &mut Self {
        self.ports[port].terms.priority = Some(priority);
        self
    }

    /// Adds a loop, pinned to processor `cpu` if one is named. Returns its index.
    pub fn lcore(&mut self, cpu: Option<usize>) -> usize {
        self.lcores.push(LcorePlan { cpu, bell: Arc::default(), nodes: Vec::new() });
        self.lcores.len() - 1
    }

    /// Puts a program with its ports on loop `lcore`.
    ///
    /// # Panics
    /// When there is no such loop.
    pub fn program(
        &mut self,
        lcore: usize,
        program: impl Program + 'static,
        ports: impl IntoIterator<Item = PortIndex>,
    ) -> &mut Self {
        self.boxed_program(lcore, Box::new(program), ports)
    }

    /// [`program`](Self::program) for one that is boxed already.
    ///
    /// # Panics
    /// When there is no such loop.
    pub fn boxed_program(
        &mut self,
        lcore: usize,
        program: Box<dyn Program>,
        ports: impl IntoIterator<Item = PortIndex>,
    ) -> &mut Self {
        self.lcores[lcore].nodes.push((program, ports.into_iter().map(|port| (port, 0)).collect()));
        self
    }

    /// Puts one instance of a program on each of `lcores`, all around the same ports; `program` makes the one with the
    /// number it is given, from 0. Each instance sees every port under one number, whatever the port consists of: queue
    /// pair `q` belongs to instance `q mod instances`, and an instance without one sends by that of another core.
    ///
    /// With `steering`, frames are moved to the instance that it names; without, each has what its queue pairs
    /// receive, and one that has none receives nothing.
    ///
    /// # Panics
    /// When there is no such port or loop, no loop at all, or more than 65,535.
    pub fn spread<P: Program + 'static>(
        &mut self,
        lcores: &[usize],
        ports: &[PortIndex],
        steering: Option<OwnerOf>,
        mut program: impl FnMut(u16) -> P,
    ) -> &mut Self {
        let cores = u16::try_from(lcores.len()).expect("at most 65,535 instances");
        assert!(cores > 0, "a program runs on at least one core");
        for port in ports {
            let terms = &mut self.ports[*port].terms;
            (terms.cores, terms.owner_of) = (cores, steering);
        }
        for (index, lcore) in (0..).zip(lcores) {
            let ends = ports.iter().map(|port| (*port, index)).collect();
            self.lcores[*lcore].nodes.push((Box::new(program(index)), ends));
        }
        self
    }

    /// Puts a stack on each of `lcores`: all of them one host on one port, each with the service that `service` makes
    /// for its number. [`spread`](Self::spread) says how they share the port; flows are steered to the core that owns
    /// them. Flows of the code points that [`priority`](Self::priority) has made urgent by then are served first.
    ///
    /// # Panics
    /// As `spread`.
    pub fn stack<S: Service + 'static>(
        &mut self,
        lcores: &[usize],
        port: PortIndex,
        settings: &StackSettings,
        mut service: impl FnMut(u16) -> S,
    ) -> &mut Self {
        let urgent = self.ports[port].terms.priority.map_or(DscpSet::URGENT, |priority| priority.urgent);
        let mut nodes = StackNode::team(settings, &self.bells(lcores), urgent, &mut service).into_iter();
        self.ports[port].terms.flows = true;
        self.spread(lcores, &[port], Some(stack::steer::owner), |_| nodes.next().expect("one for each core"))
    }

    /// The bells of these loops.
    pub(super) fn bells(&self, lcores: &[usize]) -> Vec<Arc<CoreBell>> {
        lcores.iter().map(|lcore| Arc::clone(&self.lcores[*lcore].bell)).collect()
    }

    /// Starts everything. Returns when all loops turn.
    ///
    /// # Errors
    /// [`StartError`]; what had been started is stopped and given back.
    pub fn start(self) -> Result<Running, StartError> {
        self.check()?;
        let tsc = Tsc::calibrate();
        let pool_configs: Vec<PoolsConfig> =
            self.lcores.iter().map(|lcore| self.pools_config(lcore)).collect();
        pool_configs.iter().try_for_each(PoolsConfig::check)?;
        let region = Region::new(RegionConfig {
            len_bytes: self.region_bytes(&pool_configs),
            page: self.page,
            numa_node: self.numa_node,
        })?;
        let pools: Vec<CorePools> =
            pool_configs.iter().map(|config| CorePools::new(&region, config)).collect::<Result<_, _>>()?;
        let ports = self.open_ports(&region)?;
        let terms = self.ports.iter().map(|port| port.terms).collect();
        let facts = self.facts(&region);
        let Self { lcores, burst, latency, gro, idle, data_room_bytes, control, .. } = self;
        Running::launch(Plan {
            lcores,
            burst,
            latency,
            gro,
            idle,
            tsc,
            pools,
            ports,
            terms,
            data_room_bytes,
            control,
            facts,
        })
    }

    fn facts(&self, region: &Region) -> Facts {
        let port = |port: &PortPlan| PortFacts {
            spec: port.spec.clone(),
            rxd: port.rxd,
            txd: port.txd,
            cores: port.terms.cores,
            steered: port.terms.flows || port.terms.owner_of.is_some(),
            prioritised: port.terms.priority.is_some(),
        };
        let lcore = |lcore: &LcorePlan| LcoreFacts {
            cpu: lcore.cpu,
            ports: lcore.nodes.iter().flat_map(|(_, ends)| ends).map(|(port, _)| *port).collect(),
        };
        Facts {
            burst: self.burst,
            latency: self.latency,
            idle: self.idle,
            gro: self.gro,
            data_room_bytes: self.data_room_bytes,
            numa_node: self.numa_node,
            region_bytes: region.len_bytes(),
            page_bytes: region.page_size().bytes(),
            ports: self.ports.iter().map(port).collect(),
            lcores: self.lcores.iter().map(lcore).collect(),
        }
    }

    fn check(&self) -> Result<(), StartError> {
        if self.lcores.iter().all(|lcore| lcore.nodes.is_empty()) {
            return Err(StartError::Empty);
        }
        if !(1..=MAX_BURST).contains(&self.burst) {
            return Err(StartError::Burst { burst: self.burst });
        }
        let ports = self.ports.len();
        let wanted = || self.lcores.iter().flat_map(|lcore| &lcore.nodes).flat_map(|(_, ends)| ends).copied();
        let ends = (0..ports).flat_map(|port| (0..self.ports[port].terms.cores).map(move |end| (port, end)));
        for (port, end) in ends.chain(wanted().filter(|(port, _)| *port >= ports)) {
            let takers = wanted().filter(|wanted| *wanted == (port, end)).count();
            if takers != 1 || port >= ports {
                return Err(StartError::PortTakers { port, ports, takers });
            }
        }
        let allowed: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        match self.lcores.iter().filter_map(|lcore| lcore.cpu).find(|cpu| !allowed.contains(cpu)) {
            Some(cpu) => Err(StartError::Core { cpu, allowed }),
            None => Ok(()),
        }
    }

    fn pools_config(&self, lcore: &LcorePlan) -> PoolsConfig {
        let ports = lcore.nodes.iter().flat_map(|(_, ends)| ends).map(|(port, _)| &self.ports[*port]);
        let held = |port: &PortPlan| {
            let pairs = usize::from(port.queue_pairs().div_ceil(port.terms.cores));
            pairs * (usize::from(port.rxd) + usize::from(port.txd)) + port.terms.held_mbufs()
        };
        let held: usize = ports.map(held).sum();
        let mbufs = self.mbufs.map_or(held + SPARE_MBUFS, |all| all.div_ceil(self.lcores.len()));
        let usual = PoolConfig { mbufs, data_room_bytes: self.data_room_bytes, ..PoolConfig::default() };
        PoolsConfig::new(usual, lcore.nodes.iter().any(|(program, _)| program.offloads()))
    }

    fn region_bytes(&self, pools: &[PoolsConfig]) -> usize {
        let bytes = |port: &PortPlan| port::region_bytes(port.rxd, port.txd, port.queue_pairs());
        let queues: usize = self.ports.iter().map(bytes).sum();
        queues + pools.iter().map(PoolsConfig::region_bytes).sum::<usize>() + SLACK_BYTES
    }

    fn open_ports(&self, region: &Arc<Region>) -> Result<Vec<Box<dyn Port>>, StartError> {
        let offloads = |port: PortIndex| {
            let mut nodes = self.lcores.iter().flat_map(|lcore| &lcore.nodes);
            nodes.any(|(program, ends)| program.offloads() && ends.iter().any(|(end, _)| *end == port))
        };
        let open = |(port, plan): (PortIndex, &PortPlan)| {
            port::open(
                &plan.spec,
                &OpenConfig {
                    region,
                    hub: &self.hub,
                    rx_descriptors: plan.rxd,
                    tx_descriptors: plan.txd,
                    queue_pairs: plan.terms.cores,
                    interrupts: self.idle != Idle::Poll,
                    data_room_bytes: self.data_room_bytes as usize,
                    offloads: offloads(port),
                },
            )
        };
        Ok(self.ports.iter().enumerate().map(open).collect::<Result<_, _>>()?)
    }
}
