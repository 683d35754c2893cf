//! Products of weight matrices, as they lie in the file, with activations in f32.
//!
//! Invariant: an output's value depends on its weights' row and its token alone, not on the other tokens of the batch
//! nor on the number of threads.

mod rows;
mod tile;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use crate::quant::decode::Decoder;
use crate::quant::{Format, with_decoder};
use crate::shards::Shards;
use crate::simd::{Kernel, Level, Simd};
use tile::Tile;

/// Columns that are summed up before the sum joins a row's total: a multiple of every block's length, and few enough
/// that the tile and some activations stay in the second-level cache.
const CHUNK: usize = 1024;

/// Weights of one piece for one token, about: long enough to make the counter cheap, short enough to share out evenly.
const PIECE_BYTES: usize = 32 << 10;

thread_local! {
    static TILE: RefCell<Tile> = const { RefCell::new(Tile::EMPTY) };
}

/// A weight matrix `[rows, cols]` in file layout. Any alignment.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    /// How the values are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Row after row of blocks, `rows * format.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// A matrix over `bytes`; `None` if the length is not exactly that of the shape.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<MatrixRef<'a>> {
        let len = format.row_bytes(cols)?.checked_mul(rows)?;
        (len == bytes.len()).then_some(MatrixRef {
            format,
            rows,
            cols,
            bytes,
        })
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        let row_bytes = self.bytes.len() / self.rows;
        &self.bytes[i * row_bytes..(i + 1) * row_bytes]
    }
}

/// One product on its way through the pool.
pub(crate) struct Part<'a> {
    w: MatrixRef<'a>,
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    y: Shards<'a, f32>,
    /// Whether outputs are added to what `y` holds.
    add: bool,
    tokens: usize,
    row_bytes: usize,
}

impl<'a> Part<'a> {
    pub(crate) fn new(
        x: &'a [f32],
        w: MatrixRef<'a>,
        bias: Option<&'a [f32]>,
        y: &'a mut [f32],
        add: bool,
    ) -> Part<'a> {
        let whole = MatrixRef::new(w.format, w.rows, w.cols, w.bytes).is_some();
        assert!(whole, "bytes and shape of the weights agree");
        let row_bytes = w.bytes.len() / w.rows.max(1);
        let tokens = x.len().checked_div(w.cols).unwrap_or(0);
        assert_eq!(tokens * w.cols, x.len(), "x is [tokens, cols]");
        assert_eq!(tokens.checked_mul(w.rows), Some(y.len()), "y is [tokens, rows]");
        assert!(bias.is_none_or(|bias| bias.len() == w.rows), "bias is [rows]");
        Part {
            w,
            bias,
            x,
            y: Shards::new(y),
            add,
            tokens,
            row_bytes,
        }
    }

    #[inline(always)]
    fn row(&self, i: usize) -> &'a [u8] {
        &self.w.bytes[i * self.row_bytes..(i + 1) * self.row_bytes]
    }

    /// Rows of weights that make a piece.
    pub(crate) fn piece_rows(&self) -> usize {
        if self.tokens == 1 {
            (PIECE_BYTES / self.row_bytes.max(1)).next_multiple_of(4).max(4)
        } else {
            tile::ROWS
        }
    }

    /// Computes the outputs of some rows of weights for all tokens.
    pub(crate) fn run(&self, level: Level, of: Range<usize>) {
        match self.tokens {
            0 => return,
            1 => {
                let (first, rows) = (of.start, of.len());
                with_decoder!(self.w.format, D => {
                    level.run(OneToken::<D> { part: self, first, rows, decoder: PhantomData });
                });
            }
            _ => TILE.with_borrow_mut(|tile| {
                for first in of.clone().step_by(tile::ROWS) {
                    let rows = tile::ROWS.min(of.end - first);
                    with_decoder!(self.w.format, D => {
                        level.run(ManyTokens::<D> { part: self, first, rows, tile, decoder: PhantomData });
                    });
                }
            }),
        }
        self.add_bias(of.start, of.len());
    }

    fn add_bias(&self, first: usize, rows: usize) {
        let Some(bias) = self.bias else { return };
        for token in 0..self.tokens {
            // SAFETY: these rows of `y` belong to this piece alone, and the piece runs on one thread.
            let y = unsafe { self.y.part(token * self.w.rows + first, rows) };
            y.iter_mut()
                .zip(&bias[first..first + rows])
                .for_each(|(y, bias)| *y += bias);
        }
    }
}

struct OneToken<'a, D> {
    part: &'a Part<'a>,
    first: usize,
    rows: usize,
    decoder: PhantomData<D>,
}

impl<D: Decoder> Kernel for OneToken<'_, D> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x = self.part.x;
        // SAFETY: these rows of `y` belong to this piece alone.
        let y = unsafe { self.part.y.part(self.first, self.rows) };
        let mut fours = y.chunks_exact_mut(4);
        let mut row = self.first;
        for y in &mut fours {
            let mut start = [0.0; 4];
            if self.part.add {
                start.copy_from_slice(y);
            }
            let mut four: [&[u8]; 4] = [&[]; 4];
            for (r, bytes) in four.iter_mut().enumerate() {
                *bytes = self.part.row(row + r);
            }
            y.copy_from_slice(&rows::dot::<S, D, 4>(s, four, x, start));
            row += 4;
        }
        for y in fours.into_remainder() {
            let start = if self.part.add { *y } else { 0.0 };
            *y = rows::dot::<S, D, 1>(s, [self.part.row(row)], x, [start, 0.0, 0.0, 0.0])[0];
            row += 1;
        }
    }
}

struct ManyTokens<'a, D> {
    part: &'a Part<'a>,
    first: usize,
    rows: usize,
    tile: &'a mut Tile,
    decoder: PhantomData<D>,
}

impl<D: Decoder> Kernel for ManyTokens<'_, D> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        tile::multiply::<S, D>(s, self.part, self.first, self.rows, self.tile);
    }
}
