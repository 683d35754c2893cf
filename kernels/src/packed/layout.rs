//! What a panel of each packed format holds, and where: the one table behind packing, unpacking and the kernels.
//!
//! Invariant: every size here is a whole number of bytes per panel, and the codes of a panel begin on a line.

use crate::quant::Format;
use crate::quant::decode::{IQ4_VALUES, MXFP4_VALUES};

/// Rows of a panel.
pub(crate) const PANEL: usize = 16;
/// Columns of a block of the K formats and of IQ4_XS.
pub(crate) const SUPER: usize = 256;
/// Columns whose codes lie together.
pub(crate) const GROUP: usize = 32;
/// Bytes of a code line: four columns of each row of the panel.
pub(crate) const LINE: usize = 64;
/// Fours of columns in a group.
pub(crate) const FOURS: usize = GROUP / 4;

/// How the bits of a group's codes are spread over lines. Fours of columns are counted from 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planes {
    /// Eight lines: line i has four i.
    Bytes,
    /// Four lines: line i has four i in its low nibbles and four i + 4 in its high ones.
    Nibbles,
    /// Nibbles, then one line whose bit b is the fifth bit of four b.
    NibblesBits,
    /// Nibbles, then two lines of pairs, which are the upper bits.
    NibblesPairs,
    /// Two lines: line h has four 4h + b in bits 2b and 2b + 1.
    Pairs,
    /// Pairs, then one line whose bit b is the third bit of four b.
    PairsBits,
}

impl Planes {
    pub(crate) const fn lines(self) -> usize {
        match self {
            Planes::Bytes => 8,
            Planes::Nibbles => 4,
            Planes::NibblesBits => 5,
            Planes::NibblesPairs => 6,
            Planes::Pairs => 2,
            Planes::PairsBits => 3,
        }
    }
}

/// How scales are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// For each group of 32: f16 scale, then f16 minimum where there are any.
    Half,
    /// For each block of 256: f16 d, f16 dmin, then a byte of scale for each group, then a byte of minimum.
    Super,
    /// For each group of 32: the exponent of two in a byte.
    Exponent,
}

/// The layout of one format: `value = scale * (code - offset) + minimum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub planes: Planes,
    /// What stands for each nibble, plus 128.
    pub table: Option<&'static [u8; 16]>,
    /// A power of two, or 0.
    pub offset: u32,
    pub scales: Scales,
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    pub mins: bool,
    /// Whether the bytes of scales in `Super` have a sign.
    pub signed: bool,
}

const fn half(planes: Planes, offset: u32, mins: bool) -> Layout {
    Layout {
        planes,
        table: None,
        offset,
        scales: Scales::Half,
        group: GROUP,
        mins,
        signed: false,
    }
}

/// Blocks of 256 with minimums, or with signed scales and an offset.
const fn blocks(planes: Planes, group: usize, offset: u32) -> Layout {
    Layout {
        planes,
        table: None,
        offset,
        scales: Scales::Super,
        group,
        mins: offset == 0,
        signed: offset != 0,
    }
}

impl Layout {
    /// The layout of a format; `None` for plain ones, which stay as they are.
    pub(crate) const fn of(format: Format) -> Option<Layout> {
        Some(match format {
            Format::F32 | Format::F16 | Format::BF16 => return None,
            Format::Q8_0 => half(Planes::Bytes, 128, false),
            Format::Q4_0 => half(Planes::Nibbles, 8, false),
            Format::Q4_1 => half(Planes::Nibbles, 0, true),
            Format::Q5_0 => half(Planes::NibblesBits, 16, false),
            Format::Q5_1 => half(Planes::NibblesBits, 0, true),
            Format::IQ4_NL => half(Planes::Nibbles, 128, false).with_table(&IQ4_VALUES),
            Format::MXFP4 => Layout {
                scales: Scales::Exponent,
                ..half(Planes::Nibbles, 128, false).with_table(&MXFP4_VALUES)
            },
            Format::Q2_K => blocks(Planes::Pairs, 16, 0),
            Format::Q3_K => blocks(Planes::PairsBits, 16, 4),
            Format::IQ4_XS => blocks(Planes::Nibbles, 32, 128).with_table(&IQ4_VALUES),
            Format::Q4_K => blocks(Planes::Nibbles, 32, 0),
            Format::Q5_K => blocks(Planes::NibblesBits, 32, 0),
            Format::Q6_K => blocks(Planes::NibblesPairs, 16, 32),
        })
    }

    const fn with_table(self, table: &'static [u8; 16]) -> Layout {
        Layout {
            table: Some(table),
            ..self
        }
    }

    /// Columns that share the largest unit of scales.
    pub(crate) const fn block_cols(self) -> usize {
        match self.scales {
            Scales::Super => SUPER,
            Scales::Half | Scales::Exponent => GROUP,
        }
    }

    /// Bytes of scales of a block in a panel.
    pub(crate) const fn block_scales(self) -> usize {
        let both = if self.mins { 2 } else { 1 };
        match self.scales {
            Scales::Half => 2 * PANEL * both,
            Scales::Super => (2 + SUPER / self.group) * PANEL * both,
            Scales::Exponent => PANEL,
        }
    }

    /// Where the bytes of a block's scales begin, in `Super`.
    pub(crate) const fn scales_at(self) -> usize {
        2 * PANEL * if self.mins { 2 } else { 1 }
    }

    /// Where the bytes of a block's minimums begin, in `Super`.
    pub(crate) const fn mins_at(self) -> usize {
        self.scales_at() + SUPER / self.group * PANEL
    }

    /// Bytes of a group's codes in a panel.
    pub(crate) const fn group_codes(self) -> usize {
        self.planes.lines() * LINE
    }

    /// Bits of a code after the table.
    pub(crate) const fn bits(self) -> u32 {
        match (self.table, self.planes) {
            (Some(_), _) | (None, Planes::Bytes) => 8,
            (None, Planes::Nibbles) => 4,
            (None, Planes::NibblesBits) => 5,
            (None, Planes::NibblesPairs) => 6,
            (None, Planes::Pairs) => 2,
            (None, Planes::PairsBits) => 3,
        }
    }

    /// Where the codes of a panel begin. `cols` is a whole number of blocks.
    pub(crate) const fn codes_at(self, cols: usize) -> usize {
        (cols / self.block_cols() * self.block_scales()).next_multiple_of(LINE)
    }

    /// Bytes of a panel; `None` if `cols` is not a whole number of blocks or the size overflows.
    pub(crate) const fn panel_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_cols()) || cols > usize::MAX / LINE {
            return None;
        }
        // A panel has fewer than 32 bytes for each column, so nothing below overflows.
        Some(self.codes_at(cols) + cols / GROUP * self.group_codes())
    }
}
