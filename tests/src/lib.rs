//! What whole-system tests are made of: the real daemon, the real client, the raw wire. Invariant: everything that waits
//! has a deadline, and everything that was started ends with its test.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Nothing but tests is built from this crate.

pub mod bus;
pub mod daemon;
pub mod fixtures;
pub mod program;
pub mod wait;
pub mod wire;

pub use bus::{Bus, Caller};
pub use daemon::Daemon;
pub use program::{Ended, Running, hyp};
