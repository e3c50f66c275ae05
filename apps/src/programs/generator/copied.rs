//! Frames that are only counted: every flow's head is made beforehand, and sending is a copy of it.
//!
//! Nothing numbers or stamps these frames, so what differs between two of one size is their flow, and that lies
//! in the first 60 bytes. Those are kept per size and flow; the bytes behind them once per size.

use pmd::{Burst, HomePool, Mbuf};

use super::sizes::MIN_FRAME_BYTES;
use super::template::{Head, Mac, Template};

/// The frames of one size.
#[derive(Clone, Debug)]
struct Shape {
    /// By flow: the frame's first bytes, payload zero.
    heads: Box<[Head]>,
    /// What follows each of them; empty in the smallest frames.
    tail: Box<[u8]>,
}

impl Shape {
    fn new(template: &Template, last_flow: u16) -> Self {
        let mut frame = vec![0; template.len_bytes()];
        let heads = (0..=last_flow)
            .map(|flow| {
                template.fill_unnumbered(&mut frame, flow);
                *frame.first_chunk().expect("no template is shorter")
            })
            .collect();
        Self { heads, tail: frame[MIN_FRAME_BYTES..].into() }
    }

    #[inline]
    fn len_bytes(&self) -> usize {
        MIN_FRAME_BYTES + self.tail.len()
    }

    /// Copies the frame of `flow` into a fresh mbuf; false if that is too short.
    #[inline]
    fn write(&self, flow: usize, mbuf: &mut Mbuf) -> bool {
        let Ok(bytes) = mbuf.append(self.len_bytes()) else { return false };
        let Some((head, tail)) = bytes.split_first_chunk_mut::<MIN_FRAME_BYTES>() else { return false };
        *head = self.heads[flow];
        // The smallest frames, which are the ones that are many, have none.
        if !tail.is_empty() {
            tail.copy_from_slice(&self.tail);
        }
        true
    }
}

/// The frames of one port, in the order of sending, without end.
#[derive(Clone, Debug)]
pub struct Copied {
    /// One for each distinct size.
    shapes: Vec<Shape>,
    /// Indices of shapes, in the order of sending; not empty.
    sequence: Vec<usize>,
    flows: usize,
    /// Place in the sequence, and flow, of the next frame.
    place: usize,
    flow: usize,
}

impl Copied {
    /// Frames of the sizes in `order`, over and over, from `source` to `destination`, which take turns in the
    /// flows 0 to `last_flow`. Holds 60 bytes for each flow and distinct size.
    pub fn new(order: &[usize], source: Mac, destination: Mac, last_flow: u16) -> Self {
        let mut distinct = order.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let shape = |&size: &usize| Shape::new(&Template::new(source, destination, size), last_flow);
        Self {
            shapes: distinct.iter().map(shape).collect(),
            sequence: order.iter().filter_map(|size| distinct.binary_search(size).ok()).collect(),
            flows: usize::from(last_flow) + 1,
            place: 0,
            flow: 0,
        }
    }

    /// Its longest frame in bytes, without FCS.
    pub fn longest_bytes(&self) -> usize {
        self.shapes.iter().map(Shape::len_bytes).max().unwrap_or(0)
    }

    /// Lengths of the next frames in bytes, without end.
    pub fn upcoming_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        let (before, after) = self.sequence.split_at(self.place);
        after.iter().chain(before).cycle().map(|&shape| self.shapes[shape].len_bytes())
    }

    /// Appends the next `count` frames to `burst`, which must have room for them; fewer if the pool is empty or
    /// its mbufs are too short. Returns how many.
    #[inline]
    pub fn fill(&mut self, count: usize, pool: &HomePool, burst: &mut Burst) -> usize {
        let before = burst.len();
        let one_size = if let [shape] = &self.shapes[..] { Some(shape) } else { None };
        for mut mbuf in pool.alloc_bulk(count) {
            let shape = one_size.unwrap_or_else(|| &self.shapes[self.sequence[self.place]]);
            if !shape.write(self.flow, &mut mbuf) {
                break;
            }
            burst.push(mbuf);
            self.flow = following(self.flow, self.flows);
            if one_size.is_none() {
                self.place = following(self.place, self.sequence.len());
            }
        }
        burst.len() - before
    }
}

/// The index after `index` in a ring of `len`, without a division.
#[inline]
pub fn following(index: usize, len: usize) -> usize {
    if index + 1 == len { 0 } else { index + 1 }
}
