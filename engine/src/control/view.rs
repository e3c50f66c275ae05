//! What those who answer requests know of their engine. None of it is the loops': figures come through the
//! [`Monitor`], everything else was written down when the engine started or is asked of the ports.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pmd::port::{Link, Port};
use serde_json::{Value, json};

use crate::idle::Idle;
use crate::launch::{SharedPorts, lock};
use crate::stats::Monitor;

/// How a port was asked for.
#[derive(Clone, Debug)]
pub(crate) struct PortFacts {
    pub spec: String,
    pub rxd: u16,
    pub txd: u16,
    /// How many cores share it.
    pub cores: u16,
    /// Frames are moved to the core that owns their flow.
    pub steered: bool,
    /// Urgent frames leave first.
    pub prioritised: bool,
}

/// How a loop was asked for.
#[derive(Clone, Debug)]
pub(crate) struct LcoreFacts {
    /// Its processor, if it is pinned.
    pub cpu: Option<usize>,
    /// The ports of its programs.
    pub ports: Vec<usize>,
}

/// How an engine was built.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub burst: usize,
    pub latency: bool,
    pub idle: Idle,
    pub gro: bool,
    pub data_room_bytes: u32,
    pub numa_node: Option<u32>,
    pub region_bytes: usize,
    pub page_bytes: usize,
    pub ports: Vec<PortFacts>,
    pub lcores: Vec<LcoreFacts>,
}

/// A running engine, seen from outside.
pub(crate) struct View {
    pub name: String,
    pub program: String,
    pub facts: Facts,
    pub monitor: Arc<Monitor>,
    pub ports: SharedPorts,
    /// Set by who wants it to end.
    pub stop_wanted: Arc<AtomicBool>,
}

impl View {
    /// Who it is, and which ports it has: the answer to `engine`.
    pub(crate) fn itself(&self) -> Value {
        let ports: Vec<Value> = (0..self.ports.len()).map(|index| self.port(index)).collect();
        json!({ "name": self.name, "program": self.program, "pid": std::process::id(), "ports": ports })
    }

    /// One of its ports. Waits for whoever looks at that port now.
    pub(crate) fn port(&self, index: usize) -> Value {
        let port = lock(&self.ports[index]);
        let info = port.info();
        json!({
            "port": index, "name": port.name(), "driver": info.driver, "mac": mac(&info.mac), "mtu": info.mtu,
            "link": link(&**port),
        })
    }
}

/// `up` or `down`.
pub(crate) fn link(port: &dyn Port) -> &'static str {
    match port.link() {
        Link::Up => "up",
        Link::Down => "down",
    }
}

/// `02:00:00:00:00:01`.
pub(crate) fn mac(bytes: &[u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
