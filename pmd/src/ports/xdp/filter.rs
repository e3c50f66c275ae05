//! Which frames are taken from the kernel; the others are the kernel's, as if we were not there.
//!
//! | given | taken |
//! |---|---|
//! | nothing | every frame |
//! | `addr=` alone | what is sent to that address, and ARP and neighbour solicitations that ask for it: it is ours alone |
//! | `port=`, `proto=`, with or without `addr=` | only those datagrams and segments; ARP, ICMP and the rest stay with the kernel, whose address we share |
//!
//! All frames with a VLAN tag, fragments of datagrams where a port would have to be known, and IPv6 packets with
//! extension headers before TCP or UDP stay with the kernel too.

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The most addresses, and the most ports or ranges of them. They are compared one by one.
const MAX_TERMS: usize = 16;

/// A transport protocol that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    /// ICMP, and ICMPv6 with neighbour discovery.
    Icmp,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub address: IpAddr,
    /// Length in bits.
    pub bits: u8,
}

/// What is taken. Empty lists match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub addresses: Vec<Prefix>,
    pub ports: Vec<RangeInclusive<u16>>,
    pub protocol: Option<Protocol>,
}

impl Filter {
    /// Whether every frame is taken.
    pub(crate) fn takes_all(&self) -> bool {
        self.addresses.is_empty() && !self.is_shared()
    }

    /// Whether addresses are shared with the kernel: told apart by more than the address.
    pub(crate) fn is_shared(&self) -> bool {
        !self.ports.is_empty() || self.protocol.is_some()
    }

    /// Adds `addr=ADDRESS[/BITS]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn add_address(&mut self, text: &str) -> Result<(), String> {
        let no = || format!("addr={text}: no IPv4 or IPv6 address such as 192.0.2.2 or 2001:db8::/64");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| no())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| (1..=most).contains(bits)).ok_or_else(no)?,
        };
        add(&mut self.addresses, Prefix { address, bits }, "addr")
    }

    /// Adds `port=N` or `port=FIRST-LAST`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn add_ports(&mut self, text: &str) -> Result<(), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
        let (first, last) = range.ok_or_else(|| {
            format!("port={text}: a port is 1 to 65535, a range is written FIRST-LAST, as in port=8000-8080")
        })?;
        add(&mut self.ports, first..=last, "port")
    }

    /// Reads `proto=NAME`.
    ///
    /// # Errors
    /// Which names there are.
    pub(crate) fn set_protocol(&mut self, text: &str) -> Result<(), String> {
        self.protocol = Some(match text {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            _ => return Err(format!("proto={text} is none of tcp, udp, icmp")),
        });
        Ok(())
    }

    /// Whether the parts go together.
    ///
    /// # Errors
    /// Which do not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.ports.is_empty() && self.protocol == Some(Protocol::Icmp) {
            return Err("proto=icmp has no ports; leave port= or proto= out".to_owned());
        }
        Ok(())
    }
}

fn add<T>(terms: &mut Vec<T>, term: T, name: &str) -> Result<(), String> {
    if terms.len() == MAX_TERMS {
        return Err(format!("{name}= at most {MAX_TERMS} times; use a prefix or a range"));
    }
    terms.push(term);
    Ok(())
}

impl Prefix {
    /// The address's bytes and the mask's: 4 or 16 of each.
    pub(crate) fn masked(&self) -> (Vec<u8>, Vec<u8>) {
        let bytes = match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mask = |at: usize| {
            let left = usize::from(self.bits).saturating_sub(at * 8).min(8);
            0xff00_u16.unbounded_shr(left.try_into().unwrap_or(8)).to_le_bytes()[0]
        };
        let masks: Vec<u8> = (0..bytes.len()).map(mask).collect();
        (bytes.iter().zip(&masks).map(|(byte, mask)| byte & mask).collect(), masks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_wrong_ones_say_why() {
        let mut filter = Filter::default();
        assert!(filter.takes_all());
        filter.add_address("192.0.2.2").unwrap();
        assert!(!filter.takes_all() && !filter.is_shared());
        filter.add_ports("7").unwrap();
        filter.add_ports("8000-8080").unwrap();
        assert!(filter.is_shared());
        assert_eq!(filter.ports, [7..=7, 8000..=8080]);
        for bad in ["", "192.0.2", "192.0.2.2/33", "192.0.2.2/0", "::1/129", "host"] {
            assert!(filter.add_address(bad).unwrap_err().contains("no IPv4 or IPv6 address"), "{bad}");
        }
        for bad in ["", "0", "65536", "9-8", "1-", "-1"] {
            assert!(filter.add_ports(bad).unwrap_err().contains("a port is 1 to 65535"), "{bad}");
        }
        assert!(filter.set_protocol("sctp").unwrap_err().contains("tcp, udp, icmp"));
        filter.set_protocol("icmp").unwrap();
        assert!(filter.check().unwrap_err().contains("has no ports"));
        for _ in 1..MAX_TERMS {
            filter.add_address("::1").unwrap();
        }
        assert!(filter.add_address("::1").unwrap_err().contains("at most 16 times"));
    }

    #[test]
    fn prefixes_keep_their_bits_alone() {
        let masked = |text| {
            let mut filter = Filter::default();
            filter.add_address(text).unwrap();
            filter.addresses[0].masked()
        };
        assert_eq!(masked("192.0.2.255/28"), (vec![192, 0, 2, 240], vec![255, 255, 255, 240]));
        assert_eq!(masked("10.9.8.7/8"), (vec![10, 0, 0, 0], vec![255, 0, 0, 0]));
        assert_eq!(masked("192.0.2.1"), (vec![192, 0, 2, 1], vec![255; 4]));
        let (address, mask) = masked("2001:db8::1/33");
        assert_eq!(address[..5], [0x20, 1, 0xd, 0xb8, 0]);
        assert_eq!((mask[3], mask[4], mask[5]), (0xff, 0x80, 0));
    }
}
