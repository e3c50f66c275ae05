//! The cold side: takes frames out of the rings and writes pcapng.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pmd::pcap::{FrameConsumer, Writer};

use super::tap::way;
use super::{Capture, Totals};
use crate::tsc::{Ticks, Tsc};

/// How long to sleep when the rings are empty. A ring is full in 3 ms at 10 Gbit/s.
const WAIT: Duration = Duration::from_micros(500);

/// How long at most, when they have been empty for a while: how late a lone frame is seen.
const LONG_WAIT: Duration = Duration::from_millis(8);

/// Frames of one ring before the next has its turn.
const BATCH: usize = 256;

/// Ties the cores' clock to that of the world, anew for each batch, so that the two never part.
struct Clock {
    tsc: Tsc,
    now_ns: u64,
    now: Ticks,
}

impl Clock {
    fn new(tsc: Tsc) -> Self {
        let mut this = Self { tsc, now_ns: 0, now: Ticks(0) };
        this.set();
        this
    }

    fn set(&mut self) {
        self.now = Tsc::now();
        self.now_ns = wall_ns();
    }

    fn ns(&self, stamp: u64) -> u64 {
        let before = self.tsc.ns_between(Ticks(stamp), self.now);
        let after = self.tsc.ns_between(self.now, Ticks(stamp));
        self.now_ns.saturating_sub(before).saturating_add(after)
    }
}

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Capture {
    /// Writes the capture to `out` until `is_over` says so or the engine stops, then what is left in the rings and how
    /// many frames were missed. Flushes when there is nothing to write, and at least every 256 frames of a core.
    ///
    /// # Errors
    /// What `out` says: mostly that nobody reads any more.
    pub(crate) fn stream(
        &mut self,
        out: impl Write,
        port: &str,
        driver: &str,
        is_over: &mut dyn FnMut() -> bool,
    ) -> io::Result<Totals> {
        let mut writer = Writer::new(out)?;
        let whole = if self.spec.snaplen == u32::MAX { 0 } else { self.spec.snaplen };
        writer.interface(port, driver, whole)?;
        writer.flush()?;
        let mut clock = Clock::new(self.captures.tsc);
        let mut wait = WAIT;
        while !is_over() && !self.is_cut_off() {
            if self.write_some(&mut writer, &mut clock)? {
                wait = WAIT;
                continue;
            }
            thread::sleep(wait);
            wait = (wait * 2).min(LONG_WAIT);
        }
        self.end();
        while self.write_some(&mut writer, &mut clock)? {}
        let totals = self.totals();
        writer.statistics(0, wall_ns(), totals.passed, totals.missed)?;
        writer.flush()?;
        Ok(totals)
    }

    /// The engine stops, or its cores have.
    fn is_cut_off(&self) -> bool {
        self.captures.is_stopping() || self.sources.iter().all(|source| source.frames.is_abandoned())
    }

    /// A batch of each ring; false if all are empty.
    fn write_some(&mut self, writer: &mut Writer<impl Write>, clock: &mut Clock) -> io::Result<bool> {
        clock.set();
        let mut wrote = false;
        for source in &mut self.sources {
            wrote |= write_batch(&mut source.frames, writer, clock)?;
        }
        if wrote {
            writer.flush()?;
        }
        Ok(wrote)
    }
}

fn write_batch(
    frames: &mut FrameConsumer,
    writer: &mut Writer<impl Write>,
    clock: &Clock,
) -> io::Result<bool> {
    for count in 0..BATCH {
        let written = frames.pop(|frame, first, second| {
            let time_ns = clock.ns(frame.stamp);
            writer.frame(0, time_ns, frame.original_len, &[first, second], Some(way(frame.tag)))
        });
        match written {
            Some(written) => written?,
            None => return Ok(count > 0),
        }
    }
    Ok(true)
}
