//! Under `--cfg loom` crossbeam's `ArrayQueue` is replaced by this one, a mutex around a deque: the queue is crossbeam's
//! to check, the protocols around it are ours. Otherwise there is nothing here.
#![cfg(loom)]

use std::collections::VecDeque;

use loom::sync::{Mutex, MutexGuard};

/// `crossbeam_queue::ArrayQueue`, as far as we use it.
#[derive(Debug)]
pub struct ArrayQueue<T> {
    items: Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    /// Room for `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self { items: Mutex::new(VecDeque::new()), capacity }
    }

    fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap()
    }

    /// # Errors
    /// The item, if there is no room for it.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items();
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        Ok(())
    }

    /// Pushes in place of the oldest, if there is no room otherwise.
    pub fn force_push(&self, item: T) -> Option<T> {
        let mut items = self.items();
        let oldest = if items.len() == self.capacity { items.pop_front() } else { None };
        items.push_back(item);
        oldest
    }

    /// The oldest item.
    pub fn pop(&self) -> Option<T> {
        self.items().pop_front()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items().is_empty()
    }

    /// Whether there is room for no more.
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity
    }
}
