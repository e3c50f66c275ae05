//! Names of what a stack holds: small, `Copy`, and dead for good once their thing is gone.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub(crate) index: u32,
            pub(crate) generation: u32,
        }

        impl $name {
            /// Its place, dense from 0: services may keep a `Vec` by it. A later one may have the same.
            pub fn index(self) -> usize {
                self.index as usize
            }

            /// All of it in one number.
            pub fn to_bits(self) -> u64 {
                u64::from(self.generation) << 32 | u64::from(self.index)
            }

            /// Back from [`to_bits`](Self::to_bits). A made-up number names nothing, or something else: it does no
            /// other harm.
            pub fn from_bits(bits: u64) -> Self {
                $name { index: (bits & 0xffff_ffff) as u32, generation: (bits >> 32) as u32 }
            }
        }
    };
}

id! {
    /// A TCP connection.
    ConnId
}
id! {
    /// A TCP listener.
    ListenerId
}
id! {
    /// A UDP socket.
    UdpId
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip() {
        let id = ConnId { index: 0x8000_0001, generation: 0xffff_fffe };
        assert_eq!(ConnId::from_bits(id.to_bits()), id);
    }
}
