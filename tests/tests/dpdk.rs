//! Our vhost-user ports with DPDK's testpmd at the other end, in both directions.
//!
//! Our own generator numbers and stamps every frame and checks every byte of what comes back, so each test
//! sends ten million frames through testpmd's forwarding loop (one million for each combination of its options) and
//! demands all of them, once, in order, intact. Each side has a core. `BYWASH_REQUIRE=dpdk` makes a skip a failure.

#[path = "dpdk/queues.rs"]
mod queues;
#[path = "dpdk/telemetry.rs"]
mod telemetry;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peers::bywash::{Bywash, Report};
use peers::precedence::Precedence;
use peers::require::{Suite, skip};
use peers::testpmd::{ForwardMode, ForwardStats, Host, Options, Side, Testpmd, VirtioUser, port_stats};

/// Frames that a generator test sends.
const FRAMES: u64 = 10_000_000;
/// Frames for each combination of options.
const FRAMES_EACH: u64 = 1_000_000;
/// With its vectorized functions more frames can be under way than fit into the ring back, where testpmd drops what finds
/// no room. At this rate there is room, unless a core is taken away for milliseconds: what it says it dropped is allowed.
const VECTORIZED_PPS: u32 = 400_000;
/// How long those may take, on a machine that is busy with other things.
const FRAMES_LIMIT: Duration = Duration::from_secs(60);
/// The core of testpmd's forwarding loop; ours is the other one.
const PEER_CORE: usize = 1;
const OUR_CORE: &str = "0";
/// The smallest Ethernet frames, without FCS.
const SMALLEST: &str = "--size=60";
/// From the smallest to the largest Ethernet frames, in turn.
const ALL_SIZES: &str = "--imix=abcdefg";
/// Hugepages of 2 MiB: two testpmds, or one and our own region.
const HUGEPAGES: u64 = 384;

/// What a test runs on, or `None` after having said why it cannot run.
fn host() -> Option<(Arc<Host>, Precedence)> {
    match Host::new(HUGEPAGES) {
        Ok(host) => {
            // The build of our command must not take precedence, and should not count against a time limit.
            peers::bywash::binary().unwrap();
            Some((host, Precedence::take()))
        }
        Err(why) => {
            skip(Suite::Dpdk, why);
            None
        }
    }
}

fn device(host: &Arc<Host>, socket: &Path, mode: ForwardMode) -> Testpmd {
    Testpmd::start(host, Options::new(Side::NetVhost(socket.into()), mode, PEER_CORE)).unwrap()
}

/// Starts our generator of so many frames.
///
/// The ring of frames on their way out is half as long as the one back, so that all frames under way fit into the
/// latter: testpmd drops what finds no room there, and a generator that loses its core for a moment must not look
/// like a lossy ring. It waits a little before the first frame, because DPDK's virtio driver throws away what it finds
/// in its receive ring when it starts (`virtio_dev_start`). As a device we take the driver's lengths: see [`serve_ten_million_frames`].
fn generate(port: &str, frames: u64, rate: Option<u32>, sizes: &str) -> Bywash {
    let frames = frames.to_string();
    let args = ["gen", "--port", port, "--cores", OUR_CORE, "--count", &frames, sizes, "--flows", "64"];
    let rate = rate.map(|pps| format!("--rate={pps}"));
    let rest = ["--rxd", "1024", "--txd", "512", "--settle-ms", "300", "--json"];
    let rate: Vec<&str> = rate.iter().map(String::as_str).collect();
    Bywash::start(&[&args[..], &rest, &rate].concat()).unwrap()
}

/// Every frame came back once, in order, intact, and testpmd counted the same. Of those it says that it dropped itself,
/// for want of room in its ring, at most `may_drop` may be missing, and no others.
fn assert_all_back(report: &Report, frames: u64, peer: ForwardStats, may_drop: u64) {
    let count = |pointer: &str| report.count(pointer).unwrap();
    let told = format!("{}\ntestpmd: {peer:?}", report.value());
    assert_eq!(count("/counters/sent"), frames, "{told}");
    assert!(peer.tx_dropped <= may_drop, "{told}");
    let back = frames - peer.tx_dropped;
    assert_eq!((count("/counters/received"), count("/counters/lost")), (back, peer.tx_dropped), "{told}");
    for wrong in ["reordered", "duplicated", "late", "corrupted"] {
        assert_eq!(count(&format!("/counters/{wrong}")), 0, "{wrong}: {told}");
    }
    assert_eq!(count("/errors"), 0, "{told}");
    assert_eq!(count("/ports/0/faults"), 0, "{told}");
    // By reason, `foreign` among them: frames that are not ours.
    assert_eq!(report.value()["drops"], serde_json::json!({}), "{told}");
    assert_eq!((peer.rx_packets, peer.tx_packets), (frames, back), "{told}");
}

/// If this fails, it is the machine or the way testpmd is driven, and not our ports.
#[test]
fn two_testpmds_forward_to_each_other() {
    let Some((host, _precedence)) = host() else { return };
    let socket = host.socket("pair");
    let mut device = device(&host, &socket, ForwardMode::FlowGen);
    let periodic = Options {
        stats_period_s: Some(1),
        forward_core: 0,
        main_core: PEER_CORE,
        ..Options::new(Side::NetVirtioUser(VirtioUser::split(&socket)), ForwardMode::MacSwap, 0)
    };
    let mut driver = Testpmd::start(&host, periodic).unwrap();

    let deadline = Instant::now() + Duration::from_secs(20);
    let seen = loop {
        let blocks = port_stats(&driver.process().stdout());
        match blocks.last() {
            Some(last) if last.rx_pps > 0 => break *last,
            _ => assert!(Instant::now() < deadline, "no frame in {blocks:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    // Both ends see frames of 64 bytes less the CRC, which no ring carries.
    assert_eq!(seen.rx_bytes, 60 * seen.rx_packets);
    let printed = driver.quit().unwrap();
    let there = peers::testpmd::forward_stats(&printed).expect("final statistics");
    let here = device.stop().unwrap();
    assert!(there.tx_packets >= here.rx_packets && here.rx_packets > 0, "{there:?}, {here:?}");
    assert!(there.tx_packets - here.rx_packets <= 1024, "lost more than the ring holds: {there:?}, {here:?}");
    assert!(here.cycles_per_packet.is_some_and(|cycles| cycles > 1.0), "{here:?}");
    device.quit().unwrap();
}

/// We drive, DPDK's net_vhost is the device. `ours` are options of our port, `theirs` of its.
fn drive(host: &Arc<Host>, frames: u64, ours: &str, theirs: &'static str, sizes: &str) {
    println!("vhost-user:…{ours} and net_vhost,{theirs}");
    let socket = host.socket("device");
    let options = Options::new(Side::NetVhost(socket.clone()), ForwardMode::MacSwap, PEER_CORE);
    let mut device = Testpmd::start(host, Options { vhost_args: theirs, ..options }).unwrap();
    let ours = generate(&format!("vhost-user:{}{ours}", socket.display()), frames, None, sizes);
    let report = ours.report(FRAMES_LIMIT).unwrap();
    assert_all_back(&report, frames, device.stop().unwrap(), 0);
    device.quit().unwrap();
}

#[test]
fn ten_million_frames_return_from_net_vhost() {
    let Some((host, _precedence)) = host() else { return };
    drive(&host, FRAMES, ",mrg_rxbuf=off", "", SMALLEST);
}

#[test]
fn ten_million_frames_return_from_net_vhost_with_mergeable_buffers() {
    let Some((host, _precedence)) = host() else { return };
    drive(&host, FRAMES, ",mrg_rxbuf=on", "", ALL_SIZES);
}

/// Every number of so many bits.
fn combinations<const BITS: usize>() -> impl Iterator<Item = [bool; BITS]> {
    (0..1_u32 << BITS).map(|number| std::array::from_fn(|bit| number >> bit & 1 == 1))
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[test]
fn frames_return_from_net_vhost_over_every_kind_of_virtqueue() {
    let Some((host, _precedence)) = host() else { return };
    for [packed, in_order, event_idx, mergeable] in combinations() {
        let ours = format!(
            ",ring_packed={},in_order={},event_idx={},mrg_rxbuf={}",
            on_off(packed),
            on_off(in_order),
            on_off(event_idx),
            on_off(mergeable)
        );
        drive(&host, FRAMES_EACH, &ours, "", ALL_SIZES);
    }
    for packed in [",ring_packed=off", ",ring_packed=on"] {
        for theirs in ["linear-buffer=1", "ext-buffer=1"] {
            drive(&host, FRAMES_EACH, packed, theirs, ALL_SIZES);
        }
    }
}

/// We are the device, DPDK's net_virtio_user drives.
fn serve(host: &Arc<Host>, frames: u64, user: VirtioUser, sizes: &str) {
    let socket = user.socket.clone();
    // It waits for a driver; testpmd connects as soon as it finds the socket.
    let rate = user.vectorized.then_some(VECTORIZED_PPS);
    let may_drop = if user.vectorized { u64::from(user.queue_size) } else { 0 };
    let mut ours = generate(&format!("vhost-user-server:{}", socket.display()), frames, rate, sizes);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        let process = ours.process();
        assert!(Instant::now() < deadline && process.is_running(), "no socket: {}", process.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    let options = Options::new(Side::NetVirtioUser(user), ForwardMode::MacSwap, PEER_CORE);
    let mut driver = Testpmd::start(host, Options { rxd: 512, txd: 1024, ..options }).unwrap();
    // The generator ends by itself; the driver's counters are read before it notices.
    let report = ours.report(FRAMES_LIMIT).unwrap();
    assert_all_back(&report, frames, driver.stop().unwrap(), may_drop);
    driver.quit().unwrap();
}

#[test]
fn ten_million_frames_return_from_net_virtio_user() {
    let Some((host, _precedence)) = host() else { return };
    let split = VirtioUser::split(host.socket("driver"));
    serve(&host, FRAMES, VirtioUser { mergeable: false, in_order: false, ..split }, SMALLEST);
}

#[test]
fn ten_million_frames_return_from_net_virtio_user_with_mergeable_buffers() {
    let Some((host, _precedence)) = host() else { return };
    serve(&host, FRAMES, VirtioUser::split(host.socket("driver")), ALL_SIZES);
}

/// Its vectorized functions want packed rings in order and one buffer a frame, or split ones with one buffer a frame;
/// in the other combinations it takes the scalar ones by itself.
#[test]
fn frames_return_from_net_virtio_user_over_every_kind_of_virtqueue() {
    let Some((host, _precedence)) = host() else { return };
    for [packed, in_order, mergeable, vectorized] in combinations() {
        let split = VirtioUser::split(host.socket("driver"));
        let user = VirtioUser { packed, in_order, mergeable, vectorized, ..split };
        println!("vhost-user-server: and {user:?}");
        serve(&host, FRAMES_EACH, user, ALL_SIZES);
    }
}

/// Our forwarder under more load than it can take: DPDK generates and takes back.
fn forward_for_flowgen(options: &str) {
    let Some((host, _precedence)) = host() else { return };
    let socket = host.socket("flowgen");
    let mut device = device(&host, &socket, ForwardMode::FlowGen);
    let port = format!("vhost-user:{}{options}", socket.display());
    let args = ["l2fwd", "--port", &port, "--cores", OUR_CORE, "--forward-mode", "macswap"];
    let ours = Bywash::start(&[&args[..], &["--seconds", "3", "--json"]].concat()).unwrap();
    let report = ours.report(Duration::from_secs(30)).unwrap();
    let peer = device.stop().unwrap();
    let count = |pointer: &str| report.count(pointer).unwrap();
    let told = format!("{}\ntestpmd: {peer:?}", report.value());
    let (received, sent) = (count("/ports/0/rx_packets"), count("/ports/0/tx_packets"));
    assert!(received > 100_000, "{told}");
    // What we received we sent, or counted as dropped; what was sent arrived, but for a ring's worth.
    assert_eq!(received, sent + count("/ports/0/tx_dropped"), "{told}");
    assert!(sent.abs_diff(peer.rx_packets) <= 1024, "{told}");
    assert!(received <= peer.tx_packets && peer.tx_packets - received <= 1024, "{told}");
    assert_eq!(count("/ports/0/rx_bytes"), 60 * received, "{told}");
    assert_eq!(count("/errors"), 0, "{told}");
    device.quit().unwrap();
}

#[test]
fn l2fwd_forwards_for_net_vhost() {
    forward_for_flowgen(",mrg_rxbuf=off");
}

#[test]
fn l2fwd_forwards_for_net_vhost_with_mergeable_buffers() {
    forward_for_flowgen(",mrg_rxbuf=on");
}
