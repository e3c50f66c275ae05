//! Where frames leave.

/// A place for frames to be written to, straight into the device's memory.
pub(crate) trait FrameOut {
    /// How many more frames there is surely room for; `usize::MAX` where the device does not say.
    fn room(&mut self) -> usize;

    /// Has `fill` write a frame of `len` bytes, once. `false` if there is no room; then `fill` is not called.
    /// `fill` gets `len` bytes of any content and writes all of them.
    fn frame(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool;
}
