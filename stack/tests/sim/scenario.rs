//! What a seed stands for: a network, stacks, connections; and what must have come of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stack::{
    Closed, Congestion, EthernetAddress, IpAddress, IpCidr, IpEndpoint, StackConfig, TcpOptions, Time,
};

use crate::ledger::{Ledger, Outcome, Patience};
use crate::rng::Rng;
use crate::streams::{PORT, Plan, Streams};
use crate::wire::Impairments;
use crate::world::World;

/// Gauges of what there is, not of what there was.
const HELD: [&str; 6] = ["flows", "half_open", "buffers_lent", "pending", "reassemblies", "queries"];
const MS: u64 = 1_000_000;
const START_NS: u64 = 1_000_000_000;

/// What a run showed, for comparing it with another and for telling of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub trace: u64,
    pub frames: u64,
    pub damaged: u64,
    pub connections: usize,
    pub bytes: u64,
    pub worst_ns: u64,
}

/// Runs the seed's scenario to its end; if `verbose`, shows every frame.
///
/// # Panics
/// Something is not as it must be.
pub fn run(seed: u64, verbose: bool) -> Report {
    let mut rng = Rng::new(seed);
    let stacks = 2 + rng.below_usize(3);
    let impairments = impairments(&mut rng);
    let mtu = [1280, 1500, 4000, 9000][rng.below_usize(4)];
    let tcp = TcpOptions {
        rx_bytes: 1 << rng.between(10, 16),
        tx_bytes: 1 << rng.between(10, 16),
        nodelay: rng.below(4) != 0,
        ack_delay: (rng.below(4) != 0).then_some(Duration::from_millis(10)),
        // A reset may be lost: who then waits for ever would be right to, without this.
        keep_alive: Some(Duration::from_secs(1)),
        timeout: Some(Duration::from_secs(240)),
        congestion: [Congestion::Cubic, Congestion::Reno, Congestion::None][rng.below_usize(3)],
        ..TcpOptions::default()
    };
    let pause_ns = [0, MS, 20 * MS][rng.below_usize(3)];
    let plans: Vec<Vec<Plan>> = (0..stacks).map(|index| plans(&mut rng, index, stacks)).collect();
    let all: Vec<Plan> = plans.iter().flatten().cloned().collect();
    let bytes: u64 = all.iter().map(|plan| plan.up + plan.down).sum();
    let patience = patience(&impairments, pause_ns, bytes);
    let ledger = Arc::new(Mutex::new(Ledger::new(patience)));
    let members = plans
        .into_iter()
        .enumerate()
        .map(|(index, plans)| {
            let service = Streams::new(plans, tcp, pause_ns, rng.next(), Arc::clone(&ledger));
            (config(index, mtu, &mut rng), service, 4 + rng.below_usize(125))
        })
        .collect();
    let mut world = World::new(impairments, rng.next(), members).verbose(verbose);
    finish(&mut world, &ledger);
    check(&world, &ledger, &all);
    let ledger = ledger.lock().unwrap();
    Report {
        trace: world.trace(),
        frames: world.frames(),
        damaged: ledger.damaged,
        connections: all.len(),
        bytes,
        worst_ns: ledger.worst.0,
    }
}

fn impairments(rng: &mut Rng) -> Impairments {
    // Each kind is absent from half of the runs, so that its effect is seen alone as well.
    let mut maybe = |most: u64| if rng.below(2) == 0 { 0 } else { rng.between(1, most) };
    Impairments {
        loss: u32::try_from(maybe(50_000)).unwrap(),
        duplication: u32::try_from(maybe(50_000)).unwrap(),
        corruption: u32::try_from(maybe(20_000)).unwrap(),
        jitter_ns: maybe(10 * MS),
        delay_ns: 1_000 + maybe(20 * MS),
        bandwidth: match maybe(1000) {
            0 => None,
            mbits => Some(mbits * 1_000_000),
        },
        queue_ns: 100 * MS,
    }
}

fn address(index: usize, v6: bool) -> IpAddress {
    let host = u16::try_from(index + 1).unwrap();
    if v6 {
        IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, host)
    } else {
        IpAddress::v4(10, 0, 0, u8::try_from(host).unwrap())
    }
}

fn config(index: usize, mtu: usize, rng: &mut Rng) -> StackConfig {
    let mac = EthernetAddress([2, 0, 0, 0, 0, u8::try_from(index + 1).unwrap()]);
    let mut config = StackConfig::new(mac, mtu);
    config.addresses = vec![IpCidr::new(address(index, false), 24), IpCidr::new(address(index, true), 64)];
    config.seed.fill_with(|| (rng.next() & 0xff) as u8);
    config
}

fn plans(rng: &mut Rng, index: usize, stacks: usize) -> Vec<Plan> {
    let count = rng.below(6);
    (0..count)
        .map(|_| {
            let to = (index + 1 + rng.below_usize(stacks - 1)) % stacks;
            let size = |rng: &mut Rng| match rng.below(4) {
                0 => 0,
                1 => rng.below(100),
                2 => rng.below(5_000),
                _ => rng.below(60_000),
            };
            let (up, down) = (size(rng), size(rng));
            let mut abort = |most: u64| (rng.below(8) == 0).then(|| rng.below(most + 1));
            Plan {
                client_aborts: abort(up),
                server_aborts: abort(down),
                at_ns: START_NS + rng.below(500 * MS),
                to: IpEndpoint::new(address(to, rng.below(2) == 0), PORT),
                key: rng.next(),
                up,
                down,
                half_close: rng.below(2) == 0,
                server_waits: false,
                server_first: false,
            }
        })
        .map(|plan| Plan {
            // A server that waits for a client that waits would wait for ever.
            server_waits: plan.half_close && plan.key & 3 == 0,
            server_first: plan.key & 3 == 1,
            ..plan
        })
        .collect()
}

/// What one may ask of the connections of such a network.
fn patience(impairments: &Impairments, pause_ns: u64, bytes: u64) -> Patience {
    let round_trip_ns = 2 * (impairments.delay_ns + impairments.jitter_ns);
    let queue_ns = if impairments.bandwidth.is_some() { 2 * impairments.queue_ns } else { 0 };
    // 16 connections share the bandwidth at most; an application pauses between pieces.
    let transmission_ns = impairments.bandwidth.map_or(0, |bits| bytes * 8 * 2 * 1_000_000_000 / bits);
    Patience {
        // RFC 6298: a floor (200 ms of ours), the first guess of one second (200 ms), or round trip and its variation.
        rto_ns: (200 * MS).max(3 * (round_trip_ns + queue_ns)),
        slack_ns: 4 * round_trip_ns + queue_ns + transmission_ns + 4 * pause_ns + 100 * MS,
        doublings: if impairments.jitter_ns > 0 { 3 } else { 1 },
    }
}

/// Until every connection is closed and every stack idle, TIME-WAIT included.
fn finish(world: &mut World<Streams>, ledger: &Arc<Mutex<Ledger>>) {
    let deadline = Time::from_ns(START_NS) + Duration::from_secs(1200);
    let mut witness = Arc::clone(ledger);
    loop {
        let done = world.stacks().all(|stack| stack.service().pending() == 0 && stack.is_idle());
        if done || !world.step(&mut witness) {
            break;
        }
        assert!(world.now() < deadline, "not finished after 20 minutes");
    }
}

fn check(world: &World<Streams>, ledger: &Arc<Mutex<Ledger>>, plans: &[Plan]) {
    for (index, stack) in world.stacks().enumerate() {
        assert_eq!(stack.service().pending(), 0, "connections of stack {index} that were never closed");
        assert!(stack.is_idle(), "stack {index} is not idle");
        // All that was taken must have been given back.
        let mut seen = 0;
        stack.counters(&mut |name, value| {
            if HELD.contains(&name) {
                seen += 1;
                assert_eq!(value, 0, "{name} left in stack {index}");
            }
        });
        assert_eq!(seen, HELD.len(), "gauges have other names");
    }
    let ledger = ledger.lock().unwrap();
    for plan in plans {
        let ends: Vec<&Outcome> =
            ledger.outcomes.iter().filter(|outcome| outcome.key == Some(plan.key)).collect();
        let client: Vec<_> = ends.iter().filter(|end| end.is_client).collect();
        let server: Vec<_> = ends.iter().filter(|end| !end.is_client).collect();
        assert_eq!(client.len(), 1, "ends of {plan:?}: {ends:?}");
        assert!(server.len() <= 1, "ends of {plan:?}: {ends:?}");
        // Three lost questions or answers in a row, and a neighbour is held to be absent.
        if ledger.others() >= 3 && matches!(client[0].why, Closed::Unreachable(_)) && server.is_empty() {
            continue;
        }
        if !plan.has_abort() {
            assert_eq!(server.len(), 1, "{plan:?} never reached the server");
            let (client, server) = (client[0], server[0]);
            assert_eq!((client.sent, client.received), (server.received, server.sent), "{plan:?}");
            for end in &ends {
                assert!(end.complete && end.why == Closed::Done, "{plan:?} ended as {end:?}");
            }
        }
        for end in ends {
            let expected = [Closed::Done, Closed::Reset, Closed::Aborted];
            assert!(expected.contains(&end.why), "{plan:?} ended as {end:?}");
        }
    }
}
