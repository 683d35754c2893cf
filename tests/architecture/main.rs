//! Checks what ARCHITECTURE.md promises. Invariant: a rule there that a program can check is checked here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Tests throughout.

mod crates;
mod sources;
