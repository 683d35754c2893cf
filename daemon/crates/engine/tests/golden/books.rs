//! A real, trained model: books-2m, which lies beside the project in ../shared. Invariant: without it these tests say
//! that they were skipped; the small models of the project itself are always checked.
use crate::run::{greedy, ids, json, logprobs, numbers, open, root, runner};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// How far a log-probability may be from float32 transformers.
const LOGPROB_ABS_MAX: f64 = 2e-3;
/// How far q8_0 may move the perplexity, as a share of it.
const Q8_0_PERPLEXITY_REL_MAX: f64 = 0.005;

fn shared(test: &str) -> Option<PathBuf> {
    let models = root().join("../shared/models");
    if models.is_dir() {
        return Some(models);
    }
    let reason = format!("{test}: {} is absent", models.display());
    eprintln!("SKIPPED: {reason}");
    // tests/run counts these lines.
    if let Some(list) = std::env::var_os("HYPRSTREAM_SKIPPED") {
        let mut list = OpenOptions::new().append(true).create(true).open(list).unwrap();
        list.write_all(format!("{reason}\n").as_bytes()).unwrap();
    }
    None
}

fn golden_logprobs(file: &str) {
    let Some(models) = shared(&format!("log-probabilities of {file}")) else {
        return;
    };
    let golden = json(&models.join("books-2m-golden.json"));
    let (tokens, want) = (ids(&golden["tokens"]), numbers(&golden["next_logprobs"]));
    let model = open(&models.join(file));
    let mut runner = runner(&model, 2);
    let worst = |chunk: usize, runner: &mut _| {
        let got = logprobs(runner, &tokens, chunk);
        assert_eq!(got.len(), want.len());
        got.iter()
            .zip(&want)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
    };
    for chunk in [513, 100] {
        let worst = worst(chunk.min(512), &mut runner);
        assert!(
            worst <= LOGPROB_ABS_MAX,
            "{file} in chunks of {chunk}: off by {worst}"
        );
    }
}

#[test]
fn safetensors_give_the_golden_log_probabilities() {
    golden_logprobs("books-2m");
}

#[test]
fn f32_gguf_gives_the_golden_log_probabilities() {
    golden_logprobs("books-2m-f32.gguf");
}

#[test]
fn q8_0_keeps_the_perplexity() {
    let Some(models) = shared("perplexity of books-2m-q8_0.gguf") else {
        return;
    };
    let golden = json(&models.join("books-2m-golden.json"));
    let tokens = ids(&golden["tokens"]);
    let model = open(&models.join("books-2m-q8_0.gguf"));
    let got = logprobs(&mut runner(&model, 2), &tokens, 512);
    let perplexity = (-got.iter().sum::<f64>() / got.len() as f64).exp();
    let want = golden["perplexity"].as_f64().unwrap();
    let share = (perplexity / want - 1.0).abs();
    assert!(
        share <= Q8_0_PERPLEXITY_REL_MAX,
        "perplexity {perplexity}, float32 has {want}"
    );
}

#[test]
fn the_greedy_text_is_the_same() {
    for file in ["books-2m", "books-2m-f32.gguf"] {
        let Some(models) = shared("greedy text of books-2m") else {
            return;
        };
        let golden = json(&models.join("books-2m-greedy.json"));
        let (prompt, want) = (ids(&golden["prompt_tokens"]), ids(&golden["greedy_tokens"]));
        let model = open(&models.join(file));
        assert_eq!(
            greedy(&mut runner(&model, 2), &prompt, want.len()),
            want,
            "{file}"
        );
        // The fixture begins with <s>, which the folder's tokenizer does not add.
        let text = golden["prompt"].as_str().unwrap();
        assert_eq!(
            model.tokenizer().unwrap().encode(text, false, false).unwrap(),
            prompt[1..],
            "{file}"
        );
    }
}
