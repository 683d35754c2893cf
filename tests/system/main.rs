//! Drives the real daemon over its real socket with the real client. Invariant: a test needs nothing that is not in the
//! project, or says that it was skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Tests throughout.

mod answers;
mod autostart;
mod capi;
mod catalog;
mod crowd;
mod dbus;
mod examples;
mod files;
mod foreign;
mod hostile;
mod lifecycle;
mod packed;
mod processor;
mod refusals;
mod soak;
mod starter;
mod tcp;
mod wire_scores;
