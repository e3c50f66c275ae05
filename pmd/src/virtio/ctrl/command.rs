//! The commands, and their bytes. virtio 1.2 §5.1.6.5.1 to §5.1.6.5.6.

use thiserror::Error;

use crate::virtio::rss::{HashConfig, RssConfig};
use crate::virtio::spec::{feature, net::control as spec};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The longest command in bytes, class and acknowledgement not counted: MAC tables of a few hundred addresses.
pub(crate) const MAX_BYTES: usize = 4096;

/// The most addresses of one kind in a MAC table; what hypervisors keep.
pub(crate) const MAX_ADDRESSES: usize = 256;

/// What can be asked of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Switches a mode of receiving on or off.
    Receive(ReceiveMode, bool),
    /// The addresses whose packets are received beside our own.
    MacTable {
        /// Addresses of stations.
        unicast: Vec<Mac>,
        /// Addresses of groups.
        multicast: Vec<Mac>,
    },
    /// Our own address.
    MacAddress(Mac),
    /// Receives packets of this VLAN too.
    VlanAdd(u16),
    /// Receives them no longer.
    VlanRemove(u16),
    /// The announcement that the device asked for has been sent.
    Announced,
    /// So many queue pairs are in use; the device finds out which flows belong where.
    QueuePairs(u16),
    /// Queue pairs are in use, and packets are dealt to them as said.
    Rss(RssConfig),
    /// Packets come with a hash computed as said.
    Hash(HashConfig),
}

/// Modes of receiving. virtio 1.2 §5.1.6.5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReceiveMode {
    /// Every packet, whoever it is for.
    Promiscuous = 0,
    /// Every multicast packet.
    AllMulticast = 1,
    /// Every unicast packet.
    AllUnicast = 2,
    /// No multicast packet.
    NoMulticast = 3,
    /// No unicast packet.
    NoUnicast = 4,
    /// No broadcast packet.
    NoBroadcast = 5,
}

impl ReceiveMode {
    const ALL: [Self; 6] = [
        Self::Promiscuous,
        Self::AllMulticast,
        Self::AllUnicast,
        Self::NoMulticast,
        Self::NoUnicast,
        Self::NoBroadcast,
    ];
}

/// Bytes that are no command, or a command that has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No such command.
    #[error("control command {command} of class {class} is not known")]
    Unknown {
        /// Its class.
        class: u8,
        /// Its number.
        command: u8,
    },
    /// Too few bytes, or too many.
    #[error("control command {command} of class {class} with {bytes} bytes, which is not its length")]
    Length {
        /// Its class.
        class: u8,
        /// Its number.
        command: u8,
        /// Bytes behind the two.
        bytes: usize,
    },
    /// A value that the command cannot have.
    #[error("{what} of {value} in a control command; up to {max} are possible")]
    Value {
        /// Of what.
        what: &'static str,
        /// The value.
        value: usize,
        /// The most.
        max: usize,
    },
}

impl Command {
    /// In words, to follow "the device refused to".
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Receive(ReceiveMode::Promiscuous, _) => "set promiscuous mode",
            Self::Receive(..) => "set a mode of receiving",
            Self::MacTable { .. } => "set its table of MAC addresses",
            Self::MacAddress(_) => "change its MAC address",
            Self::VlanAdd(_) => "let a VLAN in",
            Self::VlanRemove(_) => "shut a VLAN out",
            Self::Announced => "take note of the announcement",
            Self::QueuePairs(_) => "set its number of queue pairs",
            Self::Rss(_) => "deal packets by their hash (RSS)",
            Self::Hash(_) => "report hashes",
        }
    }

    /// The feature bits without which a device does not know the command. virtio 1.2 §5.1.3.
    #[must_use]
    pub fn needs(&self) -> u64 {
        feature::CTRL_VQ
            | match self {
                Self::Receive(ReceiveMode::Promiscuous | ReceiveMode::AllMulticast, _)
                | Self::MacTable { .. } => feature::CTRL_RX,
                Self::Receive(..) => feature::CTRL_RX_EXTRA,
                Self::MacAddress(_) => feature::CTRL_MAC_ADDR,
                Self::VlanAdd(_) | Self::VlanRemove(_) => feature::CTRL_VLAN,
                Self::Announced => feature::GUEST_ANNOUNCE,
                Self::QueuePairs(_) => feature::MQ,
                Self::Rss(_) => feature::RSS,
                Self::Hash(_) => feature::HASH_REPORT,
            }
    }

    /// Class, command and what follows, without the acknowledgement.
    ///
    /// # Errors
    /// [`CommandError::Value`] for more addresses, keys or table entries than fit.
    pub fn encode(&self) -> Result<Vec<u8>, CommandError> {
        let mut bytes = Vec::new();
        match self {
            Self::Receive(mode, on) => bytes.extend([spec::RX, *mode as u8, u8::from(*on)]),
            Self::MacTable { unicast, multicast } => {
                bytes.extend([spec::MAC, spec::MAC_TABLE_SET]);
                for addresses in [unicast, multicast] {
                    let count = limited("addresses", addresses.len(), MAX_ADDRESSES)?;
                    bytes.extend(u32::from(count).to_le_bytes());
                    bytes.extend(addresses.as_flattened());
                }
            }
            Self::MacAddress(mac) => {
                bytes.extend([spec::MAC, spec::MAC_ADDR_SET]);
                bytes.extend(mac);
            }
            Self::VlanAdd(vlan) => {
                bytes.extend([spec::VLAN, spec::VLAN_ADD]);
                bytes.extend(vlan.to_le_bytes());
            }
            Self::VlanRemove(vlan) => {
                bytes.extend([spec::VLAN, spec::VLAN_DEL]);
                bytes.extend(vlan.to_le_bytes());
            }
            Self::Announced => bytes.extend([spec::ANNOUNCE, spec::ANNOUNCE_ACK]),
            Self::QueuePairs(pairs) => {
                bytes.extend([spec::MQ, spec::MQ_VQ_PAIRS_SET]);
                bytes.extend(pairs.to_le_bytes());
            }
            Self::Rss(RssConfig { hash_types, table, unclassified_queue, transmit_queues, key }) => {
                bytes.extend([spec::MQ, spec::MQ_RSS_CONFIG]);
                let mask = limited("table entries", table.len(), MAX_BYTES / 4)?;
                let mask = mask.checked_sub(1).ok_or(too_many("table entries", 0, MAX_BYTES / 4))?;
                bytes.extend(hash_types.to_le_bytes());
                bytes.extend(mask.to_le_bytes());
                bytes.extend(unclassified_queue.to_le_bytes());
                table.iter().for_each(|queue| bytes.extend(queue.to_le_bytes()));
                bytes.extend(transmit_queues.to_le_bytes());
                encode_key(key, &mut bytes)?;
            }
            Self::Hash(HashConfig { hash_types, key }) => {
                bytes.extend([spec::MQ, spec::MQ_HASH_CONFIG]);
                bytes.extend(hash_types.to_le_bytes());
                bytes.extend([0; 8]);
                encode_key(key, &mut bytes)?;
            }
        }
        Ok(bytes)
    }

    /// What a driver has sent, the acknowledgement not included. Takes nothing for granted; bytes behind a command that
    /// is complete are an error too.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        let &[class, command, ref rest @ ..] = bytes else {
            return Err(CommandError::Length { class: 0, command: 0, bytes: 0 });
        };
        let length = CommandError::Length { class, command, bytes: rest.len() };
        let mut reader = Reader(rest);
        let decoded = match (class, command) {
            (spec::RX, _) => {
                let mode = ReceiveMode::ALL.get(usize::from(command));
                let mode = *mode.ok_or(CommandError::Unknown { class, command })?;
                reader.u8().map(|on| Self::Receive(mode, on != 0))
            }
            (spec::MAC, spec::MAC_TABLE_SET) => {
                let unicast = reader.addresses()?;
                let multicast = if unicast.is_some() { reader.addresses()? } else { None };
                unicast.zip(multicast).map(|(unicast, multicast)| Self::MacTable { unicast, multicast })
            }
            (spec::MAC, spec::MAC_ADDR_SET) => reader.array().map(Self::MacAddress),
            (spec::VLAN, spec::VLAN_ADD) => reader.u16().map(Self::VlanAdd),
            (spec::VLAN, spec::VLAN_DEL) => reader.u16().map(Self::VlanRemove),
            (spec::ANNOUNCE, spec::ANNOUNCE_ACK) => Some(Self::Announced),
            (spec::MQ, spec::MQ_VQ_PAIRS_SET) => reader.u16().map(Self::QueuePairs),
            (spec::MQ, spec::MQ_RSS_CONFIG) => reader.rss().map(Self::Rss),
            (spec::MQ, spec::MQ_HASH_CONFIG) => reader.hash().map(Self::Hash),
            _ => return Err(CommandError::Unknown { class, command }),
        };
        if let Self::VlanAdd(vlan) | Self::VlanRemove(vlan) = decoded.as_ref().unwrap_or(&Self::Announced)
            && *vlan > spec::MAX_VLAN
        {
            return Err(too_many("VLAN", (*vlan).into(), spec::MAX_VLAN.into()));
        }
        decoded.filter(|_| reader.0.is_empty()).ok_or(length)
    }
}

fn too_many(what: &'static str, value: usize, max: usize) -> CommandError {
    CommandError::Value { what, value, max }
}

fn limited(what: &'static str, count: usize, max: usize) -> Result<u16, CommandError> {
    u16::try_from(count).ok().filter(|_| count <= max).ok_or(too_many(what, count, max))
}

fn encode_key(key: &[u8], bytes: &mut Vec<u8>) -> Result<(), CommandError> {
    let len = u8::try_from(key.len()).map_err(|_| too_many("key bytes", key.len(), u8::MAX.into()))?;
    bytes.push(len);
    bytes.extend(key);
    Ok(())
}

/// Takes fields off the front; `None` when there are not enough bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// One table of addresses. More than a device keeps are an error of their own: it could not do as told.
    fn addresses(&mut self) -> Result<Option<Vec<Mac>>, CommandError> {
        let Some(count) = self.u32() else { return Ok(None) };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > MAX_ADDRESSES {
            return Err(too_many("addresses", count, MAX_ADDRESSES));
        }
        Ok(self.take(6 * count).map(|bytes| bytes.as_chunks().0.to_vec()))
    }

    fn key(&mut self) -> Option<Vec<u8>> {
        let len = self.u8()?;
        Some(self.take(len.into())?.to_vec())
    }

    fn rss(&mut self) -> Option<RssConfig> {
        let (hash_types, mask, unclassified_queue) = (self.u32()?, self.u16()?, self.u16()?);
        let table = self.take(2 * (usize::from(mask) + 1))?;
        let table = table.as_chunks().0.iter().map(|queue| u16::from_le_bytes(*queue)).collect();
        let transmit_queues = self.u16()?;
        Some(RssConfig { hash_types, table, unclassified_queue, transmit_queues, key: self.key()? })
    }

    fn hash(&mut self) -> Option<HashConfig> {
        let hash_types = self.u32()?;
        self.take(8)?;
        Some(HashConfig { hash_types, key: self.key()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn macs() -> impl Strategy<Value = Vec<Mac>> {
        prop::collection::vec(any::<Mac>(), 0..8)
    }

    fn commands() -> impl Strategy<Value = Command> {
        let key = || prop::collection::vec(any::<u8>(), 0..=40);
        prop_oneof![
            ((0..6_usize), any::<bool>()).prop_map(|(mode, on)| Command::Receive(ReceiveMode::ALL[mode], on)),
            (macs(), macs()).prop_map(|(unicast, multicast)| Command::MacTable { unicast, multicast }),
            any::<Mac>().prop_map(Command::MacAddress),
            (0..=4095_u16).prop_map(Command::VlanAdd),
            (0..=4095_u16).prop_map(Command::VlanRemove),
            Just(Command::Announced),
            any::<u16>().prop_map(Command::QueuePairs),
            (any::<u32>(), prop::collection::vec(any::<u16>(), 1..=128), any::<[u16; 2]>(), key()).prop_map(
                |(hash_types, table, [unclassified_queue, transmit_queues], key)| {
                    Command::Rss(RssConfig { hash_types, table, unclassified_queue, transmit_queues, key })
                }
            ),
            (any::<u32>(), key()).prop_map(|(hash_types, key)| Command::Hash(HashConfig { hash_types, key })),
        ]
    }

    proptest! {
        #[test]
        fn a_command_comes_back_as_it_was_and_no_part_of_one_is_one(command in commands(), more in any::<u8>()) {
            let mut bytes = command.encode().unwrap();
            prop_assert!(bytes.len() <= MAX_BYTES);
            for len in 0..bytes.len() {
                prop_assert!(Command::decode(&bytes[..len]).is_err(), "{len} bytes of {bytes:?}");
            }
            prop_assert_eq!(Command::decode(&bytes).unwrap(), command);
            bytes.push(more);
            prop_assert!(Command::decode(&bytes).is_err(), "a byte too many");
        }

        #[test]
        fn bytes_of_any_kind_are_a_command_or_an_error(
            class in 0..8_u8, command in 0..8_u8, rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = [&[class, command], &rest[..]].concat();
            if let Ok(decoded) = Command::decode(&bytes) {
                prop_assert_eq!(Command::decode(&decoded.encode().unwrap()).unwrap(), decoded);
            }
        }
    }

    #[test]
    fn layouts_are_those_of_the_specification() {
        let rss = Command::Rss(RssConfig {
            hash_types: 0x3f,
            table: vec![0, 1],
            unclassified_queue: 2,
            transmit_queues: 3,
            key: vec![0xaa, 0xbb],
        });
        let expected = [4, 1, 0x3f, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 3, 0, 2, 0xaa, 0xbb];
        assert_eq!(rss.encode().unwrap(), expected);
        let table = Command::MacTable { unicast: vec![[2, 0, 0, 0, 0, 1]], multicast: vec![] };
        assert_eq!(table.encode().unwrap(), [1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        let hash = Command::Hash(HashConfig { hash_types: 1, key: vec![7] });
        assert_eq!(hash.encode().unwrap(), [4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7]);
        assert_eq!(Command::Receive(ReceiveMode::AllMulticast, true).encode().unwrap(), [0, 1, 1]);
        assert_eq!(Command::QueuePairs(2).encode().unwrap(), [4, 0, 2, 0]);
        assert_eq!(Command::Announced.encode().unwrap(), [3, 0]);
    }

    #[test]
    fn what_no_device_keeps_is_refused_with_the_number() {
        let bytes = [&[1, 0][..], &257_u32.to_le_bytes(), &[0; 6 * 257], &[0; 4]].concat();
        let error = Command::decode(&bytes).unwrap_err();
        assert_eq!(error, CommandError::Value { what: "addresses", value: 257, max: 256 });
        let huge = [&[1, 0][..], &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(Command::decode(&huge), Err(CommandError::Value { .. })));
        assert!(matches!(Command::decode(&[2, 0, 0, 0x10]), Err(CommandError::Value { value: 4096, .. })));
        let many = Command::MacTable { unicast: vec![[0; 6]; 257], multicast: vec![] };
        assert!(many.encode().is_err());
    }
}
