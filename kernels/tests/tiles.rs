//! Products by AMX tiles against the scalar reference and against the vector kernels.
//!
//! Invariant: rows of prompts are sums of products of bf16 values; generated tokens are bit for bit what VNNI gives.
#![allow(clippy::unwrap_used, clippy::needless_range_loop)]

mod inputs;

use half::bf16;
use hyprstream_kernels::{
    Format, Isa, MatrixRef, PackedRef, Pool, Product, Rows, Weight, decode_row_with, pack, packed_bytes,
    reference,
};
use inputs::{Aligned, Random, bits, multiply_alone};
use proptest::prelude::*;

/// Sums of products in f32, of which each step is rounded: relative to the sum of the products' magnitudes.
const SUM_REL_MAX: f64 = 2e-6;

/// What rounding an activation and an F16 weight to bf16, which has 8 bits of precision, changes of their product.
const F16_PROMPT_REL_MAX: f64 = 2.01 / (1 << 9) as f64;

/// A matrix with its values: packed, or in F16 as in a file.
struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    /// Packed, or a file, in which the weights begin at `from` and end before its last byte. What is around them is no
    /// number.
    bytes: Aligned,
    from: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn new(random: &mut Random, format: Format, rows: usize, cols: usize) -> Matrix {
        let blocks = random.blocks(format, rows * cols);
        let w = MatrixRef::new(format, rows, cols, &blocks).unwrap();
        let mut values = vec![0.0; rows * cols];
        decode_row_with(Isa::Scalar, format, &blocks, &mut values);
        let (bytes, from) = if let Some(len) = packed_bytes(format, rows, cols) {
            let mut packed = Aligned::new(len);
            pack(&Pool::with_isa(1, Isa::Scalar).unwrap(), w, packed.as_mut_slice());
            (packed, 0)
        } else {
            let from = (random.bits() % 67) as usize;
            let mut file = Aligned::new(from + blocks.len() + 64);
            file.as_mut_slice().fill(0xff);
            file.as_mut_slice()[from..][..blocks.len()].copy_from_slice(&blocks);
            (file, from)
        };
        Matrix {
            format,
            rows,
            cols,
            bytes,
            from,
            values,
        }
    }

    fn weight(&self) -> Weight<'_> {
        let (format, rows, cols) = (self.format, self.rows, self.cols);
        let bytes = self.bytes.as_slice();
        if packed_bytes(format, rows, cols).is_some() {
            return Weight::Packed(PackedRef::new(format, rows, cols, bytes).unwrap());
        }
        let len = format.row_bytes(cols).unwrap() * rows;
        Weight::Plain(MatrixRef::new(format, rows, cols, &bytes[self.from..][..len]).unwrap())
    }
}

/// `y[rows, w.rows]`, added to `y` where it is given.
fn product(
    pool: &Pool,
    w: &Matrix,
    x: &[f32],
    rows: Rows,
    bias: Option<&[f32]>,
    y: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = y.map_or_else(|| vec![f32::NAN; rows.total() * w.rows], <[f32]>::to_vec);
    let product = Product {
        w: w.weight(),
        bias,
        y: &mut out,
        add: y.is_some(),
    };
    multiply_alone(pool, x, rows, product);
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

/// Formats whose products with prompts are by tiles: packed ones, and F16.
fn formats() -> Vec<Format> {
    Format::ALL
        .into_iter()
        .filter(|f| !matches!(f, Format::F32 | Format::BF16))
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
    let w = Matrix::new(random, format, rows, cols);
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
            check_prompt(&pool, &mut random, format, (5, 0), 3, false);
        }
    }
}

#[test]
fn long_rows_and_many_tokens_are_summed_in_turns_and_bands() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(2);
    check_prompt(&pool, &mut random, Format::Q4_K, (40, 4608), 70, false);
    check_prompt(&pool, &mut random, Format::Q6_K, (17, 2304), 530, true);
    check_prompt(&pool, &mut random, Format::F16, (37, 4600), 70, false);
    check_prompt(&pool, &mut random, Format::F16, (17, 2309), 530, true);
}

#[test]
fn a_token_of_a_prompt_is_the_same_alone_and_in_company() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(3);
    for format in formats() {
        let w = Matrix::new(&mut random, format, 70, 768);
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

#[test]
fn prompts_of_f16_weights_are_near_the_reference() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(4);
    let w = Matrix::new(&mut random, Format::F16, 50, 1100);
    let x = random.floats(20 * 1100);
    let (decode, prefill) = (0, 20);
    let y = product(&pool, &w, &x, Rows { decode, prefill }, None, None);
    let Weight::Plain(plain) = w.weight() else {
        panic!("F16 has no packed form");
    };
    let mut expected = vec![0.0; 20 * 50];
    reference::matmul(plain, &x, None, &mut expected);
    for (at, (y, expected)) in y.iter().zip(&expected).enumerate() {
        let (x, w) = (&x[at / 50 * 1100..][..1100], &w.values[at % 50 * 1100..][..1100]);
        let magnitude: f64 = x.iter().zip(w).map(|(x, w)| f64::from((x * w).abs())).sum();
        let error = f64::from(y - expected).abs();
        assert!(
            error <= (F16_PROMPT_REL_MAX + SUM_REL_MAX) * magnitude,
            "{y} against {expected}"
        );
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
    fn prompts_of_any_number_of_columns(
        rows in 1_usize..80, cols in 1_usize..1400, decode in 0_usize..9, prefill in 1_usize..70,
        threads in 1_usize..4, add: bool, seed: u64,
    ) {
        let format = Format::F16;
        if let Some(pool) = amx(threads) {
            let random = &mut Random(seed);
            check_prompt(&pool, random, format, (rows, cols), prefill, add);
            let w = Matrix::new(random, format, rows, cols);
            let x = random.floats((decode + prefill) * cols);
            let both = product(&pool, &w, &x, Rows { decode, prefill }, None, None);
            let behind = &x[decode * cols..];
            let alone = product(&pool, &w, behind, Rows { decode: 0, prefill }, None, None);
            prop_assert_eq!(bits(&both[decode * rows..]), bits(&alone));
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
        let w = Matrix::new(&mut random, format, rows, blocks * format.block_len());
        let x = random.floats((tokens + prefill) * w.cols);
        let both = Rows { decode: tokens, prefill };
        let only = Rows { decode: tokens, prefill: 0 };
        let y = product(&tiles, &w, &x, both, None, None);
        let expected = product(&vectors, &w, &x[..tokens * w.cols], only, None, None);
        prop_assert_eq!(bits(&y[..tokens * rows]), bits(&expected));
    }
}
