//! Finding the daemon and calling its routes: what `hyp` and the C library have in common. Invariant: it prints nothing and
//! keeps no state between calls.
#![forbid(unsafe_code)]

pub mod connect;
pub mod control;
pub mod http;
pub mod paths;
pub mod refusal;
pub mod start;
pub mod start_log;
pub mod stream;
mod transport;
