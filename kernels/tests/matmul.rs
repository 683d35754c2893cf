//! Matrix products against the reference, and against themselves in other batches and with other threads.
//!
//! Invariant under test: a token's result does not depend on its batch or on the number of threads, to the last bit.

#![allow(clippy::unwrap_used)]

mod inputs;

use hyprstream_kernels::{
    Format, Forms, Input, Isa, MatrixRef, Pool, Product, Rows, Weight, multiply, reference,
};
use inputs::{Random, bits, isas, matmul, multiply_alone, pools};
use proptest::prelude::*;

/// Rounding of f32 sums, relative to the sum of magnitudes: a chain is at most 1024 / 8 products long, each of which
/// may round by 2^-24, and then a few chunks are added up.
const SUM_REL_MAX: f64 = 160.0 / (1 << 24) as f64;

struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    tokens: usize,
    bytes: Vec<u8>,
    offset: usize,
    x: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new(format: Format, [rows, cols, tokens]: [usize; 3], seed: u64) -> Case {
        let cols = cols.next_multiple_of(format.block_len());
        let mut random = Random(seed);
        let offset = (random.bits() % 5) as usize;
        let mut bytes = vec![0; offset];
        bytes.extend(random.blocks(format, rows * cols));
        let x = random.floats(tokens * cols);
        let bias = seed.is_multiple_of(2).then(|| random.floats(rows));
        Case {
            format,
            rows,
            cols,
            tokens,
            bytes,
            offset,
            x,
            bias,
        }
    }

    fn w(&self) -> MatrixRef<'_> {
        MatrixRef::new(self.format, self.rows, self.cols, &self.bytes[self.offset..]).unwrap()
    }

    fn run(&self, pool: &Pool) -> Vec<f32> {
        self.run_as(pool, self.tokens)
    }

    /// The first `decode` tokens as generated ones, the others as those of prompts.
    fn run_as(&self, pool: &Pool, decode: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.tokens * self.rows];
        let product = Product {
            w: Weight::Plain(self.w()),
            bias: self.bias.as_deref(),
            y: &mut y,
            add: false,
        };
        let prefill = self.tokens - decode;
        multiply_alone(pool, &self.x, Rows { decode, prefill }, product);
        y
    }

    /// What the sums' rounding may come to: the reference over magnitudes.
    fn magnitudes(&self) -> Vec<f64> {
        let mut y = Vec::new();
        let mut row = vec![0.0; self.cols];
        for x in self.x.chunks_exact(self.cols) {
            for o in 0..self.rows {
                reference::decode_row(self.format, self.w().row(o), &mut row);
                let sum: f64 = row.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum();
                y.push(sum + self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[o].abs())));
            }
        }
        y
    }

    fn check(&self, pools: &[Pool]) {
        let mut expected = vec![0.0; self.tokens * self.rows];
        reference::matmul(self.w(), &self.x, self.bias.as_deref(), &mut expected);
        let magnitudes = self.magnitudes();
        for pool in pools {
            for (i, (y, e)) in self.run(pool).iter().zip(&expected).enumerate() {
                let error = (f64::from(*y) - f64::from(*e)).abs();
                let (rows, cols, tokens) = (self.rows, self.cols, self.tokens);
                assert!(
                    error <= SUM_REL_MAX * magnitudes[i],
                    "{:?} {rows}x{cols}, {tokens} tokens, {}: {y} is not {e} at {i}",
                    self.format,
                    pool.isa().name()
                );
            }
        }
    }
}

#[test]
fn odd_shapes_of_every_format() {
    let pools = pools();
    for format in Format::ALL {
        for (rows, cols) in [
            (1, 1),
            (3, 31),
            (4, 33),
            (5, 257),
            (17, 1000),
            (9, 1040),
            (66, 2100),
        ] {
            for tokens in [1, 2, 3, 5, 6, 7, 13] {
                Case::new(format, [rows, cols, tokens], (rows + tokens) as u64).check(&pools);
            }
        }
    }
}

#[test]
fn no_tokens_and_no_rows_do_nothing() {
    let pool = Pool::new(2).unwrap();
    let case = Case::new(Format::Q8_0, [3, 64, 0], 1);
    assert!(case.run(&pool).is_empty());
    let empty = MatrixRef::new(Format::F32, 0, 8, &[]).unwrap();
    matmul(&pool, empty, &[0.0; 16], None, &mut []);
    multiply(&pool, &Input::new(1, 8).unwrap(), &mut []);
}

#[test]
fn a_matrix_of_the_wrong_length_is_refused() {
    assert!(MatrixRef::new(Format::Q8_0, 2, 32, &[0; 67]).is_none());
    assert!(MatrixRef::new(Format::Q8_0, 2, 33, &[0; 68]).is_none());
    assert!(MatrixRef::new(Format::F32, usize::MAX, 2, &[]).is_none());
}

#[test]
fn ten_matrices_in_one_pass() {
    let mut random = Random(5);
    let cases: Vec<Case> = (0..10)
        .map(|i| Case::new(Format::ALL[i % 8], [10 + 7 * i, 512, 3], 2 * i as u64))
        .collect();
    let x = random.floats(3 * 512);
    let rows = Rows {
        decode: 0,
        prefill: 3,
    };
    for pool in pools() {
        let mut input = Input::new(3, 512).unwrap();
        let forms = cases.iter().map(|case| Weight::Plain(case.w()).forms());
        input.set(&pool, &x, 512, rows, forms.fold(Forms::default(), Forms::and));
        let mut together: Vec<Vec<f32>> = cases.iter().map(|case| vec![f32::NAN; 3 * case.rows]).collect();
        let mut products: Vec<Product<'_>> = cases
            .iter()
            .zip(&mut together)
            .map(|(case, y)| Product {
                w: Weight::Plain(case.w()),
                bias: case.bias.as_deref(),
                y,
                add: false,
            })
            .collect();
        multiply(&pool, &input, &mut products);
        for (case, together) in cases.iter().zip(&together) {
            let mut alone = vec![0.0; 3 * case.rows];
            let product = Product {
                w: Weight::Plain(case.w()),
                bias: case.bias.as_deref(),
                y: &mut alone,
                add: false,
            };
            multiply_alone(&pool, &x, rows, product);
            assert_eq!(bits(together), bits(&alone));
        }
    }
}

#[test]
fn infinite_weights_and_inputs_do_not_panic() {
    for pool in pools() {
        for format in Format::ALL {
            let bytes = vec![0xff; 5 * format.row_bytes(256).unwrap()];
            let w = MatrixRef::new(format, 5, 256, &bytes).unwrap();
            for tokens in [1, 4] {
                for (decode, prefill) in [(tokens, 0), (0, tokens)] {
                    let mut y = vec![0.0; 5 * tokens];
                    let product = Product {
                        w: Weight::Plain(w),
                        bias: None,
                        y: &mut y,
                        add: false,
                    };
                    let x = vec![f32::INFINITY; 256 * tokens];
                    multiply_alone(&pool, &x, Rows { decode, prefill }, product);
                    assert!(y.iter().all(|y| !y.is_finite()));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn agrees_with_the_reference(
        seed: u64, pick in 0..Format::ALL.len(), rows in 1_usize..70, cols in 1_usize..1400, tokens in 1_usize..9,
    ) {
        Case::new(Format::ALL[pick], [rows, cols, tokens], seed).check(&pools());
    }

    /// Tiles, which F16 and BF16 have, are tested in `tiles`.
    #[test]
    fn roles_make_no_difference_without_tiles(
        seed: u64, pick in 0..Format::ALL.len(), rows in 1_usize..70, cols in 1_usize..1400, decode in 0_usize..5,
        prefill in 1_usize..9,
    ) {
        let case = Case::new(Format::ALL[pick], [rows, cols, decode + prefill], seed);
        for pool in pools() {
            if pool.isa() < Isa::Amx || case.format == Format::F32 {
                prop_assert_eq!(bits(&case.run_as(&pool, decode)), bits(&case.run(&pool)));
            }
        }
    }

    #[test]
    fn a_token_is_the_same_alone_and_in_a_batch(
        seed: u64, pick in 0..Format::ALL.len(), rows in 1_usize..40, cols in 1_usize..2500, tokens in 2_usize..15,
    ) {
        let case = Case::new(Format::ALL[pick], [rows, cols, tokens], seed);
        for isa in isas() {
            let (one, three) = (Pool::with_isa(1, isa).unwrap(), Pool::with_isa(3, isa).unwrap());
            let batch = case.run(&one);
            prop_assert_eq!(bits(&batch), bits(&case.run(&three)));
            for (x, batch) in case.x.chunks_exact(case.cols).zip(batch.chunks_exact(rows)) {
                let mut alone = vec![f32::NAN; rows];
                matmul(&one, case.w(), x, case.bias.as_deref(), &mut alone);
                prop_assert_eq!(bits(&alone), bits(batch));
            }
        }
    }
}
