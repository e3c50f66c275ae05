//! What runs on the loops: frames at a rate or as fast as they come back, and their reflection.

use engine::tsc::{Ticks, Tsc};
use engine::{Burst, Cx, Program, ProgramError};
use pmd::port::PortInfo;

/// Sends every frame back.
pub struct Reflect;

impl Program for Reflect {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        cx.send_burst(port, burst);
    }
}

/// Frames that are under way at once where no rate is given.
const WINDOW: u64 = 64;

/// Bytes of a frame; its first eight are when it was sent.
const FRAME_BYTES: usize = 60;

/// Sends frames and records their round trips.
pub struct Metronome {
    /// Frames a second; `None`: as many as come back, and a window of them under way.
    rate: Option<u64>,
    interval: u64,
    next: Ticks,
    sent: u64,
    returned: u64,
}

impl Metronome {
    pub fn new(rate: Option<u64>) -> Metronome {
        Metronome { rate, interval: 0, next: Ticks(0), sent: 0, returned: 0 }
    }

    fn due(&mut self, now: Ticks) -> u64 {
        match self.rate {
            Some(0) => 0,
            None => WINDOW.saturating_sub(self.sent - self.returned),
            Some(_) => {
                let mut due = 0;
                while self.next <= now && due < WINDOW {
                    self.next = self.next.after(self.interval);
                    due += 1;
                }
                due
            }
        }
    }
}

impl Program for Metronome {
    fn prepare(&mut self, _ports: &[PortInfo], tsc: &Tsc) -> Result<(), ProgramError> {
        self.interval = self.rate.map_or(0, |rate| tsc.ticks(1_000_000_000 / rate.max(1)));
        self.next = Tsc::now();
        Ok(())
    }

    fn receive(&mut self, _port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        self.returned += burst.len() as u64;
        for frame in burst.iter() {
            let sent = frame.data().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            cx.record(0, cx.tsc.ns_between(Ticks(sent), cx.now), 1);
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        if cx.winding_down {
            return false;
        }
        let now = Tsc::now();
        let due = self.due(now);
        let room = cx.room(0) as u64;
        for _ in 0..due.min(room) {
            let Some(mut frame) = cx.pool.alloc() else { break };
            let Ok(bytes) = frame.append(FRAME_BYTES) else { break };
            bytes[..8].copy_from_slice(&now.0.to_le_bytes());
            cx.send(0, frame);
            self.sent += 1;
        }
        due > 0
    }

    fn latencies(&self) -> &'static [&'static str] {
        &[engine::latency::ROUND_TRIP]
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("sent", self.sent);
        visit("returned", self.returned);
    }
}
