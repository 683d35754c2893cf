//! Causal attention with an online softmax (Milakov and Gimelshein, 2018) over the blocks of the cache.
//!
//! Invariant: a query row meets its blocks in order of position, and within a block sums have one order, so that its
//! result is the same alone and in a batch.

use super::across::Across;
use super::ahead::Ahead;
use super::blend::Blend;
use super::cache::{Half, KV_BLOCK, Shape, with_store};
use super::value::{Rows, Value};
#[cfg(target_arch = "x86_64")]
use super::wide::Wide;
use super::{KvLayer, Span};
use crate::pool::Pool;
use crate::shards::Shards;
use crate::simd::{Kernel, Simd, exp};

/// Query rows of a piece: they share each load of a block from memory.
const ROWS: usize = 32;

/// Pieces for every thread where there is so much work, so that all end at about the same time.
const PIECES: usize = 4;

/// Causal attention. q, out: `[tokens, heads, head_dim]`; query head `h` reads key head `h / (heads / kv_heads)`.
/// The token at position `p` sees positions `p + 1 - window ..= p` of its own span (a window of 0 counts as 1).
/// No allocation.
///
/// # Panics
/// If shapes disagree, spans overlap or are not in order of `first`, or a block is missing.
#[allow(clippy::too_many_arguments)]
pub fn attend(
    pool: &Pool,
    layer: &KvLayer,
    q: &[f32],
    heads: usize,
    spans: &[Span<'_>],
    scale: f32,
    window: Option<usize>,
    out: &mut [f32],
) {
    let shape = layer.shape;
    assert_eq!(q.len(), out.len());
    assert!(
        shape.kv_heads > 0 && heads.is_multiple_of(shape.kv_heads),
        "key heads divide query heads"
    );
    let rows = out
        .len()
        .checked_div(heads.saturating_mul(shape.head_dim))
        .unwrap_or(0);
    assert!(super::rows_of(spans) <= rows, "spans lie within q");
    let mut call = Call {
        shape,
        together: 1,
        q,
        heads,
        scale,
        window: window.unwrap_or(usize::MAX).max(1),
        out: Shards::new(out),
    };
    call.together = call.together(spans, pool.threads());
    with_store!(&layer.store, halves => attend_spans(pool, &call, halves, spans));
}

/// What all pieces share.
pub(super) struct Call<'a> {
    pub(super) shape: Shape,
    /// Key heads of a piece at most.
    together: usize,
    pub(super) q: &'a [f32],
    pub(super) heads: usize,
    pub(super) scale: f32,
    pub(super) window: usize,
    pub(super) out: Shards<'a, f32>,
}

impl Call<'_> {
    /// Query heads that share a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.shape.kv_heads
    }

    /// Key heads of a piece: a block's heads lie side by side, so that memory is read in long stretches, but there must be
    /// some pieces for every thread. A row's result is the same in every piece.
    fn together(&self, spans: &[Span<'_>], threads: usize) -> usize {
        let tokens: usize = spans.iter().map(|span| span.tokens).sum();
        let mut together = self.shape.kv_heads.max(1);
        while together > 1 && tokens * self.shape.kv_heads < PIECES * threads * together {
            together = together.div_ceil(2);
        }
        together
    }

    fn cut(&self, span: &Span<'_>) -> Cut {
        let group = self.group().max(1);
        let tokens = (ROWS / group).clamp(1, span.tokens.max(1));
        let together = (ROWS / (tokens * group)).clamp(1, self.together);
        Cut {
            tokens,
            together,
            stretches: self.shape.kv_heads.div_ceil(together),
            parts: group.div_ceil(ROWS),
        }
    }

    fn pieces(&self, span: &Span<'_>) -> usize {
        let cut = self.cut(span);
        if self.heads == 0 {
            0
        } else {
            span.tokens.div_ceil(cut.tokens) * cut.stretches * cut.parts
        }
    }
}

/// How a span is cut into pieces.
struct Cut {
    /// Tokens of a piece.
    tokens: usize,
    /// Key heads of a piece.
    together: usize,
    /// Pieces that share the key heads.
    stretches: usize,
    /// Pieces that share the query heads of a key head.
    parts: usize,
}

fn attend_spans<T: Value>(pool: &Pool, call: &Call<'_>, cache: &[Half<T>; 2], spans: &[Span<'_>]) {
    let prefill = spans.iter().filter(|span| span.prefill);
    let prefill: usize = prefill.map(|span| span.tokens).sum();
    let level = pool.level();
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = level.amx().filter(|_| T::WIDE)
        && let Some(wide) = Wide::new(amx, call, prefill, pool.threads())
    {
        return each_piece(
            pool,
            call,
            cache,
            spans,
            |span| wide.cut.pieces(call, span),
            |span, piece| wide.run(call, cache, span, piece),
        );
    }
    if let Some(across) = Across::new(call, prefill, pool.threads()) {
        return each_piece(
            pool,
            call,
            cache,
            spans,
            |span| across.0.pieces(call, span),
            |span, piece| across.run(level, call, cache, span, piece),
        );
    }
    let run = |span: &Span<'_>, piece| level.run(Piece::new(call, cache, span, piece));
    each_piece(pool, call, cache, spans, |span| call.pieces(span), run);
}

/// Runs the pieces of all spans, those of prompts as they are told.
fn each_piece<T: Value>(
    pool: &Pool,
    call: &Call<'_>,
    cache: &[Half<T>; 2],
    spans: &[Span<'_>],
    prompt_pieces: impl Fn(&Span<'_>) -> usize + Sync,
    run_prompt: impl Fn(&Span<'_>, usize) + Sync,
) {
    let pieces = |span: &Span<'_>| {
        if span.prefill {
            prompt_pieces(span)
        } else {
            call.pieces(span)
        }
    };
    pool.run(spans.iter().map(pieces).sum(), &|mut piece| {
        for span in spans {
            let pieces = pieces(span);
            if piece >= pieces {
                piece -= pieces;
            } else if span.prefill {
                return run_prompt(span, piece);
            } else {
                return pool.level().run(Piece::new(call, cache, span, piece));
            }
        }
    });
}

/// Up to `ROWS` query rows: `tokens` of a span, for each of some key heads `heads` of its group.
struct Piece<'a, T> {
    call: &'a Call<'a>,
    cache: &'a [Half<T>; 2],
    span: &'a Span<'a>,
    kv_heads: std::ops::Range<usize>,
    token: usize,
    tokens: usize,
    /// The first of its heads within a group.
    head: usize,
    heads: usize,
}

/// The online softmax of a row: the greatest score so far, and the sum of `exp(score - max)`.
#[derive(Clone, Copy)]
struct State {
    max: f32,
    sum: f32,
}

/// The scores of some rows with one block, then their weights.
type Scores<const R: usize> = [[f32; KV_BLOCK]; R];

impl<'a, T: Value> Piece<'a, T> {
    fn new(call: &'a Call<'a>, cache: &'a [Half<T>; 2], span: &'a Span<'a>, piece: usize) -> Piece<'a, T> {
        let cut = call.cut(span);
        let (stretch, part) = (piece / cut.parts % cut.stretches, piece % cut.parts);
        let token = piece / cut.parts / cut.stretches * cut.tokens;
        let (first, head) = (stretch * cut.together, part * ROWS);
        Piece {
            call,
            cache,
            span,
            kv_heads: first..call.shape.kv_heads.min(first + cut.together),
            token,
            tokens: cut.tokens.min(span.tokens - token),
            head,
            heads: ROWS.min(call.group() - head),
        }
    }

    /// Position in the sequence of a row.
    #[inline(always)]
    fn position(&self, row: usize) -> usize {
        self.span.start + self.token + row / self.heads
    }

    /// Where a row lies in q and out.
    #[inline(always)]
    fn at(&self, kv_head: usize, row: usize) -> usize {
        let token = self.span.first + self.token + row / self.heads;
        let head = kv_head * self.call.group() + self.head + row % self.heads;
        (token * self.call.heads + head) * self.call.shape.head_dim
    }

    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    fn out(&self, kv_head: usize, row: usize) -> &mut [f32] {
        // SAFETY: a piece's rows are its own, it runs on one thread, and takes one row at a time.
        unsafe {
            self.call
                .out
                .part(self.at(kv_head, row), self.call.shape.head_dim)
        }
    }

    /// The slots of the block at `start` that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize, start: usize) -> std::ops::Range<usize> {
        let end = self.position(row) + 1;
        let first = end.saturating_sub(self.call.window);
        first.saturating_sub(start).min(KV_BLOCK)..end.saturating_sub(start).min(KV_BLOCK)
    }

    /// The keys and the values of a block.
    #[inline(always)]
    fn rows(&self, kv_head: usize, index: usize) -> [Rows<'a, T>; 2] {
        let first = self.call.shape.row_of(self.span.blocks[index], kv_head);
        let [k, v] = self.cache;
        [
            k.rows(self.call.shape, first, KV_BLOCK),
            v.rows(self.call.shape, first, KV_BLOCK),
        ]
    }

    /// Takes rows `row..row + R` through one block, while `ahead` comes from memory.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn block<S: Simd, const R: usize>(
        &self,
        s: S,
        [kv_head, row]: [usize; 2],
        index: usize,
        ahead: &mut Ahead,
        states: &mut [State],
    ) {
        let dim = self.call.shape.head_dim;
        let [k, v] = self.rows(kv_head, index);
        let mut visible = [const { 0..0 }; R];
        for (r, visible) in visible.iter_mut().enumerate() {
            *visible = self.visible(row + r, index * KV_BLOCK);
        }
        // Rows are in order of position, so the last sees furthest.
        let end = visible[R - 1].end;
        if end == 0 || visible.iter().all(|visible| visible.is_empty()) {
            return;
        }
        let (mut q, mut at): ([&[f32]; R], _) = ([&[]; R], [0; R]);
        for r in 0..R {
            at[r] = self.at(kv_head, row + r);
            q[r] = &self.call.q[at[r]..][..dim];
        }
        // With thirty-two registers, two rows take eight keys or eight vectors of values at once.
        let many = S::LANES == 16 && R <= 2;
        let mut scores = if !dim.is_multiple_of(S::LANES) {
            scores::<S, T, R, 4, true>(s, q, k, end, ahead)
        } else if many {
            scores::<S, T, R, 8, false>(s, q, k, end, ahead)
        } else {
            scores::<S, T, R, 4, false>(s, q, k, end, ahead)
        };
        let mut shrink = [1.0; R];
        for r in 0..R {
            shrink[r] = states[row + r].take(s, &mut scores[r], visible[r].clone(), self.call.scale);
        }
        let blend = Blend {
            out: &self.call.out,
            at,
            v,
            end,
            weights: &scores,
            shrink,
        };
        let mut d = 0;
        while many && d + 8 * S::LANES <= dim {
            blend.columns::<S, 8>(s, d, ahead);
            d += 8 * S::LANES;
        }
        while d + 4 * S::LANES <= dim {
            blend.columns::<S, 4>(s, d, ahead);
            d += 4 * S::LANES;
        }
        while d + S::LANES <= dim {
            blend.columns::<S, 1>(s, d, ahead);
            d += S::LANES;
        }
        if d < dim {
            blend.rest(s, d);
        }
    }
}

impl State {
    const EMPTY: State = State {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Takes one block's scores in, turning them into weights (zero where the row does not see), and returns by how
    /// much earlier sums shrink.
    #[inline(always)]
    fn take<S: Simd>(
        &mut self,
        s: S,
        scores: &mut [f32; KV_BLOCK],
        visible: std::ops::Range<usize>,
        scale: f32,
    ) -> f32 {
        if visible.is_empty() {
            scores.fill(0.0);
            return 1.0;
        }
        let mut max = self.max;
        if visible == (0..KV_BLOCK) {
            let (scale, mut most) = (s.splat(scale), s.splat(max));
            for scores in scores.chunks_exact_mut(S::LANES) {
                let v = s.mul(s.load(scores), scale);
                s.store(scores, v);
                most = s.max(v, most);
            }
            max = s.highest(most);
        } else {
            for score in &mut scores[visible.clone()] {
                *score *= scale;
                max = max.max(*score);
            }
        }
        let offset = s.splat(-max);
        for scores in scores.chunks_exact_mut(S::LANES) {
            let v = s.add(s.load(scores), offset);
            s.store(scores, exp(s, v));
        }
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        let shrink = if max == self.max {
            1.0
        } else {
            (self.max - max).exp()
        };
        let mut sums = s.splat(0.0);
        for scores in scores.chunks_exact(S::LANES) {
            sums = s.add(sums, s.load(scores));
        }
        *self = State {
            max,
            sum: self.sum * shrink + s.sum(sums),
        };
        shrink
    }
}

/// Dot products of `R` query rows with the first `end` keys of a block, `K` keys at a time; `REST` where rows do not
/// consist of whole vectors.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn scores<S: Simd, T: Value, const R: usize, const K: usize, const REST: bool>(
    s: S,
    q: [&[f32]; R],
    k: Rows<'_, T>,
    end: usize,
    ahead: &mut Ahead,
) -> Scores<R> {
    let dim = q[0].len();
    let whole = dim - dim % S::LANES;
    assert!(
        end <= KV_BLOCK
            && k.values.len() == KV_BLOCK * dim
            && k.dim == dim
            && q.iter().all(|q| q.len() == dim)
            && (K == 4 || K == 8)
            && (REST || whole == dim)
    );
    let mut scores = [[0.0; KV_BLOCK]; R];
    // A block always has memory for all its slots, so `K` keys at a time need no tail.
    for j in (0..end).step_by(K) {
        let mut sums = [[s.splat(0.0); K]; R];
        let mut d = 0;
        while d < whole {
            ahead.ask(s);
            let mut queries = [s.splat(0.0); R];
            for r in 0..R {
                // SAFETY: `d + LANES <= dim`, the length of each q.
                queries[r] = unsafe { s.load_at(q[r].as_ptr().add(d)) };
            }
            for n in 0..K {
                // SAFETY: `d + LANES <= dim`; `k` has `KV_BLOCK` rows of `dim`, and `j + K <= KV_BLOCK`.
                let keys = unsafe { k.load_at(s, j + n, d) };
                for r in 0..R {
                    sums[r][n] = s.fma(queries[r], keys, sums[r][n]);
                }
            }
            d += S::LANES;
        }
        for r in 0..R {
            if REST {
                let q = s.load_some(&q[r][whole..]);
                for n in 0..K {
                    let keys = k.load_rest(s, j + n, whole);
                    sums[r][n] = s.fma(q, keys, sums[r][n]);
                }
            }
            let sums = &sums[r];
            if K == 8 {
                let eight = s.sum8([
                    sums[0],
                    sums[1],
                    sums[2],
                    sums[3],
                    sums[4 % K],
                    sums[5 % K],
                    sums[6 % K],
                    sums[7 % K],
                ]);
                scores[r][j..j + K].copy_from_slice(&eight[..K]);
            } else {
                scores[r][j..j + K].copy_from_slice(&s.sum4([sums[0], sums[1], sums[2], sums[3]]));
            }
        }
    }
    scores
}

impl<T: Value> Kernel for Piece<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.tokens * self.heads;
        for (kv_head, row) in self.each_row(rows) {
            self.out(kv_head, row).fill(0.0);
        }
        let mut states = [State::EMPTY; ROWS];
        let first = (self.position(0) + 1).saturating_sub(self.call.window) / KV_BLOCK;
        let last = self.position(rows - 1) / KV_BLOCK;
        // Blocks lie anywhere, so that the processor cannot guess what comes next.
        let mut ahead = Ahead::new(s, self.rows(self.kv_heads.start, first));
        ahead.ask_all(s);
        for index in first..=last {
            for (kv_head, states) in self.kv_heads.clone().zip(states.chunks_mut(rows)) {
                let next = if kv_head + 1 < self.kv_heads.end {
                    (kv_head + 1, index)
                } else {
                    (self.kv_heads.start, index + 1)
                };
                if next.1 <= last {
                    ahead = Ahead::new(s, self.rows(next.0, next.1));
                }
                self.head(s, kv_head, index, &mut ahead, states);
                ahead.ask_all(s);
            }
        }
        for ((kv_head, row), state) in self.each_row(rows).zip(&states) {
            let scale = 1.0 / state.sum;
            self.out(kv_head, row)
                .iter_mut()
                .for_each(|value| *value *= scale);
        }
    }
}

impl<T: Value> Piece<'_, T> {
    /// All rows, in the order of their states.
    fn each_row(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let heads = self.kv_heads.clone();
        heads.flat_map(move |kv_head| (0..rows).map(move |row| (kv_head, row)))
    }

    /// Takes all rows of a key head through one block.
    #[inline(always)]
    fn head<S: Simd>(&self, s: S, kv_head: usize, index: usize, ahead: &mut Ahead, states: &mut [State]) {
        let (mut row, rows) = (0, self.tokens * self.heads);
        // With eight lanes a processor has sixteen registers: two rows fill them.
        while S::LANES == 16 && row + 4 <= rows {
            self.block::<S, 4>(s, [kv_head, row], index, ahead, states);
            row += 4;
        }
        while row + 2 <= rows {
            self.block::<S, 2>(s, [kv_head, row], index, ahead, states);
            row += 2;
        }
        if row < rows {
            self.block::<S, 1>(s, [kv_head, row], index, ahead, states);
        }
    }
}
