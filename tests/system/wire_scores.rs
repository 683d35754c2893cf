//! Scoring over the OpenAI routes with token ids alone, as evaluation programs do. Invariant: a model without a tokenizer
//! can be scored, and gives the numbers of transformers.
use hyprstream_tests::{Daemon, fixtures};
use serde_json::{Value, json};

/// How far a log-probability may be from float32 transformers.
const LOGPROB_ABS_MAX: f64 = 2e-3;

/// Log-probabilities of the first golden sequence of a model, all but the first token's.
fn golden(name: &str) -> (Vec<usize>, Vec<f64>) {
    let facts = fixtures::json(&fixtures::arch(name, "golden.json"));
    let vocab = usize::try_from(facts["vocab"].as_u64().unwrap()).unwrap();
    let tokens: Vec<usize> = facts["tokens"][0]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| usize::try_from(t.as_u64().unwrap()).unwrap())
        .collect();
    let bytes = std::fs::read(fixtures::arch(name, "golden.f32")).unwrap();
    let logits: Vec<f64> = bytes
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let logprobs = logits
        .chunks_exact(vocab)
        .zip(&tokens[1..])
        .map(|(row, &next)| row[next] - row.iter().map(|x| x.exp()).sum::<f64>().ln())
        .collect();
    (tokens, logprobs)
}

#[test]
fn completions_score_token_ids_without_a_tokenizer() {
    let config = "[runtime]\nthreads = 1\nkv_cache = \"f32\"\n";
    for name in ["llama", "llama3-rope", "mistral", "qwen2", "qwen3"] {
        for file in ["hf", "model.gguf"] {
            let installed = if file == "hf" { "plain" } else { "plain.gguf" };
            let daemon = Daemon::with(&[(fixtures::arch(name, file), installed)], config);
            let (tokens, want) = golden(name);
            let body =
                json!({"model": "plain", "prompt": tokens, "max_tokens": 0, "echo": true, "logprobs": 1});
            let reply = daemon.post("/v1/completions", &body);
            assert_eq!(reply.status, 200, "{reply:?}");
            let reply = reply.json();
            let got = reply["choices"][0]["logprobs"]["token_logprobs"]
                .as_array()
                .unwrap();
            assert_eq!(
                (got.len(), &got[0]),
                (tokens.len(), &Value::Null),
                "{name}/{file}"
            );
            for (at, (got, want)) in got[1..].iter().zip(&want).enumerate() {
                let got = got.as_f64().unwrap();
                assert!(
                    (got - want).abs() < LOGPROB_ABS_MAX,
                    "{name}/{file} token {}: {got}, not {want}",
                    at + 1
                );
            }
            assert_eq!(reply["usage"]["prompt_tokens"], tokens.len());
            assert_eq!(reply["usage"]["completion_tokens"], 0);
            daemon.stop();
        }
    }
}

#[test]
fn native_generate_scores_and_continues_token_ids() {
    let daemon = Daemon::with(
        &[(fixtures::arch("qwen3", "hf"), "plain")],
        "[runtime]\nthreads = 1\nkv_cache = \"f32\"\n",
    );
    let (tokens, want) = golden("qwen3");
    let sampling = json!({"max_tokens": 5, "temperature": 0, "logprobs": 3});
    let body = json!({"model": "plain", "prompt": tokens, "echo": true, "sampling": sampling});
    let events = daemon.post("/hyprstream/v1/generate", &body).lines();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event["event"] == kind)
            .collect::<Vec<_>>()
    };
    let prompt = of("prompt");
    assert_eq!(prompt.len(), tokens.len());
    for (event, want) in prompt[1..].iter().zip(&want) {
        assert!((event["logprob"].as_f64().unwrap() - want).abs() < LOGPROB_ABS_MAX);
    }
    let generated = of("token");
    assert!(!generated.is_empty() && generated.len() <= 5);
    for event in generated {
        assert_eq!(event["top"].as_array().unwrap().len(), 3);
        assert_eq!(
            event["top"][0]["token"], event["token"],
            "greedy takes the likeliest"
        );
    }
    assert_eq!(of("done").len(), 1);
    daemon.stop();
}
