//! Activations in the forms that products want, converted once and read by every product of a layer.
//!
//! Invariant: a row's forms depend on that row alone, and rows keep their forms until the next `set`. Nothing is
//! allocated after `new`.
//!
//! int8 comes with one scale for 32 columns or one for 256, as the weights have them.

mod blocks;
mod convert;
mod int8;
mod unit;

use crate::packed::layout::{GROUP, SUPER};
use crate::pool::Pool;
use crate::shards::Shards;
use crate::simd::{Kernel, Level, Simd};
pub(crate) use blocks::Blocks;
use convert::{Plain, RmsNorm, SiluMul, Source};
use int8::Int8;
pub(crate) use unit::{Group, GroupTile, Super, SuperTile, TILE_COLS, Unit};

/// Rows of a block of bf16 tiles.
pub(crate) const TILE_ROWS: usize = 16;

/// Parts of a value in bf16, at most.
const BF16_PARTS: usize = 2;

/// Values of one piece, about: a few microseconds of work.
const PIECE_VALUES: usize = 2 << 10;

/// How many rows of each role: generated tokens first, then those of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Generated tokens, and guessed ones: products in int8, or in f32 where weights are plain.
    pub decode: usize,
    /// Tokens of prompts: products in bf16 where the processor has tiles and weights are no F32, else as `decode`.
    pub prefill: usize,
}

impl Rows {
    /// Both together.
    pub fn total(self) -> usize {
        self.decode + self.prefill
    }
}

/// What kinds of weights the rows will meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// `Weight::Plain` but for `halves`: floats.
    pub plain: bool,
    /// `Weight::Plain` in F16 or BF16: floats, and for rows that tiles multiply in place of them bf16 in two parts.
    pub halves: bool,
    /// Packed formats with scales for 32 columns: int8 with as many, and bf16.
    pub by_32: bool,
    /// Packed formats with blocks of 256 columns: int8 with a scale for 256, and bf16.
    pub by_256: bool,
}

impl Forms {
    /// What either wants.
    #[must_use]
    pub fn and(self, other: Forms) -> Forms {
        Forms {
            plain: self.plain || other.plain,
            halves: self.halves || other.halves,
            by_32: self.by_32 || other.by_32,
            by_256: self.by_256 || other.by_256,
        }
    }

    fn bf16(self) -> bool {
        self.halves || self.by_32 || self.by_256
    }

    /// Of bf16: what rounding leaves of a value, and where weights have more precision than packed ones, what it takes away,
    /// rounded too.
    fn parts(self) -> usize {
        if self.halves { BF16_PARTS } else { 1 }
    }
}

/// 32 values of a row in bf16, as a tile has them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line(pub [u16; GROUP]);

/// Activations `[rows, cols]`.
pub struct Input {
    rows_max: usize,
    cols_max: usize,
    pub(crate) cols: usize,
    pub(crate) rows: Rows,
    pub(crate) forms: Forms,
    /// Rows that have no bf16: generated tokens, or all where there are no tiles.
    pub(crate) first_rows: usize,
    /// How those in int8 are spread over blocks, where tiles multiply them.
    pub(crate) blocks: Option<Blocks>,
    plain: Vec<f32>,
    by_32: Int8<Group>,
    by_256: Int8<Super>,
    bf16: Vec<Line>,
}

/// Lengths of the buffers of floats: values, lines of bf16 in all parts.
fn lengths(rows_max: usize, cols_max: usize) -> Option<(usize, usize)> {
    let values = rows_max.checked_mul(cols_max)?;
    let lines = rows_max
        .checked_next_multiple_of(TILE_ROWS)?
        .checked_mul(cols_max.div_ceil(GROUP))?
        .checked_mul(BF16_PARTS)?;
    Some((values, lines))
}

fn filled<T: Copy>(value: T, len: usize) -> Option<Vec<T>> {
    let mut v = Vec::new();
    v.try_reserve_exact(len).ok()?;
    v.resize(len, value);
    Some(v)
}

impl Input {
    /// Room for so many rows and columns at once; `None` if there is no memory for it.
    pub fn new(rows_max: usize, cols_max: usize) -> Option<Input> {
        Input::bytes(rows_max, cols_max)?;
        let (values, lines) = lengths(rows_max, cols_max)?;
        Some(Input {
            rows_max,
            cols_max,
            cols: 0,
            rows: Rows::default(),
            forms: Forms::default(),
            first_rows: 0,
            blocks: None,
            plain: filled(0.0, values)?,
            by_32: Int8::new(rows_max, cols_max)?,
            by_256: Int8::new(rows_max, cols_max)?,
            bf16: filled(Line([0; GROUP]), lines)?,
        })
    }

    /// Bytes that `new` allocates; `None` if that overflows.
    pub fn bytes(rows_max: usize, cols_max: usize) -> Option<usize> {
        let (values, lines) = lengths(rows_max, cols_max)?;
        values
            .checked_mul(size_of::<f32>())?
            .checked_add(Int8::<Group>::bytes(rows_max, cols_max)?)?
            .checked_add(Int8::<Super>::bytes(rows_max, cols_max)?)?
            .checked_add(lines.checked_mul(size_of::<Line>())?)
    }

    /// Takes over `x`: `[rows, cols]`.
    ///
    /// # Panics
    /// If `x` has another shape, there are more rows or columns than `new` was told, or a packed form is wanted and
    /// `cols` is no multiple of its 32 or 256.
    pub fn set(&mut self, pool: &Pool, x: &[f32], cols: usize, rows: Rows, forms: Forms) {
        self.convert(pool, Plain { x }, x.len(), cols, rows, forms);
    }

    /// Takes over `x / sqrt(mean(x^2) + eps) * weight`; x: `[rows, weight.len()]`.
    ///
    /// # Panics
    /// As `set`.
    pub fn set_norm(&mut self, pool: &Pool, x: &[f32], weight: &[f32], eps: f32, rows: Rows, forms: Forms) {
        let source = RmsNorm { x, weight, eps };
        self.convert(pool, source, x.len(), weight.len(), rows, forms);
    }

    /// Takes over `silu(gate) * up`; both `[rows, cols]`.
    ///
    /// # Panics
    /// As `set`, and if lengths differ.
    pub fn set_silu_mul(
        &mut self,
        pool: &Pool,
        gate: &[f32],
        up: &[f32],
        cols: usize,
        rows: Rows,
        forms: Forms,
    ) {
        assert_eq!(gate.len(), up.len());
        self.convert(pool, SiluMul { gate, up }, gate.len(), cols, rows, forms);
    }

    fn convert<T: Source>(
        &mut self,
        pool: &Pool,
        source: T,
        len: usize,
        cols: usize,
        rows: Rows,
        forms: Forms,
    ) {
        let total = rows.decode.checked_add(rows.prefill);
        let total = total.filter(|total| *total <= self.rows_max && cols <= self.cols_max);
        assert!(total.is_some(), "room for the rows and columns");
        let total = total.unwrap_or(0);
        assert_eq!(total * cols, len, "x is [rows, cols]");
        assert!(
            !forms.by_32 || cols.is_multiple_of(GROUP),
            "packed weights have whole groups"
        );
        assert!(
            !forms.by_256 || cols.is_multiple_of(SUPER),
            "packed weights have whole blocks"
        );
        let tiles = pool.level().has_tiles();
        self.cols = cols;
        self.rows = rows;
        self.forms = forms;
        self.first_rows = if tiles { rows.decode } else { total };
        self.blocks = (tiles && blocks::ROWS.contains(&rows.decode)).then(|| Blocks::new(rows.decode));
        if len == 0 {
            return;
        }
        let plain_rows = self.plain_rows();
        let int8 = |wanted| if wanted { self.first_rows } else { 0 };
        let tile_rows = if forms.bf16() && tiles {
            rows.prefill.next_multiple_of(TILE_ROWS)
        } else {
            0
        };
        let (parts, groups) = (forms.parts(), cols.div_ceil(GROUP));
        let lines = tile_rows * groups * parts;
        let target = Target {
            cols,
            first_tile_row: rows.decode,
            parts,
            plain_rows,
            plain: Shards::new(&mut self.plain[..plain_rows * cols]),
            by_32: self.by_32.target(int8(forms.by_32), cols, self.blocks),
            by_256: self.by_256.target(int8(forms.by_256), cols, self.blocks),
            bf16: Shards::new(&mut self.bf16[..lines]),
        };
        if let Some(last) = rows.prefill.checked_sub(1).filter(|_| tile_rows > 0) {
            for row in last + 1..tile_rows {
                target.clear_tile_row(row);
            }
        }
        // Small inputs stay on this thread.
        let part_cols = if T::WHOLE_ROWS {
            cols
        } else {
            PIECE_VALUES.min(cols)
        };
        let parts = cols.div_ceil(part_cols);
        let part_rows = (PIECE_VALUES / part_cols).max(1);
        pool.run(total.div_ceil(part_rows) * parts, &|piece| {
            let (first, from) = (piece / parts * part_rows, piece % parts * part_cols);
            pool.level().run(Convert {
                source: &source,
                target: &target,
                first,
                rows: part_rows.min(total - first),
                from,
                len: part_cols.min(cols - from),
            });
        });
    }

    /// Rows that have floats: the first ones.
    fn plain_rows(&self) -> usize {
        match self.forms {
            Forms { plain: true, .. } => self.rows.total(),
            Forms { halves: true, .. } => self.first_rows,
            _ => 0,
        }
    }

    /// Floats of the first rows: `[rows, cols]`.
    pub(crate) fn plain(&self, rows: usize) -> &[f32] {
        assert!(rows <= self.plain_rows(), "the plain form was set");
        &self.plain[..rows * self.cols]
    }

    /// The int8 rows with a scale for 32 columns, where `blocks` is none.
    pub(crate) fn by_32(&self) -> (&[i8], &[Group]) {
        assert!(self.forms.by_32 && self.blocks.is_none(), "the form was set");
        self.by_32.rows(self.first_rows, self.cols)
    }

    /// As `by_32`, with a scale for 256.
    pub(crate) fn by_256(&self) -> (&[i8], &[Super]) {
        assert!(self.forms.by_256 && self.blocks.is_none(), "the form was set");
        self.by_256.rows(self.first_rows, self.cols)
    }

    /// A block of the int8 rows with a scale for 32 columns, where there are `blocks`.
    pub(crate) fn tiles_by_32(&self, block: usize) -> &[GroupTile] {
        assert!(self.forms.by_32 && self.blocks.is_some(), "the form was set");
        self.by_32.tiles(block, self.cols)
    }

    /// As `tiles_by_32`, with a scale for 256.
    pub(crate) fn tiles_by_256(&self, block: usize) -> &[SuperTile] {
        assert!(self.forms.by_256 && self.blocks.is_some(), "the form was set");
        self.by_256.tiles(block, self.cols)
    }

    /// Rows that tiles multiply: those of prompts, or none.
    pub(crate) fn bf16_rows(&self) -> usize {
        self.rows.total() - self.first_rows
    }

    /// bf16 of the rows of prompts, where the pool has tiles: blocks of 16 rows x 32 columns, all blocks of the first 16
    /// rows in order of columns, then those of the next. Of each block all `bf16_parts` follow one another, the high one
    /// first. Zeros fill the last columns up.
    pub(crate) fn bf16(&self) -> &[Line] {
        assert!(self.forms.bf16(), "a form with bf16 was set");
        let rows = self.bf16_rows().next_multiple_of(TILE_ROWS);
        &self.bf16[..rows * self.cols.div_ceil(GROUP) * self.bf16_parts()]
    }

    /// Parts of each value that `bf16` has: the value rounded, or that and the rest, rounded too.
    pub(crate) fn bf16_parts(&self) -> usize {
        self.forms.parts()
    }
}

/// Where converted values go. Pieces of work have different rows or columns, so no two write in the same place.
struct Target<'a> {
    cols: usize,
    first_tile_row: usize,
    /// Of bf16.
    parts: usize,
    plain_rows: usize,
    plain: Shards<'a, f32>,
    by_32: int8::Target<'a, Group>,
    by_256: int8::Target<'a, Super>,
    bf16: Shards<'a, Line>,
}

impl Target<'_> {
    /// Where the high parts of 32 columns of a row of prompts are. The low ones are `TILE_ROWS` further.
    #[inline(always)]
    fn line(&self, tile_row: usize, group: usize) -> usize {
        let groups = self.cols.div_ceil(GROUP);
        (tile_row / TILE_ROWS * groups + group) * self.parts * TILE_ROWS + tile_row % TILE_ROWS
    }

    fn clear_tile_row(&self, tile_row: usize) {
        for group in 0..self.cols.div_ceil(GROUP) {
            for part in 0..self.parts {
                let at = self.line(tile_row, group) + part * TILE_ROWS;
                // SAFETY: called before the pieces, on one thread.
                let line = unsafe { self.bf16.part(at, 1) };
                line.fill(Line([0; GROUP]));
            }
        }
    }

    /// Stores the values at column `at` of `row`, in all forms that are wanted. `v` has whole groups, the last filled up
    /// with zeros from column `cols` on.
    ///
    /// # Safety
    /// No other thread stores the same.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, row: usize, at: usize, v: &[f32]) {
        if row < self.plain_rows {
            let len = v.len().min(self.cols - at);
            // SAFETY: as the caller says.
            unsafe { self.plain.part(row * self.cols + at, len) }.copy_from_slice(&v[..len]);
        }
        if row < self.by_32.rows {
            // SAFETY: as the caller says.
            unsafe { self.by_32.put(s, row, at, v) };
        }
        if row < self.by_256.rows {
            // SAFETY: as the caller says.
            unsafe { self.by_256.put(s, row, at, v) };
        }
        if row >= self.first_tile_row && !self.bf16.is_empty() {
            for (index, v) in v.chunks_exact(GROUP).enumerate() {
                let line = self.line(row - self.first_tile_row, at / GROUP + index);
                // SAFETY: as the caller says.
                let high = &mut unsafe { self.bf16.part(line, 1) }[0].0;
                if self.parts == 1 {
                    for lane in (0..GROUP).step_by(S::LANES) {
                        s.store_bf16(&mut high[lane..], s.load(&v[lane..]));
                    }
                    continue;
                }
                // SAFETY: as the caller says.
                let low = &mut unsafe { self.bf16.part(line + TILE_ROWS, 1) }[0].0;
                for lane in (0..GROUP).step_by(S::LANES) {
                    let rest = s.store_bf16(&mut high[lane..], s.load(&v[lane..]));
                    s.store_bf16(&mut low[lane..], rest);
                }
            }
        }
    }
}

/// One piece of a conversion.
struct Convert<'a, T> {
    source: &'a T,
    target: &'a Target<'a>,
    first: usize,
    rows: usize,
    from: usize,
    len: usize,
}

impl<T: Source> Kernel for Convert<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.target.cols;
        for row in self.first..self.first + self.rows {
            let factor = self.source.factor(s, row, cols);
            for at in (self.from..self.from + self.len).step_by(SUPER) {
                let len = SUPER.min(cols - at);
                let mut v = [0.0; SUPER];
                for lane in (0..len).step_by(S::LANES) {
                    let end = len.min(lane + S::LANES);
                    self.source
                        .values(s, row * cols, at + lane, factor, &mut v[lane..end]);
                }
                // SAFETY: each piece runs once, and has its own rows or columns.
                unsafe { self.target.put(s, row, at, &v[..len.next_multiple_of(GROUP)]) };
            }
        }
    }
}

impl Level {
    /// Whether rows of prompts are multiplied in bf16 tiles.
    fn has_tiles(self) -> bool {
        self.isa() == crate::isa::Isa::Amx
    }
}
