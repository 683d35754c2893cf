//! Every command of `hyp` against a daemon that is well. Invariant: output is parseable and exit codes are 0.
use hyprstream_tests::{Daemon, fixtures, program, wait};
use serde_json::{Value, json};

fn golden() -> (String, String, usize) {
    let golden = fixtures::tiny_golden();
    let text = |name: &str| golden[name].as_str().unwrap().to_owned();
    (
        text("prompt"),
        text("greedy_text"),
        golden["greedy_tokens"].as_array().unwrap().len(),
    )
}

fn exact() -> Daemon {
    Daemon::with(
        &[(fixtures::tiny_folder(), "tiny-hf")],
        "[runtime]\nthreads = 1\nkv_cache = \"f32\"\n",
    )
}

#[test]
fn ask_raw_continues_a_text_as_transformers_does() {
    let daemon = exact();
    let (prompt, text, count) = golden();
    let max = count.to_string();
    let ask = [
        "ask",
        "--model",
        "tiny-hf",
        "--raw",
        "-t",
        "0",
        "--max-tokens",
        &max,
        &prompt,
    ];
    assert_eq!(daemon.hyp(ask).ok(), format!("{text}\n"));

    let events = daemon.hyp(ask.iter().chain(&["--json"])).lines();
    let said: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(said, text);
    let done = events.last().unwrap();
    assert_eq!(
        (&done["event"], &done["reason"]),
        (&json!("done"), &json!("length"))
    );
    assert_eq!(done["usage"]["completion_tokens"], count);
    daemon.stop();
}

#[test]
fn ask_takes_the_question_from_words_and_from_a_pipe() {
    let daemon = Daemon::tiny();
    let ask = |args: &[&str], input: Option<&[u8]>| {
        let mut command =
            daemon.command([&["ask", "-m", "tiny", "-t", "0", "--max-tokens", "12"], args].concat());
        match input {
            Some(input) => program::run_with(&mut command, input).ok(),
            None => program::run(&mut command).ok(),
        }
    };
    let together = ask(&["hello", "there"], None);
    assert!(!together.trim().is_empty());
    assert_eq!(ask(&["hello there"], None), together);
    assert_eq!(ask(&[], Some(b"hello there")), together);
    assert_eq!(ask(&["hello"], Some(b"there")), ask(&["hello\n\nthere"], None));
    assert_ne!(ask(&["-s", "one two three", "hello there"], None), together);
    daemon.stop();
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let daemon = Daemon::tiny();
    let ask = |seed: &str| {
        let args = [
            "ask",
            "-t",
            "1",
            "--top-k",
            "0",
            "--top-p",
            "1",
            "--min-p",
            "0",
            "--max-tokens",
            "24",
        ];
        daemon
            .hyp(
                args.iter()
                    .copied()
                    .chain(["-m", "tiny", "--seed", seed, "hello"]),
            )
            .ok()
    };
    let first = ask("7");
    assert_eq!(ask("7"), first);
    assert!(
        (8..12).any(|seed| ask(&seed.to_string()) != first),
        "the seed does not matter"
    );
    daemon.stop();
}

#[test]
fn a_seed_gives_the_same_text_with_speculation_and_without_and_the_request_has_the_last_word() {
    let answers = |config: &str, asked: Option<bool>| {
        let daemon = Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], config);
        let done: Vec<(String, Value)> = (0..6)
            .map(|seed| {
                let mut sampling = json!({"temperature": 0.2, "seed": seed, "max_tokens": 120});
                if let Some(asked) = asked {
                    sampling["speculation"] = json!(asked);
                }
                let body =
                    json!({"model": "tiny", "prompt": "what is what is what is", "sampling": sampling});
                let events = daemon.post("/hyprstream/v1/generate", &body).lines();
                let text = events.iter().filter_map(|event| event["text"].as_str()).collect();
                (text, events.last().unwrap()["usage"].clone())
            })
            .collect();
        let drafted: u64 = done
            .iter()
            .map(|(_, usage)| usage["drafted_tokens"].as_u64().unwrap())
            .sum();
        wait::until("the status counts them too", || {
            (daemon.get("/hyprstream/v1/status").json()["drafted_tokens"] == drafted).then_some(())
        });
        daemon.stop();
        (
            done.into_iter().map(|(text, _)| text).collect::<Vec<_>>(),
            drafted,
        )
    };
    let off = "[generation]\nspeculation = false\n";
    let (want, none) = answers(off, None);
    assert_eq!(none, 0);
    for (config, asked) in [("", None), (off, Some(true))] {
        let (got, drafted) = answers(config, asked);
        assert_eq!(got, want);
        assert!(drafted > 0, "nothing was guessed");
    }
    assert_eq!(answers("", Some(false)), (want, 0));
}

#[test]
fn a_stop_string_ends_the_answer_before_it() {
    let daemon = exact();
    let (prompt, text, _) = golden();
    let stop: String = text.chars().skip(20).take(6).collect();
    let until = &text[..text.find(&stop).unwrap()];
    let ask = [
        "ask",
        "--raw",
        "-m",
        "tiny-hf",
        "-t",
        "0",
        "--max-tokens",
        "40",
        "--json",
        "--stop",
        &stop,
        &prompt,
    ];
    let events = daemon.hyp(ask).lines();
    let said: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(said, until);
    assert_eq!(events.last().unwrap()["reason"], "stop");
    daemon.stop();
}

#[test]
fn chat_keeps_the_talk() {
    let daemon = Daemon::tiny();
    let chat = |input: &str| {
        let mut command = daemon.command(["chat", "-m", "tiny", "-t", "0", "--max-tokens", "8"]);
        program::run_with(&mut command, input.as_bytes()).ok()
    };
    let first = chat("hello\n");
    assert!(!first.trim().is_empty());
    let both = chat("hello\nwhat is the answer\n");
    assert!(
        both.starts_with(first.trim_end()),
        "{both:?} does not begin with {first:?}"
    );
    let alone = chat("what is the answer\n");
    assert!(
        !both.trim_end().ends_with(alone.trim()),
        "the second turn does not see the first"
    );
    daemon.stop();
}

#[test]
fn models_load_show_and_unload() {
    let daemon = Daemon::with(
        &[
            (fixtures::tiny(), "tiny.gguf"),
            (fixtures::tiny_folder(), "deep/tiny-hf"),
            (fixtures::arch("llama", "hf"), "plain"),
        ],
        "",
    );
    let listed = daemon.hyp(["models"]).ok();
    for name in ["tiny", "deep/tiny-hf", "plain"] {
        assert!(listed.contains(name), "{listed}");
    }
    let state = |name: &str| daemon.model(name).unwrap()["state"].clone();
    assert_eq!(state("deep/tiny-hf"), "available");
    daemon.hyp(["load", "deep/tiny-hf"]).ok();
    assert_eq!(state("deep/tiny-hf"), "loaded");
    let status = daemon.hyp(["status", "--json"]).json();
    assert_eq!(status["loaded"], json!(["deep/tiny-hf"]));
    assert!(status["memory"]["claimed"].as_u64().unwrap() > 0);

    let shown = daemon.hyp(["show", "deep/tiny-hf", "--json"]).json();
    assert_eq!(shown["arch"], "qwen3");
    assert!(shown["tokenizer"].is_string(), "{shown}");
    assert_eq!(daemon.hyp(["show", "tiny", "--json"]).json()["tokenizer"], "bpe");
    assert!(shown["chat_template"].as_str().unwrap().contains("im_start"));
    assert_eq!(
        daemon.hyp(["show", "plain", "--json"]).json()["tokenizer"],
        Value::Null
    );
    assert!(daemon.hyp(["show", "tiny"]).ok().contains("qwen3"));

    let unloaded = daemon.hyp(["unload", "deep/tiny-hf", "--json"]).json();
    assert_eq!(unloaded["was_loaded"], true);
    assert_eq!(
        daemon.hyp(["unload", "deep/tiny-hf", "--json"]).json()["was_loaded"],
        false
    );
    hyprstream_tests::wait::until("it is unloaded", || {
        (state("deep/tiny-hf") == "available").then_some(())
    });
    daemon.stop();
}

#[test]
fn status_and_ps_at_rest() {
    let daemon = Daemon::tiny();
    let status = daemon.hyp(["status", "--json"]).json();
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(
        (&status["running"], &status["queued"], &status["threads"]),
        (&json!(0), &json!(0), &json!(1))
    );
    assert_eq!(daemon.hyp(["ps", "--json"]).json(), json!({"jobs": []}));
    daemon.hyp(["ps"]).ok();
    assert!(daemon.hyp(["status"]).ok().contains("tiny") || daemon.hyp(["status"]).ok().contains("models"));
    daemon.stop();
}

#[test]
fn tokens_there_and_back() {
    let daemon = Daemon::with(
        &[
            (fixtures::tiny(), "tiny.gguf"),
            (fixtures::tiny_folder(), "tiny-hf"),
        ],
        "",
    );
    let golden = fixtures::tiny_golden();
    for model in ["tiny", "tiny-hf"] {
        let reply = daemon
            .hyp([
                "tokenize",
                "-m",
                model,
                "--json",
                golden["prompt"].as_str().unwrap(),
            ])
            .json();
        let ids: Vec<&Value> = reply["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| &t["token"])
            .collect();
        assert_eq!(
            ids,
            golden["prompt_tokens"]
                .as_array()
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            "{model}"
        );
        let text = "Straße, \u{1f41f} and \t tabs\n";
        let ids = program::run_with(
            &mut daemon.command(["tokenize", "-m", model, "--ids", "-"]),
            text.as_bytes(),
        )
        .ok();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let back = daemon
            .hyp(["detokenize", "-m", model, "--json"].iter().chain(&ids))
            .json();
        assert_eq!(back["text"], text, "{model}");
        let special = daemon
            .hyp([
                "tokenize",
                "-m",
                model,
                "--ids",
                "--parse-special",
                "<|im_start|>",
            ])
            .ok();
        assert_eq!(special.split_whitespace().count(), 1, "{model}");
    }
    daemon.stop();
}

#[test]
fn score_gives_the_log_probabilities_of_transformers() {
    let daemon = exact();
    let golden = fixtures::tiny_golden();
    let ids: Vec<String> = ["prompt_tokens", "greedy_tokens"]
        .iter()
        .flat_map(|name| golden[*name].as_array().unwrap())
        .map(Value::to_string)
        .collect();
    let file = daemon.folder().join("ids.txt");
    std::fs::write(&file, ids.join(" ")).unwrap();
    let reply = daemon
        .hyp([
            "score",
            "-m",
            "tiny-hf",
            "--ids",
            "--json",
            file.to_str().unwrap(),
        ])
        .json();
    let want: Vec<f64> = golden["logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect();
    let scored = reply["scored"].as_array().unwrap();
    assert_eq!(reply["tokens"], want.len());
    assert_eq!(
        (scored.len(), &scored[0]["logprob"]),
        (want.len() + 1, &Value::Null)
    );
    for (at, (token, want)) in scored[1..].iter().zip(&want).enumerate() {
        let got = token["logprob"].as_f64().unwrap();
        assert!(
            (got - want).abs() < 2e-3,
            "token {}: {got}, transformers says {want}",
            at + 1
        );
    }
    let mean = want.iter().sum::<f64>() / want.len() as f64;
    let perplexity = reply["perplexity"].as_f64().unwrap();
    assert!((perplexity / (-mean).exp() - 1.0).abs() < 2e-3, "{perplexity}");

    let text = daemon.folder().join("text.txt");
    std::fs::write(&text, golden["prompt"].as_str().unwrap()).unwrap();
    assert!(
        daemon
            .hyp(["score", "-m", "tiny-hf", text.to_str().unwrap()])
            .ok()
            .contains("perplexity")
    );
    daemon.stop();
}

#[test]
fn a_beginning_of_a_name_is_enough_where_it_is_unique() {
    let daemon = Daemon::with(
        &[
            (fixtures::tiny(), "Tiny-A.gguf"),
            (fixtures::tiny(), "tiny-b.gguf"),
        ],
        "",
    );
    let ask = |name: &str| daemon.hyp(["ask", "-m", name, "--max-tokens", "2", "hello"]);
    ask("TINY-b").ok();
    ask("tiny-a").ok();
    let said = ask("tiny").fails(5);
    assert!(said.contains("Tiny-A") && said.contains("tiny-b"), "{said}");
    assert!(ask("nothing").fails(5).contains("nothing"));
    daemon.stop();
}
