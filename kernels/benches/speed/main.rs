//! Prints how fast the kernels are: bytes of weights a second for one token, operations a second for many, beside what
//! the machine gives to loops that do nothing else.
//!
//! Invariant: weights exceed the caches, as a model's do. `cargo bench -p hyprstream-kernels -- [threads] [isa] [model]`:
//! with `model`, only the products of a whole model.

mod limits;
mod products;

use std::time::Instant;

use hyprstream_kernels::{Isa, KV_BLOCK, KvFormat, KvLayer, Pool, Span, attend, rms_norm, silu_mul};
use limits::Limits;

/// The best of some rounds, in seconds.
fn best(rounds: usize, mut f: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}

fn attention(pool: &Pool) {
    let (heads, kv_heads, dim, positions) = (16, 8, 128, 2048);
    let blocks: Vec<u32> = (0..(positions / KV_BLOCK) as u32).collect();
    for format in [KvFormat::F16, KvFormat::F32] {
        let Some(layer) = KvLayer::new(format, blocks.len(), kv_heads, dim) else {
            continue;
        };
        for tokens in [1, 32] {
            let q = vec![0.1; tokens * heads * dim];
            let mut out = vec![0.0; q.len()];
            let span = Span {
                first: 0,
                tokens,
                start: positions - tokens,
                prefill: false,
                blocks: &blocks,
            };
            let seconds = best(40, || {
                attend(pool, &layer, &q, heads, &[span], 0.1, None, &mut out)
            });
            let work = 4.0 * (tokens * heads * dim * (positions - tokens / 2)) as f64;
            println!(
                "attend {format:?} {tokens:4} tokens at {positions}: {:8.3} ms {:6.1} GFLOP/s",
                seconds * 1e3,
                work / seconds / 1e9
            );
        }
    }
}

fn rest(pool: &Pool) {
    let (mut x, weight) = (vec![0.5; 64 * 3072], vec![1.0; 1024]);
    let mut out = x.clone();
    let seconds = best(40, || rms_norm(pool, &x, &weight, 1e-6, &mut out));
    println!("rms_norm {:6.1} G/s", x.len() as f64 / seconds / 1e9);
    let seconds = best(40, || silu_mul(pool, &mut x, &out));
    println!("silu_mul {:6.1} G/s", x.len() as f64 / seconds / 1e9);
    let start = Instant::now();
    (0..10_000).for_each(|_| pool.run(4, &|_| ()));
    println!("empty run {:6.2} us", start.elapsed().as_secs_f64() * 1e6 / 1e4);
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let threads = words.first().and_then(|word| word.parse().ok()).unwrap_or(2);
    let named = |isa: &Isa| Some(isa.name()) == words.get(1).map(String::as_str);
    let isa = Isa::ALL.into_iter().find(named).unwrap_or_else(Isa::detect);
    match Pool::with_isa(threads, isa) {
        Ok(pool) => {
            println!("{} threads, {}", pool.threads(), pool.isa().name());
            let limits = Limits::measure(&pool);
            limits.print();
            products::model(&pool, &limits);
            if words.get(2).is_none_or(|word| word != "model") {
                products::shapes(&pool, &limits);
                products::formats(&pool);
                attention(&pool);
                rest(&pool);
            }
        }
        Err(error) => eprintln!("no threads: {error}"),
    }
}
