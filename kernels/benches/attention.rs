//! Prints how fast attention is: a whole prompt's, and a step's over caches that exceed the processor's; and the shares
//! that this is of what the machine gives to loops that do nothing else.
//!
//! Invariant: queries and keys are as large as a model's (scores of some units), since exact zeros would skip work.
//! `cargo bench -p hyprstream-kernels --bench attention -- [threads] [isa] [decode | prompts | wide]`: all, or steps
//! alone, prompts alone, prompts' own path alone.

#[path = "speed/limits/mod.rs"]
mod limits;

use hyprstream_kernels::{
    Isa, KV_BLOCK, KvFormat, KvLayer, Pool, RopeLayout, Rotation, Span, attend, place_heads,
};
use limits::{Kind, Limits, Speed, best};

/// Qwen3-0.6B: the heads of queries and keys, values of a head, layers.
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const DIM: usize = 128;
const LAYERS: usize = 28;

/// Repeatable numbers between -2 and 2.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 4.0
    };
    (0..len).map(|_| number()).collect()
}

/// A layer in which every block is written.
fn filled(pool: &Pool, format: KvFormat, blocks: usize) -> Option<KvLayer> {
    let mut layer = KvLayer::new(format, blocks, KV_HEADS, DIM)?;
    let width = KV_HEADS * DIM;
    let (mut k, v) = (numbers(KV_BLOCK * width, 1), numbers(KV_BLOCK * width, 2));
    let rotation = Rotation {
        cos: &[],
        sin: &[],
        pairs: 0,
        layout: RopeLayout::Half,
    };
    for block in 0..blocks as u32 {
        k.rotate_left(37);
        let span = Span {
            first: 0,
            tokens: KV_BLOCK,
            start: 0,
            prefill: false,
            blocks: &[block],
        };
        place_heads(pool, &mut layer, &mut [], &mut k, &v, &[span], None, rotation);
    }
    Some(layer)
}

/// Where the wide path is taken, what multiplies; operations are counted as if scores took one product each (tiles make
/// them of three).
fn kind(pool: &Pool, prefill: bool) -> Kind {
    match pool.isa() {
        Isa::Amx if prefill => Kind::Bf16Tiles,
        _ if prefill => Kind::Int16,
        _ => Kind::F32,
    }
}

/// What stands above such lines.
fn heading(what: &str) {
    println!("\n{what:<46} {:>9} {}", "ms", Speed::HEADING);
}

/// `seconds` are those of all layers.
fn line(what: &str, seconds: f64, speed: &Speed, kind: Kind) {
    println!("{what:<46} {:9.2} {speed} of {}", seconds * 1e3, kind.name());
}

/// All layers' attention of a prompt in chunks of 512 tokens, by tiles or vectors and by f32 alone.
fn prompts(pool: &Pool, limits: &Limits, tokens: usize, exact: bool) {
    let blocks: Vec<u32> = (0..(tokens / KV_BLOCK) as u32).collect();
    let q = numbers(512 * HEADS * DIM, 3);
    for format in [KvFormat::F16, KvFormat::Q8] {
        let Some(layer) = filled(pool, format, blocks.len()) else {
            continue;
        };
        let mut outs = [vec![0.0; q.len()], vec![0.0; q.len()]];
        for (prefill, out) in [true, false].into_iter().zip(&mut outs) {
            if !prefill && !exact {
                continue;
            }
            let mut bytes = 0;
            let seconds = best(if tokens > 512 { 2 } else { 20 }, || {
                bytes = 0;
                for start in (0..tokens).step_by(512) {
                    let span = Span {
                        first: 0,
                        tokens: 512,
                        start,
                        prefill,
                        blocks: &blocks,
                    };
                    attend(pool, &layer, &q, HEADS, &[span], 0.1, None, out);
                    let seen = (start + 512) / KV_BLOCK;
                    bytes += KvLayer::bytes(format, seen, KV_HEADS, DIM).unwrap_or(0);
                }
            });
            let path = if prefill { "wide" } else { "f32" };
            let kind = kind(pool, prefill);
            let speed = limits.speed(kind, bytes, 2 * tokens * tokens * HEADS * DIM, seconds);
            let what = format!("prompt of {tokens} {format:?}, {path}");
            line(&what, seconds * LAYERS as f64, &speed, kind);
        }
        if exact {
            let [wide, plain] = &outs;
            let off = wide.iter().zip(plain).map(|(w, p)| f64::from((w - p).abs()));
            let (worst, sum) = (off.clone().fold(0.0, f64::max), off.sum::<f64>());
            println!(
                "    wide is off by {worst:.1e}, {:.1e} in the mean",
                sum / wide.len() as f64
            );
        }
    }
}

/// One step of some streams, over layer after layer, so that keys and values come from memory.
fn streams(pool: &Pool, limits: &Limits, streams: usize, positions: usize, tokens: usize) {
    let each = positions.div_ceil(KV_BLOCK);
    for format in [KvFormat::F16, KvFormat::Q8] {
        let layers: Vec<KvLayer> = (0..LAYERS)
            .filter_map(|_| filled(pool, format, each * streams))
            .collect();
        let blocks: Vec<u32> = (0..(each * streams) as u32).collect();
        let spans: Vec<Span<'_>> = blocks
            .chunks_exact(each)
            .enumerate()
            .map(|(index, blocks)| Span {
                first: index * tokens,
                tokens,
                start: positions - tokens,
                prefill: false,
                blocks,
            })
            .collect();
        let q = numbers(streams * tokens * HEADS * DIM, 3);
        let mut out = vec![0.0; q.len()];
        let seconds = best(8, || {
            for layer in &layers {
                attend(pool, layer, &q, HEADS, &spans, 0.1, None, &mut out);
            }
        });
        let bytes = KvLayer::bytes(format, each * streams, KV_HEADS, DIM).unwrap_or(0) * LAYERS;
        let operations = 4 * streams * tokens * positions * HEADS * DIM * LAYERS;
        let kind = kind(pool, false);
        let what = format!("{streams:2} streams of {positions}, {tokens} tokens each, {format:?}");
        line(
            &what,
            seconds,
            &limits.speed(kind, bytes, operations, seconds),
            kind,
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let threads = words.first().and_then(|word| word.parse().ok()).unwrap_or(2);
    let named = |isa: &Isa| words.get(1).is_some_and(|word| word == isa.name());
    let isa = Isa::ALL.into_iter().find(named).unwrap_or_else(Isa::detect);
    match Pool::with_isa(threads, isa) {
        Ok(pool) => {
            println!("{} threads, {}", pool.threads(), pool.isa().name());
            let limits = Limits::measure(&pool);
            println!("{limits}");
            let asked = |name: &str| words.iter().any(|word| word == name);
            if !asked("decode") {
                heading("prompts, all layers");
                prompts(&pool, &limits, 512, !asked("wide"));
                prompts(&pool, &limits, 4096, !asked("wide"));
            }
            if !asked("prompts") && !asked("wide") {
                heading("steps, all layers");
                for (count, positions, tokens) in [
                    (16, 512, 1),
                    (1, 512, 1),
                    (1, 4096, 1),
                    (1, 16384, 1),
                    (1, 4096, 4),
                ] {
                    streams(&pool, &limits, count, positions, tokens);
                }
            }
        }
        Err(error) => eprintln!("no threads: {error}"),
    }
}
