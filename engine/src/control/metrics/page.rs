//! What is on the page. `docs/operations.md` lists the metrics; `configs/` has a dashboard and alerts that use them.

use std::fmt::{self, Debug};
use std::sync::Arc;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::super::show::pools;
use super::super::view::View;
use crate::launch::lock;
use crate::stats::{CoreReport, PortSnapshot, Snapshot};
use pmd::port::Link;

/// Upper bounds of a latency's buckets, in nanoseconds: five a decade, so that a percentile read from them is off by at most
/// a quarter or so.
const BUCKETS: [u64; 5] = [100, 160, 250, 400, 630];

/// Decades of [`BUCKETS`]: from 100 ns to 6.3 s.
const DECADES: u32 = 8;

/// Counters of programs that go down as well.
const GAUGES: [&str; 5] = ["flows", "half_open", "time_wait", "buffers_lent", "queries"];

/// The page of one engine.
pub(super) struct Page(Registry);

impl Page {
    pub(super) fn new(view: Arc<View>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Source(view)));
        Self(registry)
    }

    /// The figures of now. Waits for the loops, at most 200 ms.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.0) {
            Ok(()) => text,
            // A `String` takes everything.
            Err(_) => "# EOF\n".to_owned(),
        }
    }
}

struct Source(Arc<View>);

impl Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.0.name).finish()
    }
}

/// A value with its labels.
type Sample<V> = (Vec<(&'static str, String)>, V);

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (view, to) = (&*self.0, &mut encoder);
        let snapshot = view.monitor.look();
        engine(to, view, &snapshot)?;
        cores(to, &snapshot)?;
        ports(to, view, &snapshot)?;
        memory(to, view, &snapshot)?;
        drops(to, &snapshot)?;
        programs(to, &snapshot)?;
        let latencies = snapshot.latencies();
        let mut family = to.encode_descriptor(
            "bywash_latency_seconds",
            "How long frames stayed, turns took, and what programs measure",
            None,
            MetricType::Histogram,
        )?;
        for (name, histogram) in latencies.iter() {
            let (sum, buckets) = buckets(histogram);
            let labels = [("latency", name)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                sum,
                histogram.len(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Counters with one name.
fn counters(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<u64>>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in samples {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

/// Gauges with one name.
fn gauges(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<f64>>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // a gauge is a double, as in every client
fn float(value: u64) -> f64 {
    value as f64
}

fn engine(to: &mut DescriptorEncoder<'_>, view: &View, snapshot: &Snapshot) -> fmt::Result {
    let labels = vec![
        ("name", view.name.clone()),
        ("program", view.program.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("idle", view.facts.idle.name().to_owned()),
    ];
    gauges(to, "bywash_build", "What runs; always 1", [(labels, 1.0)])?;
    gauges(
        to,
        "bywash_uptime_seconds",
        "Time since the engine started",
        [(vec![], snapshot.elapsed.as_secs_f64())],
    )
}

fn cores(to: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let label = |report: &CoreReport| vec![("lcore", report.lcore.to_string())];
    let each = |of: fn(&CoreReport) -> u64| -> Vec<Sample<u64>> {
        snapshot.cores.iter().map(|core| (label(&core.total), of(&core.total))).collect()
    };
    for (name, help, samples) in [
        (
            "bywash_core_cycles",
            "TSC cycles since the loop started",
            each(|report| report.taken.since(report.started)),
        ),
        (
            "bywash_core_busy_cycles",
            "Of these: in turns that moved something",
            each(|report| report.busy_ticks),
        ),
        ("bywash_core_asleep_cycles", "Of these: asleep", each(|report| report.rest.ticks)),
        ("bywash_core_turns", "Turns of the loop", each(|report| report.turns)),
        ("bywash_core_bursts", "Bursts received that held a frame", each(|report| report.bursts)),
        (
            "bywash_core_full_bursts",
            "Of these: full, so that more was waiting",
            each(|report| report.full_bursts),
        ),
        ("bywash_core_packets", "Frames received", each(|report| report.packets)),
    ] {
        counters(to, name, help, samples)?;
    }
    let silent = snapshot.cores.iter().map(|core| (label(&core.total), f64::from(u8::from(core.silent))));
    gauges(to, "bywash_core_silent", "1 if the loop did not hand out its figures in time", silent)
}

fn ports(to: &mut DescriptorEncoder<'_>, view: &View, snapshot: &Snapshot) -> fmt::Result {
    let label = |port: &PortSnapshot| vec![("port", port.label.name.clone())];
    let each = |of: fn(&PortSnapshot) -> u64| -> Vec<Sample<u64>> {
        snapshot.ports.iter().map(|port| (label(port), of(port))).collect()
    };
    for (name, help, samples) in [
        ("bywash_port_rx_packets", "Frames received", each(|port| port.total.counters.rx_packets)),
        ("bywash_port_rx_bytes", "Their bytes, without FCS", each(|port| port.total.counters.rx_bytes)),
        ("bywash_port_rx_errors", "Frames received damaged", each(|port| port.total.counters.rx_errors)),
        (
            "bywash_port_rx_nombuf",
            "Times there was no mbuf to receive into",
            each(|port| port.total.counters.rx_nombuf),
        ),
        ("bywash_port_tx_packets", "Frames sent", each(|port| port.total.counters.tx_packets)),
        ("bywash_port_tx_bytes", "Their bytes, without FCS", each(|port| port.total.counters.tx_bytes)),
        (
            "bywash_port_tx_errors",
            "Frames that could not be sent",
            each(|port| port.total.counters.tx_errors),
        ),
        (
            "bywash_port_tx_dropped",
            "Frames dropped as the transmit queue was full",
            each(|port| port.total.tx_dropped),
        ),
        (
            "bywash_port_notifications",
            "Notifications sent to the other side",
            each(|port| port.total.counters.notifications),
        ),
    ] {
        counters(to, name, help, samples)?;
    }
    let is_up = |index: usize| f64::from(u8::from(lock(&view.ports[index]).link() == Link::Up));
    let up = snapshot.ports.iter().enumerate().map(|(index, port)| (label(port), is_up(index)));
    gauges(to, "bywash_port_up", "1 if frames can pass", up.collect::<Vec<_>>())?;
    let faulty =
        snapshot.ports.iter().map(|port| (label(port), f64::from(u8::from(port.total.fault.is_some()))));
    gauges(to, "bywash_port_faulty", "1 if a queue stopped, as the other side broke the rules", faulty)
}

fn memory(to: &mut DescriptorEncoder<'_>, view: &View, snapshot: &Snapshot) -> fmt::Result {
    let pools = pools(snapshot);
    let each = |of: fn(&pmd::mem::PoolLevels) -> usize| -> Vec<Sample<f64>> {
        pools.iter().map(|pool| (vec![("pool", pool.name.clone())], float(of(&pool.levels) as u64))).collect()
    };
    gauges(to, "bywash_pool_mbufs", "Mbufs of a pool", each(|levels| levels.mbufs))?;
    gauges(to, "bywash_pool_free_mbufs", "Of these: free", each(|levels| levels.free))?;
    let queues = || snapshot.cores.iter().flat_map(|core| &core.total.queues);
    let ring = |of: &dyn Fn(&crate::stats::QueueReport) -> u64| -> Vec<Sample<f64>> {
        let label = |port: usize, queue: u16| {
            vec![("port", snapshot.ports[port].label.name.clone()), ("queue", queue.to_string())]
        };
        queues().map(|report| (label(report.port, report.queue), float(of(report)))).collect()
    };
    let size =
        |report: &crate::stats::QueueReport| u64::from(lock(&view.ports[report.port]).info().tx_descriptors);
    gauges(to, "bywash_tx_ring_descriptors", "Descriptors of a transmit queue", ring(&size))?;
    gauges(
        to,
        "bywash_tx_ring_used_descriptors",
        "Of these: taken by frames that wait",
        ring(&|report| report.tx_waiting),
    )
}

fn drops(to: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let by_programs = snapshot.cores.iter().flat_map(|core| {
        let place = format!("lcore {}", core.total.lcore);
        core.total.drops.iter().map(move |(reason, frames)| (place.clone(), reason, frames))
    });
    let by_ports = snapshot
        .ports
        .iter()
        .flat_map(|port| port.drops().map(|(reason, frames)| (port.label.name.clone(), reason, frames)));
    let sample = |(place, reason, frames): (String, &str, u64)| {
        (vec![("where", place), ("reason", reason.to_owned())], frames)
    };
    counters(
        to,
        "bywash_dropped_packets",
        "Frames dropped, by place and reason",
        by_programs.chain(by_ports).map(sample),
    )
}

/// What programs and drivers count; of a stack its connections.
fn programs(to: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let all = snapshot.counters();
    let is_gauge = |name: &str| GAUGES.contains(&name);
    let label = |name: &str| vec![("counter", name.to_owned())];
    let counted = all.iter().filter(|(name, _)| !is_gauge(name)).map(|(name, count)| (label(name), count));
    counters(to, "bywash_program", "What programs and drivers count, by name", counted)?;
    let levels =
        all.iter().filter(|(name, _)| is_gauge(name)).map(|(name, level)| (label(name), float(level)));
    gauges(to, "bywash_program_level", "What goes up and down, by name", levels)?;
    // Only a stack has these.
    let is_stack = all.iter().any(|(name, _)| name == "flows");
    let states = [
        ("open", all.get("flows").saturating_sub(all.get("half_open"))),
        ("half_open", all.get("half_open")),
        ("time_wait", all.get("time_wait")),
    ];
    let states = states.into_iter().filter(|_| is_stack);
    gauges(
        to,
        "bywash_connections",
        "TCP connections, by state",
        states.map(|(state, count)| (vec![("state", state.to_owned())], float(count))),
    )?;
    let retransmitted = is_stack.then(|| (vec![], all.get("retransmitted")));
    counters(
        to,
        "bywash_retransmitted_segments",
        "TCP segments with data that were sent again",
        retransmitted,
    )
}

/// The sum in seconds, and how many values lie in each bucket.
pub(super) fn buckets(histogram: &Histogram<u64>) -> (f64, Vec<(f64, u64)>) {
    let bounds = (0..DECADES).flat_map(|decade| BUCKETS.map(|bound| bound * 10u64.pow(decade)));
    let mut buckets: Vec<(u64, u64)> = bounds.map(|bound| (bound, 0)).chain([(u64::MAX, 0)]).collect();
    let mut sum = 0.0;
    for value in histogram.iter_recorded() {
        let (ns, count) = (value.value_iterated_to(), value.count_at_value());
        sum += float(ns) * float(count);
        let at = buckets.partition_point(|(bound, _)| *bound < ns);
        buckets[at].1 += count;
    }
    let seconds = |ns: u64| if ns == u64::MAX { f64::INFINITY } else { float(ns) / 1e9 };
    (sum / 1e9, buckets.into_iter().map(|(bound, count)| (seconds(bound), count)).collect())
}
