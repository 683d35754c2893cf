//! What the tests begin with: repeatable random floats, random blocks of each format with sane scales, and plain products of them.
//!
//! Invariant: the same seed gives the same input.
#![allow(dead_code, clippy::unwrap_used)]

use half::{bf16, f16};
use hyprstream_kernels::{Format, Input, Isa, MatrixRef, Pool, Product, Rows, Weight, multiply};

/// A small generator of random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.bits() as u8).collect()
    }

    /// Blocks that hold `values` values.
    pub fn blocks(&mut self, format: Format, values: usize) -> Vec<u8> {
        let plain = |bytes: &dyn Fn(f32) -> Vec<u8>, random: &mut Random| {
            (0..values)
                .flat_map(|_| bytes(random.float()))
                .collect::<Vec<u8>>()
        };
        let scales_at: &[usize] = match format {
            Format::F32 => return plain(&|v| v.to_le_bytes().to_vec(), self),
            Format::F16 => return plain(&|v| f16::from_f32(v).to_le_bytes().to_vec(), self),
            Format::BF16 => return plain(&|v| bf16::from_f32(v).to_le_bytes().to_vec(), self),
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::IQ4_NL | Format::IQ4_XS => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q2_K => &[80, 82],
            Format::Q3_K => &[108],
            Format::Q6_K => &[208],
            Format::MXFP4 => &[],
        };
        let mut bytes = self.bytes(format.row_bytes(values).unwrap());
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for &at in scales_at {
                block[at..at + 2].copy_from_slice(&f16::from_f32(self.float() / 64.0).to_le_bytes());
            }
            if format == Format::MXFP4 {
                block[0] = 120 + (self.bits() % 8) as u8;
            }
        }
        bytes
    }
}

/// Every instruction set that this processor has.
pub fn isas() -> Vec<Isa> {
    Isa::ALL
        .into_iter()
        .filter(|isa| isa.or_lower() == *isa)
        .collect()
}

/// A pool of each instruction set, alone and with company.
pub fn pools() -> Vec<Pool> {
    isas()
        .into_iter()
        .flat_map(|isa| [1, 3].map(|threads| Pool::with_isa(threads, isa).unwrap()))
        .collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The formats that have a packed form.
pub const PACKED: [Format; 13] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::IQ4_NL,
    Format::IQ4_XS,
    Format::MXFP4,
];

/// Bytes on a 64-byte boundary.
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

impl Aligned {
    pub fn new(len: usize) -> Aligned {
        let lines = vec![Line([0; 64]); len.div_ceil(64)];
        Aligned { lines, len }
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: a line is 64 bytes, and there are enough of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The product of plain weights with generated tokens and nothing else: `y[t, o] = sum_i w[o, i] * x[t, i] (+ bias[o])`.
pub fn matmul(pool: &Pool, w: MatrixRef<'_>, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    plain_product(pool, w, x, bias, y, false);
}

/// As `matmul`, where `add` says whether the product is added to what `y` holds.
pub fn plain_product(
    pool: &Pool,
    w: MatrixRef<'_>,
    x: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    add: bool,
) {
    let tokens = x.len() / w.cols;
    let (decode, prefill) = (tokens, 0);
    let rows = Rows { decode, prefill };
    let w = Weight::Plain(w);
    multiply_alone(pool, x, rows, Product { w, bias, y, add });
}

/// One product with an input of its own.
pub fn multiply_alone(pool: &Pool, x: &[f32], rows: Rows, product: Product<'_>) {
    let cols = product.w.shape().1;
    let mut input = Input::new(rows.total(), cols).unwrap();
    input.set(pool, x, cols, rows, product.w.forms());
    multiply(pool, &input, &mut [product]);
}
