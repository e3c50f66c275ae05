//! `--json`: one object on standard output, nothing else. Its fields are documented in `docs/json.md` and only ever
//! added to.

use engine::PortNews;
use engine::stats::{CoreSnapshot, Counters, PortSnapshot};
use hdrhistogram::Histogram;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Summary, percentiles::QUANTILES};

/// The whole run on one line, with a line end.
///
/// # Panics
/// Never: the object has string keys and finite numbers only.
#[must_use]
pub fn text(summary: &Summary) -> String {
    let mut text = serde_json::to_string(&Run::new(summary)).expect("string keys, finite numbers");
    text.push('\n');
    text
}

#[derive(serde::Serialize)]
struct Run<'a> {
    program: &'a str,
    seconds: f64,
    packets: u64,
    bytes: u64,
    pps: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rps: Option<f64>,
    errors: u64,
    lost: u64,
    reordered: u64,
    duplicated: u64,
    latency_ns: Named<'static, Latency>,
    drops: Named<'a, u64>,
    counters: Named<'a, u64>,
    ports: Vec<Port<'a>>,
    cores: Vec<Core>,
    port_events: Vec<Event<'a>>,
}

#[derive(serde::Serialize)]
struct Port<'a> {
    port: usize,
    name: &'a str,
    driver: &'a str,
    #[serde(flatten)]
    counters: Named<'a, u64>,
    tx_dropped: u64,
    fault: Option<String>,
}

#[derive(serde::Serialize)]
struct Event<'a> {
    port: usize,
    name: &'a str,
    at_seconds: f64,
    event: &'static str,
    text: String,
}

#[derive(serde::Serialize)]
struct Core {
    lcore: usize,
    cpu: Option<usize>,
    silent: bool,
    turns: u64,
    busy_turns: u64,
    busy: f64,
    asleep: f64,
    sleeps: u64,
    pauses: u64,
    wakes: Named<'static, u64>,
    bursts: u64,
    packets: u64,
    full_bursts: u64,
    latency_ns: Named<'static, Latency>,
}

impl<'a> Run<'a> {
    fn new(summary: &'a Summary) -> Run<'a> {
        Run {
            program: summary.program,
            seconds: summary.seconds(),
            packets: summary.packets,
            bytes: summary.bytes,
            pps: summary.packets_per_second(),
            requests: summary.requests(),
            rps: summary.requests().map(|_| summary.requests_per_second()),
            errors: summary.errors(),
            lost: summary.counted("lost"),
            reordered: summary.counted("reordered"),
            duplicated: summary.counted("duplicated"),
            latency_ns: Latency::all(summary.latencies.iter()),
            drops: Named::of(&summary.drops),
            counters: Named::of(&summary.counters),
            ports: summary.snapshot.ports.iter().map(Port::new).collect(),
            cores: summary.snapshot.cores.iter().map(Core::new).collect(),
            port_events: summary.snapshot.port_events.iter().map(Event::new).collect(),
        }
    }
}

impl<'a> Port<'a> {
    fn new(port: &'a PortSnapshot) -> Port<'a> {
        Port {
            port: port.total.port,
            name: &port.label.name,
            driver: &port.label.driver,
            counters: Named(port.total.counters.iter().collect()),
            tx_dropped: port.total.tx_dropped,
            fault: port.total.fault.map(|fault| fault.to_string()),
        }
    }
}

impl<'a> Event<'a> {
    fn new(news: &'a PortNews) -> Event<'a> {
        Event {
            port: news.port,
            name: &news.name,
            at_seconds: news.at.as_secs_f64(),
            event: news.event.name(),
            text: news.event.to_string(),
        }
    }
}

impl Core {
    #[allow(clippy::cast_precision_loss)] // a share between 0 and 1
    fn new(core: &CoreSnapshot) -> Core {
        let total = &core.total;
        let ran = total.taken.since(total.started);
        Core {
            lcore: total.lcore,
            cpu: total.cpu,
            silent: core.silent,
            turns: total.turns,
            busy_turns: total.busy_turns,
            busy: if ran == 0 { 0.0 } else { total.busy_ticks as f64 / ran as f64 },
            asleep: if ran == 0 { 0.0 } else { total.rest.ticks as f64 / ran as f64 },
            sleeps: total.rest.sleeps(),
            pauses: total.rest.pauses,
            wakes: Named(total.rest.wakes().map(|(wake, count)| (wake.name(), count)).collect()),
            bursts: total.bursts,
            packets: total.packets,
            full_bursts: total.full_bursts,
            latency_ns: Latency::all(total.latencies.iter()),
        }
    }
}

/// Values under names, as an object that keeps their order.
struct Named<'a, V>(Vec<(&'a str, V)>);

impl<'a> Named<'a, u64> {
    fn of(counters: &'a Counters) -> Named<'a, u64> {
        Named(counters.iter().collect())
    }
}

impl<V: Serialize> Serialize for Named<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Percentiles of one histogram, in nanoseconds; of an empty one all are 0.
struct Latency {
    count: u64,
    min: u64,
    quantiles: [u64; QUANTILES.len()],
    max: u64,
}

impl Latency {
    fn all<'h>(
        latencies: impl Iterator<Item = (&'static str, &'h Histogram<u64>)>,
    ) -> Named<'static, Latency> {
        Named(
            latencies
                .map(|(name, histogram)| {
                    let quantiles = QUANTILES.map(|(_, _, quantile)| histogram.value_at_quantile(quantile));
                    (
                        name,
                        Latency {
                            count: histogram.len(),
                            min: histogram.min(),
                            quantiles,
                            max: histogram.max(),
                        },
                    )
                })
                .collect(),
        )
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(QUANTILES.len() + 3))?;
        map.serialize_entry("count", &self.count)?;
        map.serialize_entry("min", &self.min)?;
        for ((_, key, _), value) in QUANTILES.iter().zip(&self.quantiles) {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("max", &self.max)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn the_object_begins_as_documented_in_this_very_order() {
        let text = text(&fixture::summary());
        let begin = "{\"program\":\"demo\",\"seconds\":2.0,\"packets\":1000000,\"bytes\":60000000,\"pps\":500000.0,\
                     \"errors\":0,\"lost\":7,\"reordered\":0,\"duplicated\":0,\"latency_ns\":{\"round_trip\":\
                     {\"count\":1000000,\"min\":1800,\"p50\":1800,\"p90\":2501,\"p99\":6203,\"p99_9\":6203,";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("}]}\n") && text.lines().count() == 1);
    }

    #[test]
    fn requests_stand_where_a_program_counts_them() {
        let text = text(&fixture::requests());
        assert!(
            text.contains("\"pps\":500000.0,\"requests\":900000,\"rps\":450000.0,\"errors\":3,\"lost\":7,"),
            "{text}"
        );
    }

    #[test]
    fn it_parses_and_has_drops_ports_and_cores() {
        let value: serde_json::Value = serde_json::from_str(&text(&fixture::summary())).unwrap();
        assert_eq!(value["drops"], serde_json::json!({"tx_dropped": 7}));
        assert_eq!(value["ports"][1]["name"], "loop:b");
        assert_eq!(value["ports"][1]["rx_packets"], 1_000_007);
        assert_eq!(value["ports"][1]["tx_dropped"], 7);
        assert_eq!(value["ports"][1]["fault"], serde_json::Value::Null);
        assert_eq!(value["cores"][0]["busy"], 0.75);
        assert_eq!(value["cores"][1]["latency_ns"]["residence"]["count"], 1_000_007);
        assert_eq!(value["counters"]["sent"], 1_000_007);
        let event = &value["port_events"][0];
        assert_eq!(
            (&event["port"], &event["event"], &event["at_seconds"]),
            (&1.into(), &"gone".into(), &1.25.into())
        );
        assert_eq!(event["text"], "gone: its backend ended");
    }

    #[test]
    fn every_field_is_documented() {
        let page = include_str!("../../../docs/json.md");
        let value: serde_json::Value = serde_json::from_str(&text(&fixture::requests())).unwrap();
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let all = [
            &value,
            &value["ports"][0],
            &value["cores"][0],
            &value["latency_ns"]["turn"],
            &value["port_events"][0],
        ];
        for field in all.into_iter().flat_map(fields) {
            assert!(page.contains(&format!("`{field}`")), "docs/json.md does not name `{field}`");
        }
    }
}
