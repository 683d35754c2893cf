//! The random model that whole-system tests talk to. Invariant: its folder is exact; its q8_0 file is close.
use crate::run::{greedy, ids, json, logprobs, numbers, open, root, runner};
use hyprstream_engine::Model;
use serde_json::Value;

/// q8_0 rounds each weight to one part in 127 of its block's largest; on this model that is worth this much.
const Q8_0_MEAN_LOGPROB_MAX: f64 = 0.02;

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
    let mut runner = runner(&model, 2);
    let (prompt, text) = (ids(&golden["prompt_tokens"]), ids(&golden["greedy_tokens"]));
    let all: Vec<u32> = prompt.iter().chain(&text).copied().collect();
    let want = numbers(&golden["logprobs"]);
    let got = logprobs(&mut runner, &all, 1000);
    let mean = got.iter().zip(&want).map(|(a, b)| a - b).sum::<f64>() / want.len() as f64;
    assert!(
        mean.abs() < Q8_0_MEAN_LOGPROB_MAX,
        "mean log-probability off by {mean}"
    );
    same_texts(&model, &golden);
}
