//! The kernel's way to wake up: a thread that blocks in `recv` of a UDP socket and sends back what it gets.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use core_affinity::CoreId;

use super::Figures;
use crate::latency::Latency;

/// Sends `rate` datagrams a second from one core, whose thread never sleeps, to a thread on the other.
pub fn measure(rate: u64, time: Duration, settle: Duration, cores: [CoreId; 2]) -> Result<Figures> {
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(server.local_addr()?)?;
    server.connect(client.local_addr()?)?;
    client.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let echo = std::thread::Builder::new().name("kernel-echo".into()).spawn(move || {
        core_affinity::set_for_current(cores[1]);
        let mut bytes = [0; 64];
        while let Ok(count) = server.recv(&mut bytes) {
            // ORDERING: Relaxed. A flag on its own; the datagram that ends the wait comes after it.
            if stopped.load(Ordering::Relaxed) || server.send(&bytes[..count]).is_err() {
                break;
            }
        }
    })?;
    let pinned = core_affinity::get_core_ids().is_some() && core_affinity::set_for_current(cores[0]);
    anyhow::ensure!(pinned, "cannot run on core {}", cores[0].id);
    let thread = super::thread_named("kernel-echo").context("the echo's thread is not there")?;
    drop(send_and_time(&client, rate, settle)?);
    let before = super::cpu_ns(thread)?;
    let begun = Instant::now();
    let round_trips = send_and_time(&client, rate, time)?;
    let cpu = (super::cpu_ns(thread)? - before) as f64 / begun.elapsed().as_nanos() as f64;
    // ORDERING: as in the thread.
    stop.store(true, Ordering::Relaxed);
    client.send(&[0])?;
    drop(echo.join());
    let returned = round_trips.len();
    Ok(Figures {
        cpu,
        wakes: 0.0,
        rate: returned as f64 / time.as_secs_f64(),
        latency: Latency::of(&round_trips),
    })
}

/// One datagram at a time: the next when its time has come and the last is back, or lost for 100 ms.
fn send_and_time(client: &UdpSocket, rate: u64, time: Duration) -> Result<hdrhistogram::Histogram<u64>> {
    let mut round_trips = engine::latency::histogram();
    let interval = Duration::from_secs_f64(1.0 / rate as f64);
    let begun = Instant::now();
    let mut next = begun;
    let mut bytes = [0; 64];
    while begun.elapsed() < time {
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        next += interval;
        let sent = Instant::now();
        client.send(&bytes[..60])?;
        while sent.elapsed() < Duration::from_millis(100) {
            if client.recv(&mut bytes).is_ok() {
                round_trips.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
                break;
            }
        }
    }
    Ok(round_trips)
}
