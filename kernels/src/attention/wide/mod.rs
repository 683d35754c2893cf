//! Attention of prompt tokens by tiles of bf16 (AMX), with an online softmax over chunks of positions.
//!
//! Invariant: chunks begin at multiples of `CHUNK`, and a query's sums run over them in order, each over its positions
//! in order; positions that it does not see add exact zeros. So a token's result depends neither on how the prompt was
//! cut nor on its neighbours.
//!
//! Queries and keys are split into two bf16 each, of whose products the smallest is left out, so that a score is
//! within some 2^-16 of its terms' sum; weights and values are one bf16 each, which errs no more than the rounding of
//! the result that the next product's bf16 path makes anyway.

mod convert;
mod softmax;

use std::arch::x86_64::*;
use std::cell::RefCell;

use self::convert::{STEP, TILE};
use self::softmax::{Sight, State};
use super::Span;
use super::attend::Call;
use super::cache::{Half, KV_BLOCK};
use super::cut::Cut;
use super::value::Value;
use crate::amx::{Amx, Area, Shapes, Target, Tiles, multiply_block};

/// Positions between two looks at the greatest score.
const CHUNK: usize = 4 * KV_BLOCK;

/// Query rows of a piece at most: they share the conversion of keys and values. And where prompts are short.
const ROWS_MAX: usize = 512;
const ROWS_MIN: usize = 64;

/// Lines for queries and sums of a piece: half a mebibyte of a core's second cache, in which they are met again for
/// every chunk.
const ROW_LINES: usize = 8192;

/// Largest head that the scratch is for.
const DIM_MAX: usize = 256;

/// A row of a tile.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u32; 16]);

/// Its bytes.
const LINE: usize = size_of::<Line>();

/// Lines of a thread's scratch, whatever the model's shape.
const LINES: usize = ROW_LINES + CHUNK * (3 * (DIM_MAX / STEP) + 3);

/// Bytes of a thread's scratch.
pub(super) const SCRATCH_BYTES: usize = LINES * LINE;

thread_local! {
    /// A thread's scratch, kept from its first piece on.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The path by tiles.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    amx: Amx,
    pub(super) cut: Cut,
}

impl Wide {
    /// `None` where a model's shape is beyond the scratch.
    pub(super) fn new(amx: Amx, call: &Call<'_>, tokens: usize, threads: usize) -> Option<Wide> {
        let (group, steps) = (call.group(), call.shape.head_dim.div_ceil(STEP));
        // A row has lines of both parts of the query and of its sums.
        let rows_max = ROWS_MAX.min(ROW_LINES / (4 * steps.max(1)) / TILE * TILE);
        if group == 0 || group > rows_max || call.shape.head_dim > DIM_MAX || call.scale <= 0.0 {
            return None;
        }
        let cut = Cut::new(call, tokens, threads, ROWS_MIN, rows_max);
        Some(Wide { amx, cut })
    }

    pub(super) fn run<T: Value>(&self, call: &Call<'_>, cache: &[Half<T>; 2], span: &Span<'_>, piece: usize) {
        let place = self.cut.place(call, span, piece);
        let piece = Piece {
            call,
            cache,
            span,
            kv_head: place.kv_head,
            token: place.token,
            tokens: place.tokens,
            steps: call.shape.head_dim.div_ceil(STEP),
        };
        SCRATCH.with_borrow_mut(|lines| {
            debug_assert!(piece.sizes().iter().sum::<usize>() <= LINES);
            lines.resize(LINES, Line([0; 16]));
            // SAFETY: the token proves the instructions.
            unsafe { piece.run(self.amx, lines) }
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
    tokens: usize,
    steps: usize,
}

/// The parts of a thread's scratch.
struct Scratch<'a> {
    /// `[row tiles][high, low][steps]` tiles.
    q: &'a mut [Line],
    /// `[CHUNK / TILE][high, low][steps]` tiles.
    k: &'a mut [Line],
    /// `[2 * steps][CHUNK / STEP]` tiles.
    v: &'a mut [Line],
    /// Scores, `[2 row tiles][CHUNK]` lines.
    s: &'a mut [Line],
    /// Weights, `[2 row tiles][CHUNK / STEP]` tiles.
    p: &'a mut [Line],
    /// Sums so far, `[row tiles][2 * steps]` tiles.
    o: &'a mut [Line],
}

impl<T: Value> Piece<'_, T> {
    fn row_tiles(&self) -> usize {
        (self.tokens * self.call.group()).div_ceil(TILE)
    }

    fn sizes(&self) -> [usize; 6] {
        let (tiles, steps) = (self.row_tiles(), self.steps);
        [
            tiles * 2 * steps * TILE,
            CHUNK * 2 * steps,
            CHUNK * steps,
            CHUNK * 2,
            CHUNK,
            tiles * 2 * steps * TILE,
        ]
    }

    /// Position of a row's token; rows beyond the last are as the last.
    fn position(&self, row: usize) -> usize {
        self.span.start + self.token + (row / self.call.group()).min(self.tokens - 1)
    }

    /// Where a row lies in q and out.
    fn at(&self, row: usize) -> usize {
        let group = self.call.group();
        let token = self.span.first + self.token + row / group;
        (token * self.call.heads + self.kv_head * group + row % group) * self.call.shape.head_dim
    }

    /// The first position that a row sees.
    fn first(&self, row: usize) -> usize {
        (self.position(row) + 1).saturating_sub(self.call.window)
    }

    /// # Safety
    /// The processor has the instructions, which `amx` proves.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn run(&self, amx: Amx, mut rest: &mut [Line]) {
        let mut parts: [&mut [Line]; 6] = Default::default();
        for (part, len) in parts.iter_mut().zip(self.sizes()) {
            (*part, rest) = rest.split_at_mut(len);
        }
        let [q, k, v, s, p, o] = parts;
        let mut scratch = Scratch { q, k, v, s, p, o };
        let mut states = [State::EMPTY; ROWS_MAX / TILE];
        scratch.o.fill(Line([0; 16]));
        self.load_queries(amx, &mut scratch);
        let tiles = Tiles::new(amx, &Shapes::FULL);
        let row_tiles = self.row_tiles();
        let end = self.position(usize::MAX) + 1;
        for start in (self.first(0) / CHUNK * CHUNK..end).step_by(CHUNK) {
            self.load_chunk(amx, start, end, &mut scratch);
            for tile in (0..row_tiles).step_by(2) {
                if tile + 1 < row_tiles {
                    self.meet::<2>(&tiles, tile, start, &mut scratch, &mut states[tile..]);
                } else {
                    self.meet::<1>(&tiles, tile, start, &mut scratch, &mut states[tile..]);
                }
            }
        }
        drop(tiles);
        self.store(&scratch, &states);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn load_queries(&self, amx: Amx, scratch: &mut Scratch<'_>) {
        let (rows, dim) = (self.tokens * self.call.group(), self.call.shape.head_dim);
        for (tile, to) in scratch.q.chunks_exact_mut(2 * self.steps * TILE).enumerate() {
            let mut q = [None; TILE];
            for (lane, q) in q.iter_mut().enumerate() {
                let row = tile * TILE + lane;
                *q = (row < rows).then(|| &self.call.q[self.at(row)..][..dim]);
            }
            let (high, low) = to.split_at_mut(self.steps * TILE);
            let tiles = high.chunks_exact_mut(TILE).zip(low.chunks_exact_mut(TILE));
            for (step, (high, low)) in tiles.enumerate() {
                convert::queries(amx.avx512(), q, step, high, low);
            }
        }
    }

    /// Converts keys and values of the positions from `start` on, up to `end`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
    fn load_chunk(&self, amx: Amx, start: usize, end: usize, scratch: &mut Scratch<'_>) {
        let shape = self.call.shape;
        let end = end.min(start + CHUNK);
        for (index, position) in (start..end).step_by(KV_BLOCK).enumerate() {
            let row = shape.row_of(self.span.blocks[position / KV_BLOCK], self.kv_head);
            let count = (end - position).min(KV_BLOCK);
            let [keys, values] = self.cache;
            let k = &mut scratch.k[index * KV_BLOCK * 2 * self.steps..];
            convert::keys(
                amx.avx512(),
                keys.rows(shape, row, KV_BLOCK),
                count,
                self.steps,
                k,
            );
            let v = &mut scratch.v[index * TILE..];
            let (tiles, stride) = (2 * self.steps, CHUNK / STEP * TILE);
            convert::turn_values(
                amx.avx512(),
                values.rows(shape, row, KV_BLOCK),
                count,
                tiles,
                stride,
                v,
            );
        }
    }

    /// What a tile's rows see of `count` positions from `start` on; `None` where they see all.
    #[inline]
    fn sight(&self, tile: usize, start: usize, count: usize) -> Option<Sight> {
        // Rows are in order of position.
        let (first, last) = (tile * TILE, tile * TILE + TILE - 1);
        if self.position(first) + 1 >= start + count && self.first(last) <= start {
            return None;
        }
        let mut sight = Sight {
            first: [0; TILE],
            last: [0; TILE],
        };
        for lane in 0..TILE {
            let row = first + lane;
            // Within a chunk, these are small.
            sight.first[lane] = self.first(row).saturating_sub(start).min(CHUNK) as i32;
            sight.last[lane] = (self.position(row) + 1).saturating_sub(start).min(CHUNK) as i32 - 1;
        }
        Some(sight)
    }

    /// Takes `N` tiles of rows through the chunk at `start`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    fn meet<const N: usize>(
        &self,
        tiles: &Tiles,
        tile: usize,
        start: usize,
        scratch: &mut Scratch<'_>,
        states: &mut [State],
    ) {
        let (first_row, last_row) = (tile * TILE, (tile + N) * TILE - 1);
        let last = self.position(last_row);
        if last < start || self.first(first_row) >= start + CHUNK {
            return;
        }
        let blocks = (last + 1 - start).min(CHUNK).div_ceil(KV_BLOCK);
        self.scores::<N>(tiles, tile, blocks, scratch);
        let width = 2 * self.steps * TILE;
        for (n, state) in states[..N].iter_mut().enumerate() {
            let sight = self.sight(tile + n, start, blocks * KV_BLOCK);
            let weights = &mut scratch.p[n * CHUNK / 2..][..blocks * TILE];
            let exponent = self.call.scale * std::f32::consts::LOG2_E;
            let shrink = state.take(&mut scratch.s[n * CHUNK..], sight.as_ref(), exponent, weights);
            if let Some(shrink) = shrink {
                for line in &mut scratch.o[(tile + n) * width..(tile + n + 1) * width] {
                    let sum = _mm512_castsi512_ps(convert::read(line));
                    convert::write(line, _mm512_castps_si512(_mm512_mul_ps(sum, shrink)));
                }
            }
        }
        self.blend::<N>(tiles, tile, blocks, scratch);
    }

    /// Scores of `blocks` blocks of the chunk.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn scores<const N: usize>(&self, tiles: &Tiles, tile: usize, blocks: usize, scratch: &mut Scratch<'_>) {
        let width = 2 * self.steps * TILE;
        let positions = blocks * KV_BLOCK / TILE;
        let q = Area {
            at: scratch.q[tile * width..][..N * width].as_ptr().cast(),
            stride: LINE,
            step: TILE * LINE,
            low: self.steps * TILE * LINE,
            beside: width * LINE,
        };
        let k = Area {
            at: scratch.k[..positions * width].as_ptr().cast(),
            ..q
        };
        let s = scratch.s[..(N - 1) * CHUNK + positions * TILE].as_mut_ptr();
        for position in 0..positions {
            let target = Target {
                at: s.wrapping_add(position * TILE).cast(),
                stride: LINE,
                beside: CHUNK * LINE,
            };
            // SAFETY: k has so many tiles of positions and q has `N` of rows, each of `2 * steps` tiles; s has a line for
            // each of `CHUNK` positions for each tile of rows.
            unsafe { multiply_block::<N, 2, 2>(tiles, k.beside(position), q, target, self.steps, false) };
        }
    }

    /// Adds the weighted values of `blocks` blocks of the chunk to the sums.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn blend<const N: usize>(&self, tiles: &Tiles, tile: usize, blocks: usize, scratch: &mut Scratch<'_>) {
        let width = 2 * self.steps * TILE;
        let o = &mut scratch.o[tile * width..(tile + N) * width];
        let o = o.as_mut_ptr();
        let v = Area {
            at: scratch.v.as_ptr().cast(),
            stride: LINE,
            step: TILE * LINE,
            low: 0,
            beside: CHUNK / STEP * TILE * LINE,
        };
        let p = Area {
            at: scratch.p.as_ptr().cast(),
            ..v
        };
        for part in 0..2 * self.steps {
            let target = Target {
                at: o.wrapping_add(part * TILE).cast(),
                stride: LINE,
                beside: width * LINE,
            };
            // SAFETY: v has `2 * steps` tiles of `CHUNK / STEP >= blocks` steps, p has two such, and `N` tiles of rows
            // have `2 * steps` tiles of sums each.
            unsafe { multiply_block::<N, 1, 1>(tiles, v.beside(part), p, target, blocks, true) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn store(&self, scratch: &Scratch<'_>, states: &[State]) {
        let (rows, dim) = (self.tokens * self.call.group(), self.call.shape.head_dim);
        let sums = scratch.o.chunks_exact(2 * self.steps * TILE).zip(states);
        for (tile, (sums, state)) in sums.enumerate() {
            let inverse = state.inverse();
            for (part, sums) in sums.chunks_exact(TILE).enumerate() {
                let d = part * TILE;
                if d >= dim {
                    break;
                }
                for (lane, v) in convert::rows_of(sums, inverse).into_iter().enumerate() {
                    let row = tile * TILE + lane;
                    if row < rows {
                        let width = TILE.min(dim - d);
                        // SAFETY: a piece's rows are its own, and it takes one at a time.
                        let out = unsafe { self.call.out.part(self.at(row) + d, width) };
                        let mask = ((1u32 << width) - 1) as __mmask16;
                        // SAFETY: the mask keeps it within the slice.
                        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, v) };
                    }
                }
            }
        }
    }
}
