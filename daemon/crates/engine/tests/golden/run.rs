//! Drives [`Runner`] over whole sequences. Invariant: logits come back for every position, once.
use hyprstream_engine::forward::{Logits, Runner, Slice};
use hyprstream_engine::{BlockTable, LoadOptions, Model, Options};
use hyprstream_kernels::{KvFormat, Pool};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far a logit may be from transformers: both sum in float32, in different orders.
pub const LOGIT_ABS_MAX: f32 = 1e-3;

/// Root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Reads JSON of a fixture.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A list of token ids in a fixture.
pub fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| u32::try_from(v.as_u64().unwrap()).unwrap())
        .collect()
}

/// A list of numbers in a fixture.
pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

/// What transformers says about a model.
pub struct Golden {
    pub folder: PathBuf,
    pub sequences: Vec<Vec<u32>>,
    /// `[tokens, vocab]` of each sequence.
    pub logits: Vec<Vec<f32>>,
}

impl Golden {
    /// Of a folder in tests/golden.
    pub fn read(name: &str) -> Golden {
        let folder = root().join("tests/golden").join(name);
        let facts = json(&folder.join("golden.json"));
        let vocab = usize::try_from(facts["vocab"].as_u64().unwrap()).unwrap();
        let sequences: Vec<Vec<u32>> = facts["tokens"].as_array().unwrap().iter().map(ids).collect();
        let bytes = std::fs::read(folder.join(facts["logits"].as_str().unwrap())).unwrap();
        let floats: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let mut rest = floats.as_slice();
        let mut logits = Vec::new();
        for sequence in &sequences {
            let (own, others) = rest.split_at(sequence.len() * vocab);
            logits.push(own.to_vec());
            rest = others;
        }
        assert!(rest.is_empty());
        Golden {
            folder,
            sequences,
            logits,
        }
    }
}

/// Opens a model, however it is stored.
pub fn open(path: &Path) -> Arc<Model> {
    let pool = Pool::new(1).unwrap();
    let model = Model::load("golden", path, &LoadOptions::new(&pool), &mut |_, _| {});
    Arc::new(model.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Buffers for a model, with exact keys and values.
pub fn runner(model: &Arc<Model>, threads: usize) -> Runner {
    runner_on(model, Pool::new(threads).unwrap(), KvFormat::F32)
}

/// Buffers for a model on a pool of one's own.
pub fn runner_on(model: &Arc<Model>, pool: Pool, kv_format: KvFormat) -> Runner {
    let pool = Arc::new(pool);
    let options = Options {
        kv_format,
        kv_tokens: 2048,
        ..Options::default()
    };
    Runner::new(model.clone(), pool, &options).unwrap()
}

/// Logits `[tokens, vocab]` of every sequence, computed together: in each step sequence i takes its next `chunks[i]`
/// tokens, so that prompts, single tokens and finished sequences meet in one batch.
pub fn logits(runner: &mut Runner, sequences: &[&[u32]], chunks: &[usize]) -> Vec<Vec<f32>> {
    logits_as(runner, sequences, chunks, true)
}

/// The same with all tokens taken for those of a prompt, or for generated ones.
pub fn logits_as(
    runner: &mut Runner,
    sequences: &[&[u32]],
    chunks: &[usize],
    prefill: bool,
) -> Vec<Vec<f32>> {
    let vocab = runner.model().config().vocab;
    let mut tables: Vec<BlockTable> = sequences
        .iter()
        .map(|s| BlockTable::with_capacity(s.len()))
        .collect();
    let mut at = vec![0; sequences.len()];
    let mut out: Vec<Vec<f32>> = sequences
        .iter()
        .map(|s| vec![f32::NAN; s.len() * vocab])
        .collect();
    loop {
        let turns: Vec<usize> = (0..sequences.len())
            .filter(|&i| at[i] < sequences[i].len())
            .collect();
        if turns.is_empty() {
            break;
        }
        let ends: Vec<usize> = turns
            .iter()
            .map(|&i| sequences[i].len().min(at[i] + chunks[i]))
            .collect();
        for (&i, &end) in turns.iter().zip(&ends) {
            runner.cache().reserve(&mut tables[i], end).unwrap();
        }
        let slices: Vec<Slice<'_>> = turns
            .iter()
            .zip(&ends)
            .map(|(&i, &end)| Slice {
                tokens: &sequences[i][at[i]..end],
                start: at[i],
                blocks: tables[i].blocks(),
                prefill,
                logits: Logits::All,
            })
            .collect();
        runner.step(&slices, &mut |slice, token, row| {
            let i = turns[slice];
            let first = (at[i] + token) * vocab;
            out[i][first..first + vocab].copy_from_slice(row);
        });
        drop(slices);
        for (&i, &end) in turns.iter().zip(&ends) {
            at[i] = end;
        }
    }
    for table in &mut tables {
        runner.cache().release(table);
    }
    out
}

/// Log-probability of each token but the first, given its predecessors.
pub fn logprobs(runner: &mut Runner, tokens: &[u32], chunk: usize) -> Vec<f64> {
    let vocab = runner.model().config().vocab;
    let all = logits(runner, &[tokens], &[chunk]).remove(0);
    let rows = all.chunks_exact(vocab).zip(&tokens[1..]);
    rows.map(|(row, &next)| f64::from(hyprstream_kernels::log_softmax_at(row, next as usize)))
        .collect()
}

/// The likeliest continuation, one token at a time.
pub fn greedy(runner: &mut Runner, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut table = BlockTable::default();
    let (mut answer, mut fed) = (Vec::new(), 0);
    let mut pending = prompt.to_vec();
    while answer.len() < count {
        runner.cache().reserve(&mut table, fed + pending.len()).unwrap();
        let slice = Slice {
            tokens: &pending,
            start: fed,
            blocks: table.blocks(),
            prefill: fed == 0,
            logits: Logits::Last,
        };
        let mut best = 0;
        runner.step(&[slice], &mut |_, _, row| {
            best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        });
        fed += pending.len();
        pending = vec![u32::try_from(best).unwrap()];
        answer.push(pending[0]);
    }
    runner.cache().release(&mut table);
    answer
}

/// Largest distance between two lists of logits; NaN counts as infinite.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let worst = |d: f32| if d.is_nan() { f32::INFINITY } else { d };
    a.iter()
        .zip(b)
        .map(|(a, b)| worst((a - b).abs()))
        .fold(0.0, f32::max)
}
