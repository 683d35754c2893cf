//! Counts what a forward step, and the drafts for it, allocate once their buffers exist: nothing, for one sequence or
//! several.
use hyprstream_engine::forward::{Logits, Runner, Slice};
use hyprstream_engine::speculation::Speculation;
use hyprstream_engine::{BlockTable, LoadOptions, Model, Options};
use hyprstream_kernels::Pool;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` through `alloc`, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_decode_step_allocates_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden/archs/qwen3/hf");
    let model = Arc::new(
        Model::load(
            "tiny",
            &path,
            &LoadOptions::new(&Pool::new(1).unwrap()),
            &mut |_, _| {},
        )
        .unwrap(),
    );
    let pool = Arc::new(Pool::new(2).unwrap());
    let mut runner = Runner::new(
        model,
        pool,
        &Options {
            kv_tokens: 512,
            ..Options::default()
        },
    )
    .unwrap();
    let mut tables: Vec<_> = (0..3).map(|_| BlockTable::with_capacity(128)).collect();
    for table in &mut tables {
        runner.cache().reserve(table, 128).unwrap();
    }
    let mut best = 0u32;
    let mut step = |position: usize| {
        let tokens = [5, 6, 7];
        let slice = |n: usize| Slice {
            tokens: &tokens[n..n + 1],
            start: position,
            blocks: tables[n].blocks(),
            prefill: false,
            logits: Logits::Last,
        };
        let slices = [slice(0), slice(1), slice(2)];
        runner.step(&slices, &mut |_, _, logits| best = best.max(logits.len() as u32));
    };
    step(0);
    // The test harness's own threads may allocate once in a while; a step that allocates does so in every window.
    let windows = [1..40, 40..80, 80..120].map(|positions| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        positions.for_each(&mut step);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    assert_eq!(windows.iter().min(), Some(&0), "{windows:?}");
    assert!(best > 0);
}

#[test]
fn drafts_allocate_nothing() {
    let mut tokens = Vec::with_capacity(4096);
    tokens.extend((0..64u32).map(|i| i * i % 11));
    let mut speculation = Speculation::new(4096);
    let mut drafted = 0;
    let mut step = |_| {
        let count = speculation.draft(&mut tokens, 0.0, 4, &|token| token == 99);
        speculation.learn(count, count / 2);
        tokens.truncate(tokens.len() - count / 2);
        tokens.push(tokens.len() as u32 % 7);
        drafted += count;
    };
    step(0);
    let windows = [0..400, 0..400, 0..400].map(|steps| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        steps.for_each(&mut step);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    assert_eq!(windows.iter().min(), Some(&0), "{windows:?}");
    assert!(drafted > 100, "{drafted}");
}
