//! Attention of prompts by vectors whose lanes are query rows.
//!
//! Invariant: a row's result depends on its own query and span alone, whichever rows share its vectors. No vector is ever
//! added up across its lanes.
//!
//! A block of keys and values is converted once for all rows of a piece; each of its numbers then meets two vectors of
//! rows. An f32 cache is there for exact results, and meets floats; others meet words of 16 bits.

mod floats;
mod words;

use std::cell::RefCell;

use super::Span;
use super::ahead::Ahead;
use super::attend::Call;
use super::cache::{Half, KV_BLOCK};
use super::cut::Cut;
use super::value::{Rows, Value};
use crate::simd::int8::{Int8, Int8Kernel};
use crate::simd::{Kernel, LANES_MAX, Level, Simd, exp};
use floats::Floats;
use words::Words;

/// Query rows of a piece at most.
const ROWS_MAX: usize = 128;

/// Largest head that the scratch is for.
const DIM_MAX: usize = 256;

/// Queries of a piece: as many rows as there is room for, so that they and their sums stay in the second cache.
const QUERY_VALUES: usize = ROWS_MAX * 128;

/// Vectors of rows that meet a key or a value at once.
const VECTORS: usize = 2;

/// Lanes of the narrowest vectors.
const LANES_MIN: usize = 8;

/// Less than any score, and still a number.
const LOWEST: f32 = -1e38;

/// A line of floats, so that no vector lies across two.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

/// Lines of a thread's scratch, whatever the model's shape: queries and sums, a block's keys and values, scores.
const LINES: usize = (2 * QUERY_VALUES + 2 * KV_BLOCK * DIM_MAX + KV_BLOCK * VECTORS * LANES_MAX) / 16;

/// Bytes of a thread's scratch.
pub(super) const SCRATCH_BYTES: usize = LINES * size_of::<Line>();

thread_local! {
    /// A thread's scratch, kept from its first piece on.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The path by vectors.
#[derive(Clone, Copy)]
pub(super) struct Across(pub(super) Cut);

impl Across {
    /// `None` where a model's shape is beyond the scratch.
    pub(super) fn new(call: &Call<'_>, tokens: usize, threads: usize) -> Option<Across> {
        let (group, dim) = (call.group(), call.shape.head_dim);
        let least = VECTORS * LANES_MAX;
        let rows = ROWS_MAX.min(QUERY_VALUES / dim.max(1) / least * least);
        if group == 0 || group > rows || dim == 0 || dim > DIM_MAX {
            return None;
        }
        Some(Across(Cut::new(call, tokens, threads, least.max(group), rows)))
    }

    pub(super) fn run<T: Value>(
        &self,
        level: Level,
        call: &Call<'_>,
        cache: &[Half<T>; 2],
        span: &Span<'_>,
        piece: usize,
    ) {
        let place = self.0.place(call, span, piece);
        SCRATCH.with_borrow_mut(|lines| {
            lines.resize(LINES, Line([0.0; 16]));
            let piece = Piece {
                call,
                cache,
                span,
                kv_head: place.kv_head,
                token: place.token,
                rows: place.tokens * call.group(),
                lines,
            };
            if T::WIDE {
                level.run_int8(InWords(piece));
            } else {
                level.run(piece);
            }
        });
    }
}

/// Rows of a span's tokens, all heads of a group, that read the same key head.
struct Piece<'a, T> {
    call: &'a Call<'a>,
    cache: &'a [Half<T>; 2],
    span: &'a Span<'a>,
    kv_head: usize,
    token: usize,
    rows: usize,
    lines: &'a mut [Line],
}

/// A piece whose scores and weighted values are sums of words.
struct InWords<'a, T>(Piece<'a, T>);

/// In what numbers scores and weighted values are computed. Buffers are of floats or of other numbers of 32 bits.
trait Means<S: Simd>: Copy {
    /// Vectors of a group's queries, at least `dim`.
    fn query_rows(dim: usize) -> usize;
    /// Turns queries, `[dim][lanes]`, into what `scores` reads, and returns each row's scale; `scale` is that of scores.
    fn queries(self, s: S, q: &mut [f32], dim: usize, scale: f32) -> [[f32; LANES_MAX]; VECTORS];
    /// The first rows of a block as `scores` reads them, and their scales.
    fn keys<T: Value>(self, s: S, rows: Rows<'_, T>, count: usize, to: &mut [f32]) -> [f32; KV_BLOCK];
    /// The first rows of a block as `blend` reads them, and their scales.
    fn values<T: Value>(self, s: S, rows: Rows<'_, T>, count: usize, to: &mut [f32]) -> [f32; KV_BLOCK];
    /// Dot products of two vectors of rows with the first `end` keys, `K` at a time. Those up to the next multiple of `K`
    /// hold anything.
    #[allow(clippy::too_many_arguments)]
    fn scores<const K: usize>(
        self,
        s: S,
        q: &[f32],
        q_scales: &[[f32; LANES_MAX]; VECTORS],
        keys: (&[f32], &[f32; KV_BLOCK]),
        dim: usize,
        end: usize,
        to: &mut [f32],
        ahead: &mut Ahead,
    );
    /// Turns the weights of the first `end` positions, whose values have these scales, into what `blend` reads. Returns
    /// the scales of rows.
    fn weights(self, s: S, weights: &mut [f32], end: usize, scales: &[f32; KV_BLOCK]) -> [S::F32; VECTORS];
    /// Adds weighted values, `D` columns from `d` on, to what rows have so far.
    fn blend<const D: usize>(
        self,
        s: S,
        weights: Weights<'_, S>,
        values: &[f32],
        dim: usize,
        d: usize,
        o: &mut [f32],
    );
}

/// What two vectors of rows make of the first `end` values of a block.
#[derive(Clone, Copy)]
struct Weights<'a, S: Simd> {
    of: &'a [f32],
    end: usize,
    scale: [S::F32; VECTORS],
    /// What earlier sums are multiplied with.
    shrink: [S::F32; VECTORS],
}

/// The online softmax of each row: the greatest score so far, and the sum of `exp(score - max)`.
struct States {
    max: [f32; ROWS_MAX],
    sum: [f32; ROWS_MAX],
}

/// The parts of the scratch, in floats.
struct Scratch<'a> {
    /// `[groups of rows][vectors of a group][lanes]`.
    q: &'a mut [f32],
    q_scales: [[[f32; LANES_MAX]; VECTORS]; ROWS_MAX / VECTORS / LANES_MIN],
    /// `[groups of rows][head_dim][lanes]`.
    o: &'a mut [f32],
    /// `[KV_BLOCK][head_dim]` or fewer numbers.
    k: &'a mut [f32],
    v: &'a mut [f32],
    k_scales: [f32; KV_BLOCK],
    v_scales: [f32; KV_BLOCK],
    /// `[KV_BLOCK][lanes]`.
    scores: &'a mut [f32],
}

impl<T: Value> Kernel for Piece<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.by(s, Floats);
    }
}

impl<T: Value> Int8Kernel for InWords<'_, T> {
    #[inline(always)]
    fn run<I: Int8>(self, t: I) {
        self.0.by(t.floats(), Words(t));
    }
}

impl<T: Value> Piece<'_, T> {
    #[inline(always)]
    fn by<S: Simd, M: Means<S>>(mut self, s: S, means: M) {
        let dim = self.call.shape.head_dim;
        let width = VECTORS * S::LANES;
        let groups = self.rows.div_ceil(width);
        let lines = std::mem::take(&mut self.lines);
        let (len, floats) = (lines.len() * 16, lines.as_mut_ptr().cast::<f32>());
        // SAFETY: a line is 16 floats, and the slice is borrowed for as long.
        let floats = unsafe { std::slice::from_raw_parts_mut(floats, len) };
        let (q, rest) = floats.split_at_mut(groups * width * M::query_rows(dim));
        let (o, rest) = rest.split_at_mut(groups * width * dim);
        let (k, rest) = rest.split_at_mut(KV_BLOCK * DIM_MAX);
        let (v, rest) = rest.split_at_mut(KV_BLOCK * DIM_MAX);
        let scores = &mut rest[..KV_BLOCK * width];
        let mut scratch = Scratch {
            q,
            q_scales: [[[0.0; LANES_MAX]; VECTORS]; ROWS_MAX / VECTORS / LANES_MIN],
            o,
            k,
            v,
            k_scales: [0.0; KV_BLOCK],
            v_scales: [0.0; KV_BLOCK],
            scores,
        };
        let mut states = States {
            max: [f32::NEG_INFINITY; ROWS_MAX],
            sum: [0.0; ROWS_MAX],
        };
        scratch.o.fill(0.0);
        let queries = scratch.q.chunks_exact_mut(width * M::query_rows(dim));
        for (group, (q, scales)) in queries.zip(&mut scratch.q_scales).enumerate() {
            self.load_queries(s, group * width, q);
            *scales = means.queries(s, q, dim, self.call.scale);
        }
        let first = self.visible(0).start / KV_BLOCK;
        let end = self.visible(self.rows - 1).end;
        // Blocks lie anywhere, so that the processor cannot guess what comes next.
        let mut ahead = Ahead::new(s, self.block(first));
        for index in first..end.div_ceil(KV_BLOCK) {
            ahead.ask_all(s);
            let [keys, values] = self.block(index);
            let start = index * KV_BLOCK;
            let count = (end - start).min(KV_BLOCK);
            scratch.k_scales = means.keys(s, keys, count, scratch.k);
            scratch.v_scales = means.values(s, values, count, scratch.v);
            if start + KV_BLOCK < end {
                ahead = Ahead::new(s, self.block(index + 1));
            }
            for group in 0..groups {
                self.meet(s, means, group, start, &mut scratch, &mut states, &mut ahead);
            }
        }
        self.store(s, scratch.o, &states);
    }

    /// Where a row lies in q and out.
    #[inline(always)]
    fn at(&self, row: usize) -> usize {
        let group = self.call.group();
        let token = self.span.first + self.token + row / group;
        (token * self.call.heads + self.kv_head * group + row % group) * self.call.shape.head_dim
    }

    /// The positions that a row sees; rows beyond the last are as the last.
    #[inline(always)]
    fn visible(&self, row: usize) -> std::ops::Range<usize> {
        let token = row.min(self.rows - 1) / self.call.group();
        let end = self.span.start + self.token + token + 1;
        end.saturating_sub(self.call.window)..end
    }

    /// The keys and the values of a block.
    #[inline(always)]
    fn block(&self, index: usize) -> [Rows<'_, T>; 2] {
        let first = self.call.shape.row_of(self.span.blocks[index], self.kv_head);
        let [k, v] = self.cache;
        [
            k.rows(self.call.shape, first, KV_BLOCK),
            v.rows(self.call.shape, first, KV_BLOCK),
        ]
    }

    /// Turns the queries of a group, so that lanes are rows. Lanes without a row are zero.
    #[inline(always)]
    fn load_queries<S: Simd>(&self, s: S, first: usize, to: &mut [f32]) {
        let (dim, width) = (self.call.shape.head_dim, VECTORS * S::LANES);
        let whole = dim - dim % S::LANES;
        for lane in (0..width).step_by(S::LANES) {
            let to = &mut to[lane..];
            let mut q: [&[f32]; LANES_MAX] = [&[]; LANES_MAX];
            for (row, q) in (first + lane..self.rows).zip(&mut q[..S::LANES]) {
                *q = &self.call.q[self.at(row)..][..dim];
            }
            for d in (0..whole).step_by(S::LANES) {
                let mut square = [s.splat(0.0); LANES_MAX];
                for (square, q) in square.iter_mut().zip(q).filter(|(_, q)| !q.is_empty()) {
                    *square = s.load(&q[d..]);
                }
                s.transpose(&mut square);
                for (column, v) in square.into_iter().take(S::LANES).enumerate() {
                    s.store(&mut to[(d + column) * width..], v);
                }
            }
            for d in whole..dim {
                for (to, q) in to[d * width..].iter_mut().zip(&q[..S::LANES]) {
                    *to = q.get(d).copied().unwrap_or(0.0);
                }
            }
        }
    }

    /// Takes a group of rows through the block at `start`.
    // Indices name registers here: the loops over vectors unroll.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, clippy::too_many_arguments)]
    fn meet<S: Simd, M: Means<S>>(
        &self,
        s: S,
        means: M,
        group: usize,
        start: usize,
        scratch: &mut Scratch<'_>,
        states: &mut States,
        ahead: &mut Ahead,
    ) {
        let (dim, width) = (self.call.shape.head_dim, VECTORS * S::LANES);
        let rows = group * width..(group + 1) * width;
        // Rows are in order of position.
        let (first, last) = (self.visible(rows.start), self.visible(rows.end - 1));
        if last.end <= start || first.start >= start + KV_BLOCK {
            return;
        }
        let end = (last.end - start).min(KV_BLOCK);
        let all = first.end >= start + end && last.start <= start;
        let q = width * M::query_rows(dim);
        let (q, scales) = (&scratch.q[group * q..][..q], &scratch.q_scales[group]);
        let keys = (&*scratch.k, &scratch.k_scales);
        // With sixteen registers, four keys fill them.
        if S::LANES == LANES_MAX {
            means.scores::<8>(s, q, scales, keys, dim, end, scratch.scores, ahead);
        } else {
            means.scores::<4>(s, q, scales, keys, dim, end, scratch.scores, ahead);
        }
        if !all {
            self.hide(rows.clone(), start, end, f32::NEG_INFINITY, scratch.scores);
        }
        let mut shrink = [s.splat(0.0); VECTORS];
        let mut offset = [s.splat(0.0); VECTORS];
        for n in 0..VECTORS {
            let lane = n * S::LANES;
            let max = &mut states.max[rows.start + lane..][..S::LANES];
            let before = s.load(max);
            let mut most = before;
            for scores in scratch.scores.chunks_exact(width).take(end) {
                most = s.max(s.load(&scores[lane..]), most);
            }
            s.store(max, most);
            // A row that has seen nothing yet has no greatest score.
            offset[n] = s.max(most, s.splat(LOWEST));
            shrink[n] = exp(s, s.sub(before, offset[n]));
            for scores in scratch.scores.chunks_exact_mut(width).take(end) {
                let v = s.sub(s.load(&scores[lane..]), offset[n]);
                s.store(&mut scores[lane..], exp(s, v));
            }
        }
        if !all {
            self.hide(rows.clone(), start, end, 0.0, scratch.scores);
        }
        for n in 0..VECTORS {
            let lane = n * S::LANES;
            let sum = &mut states.sum[rows.start + lane..][..S::LANES];
            let mut total = s.mul(s.load(sum), shrink[n]);
            for scores in scratch.scores.chunks_exact(width).take(end) {
                total = s.add(total, s.load(&scores[lane..]));
            }
            s.store(sum, total);
        }
        let scale = means.weights(s, scratch.scores, end, &scratch.v_scales);
        let weights = Weights {
            of: scratch.scores,
            end,
            scale,
            shrink,
        };
        let (o, v) = (&mut scratch.o[group * width * dim..][..width * dim], &*scratch.v);
        let mut d = 0;
        while S::LANES == LANES_MAX && d + 8 <= dim {
            means.blend::<8>(s, weights, v, dim, d, o);
            d += 8;
        }
        while d + 4 <= dim {
            means.blend::<4>(s, weights, v, dim, d, o);
            d += 4;
        }
        while d < dim {
            means.blend::<1>(s, weights, v, dim, d, o);
            d += 1;
        }
    }

    /// Sets the scores of positions that a row does not see.
    #[inline(always)]
    fn hide(&self, rows: std::ops::Range<usize>, start: usize, end: usize, hidden: f32, scores: &mut [f32]) {
        let width = rows.len();
        for (lane, row) in rows.enumerate() {
            let visible = self.visible(row);
            let first = visible.start.saturating_sub(start).min(end);
            let last = visible.end.saturating_sub(start).min(end);
            for at in (0..first).chain(last.max(first)..end) {
                scores[at * width + lane] = hidden;
            }
        }
    }

    /// Divides the sums, and turns them into rows.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, o: &[f32], states: &States) {
        let (dim, width) = (self.call.shape.head_dim, VECTORS * S::LANES);
        let whole = dim - dim % S::LANES;
        for (vector, first) in (0..self.rows).step_by(S::LANES).enumerate() {
            let o = &o[vector / VECTORS * width * dim + vector % VECTORS * S::LANES..];
            let sum = &states.sum[first..][..S::LANES];
            let inverse = s.div(s.splat(1.0), s.load(sum));
            let rows = first..self.rows.min(first + S::LANES);
            // SAFETY: a piece's rows are its own, it runs on one thread, and takes one part of a row at a time.
            let out = |row: usize, d: usize, len: usize| unsafe { self.call.out.part(self.at(row) + d, len) };
            for d in (0..whole).step_by(S::LANES) {
                let mut square = [inverse; LANES_MAX];
                for (column, v) in square.iter_mut().take(S::LANES).enumerate() {
                    *v = s.mul(s.load(&o[(d + column) * width..]), inverse);
                }
                s.transpose(&mut square);
                for (row, v) in rows.clone().zip(square) {
                    s.store(out(row, d, S::LANES), v);
                }
            }
            for d in whole..dim {
                for (lane, row) in rows.clone().enumerate() {
                    out(row, d, 1)[0] = o[d * width + lane] / sum[lane];
                }
            }
        }
    }
}
