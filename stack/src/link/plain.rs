//! The frames that most frames are: TCP in one IP packet without options, to this station from another.

use super::Link;
use crate::checksum::is_ipv4_right;

const ETHERNET: usize = 14;
const TCP: u8 = 6;

impl Link {
    /// The IP packet of such a frame without padding, and its header's length: header and sum checked, addresses not.
    /// For segments of a connection that exists, whose addresses were checked when it was made; where there is none,
    /// or this says `None`, [`Link::receive`] looks closer. Nothing is counted.
    #[inline]
    pub(crate) fn plain_tcp<'f>(&self, frame: &'f [u8]) -> Option<(&'f [u8], usize)> {
        let (ethernet, payload) = frame.split_first_chunk::<ETHERNET>()?;
        let mac = self.mac.as_bytes();
        let group_source = ethernet[6] & 1 != 0;
        if self.vlan.is_some() || ethernet[..6] != *mac || group_source || ethernet[6..12] == *mac {
            return None;
        }
        match ethernet[12..] {
            [0x08, 0x00] => {
                let header = payload.first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                if header[0] != 0x45 || header[9] != TCP || fragment || !is_ipv4_right(header) {
                    return None;
                }
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                Some((payload.get(..total).filter(|packet| packet.len() >= 20)?, 20))
            }
            [0x86, 0xdd] => {
                let header = payload.first_chunk::<40>()?;
                if header[0] >> 4 != 6 || header[6] != TCP {
                    return None;
                }
                let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                Some((payload.get(..40 + len)?, 40))
            }
            _ => None,
        }
    }
}
