//! The random model that whole-system tests talk to. Invariant: its folder is exact; its q8_0 file is close.
use crate::run::{greedy, ids, json, logprobs, numbers, open, root, runner, runner_on};
use hyprstream_engine::Model;
use hyprstream_kernels::{Isa, KvFormat, Pool};
use serde_json::Value;

/// q8_0 rounds each weight to one part in 127 of its block's largest, and where prompts are computed in int8, activations
/// are rounded so as well; on this model that is worth this much, on average and in the worst place.
const Q8_0_LOGPROB_MEAN_MAX: f64 = 0.025;
const Q8_0_LOGPROB_ABS_MAX: f64 = 0.1;

/// The tokenizer cuts the golden prompt as transformers does, and puts the golden tokens together to the golden text.
fn same_texts(model: &Model, golden: &Value) {
    let (prompt, text) = (ids(&golden["prompt_tokens"]), ids(&golden["greedy_tokens"]));
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(
        tokenizer
            .encode(golden["prompt"].as_str().unwrap(), true, false)
            .unwrap(),
        prompt
    );
    assert_eq!(
        tokenizer.decode(&text, true),
        golden["greedy_text"].as_str().unwrap()
    );
}

#[test]
fn the_folder_gives_the_golden_text() {
    let folder = root().join("tests/golden/tiny");
    let golden = json(&folder.join("golden.json"));
    let model = open(&folder.join("tiny-hf"));
    let mut runner = runner(&model, 1);
    let (prompt, text) = (ids(&golden["prompt_tokens"]), ids(&golden["greedy_tokens"]));
    assert_eq!(greedy(&mut runner, &prompt, text.len()), text);
    let all: Vec<u32> = prompt.iter().chain(&text).copied().collect();
    let got = logprobs(&mut runner, &all, 16);
    for (at, (got, want)) in got.iter().zip(numbers(&golden["logprobs"])).enumerate() {
        assert!(
            (got - want).abs() < 1e-3,
            "token {}: {got}, transformers says {want}",
            at + 1
        );
    }
    same_texts(&model, &golden);
}

#[test]
fn q8_0_is_close_and_has_the_same_tokenizer() {
    let folder = root().join("tests/golden/tiny");
    let golden = json(&folder.join("golden.json"));
    let model = open(&folder.join("tiny.gguf"));
    let (prompt, text) = (ids(&golden["prompt_tokens"]), ids(&golden["greedy_tokens"]));
    let all: Vec<u32> = prompt.iter().chain(&text).copied().collect();
    let want = numbers(&golden["logprobs"]);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.or_lower() == *isa) {
        let mut runner = runner_on(&model, Pool::with_isa(2, isa).unwrap(), KvFormat::F32);
        let got = logprobs(&mut runner, &all, 1000);
        assert_eq!(got.len(), want.len());
        let off: Vec<f64> = got
            .iter()
            .zip(&want)
            .map(|(got, want)| (got - want).abs())
            .collect();
        let mean = off.iter().sum::<f64>() / off.len() as f64;
        let most = off.into_iter().fold(0.0, f64::max);
        assert!(
            mean < Q8_0_LOGPROB_MEAN_MAX && most < Q8_0_LOGPROB_ABS_MAX,
            "{}: log-probabilities are off by {mean} on average, by {most} at most",
            isa.name()
        );
    }
    same_texts(&model, &golden);
}
