//! The allowed values, in one place for the file and the command line, and the sentences that name them.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer};

use crate::idle::Idle;
use pmd::mem::PageSize;
use pmd::port::MAX_BURST;

/// Frames taken from a queue per turn.
pub const BURST: RangeInclusive<usize> = 1..=MAX_BURST;
/// Packet buffers. Fewer than 64 cannot keep the smallest rings supplied; 4 Mi of 2 KiB are 8 GiB.
pub const MBUFS: RangeInclusive<usize> = 64..=1 << 22;
/// Descriptors of a queue. virtio 1.2 §2.7, §2.8: at most 32,768; where a port needs a power of two it takes one
/// near it.
pub const RING: RangeInclusive<u16> = 8..=32_768;
/// Descriptors of a queue if nothing is said.
pub const DEFAULT_DESCRIPTORS: u16 = 1024;

/// Checks a burst size.
///
/// # Errors
/// A sentence with the allowed range.
pub fn burst(value: i64) -> Result<usize, String> {
    within(value, BURST)
}

/// Checks a number of packet buffers.
///
/// # Errors
/// A sentence with the allowed range.
pub fn mbufs(value: i64) -> Result<usize, String> {
    within(value, MBUFS)
}

/// Checks a number of descriptors.
///
/// # Errors
/// A sentence with the allowed range.
pub fn descriptors(value: i64) -> Result<u16, String> {
    within(value, RING)
}

fn within<T: TryFrom<i64> + PartialOrd + Display>(value: i64, range: RangeInclusive<T>) -> Result<T, String> {
    T::try_from(value)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| format!("{value} is not allowed; use {} to {}", range.start(), range.end()))
}

fn page_size(text: &str) -> Result<PageSize, String> {
    match text {
        "auto" => Ok(PageSize::Auto),
        "ordinary" => Ok(PageSize::Ordinary),
        "2M" => Ok(PageSize::Huge2M),
        "1G" => Ok(PageSize::Huge1G),
        _ => Err(format!("page size `{text}` is not known; use auto, ordinary, 2M or 1G")),
    }
}

fn checked<'de, D, I, T>(
    deserializer: D,
    check: impl FnOnce(I) -> Result<T, String>,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    I: Deserialize<'de>,
{
    check(I::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

pub(super) fn de_burst<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    checked(deserializer, burst)
}

pub(super) fn de_mbufs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    checked(deserializer, mbufs)
}

pub(super) fn de_descriptors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    checked(deserializer, descriptors)
}

pub(super) fn de_idle<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Idle>, D::Error> {
    checked(deserializer, |text: String| text.parse())
}

pub(super) fn de_page_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PageSize>, D::Error> {
    checked(deserializer, |text: String| page_size(&text))
}
