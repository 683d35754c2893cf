//! How rows in int8 are spread over blocks, where tiles multiply them.
//!
//! Invariant: blocks are of equal height (the last may be lower), at most `TILE_ROWS`.

use super::TILE_ROWS;

/// With fewer rows, dot products by vectors are as fast as tiles. More than the greatest number have no room.
pub(crate) const ROWS: std::ops::RangeInclusive<usize> = 6..=128;

/// Rows, spread over blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blocks {
    rows: usize,
    height: usize,
}

impl Blocks {
    pub(crate) fn new(rows: usize) -> Blocks {
        let height = rows.div_ceil(rows.div_ceil(TILE_ROWS).max(1));
        Blocks { rows, height }
    }

    /// The most blocks that any number of rows up to `rows` takes.
    pub(super) fn most(rows: usize) -> Blocks {
        Blocks::new(rows.min(*ROWS.end()))
    }

    pub(crate) fn count(self) -> usize {
        self.rows.div_ceil(self.height.max(1))
    }

    /// The rows of a block.
    pub(crate) fn rows(self, block: usize) -> std::ops::Range<usize> {
        block * self.height..self.rows.min((block + 1) * self.height)
    }

    /// A row's block, and its place in it.
    pub(super) fn of(self, row: usize) -> (usize, usize) {
        (row / self.height.max(1), row % self.height.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_every_row_once() {
        for rows in 0..70 {
            let blocks = Blocks::new(rows);
            let mut seen = 0;
            for block in 0..blocks.count() {
                let of_block = blocks.rows(block);
                assert_eq!(of_block.start, seen);
                assert!((1..=TILE_ROWS).contains(&of_block.len()), "{rows}: {of_block:?}");
                for row in of_block.clone() {
                    assert_eq!(blocks.of(row), (block, row - of_block.start));
                }
                seen = of_block.end;
            }
            assert_eq!(seen, rows);
        }
    }
}
