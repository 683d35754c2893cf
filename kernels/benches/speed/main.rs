//! Prints how fast products are: bytes of weights and operations a second, and the shares that these are of what the
//! machine gives to loops that do nothing else.
//!
//! Invariant: weights exceed the caches, as a model's do. `cargo bench -p hyprstream-kernels --bench speed -- [threads]
//! [isa] [limits | tiles | model | shapes | formats | rest]`: all, or the machine's limits and one of the tables. An isa of `""` is the best.

mod limits;
mod products;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::time::Instant;

use hyprstream_kernels::{Isa, Pool, rms_norm, silu_mul};
use limits::{Limits, best};

/// What works on activations, which are in the caches.
fn rest(pool: &Pool) {
    let (mut x, weight) = (vec![0.5; 64 * 3072], vec![1.0; 1024]);
    let mut out = x.clone();
    let seconds = best(40, || rms_norm(pool, &x, &weight, 1e-6, &mut out));
    println!("\nrms_norm {:6.1} G values/s", x.len() as f64 / seconds / 1e9);
    let seconds = best(40, || silu_mul(pool, &mut x, &out));
    println!("silu_mul {:6.1} G values/s", x.len() as f64 / seconds / 1e9);
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
            println!("{limits}");
            let asked = |name: &str| words.get(2).is_none_or(|word| word == name);
            #[cfg(target_arch = "x86_64")]
            if asked("tiles") && pool.isa() == Isa::Amx {
                // SAFETY: the pool's level says that the processor has AMX, and that the system lets this process use it.
                unsafe { tiles::print() };
            }
            if asked("model") {
                products::model(&pool, &limits);
            }
            if asked("shapes") {
                products::shapes(&pool, &limits);
            }
            if asked("formats") {
                products::formats(&pool, &limits);
            }
            if asked("rest") {
                rest(&pool);
            }
        }
        Err(error) => eprintln!("no threads: {error}"),
    }
}
