//! What a port does not do with frames, done here: segments made of one frame, and one frame of segments.

pub(crate) mod headers;
