//! Products by AMX tiles against the scalar reference and against the vector kernels.
//!
//! Invariant: rows of prompts are sums of products of bf16 values, or of their parts; generated tokens are bit for bit what VNNI gives.
#![allow(clippy::unwrap_used, clippy::needless_range_loop)]

mod inputs;

use half::bf16;
use hyprstream_kernels::{
    Format, Forms, Input, Isa, MatrixRef, PackedRef, Pool, Product, Rows, Weight, decode_row_with, multiply,
    pack, packed_bytes, reference,
};
use inputs::{Aligned, Random, bits, multiply_alone};
use proptest::prelude::*;

/// Sums of products in f32, of which each step is rounded: relative to the sum of the products' magnitudes.
const SUM_REL_MAX: f64 = 2e-6;

/// What prompts lose with weights in BF16, relative to the sum of the products' magnitudes. bf16 has 8 bits of precision, so
/// that rounding takes at most 2^-8 of a value: of an activation 2^-8 of 2^-8, since what the first rounding takes is a part of
/// its own.
const BF16_PROMPT_REL_MAX: f64 = 1.0 / (1 << 16) as f64;
/// As `BF16_PROMPT_REL_MAX` for F16, whose weights come in two parts as well: in all as much is lost again, where both low
/// parts meet.
const F16_PROMPT_REL_MAX: f64 = 2.0 / (1 << 16) as f64;

/// A matrix with its values: packed, or in F16 or BF16 as in a file.
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
        Matrix::of_file(random, format, (rows, cols), &blocks)
    }

    fn of_file(random: &mut Random, format: Format, (rows, cols): (usize, usize), blocks: &[u8]) -> Matrix {
        let w = MatrixRef::new(format, rows, cols, blocks).unwrap();
        let mut values = vec![0.0; rows * cols];
        decode_row_with(Isa::Scalar, format, blocks, &mut values);
        let (bytes, from) = if let Some(len) = packed_bytes(format, rows, cols) {
            let mut packed = Aligned::new(len);
            pack(&Pool::with_isa(1, Isa::Scalar).unwrap(), w, packed.as_mut_slice());
            (packed, 0)
        } else {
            let from = (random.bits() % 67) as usize;
            let mut file = Aligned::new(from + blocks.len() + 64);
            file.as_mut_slice().fill(0xff);
            file.as_mut_slice()[from..][..blocks.len()].copy_from_slice(blocks);
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

/// What tiles make of a product, but for the rounding of sums.
fn term(format: Format, x: f32, w: f32) -> f64 {
    let high = round(x);
    let both = high + round((f64::from(x) - high) as f32);
    match format {
        Format::BF16 => both * f64::from(w),
        Format::F16 => {
            // Rounded half away from zero.
            let high_w = f64::from(f32::from_bits((w.to_bits() + 0x8000) & 0xffff_0000));
            both * high_w + high * (f64::from(w) - high_w)
        }
        _ => high * round(w),
    }
}

/// Formats whose products with prompts are by tiles: all but F32.
fn formats() -> Vec<Format> {
    Format::ALL.into_iter().filter(|f| *f != Format::F32).collect()
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
                let term = term(format, x[token * cols + i], w.values[row * cols + i]);
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
    check_prompt(&pool, &mut random, Format::BF16, (17, 2309), 530, true);
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

/// Plain weights with rows of prompts, against the reference.
fn check_near(pool: &Pool, w: &Matrix, x: &[f32]) {
    let tokens = x.len() / w.cols;
    let rows = Rows {
        decode: 0,
        prefill: tokens,
    };
    let y = product(pool, w, x, rows, None, None);
    let plain = match w.weight() {
        Weight::Plain(plain) => Some(plain),
        Weight::Packed(_) => None,
    };
    let lost = match w.format {
        Format::F16 => F16_PROMPT_REL_MAX,
        _ => BF16_PROMPT_REL_MAX,
    };
    let mut expected = vec![0.0; tokens * w.rows];
    reference::matmul(plain.unwrap(), x, None, &mut expected);
    for (at, (y, expected)) in y.iter().zip(&expected).enumerate() {
        let x = &x[at / w.rows * w.cols..][..w.cols];
        let of_row = &w.values[at % w.rows * w.cols..][..w.cols];
        let terms = x.iter().zip(of_row).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let magnitude: f64 = terms.map(f64::abs).sum();
        let error = (f64::from(*y) - f64::from(*expected)).abs();
        assert!(
            error <= (lost + SUM_REL_MAX) * magnitude,
            "{:?}: {y} against {expected}",
            w.format
        );
    }
}

#[test]
fn prompts_of_plain_weights_are_near_the_reference() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(4);
    for format in [Format::F16, Format::BF16] {
        let w = Matrix::new(&mut random, format, 50, 1100);
        check_near(&pool, &w, &random.floats(20 * 1100));
    }
}

/// All columns alike, so that no error makes up for another. Weights of F16 from the least to the greatest.
#[test]
fn errors_of_one_direction_are_as_small() {
    const ROWS: u16 = 64;
    let Some(pool) = amx(2) else { return };
    let mut random = Random(5);
    let alike = |bits: u16| bits.to_le_bytes().repeat(100);
    let f16 = (0..ROWS).map(|row| if row == ROWS - 1 { 0x7bff } else { 1 + 463 * row });
    let bf16 = (0..ROWS).map(|row| 0x3000 + 61 * row);
    let files = [
        (Format::F16, f16.flat_map(alike).collect::<Vec<u8>>()),
        (Format::BF16, bf16.flat_map(alike).collect()),
    ];
    for (format, file) in files {
        let w = Matrix::of_file(&mut random, format, (usize::from(ROWS), 100), &file);
        let x: Vec<f32> = random.floats(70).iter().flat_map(|x| [*x; 100]).collect();
        check_near(&pool, &w, &x);
    }
}

/// What one input holds for some weights does not change what others get of it, nor does what it held before.
#[test]
fn packed_and_plain_weights_read_one_input() {
    let Some(pool) = amx(2) else { return };
    let mut random = Random(6);
    let matrices = [Format::Q4_K, Format::F16, Format::BF16, Format::F32]
        .map(|format| Matrix::new(&mut random, format, 37, 512));
    let rows = Rows {
        decode: 3,
        prefill: 45,
    };
    let x = random.floats(48 * 512);
    let mut input = Input::new(48, 512).unwrap();
    for of in [&matrices[..1], &matrices[..], &matrices[1..2], &matrices[..1]] {
        let forms = of.iter().map(|w| w.weight().forms());
        input.set(&pool, &x, 512, rows, forms.fold(Forms::default(), Forms::and));
        for w in of {
            let mut y = vec![f32::NAN; 48 * 37];
            let product = Product {
                w: w.weight(),
                bias: None,
                y: &mut y,
                add: false,
            };
            multiply(&pool, &input, &mut [product]);
            let alone = self::product(&pool, w, &x, rows, None, None);
            assert_eq!(bits(&y), bits(&alone), "{:?} of {}", w.format, of.len());
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
    fn prompts_of_any_number_of_columns(
        f16: bool, rows in 1_usize..80, cols in 1_usize..1400, decode in 0_usize..9, prefill in 1_usize..70,
        threads in 1_usize..4, add: bool, seed: u64,
    ) {
        let format = if f16 { Format::F16 } else { Format::BF16 };
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
