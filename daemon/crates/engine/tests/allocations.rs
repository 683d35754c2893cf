//! Counts what a forward step, a chunk of a prompt and drafts allocate once their buffers exist: nothing, for one sequence
//! or several.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use hyprstream_engine::forward::{Lane, Logits, Runner, Slice};
use hyprstream_engine::speculation::Speculation;
use hyprstream_engine::{BlockTable, KvCache, LoadOptions, MemoryPlan, Model, Options};
use hyprstream_kernels::{KvFormat, KvLayer, Pool};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What this thread allocated and has not freed.
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends frees things when it has no locals any more.
    let _ = BYTES.try_with(|all| all.set(all.get() + bytes));
}

// SAFETY: every call goes to the system allocator unchanged; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        count(layout.size() as isize);
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `ptr` came from `System` through `alloc`, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// With weights as they lie in the file, and with packed ones of all formats.
const MODELS: [&str; 2] = ["archs/qwen3/hf", "packed/model.gguf"];

fn runner(model: &str) -> Runner {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../tests/golden")
        .join(model);
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
    let options = Options {
        kv_tokens: 512,
        ..Options::default()
    };
    Runner::new(model, pool, &options).unwrap()
}

/// Fails if each of three windows of calls allocates. The test harness's own threads may do so once in a while; what
/// allocates does so in every window.
fn assert_quiet(windows: [std::ops::Range<usize>; 3], call: &mut dyn FnMut(usize)) {
    let windows = windows.map(|numbers| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        numbers.for_each(&mut *call);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    assert_eq!(windows.iter().min(), Some(&0), "{windows:?}");
}

#[test]
fn a_decode_step_allocates_nothing() {
    MODELS.into_iter().for_each(decodes_without_allocations);
}

fn decodes_without_allocations(model: &str) {
    let mut runner = runner(model);
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
    assert_quiet([1..40, 40..80, 80..120], &mut step);
    assert!(best > 0);
}

#[test]
fn a_chunk_allocates_nothing() {
    MODELS.into_iter().for_each(reads_without_allocations);
}

fn reads_without_allocations(model: &str) {
    let mut runner = runner(model);
    let mut tables = [BlockTable::with_capacity(96), BlockTable::with_capacity(96)];
    for table in &mut tables {
        runner.cache().reserve(table, 96).unwrap();
    }
    let mut rows = 0;
    let mut chunk = |_| {
        let tokens = [5; 96];
        let slices = tables.each_ref().map(|table| Slice {
            tokens: &tokens,
            start: 0,
            blocks: table.blocks(),
            prefill: true,
            logits: Logits::All,
        });
        runner.begin(Lane::Long, &slices);
        runner.advance(Lane::Long, &slices, &mut |_, _, _| {});
        runner.leave(Lane::Long, 0..96);
        while !runner.advance(Lane::Long, &slices[1..], &mut |_, _, _| rows += 1) {}
    };
    chunk(0);
    assert_quiet([0..5, 5..10, 10..15], &mut chunk);
    assert_eq!(rows, 16 * 96);
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
    assert_quiet([0..400, 0..400, 0..400], &mut step);
    assert!(drafted > 100, "{drafted}");
}

/// What `make` leaves allocated.
fn allocated<T>(make: impl FnOnce() -> T) -> (u64, T) {
    let before = BYTES.get();
    let made = make();
    ((BYTES.get() - before) as u64, made)
}

#[test]
fn the_books_of_a_cache_are_planned() {
    let runner = runner(MODELS[0]);
    let config = runner.model().config();
    for blocks in [1, 7, 16, 100, 512, 5000] {
        let (got, _cache) = allocated(|| KvCache::new(config, KvFormat::F16, blocks).unwrap());
        let layer = KvLayer::bytes(KvFormat::F16, blocks, config.kv_heads, config.head_dim).unwrap();
        let planned = KvCache::bytes(config, KvFormat::F16, blocks) - (layer * config.layers) as u64;
        // The layers' own pages are not of this allocator; their list is, which has four places at least.
        let got = got - (config.layers.max(4) * size_of::<KvLayer>()) as u64;
        assert!(
            got <= planned && planned < got + got / 10 + 512,
            "{blocks}: {got}, not {planned}"
        );
    }
}

#[test]
fn a_plan_covers_what_a_runner_takes() {
    let model = runner(MODELS[0]).model().clone();
    let options = Options {
        kv_tokens: 512,
        ..Options::default()
    };
    let plan = MemoryPlan::for_model(model.file().summary(), &options);
    let pool = Arc::new(Pool::new(1).unwrap());
    let layers = {
        let config = model.config();
        KvLayer::bytes(
            options.kv_format,
            options.kv_blocks(),
            config.kv_heads,
            config.head_dim,
        )
        .unwrap()
            * config.layers
    };
    let (got, _runner) = allocated(|| Runner::new(model, pool, &options).unwrap());
    let planned = plan.kv + plan.scratch - layers as u64;
    assert!(got <= planned, "{got} of {planned}");
}
