//! Rotary position embedding.
//!
//! Invariant: values beyond `rope_dims` of a head stay as they are.

use crate::pool::Pool;
use crate::reference;

/// Which two values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// `(i, i + rope_dims / 2)`, as GPT-NeoX and Hugging Face have it.
    Half,
    /// `(2i, 2i + 1)`, as the paper and GGUF's llama have it.
    Interleaved,
}

/// Turns the first `rope_dims` of each head. x: `[tokens, heads, head_dim]`; cos, sin: `[tokens, rope_dims / 2]`,
/// already scaled.
///
/// # Panics
/// If shapes disagree.
#[allow(clippy::too_many_arguments)]
pub fn rope(
    _pool: &Pool,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    rope_dims: usize,
    layout: RopeLayout,
) {
    reference::rope(x, heads, head_dim, cos, sin, rope_dims, layout);
}
