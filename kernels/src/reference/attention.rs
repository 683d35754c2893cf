//! Causal attention over one whole sequence in memory, with no pages and no online softmax.
//!
//! Invariant: scores are kept in full and normalised once, in f64.

/// One sequence: every position's keys and values, `[positions, kv_heads, head_dim]`.
#[derive(Clone, Copy)]
pub struct Sequence<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Heads that keys and values have.
    pub kv_heads: usize,
    /// Values of one head.
    pub head_dim: usize,
}

/// Attention of the tokens at `start..` of one sequence. q, out: `[tokens, heads, head_dim]`.
pub fn attend(
    sequence: Sequence<'_>,
    q: &[f32],
    heads: usize,
    start: usize,
    scale: f32,
    window: Option<usize>,
    out: &mut [f32],
) {
    let Sequence {
        k,
        v,
        kv_heads,
        head_dim,
    } = sequence;
    let group = heads / kv_heads;
    for (row, (q, out)) in q
        .chunks_exact(head_dim)
        .zip(out.chunks_exact_mut(head_dim))
        .enumerate()
    {
        let (position, kv_head) = (start + row / heads, row % heads / group);
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let at = |p: usize| (p * kv_heads + kv_head) * head_dim;
        let scores: Vec<f64> = (first..=position)
            .map(|p| {
                let dot: f64 = q
                    .iter()
                    .zip(&k[at(p)..])
                    .map(|(&q, &k)| f64::from(q) * f64::from(k))
                    .sum();
                dot * f64::from(scale)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        for (d, out) in out.iter_mut().enumerate() {
            let sum: f64 = scores
                .iter()
                .zip(first..)
                .map(|(s, p)| (s - max).exp() / total * f64::from(v[at(p) + d]))
                .sum();
            *out = sum as f32;
        }
    }
}
