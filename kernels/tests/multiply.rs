//! Products with packed weights against the exact rule of the int8 path, and against themselves in other batches.
//!
//! Invariant under test: a row's outputs are those of the rule to the last bit, whatever its batch, on every instruction
//! set that fuses multiplication and addition (portable code does not, and is held to the same rule without fusing).

#![allow(clippy::unwrap_used)]

mod inputs;

use hyprstream_kernels::{
    Format, Forms, Input, Isa, MatrixRef, PackedRef, Pool, Product, Rows, Weight, multiply, pack,
    packed_bytes, reference, rms_norm, silu_mul,
};
use inputs::{Aligned, PACKED, Random, bits, isas, multiply_alone, plain_product, pools};
use proptest::prelude::*;

/// Floats, beside the form that weights want.
const PLAIN: Forms = Forms {
    plain: true,
    halves: false,
    by_32: false,
    by_256: false,
};

/// Error of an int8 product, relative to the sum over groups of magnitudes: an activation is off by at most half a step
/// of 1/127 of the greatest that shares its scale, plus the rounding of f32 sums.
const INT8_STEP: f64 = 0.51 / 127.0;

struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    file: Vec<u8>,
    packed: Aligned,
    x: Vec<f32>,
    tokens: usize,
    bias: Option<Vec<f32>>,
    start: Vec<f32>,
    add: bool,
}

impl Case {
    fn new(format: Format, [rows, cols, tokens]: [usize; 3], seed: u64) -> Case {
        let cols = cols.next_multiple_of(format.block_len());
        let mut random = Random(seed);
        let file = random.blocks(format, rows * cols);
        let w = MatrixRef::new(format, rows, cols, &file).unwrap();
        let mut packed = Aligned::new(packed_bytes(format, rows, cols).unwrap());
        pack(&Pool::new(1).unwrap(), w, packed.as_mut_slice());
        let x = random.floats(tokens * cols);
        Case {
            format,
            rows,
            cols,
            packed,
            x,
            tokens,
            bias: seed.is_multiple_of(3).then(|| random.floats(rows)),
            start: random.floats(tokens * rows),
            add: seed.is_multiple_of(2),
            file,
        }
    }

    fn w(&self) -> MatrixRef<'_> {
        MatrixRef::new(self.format, self.rows, self.cols, &self.file).unwrap()
    }

    fn packed(&self) -> PackedRef<'_> {
        PackedRef::new(self.format, self.rows, self.cols, self.packed.as_slice()).unwrap()
    }

    /// The outputs of tokens `range`, as decode rows of one step.
    fn run(&self, pool: &Pool, range: std::ops::Range<usize>) -> Vec<f32> {
        let mut input = Input::new(range.len(), self.cols).unwrap();
        let rows = Rows {
            decode: range.len(),
            prefill: 0,
        };
        let x = &self.x[range.start * self.cols..range.end * self.cols];
        let w = Weight::Packed(self.packed());
        input.set(pool, x, self.cols, rows, w.forms().and(PLAIN));
        let mut y = self.start[range.start * self.rows..range.end * self.rows].to_vec();
        let product = Product {
            w,
            bias: self.bias.as_deref(),
            y: &mut y,
            add: self.add,
        };
        multiply(pool, &input, &mut [product]);
        y
    }

    /// The rule, written down.
    fn expected(&self, fused: bool) -> Vec<f32> {
        let fma = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
        let mut y = self.start.clone();
        for row in 0..self.rows {
            let weights = Row::new(self.format, self.w().row(row));
            for token in 0..self.tokens {
                let x = &self.x[token * self.cols..][..self.cols];
                let acc = match self.format.block_len() {
                    256 => weights.by_256(x, fma),
                    _ => weights.by_32(x, fma),
                };
                let y = &mut y[token * self.rows + row];
                let sum = self.bias.as_ref().map_or(acc, |bias| acc + bias[row]);
                *y = if self.add { *y + sum } else { sum };
            }
        }
        y
    }

    fn check(&self) {
        for isa in isas() {
            let expected = self.expected(isa != Isa::Scalar);
            for threads in [1, 3] {
                let pool = Pool::with_isa(threads, isa).unwrap();
                let y = self.run(&pool, 0..self.tokens);
                let at = (self.format.name(), isa.name(), self.rows, self.cols, self.tokens);
                assert_eq!(bits(&y), bits(&expected), "{at:?}");
                for token in 0..self.tokens.min(3) {
                    let alone = self.run(&pool, token..token + 1);
                    assert_eq!(
                        bits(&alone),
                        bits(&expected[token * self.rows..][..self.rows]),
                        "{at:?}"
                    );
                }
            }
        }
    }
}

/// A row of weights by its groups, out of the reference's floats.
struct Row {
    len: usize,
    groups: Vec<WeightGroup>,
}

struct WeightGroup {
    /// What its block's `d` and `-dmin` are multiplied with; 1 where groups have scales of their own.
    whole: (i32, i32),
    /// Those of the block, or of the group.
    scale: f32,
    min: Option<f32>,
    /// Codes minus the offset.
    codes: Vec<i32>,
}

impl Row {
    /// Groups of 32 with scales of their own.
    fn by_32(&self, x: &[f32], fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
        let mut acc = 0.0;
        for (group, x) in self.groups.iter().zip(x.chunks_exact(32)) {
            let (scale, q) = int8(x);
            let dot: i32 = group.codes.iter().zip(&q).map(|(c, q)| c * q).sum();
            acc = fma(dot as f32, group.scale * scale, acc);
            if let Some(min) = group.min {
                acc = fma(min, scale * q.iter().sum::<i32>() as f32, acc);
            }
        }
        acc
    }

    /// Blocks of 256, whose groups have whole numbers.
    fn by_256(&self, x: &[f32], fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
        let mut acc = 0.0;
        for (block, x) in self.groups.chunks_exact(256 / self.len).zip(x.chunks_exact(256)) {
            let (scale, q) = int8(x);
            let (mut dot, mut low) = (0, 0);
            for (group, q) in block.iter().zip(q.chunks_exact(self.len)) {
                let of_group: i32 = group.codes.iter().zip(q).map(|(c, q)| c * q).sum();
                dot += group.whole.0 * of_group;
                low += group.whole.1 * q.iter().sum::<i32>();
            }
            let total = match block[0].min {
                Some(min) => fma(dot as f32, block[0].scale, low as f32 * min),
                None => dot as f32 * block[0].scale,
            };
            acc = fma(total, scale, acc);
        }
        acc
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

impl Row {
    /// Scales are read here a second time, from the file's bytes; codes come from dividing the reference's floats by them.
    fn new(format: Format, bytes: &[u8]) -> Row {
        let len = match format {
            Format::Q2_K | Format::Q3_K | Format::Q6_K => 16,
            _ => 32,
        };
        let mut groups = Vec::new();
        for block in bytes.chunks_exact(format.block_bytes()) {
            let mut values = vec![0.0; format.block_len()];
            reference::decode_row(format, block, &mut values);
            for (g, values) in values.chunks_exact(len).enumerate() {
                let (d, dmin, whole) = scale_of(format, block, g);
                let (scale, min) = (d * whole.0 as f32, dmin.map(|dmin| dmin * whole.1 as f32));
                let code = |v: &f32| {
                    let code = (f64::from(*v) - f64::from(min.unwrap_or(0.0))) / f64::from(scale);
                    if scale == 0.0 { 0 } else { code.round() as i32 }
                };
                groups.push(WeightGroup {
                    whole,
                    scale: d,
                    min: dmin,
                    codes: values.iter().map(code).collect(),
                });
            }
        }
        Row { len, groups }
    }
}

/// `d` and `-dmin`, and what the group multiplies them with.
fn scale_of(format: Format, b: &[u8], g: usize) -> (f32, Option<f32>, (i32, i32)) {
    let six = |at: usize| {
        let (s, m) = if g < 4 {
            (b[at + g] & 63, b[at + g + 4] & 63)
        } else {
            (
                b[at + g + 4] & 15 | b[at + g - 4] >> 6 << 4,
                b[at + g + 4] >> 4 | b[at + g] >> 6 << 4,
            )
        };
        let whole = (i32::from(s), i32::from(m));
        (half_at(b, 0), Some(-half_at(b, 2)), whole)
    };
    match format {
        Format::Q4_1 | Format::Q5_1 => (half_at(b, 0), Some(half_at(b, 2)), (1, 1)),
        Format::Q2_K => (
            half_at(b, 80),
            Some(-half_at(b, 82)),
            (i32::from(b[g] & 15), i32::from(b[g] >> 4)),
        ),
        Format::Q3_K => {
            let low = b[96 + g % 8] >> (g / 8 * 4) & 15;
            let high = b[104 + g % 4] >> (g / 4 * 2) & 3;
            (half_at(b, 108), None, (i32::from(low | high << 4) - 32, 0))
        }
        Format::Q4_K | Format::Q5_K => six(4),
        Format::Q6_K => (half_at(b, 208), None, (i32::from(b[192 + g] as i8), 0)),
        Format::IQ4_XS => {
            let low = b[4 + g / 2] >> (g % 2 * 4) & 15;
            let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * g) & 3;
            let whole = i32::from(low) + 16 * i32::from(high) - 32;
            (half_at(b, 0), None, (whole, 0))
        }
        Format::MXFP4 => (2_f32.powi(i32::from(b[0]) - 128), None, (1, 0)),
        _ => (half_at(b, 0), None, (1, 0)),
    }
}

fn int8(x: &[f32]) -> (f32, Vec<i32>) {
    let most = x.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
    let q = |x: &f32| (x * (127.0 / most)).round_ties_even() as i32;
    let q = x.iter().map(|x| if most > 0.0 { q(x) } else { 0 }).collect();
    (most / 127.0, q)
}

#[test]
fn every_number_of_rows_follows_the_rule() {
    for (i, format) in PACKED.into_iter().enumerate() {
        for tokens in [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 40] {
            Case::new(format, [73, 300, tokens], (i + tokens) as u64).check();
        }
    }
}

#[test]
fn odd_shapes_follow_the_rule() {
    for (i, format) in PACKED.into_iter().enumerate() {
        for shape in [
            [1, 32, 1],
            [15, 96, 2],
            [64, 256, 1],
            [65, 2816, 3],
            [200, 512, 6],
            [0, 64, 2],
            [5, 0, 2],
            [5, 64, 0],
        ] {
            Case::new(format, shape, i as u64).check();
        }
    }
}

/// All codes at their ends with activations at theirs: where 16-bit sums would saturate.
#[test]
fn the_largest_products_do_not_saturate() {
    for format in PACKED {
        for fill in [0x00, 0xff, 0x0f, 0x80, 0x7f] {
            let mut case = Case::new(format, [16, 512, 2], 1);
            for block in case.file.chunks_exact_mut(format.block_bytes()) {
                let kept = block.to_vec();
                block.fill(fill);
                // Scales stay sane: they are among the first 4 or the last 4 bytes.
                let last = block.len() - 4;
                block[..4].copy_from_slice(&kept[..4]);
                block[last..].copy_from_slice(&kept[last..]);
            }
            let file = case.file.clone();
            let w = MatrixRef::new(format, case.rows, case.cols, &file).unwrap();
            pack(&Pool::new(1).unwrap(), w, case.packed.as_mut_slice());
            for (i, x) in case.x.iter_mut().enumerate() {
                *x = if i < case.cols { 1.0 } else { -1.0 };
            }
            case.check();
        }
    }
}

#[test]
fn strange_activations_stay_in_their_row() {
    let mut case = Case::new(Format::Q4_K, [20, 512, 4], 1);
    for (x, value) in case
        .x
        .chunks_exact_mut(512)
        .zip([f32::NAN, f32::INFINITY, 1e-45, 3e38])
    {
        x[7] = value;
        x[300] = -value;
    }
    case.x[2 * 512..3 * 512].iter_mut().for_each(|x| *x *= 1e-44);
    case.bias = None;
    case.add = false;
    for pool in pools() {
        let y = case.run(&pool, 0..4);
        assert!(y[..40].iter().all(|y| y.is_nan()), "what is not finite shows");
        assert!(y[40..60].iter().all(|y| y.is_finite() && y.abs() < 1e-30));
        assert_eq!(bits(&y[60..]), bits(&case.run(&pool, 3..4)));
    }
    case.x.fill(0.0);
    for pool in pools() {
        assert!(case.run(&pool, 0..4).iter().all(|y| *y == 0.0));
    }
}

#[test]
fn products_are_near_those_of_floats() {
    for format in PACKED {
        let mut case = Case::new(format, [40, 1024, 3], 5);
        case.add = false;
        let mut expected = vec![0.0; 3 * 40];
        reference::matmul(case.w(), &case.x, case.bias.as_deref(), &mut expected);
        let mut row = vec![0.0; 1024];
        for pool in pools() {
            let y = case.run(&pool, 0..3);
            for o in 0..40 {
                reference::decode_row(format, case.w().row(o), &mut row);
                let sum: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
                for t in 0..3 {
                    let error = f64::from(y[t * 40 + o] - expected[t * 40 + o]).abs();
                    assert!(error <= sum * INT8_STEP, "{} {error} {sum}", format.name());
                }
            }
        }
    }
}

#[test]
fn several_products_of_both_kinds_share_a_pass() {
    for pool in pools() {
        let cases = [
            Case::new(Format::Q4_K, [48, 512, 5], 2),
            Case::new(Format::Q6_K, [16, 512, 5], 3),
            Case::new(Format::Q8_0, [100, 512, 5], 4),
        ];
        let x = &cases[0].x;
        let mut input = Input::new(5, 512).unwrap();
        let rows = Rows {
            decode: 2,
            prefill: 3,
        };
        let forms = cases.iter().map(|case| Weight::Packed(case.packed()).forms());
        let plain = Random(1).blocks(Format::F16, 30 * 512);
        let plain = MatrixRef::new(Format::F16, 30, 512, &plain).unwrap();
        let forms = forms.fold(Weight::Plain(plain).forms(), Forms::and);
        input.set(&pool, x, 512, rows, forms);
        let mut ys = [48, 16, 100, 30].map(|rows| vec![1.0; 5 * rows]);
        let [a, b, c, d] = &mut ys;
        let product = |w, y, add| Product {
            w,
            bias: None,
            y,
            add,
        };
        multiply(
            &pool,
            &input,
            &mut [
                product(Weight::Packed(cases[0].packed()), a, false),
                product(Weight::Packed(cases[1].packed()), b, true),
                product(Weight::Packed(cases[2].packed()), c, false),
                product(Weight::Plain(plain), d, true),
            ],
        );
        let mut expected = vec![1.0; 5 * 30];
        let alone = product(Weight::Plain(plain), &mut expected, true);
        multiply_alone(&pool, x, rows, alone);
        assert_eq!(bits(&ys[3]), bits(&expected));
        for (case, y) in cases.iter().zip(&ys) {
            let mut sums = vec![0.0; y.len()];
            reference::matmul(case.w(), x, None, &mut sums);
            let one = if std::ptr::eq(y, &ys[1]) { 1.0 } else { 0.0 };
            let most = sums.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            for (y, sum) in y.iter().zip(&sums) {
                assert!((y - sum - one).abs() < 0.1 * most + 0.05, "{y} {sum}");
            }
        }
    }
}

/// Plain weights give row by row the same as together, with a residual or without.
#[test]
fn plain_products_do_not_depend_on_the_batch() {
    let (rows, cols, tokens) = (37, 2100, 7);
    let mut random = Random(9);
    let file = random.blocks(Format::BF16, rows * cols);
    let w = MatrixRef::new(Format::BF16, rows, cols, &file).unwrap();
    let x = random.floats(tokens * cols);
    let start = random.floats(tokens * rows);
    for pool in pools() {
        let run = |x: &[f32], y: &mut [f32], add| plain_product(&pool, w, x, None, y, add);
        let (mut expected, mut y) = (vec![0.0; tokens * rows], vec![f32::NAN; tokens * rows]);
        for (x, expected) in x.chunks_exact(cols).zip(expected.chunks_exact_mut(rows)) {
            run(x, expected, false);
        }
        run(&x, &mut y, false);
        assert_eq!(bits(&y), bits(&expected));
        let mut together = start.clone();
        run(&x, &mut together, true);
        let mut alone = start.clone();
        for (x, y) in x.chunks_exact(cols).zip(alone.chunks_exact_mut(rows)) {
            run(x, y, true);
        }
        assert_eq!(bits(&together), bits(&alone));
    }
}

/// Fused conversions are those of the separate kernels followed by `set`.
#[test]
fn fused_conversions_are_those_of_separate_kernels() {
    let case = Case::new(Format::Q5_K, [50, 512, 6], 1);
    let mut random = Random(3);
    let (weight, up) = (random.floats(512), random.floats(6 * 512));
    for pool in pools() {
        let run = |fill: &dyn Fn(&mut Input, Rows)| {
            let mut input = Input::new(6, 512).unwrap();
            fill(
                &mut input,
                Rows {
                    decode: 4,
                    prefill: 2,
                },
            );
            let mut y = vec![0.0; 6 * 50];
            let w = Weight::Packed(case.packed());
            let product = Product {
                w,
                bias: None,
                y: &mut y,
                add: false,
            };
            multiply(&pool, &input, &mut [product]);
            bits(&y)
        };
        let forms = Weight::Packed(case.packed()).forms();
        let mut normed = vec![0.0; case.x.len()];
        rms_norm(&pool, &case.x, &weight, 1e-6, &mut normed);
        let fused = run(&|input, rows| input.set_norm(&pool, &case.x, &weight, 1e-6, rows, forms));
        assert_eq!(
            fused,
            run(&|input, rows| input.set(&pool, &normed, 512, rows, forms))
        );
        let mut gated = case.x.clone();
        silu_mul(&pool, &mut gated, &up);
        let fused = run(&|input, rows| input.set_silu_mul(&pool, &case.x, &up, 512, rows, forms));
        assert_eq!(
            fused,
            run(&|input, rows| input.set(&pool, &gated, 512, rows, forms))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_shape_follows_the_rule(seed: u64, pick in 0..PACKED.len(), rows in 1_usize..150, cols in 1_usize..900, tokens in 1_usize..12) {
        Case::new(PACKED[pick], [rows, cols, tokens], seed).check();
    }
}
