//! The commands, and their answers: DPDK's names with what an engine has under them.

use pmd::port::QueueCounters;
use serde_json::{Map, Value, json};

use super::super::show::{percentiles, pools};
use super::super::view::{View, link, mac};
use super::{MAX_OUTPUT_BYTES, MAX_REQUEST_BYTES};
use crate::launch::lock;
use crate::stats::{QueueReport, Snapshot};

/// Queues that `/ethdev/stats` lists: DPDK's `RTE_ETHDEV_QUEUE_STAT_CNTRS`.
const QUEUES: usize = 16;

/// Bytes of an element's metadata, in front of its headroom: one cache line.
const HEADER_BYTES: usize = 64;

/// Answers one command; `None`: its parameter names nothing.
type Answer = fn(&View, Option<&str>) -> Option<Value>;

/// All of them, with their help.
const COMMANDS: [(&str, Answer, &str); 18] = [
    ("/", list, "Returns list of available commands, Takes no parameters"),
    ("/bywash/counters", counters, "Returns what programs and drivers count by name. Takes no parameters"),
    ("/bywash/drops", drops, "Returns frames dropped by reason. Takes no parameters"),
    (
        "/bywash/latency",
        latency,
        "Returns the names of latencies; of one, its percentiles in ns. Parameters: none, or string name",
    ),
    ("/eal/lcore/info", lcore_info, "Returns lcore info. Parameters: int lcore_id"),
    ("/eal/lcore/list", lcore_list, "List of lcore ids. Takes no parameters"),
    ("/eal/lcore/usage", lcore_usage, "Returns lcore cycles usage. Takes no parameters"),
    ("/ethdev/info", ethdev_info, "Returns the device info for a port. Parameters: int port_id"),
    ("/ethdev/link_status", link_status, "Returns the link status for a port. Parameters: int port_id"),
    ("/ethdev/list", ethdev_list, "Returns list of available ethdev ports. Takes no parameters"),
    ("/ethdev/stats", ethdev_stats, "Returns the common stats for a port. Parameters: int port_id"),
    ("/ethdev/xstats", ethdev_xstats, "Returns the extended stats for a port. Parameters: int port_id"),
    ("/help", help, "Returns help text for a command. Parameters: none, or string command"),
    ("/info", info, "Returns DPDK Telemetry information. Takes no parameters"),
    ("/mempool/info", mempool_info, "Returns mempool info. Parameters: string pool_name"),
    ("/mempool/list", mempool_list, "Returns list of available mempool. Takes no parameters"),
    ("/ring/info", ring_info, "Returns transmit ring info. Parameters: string ring_name"),
    ("/ring/list", ring_list, "Returns list of transmit rings. Takes no parameters"),
];

/// What is sent for `request`, a command with perhaps a comma and a parameter behind it.
pub(super) fn answer(request: &str, view: &View) -> String {
    let (command, parameter) = match request.split_once(',') {
        Some((command, parameter)) => (command, Some(parameter)),
        None => (request, None),
    };
    let known = COMMANDS.iter().find(|(name, ..)| *name == command && request.len() < MAX_REQUEST_BYTES);
    let value = known.and_then(|(_, answer, _)| answer(view, parameter));
    let reply = |value: Option<Value>| {
        Value::Object(Map::from_iter([(command.to_owned(), value.into())])).to_string()
    };
    let text = reply(value);
    if text.len() > MAX_OUTPUT_BYTES { reply(None) } else { text }
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn list(_: &View, _: Option<&str>) -> Option<Value> {
    Some(COMMANDS.iter().map(|(name, ..)| *name).collect())
}

fn help(_: &View, parameter: Option<&str>) -> Option<Value> {
    let wanted = |name: &str| parameter.is_none_or(|parameter| parameter == name);
    let texts = COMMANDS.iter().filter(|(name, ..)| wanted(name));
    let texts: Map<String, Value> =
        texts.map(|(name, _, text)| ((*name).to_owned(), (*text).into())).collect();
    (!texts.is_empty()).then_some(Value::Object(texts))
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn info(_: &View, _: Option<&str>) -> Option<Value> {
    let version = format!("bywash {}", env!("CARGO_PKG_VERSION"));
    Some(json!({ "version": version, "pid": std::process::id(), "max_output_len": MAX_OUTPUT_BYTES }))
}

/// The number in front of what else a parameter may have.
fn index(parameter: Option<&str>, below: usize) -> Option<usize> {
    parameter?.split(',').next()?.trim().parse().ok().filter(|index| *index < below)
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn ethdev_list(view: &View, _: Option<&str>) -> Option<Value> {
    Some((0..view.ports.len()).collect())
}

fn ethdev_info(view: &View, parameter: Option<&str>) -> Option<Value> {
    let index = index(parameter, view.ports.len())?;
    let port = lock(&view.ports[index]);
    let info = port.info();
    let queues: Vec<&str> = (0..info.queue_pairs).map(|_| "started").collect();
    Some(json!({
        "name": port.name(), "state": 1, "nb_rx_queues": info.queue_pairs, "nb_tx_queues": info.queue_pairs,
        "port_id": index, "mtu": info.mtu, "rx_mbuf_size_min": view.facts.data_room_bytes, "mac_addr": mac(&info.mac),
        "driver_name": info.driver, "promiscuous": 1, "scattered_rx": u8::from(info.offloads.lro4), "all_multicast": 1,
        "dev_started": 1, "lro": u8::from(info.offloads.lro4), "dev_configured": 1, "rxq_state": queues, "txq_state": queues,
        "numa_node": view.facts.numa_node, "nb_rx_desc": info.rx_descriptors, "nb_tx_desc": info.tx_descriptors,
        "features": format!("{:#x}", info.features),
    }))
}

fn link_status(view: &View, parameter: Option<&str>) -> Option<Value> {
    let port = lock(&view.ports[index(parameter, view.ports.len())?]);
    Some(json!({ "status": link(&**port).to_uppercase() }))
}

/// A port's queues in the order of their numbers.
fn queues(snapshot: &Snapshot, port: usize) -> Vec<&QueueReport> {
    let of = |report: &&QueueReport| report.port == port;
    let mut queues: Vec<_> = snapshot.cores.iter().flat_map(|core| &core.total.queues).filter(of).collect();
    queues.sort_by_key(|report| report.queue);
    queues
}

fn ethdev_stats(view: &View, parameter: Option<&str>) -> Option<Value> {
    let index = index(parameter, view.ports.len())?;
    let snapshot = view.monitor.look();
    let total = &snapshot.ports.get(index)?.total;
    let QueueCounters { rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_nombuf, .. } =
        total.counters;
    let queues = queues(&snapshot, index);
    // As many as DPDK gives, whatever there are.
    let each = |of: fn(&QueueReport) -> u64| -> Vec<u64> {
        (0..QUEUES).map(|queue| queues.get(queue).map_or(0, |report| of(report))).collect()
    };
    Some(json!({
        "ipackets": rx_packets, "opackets": tx_packets, "ibytes": rx_bytes, "obytes": tx_bytes, "imissed": 0,
        "ierrors": rx_errors, "oerrors": tx_errors + total.tx_dropped, "rx_nombuf": rx_nombuf,
        "q_ipackets": each(|report| report.counters.rx_packets), "q_opackets": each(|report| report.counters.tx_packets),
        "q_ibytes": each(|report| report.counters.rx_bytes), "q_obytes": each(|report| report.counters.tx_bytes),
        "q_errors": each(|report| report.counters.rx_errors),
    }))
}

fn ethdev_xstats(view: &View, parameter: Option<&str>) -> Option<Value> {
    let index = index(parameter, view.ports.len())?;
    let snapshot = view.monitor.look();
    let total = &snapshot.ports.get(index)?.total;
    let counters = &total.counters;
    let mut xstats = Map::new();
    for (name, count) in [
        ("rx_good_packets", counters.rx_packets),
        ("tx_good_packets", counters.tx_packets),
        ("rx_good_bytes", counters.rx_bytes),
        ("tx_good_bytes", counters.tx_bytes),
        ("rx_missed_errors", 0),
        ("rx_mbuf_allocation_errors", counters.rx_nombuf),
        ("tx_dropped", total.tx_dropped),
    ] {
        xstats.insert(name.into(), count.into());
    }
    let others = |(name, _): &(&str, u64)| {
        !matches!(*name, "rx_packets" | "tx_packets" | "rx_bytes" | "tx_bytes" | "rx_nombuf")
    };
    xstats.extend(counters.iter().filter(others).map(|(name, count)| (name.to_owned(), count.into())));
    for report in queues(&snapshot, index) {
        let QueueCounters { rx_packets, rx_bytes, tx_packets, tx_bytes, .. } = report.counters;
        for (name, count) in [
            ("rx", "packets", rx_packets),
            ("rx", "bytes", rx_bytes),
            ("tx", "packets", tx_packets),
            ("tx", "bytes", tx_bytes),
        ]
        .map(|(way, what, count)| (format!("{way}_q{}_{what}", report.queue), count))
        {
            xstats.insert(name, count.into());
        }
    }
    Some(Value::Object(xstats))
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn lcore_list(view: &View, _: Option<&str>) -> Option<Value> {
    Some((0..view.facts.lcores.len()).collect())
}

fn lcore_info(view: &View, parameter: Option<&str>) -> Option<Value> {
    let index = index(parameter, view.facts.lcores.len())?;
    let snapshot = view.monitor.look();
    let total = &snapshot.cores.get(index)?.total;
    let cpus: Vec<usize> = total.cpu.into_iter().collect();
    Some(json!({
        "lcore_id": index, "socket": view.facts.numa_node.unwrap_or(0), "role": "RTE", "cpuset": cpus,
        "total_cycles": total.taken.since(total.started), "busy_cycles": total.busy_ticks,
    }))
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn lcore_usage(view: &View, _: Option<&str>) -> Option<Value> {
    let snapshot = view.monitor.look();
    let each = |of: fn(&crate::stats::CoreReport) -> u64| -> Vec<u64> {
        snapshot.cores.iter().map(|core| of(&core.total)).collect()
    };
    Some(json!({
        "lcore_ids": (0..snapshot.cores.len()).collect::<Vec<_>>(),
        "total_cycles": each(|total| total.taken.since(total.started)), "busy_cycles": each(|total| total.busy_ticks),
    }))
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn mempool_list(view: &View, _: Option<&str>) -> Option<Value> {
    Some(pools(&view.monitor.look()).into_iter().map(|pool| pool.name).collect())
}

fn mempool_info(view: &View, parameter: Option<&str>) -> Option<Value> {
    let pools = pools(&view.monitor.look());
    let (id, pool) = pools.into_iter().enumerate().find(|(_, pool)| Some(pool.name.as_str()) == parameter)?;
    Some(json!({
        "name": pool.name, "pool_id": id, "flags": 0, "socket_id": view.facts.numa_node.unwrap_or(0),
        "size": pool.levels.mbufs, "cache_size": 0, "header_size": 0, "elt_size": HEADER_BYTES, "trailer_size": 0,
        "private_data_size": 0, "common_pool_count": pool.levels.free, "populated_size": pool.levels.mbufs,
    }))
}

/// A transmit queue, as a ring of DPDK's is called.
fn ring(report: &QueueReport) -> String {
    format!("port{}_tx{}", report.port, report.queue)
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn ring_list(view: &View, _: Option<&str>) -> Option<Value> {
    let snapshot = view.monitor.look();
    Some((0..view.ports.len()).flat_map(|port| queues(&snapshot, port)).map(ring).collect())
}

fn ring_info(view: &View, parameter: Option<&str>) -> Option<Value> {
    let snapshot = view.monitor.look();
    let mut rings = snapshot.cores.iter().flat_map(|core| &core.total.queues);
    let report = rings.find(|report| Some(ring(report).as_str()) == parameter)?;
    let size = lock(&view.ports[report.port]).info().tx_descriptors;
    Some(json!({
        "name": ring(report), "socket": view.facts.numa_node.unwrap_or(0), "flags": "0x0", "producer_type": "Single",
        "consumer_type": "Single", "size": size, "capacity": size, "used_count": report.tx_waiting,
        "avail_count": u64::from(size).saturating_sub(report.tx_waiting),
    }))
}

fn latency(view: &View, parameter: Option<&str>) -> Option<Value> {
    let latencies = view.monitor.look().latencies();
    match parameter {
        None => Some(latencies.iter().map(|(name, _)| name).collect()),
        Some(name) => Some(percentiles(latencies.get(name)?, false)),
    }
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn drops(view: &View, _: Option<&str>) -> Option<Value> {
    Some(super::super::show::named(&view.monitor.look().drops()))
}

#[allow(clippy::unnecessary_wraps)] // a command's signature
fn counters(view: &View, _: Option<&str>) -> Option<Value> {
    Some(super::super::show::named(&view.monitor.look().counters()))
}
