//! A virtual clock, stacks, and the network between them.

use std::hash::{DefaultHasher, Hash, Hasher};

use smoltcp::wire::{EthernetFrame, PrettyPrinter};
use stack::{EthernetAddress, Service, Stack, StackConfig, Time};

use crate::outbox::Outbox;
use crate::wire::{Fate, Impairments, Wire};

/// Frames that are handed to a stack at once, as an engine's burst.
const BURST: usize = 64;
/// Turns at one instant after which a stack is held to spin.
const MAX_TURNS: u32 = 10_000;

struct Node<S: Service> {
    stack: Stack<S>,
    device: Outbox,
    mac: EthernetAddress,
    inbox: Vec<Vec<u8>>,
}

/// Told of each TCP frame that did not get through whole: from it a test knows what delay the network has earned.
pub trait Witness {
    fn damaged(&mut self, now: Time, frame: &[u8]);
}

pub struct World<S: Service> {
    now: Time,
    nodes: Vec<Node<S>>,
    wire: Wire,
    trace: DefaultHasher,
    frames: u64,
    idle_turns: u32,
    /// Every frame is shown.
    verbose: bool,
}

impl<S: Service> World<S> {
    pub fn new(impairments: Impairments, seed: u64, members: Vec<(StackConfig, S, usize)>) -> Self {
        let now = Time::from_ns(1_000_000_000);
        let wire = Wire::new(members.len(), impairments, seed);
        let nodes = members
            .into_iter()
            .map(|(config, service, buffers)| Node {
                mac: config.mac,
                device: Outbox::new(buffers, config.mtu),
                stack: Stack::new(config, service, now).expect("a configuration that fits"),
                inbox: Vec::new(),
            })
            .collect();
        Self { now, nodes, wire, trace: DefaultHasher::new(), frames: 0, idle_turns: 0, verbose: false }
    }

    pub fn verbose(mut self, verbose: bool) -> Self {
        self.verbose = verbose;
        self
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn stacks(&self) -> impl Iterator<Item = &Stack<S>> {
        self.nodes.iter().map(|node| &node.stack)
    }

    /// A number that differs if any frame, or the time it was sent, does.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Frames sent so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Goes to the next moment at which anything happens and has it happen; false when nothing ever will.
    pub fn step(&mut self, witness: &mut impl Witness) -> bool {
        let wanted = self.nodes.iter().filter_map(|node| node.stack.poll_at()).min();
        let Some(next) = self.wire.next_ns().map(Time::from_ns).into_iter().chain(wanted).min() else {
            return false;
        };
        if next > self.now {
            self.idle_turns = 0;
        }
        self.now = self.now.max(next);
        let arrived = self.deliver();
        let worked = self.turn(witness);
        if !arrived && !worked {
            // A stack said that it wanted this turn, and then did nothing with it.
            self.idle_turns += 1;
            assert!(
                self.idle_turns < MAX_TURNS,
                "a stack asks for turns at {:?} without using them",
                self.now
            );
            self.now += std::time::Duration::from_micros(1);
        }
        true
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        while let Some((to, frame)) = self.wire.arrived(self.now.ns()) {
            self.nodes[to].inbox.push(frame);
            any = true;
        }
        for node in &mut self.nodes {
            for burst in node.inbox.chunks(BURST) {
                node.stack.receive(self.now, burst.iter().map(Vec::as_slice), &mut node.device);
            }
            node.inbox.clear();
        }
        any
    }

    fn turn(&mut self, witness: &mut impl Witness) -> bool {
        let mut any = false;
        for index in 0..self.nodes.len() {
            let mut turns = 0;
            loop {
                let node = &mut self.nodes[index];
                let worked = node.stack.turn(self.now, &mut node.device);
                let frames = node.device.take();
                let sent = !frames.is_empty();
                for frame in frames {
                    self.send(index, &frame, witness);
                }
                if !worked && !sent {
                    break;
                }
                any = true;
                turns += 1;
                assert!(turns < MAX_TURNS, "stack {index} has no end of work at {:?}", self.now);
            }
        }
        any
    }

    fn send(&mut self, from: usize, frame: &[u8], witness: &mut impl Witness) {
        self.frames += 1;
        (self.now.ns(), from, frame).hash(&mut self.trace);
        let destination = EthernetAddress::from_bytes(&frame[..6]);
        for to in 0..self.nodes.len() {
            if to == from || (destination.is_unicast() && destination != self.nodes[to].mac) {
                continue;
            }
            let fate = self.wire.send(self.now.ns(), from, to, frame);
            if self.verbose {
                let packet = PrettyPrinter::<EthernetFrame<&[u8]>>::new("", &frame);
                println!("{} us: {from} to {to}, {fate:?}: {packet}", self.now.ns() / 1000);
            }
            if fate != Fate::Carried {
                witness.damaged(self.now, frame);
            }
        }
    }
}
