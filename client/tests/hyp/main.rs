//! Drives the real `hyp` against a small stand-in for the daemon. Invariant: each test has its own folder, socket and home, and
//! neither reads nor changes anything of the user's.
// What is allowed in tests is not in the functions that they share, as clippy sees it.
#![allow(clippy::unwrap_used)]

mod ask;
mod bench;
mod chat;
mod failures;
mod fake;
mod start;
mod tables;
mod terminal;
