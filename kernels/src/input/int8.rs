//! Rows in int8, with one kind of unit: one row after another for vectors, or in blocks of rows for tiles.
//!
//! Invariant: of both, only the one that the last `target` was asked for holds anything.

use super::blocks::Blocks;
use super::filled;
use super::unit::Unit;
use crate::packed::layout::SUPER;
use crate::shards::Shards;
use crate::simd::Simd;

/// The buffers.
pub(super) struct Int8<U: Unit> {
    codes: Vec<i8>,
    units: Vec<U>,
    tiles: Vec<U::Tile>,
}

/// Lengths of the buffers.
fn lengths<U: Unit>(rows: usize, cols: usize) -> Option<[usize; 3]> {
    let units = cols / U::COLS;
    Some([
        rows.checked_mul(units)?.checked_mul(U::COLS)?,
        rows.checked_mul(units)?,
        Blocks::most(rows).count().checked_mul(units)?,
    ])
}

impl<U: Unit> Int8<U> {
    /// Room for so many rows of so many columns, as far as they are whole units.
    pub(super) fn new(rows: usize, cols: usize) -> Option<Int8<U>> {
        let [codes, units, tiles] = lengths::<U>(rows, cols)?;
        Some(Int8 {
            codes: filled(0, codes)?,
            units: filled(U::default(), units)?,
            tiles: filled(U::EMPTY, tiles)?,
        })
    }

    pub(super) fn bytes(rows: usize, cols: usize) -> Option<usize> {
        let [codes, units, tiles] = lengths::<U>(rows, cols)?;
        codes
            .checked_add(units.checked_mul(size_of::<U>())?)?
            .checked_add(tiles.checked_mul(size_of::<U::Tile>())?)
    }

    /// `[rows, cols]` values and their units.
    pub(super) fn rows(&self, rows: usize, cols: usize) -> (&[i8], &[U]) {
        (&self.codes[..rows * cols], &self.units[..rows * (cols / U::COLS)])
    }

    /// The units of a block of rows.
    pub(super) fn tiles(&self, block: usize, cols: usize) -> &[U::Tile] {
        let units = cols / U::COLS;
        &self.tiles[block * units..][..units]
    }

    /// Where so many rows of `cols` columns go.
    pub(super) fn target(&mut self, rows: usize, cols: usize, blocks: Option<Blocks>) -> Target<'_, U> {
        let units = cols / U::COLS;
        let tiles = blocks
            .filter(|_| rows > 0)
            .map_or(0, |blocks| blocks.count() * units);
        let rows_alone = if blocks.is_some() { 0 } else { rows };
        Target {
            rows,
            cols,
            blocks,
            codes: Shards::new(&mut self.codes[..rows_alone * cols]),
            units: Shards::new(&mut self.units[..rows_alone * units]),
            tiles: Shards::new(&mut self.tiles[..tiles]),
        }
    }
}

/// Where converted rows go.
pub(super) struct Target<'a, U: Unit> {
    /// How many are wanted: the first ones.
    pub(super) rows: usize,
    cols: usize,
    blocks: Option<Blocks>,
    codes: Shards<'a, i8>,
    units: Shards<'a, U>,
    tiles: Shards<'a, U::Tile>,
}

impl<U: Unit> Target<'_, U> {
    /// Stores the values at column `at` of `row`: whole units.
    ///
    /// # Safety
    /// No other thread stores the same.
    #[inline(always)]
    pub(super) unsafe fn put<S: Simd>(&self, s: S, row: usize, at: usize, v: &[f32]) {
        let units = self.cols / U::COLS;
        for (index, v) in v.chunks_exact(U::COLS).enumerate() {
            let unit = at / U::COLS + index;
            if let Some(blocks) = self.blocks {
                let mut q = [0; SUPER];
                let q = &mut q[..U::COLS];
                let made = U::new(s, v, q);
                let (block, row) = blocks.of(row);
                // Rows of a tile are for several threads: only places of this row are touched, and none is borrowed.
                let tile = self.tiles.place(block * units + unit);
                // SAFETY: `place` checked that the tile is there; the places of this row are ours.
                unsafe { made.place(q, tile, row) };
            } else {
                let from = row * self.cols + unit * U::COLS;
                // SAFETY: as the caller says.
                let (q, to) = unsafe {
                    (
                        self.codes.part(from, U::COLS),
                        self.units.part(row * units + unit, 1),
                    )
                };
                to[0] = U::new(s, v, q);
            }
        }
    }
}
