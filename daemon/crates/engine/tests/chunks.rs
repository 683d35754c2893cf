//! Chunks of prompts go through the model part by part, with steps of others in between: the bits stay the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use hyprstream_engine::forward::{Lane, Logits, Runner, Slice};
use hyprstream_engine::{BlockTable, LoadOptions, Model, Options};
use hyprstream_kernels::{KvFormat, Pool};
use std::path::Path;
use std::sync::Arc;

fn models() -> Vec<Arc<Model>> {
    let archs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden/archs");
    let archs = std::fs::read_dir(archs).unwrap();
    let paths: Vec<_> = archs
        .map(|entry| entry.unwrap().path().join("model.gguf"))
        .collect();
    assert!(paths.len() > 5);
    let pool = Pool::new(1).unwrap();
    let load = |path| Model::load("golden", path, &LoadOptions::new(&pool), &mut |_, _| {}).unwrap();
    paths.iter().map(|path| Arc::new(load(path))).collect()
}

fn runner(model: &Arc<Model>, kv_format: KvFormat) -> Runner {
    let options = Options {
        kv_format,
        kv_tokens: 1024,
        ..Options::default()
    };
    Runner::new(model.clone(), Arc::new(Pool::new(2).unwrap()), &options).unwrap()
}

fn text(n: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (n * 31 + i * 7) % 90).collect()
}

fn table(runner: &mut Runner, tokens: usize) -> BlockTable {
    let mut table = BlockTable::default();
    runner.cache().reserve(&mut table, tokens).unwrap();
    table
}

fn slice<'a>(tokens: &'a [u32], start: usize, table: &'a BlockTable, prefill: bool) -> Slice<'a> {
    Slice {
        tokens: &tokens[start..],
        start,
        blocks: table.blocks(),
        prefill,
        logits: Logits::All,
    }
}

/// Logits of a whole text in one step, and of one more token after it.
fn alone(runner: &mut Runner, tokens: &[u32]) -> Vec<Vec<u32>> {
    let table = &mut table(runner, tokens.len());
    let given = tokens.len() - 1;
    let mut rows = Vec::new();
    let slices = [slice(&tokens[..given], 0, table, true)];
    runner.step(&slices, &mut |_, _, logits| rows.push(bits(logits)));
    let slices = [slice(tokens, given, table, false)];
    runner.step(&slices, &mut |_, _, logits| rows.push(bits(logits)));
    runner.cache().release(table);
    rows
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn a_chunk_in_parts_has_the_bits_of_a_whole_one() {
    for model in models() {
        for format in [KvFormat::F32, KvFormat::F16] {
            let mut runner = runner(&model, format);
            let texts = [text(1, 41), text(2, 70), text(3, 34), text(4, 20), text(5, 60)];
            let want = texts.each_ref().map(|text| alone(&mut runner, text));
            let mut tables = texts.each_ref().map(|text| table(&mut runner, text.len()));
            let [gone, long, longer, short, answer] = &tables;
            let mut got: [Vec<Vec<u32>>; 5] = Default::default();
            let first = |n: usize| &texts[n][..texts[n].len() - 1];
            let mut chunk = vec![
                slice(first(0), 0, gone, true),
                slice(first(1), 0, long, true),
                slice(first(2), 0, longer, true),
            ];
            let shorts = [slice(first(3), 0, short, true)];
            runner.begin(Lane::Long, &chunk);
            // The answer takes a step of its own between all parts; the first of the chunk leaves after `part` of them.
            let (mut part, mut fed, mut over) = (0, 0, [false, false]);
            while !over[0] || fed < texts[4].len() {
                if fed < texts[4].len() {
                    let slices = [slice(&texts[4][..fed + 1], fed, answer, fed > 20)];
                    runner.step(&slices, &mut |_, _, logits| got[4].push(bits(logits)));
                    fed += 1;
                }
                match part {
                    1 => runner.begin(Lane::Short, &shorts),
                    2 => {
                        runner.leave(Lane::Long, 0..first(0).len());
                        chunk.remove(0);
                    }
                    _ => {}
                }
                part += 1;
                if part > 2 && !over[1] {
                    over[1] = runner.advance(Lane::Short, &shorts, &mut |_, _, row| got[3].push(bits(row)));
                }
                if !over[0] {
                    let from = 3 - chunk.len();
                    let hear = &mut |slice: usize, _, row: &mut [f32]| got[from + slice].push(bits(row));
                    over[0] = runner.advance(Lane::Long, &chunk, hear);
                }
            }
            assert!(over[1] && part > 5 && got[0].is_empty());
            assert_eq!((runner.tokens(Lane::Long), runner.tokens(Lane::Short)), (0, 0));
            for n in 1..4 {
                let slices = [slice(&texts[n], texts[n].len() - 1, &tables[n], false)];
                runner.step(&slices, &mut |_, _, row| got[n].push(bits(row)));
                assert!(
                    got[n] == want[n],
                    "text {n} of {:?}, {format:?}",
                    model.file().config()
                );
            }
            tables.iter_mut().for_each(|table| runner.cache().release(table));
        }
    }
}

#[test]
fn a_chunk_that_all_have_left_is_over() {
    let model = &models()[0];
    let mut runner = runner(model, KvFormat::F32);
    let tokens = text(1, 40);
    let table = table(&mut runner, 40);
    let slices = [slice(&tokens, 0, &table, true)];
    runner.begin(Lane::Long, &slices);
    assert!(!runner.advance(Lane::Long, &slices, &mut |_, _, _| {}));
    runner.leave(Lane::Long, 0..40);
    assert_eq!(runner.tokens(Lane::Long), 0);
    let want = alone(&mut runner, &tokens);
    let mut got = Vec::new();
    let again = [slice(&tokens[..39], 0, &table, true)];
    runner.begin(Lane::Long, &again);
    while !runner.advance(Lane::Long, &again, &mut |_, _, row| got.push(bits(row))) {}
    assert!(got == want[..39]);
}
