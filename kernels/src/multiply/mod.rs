//! Products of weight matrices with activations, several matrices in one pass over the pool and over the weights.
//!
//! Invariant: a token's outputs depend on its own row and on its role (see `Rows`), not on the other rows, their number,
//! or the number of threads.

mod int8;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod wide;

use crate::input::{Forms, Input, TILE_ROWS};
use crate::matmul::{self, MatrixRef};
use crate::packed::PackedRef;
use crate::packed::layout::{Layout, Scales};
use crate::pool::Pool;
use crate::shards::Shards;
use crate::simd::Level;

/// Products that share one pass; more than these take several.
const PARTS: usize = 8;

/// Weights of one piece, about: long enough that the counter and the start of its streams cost little.
const PIECE_BYTES: usize = 128 << 10;

/// A weight matrix.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// As it lies in the file.
    Plain(MatrixRef<'a>),
    /// Packed.
    Packed(PackedRef<'a>),
}

impl Weight<'_> {
    /// Outputs and inputs.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Weight::Plain(w) => (w.rows, w.cols),
            Weight::Packed(w) => (w.rows, w.cols),
        }
    }

    /// The form of an input that its products read.
    pub fn forms(&self) -> Forms {
        let scales = match self {
            Weight::Plain(_) => None,
            Weight::Packed(w) => Layout::of(w.format).map(|layout| layout.scales),
        };
        Forms {
            plain: scales.is_none(),
            by_32: matches!(scales, Some(Scales::Half | Scales::Exponent)),
            by_256: scales == Some(Scales::Super),
        }
    }
}

/// One product of `multiply`.
pub struct Product<'a> {
    /// The weights.
    pub w: Weight<'a>,
    /// Added to every row's outputs: `[w.rows]`.
    pub bias: Option<&'a [f32]>,
    /// The result: `[rows.total(), w.rows]`.
    pub y: &'a mut [f32],
    /// Whether the result is added to `y`, as a residual, or replaces it.
    pub add: bool,
}

/// `y[t, o] (+)= sum_i w[o, i] * x[t, i] (+ bias[o])` for all products, with the rows that `input` holds. No allocation.
///
/// # Panics
/// If shapes disagree, or `input` was not given the form that a product's weights need.
pub fn multiply(pool: &Pool, input: &Input, products: &mut [Product<'_>]) {
    for products in products.chunks_mut(PARTS) {
        let mut parts = [const { None }; PARTS];
        let mut pieces = 0;
        for (part, product) in parts.iter_mut().zip(products) {
            let part = part.insert(Part::new(pool, input, product));
            pieces += part.pieces();
        }
        let level = pool.level();
        pool.run(pieces, &|piece| {
            let mut piece = piece;
            for part in parts.iter().flatten() {
                if piece < part.pieces() {
                    return part.run(level, piece);
                }
                piece -= part.pieces();
            }
        });
    }
}

enum Part<'a> {
    Plain(matmul::Part<'a>),
    Packed(Packed<'a>),
}

impl<'a> Part<'a> {
    fn new(pool: &Pool, input: &'a Input, product: &'a mut Product<'_>) -> Part<'a> {
        let (rows, cols) = product.w.shape();
        assert_eq!(cols, input.cols, "weights and input agree");
        assert_eq!(
            input.rows.total().checked_mul(rows),
            Some(product.y.len()),
            "y is [rows, w.rows]"
        );
        assert!(
            product.bias.is_none_or(|bias| bias.len() == rows),
            "bias is [w.rows]"
        );
        match product.w {
            Weight::Plain(w) => Part::Plain(matmul::Part::new(
                input.plain(),
                w,
                product.bias,
                product.y,
                product.add,
            )),
            Weight::Packed(w) => Part::Packed(Packed::new(pool, input, w, product)),
        }
    }

    fn pieces(&self) -> usize {
        match self {
            Part::Plain(part) => part.pieces(),
            Part::Packed(part) => part.pieces(),
        }
    }

    fn run(&self, level: Level, piece: usize) {
        match self {
            Part::Plain(part) => part.run(level, piece),
            Part::Packed(part) => part.run(level, piece),
        }
    }
}

/// A product of packed weights on its way through the pool.
struct Packed<'a> {
    w: PackedRef<'a>,
    input: &'a Input,
    bias: Option<&'a [f32]>,
    y: Shards<'a, f32>,
    add: bool,
    piece_panels: usize,
    bands: Bands,
}

/// How the rows of prompts are spread over pieces: `count` times `blocks` blocks of 16, `all` together.
#[derive(Clone, Copy)]
struct Bands {
    count: usize,
    blocks: usize,
    all: usize,
}

impl Bands {
    fn new(input: &Input) -> Bands {
        let rows = input.rows.total() - input.int8_rows;
        let all = rows.div_ceil(TILE_ROWS);
        #[cfg(target_arch = "x86_64")]
        let blocks = wide::band_blocks(rows, input.cols).max(1);
        #[cfg(not(target_arch = "x86_64"))]
        let blocks = all.max(1);
        Bands {
            count: all.div_ceil(blocks).max(1),
            blocks,
            all,
        }
    }
}

impl<'a> Packed<'a> {
    fn new(pool: &Pool, input: &'a Input, w: PackedRef<'a>, product: &'a mut Product<'_>) -> Packed<'a> {
        let whole = PackedRef::new(w.format, w.rows, w.cols, w.bytes).is_some();
        assert!(whole, "bytes and shape of the weights agree");
        // The same number of pieces for each thread, and each walks several streams.
        let share = w.bytes.len() / pool.threads() / PIECE_BYTES;
        let piece_panels = w
            .panels()
            .div_ceil(pool.threads() * share.max(1))
            .next_multiple_of(int8::STREAMS)
            .max(int8::STREAMS);
        Packed {
            w,
            input,
            bias: product.bias,
            y: Shards::new(product.y),
            add: product.add,
            piece_panels,
            bands: Bands::new(input),
        }
    }

    fn pieces(&self) -> usize {
        if self.input.rows.total() == 0 {
            0
        } else {
            self.w.panels().div_ceil(self.piece_panels) * self.bands.count
        }
    }

    /// Computes the outputs of the piece's panels for all rows.
    fn run(&self, level: Level, piece: usize) {
        // A band's activations stay in the caches from piece to piece.
        let in_band = self.w.panels().div_ceil(self.piece_panels);
        let (band, piece) = (piece / in_band, piece % in_band);
        let first = piece * self.piece_panels;
        let panels = first..self.w.panels().min(first + self.piece_panels);
        // Rows `..int8_rows` are in int8: generated tokens, or all where there are no tiles.
        let rows = 0..if band == 0 { self.input.int8_rows } else { 0 };
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = level.amx() {
            let part = self;
            let Bands { blocks, all, .. } = self.bands;
            let blocks = all.min(band * blocks)..all.min((band + 1) * blocks);
            match self.input.blocks.filter(|_| !rows.is_empty()) {
                Some(blocks) => tiles::panels(amx, self, panels.clone(), blocks),
                None => int8::rows(level, self, panels.clone(), rows),
            }
            return wide::Rows { part, panels, blocks }.run(amx);
        }
        int8::rows(level, self, panels, rows);
    }

    /// Puts the outputs of one row for the rows of weights from `first` in their place.
    fn store(&self, row: usize, first: usize, values: &[f32]) {
        // SAFETY: these columns of `y` belong to this piece alone, and the piece runs on one thread.
        let y = unsafe { self.y.part(row * self.w.rows + first, values.len()) };
        match (self.bias, self.add) {
            (None, false) => y.copy_from_slice(values),
            (None, true) => y.iter_mut().zip(values).for_each(|(y, v)| *y += v),
            (Some(bias), add) => {
                for ((y, v), bias) in y.iter_mut().zip(values).zip(&bias[first..]) {
                    let sum = v + bias;
                    *y = if add { *y + sum } else { sum };
                }
            }
        }
    }
}
