//! Packing a matrix and taking a row back out.
//!
//! Invariant: the floats of an unpacked row are those of the file's row, exactly.

use half::f16;

use super::extract::Block;
use super::layout::{FOURS, GROUP, LINE, Layout, PANEL, Planes, Scales};
use super::{PackedRef, packed_bytes};
use crate::matmul::MatrixRef;
use crate::pool::Pool;
use crate::quant::decode::half_power;
use crate::shards::each_part;

/// Packs `w` into `out`, which may lie anywhere.
///
/// # Panics
/// If `w` has a plain format or its bytes are not those of its shape, or `out` does not have
/// `packed_bytes(w.format, w.rows, w.cols)` bytes.
pub fn pack(pool: &Pool, w: MatrixRef<'_>, out: &mut [u8]) {
    let whole = MatrixRef::new(w.format, w.rows, w.cols, w.bytes).is_some();
    assert!(whole, "bytes and shape of the weights agree");
    assert_eq!(
        packed_bytes(w.format, w.rows, w.cols),
        Some(out.len()),
        "room for the packed matrix"
    );
    let Some(layout) = Layout::of(w.format) else {
        return;
    };
    if out.is_empty() {
        return;
    }
    let len = out.len() / w.rows.div_ceil(PANEL);
    each_part(pool, out, len, &|at, panel| {
        panel.fill(0);
        let first = at / len * PANEL;
        for row in 0..PANEL.min(w.rows - first) {
            pack_row(layout, w, first + row, panel);
        }
    });
}

/// Puts row `row` of `w` in its place in the panel.
fn pack_row(layout: Layout, w: MatrixRef<'_>, row: usize, panel: &mut [u8]) {
    let (scales, codes) = panel.split_at_mut(layout.codes_at(w.cols));
    let scales = scales.chunks_exact_mut(layout.block_scales());
    let codes = codes.chunks_exact_mut(layout.block_cols() / GROUP * layout.group_codes());
    let blocks = w.row(row).chunks_exact(w.format.block_bytes());
    let lane = row % PANEL;
    let mut block = Block::ZERO;
    for ((bytes, scales), codes) in blocks.zip(scales).zip(codes) {
        block.read(w.format, bytes);
        pack_scales(layout, &block, lane, scales);
        let groups = block.codes.chunks_exact(GROUP);
        for (codes, lines) in groups.zip(codes.chunks_exact_mut(layout.group_codes())) {
            pack_codes(layout.planes, codes, lane, lines);
        }
    }
}

fn pack_scales(layout: Layout, block: &Block, lane: usize, out: &mut [u8]) {
    if layout.scales == Scales::Exponent {
        out[lane] = block.scales[0];
        return;
    }
    out[2 * lane..2 * lane + 2].copy_from_slice(&block.d);
    if layout.mins {
        out[2 * PANEL + 2 * lane..][..2].copy_from_slice(&block.dmin);
    }
    if layout.scales == Scales::Super {
        for group in 0..256 / layout.group {
            out[layout.scales_at() + group * PANEL + lane] = block.scales[group];
            if layout.mins {
                out[layout.mins_at() + group * PANEL + lane] = block.mins[group];
            }
        }
    }
}

/// Where the planes keep the low bits of four `four`: line, shift.
const fn low_place(planes: Planes, four: usize) -> (usize, usize) {
    match planes {
        Planes::Bytes => (four, 0),
        Planes::Nibbles | Planes::NibblesBits | Planes::NibblesPairs => (four % 4, four / 4 * 4),
        Planes::Pairs | Planes::PairsBits => (four / 4, four % 4 * 2),
    }
}

/// Where they keep the rest: line, shift; how many low bits there are, and a mask of the rest.
const fn high_place(planes: Planes, four: usize) -> Option<(usize, usize, usize, u8)> {
    match planes {
        Planes::Bytes | Planes::Nibbles | Planes::Pairs => None,
        Planes::NibblesBits => Some((4, four, 4, 1)),
        Planes::NibblesPairs => Some((4 + four / 4, four % 4 * 2, 4, 3)),
        Planes::PairsBits => Some((2, four, 2, 1)),
    }
}

/// A mask of the low bits.
const fn low_mask(planes: Planes) -> u8 {
    match planes {
        Planes::Bytes => 255,
        Planes::Nibbles | Planes::NibblesBits | Planes::NibblesPairs => 15,
        Planes::Pairs | Planes::PairsBits => 3,
    }
}

fn pack_codes(planes: Planes, codes: &[u8], lane: usize, lines: &mut [u8]) {
    for four in 0..FOURS {
        let codes = &codes[4 * four..4 * four + 4];
        let (line, shift) = low_place(planes, four);
        let low = &mut lines[line * LINE + 4 * lane..][..4];
        for (byte, code) in low.iter_mut().zip(codes) {
            *byte |= (code & low_mask(planes)) << shift;
        }
        if let Some((line, shift, bits, mask)) = high_place(planes, four) {
            let high = &mut lines[line * LINE + 4 * lane..][..4];
            for (byte, code) in high.iter_mut().zip(codes) {
                *byte |= (code >> bits & mask) << shift;
            }
        }
    }
}

/// Decodes row `row` into floats: an embedding. Runs on the calling thread.
///
/// # Panics
/// If there is no such row, or `out` does not have its length.
pub fn unpack_row(w: PackedRef<'_>, row: usize, out: &mut [f32]) {
    let whole = packed_bytes(w.format, w.rows, w.cols) == Some(w.bytes.len());
    assert!(whole, "bytes and shape of the weights agree");
    assert!(row < w.rows, "row {row} of {}", w.rows);
    assert_eq!(out.len(), w.cols, "room for the row");
    let (Some(layout), false) = (Layout::of(w.format), out.is_empty()) else {
        return;
    };
    let (scales, codes) = w.panel(row / PANEL).split_at(layout.codes_at(w.cols));
    let lane = row % PANEL;
    let blocks = scales.chunks_exact(layout.block_scales());
    let groups = codes.chunks_exact(layout.group_codes());
    let per_block = layout.block_cols() / GROUP;
    for (index, (lines, out)) in groups.zip(out.chunks_exact_mut(GROUP)).enumerate() {
        let Some(scales) = blocks.clone().nth(index / per_block) else {
            return;
        };
        let mut codes = [0; GROUP];
        unpack_codes(layout, lines, lane, &mut codes);
        for (part, (codes, out)) in codes
            .chunks_exact(layout.group)
            .zip(out.chunks_exact_mut(layout.group))
            .enumerate()
        {
            let group = index % per_block * (GROUP / layout.group) + part;
            let (scale, min) = scale_and_min(layout, scales, group, lane);
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = scale * (i32::from(code) - layout.offset as i32) as f32 + min;
            }
        }
    }
}

fn scale_and_min(layout: Layout, block: &[u8], group: usize, lane: usize) -> (f32, f32) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let min = |at: usize| if layout.mins { half(at) } else { 0.0 };
    let (d, dmin) = match layout.scales {
        Scales::Exponent => return (half_power(block[lane]), 0.0),
        Scales::Half | Scales::Super => (half(2 * lane), min(2 * PANEL + 2 * lane)),
    };
    if layout.scales == Scales::Half {
        return (d, dmin);
    }
    let byte = block[layout.scales_at() + group * PANEL + lane];
    let scale = if layout.signed {
        f32::from(byte as i8)
    } else {
        f32::from(byte)
    };
    let min = if layout.mins {
        -(dmin * f32::from(block[layout.mins_at() + group * PANEL + lane]))
    } else {
        0.0
    };
    (d * scale, min)
}

fn unpack_codes(layout: Layout, lines: &[u8], lane: usize, codes: &mut [u8; GROUP]) {
    let planes = layout.planes;
    for (four, codes) in codes.chunks_exact_mut(4).enumerate() {
        let (line, shift) = low_place(planes, four);
        let low = &lines[line * LINE + 4 * lane..][..4];
        for (code, byte) in codes.iter_mut().zip(low) {
            *code = byte >> shift & low_mask(planes);
        }
        if let Some((line, shift, bits, mask)) = high_place(planes, four) {
            let high = &lines[line * LINE + 4 * lane..][..4];
            for (code, byte) in codes.iter_mut().zip(high) {
                *code |= (byte >> shift & mask) << bits;
            }
        }
        if let Some(table) = layout.table {
            for code in codes {
                *code = table[usize::from(*code & 15)];
            }
        }
    }
}
