//! What an engine took, it gives back. Alone in its process, because it counts the process's mappings.

use std::fs;
use std::time::Duration;

use engine::{Burst, Cx, Engine, Program};

/// Sends frames and keeps some that came, as a program does that is stopped in the midst of its work.
#[derive(Default)]
struct Hoarder(Vec<pmd::Mbuf>);

impl Program for Hoarder {
    fn receive(&mut self, _port: usize, burst: &mut Burst, _cx: &mut Cx<'_>) {
        self.0.extend(burst.drain(..).take(8));
        self.0.truncate(100);
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        let room = cx.room(0).min(32);
        for mut frame in cx.pool.alloc_bulk(room).collect::<Vec<_>>() {
            frame.append(60).unwrap().fill(0);
            cx.send(0, frame);
        }
        room > 0
    }
}

/// Mappings of packet memory in this process.
fn packet_memory() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/memfd:bywash")).count()
}

#[test]
fn a_stopped_engine_leaves_no_packet_memory_behind() {
    for cores in [1, 2] {
        let mut engine = Engine::builder();
        let ports = [engine.port("loop:a"), engine.port("loop:b")];
        for port in ports {
            let core = if port == 0 || cores == 2 { engine.lcore(None) } else { 0 };
            engine.program(core, Hoarder::default(), [port]);
        }
        let mut running = engine.start().unwrap();
        assert!(packet_memory() > 0);
        while running.snapshot().ports.iter().any(|port| port.total.counters.rx_packets < 1000) {
            std::thread::sleep(Duration::from_millis(1));
        }
        running.stop().unwrap();
        assert_eq!(packet_memory(), 0, "after an engine with {cores} loops");
    }
}
