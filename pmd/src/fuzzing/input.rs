//! The fuzzer's bytes, taken one after the other; zeros once they are used up.

/// What is left of them.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Up to 31 bytes; how many is their first.
    pub fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.u8() & 31).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    /// Some of these bits.
    pub fn some_of(&mut self, bits: &[u64]) -> u64 {
        let chosen = self.u16();
        bits.iter().zip(0..16).filter(|(_, bit)| chosen >> bit & 1 == 1).map(|(mask, _)| mask).sum()
    }
}
