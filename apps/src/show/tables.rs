//! Answers as tables of at most 80 columns.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use engine::control::Subject;

use super::answer::{Answer, Core, Counted, Latency, Memory, Percentiles};
use crate::output::units::{count, percent, rate, time_ns};
use crate::output::{Colour, per_second};

/// What a subject is, for `--help`.
pub(super) fn help(subject: Subject) -> &'static str {
    match subject {
        Subject::Runtime => "The loops: how busy they are, what a frame costs",
        Subject::Ports => "Ports: state, frames, bytes, drops",
        Subject::Queues => "Queue pairs: which core, what they moved, how full they are",
        Subject::Memory => "Packet memory, and each core's mbufs",
        Subject::Drops => "Frames dropped, by place and reason",
        Subject::Latency => "Percentiles of each latency",
        Subject::Config => "How the engine was started",
        Subject::Counters => "What programs and drivers count beyond that",
        Subject::All => "All of it",
    }
}

/// What was asked for; of the interval, where there is a `before`.
pub(super) fn text(now: &Answer, before: Option<&Answer>, what: Subject, colour: Colour) -> String {
    let seconds = before.map(|before| now.uptime_seconds - before.uptime_seconds);
    let span = match seconds {
        Some(seconds) => format!("the last {seconds:.1} s"),
        None => "since the start".to_owned(),
    };
    let Answer { name, program, pid, uptime_seconds, .. } = now;
    let mut text = format!(
        "{}  {program}, process {pid}, up {}; {span}\n",
        colour.heading(name),
        uptime(*uptime_seconds)
    );
    let mut part = |subject: Subject, part: Option<String>| {
        let Some(part) = part else { return };
        let title = format!("\n{}\n", colour.heading(subject.name()));
        text.push_str(if what == Subject::All { &title } else { "\n" });
        text.push_str(if part.is_empty() { "none\n" } else { &part });
    };
    part(
        Subject::Runtime,
        now.runtime
            .as_ref()
            .map(|cores| runtime(cores, before.and_then(|before| before.runtime.as_deref()), colour)),
    );
    part(Subject::Ports, now.ports.as_ref().map(|_| ports(now, before.zip(seconds), colour)));
    part(Subject::Queues, now.queues.as_ref().map(|_| queues(now, before.zip(seconds), colour)));
    part(Subject::Memory, now.memory.as_ref().map(|memory| self::memory(memory, colour)));
    part(Subject::Drops, now.drops.as_ref().map(|_| drops(now, before.zip(seconds), colour)));
    part(
        Subject::Latency,
        now.latency
            .as_ref()
            .map(|latency| self::latency(latency, before.and_then(|before| before.latency.as_ref()), colour)),
    );
    part(Subject::Config, now.config.as_ref().map(config));
    part(Subject::Counters, now.counters.as_ref().map(|_| counters(now, before.zip(seconds), colour)));
    text
}

/// `3 d 04:05:06`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of a positive number of seconds
fn uptime(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days > 0 { format!("{days} d {clock}") } else { clock }
}

/// A table under `titles`: the first `left` columns are text, the others numbers.
fn table(titles: &[&str], left: usize, rows: Vec<Vec<String>>, colour: Colour) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    match colour {
        Colour::Ansi => table.enforce_styling(),
        Colour::Plain => table.force_no_tty(),
    };
    table.set_header(
        titles.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold).fg(Color::Cyan)),
    );
    table.add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if at >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[allow(clippy::cast_precision_loss)] // shown with one decimal
fn ratio(of: u64, to: u64) -> String {
    if to == 0 { "-".to_owned() } else { format!("{:.1}", of as f64 / to as f64) }
}

fn runtime(cores: &[Core], before: Option<&[Core]>, colour: Colour) -> String {
    let none = Core::default();
    let row = |core: &Core| {
        let earlier = before
            .and_then(|before| before.iter().find(|earlier| earlier.lcore == core.lcore))
            .unwrap_or(&none);
        let new = |of: fn(&Core) -> u64| of(core).saturating_sub(of(earlier));
        let run = new(|core| core.run_ns);
        let (packets, bursts, turns) =
            (new(|core| core.packets), new(|core| core.bursts), new(|core| core.turns));
        vec![
            core.lcore.to_string(),
            core.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()),
            if core.silent { "silent".to_owned() } else { percent(new(|core| core.busy_ns), run) },
            percent(new(|core| core.asleep_ns), run),
            count(turns),
            percent(new(|core| core.busy_turns), turns),
            count(packets),
            ratio(packets, bursts),
            percent(new(|core| core.full_bursts), bursts),
            ratio(new(|core| core.busy_cycles), packets),
            count(new(|core| core.sleeps)),
        ]
    };
    let titles = [
        "lcore", "cpu", "busy", "asleep", "turns", "useful", "frames", "/burst", "full", "cycles/f", "sleeps",
    ];
    table(&titles, 0, cores.iter().map(row).collect(), colour)
}

/// Columns of frames and bytes both ways, drops and errors: totals, or rates.
fn traffic(now: &Counted, before: Option<(&Counted, f64)>) -> Vec<String> {
    let Some((before, seconds)) = before else {
        return [now.rx_packets, now.rx_bytes, now.tx_packets, now.tx_bytes, now.dropped(), now.errors()]
            .map(count)
            .into();
    };
    let per = |of: fn(&Counted) -> u64| per_second(of(now).saturating_sub(of(before)), seconds);
    vec![
        rate(per(|counted| counted.rx_packets), ""),
        rate(8.0 * per(|counted| counted.rx_bytes), ""),
        rate(per(|counted| counted.tx_packets), ""),
        rate(8.0 * per(|counted| counted.tx_bytes), ""),
        rate(per(Counted::dropped), ""),
        rate(per(Counted::errors), ""),
    ]
}

const TOTALS: [&str; 6] = ["rx", "rx bytes", "tx", "tx bytes", "dropped", "errors"];
const RATES: [&str; 6] = ["rx/s", "rx bit/s", "tx/s", "tx bit/s", "drop/s", "err/s"];

fn ports(now: &Answer, before: Option<(&Answer, f64)>, colour: Colour) -> String {
    let ports = now.ports.as_deref().unwrap_or_default();
    let row = |port: &super::answer::Port| {
        let earlier = before.and_then(|(before, seconds)| {
            let mut ports = before.ports.as_deref().unwrap_or_default().iter();
            Some((&ports.find(|earlier| earlier.port == port.port)?.counted, seconds))
        });
        let mut row = vec![port.port.to_string(), short(&port.name, 22), port.link.clone()];
        row.extend(traffic(&port.counted, earlier));
        row
    };
    let titles = ["", "port", "link"].into_iter().chain(if before.is_some() { RATES } else { TOTALS });
    let mut text = table(&titles.collect::<Vec<_>>(), 3, ports.iter().map(row).collect(), colour);
    if before.is_none() {
        let facts = ports.iter().map(|port| {
            vec![
                port.port.to_string(),
                short(&port.driver, 26),
                port.mac.clone(),
                port.mtu.to_string(),
                port.queue_pairs.to_string(),
                format!("{}/{}", port.rx_descriptors, port.tx_descriptors),
            ]
        });
        let titles = ["", "driver", "MAC", "MTU", "pairs", "rxd/txd"];
        text.push('\n');
        text.push_str(&table(&titles, 3, facts.collect(), colour));
    }
    for port in ports {
        if let Some(fault) = &port.fault {
            text.push_str(&format!("port {} stands still: {fault}\n", port.port));
        }
        if port.counted.rx_nombuf > 0 {
            text.push_str(&format!(
                "port {}: {} times without a free mbuf\n",
                port.port,
                count(port.counted.rx_nombuf)
            ));
        }
    }
    text
}

fn queues(now: &Answer, before: Option<(&Answer, f64)>, colour: Colour) -> String {
    let queues = now.queues.as_deref().unwrap_or_default();
    let earlier = before.map(|(before, seconds)| (before.queues.as_deref().unwrap_or_default(), seconds));
    let row = |(at, queue): (usize, &super::answer::Queue)| {
        // Queues neither come nor go while an engine runs.
        let earlier = earlier.and_then(|(earlier, seconds)| Some((&earlier.get(at)?.counted, seconds)));
        let full = queue.tx_descriptors.map_or_else(String::new, |all| format!("/{all}"));
        let mut row = vec![
            short(queue.name.as_deref().unwrap_or("?"), 16),
            queue.queue.to_string(),
            queue.lcore.to_string(),
        ];
        row.extend(traffic(&queue.counted, earlier));
        row.push(format!("{}{full}", queue.tx_waiting));
        row
    };
    let titles = ["port", "q", "lcore"]
        .into_iter()
        .chain(if before.is_some() { RATES } else { TOTALS })
        .chain(["tx ring"]);
    let rows = queues.iter().enumerate().map(row).collect();
    let mut text = table(&titles.collect::<Vec<_>>(), 1, rows, colour);
    for queue in queues {
        if let Some(fault) = &queue.fault {
            text.push_str(&format!(
                "{} queue {} stands still: {fault}\n",
                queue.name.as_deref().unwrap_or("?"),
                queue.queue
            ));
        }
    }
    text
}

fn memory(memory: &Memory, colour: Colour) -> String {
    let pages = match memory.page_bytes {
        4096 => "ordinary pages".to_owned(),
        bytes if bytes >= 1 << 30 => format!("pages of {} GiB", bytes >> 30),
        bytes => format!("pages of {} MiB", bytes >> 20),
    };
    let node = memory.numa_node.map_or_else(String::new, |node| format!(" of NUMA node {node}"));
    let mib = memory.region_bytes.div_ceil(1 << 20);
    let rows = memory.pools.iter().map(|pool| {
        vec![
            pool.name.clone(),
            pool.lcore.to_string(),
            pool.mbufs.to_string(),
            pool.free.to_string(),
            pool.in_use.to_string(),
            percent(pool.in_use, pool.mbufs),
        ]
    });
    let pools = table(&["pool", "lcore", "mbufs", "free", "in use", ""], 1, rows.collect(), colour);
    format!("{mib} MiB in {pages}{node}; a data room is {} bytes\n\n{pools}", memory.data_room_bytes)
}

fn drops(now: &Answer, before: Option<(&Answer, f64)>, colour: Colour) -> String {
    let places = |answer: &Answer| answer.drops.clone().map(|drops| drops.places).unwrap_or_default();
    let earlier = before.map(|(before, seconds)| (places(before), seconds));
    let rows = places(now).into_iter().map(|place| {
        let mut row = vec![place.place.clone(), place.reason.clone(), count(place.frames)];
        if let Some((earlier, seconds)) = &earlier {
            let was = earlier.iter().find(|was| (&was.place, &was.reason) == (&place.place, &place.reason));
            let new = place.frames.saturating_sub(was.map_or(0, |was| was.frames));
            row.push(rate(per_second(new, *seconds), "/s"));
        }
        row
    });
    table(
        &["where", "reason", "frames", "now"][..if before.is_some() { 4 } else { 3 }],
        2,
        rows.collect(),
        colour,
    )
}

fn latency(now: &Latency, before: Option<&Latency>, colour: Colour) -> String {
    let row = |(name, total): (&String, &Percentiles)| {
        let earlier = before.and_then(|before| before.latency_ns.get(name));
        let Percentiles { count: values, min, p50, p90, p99, p99_9, p99_99, max, .. } =
            earlier.map_or_else(|| total.clone(), |earlier| total.since(earlier));
        let mut row = vec![name.clone(), count(values)];
        row.extend([min, p50, p90, p99, p99_9, p99_99, max].map(time_ns));
        row
    };
    let titles = ["latency", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    table(&titles, 1, now.latency_ns.iter().map(row).collect(), colour)
}

/// Indented TOML-like lines: it is read rarely, and copied.
fn config(config: &serde_json::Value) -> String {
    let mut text = String::new();
    let word = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (name, value) in config.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Array(items) if name == "command" => {
                let words: Vec<String> = items.iter().map(word).collect();
                text.push_str(&format!("{name}: {}\n", words.join(" ")));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| {
                let fields = item.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
                let fields: Vec<String> =
                    fields.map(|(name, value)| format!("{name} {}", word(value))).collect();
                text.push_str(&format!("{}: {}\n", name.trim_end_matches('s'), fields.join(", ")));
            }),
            value => text.push_str(&format!("{name}: {}\n", word(value))),
        }
    }
    text
}

fn counters(now: &Answer, before: Option<(&Answer, f64)>, colour: Colour) -> String {
    let rows = now.counters.iter().flatten().filter(|(_, total)| **total > 0).map(|(name, total)| {
        let mut row = vec![name.clone(), total.to_string()];
        if let Some((before, seconds)) = before {
            let was = before.counters.as_ref().and_then(|counters| counters.get(name)).copied().unwrap_or(0);
            row.push(rate(per_second(total.saturating_sub(was), seconds), "/s"));
        }
        row
    });
    table(&["counter", "total", "now"][..if before.is_some() { 3 } else { 2 }], 1, rows.collect(), colour)
}

/// The end of a name that is too long: it tells ports apart better than the beginning.
fn short(name: &str, columns: usize) -> String {
    let length = name.chars().count();
    if length <= columns {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length + 1 - columns)).collect()
}
