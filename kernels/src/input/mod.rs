//! Activations in the forms that products want, converted once and read by every product of a layer.
//!
//! Invariant: a row's forms depend on that row alone, and rows keep their forms until the next `set`. Nothing is
//! allocated after `new`.
//!
//! int8: `x = scale * q` by groups of 32 columns, `scale = amax / 127`. What is not finite makes its group's scale NaN,
//! so that it shows in the results.

mod convert;
pub(crate) mod tiled;

use crate::packed::layout::GROUP;
use crate::pool::Pool;
use crate::shards::Shards;
use crate::simd::{Kernel, Level, Simd};
use convert::{Plain, RmsNorm, SiluMul, Source};
use tiled::{Blocks, Tiled};

/// Rows of a block of bf16 tiles.
pub(crate) const TILE_ROWS: usize = 16;

/// Values of one piece, about: a few microseconds of work.
const PIECE_VALUES: usize = 2 << 10;

/// How many rows of each role: generated tokens first, then those of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Generated tokens, and guessed ones: products in int8.
    pub decode: usize,
    /// Tokens of prompts: products in bf16 where the processor has tiles, else in int8.
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
    /// `Weight::Plain`: floats.
    pub plain: bool,
    /// `Weight::Packed`: int8 and bf16.
    pub packed: bool,
}

/// 32 values of a row in bf16, as a tile has them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line(pub [u16; GROUP]);

/// What products need to know of 32 int8 values beside the values.
#[repr(C, align(32))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Group {
    /// x = scale * q.
    pub scale: f32,
    /// `scale` times the sum of all 32.
    pub scaled_sum: f32,
    /// The sum of all 32, negative.
    pub minus_sum: i32,
    /// `scale` times the sums of the first and the second 16.
    pub scaled_halves: [f32; 2],
    /// Those sums, negative.
    pub minus_halves: [i32; 2],
}

/// Activations `[rows, cols]`.
pub struct Input {
    rows_max: usize,
    cols_max: usize,
    pub(crate) cols: usize,
    pub(crate) rows: Rows,
    pub(crate) forms: Forms,
    /// Rows in int8: the first ones, or all.
    pub(crate) int8_rows: usize,
    plain: Vec<f32>,
    int8: Vec<i8>,
    groups: Vec<Group>,
    /// Instead of both, where tiles multiply the int8 rows.
    tiled: Tiled,
    pub(crate) blocks: Option<Blocks>,
    bf16: Vec<Line>,
}

/// Lengths of the buffers: values, groups of 32 of each row, lines of bf16.
fn lengths(rows_max: usize, cols_max: usize) -> Option<(usize, usize, usize)> {
    let values = rows_max.checked_mul(cols_max)?;
    let groups = rows_max.checked_mul(cols_max.div_ceil(GROUP))?;
    let lines = rows_max
        .checked_next_multiple_of(TILE_ROWS)?
        .checked_mul(cols_max.div_ceil(GROUP))?;
    Some((values, groups, lines))
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
        let (values, groups, lines) = lengths(rows_max, cols_max)?;
        Some(Input {
            rows_max,
            cols_max,
            cols: 0,
            rows: Rows::default(),
            forms: Forms::default(),
            int8_rows: 0,
            plain: filled(0.0, values)?,
            int8: filled(0, values)?,
            groups: filled(Group::default(), groups)?,
            tiled: Tiled::new(rows_max, cols_max.div_ceil(GROUP))?,
            blocks: None,
            bf16: filled(Line([0; GROUP]), lines)?,
        })
    }

    /// Bytes that `new` allocates; `None` if that overflows.
    pub fn bytes(rows_max: usize, cols_max: usize) -> Option<usize> {
        let (values, groups, lines) = lengths(rows_max, cols_max)?;
        let tiled = Tiled::bytes(rows_max, cols_max.div_ceil(GROUP))?;
        values
            .checked_mul(size_of::<f32>() + size_of::<i8>())?
            .checked_add(tiled)?
            .checked_add(groups.checked_mul(size_of::<Group>())?)?
            .checked_add(lines.checked_mul(size_of::<Line>())?)
    }

    /// Takes over `x`: `[rows, cols]`.
    ///
    /// # Panics
    /// If `x` has another shape, there are more rows or columns than `new` was told, or the packed form is wanted and
    /// `cols` is no multiple of 32.
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
            !forms.packed || cols.is_multiple_of(GROUP),
            "packed weights have whole groups"
        );
        let tiles = pool.level().has_tiles();
        self.cols = cols;
        self.rows = rows;
        self.forms = forms;
        self.int8_rows = if tiles { rows.decode } else { total };
        self.blocks = (tiles && tiled::ROWS.contains(&rows.decode)).then(|| Blocks::new(rows.decode));
        if len == 0 {
            return;
        }
        let groups = cols.div_ceil(GROUP);
        let (plain, int8, tile_rows) = (
            if forms.plain { total } else { 0 },
            if forms.packed { self.int8_rows } else { 0 },
            if forms.packed && tiles {
                rows.prefill.next_multiple_of(TILE_ROWS)
            } else {
                0
            },
        );
        let target = Target {
            cols,
            first_tile_row: rows.decode,
            int8_rows: int8,
            plain: Shards::new(&mut self.plain[..plain * cols]),
            int8: Shards::new(&mut self.int8[..int8 * cols]),
            groups: Shards::new(&mut self.groups[..int8 * groups]),
            tiled: self.blocks.map(|blocks| self.tiled.target(blocks, groups)),
            bf16: Shards::new(&mut self.bf16[..tile_rows * groups]),
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

    /// Floats `[rows, cols]`.
    pub(crate) fn plain(&self) -> &[f32] {
        assert!(self.forms.plain, "the plain form was set");
        &self.plain[..self.rows.total() * self.cols]
    }

    /// int8 `[int8_rows, cols]`, and `[int8_rows, cols / 32]` groups, where `blocks` is none.
    pub(crate) fn int8(&self) -> (&[i8], &[Group]) {
        assert!(
            self.forms.packed && self.blocks.is_none(),
            "the packed form was set"
        );
        let len = self.int8_rows * self.cols;
        (&self.int8[..len], &self.groups[..len / GROUP])
    }

    /// A block of the int8 rows, where there are `blocks`.
    pub(crate) fn tiled(&self, block: usize) -> tiled::Block<'_> {
        assert!(
            self.forms.packed && self.blocks.is_some(),
            "the packed form was set"
        );
        self.tiled.block(block, self.cols / GROUP)
    }

    /// bf16 of the rows of prompts, where the pool has tiles: blocks of 16 rows x 32 columns, all blocks of the first 16
    /// rows in order of columns, then those of the next.
    pub(crate) fn bf16(&self) -> &[Line] {
        assert!(self.forms.packed, "the packed form was set");
        let rows = self.rows.total() - self.int8_rows;
        &self.bf16[..rows.next_multiple_of(TILE_ROWS) * (self.cols / GROUP)]
    }
}

/// Where converted values go. Pieces of work have different rows or columns, so no two write in the same place.
struct Target<'a> {
    cols: usize,
    first_tile_row: usize,
    int8_rows: usize,
    plain: Shards<'a, f32>,
    int8: Shards<'a, i8>,
    groups: Shards<'a, Group>,
    tiled: Option<tiled::Target<'a>>,
    bf16: Shards<'a, Line>,
}

impl Target<'_> {
    /// Where the bf16 values of 32 columns of a row of prompts are.
    #[inline(always)]
    fn line(&self, tile_row: usize, group: usize) -> usize {
        let groups = self.cols / GROUP;
        (tile_row / TILE_ROWS * groups + group) * TILE_ROWS + tile_row % TILE_ROWS
    }

    fn clear_tile_row(&self, tile_row: usize) {
        for group in 0..self.cols / GROUP {
            // SAFETY: called before the pieces, on one thread.
            let line = unsafe { self.bf16.part(self.line(tile_row, group), 1) };
            line.fill(Line([0; GROUP]));
        }
    }

    /// Stores the `len` values at column `at` of `row`, in all forms that are wanted. `v` is zero beyond them.
    ///
    /// # Safety
    /// No other thread stores the same.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, row: usize, at: usize, v: &[f32; GROUP], len: usize, forms: Wanted) {
        if forms.plain {
            // SAFETY: as the caller says.
            unsafe { self.plain.part(row * self.cols + at, len) }.copy_from_slice(&v[..len]);
        }
        if forms.packed && row < self.int8_rows {
            let index = row * self.cols + at;
            if let Some(tiled) = &self.tiled {
                let mut q = [0; GROUP];
                let group = quantise(s, v, &mut q);
                // SAFETY: as the caller says.
                unsafe { tiled.put(row, at / GROUP, &q, &group) };
                return;
            }
            // SAFETY: as the caller says.
            let (q, group) = unsafe { (self.int8.part(index, GROUP), self.groups.part(index / GROUP, 1)) };
            group[0] = quantise(s, v, q);
        } else if forms.packed {
            let line = self.line(row - self.first_tile_row, at / GROUP);
            // SAFETY: as the caller says.
            let line = &mut unsafe { self.bf16.part(line, 1) }[0].0;
            for lane in (0..GROUP).step_by(S::LANES) {
                s.store_bf16(&mut line[lane..], s.load(&v[lane..]));
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Wanted {
    plain: bool,
    packed: bool,
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
        let wanted = Wanted {
            plain: !self.target.plain.is_empty(),
            packed: !self.target.int8.is_empty() || !self.target.bf16.is_empty(),
        };
        for row in self.first..self.first + self.rows {
            let factor = self.source.factor(s, row, cols);
            for at in (self.from..self.from + self.len).step_by(GROUP) {
                let len = GROUP.min(cols - at);
                let mut v = [0.0; GROUP];
                for lane in (0..len).step_by(S::LANES) {
                    let end = len.min(lane + S::LANES);
                    self.source
                        .values(s, row * cols, at + lane, factor, &mut v[lane..end]);
                }
                // SAFETY: each piece runs once, and has its own rows or columns.
                unsafe { self.target.put(s, row, at, &v, len, wanted) };
            }
        }
    }
}

/// Rounds 32 values to int8. What is not finite becomes some number in range, and the scale NaN.
#[inline(always)]
fn quantise<S: Simd>(s: S, v: &[f32; GROUP], q: &mut [i8]) -> Group {
    let zero = s.splat(0.0);
    let (mut highest, mut poison) = (zero, zero);
    for at in (0..GROUP).step_by(S::LANES) {
        let v = s.load(&v[at..]);
        highest = s.max(s.max(v, s.sub(zero, v)), highest);
        poison = s.fma(v, zero, poison);
    }
    let scale = s.highest(highest) / 127.0;
    let mut sums = [zero; 4];
    for (index, at) in (0..GROUP).step_by(S::LANES).enumerate() {
        let v = if scale > 0.0 {
            s.div(s.load(&v[at..]), s.splat(scale))
        } else {
            zero
        };
        // A subnormal scale may be rounded far down.
        let v = s.max(s.min(s.round(v), s.splat(127.0)), s.splat(-127.0));
        s.store_i8(&mut q[at..], s.to_i32(v));
        sums[index] = v;
    }
    // Small whole numbers: exact in any order.
    let sums = s.sum4(sums);
    let half = GROUP / 2 / S::LANES;
    let mut halves = [0.0; 2];
    for (index, sum) in sums.iter().enumerate().take(GROUP / S::LANES) {
        halves[index / half] += sum;
    }
    let scale = scale + s.sum(poison);
    let sum = halves[0] + halves[1];
    Group {
        scale,
        scaled_sum: scale * sum,
        minus_sum: -(sum as i32),
        scaled_halves: [scale * halves[0], scale * halves[1]],
        minus_halves: [-(halves[0] as i32), -(halves[1] as i32)],
    }
}

impl Level {
    /// Whether rows of prompts are multiplied in bf16 tiles.
    fn has_tiles(self) -> bool {
        self.isa() == crate::isa::Isa::Amx
    }
}
