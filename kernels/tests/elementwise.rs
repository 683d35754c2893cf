//! Norms, rotation, activation and sums against the reference.
//!
//! Invariant under test: rows and values are independent of each other and of the threads.

#![allow(clippy::unwrap_used)]

mod inputs;

use hyprstream_kernels::{
    HeadNorms, KV_BLOCK, KvFormat, KvLayer, RopeLayout, Rotation, Span, log_softmax_at, place_heads,
    reference, rms_norm, rms_norm_in_place, silu_mul,
};
use inputs::{Random, bits, pools};
use proptest::prelude::*;

/// A sum of squares over up to some thousands of values in chains of 32 or 64, a root, two products.
const NORM_REL_MAX: f32 = 1e-5;
/// `exp` to 2e-7, an addition, a division, a product.
const SILU_REL_MAX: f32 = 1e-6;
/// Below this, `exp` stands in for anything smaller.
const SILU_ABS_MAX: f32 = 1e-30;
/// Two products and their sum, of values within 1.
const ROPE_ABS_MAX: f32 = 3e-7;

fn near(a: f32, b: f32, rel: f32, abs: f32) -> bool {
    (a - b).abs() <= rel * b.abs() + abs
}

fn check_norm(rows: usize, dim: usize, seed: u64) {
    let mut random = Random(seed);
    let (x, weight) = (random.floats(rows * dim), random.floats(dim));
    let mut expected = vec![0.0; x.len()];
    reference::rms_norm(&x, &weight, 1e-6, &mut expected);
    for pool in pools() {
        let mut out = vec![f32::NAN; x.len()];
        rms_norm(&pool, &x, &weight, 1e-6, &mut out);
        assert!(
            out.iter()
                .zip(&expected)
                .all(|(o, e)| near(*o, *e, NORM_REL_MAX, 0.0))
        );
        let mut in_place = x.clone();
        rms_norm_in_place(&pool, &mut in_place, &weight, 1e-6);
        assert_eq!(bits(&in_place), bits(&out));
        if rows > 0 {
            let mut last = vec![0.0; dim];
            rms_norm(&pool, &x[(rows - 1) * dim..], &weight, 1e-6, &mut last);
            assert_eq!(bits(&last), bits(&out[(rows - 1) * dim..]));
        }
    }
}

/// Heads that are normed and turned, as q and as k, and what the cache has then.
fn check_heads(tokens: usize, heads: usize, dim: usize, pairs: usize, layout: RopeLayout, seed: u64) {
    let mut random = Random(seed);
    let x = random.floats(tokens * heads * dim);
    let v = random.floats(tokens * heads * dim);
    let weights = [random.floats(dim), random.floats(dim)];
    let angles = random.floats(tokens * pairs);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles
        .iter()
        .map(|a| (7.0 * a).sin_cos())
        .map(|(s, c)| (c, s))
        .unzip();
    let blocks: Vec<u32> = (0..(tokens + 9).div_ceil(KV_BLOCK) as u32).collect();
    let span = Span {
        first: 0,
        tokens,
        start: 9,
        prefill: false,
        blocks: &blocks,
    };
    let norms = HeadNorms {
        q: &weights[0],
        k: &weights[1],
        eps: 1e-6,
    };
    for (pool, norms) in pools()
        .iter()
        .flat_map(|pool| [(pool, None), (pool, Some(norms))])
    {
        let ready = |weight: &[f32]| {
            let mut ready = x.clone();
            if norms.is_some() {
                rms_norm_in_place(pool, &mut ready, weight, 1e-6);
            }
            let normed = ready.clone();
            reference::rope(&mut ready, heads, dim, &cos, &sin, 2 * pairs, layout);
            (normed, ready)
        };
        let (mut q, mut k) = (x.clone(), x.clone());
        let mut layer = KvLayer::new(KvFormat::F32, blocks.len(), heads, dim).unwrap();
        let rotation = Rotation {
            cos: &cos,
            sin: &sin,
            pairs,
            layout,
        };
        place_heads(pool, &mut layer, &mut q, &mut k, &v, &[span], norms, rotation);
        for (out, weight) in [&q, &k].into_iter().zip(&weights) {
            let (normed, expected) = ready(weight);
            let all_near = out
                .iter()
                .zip(&expected)
                .all(|(o, e)| near(*o, *e, ROPE_ABS_MAX, ROPE_ABS_MAX));
            assert!(all_near, "{}", pool.isa().name());
            for (out, normed) in out.chunks_exact(dim).zip(normed.chunks_exact(dim)) {
                assert_eq!(bits(&out[2 * pairs..]), bits(&normed[2 * pairs..]));
            }
        }
        for (row, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
            let (position, head) = (9 + row / heads, row % heads);
            let (mut key, mut value) = (vec![f32::NAN; dim], vec![f32::NAN; dim]);
            let block = (position / KV_BLOCK) as u32;
            layer.read(block, head, position % KV_BLOCK, &mut key, &mut value);
            assert_eq!((bits(&key), bits(&value)), (bits(k), bits(v)));
        }
    }
}

fn check_elements(len: usize, seed: u64) {
    let mut random = Random(seed);
    let gate: Vec<f32> = random.floats(len).iter().map(|g| 30.0 * g).collect();
    let up = random.floats(len);
    let mut activated = gate.clone();
    reference::silu_mul(&mut activated, &up);
    for pool in pools() {
        let mut x = gate.clone();
        silu_mul(&pool, &mut x, &up);
        assert!(
            x.iter()
                .zip(&activated)
                .all(|(o, e)| near(*o, *e, SILU_REL_MAX, SILU_ABS_MAX))
        );
    }
}

#[test]
fn nothing_and_large_inputs() {
    for (rows, dim) in [(0, 5), (1, 1), (1, 5120), (700, 128), (40, 1000)] {
        check_norm(rows, dim, 3);
    }
    for len in [0, 1, 15, 4096, 4097, 50_001] {
        check_elements(len, 4);
    }
    for layout in [RopeLayout::Half, RopeLayout::Interleaved] {
        check_heads(0, 4, 64, 32, layout, 5);
        check_heads(90, 16, 64, 16, layout, 6);
        check_heads(2, 3, 10, 0, layout, 7);
    }
}

#[test]
fn silu_far_out() {
    for pool in pools() {
        let mut gate = vec![
            -1e30,
            -1000.0,
            -88.0,
            -0.0,
            0.0,
            88.0,
            1000.0,
            1e30,
            f32::INFINITY,
            f32::NAN,
        ];
        silu_mul(&pool, &mut gate, &[1.0; 10]);
        assert!(gate[0].abs() < 1e-7 && gate[1].abs() < 1e-30 && gate[2].abs() < 1e-35);
        assert_eq!(gate[3..9], [0.0, 0.0, 88.0, 1000.0, 1e30, f32::INFINITY]);
        assert!(gate[9].is_nan());
    }
}

#[test]
fn log_softmax_sums_to_one() {
    let logits: Vec<f32> = Random(8).floats(151_936).iter().map(|l| 20.0 * l).collect();
    let total: f64 = (0..logits.len())
        .step_by(997)
        .map(|i| f64::from(log_softmax_at(&logits, i)).exp())
        .sum();
    let expected: f64 = (0..logits.len())
        .step_by(997)
        .map(|i| f64::from(reference::log_softmax_at(&logits, i)).exp())
        .sum();
    assert!((total - expected).abs() < 1e-6 * expected);
    assert_eq!(log_softmax_at(&[5.0], 0), 0.0);
    assert!(log_softmax_at(&[0.0, f32::NEG_INFINITY], 1) == f32::NEG_INFINITY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn norms(rows in 0_usize..9, dim in 1_usize..400, seed: u64) {
        check_norm(rows, dim, seed);
    }

    #[test]
    fn rotations(tokens in 0_usize..5, heads in 1_usize..5, pairs in 0_usize..70, rest in 0_usize..20, half: bool, seed: u64) {
        let layout = if half { RopeLayout::Half } else { RopeLayout::Interleaved };
        check_heads(tokens, heads, 2 * pairs + rest + 1, pairs, layout, seed);
    }

    #[test]
    fn elements(len in 0_usize..3000, seed: u64) {
        check_elements(len, seed);
    }
}
