//! A name being looked up.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::failure::Failure;
use crate::sync::{ArrayQueue, FutexWord};
use crate::wake::Event;

/// How many addresses an answer holds.
pub const MAX_ADDRESSES: usize = 16;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: A records.
    V4,
    /// IPv6: AAAA records.
    V6,
}

/// Addresses without heap memory: the core writes them.
type Addresses = ([Option<IpAddr>; MAX_ADDRESSES], usize);

#[derive(Debug)]
struct Lookup {
    name: String,
    family: Family,
    answer: OnceLock<Result<Addresses, Failure>>,
    word: FutexWord,
    tasks: ArrayQueue<std::task::Waker>,
}

/// The application's end.
#[derive(Debug)]
pub(crate) struct Answer(Arc<Lookup>);

/// The core's end.
#[derive(Debug)]
pub struct LookupEnd(Arc<Lookup>);

pub(crate) fn lookup(name: &str, family: Family) -> (Answer, LookupEnd) {
    let shared = Arc::new(Lookup {
        name: name.to_owned(),
        family,
        answer: OnceLock::new(),
        word: FutexWord::new(),
        tasks: ArrayQueue::new(1),
    });
    (Answer(shared.clone()), LookupEnd(shared))
}

impl Answer {
    pub(crate) fn event(&self) -> Event<'_, ArrayQueue<std::task::Waker>> {
        Event { word: &self.0.word, tasks: &self.0.tasks }
    }

    pub(crate) fn get(&self) -> Option<Result<Vec<IpAddr>, Failure>> {
        let (addresses, len) = match self.0.answer.get()? {
            Ok(addresses) => addresses,
            Err(failure) => return Some(Err(*failure)),
        };
        Some(Ok(addresses[..*len].iter().flatten().copied().collect()))
    }
}

impl LookupEnd {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Which addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.0.family
    }

    /// Answers, and wakes who waits: at most the first [`MAX_ADDRESSES`] addresses. Only the first answer counts.
    pub fn answer(&self, answer: Result<impl Iterator<Item = IpAddr>, Failure>) {
        let answer = answer.map(|all| {
            let (mut addresses, mut len) = ([None; MAX_ADDRESSES], 0);
            for (place, address) in addresses.iter_mut().zip(all) {
                *place = Some(address);
                len += 1;
            }
            (addresses, len)
        });
        if self.0.answer.set(answer).is_ok() {
            Event { word: &self.0.word, tasks: &self.0.tasks }.notify();
        }
    }
}

impl Drop for LookupEnd {
    fn drop(&mut self) {
        self.answer(Err::<std::iter::Empty<_>, _>(Failure::Stopped));
    }
}
