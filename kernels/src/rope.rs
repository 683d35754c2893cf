//! Rotary position embedding.
//!
//! Invariant: values of a head beyond its pairs stay as they are.

/// Which two values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// `(i, i + rope_dims / 2)`, as GPT-NeoX and Hugging Face have it.
    Half,
    /// `(2i, 2i + 1)`, as the paper and GGUF's llama have it.
    Interleaved,
}

/// Turns the pairs of one head that have angles.
#[inline(always)]
pub(crate) fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    match layout {
        RopeLayout::Half => turn_halves(&mut head[..2 * cos.len()], cos, sin),
        RopeLayout::Interleaved => turn_pairs(&mut head[..2 * cos.len()], cos, sin),
    }
}

// Plain loops: inside a kernel the compiler makes vectors of them.

#[inline(always)]
fn turn_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for ((a, b), (c, s)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

#[inline(always)]
fn turn_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = head.as_chunks_mut::<2>();
    for ([a, b], (c, s)) in pairs.iter_mut().zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}
