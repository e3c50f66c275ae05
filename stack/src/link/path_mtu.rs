//! Path MTU per destination (RFC 1191, RFC 8201), learnt from ICMP.

use core::time::Duration;

use smoltcp::wire::IpAddress;

use crate::clock::Time;

/// How long a lowered path MTU is believed before larger packets are tried again. Source: RFC 8201 §4.
const LIFETIME: Duration = Duration::from_secs(600);
/// Destinations remembered. A linear search over so few costs less than a hash, and most hosts know none.
const ENTRIES: usize = 64;
/// Smallest MTU believed. RFC 1191 allows 68, but a forged message would then cut everything to crumbs.
const MIN_V4: usize = 552;
/// Source: RFC 8200 §5.
const MIN_V6: usize = 1280;
/// Likely MTUs, for routers that report none. Source: RFC 1191 §7.1.
const PLATEAUS: [usize; 8] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006];

/// The table. At most [`ENTRIES`] destinations; the one that expires first makes room.
#[derive(Debug, Default)]
pub(super) struct PathMtu {
    entries: Vec<(IpAddress, usize, Time)>,
}

impl PathMtu {
    /// The MTU towards `dst`, at most `link_mtu`. Bytes of IP packet.
    pub(super) fn get(&self, dst: IpAddress, link_mtu: usize) -> usize {
        if self.entries.is_empty() {
            return link_mtu;
        }
        self.entries.iter().find(|e| e.0 == dst).map_or(link_mtu, |e| e.1.min(link_mtu))
    }

    /// Takes in a report. Returns the MTU from now on if the report lowers it.
    ///
    /// `reported` may be 0: an old router that does not say (RFC 1191 §5); then the next plateau below what
    /// was sent, for which the present MTU stands, is taken.
    pub(super) fn lower(
        &mut self,
        now: Time,
        dst: IpAddress,
        reported: usize,
        link_mtu: usize,
    ) -> Option<usize> {
        let present = self.get(dst, link_mtu);
        let floor = if matches!(dst, IpAddress::Ipv4(_)) { MIN_V4 } else { MIN_V6 };
        let wanted = match reported {
            0 => PLATEAUS.into_iter().find(|&p| p < present).unwrap_or(floor),
            mtu => mtu,
        };
        let mtu = wanted.max(floor);
        if mtu >= present {
            return None;
        }
        let entry = (dst, mtu, now + LIFETIME);
        if let Some(old) = self.entries.iter_mut().find(|e| e.0 == dst) {
            *old = entry;
        } else if self.entries.len() < ENTRIES {
            self.entries.push(entry);
        } else if let Some(first) = self.entries.iter_mut().min_by_key(|e| e.2) {
            *first = entry;
        }
        Some(mtu)
    }

    /// Forgets what has expired.
    pub(super) fn expire(&mut self, now: Time) {
        self.entries.retain(|e| e.2 > now);
    }

    /// When [`PathMtu::expire`] has something to do.
    pub(super) fn poll_at(&self) -> Option<Time> {
        self.entries.iter().map(|e| e.2).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> IpAddress {
        IpAddress::v4(192, 0, 2, n)
    }

    #[test]
    fn a_report_lowers_and_never_raises() {
        let mut table = PathMtu::default();
        let now = Time::from_ns(0);
        assert_eq!(table.lower(now, host(1), 1400, 1500), Some(1400));
        assert_eq!(table.lower(now, host(1), 1450, 1500), None);
        assert_eq!(table.get(host(1), 1500), 1400);
        assert_eq!(table.get(host(2), 1500), 1500);
    }

    #[test]
    fn absurd_reports_stop_at_the_floor() {
        let mut table = PathMtu::default();
        let now = Time::from_ns(0);
        assert_eq!(table.lower(now, host(1), 1, 1500), Some(MIN_V4));
        let v6 = IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        assert_eq!(table.lower(now, v6, 100, 1500), Some(MIN_V6));
    }

    #[test]
    fn a_silent_router_means_the_next_plateau() {
        let mut table = PathMtu::default();
        assert_eq!(table.lower(Time::from_ns(0), host(1), 0, 1500), Some(1492));
        assert_eq!(table.lower(Time::from_ns(0), host(1), 0, 1500), Some(1006));
        assert_eq!(table.lower(Time::from_ns(0), host(1), 0, 1500), Some(MIN_V4));
        assert_eq!(table.lower(Time::from_ns(0), host(1), 0, 1500), None);
    }

    #[test]
    fn entries_are_bounded_and_expire() {
        let mut table = PathMtu::default();
        for n in 0..200u8 {
            table.lower(Time::from_ns(u64::from(n)), host(n), 1000, 1500);
        }
        assert_eq!(table.entries.len(), ENTRIES);
        assert_eq!(table.get(host(199), 1500), 1000, "the newest is kept");
        table.expire(Time::from_ns(0) + LIFETIME + Duration::from_secs(1));
        assert_eq!(table.get(host(199), 1500), 1500);
        assert!(table.poll_at().is_none());
    }
}
