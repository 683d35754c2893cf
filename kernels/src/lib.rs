//! Arithmetic on slices: weight formats, matrix products, attention, norms, and the threads that run them.
//!
//! Invariant: nothing here knows files, models or requests, and every function gives the same numbers whatever the
//! number of threads. `reference` defines what is right; the fast paths are held against it by property tests.
//!
//! Functions assert the shapes of their arguments: a wrong shape is a mistake of the caller, never of an input file.

mod act;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod heap;
mod input;
mod isa;
mod matmul;
mod multiply;
mod norm;
mod packed;
mod pool;
mod quant;
pub mod reference;
mod rope;
mod shards;
mod simd;

pub use act::{log_softmax_at, log_sum_exp, silu_mul};
pub use attention::{
    HeadNorms, KV_BLOCK, KvFormat, KvLayer, Rotation, Span, attend, attend_scratch_bytes, place_heads,
};
pub use heap::{give_back_freed, return_large_buffers};
pub use input::{Forms, Input, Rows};
pub use isa::Isa;
pub use matmul::MatrixRef;
pub use multiply::{Product, Weight, multiply};
pub use norm::{rms_norm, rms_norm_in_place};
pub use packed::{PACKED_LAYOUT, PackedRef, pack, packed_bytes, unpack_row};
pub use pool::Pool;
pub use quant::{Format, decode_row, decode_row_with};
pub use rope::RopeLayout;
