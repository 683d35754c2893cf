//! Scalar definitions of every kernel: short, slow and meant to be read.
//!
//! Invariant: nothing here shares code with the fast paths, so that agreement means something. Sums are in f64, so a
//! fast path's distance from them is its own rounding.

mod attention;
mod dense;
mod quant;

pub use attention::{Sequence, attend};
pub use dense::{log_softmax_at, matmul, rms_norm, rope, silu_mul};
pub use quant::decode_row;
