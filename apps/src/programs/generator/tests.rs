//! Sender and sink together, on a fake clock and a network that is a vector.

use std::io::Write;
use std::sync::Arc;

use pmd::{Burst, HomePool, MAX_BURST, Mbuf};
use proptest::prelude::*;

use super::copied::Copied;
use super::pacer::Rate;
use super::replay::Capture;
use super::sender::{Sender, SenderConfig, Source};
use super::sink::{Sink, Verdict};
use super::sizes::Sizes;
use super::template::Template;
use super::tracker::{Totals, Tracker};
use crate::programs::test_pool;

const HZ: u64 = 1_000_000_000;
const RUN: u32 = 0xb1a5_0001;

fn made(sizes: &Sizes, flows: usize) -> Source {
    Source::made(&sizes.sequence(1500).unwrap(), [2; 6], [4; 6], flows)
}

/// A sender whose clock runs from 0.
fn sender(source: Source, rate: Rate, count: Option<u64>) -> Sender {
    let mut sender = Sender::new(SenderConfig { port: 0, run: RUN, source, rate, count }, HZ);
    sender.fill(0, 0, &test_pool(1), &mut Tracker::new(0), &mut Burst::new());
    sender
}

/// Everything the sender has due at `now`.
fn due(sender: &mut Sender, now: u64, pool: &HomePool, tracker: &mut Tracker) -> Vec<Mbuf> {
    let mut frames = Vec::new();
    loop {
        let mut burst = Burst::new();
        sender.fill(now, MAX_BURST, pool, tracker, &mut burst);
        if burst.is_empty() {
            return frames;
        }
        frames.extend(burst);
    }
}

#[test]
fn every_frame_of_an_imix_comes_back_once_in_its_mix_and_with_its_time() {
    let pool = test_pool(64);
    let (mut tracker, mut sink) = (Tracker::new(5), Sink::new(RUN, 1, 5, 1514));
    let mut sender = sender(made(&Sizes::SimpleImix, 5), Rate::Unlimited, Some(1_200));
    let mut by_size = std::collections::BTreeMap::new();
    let mut now = 0;
    while !sender.is_finished() {
        let mut burst = Burst::new();
        sender.fill(now, 40, &pool, &mut tracker, &mut burst);
        for frame in burst {
            *by_size.entry(frame.pkt_len()).or_insert(0) += 1;
            assert_eq!(sink.judge(&frame, now + 777, &mut tracker), Verdict::Returned { ticks: 777 });
        }
        now += 1_000;
    }
    assert_eq!(by_size.into_iter().collect::<Vec<_>>(), [(60, 700), (566, 400), (1514, 100)]);
    assert_eq!(tracker.totals(), Totals { sent: 1_200, received: 1_200, ..Totals::default() });
    assert_eq!((sink.corrupted(), sink.foreign(), sender.nombuf()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// A network that loses, repeats, delays and damages frames; what it did is what is counted.
    #[test]
    fn what_the_network_did_is_what_is_counted(
        fates in prop::collection::vec((0..100u8, 0..12usize, any::<prop::sample::Index>()), 1..300),
        flows in 1..4usize,
    ) {
        let pool = test_pool(700);
        let (mut tracker, mut sink) = (Tracker::new(flows), Sink::new(RUN, 1, flows, 1514));
        let mut sender = sender(made(&Sizes::Fixed(100), flows), Rate::Unlimited, Some(fates.len() as u64));
        let frames = due(&mut sender, 5, &pool, &mut tracker);
        let mut want = Totals { sent: fates.len() as u64, ..Totals::default() };
        let mut corrupted = 0;
        // Where each copy lands: its own place, or some places later.
        let mut network: Vec<(usize, usize, Mbuf)> = Vec::new();
        for (number, (mut frame, (fate, delay, place))) in frames.into_iter().zip(&fates).enumerate() {
            match fate {
                0..10 => continue,
                10..20 => {
                    let copy = frame.copy_linear(&pool).unwrap();
                    network.push((number + delay, number, copy));
                    want.duplicated += 1;
                }
                20..30 => {
                    let data = frame.data_mut().unwrap();
                    // Behind the run's number: a frame without it would be somebody else's.
                    let at = 46 + place.index(data.len() - 46);
                    data[at] ^= 0x10;
                    corrupted += 1;
                }
                _ => {}
            }
            want.received += u64::from(!(20..30).contains(fate));
            network.push((number + if fate % 2 == 0 { 0 } else { *delay }, number, frame));
        }
        network.sort_by_key(|(lands, _, _)| *lands);
        // RFC 4737 by the book, on what arrives whole for the first time.
        let mut highest = vec![None; flows];
        let mut seen = std::collections::HashSet::new();
        for (_, number, frame) in &network {
            let verdict = sink.judge(frame, 105, &mut tracker);
            if verdict == Verdict::Corrupted {
                continue;
            }
            let first = seen.insert(*number);
            prop_assert_eq!(verdict, if first { Verdict::Returned { ticks: 100 } } else { Verdict::Repeated });
            let flow_highest = &mut highest[number % flows];
            if first && flow_highest.is_some_and(|highest| highest > *number) {
                want.reordered += 1;
            }
            *flow_highest = (*flow_highest).max(Some(*number));
        }
        prop_assert_eq!(tracker.totals(), want);
        prop_assert_eq!((sink.corrupted(), sink.foreign()), (corrupted, 0));
        prop_assert_eq!(tracker.totals().missing(), want.sent - seen.len() as u64);
    }

    #[test]
    fn other_frames_are_foreign_whatever_they_hold(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let pool = test_pool(1);
        let (mut tracker, mut sink) = (Tracker::new(1), Sink::new(RUN, 1, 1, 1514));
        let mut frame = pool.alloc().unwrap();
        frame.append(bytes.len()).unwrap().copy_from_slice(&bytes);
        prop_assert_eq!(sink.judge(&frame, 0, &mut tracker), Verdict::Foreign);
        prop_assert_eq!(sink.foreign(), 1);
    }
}

#[test]
fn a_made_up_number_flow_or_port_of_this_run_is_corrupted() {
    use super::payload::Payload;
    let pool = test_pool(8);
    let (mut tracker, mut sink) = (Tracker::new(4), Sink::new(RUN, 2, 2, 60));
    let template = Template::new([2; 6], [4; 6], 60);
    for (sequence, flow, port) in [(0, 0, 0), (u32::MAX, 1, 1), (0, 2, 0), (0, 0, 2)] {
        let mut frame = pool.alloc().unwrap();
        let payload = Payload { run: RUN, sequence, flow, port, stamp: 0 };
        template.fill(frame.append(60).unwrap(), &payload);
        assert_eq!(sink.judge(&frame, 0, &mut tracker), Verdict::Corrupted, "{payload:?}");
    }
    assert_eq!((sink.corrupted(), tracker.totals()), (4, Totals::default()));
}

#[test]
fn an_empty_pool_costs_no_credit_and_is_counted() {
    let pool = test_pool(10);
    let mut tracker = Tracker::new(1);
    let mut sender = sender(made(&Sizes::Fixed(60), 1), Rate::Frames(1_000), None);
    let held = due(&mut sender, HZ / 50, &pool, &mut tracker);
    assert_eq!((held.len(), sender.nombuf()), (10, 2));
    drop(held);
    assert_eq!(due(&mut sender, HZ / 50, &pool, &mut tracker).len(), 10);
}

#[test]
fn no_more_is_sent_than_there_is_room_for() {
    let pool = test_pool(100);
    let mut tracker = Tracker::new(1);
    let mut sender = sender(made(&Sizes::Fixed(60), 1), Rate::Unlimited, Some(50));
    for (room, filled) in [(0, 0), (7, 7), (100, 43), (100, 0)] {
        let mut burst = Burst::new();
        sender.fill(0, room, &pool, &mut tracker, &mut burst);
        assert_eq!(burst.len(), filled);
    }
    assert!(sender.is_finished());
}

/// Three frames at 0, 1 and 3 milliseconds.
fn capture() -> Arc<Capture> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    file.write_all(&words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1])).unwrap();
    for (us, len) in [(0, 60), (1_000, 61), (3_000, 62)] {
        file.write_all(&words(&[9, us, len, len])).unwrap();
        file.write_all(&vec![0xab; len as usize]).unwrap();
    }
    Arc::new(Capture::read(file.path(), 1514).unwrap())
}

fn replayed(repeat: bool, timed: bool) -> Source {
    Source::Replayed { capture: capture(), repeat, timed }
}

#[test]
fn a_capture_is_replayed_once_and_byte_for_byte() {
    let pool = test_pool(8);
    let mut sender = sender(replayed(false, false), Rate::Unlimited, None);
    let frames = due(&mut sender, 0, &pool, &mut Tracker::new(0));
    assert_eq!(frames.iter().map(Mbuf::pkt_len).collect::<Vec<_>>(), [60, 61, 62]);
    assert!(frames.iter().all(|frame| frame.data().iter().all(|&byte| byte == 0xab)));
    assert!(sender.is_finished());
}

#[test]
fn recorded_times_are_kept_and_rounds_follow_each_other() {
    let pool = test_pool(32);
    let mut tracker = Tracker::new(0);
    let mut sender = sender(replayed(true, true), Rate::Unlimited, Some(7));
    let mut sent = Vec::new();
    for us in 0..10_000u64 {
        for frame in due(&mut sender, us * 1_000, &pool, &mut tracker) {
            sent.push((us, frame.pkt_len()));
        }
    }
    assert_eq!(sent, [(0, 60), (1_000, 61), (3_000, 62), (3_000, 60), (4_000, 61), (6_000, 62), (6_000, 60)]);
}

#[test]
fn a_rate_holds_for_a_capture_too() {
    let pool = test_pool(64);
    let mut tracker = Tracker::new(0);
    let mut sender = sender(replayed(true, false), Rate::Frames(10_000), None);
    let sent: usize =
        (1..=100).map(|step| due(&mut sender, step * HZ / 1_000, &pool, &mut tracker).len()).sum();
    assert_eq!(sent, 1_000);
}

fn copied(sizes: &Sizes, last_flow: u16) -> Source {
    Source::Copied(Copied::new(&sizes.sequence(1500).unwrap(), [2; 6], [4; 6], last_flow))
}

#[test]
fn copied_frames_are_those_of_their_flow_and_size_without_number() {
    let pool = test_pool(64);
    let mut tracker = Tracker::new(0);
    let mut sender = sender(copied(&Sizes::Genome("abacg".into()), 2), Rate::Unlimited, Some(40));
    let frames = due(&mut sender, 7, &pool, &mut tracker);
    assert_eq!((frames.len(), sender.sent(), sender.is_finished()), (40, 40, true));
    let mut sink = Sink::new(RUN, 1, 3, 1514);
    for (number, frame) in frames.iter().enumerate() {
        let template = Template::new([2; 6], [4; 6], [60, 124, 60, 252, 1514][number % 5]);
        let mut expected = vec![0xee; template.len_bytes()];
        template.fill_unnumbered(&mut expected, u16::try_from(number % 3).unwrap());
        assert_eq!(frame.data(), expected, "frame {number}");
        let packet = etherparse::SlicedPacket::from_ethernet(frame.data()).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
        let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!("not UDP") };
        assert_eq!(usize::from(udp.source_port()), 49152 + number % 3);
        let ip_header = ip.header().to_header();
        let right = udp.to_header().calc_checksum_ipv4(&ip_header, udp.payload()).unwrap();
        assert_eq!((udp.checksum(), ip_header.header_checksum), (right, ip_header.calc_header_checksum()));
        assert_eq!(sink.judge(frame, 9, &mut tracker), Verdict::Foreign);
    }
}

#[test]
fn copied_frames_keep_the_rate_and_an_empty_pool_costs_no_credit() {
    let pool = test_pool(10);
    let mut tracker = Tracker::new(0);
    let mut sender = sender(copied(&Sizes::SimpleImix, 0), Rate::Frames(1_000), None);
    let held = due(&mut sender, HZ / 50, &pool, &mut tracker);
    assert_eq!((held.len(), sender.nombuf()), (10, 2));
    drop(held);
    assert_eq!(due(&mut sender, HZ / 50, &pool, &mut tracker).len(), 10);
    assert_eq!(
        due(&mut sender, HZ / 50, &pool, &mut tracker).len(),
        0,
        "20 ms at 1000 a second are 20 frames"
    );
}

#[test]
fn copied_frames_of_a_mix_are_paid_for_by_their_length() {
    let pool = test_pool(64);
    let mut tracker = Tracker::new(0);
    let rate = Rate::WireBits(10_000_000);
    let (mut copied, mut numbered) =
        (sender(copied(&Sizes::SimpleImix, 0), rate, None), sender(made(&Sizes::SimpleImix, 1), rate, None));
    let mut numbers = Tracker::new(1);
    for ms in 1..=100 {
        let lens = |frames: Vec<Mbuf>| frames.iter().map(Mbuf::pkt_len).collect::<Vec<_>>();
        let got = lens(due(&mut copied, ms * HZ / 1_000, &pool, &mut tracker));
        assert_eq!(got, lens(due(&mut numbered, ms * HZ / 1_000, &pool, &mut numbers)), "{ms} ms");
    }
    assert!(copied.sent() > 200, "{}", copied.sent());
}
