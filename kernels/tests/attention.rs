//! Attention over the paged cache against the reference over whole sequences.
//!
//! Invariant under test: a token's result depends neither on the batch, nor on its block table, nor on the threads.

#![allow(clippy::unwrap_used)]

mod inputs;

use half::f16;
use hyprstream_kernels::{
    Isa, KV_BLOCK, KvFormat, KvLayer, Pool, RopeLayout, Rotation, Span, attend, attend_scratch_bytes,
    place_heads, reference,
};
use inputs::{Random, bits, isas, pools};
use proptest::prelude::*;

/// Values are within 1 and weights sum to 1, so this is the rounding of scores (sums of up to 256 products, then
/// `exp` of them), of the weights (2e-7 each) and of their sum.
const ATTEND_ABS_MAX: f32 = 2e-5;

/// With values within 1 and weights that sum to 1, rounding both to bf16 (half of 2^-8 each) errs by 2^-8 at most; a score
/// errs by 2^-16 of the sum of its terms, below 50 here, and a weight by as much.
const WIDE_ABS_MAX: f32 = 5e-3;

/// Of vectors whose values are within 1, words of 16 bits round a length of at most 16 by 1e-4: with scores of up to
/// `3 / sqrt(dim)` times a product, that is 2e-4 of standard deviation at 256 values. This is five of them.
const WORDS_ABS_MAX: f32 = 1e-3;

/// One sequence: what the cache holds before the call, and the tokens of the call.
struct Sequence {
    start: usize,
    tokens: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    blocks: Vec<u32>,
}

/// Writes keys and values as they are.
fn write(pool: &Pool, layer: &mut KvLayer, k: &[f32], v: &[f32], spans: &[Span<'_>]) {
    let rotation = Rotation {
        cos: &[],
        sin: &[],
        pairs: 0,
        layout: RopeLayout::Half,
    };
    place_heads(pool, layer, &mut [], &mut k.to_vec(), v, spans, None, rotation);
}

/// What the cache makes of rows of `dim`.
fn stored(format: KvFormat, values: &[f32], dim: usize) -> Vec<f32> {
    let q8 = |group: &[f32]| {
        let scale = group.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
        let one = |v: &f32| {
            if scale > 0.0 {
                (v * (1.0 / scale)).round_ties_even() * scale
            } else {
                0.0
            }
        };
        group.iter().map(one).collect::<Vec<f32>>()
    };
    match format {
        KvFormat::F32 => values.to_vec(),
        KvFormat::F16 => values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
        KvFormat::Q8 => values
            .chunks(dim)
            .flat_map(|row| row.chunks(32).flat_map(q8))
            .collect(),
    }
}

struct Case {
    /// Attention of prompts, where spans are such.
    prefill: bool,
    format: KvFormat,
    kv_heads: usize,
    group: usize,
    dim: usize,
    window: Option<usize>,
    sequences: Vec<Sequence>,
    q: Vec<f32>,
    layer_blocks: usize,
}

impl Case {
    fn new(
        format: KvFormat,
        [kv_heads, group, dim]: [usize; 3],
        spans: &[(usize, usize)],
        window: Option<usize>,
        seed: u64,
    ) -> Case {
        let mut random = Random(seed);
        let needed = |&(start, tokens): &(usize, usize)| (start + tokens).div_ceil(KV_BLOCK);
        let layer_blocks = spans.iter().map(needed).sum::<usize>() + 2;
        // A permutation, so that neighbours in a sequence are no neighbours in the cache.
        let mut free: Vec<u32> = (0..layer_blocks as u32).collect();
        for i in (1..free.len()).rev() {
            free.swap(i, random.bits() as usize % (i + 1));
        }
        let sequences: Vec<Sequence> = spans
            .iter()
            .map(|span| {
                let len = (span.0 + span.1) * kv_heads * dim;
                let blocks = free.split_off(free.len() - needed(span));
                let (start, tokens) = *span;
                Sequence {
                    start,
                    tokens,
                    k: random.floats(len),
                    v: random.floats(len),
                    blocks,
                }
            })
            .collect();
        let tokens: usize = spans.iter().map(|span| span.1).sum();
        let q = random.floats(tokens * kv_heads * group * dim);
        Case {
            prefill: false,
            format,
            kv_heads,
            group,
            dim,
            window,
            sequences,
            q,
            layer_blocks,
        }
    }

    fn scale(&self) -> f32 {
        3.0 / (self.dim as f32).sqrt()
    }

    /// The spans of all sequences, in one batch.
    fn spans<'a>(&'a self) -> Vec<Span<'a>> {
        let mut first = 0;
        let span = |s: &'a Sequence| {
            first += s.tokens;
            Span {
                first: first - s.tokens,
                tokens: s.tokens,
                start: s.start,
                prefill: self.prefill,
                blocks: &s.blocks,
            }
        };
        self.sequences.iter().map(span).collect()
    }

    /// The cache after everything was written: first what came before, then the tokens of the call in one batch.
    fn layer(&self, pool: &Pool) -> KvLayer {
        let mut layer = KvLayer::new(self.format, self.layer_blocks, self.kv_heads, self.dim).unwrap();
        let row = self.kv_heads * self.dim;
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for s in &self.sequences {
            let before = Span {
                first: 0,
                tokens: s.start,
                start: 0,
                prefill: false,
                blocks: &s.blocks,
            };
            write(
                pool,
                &mut layer,
                &s.k[..s.start * row],
                &s.v[..s.start * row],
                &[before],
            );
            k.extend_from_slice(&s.k[s.start * row..]);
            v.extend_from_slice(&s.v[s.start * row..]);
        }
        write(pool, &mut layer, &k, &v, &self.spans());
        layer
    }

    fn run(&self, pool: &Pool, layer: &KvLayer, spans: &[Span<'_>]) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let heads = self.kv_heads * self.group;
        attend(
            pool,
            layer,
            &self.q,
            heads,
            spans,
            self.scale(),
            self.window,
            &mut out,
        );
        out
    }

    fn expected(&self) -> Vec<f32> {
        let (heads, mut out) = (self.kv_heads * self.group, vec![0.0; self.q.len()]);
        let mut rest = (&self.q[..], &mut out[..]);
        for s in &self.sequences {
            let len = s.tokens * heads * self.dim;
            let (q, q_rest) = rest.0.split_at(len);
            let (out, out_rest) = rest.1.split_at_mut(len);
            let [k, v] = [&s.k, &s.v].map(|values| stored(self.format, values, self.dim));
            let sequence = reference::Sequence {
                k: &k,
                v: &v,
                kv_heads: self.kv_heads,
                head_dim: self.dim,
            };
            reference::attend(sequence, q, heads, s.start, self.scale(), self.window, out);
            rest = (q_rest, out_rest);
        }
        out
    }

    fn prefill(self) -> Case {
        Case {
            prefill: true,
            ..self
        }
    }

    fn check(&self) {
        let expected = self.expected();
        for pool in pools() {
            let layer = self.layer(&pool);
            let out = self.run(&pool, &layer, &self.spans());
            for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
                let most = match pool.isa() {
                    _ if !self.prefill || self.format == KvFormat::F32 => ATTEND_ABS_MAX,
                    Isa::Amx => WIDE_ABS_MAX,
                    _ => WORDS_ABS_MAX,
                };
                let near = (out - expected).abs() <= most;
                assert!(near, "{} at {i}: {out} is not {expected}", pool.isa().name());
            }
        }
    }
}

const FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8];

#[test]
fn head_sizes_groups_and_windows() {
    for dim in [1, 20, 32, 64, 80, 96, 112, 128, 192, 256] {
        for (kv_heads, group) in [(1, 1), (2, 3), (1, 5), (1, 40), (3, 2)] {
            let spans = [(0, 3), (70, 1), (31, 40)];
            for (format, window) in [(FORMATS[0], None), (FORMATS[1], Some(33)), (FORMATS[2], None)] {
                let case = Case::new(format, [kv_heads, group, dim], &spans, window, dim as u64);
                case.check();
                case.prefill().check();
            }
        }
    }
}

#[test]
fn scratch_is_below_a_mebibyte_a_thread() {
    for isa in Isa::ALL {
        let (one, many) = (attend_scratch_bytes(isa, 1), attend_scratch_bytes(isa, 12));
        assert_eq!(many, 12 * one);
        assert!((1..1 << 20).contains(&one), "{isa:?}: {one}");
    }
}

/// More rows than a piece of the wide path takes, and chunks that all, some or none of a tile's rows see.
#[test]
fn long_prompts_in_one_piece() {
    for (group, dim, window) in [(2, 128, None), (1, 256, Some(200)), (16, 64, None)] {
        let case = Case::new(KvFormat::F16, [1, group, dim], &[(37, 600)], window, 5);
        case.prefill().check();
    }
}

/// Vectors as long as their greatest value or as all together, of one sign: no sum of words overflows, zeros weigh
/// nothing, and one that is not a number spoils the rows that see it, and none long before.
#[test]
fn prompts_of_extreme_vectors() {
    let (dim, tokens) = (256, 70);
    type Values = fn(usize) -> f32;
    let kinds: [Values; 5] = [
        |_| 1.0,
        |_| -1.0,
        |i| if i.is_multiple_of(256) { 1.0 } else { 0.0 },
        |i| if i % 256 == 255 { -1.0 } else { 1e-3 },
        |_| 0.0,
    ];
    for format in [KvFormat::F16, KvFormat::Q8] {
        for of_q in kinds {
            for of_k in kinds {
                let mut case = Case::new(format, [1, 1, dim], &[(0, tokens)], None, 1).prefill();
                case.q = (0..tokens * dim).map(of_q).collect();
                case.sequences[0].k = (0..tokens * dim).map(of_k).collect();
                case.check();
                case.sequences[0].v = (0..tokens * dim).map(of_k).collect();
                case.check();
            }
        }
    }
    let tokens = 300;
    let mut case = Case::new(KvFormat::F16, [1, 1, dim], &[(0, tokens)], None, 1).prefill();
    case.sequences[0].v[200 * dim + 3] = f32::NAN;
    case.sequences[0].k[260 * dim] = f32::NAN;
    for pool in pools() {
        let out = case.run(&pool, &case.layer(&pool), &case.spans());
        let nan = |token: usize| out[token * dim..][..dim].iter().filter(|v| v.is_nan()).count();
        for token in 0..tokens {
            let expected = match token {
                0..128 => 0..=0,
                // Zero times what is not a number is none either, and positions are weighed in chunks of up to 128.
                128..200 => 0..=dim,
                200..260 => 1..=dim,
                _ => dim..=dim,
            };
            assert!(expected.contains(&nan(token)), "{}: {token}", pool.isa().name());
        }
    }
}

/// Several key heads of a block in one piece, and the last piece with fewer.
#[test]
fn many_streams_of_one_token() {
    for (kv_heads, group) in [(8, 2), (5, 1), (3, 7)] {
        let spans: Vec<(usize, usize)> = (0..40).map(|i| (i * 3, 1 + i % 2)).collect();
        for format in FORMATS {
            Case::new(format, [kv_heads, group, 64], &spans, None, 6).check();
        }
    }
}

#[test]
fn no_spans_and_empty_spans_do_nothing() {
    let case = Case::new(KvFormat::F16, [2, 2, 32], &[(0, 0), (5, 0)], None, 1);
    case.check();
    let pool = Pool::new(1).unwrap();
    case.run(&pool, &case.layer(&pool), &[]);
}

#[test]
fn the_cache_keeps_what_was_written_and_nothing_else() {
    for format in FORMATS {
        for pool in pools() {
            let case = Case::new(format, [3, 1, 20], &[(33, 2)], None, 9);
            let (layer, s) = (case.layer(&pool), &case.sequences[0]);
            let [keys, values] = [&s.k, &s.v].map(|values| stored(format, values, 20));
            let written = |block: u32, slot: usize| {
                let index = s.blocks.iter().position(|b| *b == block)?;
                (index * KV_BLOCK + slot < 35).then_some(index * KV_BLOCK + slot)
            };
            for (block, slot, head) in (0..case.layer_blocks as u32)
                .flat_map(|b| (0..KV_BLOCK).flat_map(move |slot| (0..3).map(move |head| (b, slot, head))))
            {
                let (mut k, mut v) = ([f32::NAN; 20], [f32::NAN; 20]);
                layer.read(block, head, slot, &mut k, &mut v);
                for d in 0..20 {
                    let at = written(block, slot).map(|p| (p * 3 + head) * 20 + d);
                    let expected = [&keys, &values].map(|from| at.map_or(0.0, |at| from[at]));
                    assert_eq!([k[d], v[d]], expected);
                }
            }
        }
    }
}

#[test]
fn a_copied_block_has_the_first_slots_of_the_other_and_keeps_the_rest() {
    for format in FORMATS {
        let pool = Pool::new(1).unwrap();
        let case = Case::new(format, [3, 1, 20], &[(0, 96)], None, 4);
        let mut layer = case.layer(&pool);
        let blocks = &case.sequences[0].blocks;
        let row = |layer: &KvLayer, block: usize, head: usize, slot: usize| {
            let (mut k, mut v) = ([f32::NAN; 20], [f32::NAN; 20]);
            layer.read(blocks[block], head, slot, &mut k, &mut v);
            (k, v)
        };
        let before = case.layer(&pool);
        layer.copy_block(blocks[0], blocks[2], 13);
        for (block, head, slot) in
            (0..3).flat_map(|b| (0..3).flat_map(move |head| (0..KV_BLOCK).map(move |slot| (b, head, slot))))
        {
            let from = if block == 2 && slot < 13 { 0 } else { block };
            assert_eq!(row(&layer, block, head, slot), row(&before, from, head, slot));
        }
    }
}

#[test]
fn a_layer_too_large_is_refused() {
    assert!(KvLayer::new(KvFormat::F16, usize::MAX, 8, 128).is_none());
    assert!(KvLayer::new(KvFormat::F32, 1 << 40, 8, 128).is_none());
    assert_eq!(
        KvLayer::bytes(KvFormat::F16, 2, 8, 128),
        Some(2 * 2 * 8 * 32 * 128 * 2)
    );
    assert_eq!(KvLayer::bytes(KvFormat::F16, usize::MAX / 1000, 8, 128), None);
    assert_eq!(
        KvLayer::bytes(KvFormat::Q8, 2, 8, 80),
        Some(2 * 2 * 8 * 32 * (80 + 3 * 4))
    );
    assert_eq!(KvLayer::bytes(KvFormat::Q8, 1, 1, usize::MAX), None);
    assert!(KvLayer::new(KvFormat::F16, 0, 8, 128).is_some());
}

#[test]
#[should_panic(expected = "two spans write to one block")]
fn a_block_that_two_spans_write_is_refused() {
    let pool = Pool::new(1).unwrap();
    let mut layer = KvLayer::new(KvFormat::F16, 2, 1, 32).unwrap();
    let span = |first, start| Span {
        first,
        tokens: 1,
        start,
        prefill: false,
        blocks: &[1],
    };
    write(
        &pool,
        &mut layer,
        &[0.0; 64],
        &[0.0; 64],
        &[span(0, 3), span(1, 4)],
    );
}

#[test]
#[should_panic(expected = "spans lie one after the other")]
fn spans_that_overlap_are_refused() {
    let case = Case::new(KvFormat::F32, [1, 1, 32], &[(0, 3)], None, 1);
    let pool = Pool::new(1).unwrap();
    let span = case.spans()[0];
    case.run(&pool, &case.layer(&pool), &[span, span]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn agrees_with_the_reference(
        seed: u64,
        format in 0_usize..3,
        prefill: bool,
        shape in [1_usize..4, 1..6, 1..5],
        spans in prop::collection::vec((0_usize..130, 0_usize..40), 1..4),
        window in prop::option::of(1_usize..100),
    ) {
        let [kv_heads, group, dim] = shape;
        let case = Case::new(FORMATS[format], [kv_heads, group, 32 * dim], &spans, window, seed);
        Case { prefill, ..case }.check();
    }

    #[test]
    fn a_token_is_the_same_alone_and_in_a_batch(
        seed: u64,
        format in 0_usize..3,
        group in 1_usize..7,
        dim in 1_usize..9,
        spans in prop::collection::vec((0_usize..100, 1_usize..40), 2..4),
        window in prop::option::of(1_usize..100),
    ) {
        let case = Case::new(FORMATS[format], [2, group, 16 * dim], &spans, window, seed);
        let row = 2 * group * 16 * dim;
        for isa in isas() {
            let (one, three) = (Pool::with_isa(1, isa).unwrap(), Pool::with_isa(3, isa).unwrap());
            let layer = case.layer(&one);
            let batch = case.run(&one, &layer, &case.spans());
            prop_assert_eq!(bits(&batch), bits(&case.run(&three, &case.layer(&three), &case.spans())));
            for span in case.spans() {
                for t in 0..span.tokens {
                    let token = Span { first: span.first + t, tokens: 1, start: span.start + t, ..span };
                    let alone = case.run(&one, &layer, &[token]);
                    let at = token.first * row..(token.first + 1) * row;
                    prop_assert_eq!(bits(&alone[at.clone()]), bits(&batch[at]));
                }
            }
        }
    }

    #[test]
    fn a_prompt_gives_the_same_however_it_is_cut(
        seed: u64,
        format in 0_usize..3,
        group in 1_usize..9,
        dim in 4_usize..17,
        spans in prop::collection::vec((0_usize..300, 1_usize..300), 1..3),
        window in prop::option::of(1_usize..300),
        cuts in prop::collection::vec(0.0..1.0, 0..4),
    ) {
        let case = Case::new(FORMATS[format], [1, group, 16 * dim], &spans, window, seed).prefill();
        for isa in isas() {
            let (one, three) = (Pool::with_isa(1, isa).unwrap(), Pool::with_isa(3, isa).unwrap());
            let layer = case.layer(&one);
            let whole = case.run(&one, &layer, &case.spans());
            let mut pieces = Vec::new();
            for span in case.spans() {
                let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * span.tokens as f64) as usize).collect();
                ends.push(span.tokens);
                ends.sort_unstable();
                let mut at = 0;
                for end in ends {
                    pieces.push(Span { first: span.first + at, tokens: end - at, start: span.start + at, ..span });
                    at = end;
                }
            }
            prop_assert_eq!(bits(&whole), bits(&case.run(&three, &layer, &pieces)));
            for piece in &pieces {
                let alone = case.run(&one, &layer, &[*piece]);
                let row = group * 16 * dim;
                let at = piece.first * row..(piece.first + piece.tokens) * row;
                prop_assert_eq!(bits(&alone[at.clone()]), bits(&whole[at]));
            }
        }
    }
}
