//! Writing keys and values into the cache.
//!
//! Invariant: each piece writes the rows of one key head alone, so that spans may name the same block without a race.

use super::cache::{KV_BLOCK, Shape};
use super::value::Value;
use super::{KvLayer, Span, cache::Store};
use crate::pool::Pool;
use crate::shards::Shards;
use crate::simd::{Kernel, Simd};

/// Writes the rows of every span into the cache. k, v: `[tokens, kv_heads, head_dim]`. In an f16 cache, values are
/// rounded to nearest even, and those beyond 65504 become infinite.
///
/// # Panics
/// If a span reaches beyond `k`, `v` or its blocks, or names a block that the layer lacks.
pub fn kv_write(pool: &Pool, layer: &mut KvLayer, k: &[f32], v: &[f32], spans: &[Span<'_>]) {
    let shape = layer.shape;
    match &mut layer.store {
        Store::F32 { k: keys, v: values } => write(pool, shape, [keys, values], [k, v], spans),
        Store::F16 { k: keys, v: values } => write(pool, shape, [keys, values], [k, v], spans),
    }
}

fn write<T: Value>(pool: &Pool, shape: Shape, to: [&mut Vec<T>; 2], from: [&[f32]; 2], spans: &[Span<'_>]) {
    let to = to.map(|to| Shards::new(to.as_mut_slice()));
    pool.run(shape.kv_heads, &|kv_head| {
        pool.level().run(Write {
            shape,
            to: &to,
            from,
            spans,
            kv_head,
        });
    });
}

struct Write<'a, T> {
    shape: Shape,
    to: &'a [Shards<'a, T>; 2],
    from: [&'a [f32]; 2],
    spans: &'a [Span<'a>],
    kv_head: usize,
}

impl<T: Value> Kernel for Write<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.shape.head_dim;
        for span in self.spans {
            for token in 0..span.tokens {
                let position = span.start + token;
                let row = (span.first + token) * self.shape.kv_heads + self.kv_head;
                let block = span.blocks[position / KV_BLOCK];
                let at = self.shape.head_at(block, self.kv_head) + position % KV_BLOCK * dim;
                for (to, from) in self.to.iter().zip(self.from) {
                    // SAFETY: rows of this head are written by this piece alone, one after the other.
                    let to = unsafe { to.part(at, dim) };
                    T::store_row(s, to, &from[row * dim..(row + 1) * dim]);
                }
            }
        }
    }
}
