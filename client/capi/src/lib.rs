//! libhyprstream: asks hyprstreamd from C. Invariant: whatever a caller passes, every function returns, with a code; no panic
//! and no signal leaves it, and there is no state but a client's own.
#![deny(unsafe_code)]

mod arguments;
mod client;
mod code;
mod exports;
mod failure;
