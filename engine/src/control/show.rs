//! The answers to `show`: figures of a running engine as JSON. What each field means is in `docs/operations.md`.
//!
//! Counts run from the start; whoever wants rates asks twice, and divides by the difference of `uptime_seconds`.

use hdrhistogram::Histogram;
use pmd::mem::PoolLevels;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::view::{Facts, LcoreFacts, View, link, mac};
use crate::latency::Latencies;
use crate::launch::lock;
use crate::stats::{CoreSnapshot, Counters, QueueReport, Snapshot};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The loops: how busy they are, and what a turn and a frame cost.
    Runtime,
    /// The ports, with what all their queues together counted.
    Ports,
    /// The queue pairs, and how full their rings are.
    Queues,
    /// Packet memory: its pages, and each core's mbufs.
    Memory,
    /// Frames dropped: where, and under which reason.
    Drops,
    /// Percentiles of each latency.
    Latency,
    /// How the engine was started.
    Config,
    /// What programs and drivers count beyond the rest, by name.
    Counters,
    /// All of it.
    All,
}

impl Subject {
    /// All, in the order in which help lists them.
    pub const ALL: [Subject; 9] = [
        Subject::Runtime,
        Subject::Ports,
        Subject::Queues,
        Subject::Memory,
        Subject::Drops,
        Subject::Latency,
        Subject::Config,
        Subject::Counters,
        Subject::All,
    ];

    /// As it is written in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Subject::Runtime => "runtime",
            Subject::Ports => "ports",
            Subject::Queues => "queues",
            Subject::Memory => "memory",
            Subject::Drops => "drops",
            Subject::Latency => "latency",
            Subject::Config => "config",
            Subject::Counters => "counters",
            Subject::All => "all",
        }
    }
}

/// The answer for `what`; latencies with their histograms if these are wanted. Waits for the loops, at most 200 ms, and for
/// whoever looks at a port.
pub(super) fn show(view: &View, what: Subject, histograms: bool) -> Value {
    let snapshot = view.monitor.look();
    let mut answer = Map::new();
    let uptime = snapshot.elapsed.as_secs_f64();
    answer.insert("name".into(), view.name.clone().into());
    answer.insert("program".into(), view.program.clone().into());
    answer.insert("pid".into(), std::process::id().into());
    answer.insert("uptime_seconds".into(), uptime.into());
    let mut add = |subject: Subject, of: &dyn Fn() -> Value| {
        if what == subject || what == Subject::All {
            answer.insert(subject.name().into(), of());
        }
    };
    add(Subject::Runtime, &|| snapshot.cores.iter().map(|core| runtime(&snapshot, core)).collect());
    add(Subject::Ports, &|| (0..snapshot.ports.len()).map(|index| port(view, &snapshot, index)).collect());
    add(Subject::Queues, &|| queues(view, &snapshot));
    add(Subject::Memory, &|| memory(view, &snapshot));
    add(Subject::Drops, &|| drops(&snapshot));
    add(Subject::Latency, &|| latency(&snapshot, histograms));
    add(Subject::Config, &|| config(view));
    add(Subject::Counters, &|| named(&snapshot.counters()));
    Value::Object(answer)
}

fn runtime(snapshot: &Snapshot, core: &CoreSnapshot) -> Value {
    let total = &core.total;
    let ns = |ticks| snapshot.tsc.ns(ticks);
    let wakes: Map<String, Value> =
        total.rest.wakes().map(|(wake, count)| (wake.name().to_owned(), count.into())).collect();
    json!({
        "lcore": total.lcore, "cpu": total.cpu, "silent": core.silent,
        "run_ns": ns(total.taken.since(total.started)), "busy_ns": ns(total.busy_ticks), "asleep_ns": ns(total.rest.ticks),
        "busy_cycles": total.busy_ticks,
        "turns": total.turns, "busy_turns": total.busy_turns, "bursts": total.bursts, "full_bursts": total.full_bursts,
        "packets": total.packets, "sleeps": total.rest.sleeps(), "pauses": total.rest.pauses, "wakes": wakes,
    })
}

/// What a queue counted, under the driver's names.
fn counted(report: &QueueReport) -> Map<String, Value> {
    let mut fields: Map<String, Value> =
        report.counters.iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    fields.insert("tx_dropped".into(), report.tx_dropped.into());
    fields.insert("tx_waiting".into(), report.tx_waiting.into());
    fields.insert("fault".into(), report.fault.map(|fault| fault.to_string()).into());
    fields
}

fn port(view: &View, snapshot: &Snapshot, index: usize) -> Value {
    let port = lock(&view.ports[index]);
    let info = port.info();
    let mut fields = json!({
        "port": index, "name": port.name(), "driver": info.driver, "mac": mac(&info.mac), "mtu": info.mtu,
        "link": link(&**port), "queue_pairs": info.queue_pairs, "rx_descriptors": info.rx_descriptors,
        "tx_descriptors": info.tx_descriptors, "features": format!("{:#x}", info.features),
    });
    drop(port);
    if let Value::Object(fields) = &mut fields {
        fields.extend(counted(&snapshot.ports[index].total));
    }
    fields
}

fn queues(view: &View, snapshot: &Snapshot) -> Value {
    let row = |(core, report): (&CoreSnapshot, &QueueReport)| {
        let facts = view.facts.ports.get(report.port);
        let name = snapshot.ports.get(report.port).map(|port| port.label.name.as_str());
        let mut fields = counted(report);
        fields.insert("port".into(), report.port.into());
        fields.insert("name".into(), name.into());
        fields.insert("queue".into(), report.queue.into());
        fields.insert("lcore".into(), core.total.lcore.into());
        fields.insert("tx_descriptors".into(), facts.map(|facts| facts.txd).into());
        Value::Object(fields)
    };
    let of = |core: &CoreSnapshot| core.total.queues.iter().map(|report| row((core, report))).collect();
    snapshot.cores.iter().flat_map(|core| -> Vec<Value> { of(core) }).collect()
}

fn memory(view: &View, snapshot: &Snapshot) -> Value {
    let pools = pools(snapshot).into_iter().map(
        |Pool { name, lcore, levels: PoolLevels { mbufs, free } }| json!({ "name": name, "lcore": lcore, "mbufs": mbufs, "free": free, "in_use": mbufs - free.min(mbufs) }),
    );
    let Facts { region_bytes, page_bytes, numa_node, data_room_bytes, .. } = &view.facts;
    json!({
        "region_bytes": region_bytes, "page_bytes": page_bytes, "numa_node": numa_node,
        "data_room_bytes": data_room_bytes, "pools": pools.collect::<Vec<_>>(),
    })
}

/// A core's mbufs of one kind.
pub(super) struct Pool {
    /// `mbuf_0`, or `long_0` for those of 64 KiB.
    pub name: String,
    pub lcore: usize,
    pub levels: PoolLevels,
}

/// All pools, core by core.
pub(super) fn pools(snapshot: &Snapshot) -> Vec<Pool> {
    let of = |core: &CoreSnapshot| {
        let lcore = core.total.lcore;
        let pool = move |(kind, levels): (&str, Option<PoolLevels>)| {
            Some(Pool { name: format!("{kind}_{lcore}"), lcore, levels: levels? })
        };
        ["mbuf", "long"].into_iter().zip(core.total.pools).filter_map(pool)
    };
    snapshot.cores.iter().flat_map(of).collect()
}

fn drops(snapshot: &Snapshot) -> Value {
    let mut places = Vec::new();
    for core in &snapshot.cores {
        for (reason, frames) in core.total.drops.iter().filter(|(_, frames)| *frames > 0) {
            places.push(
                json!({ "where": format!("lcore {}", core.total.lcore), "reason": reason, "frames": frames }),
            );
        }
    }
    for port in &snapshot.ports {
        for (reason, frames) in port.drops().filter(|(_, frames)| *frames > 0) {
            places.push(json!({ "where": port.label.name, "reason": reason, "frames": frames }));
        }
    }
    json!({ "reasons": named(&snapshot.drops()), "places": places })
}

pub(super) fn named(counters: &Counters) -> Value {
    Value::Object(counters.iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
}

fn latency(snapshot: &Snapshot, histograms: bool) -> Value {
    let all = |latencies: &Latencies, histograms: bool| -> Map<String, Value> {
        let of =
            |(name, histogram): (&'static str, &_)| (name.to_owned(), percentiles(histogram, histograms));
        latencies.iter().map(of).collect()
    };
    let cores = snapshot.cores.iter().map(|core| {
        json!({ "lcore": core.total.lcore, "cpu": core.total.cpu, "latency_ns": all(&core.total.latencies, false) })
    });
    json!({ "latency_ns": all(&snapshot.latencies(), histograms), "cores": cores.collect::<Vec<_>>() })
}

/// Nanoseconds, as `--json` gives them; `histogram` lists each value that was recorded, as its bucket's largest, with its
/// count.
pub(super) fn percentiles(histogram: &Histogram<u64>, whole: bool) -> Value {
    let at = |quantile| histogram.value_at_quantile(quantile);
    let mut fields = json!({
        "count": histogram.len(), "min": histogram.min(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99),
        "p99_9": at(0.999), "p99_99": at(0.9999), "max": histogram.max(),
    });
    if whole {
        let counts = histogram.iter_recorded();
        fields["histogram"] =
            counts.map(|value| json!([value.value_iterated_to(), value.count_at_value()])).collect();
    }
    fields
}

fn config(view: &View) -> Value {
    let facts = &view.facts;
    let ports = facts.ports.iter().map(|port| {
        json!({
            "name": port.spec, "rxd": port.rxd, "txd": port.txd, "cores": port.cores, "steered": port.steered,
            "priority": port.prioritised,
        })
    });
    let lcores = facts
        .lcores
        .iter()
        .enumerate()
        .map(|(lcore, LcoreFacts { cpu, ports })| json!({ "lcore": lcore, "cpu": cpu, "ports": ports }));
    let command: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"), "command": command, "burst": facts.burst, "idle": facts.idle.name(),
        "latency": facts.latency, "gro": facts.gro,
        "lcores": lcores.collect::<Vec<_>>(), "ports": ports.collect::<Vec<_>>(),
    })
}
