//! The forward step against float32 transformers. Invariant: every model that the project can compute is compared at
//! every position, alone and among others, whole and in chunks.
//!
//! The fixtures, and the scripts that make them, are in tests/golden at the root of the project.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Tests throughout.

mod archs;
mod books;
mod f16;
mod packed;
mod run;
mod tiny;
