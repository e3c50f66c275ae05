//! `bywash http`: files, or one fixed answer, over HTTP/1.1 on the loop.
//!
//! | room | what is in it |
//! |---|---|
//! | [`request`] | a head's bytes to a [`request::Request`] |
//! | [`target`], [`site`], [`librarian`] | its target to a key, the key to a file in memory, the thread that reads files |
//! | [`range`], [`content_type`], [`head`], [`answer`] | what is answered |
//! | [`connection`] | one connection's life, without a stack |

pub mod answer;
pub mod connection;
pub mod content_type;
pub mod head;
pub mod librarian;
pub mod range;
pub mod request;
pub mod site;
pub mod target;
