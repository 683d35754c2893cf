//! Products of weight matrices with activations, several matrices in one pass over the pool and over the weights.
//!
//! Invariant: a token's outputs depend on its own row and on its role (see `Rows`), not on the other rows, their number,
//! or the number of threads.

mod int8;
mod outputs;
mod spread;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::ops::Range;

use crate::input::{Forms, Input};
use crate::matmul::{self, MatrixRef};
use crate::packed::PackedRef;
use crate::packed::layout::{Layout, PANEL, Scales};
use crate::pool::Pool;
use crate::quant::Format;
use crate::simd::Level;
use outputs::Outputs;
use spread::{Share, Spread};

/// Products that share one pass; more than these take several.
const PARTS: usize = 8;

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

    fn bytes(&self) -> &[u8] {
        match self {
            Weight::Plain(w) => w.bytes,
            Weight::Packed(w) => w.bytes,
        }
    }

    /// The form of an input that its products read.
    pub fn forms(&self) -> Forms {
        let none = Forms::default();
        match self {
            Weight::Plain(w) => {
                let halves = matches!(w.format, Format::F16 | Format::BF16);
                let plain = !halves;
                Forms {
                    plain,
                    halves,
                    ..none
                }
            }
            Weight::Packed(w) => {
                let by_256 = Layout::of(w.format).is_some_and(|layout| layout.scales == Scales::Super);
                let by_32 = !by_256;
                Forms {
                    by_32,
                    by_256,
                    ..none
                }
            }
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
            pieces += part.spread.pieces();
        }
        let level = pool.level();
        pool.run(pieces, &|piece| {
            let mut piece = piece;
            for part in parts.iter().flatten() {
                if piece < part.spread.pieces() {
                    return part.run(level, piece);
                }
                piece -= part.spread.pieces();
            }
        });
    }
}

/// A product on its way through the pool.
struct Part<'a> {
    first: First<'a>,
    /// The rows of prompts behind them.
    #[cfg(target_arch = "x86_64")]
    prompts: wide::Prompts<'a>,
    spread: Spread,
}

/// The rows that no bf16 tiles multiply: generated tokens, or all.
enum First<'a> {
    Plain(matmul::Part<'a>),
    Packed(Packed<'a>),
}

impl<'a> Part<'a> {
    fn new(pool: &Pool, input: &'a Input, product: &'a mut Product<'_>) -> Part<'a> {
        let (w, bias, add) = (product.w, product.bias, product.add);
        let (rows, cols) = w.shape();
        assert_eq!(cols, input.cols, "weights and input agree");
        let total = input.rows.total();
        assert_eq!(
            total.checked_mul(rows),
            Some(product.y.len()),
            "y is [rows, w.rows]"
        );
        assert!(bias.is_none_or(|bias| bias.len() == rows), "bias is [w.rows]");
        let first_rows = if w.forms().plain { total } else { input.first_rows };
        let prompts = total - first_rows;
        let (y, behind) = product.y.split_at_mut(first_rows * rows);
        let (first, piece_rows) = match w {
            Weight::Plain(w) => {
                let first = matmul::Part::new(input.plain(first_rows), w, bias, y, add);
                let alone = (prompts == 0).then(|| first.piece_rows());
                (First::Plain(first), alone)
            }
            Weight::Packed(w) => {
                let whole = PackedRef::new(w.format, w.rows, w.cols, w.bytes).is_some();
                assert!(whole, "bytes and shape of the weights agree");
                let out = Outputs::new(rows, bias, y, add);
                (First::Packed(Packed { w, input, out }), None)
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        debug_assert!(behind.is_empty());
        Part {
            first,
            #[cfg(target_arch = "x86_64")]
            prompts: wide::Prompts {
                w,
                input,
                out: Outputs::new(rows, bias, behind, add),
            },
            spread: Spread::new(pool, &w, input, prompts, piece_rows),
        }
    }

    fn run(&self, level: Level, piece: usize) {
        let Share { rows, first, blocks } = self.spread.share(piece);
        let panels = rows.start / PANEL..rows.end.div_ceil(PANEL);
        match &self.first {
            _ if !first => (),
            First::Plain(part) => part.run(level, rows),
            First::Packed(part) => part.run(level, panels.clone()),
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = level.amx() {
            self.prompts.run(amx, panels, blocks);
        }
        let _ = blocks;
    }
}

/// Packed weights with rows in int8.
struct Packed<'a> {
    w: PackedRef<'a>,
    input: &'a Input,
    out: Outputs<'a>,
}

impl Packed<'_> {
    /// Computes the outputs of some panels for all of the rows.
    fn run(&self, level: Level, panels: Range<usize>) {
        let rows = 0..self.input.first_rows;
        #[cfg(target_arch = "x86_64")]
        if let (Some(amx), Some(blocks)) = (level.amx(), self.input.blocks) {
            return tiles::panels(amx, self, panels, blocks);
        }
        int8::rows(level, self, panels, rows);
    }
}
