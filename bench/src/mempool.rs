//! `mempool`: what an mbuf costs to allocate and free.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Cell, CellAlignment, Color, Table};
use crossbeam_queue::ArrayQueue;
use peers::precedence::Precedence;
use pmd::mem::{Freeing, PoolConfig, RegionConfig};
use pmd::{Burst, HomePool, Mbuf, Pool, Region};
use serde::Serialize;

use crate::figures;
use crate::outcome::{About, Outcome};
use crate::pace::Pace;

/// What it measures.
pub const ABOUT: About = About { what: "mempool", how: HOW };

const HOW: &str = "Mbufs of one pool (8,192 of 2 KiB, its default) in bursts of 32. On the home core: allocate \
    a burst, free it (`Freeing`, DPDK's `rte_pktmbuf_free_bulk`). From a foreign core: the home core allocates, the foreign core frees (that alone is timed), \
    once while the home core waits, once while it allocates at the same time. Each figure is the median of the \
    rounds; every mbuf is back in the pool at the end.";

/// Mbufs allocated or freed at once.
const BURST: usize = 32;
/// Nanoseconds a pair of allocation and freeing may cost on the home core.
const HOME_TARGET_NS: f64 = 4.0;
/// Nanoseconds a foreign free may cost.
const FOREIGN_TARGET_NS: f64 = 15.0;

/// The three ways to free.
#[derive(Debug, Serialize)]
pub struct Mempool {
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    target_ns: Option<f64>,
    /// Nanoseconds per mbuf, round by round.
    rounds_ns: Vec<f64>,
}

impl Row {
    fn median_ns(&self) -> f64 {
        figures::median(&self.rounds_ns).unwrap_or(f64::NAN)
    }
}

/// Runs it on cores 0 (home) and 1 (foreign).
///
/// # Errors
/// If there is no second core, no memory, or an mbuf is missing at the end.
pub fn run(pace: &Pace) -> Result<Mempool> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    ensure!(cores.len() >= 2, "{} core, but home and foreign core are two", cores.len());
    // Before the thread starts, which inherits it.
    let _precedence = Precedence::take();
    // In a thread of its own: pinned, the calling one would see a single core in every later benchmark.
    let measuring = std::thread::scope(|scope| scope.spawn(|| measure(&cores, pace)).join());
    measuring.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn measure(cores: &[core_affinity::CoreId], pace: &Pace) -> Result<Mempool> {
    ensure!(core_affinity::set_for_current(cores[0]), "cannot pin to core {}", cores[0].id);
    let config = PoolConfig::default();
    let region = Region::new(RegionConfig { len_bytes: config.region_bytes(), ..RegionConfig::default() })?;
    let pool = Pool::new(&region, config)?;
    let home = pool.adopt()?;
    let foreign = Foreign { core: cores[1], mbufs: home.levels().mbufs };

    let mut rows = [
        ("home core, allocate and free", Some(HOME_TARGET_NS)),
        ("foreign free, home core waits", Some(FOREIGN_TARGET_NS)),
        ("foreign free, home core allocates", None),
    ]
    .map(|(what, target_ns)| Row { what, target_ns, rounds_ns: Vec::new() });
    for _ in 0..pace.rounds {
        let measured = [
            at_home(&home, pace.round()),
            foreign.while_home_waits(&home, pace.round())?,
            foreign.while_home_allocates(&home, pace.round())?,
        ];
        for (row, ns) in rows.iter_mut().zip(measured) {
            row.rounds_ns.push(ns);
        }
        // A drained pool takes its returns in when asked for more than it has on its own stack.
        drop(home.alloc_bulk(home.levels().mbufs).collect::<Vec<_>>());
        let levels = home.levels();
        ensure!(levels.free == levels.mbufs, "mbufs are missing: {levels:?}");
    }
    Ok(Mempool { rows: rows.into() })
}

/// Nanoseconds for a pair of allocation and freeing.
fn at_home(home: &HomePool, length: Duration) -> f64 {
    let mut pairs = 0_u32;
    let started = Instant::now();
    while started.elapsed() < length {
        // The clock is read once in a thousand bursts.
        for _ in 0..1000 {
            let mut burst = Burst::new();
            burst.extend(home.alloc_bulk(BURST));
            assert_eq!(black_box(&mut burst).len(), BURST, "the pool ran dry");
            Freeing::all(burst);
        }
        pairs += 1000 * 32;
    }
    per_item_ns(started.elapsed(), pairs)
}

fn per_item_ns(time: Duration, items: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(items)
}

/// The core that frees what is not its own.
struct Foreign {
    core: core_affinity::CoreId,
    mbufs: usize,
}

impl Foreign {
    /// All mbufs change hands at once, again and again; only one of the two cores works at a time.
    fn while_home_waits(&self, home: &HomePool, length: Duration) -> Result<f64> {
        let deadline = Instant::now() + length;
        let mut rounds_ns = Vec::new();
        while Instant::now() < deadline || rounds_ns.is_empty() {
            let mut bursts = Vec::new();
            for _ in 0..self.mbufs / BURST {
                let mut burst = Burst::new();
                burst.extend(home.alloc_bulk(BURST));
                bursts.push(burst);
            }
            let held: usize = bursts.iter().map(Burst::len).sum();
            ensure!(held > self.mbufs / 2, "only {held} of {} mbufs came back", self.mbufs);
            let core = self.core;
            let time = std::thread::spawn(move || {
                core_affinity::set_for_current(core);
                let started = Instant::now();
                black_box(bursts).into_iter().for_each(Freeing::all);
                started.elapsed()
            });
            let time = time.join().ok().context("the freeing thread panicked")?;
            rounds_ns.push(per_item_ns(time, u32::try_from(held)?));
        }
        figures::median(&rounds_ns).context("nothing measured")
    }

    /// Mbufs stream from the home core to the foreign one, which frees them burst by burst.
    fn while_home_allocates(&self, home: &HomePool, length: Duration) -> Result<f64> {
        let handover = ArrayQueue::<Mbuf>::new(1024);
        let done = AtomicBool::new(false);
        let (time, freed, allocated) = std::thread::scope(|scope| {
            let foreign = scope.spawn(|| {
                core_affinity::set_for_current(self.core);
                let (mut time, mut freed) = (Duration::ZERO, 0_u32);
                loop {
                    let mut burst = Burst::new();
                    burst.extend(std::iter::from_fn(|| handover.pop()).take(BURST));
                    // ORDERING: Acquire, so that an empty queue seen after it is empty for good.
                    //           Partner: the Release store below.
                    if burst.is_empty() && done.load(Ordering::Acquire) && handover.is_empty() {
                        return (time, freed);
                    }
                    let held = u32::try_from(burst.len()).unwrap_or(0);
                    if held > 0 {
                        let started = Instant::now();
                        Freeing::all(black_box(burst));
                        time += started.elapsed();
                        freed += held;
                    }
                }
            });
            let deadline = Instant::now() + length;
            let mut allocated = 0_u32;
            while Instant::now() < deadline {
                for mbuf in home.alloc_bulk(BURST) {
                    let mut mbuf = Some(mbuf);
                    while let Some(full) = mbuf.take() {
                        mbuf = handover.push(full).err();
                    }
                    allocated += 1;
                }
            }
            // ORDERING: Release. The last push comes before it. Partner: the Acquire load above.
            done.store(true, Ordering::Release);
            foreign.join().map(|(time, freed)| (time, freed, allocated))
        })
        .ok()
        .context("the freeing thread panicked")?;
        ensure!(freed == allocated && freed > 0, "{allocated} allocated, but {freed} freed");
        Ok(per_item_ns(time, freed))
    }
}

impl Outcome for Mempool {
    fn table(&self) -> Table {
        let mut table = crate::table::new(["", "ns an mbuf", "range", "target"]);
        for row in &self.rows {
            let (ns, range) = (row.median_ns(), figures::spread(&row.rounds_ns).unwrap_or(0.0));
            let cell = Cell::new(format!("{ns:.2}")).set_alignment(CellAlignment::Right);
            let cell = match row.target_ns {
                Some(target) if ns <= target => cell.fg(Color::Green),
                Some(_) => cell.fg(Color::Red),
                None => cell,
            };
            table.add_row([
                Cell::new(row.what),
                cell,
                Cell::new(format!("{:.1} %", 100.0 * range)).set_alignment(CellAlignment::Right),
                Cell::new(row.target_ns.map_or("–".into(), |target| format!("≤ {target}"))),
            ]);
        }
        table
    }

    fn target(&self) -> Option<String> {
        Some(format!("≤ {HOME_TARGET_NS} ns a pair at home, ≤ {FOREIGN_TARGET_NS} ns a foreign free"))
    }

    fn caveat(&self) -> Option<String> {
        Pace::unoptimised()
    }

    fn reaches_target(&self) -> Option<bool> {
        Some(self.rows.iter().all(|row| row.target_ns.is_none_or(|target| row.median_ns() <= target)))
    }
}
