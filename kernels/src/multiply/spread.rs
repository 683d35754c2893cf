//! How a product is cut into pieces: some rows of weights with a band of the rows of prompts.
//!
//! Invariant: every row of weights meets every block of prompts in one piece, and the rows that come before those of
//! prompts in one piece too.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::wide;
use super::{Weight, int8};
use crate::input::{Input, TILE_ROWS};
use crate::packed::layout::PANEL;
use crate::pool::Pool;

/// Weights of one piece, about: long enough that the counter and the start of its streams cost little.
const PIECE_BYTES: usize = 128 << 10;

/// The pieces of a product.
pub(super) struct Spread {
    /// Rows of weights, and those of a piece.
    rows: usize,
    piece_rows: usize,
    /// Bands of rows of prompts, the blocks of 16 of each, and of all together.
    bands: usize,
    band_blocks: usize,
    blocks: usize,
}

/// One piece.
pub(super) struct Share {
    /// Rows of weights.
    pub rows: Range<usize>,
    /// Whether they meet the rows before those of prompts here.
    pub first: bool,
    /// Blocks of 16 rows of prompts.
    pub blocks: Range<usize>,
}

impl Spread {
    /// For the rows of `input`, of which `prompts` are multiplied by bf16 tiles. Pieces have `piece_rows` rows of weights,
    /// or whole panels, as many as suit the pool.
    pub(super) fn new(
        pool: &Pool,
        w: &Weight<'_>,
        input: &Input,
        prompts: usize,
        piece_rows: Option<usize>,
    ) -> Spread {
        let rows = w.shape().0;
        let blocks = prompts.div_ceil(TILE_ROWS);
        #[cfg(target_arch = "x86_64")]
        let band_blocks = wide::band_blocks(prompts, input).max(1);
        #[cfg(not(target_arch = "x86_64"))]
        let band_blocks = blocks.max(1);
        let bands = if input.rows.total() == 0 {
            0
        } else {
            blocks.div_ceil(band_blocks).max(1)
        };
        let panels = || {
            // The same number of pieces for each thread, and each walks several streams.
            let share = w.bytes().len() / pool.threads() / PIECE_BYTES;
            let panels = rows.div_ceil(PANEL).div_ceil(pool.threads() * share.max(1));
            panels.next_multiple_of(int8::STREAMS).max(int8::STREAMS) * PANEL
        };
        Spread {
            rows,
            piece_rows: piece_rows.unwrap_or_else(panels),
            bands,
            band_blocks,
            blocks,
        }
    }

    pub(super) fn pieces(&self) -> usize {
        self.rows.div_ceil(self.piece_rows) * self.bands
    }

    /// A band's activations stay in the caches from piece to piece.
    pub(super) fn share(&self, piece: usize) -> Share {
        let in_band = self.rows.div_ceil(self.piece_rows);
        let (band, piece) = (piece / in_band, piece % in_band);
        let (row, block) = (piece * self.piece_rows, band * self.band_blocks);
        Share {
            rows: row..self.rows.min(row + self.piece_rows),
            first: band == 0,
            blocks: self.blocks.min(block)..self.blocks.min(block + self.band_blocks),
        }
    }
}
