//! Products by AMX tiles against the scalar reference and against the vector kernels.
//!
//! Invariant: rows of prompts are sums of products of bf16 values; generated tokens are bit for bit what VNNI gives.
#![allow(clippy::unwrap_used, clippy::needless_range_loop)]

mod inputs;

use half::bf16;
use hyprstream_kernels::{
    Format, Input, Isa, PackedRef, Pool, Product, Rows, Weight, decode_row_with, multiply, pack, packed_bytes,
};
use inputs::{Random, bits};
use proptest::prelude::*;

/// Sums of products in f32, of which each step is rounded: relative to the sum of the products' magnitudes.
const SUM_REL_MAX: f64 = 2e-6;

/// Bytes on a 64-byte boundary.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Aligned([u8; 64]);

/// A packed matrix with its values.
struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Vec<Aligned>,
    values: Vec<f32>,
}

impl Packed {
    fn new(random: &mut Random, format: Format, rows: usize, cols: usize) -> Packed {
        let blocks = random.blocks(format, rows * cols);
        let w = hyprstream_kernels::MatrixRef::new(format, rows, cols, &blocks).unwrap();
        let mut values = vec![0.0; rows * cols];
        decode_row_with(Isa::Scalar, format, &blocks, &mut values);
        let mut packed = Packed {
            format,
            rows,
            cols,
            bytes: vec![Aligned([0; 64]); packed_bytes(format, rows, cols).unwrap().div_ceil(64)],
            values,
        };
        let len = packed_bytes(format, rows, cols).unwrap();
        // SAFETY: plain bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(packed.bytes.as_mut_ptr().cast::<u8>(), len) };
        pack(&Pool::with_isa(1, Isa::Scalar).unwrap(), w, bytes);
        packed
    }

    fn as_ref(&self) -> PackedRef<'_> {
        let len = packed_bytes(self.format, self.rows, self.cols).unwrap();
        // SAFETY: plain bytes.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast::<u8>(), len) };
        PackedRef::new(self.format, self.rows, self.cols, bytes).unwrap()
    }
}

/// `y[rows, w.rows]`, added to `y` where it is given.
fn product(
    pool: &Pool,
    w: &Packed,
    x: &[f32],
    rows: Rows,
    bias: Option<&[f32]>,
    y: Option<&[f32]>,
) -> Vec<f32> {
    let mut input = Input::new(rows.total(), w.cols).unwrap();
    let weight = Weight::Packed(w.as_ref());
    input.set(pool, x, w.cols, rows, weight.forms());
    let mut out = y.map_or_else(|| vec![f32::NAN; rows.total() * w.rows], <[f32]>::to_vec);
    let product = Product {
        w: weight,
        bias,
        y: &mut out,
        add: y.is_some(),
    };
    multiply(pool, &input, &mut [product]);
    out
}

fn amx(threads: usize) -> Option<Pool> {
    let pool = Pool::with_isa(threads, Isa::Amx).unwrap();
    if pool.isa() != Isa::Amx {
        eprintln!("SKIPPED: this machine has no AMX, or the system refuses it");
        return None;
    }
    Some(pool)
}

fn round(v: f32) -> f64 {
    f64::from(bf16::from_f32(v).to_f32())
}

/// Formats that can be packed.
fn formats() -> Vec<Format> {
    Format::ALL
        .into_iter()
        .filter(|f| packed_bytes(*f, 16, 256).is_some())
        .collect()
}

fn check_prompt(
    pool: &Pool,
    random: &mut Random,
    format: Format,
    shape: (usize, usize),
    tokens: usize,
    add: bool,
) {
    let (rows, cols) = shape;
    let w = Packed::new(random, format, rows, cols);
    let x = random.floats(tokens * cols);
    let (bias, before) = (random.floats(rows), random.floats(tokens * rows));
    let all = Rows {
        decode: 0,
        prefill: tokens,
    };
    let y = product(pool, &w, &x, all, add.then_some(&bias), add.then_some(&before));
    for token in 0..tokens {
        for row in 0..rows {
            let (mut sum, mut magnitude) = (0.0, 0.0);
            for i in 0..cols {
                let term = round(x[token * cols + i]) * round(w.values[row * cols + i]);
                sum += term;
                magnitude += term.abs();
            }
            let at = token * rows + row;
            if add {
                let more = f64::from(bias[row]) + f64::from(before[at]);
                sum += more;
                magnitude += 2.0 + more.abs();
            }
            let error = (f64::from(y[at]) - sum).abs();
            assert!(
                error <= SUM_REL_MAX * magnitude,
                "{format:?} {rows}x{cols}, token {token}, row {row}: {} against {sum}",
                y[at]
            );
        }
    }
}

#[test]
fn prompts_agree_with_bf16_products_in_every_format() {
    for threads in [1, 3] {
        let Some(pool) = amx(threads) else { return };
        let mut random = Random(1);
        for format in formats() {
            check_prompt(&pool, &mut random, format, (33, 256), 17, false);
            check_prompt(&pool, &mut random, format, (50, 512), 70, true);
        }
    }
}

#[test]
fn long_rows_and_many_tokens_are_summed_in_turns_and_bands() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(2);
    check_prompt(&pool, &mut random, Format::Q4_K, (40, 4608), 70, false);
    check_prompt(&pool, &mut random, Format::Q6_K, (17, 2304), 530, true);
}

#[test]
fn a_token_of_a_prompt_is_the_same_alone_and_in_company() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(3);
    for format in formats() {
        let w = Packed::new(&mut random, format, 70, 768);
        let x = random.floats(70 * 768);
        let rows = |decode, prefill| Rows { decode, prefill };
        let all = product(&pool, &w, &x, rows(0, 70), None, None);
        let mixed = product(&pool, &w, &x, rows(9, 61), None, None);
        assert_eq!(bits(&all[9 * 70..]), bits(&mixed[9 * 70..]), "{format:?}");
        for token in [0, 15, 16, 69] {
            let alone = product(&pool, &w, &x[token * 768..][..768], rows(0, 1), None, None);
            assert_eq!(bits(&alone), bits(&all[token * 70..][..70]), "{format:?} {token}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn prompts_of_odd_shapes(
        format in 0_usize..20, rows in 1_usize..80, blocks in 1_usize..5, tokens in 1_usize..70, threads in 1_usize..4,
        add: bool, seed: u64,
    ) {
        let formats = formats();
        let format = formats[format % formats.len()];
        if let Some(pool) = amx(threads) {
            check_prompt(&pool, &mut Random(seed), format, (rows, blocks * format.block_len()), tokens, add);
        }
    }

    #[test]
    fn generated_tokens_are_bit_for_bit_those_of_vnni(
        format in 0_usize..20, rows in 1_usize..80, blocks in 1_usize..5, tokens in 1_usize..70, prefill in 0_usize..20,
        threads in 1_usize..4, seed: u64,
    ) {
        let formats = formats();
        let format = formats[format % formats.len()];
        let (Some(tiles), vectors) = (amx(threads), Pool::with_isa(threads, Isa::Vnni).unwrap()) else {
            return Ok(());
        };
        let mut random = Random(seed);
        let w = Packed::new(&mut random, format, rows, blocks * format.block_len());
        let x = random.floats((tokens + prefill) * w.cols);
        let both = Rows { decode: tokens, prefill };
        let only = Rows { decode: tokens, prefill: 0 };
        let y = product(&tiles, &w, &x, both, None, None);
        let expected = product(&vectors, &w, &x[..tokens * w.cols], only, None, None);
        prop_assert_eq!(bits(&y[..tokens * rows]), bits(&expected));
    }
}
