//! The commands that ask about state, and those that work on tokens: plain output for programs.
use crate::fake::{Home, run_with, text};
use serde_json::json;

fn said(args: &[&str], input: &[u8], reply: &str) -> (String, crate::fake::Seen) {
    let home = Home::new();
    let owned = reply.to_owned();
    let fake = home.serve(move |_, peer| {
        peer.reply(200, &owned);
        true
    });
    let output = run_with(home.hyp(args), input);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let seen = fake.seen.lock().unwrap()[0].clone();
    (text(&output.stdout).to_owned(), seen)
}

const MODELS: &str = r#"{"models":[
 {"name":"qwen/q","state":"loaded","arch":"qwen3","parameters":596049920,"format":"Q8_0","context":40960,"bytes":639446688,"modified_s":4102444800},
 {"name":"bad","state":"broken","reason":"cut\toff","bytes":12,"modified_s":4102444800}],"default":"qwen/q"}"#;

#[test]
fn models_are_a_line_each() {
    let (out, seen) = said(&["models"], b"", MODELS);
    assert_eq!(seen.line, "GET /hyprstream/v1/models");
    assert_eq!(
        out,
        "qwen/q\tloaded\tqwen3\t596049920\tQ8_0\t40960\t639446688\t0\tdefault\nbad\tbroken\t\t\t\t\t12\t0\tcut off\n"
    );
    let (out, _) = said(&["models", "--json"], b"", MODELS);
    assert_eq!(out, format!("{MODELS}\n"));
    assert_eq!(said(&["models"], b"", r#"{"models":[],"default":null}"#).0, "");
}

#[test]
fn a_model_is_shown() {
    let reply = r#"{"name":"a b/c","state":"available","bytes":12,"modified_s":0,"path":"/m/a b/c.gguf","digest":null,
        "memory_needed":5,"shape":{"layers":2},"tokenizer":"bpe","chat_template":"{{ x }}"}"#;
    let (out, seen) = said(&["show", "a b/c"], b"", reply);
    assert_eq!(seen.line, "GET /hyprstream/v1/models/a%20b%2Fc");
    assert!(
        out.starts_with("name\ta b/c\nstate\tavailable\npath\t/m/a b/c.gguf\n"),
        "{out}"
    );
    assert!(out.ends_with("digest\t\nlayers\t2\n"), "{out}");
    assert_eq!(said(&["show", "a b/c", "--template"], b"", reply).0, "{{ x }}\n");
    let twice = reply
        .replace("\"layers\":2", "\"layers\":2,\"context\":7")
        .replace("\"bytes\"", "\"context\":7,\"bytes\"");
    assert_eq!(
        said(&["show", "a b/c"], b"", &twice)
            .0
            .matches("context\t")
            .count(),
        1
    );
}

#[test]
fn of_a_broken_model_only_the_known_is_shown() {
    let reply = r#"{"name":"bad","state":"broken","reason":"cut off","bytes":12,"modified_s":0,"path":"/m/bad.gguf",
        "digest":null,"memory_needed":null,"shape":{},"tokenizer":null,"chat_template":null}"#;
    assert_eq!(
        said(&["show", "bad"], b"", reply).0,
        "name\tbad\nstate\tbroken\nreason\tcut off\npath\t/m/bad.gguf\nsize\t12\n"
    );
}

#[test]
fn jobs_and_status_are_shown() {
    let job = r#"{"jobs":[{"id":"j1","kind":"chat","state":"running","model":"m","uid":4000000000,"age_ms":61000,
        "prompt_tokens":5,"completion_tokens":7}]}"#;
    assert_eq!(
        said(&["ps"], b"", job).0,
        "j1\tchat\trunning\tm\t4000000000\t61\t5\t7\n"
    );
    let status = r#"{"version":"0.1.0","pid":5,"uptime_s":61,"state":"ready","models_dirs":["/m"],"default_model":null,
        "loaded":[],"running":0,"queued":1,"queue_max":64,"threads":2,"isa":"avx2","memory":{"budget":3,"claimed":2,"resident":9,"private":4},
        "kv_blocks":{"tokens":32,"total":512,"in_use":6,"kept":9}}"#;
    let (out, seen) = said(&["status"], b"", status);
    assert_eq!(seen.line, "GET /hyprstream/v1/status");
    assert!(
        out.contains("KV blocks\t6\n") && out.contains("uptime\t61\n") && out.contains("queued\t1\n"),
        "{out}"
    );
    assert!(out.contains("memory resident\t9\nmemory private\t4\n"), "{out}");
    assert!(out.contains("/sock\n") && out.contains("\nsocket\t/"), "{out}");
    assert_eq!(said(&["status", "--json"], b"", status).0, format!("{status}\n"));
}

#[test]
fn models_are_unloaded_and_jobs_cancelled() {
    let (out, seen) = said(&["unload", "m"], b"", r#"{"model":"m","was_loaded":true}"#);
    assert_eq!(
        (out.as_str(), seen.line.as_str()),
        ("", "POST /hyprstream/v1/unload")
    );
    assert_eq!(seen.body, json!({"model": "m"}));
    let (out, seen) = said(&["cancel", "j/1"], b"", r#"{"id":"j/1"}"#);
    assert_eq!(
        (out.as_str(), seen.line.as_str()),
        ("", "DELETE /hyprstream/v1/jobs/j%2F1")
    );
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let reply = r#"{"model":"m","tokens":[{"token":1,"text":"a"},{"token":2,"text":" \n"}]}"#;
    let (out, seen) = said(&["tokenize", "--no-special"], b"a \n", reply);
    assert_eq!(out, "1\t\"a\"\n2\t\" \\n\"\n");
    assert_eq!(
        seen.body,
        json!({"text": "a \n", "add_special": false, "parse_special": false})
    );
    assert_eq!(said(&["tokenize", "--ids", "a", "b"], b"", reply).0, "1 2\n");
    let (out, seen) = said(
        &["detokenize", "-m", "m", "1,2", "3"],
        b"",
        r#"{"model":"m","text":"a b"}"#,
    );
    assert_eq!(out, "a b\n");
    assert_eq!(seen.body, json!({"model": "m", "tokens": [1, 2, 3]}));
}

#[test]
fn a_text_is_scored() {
    let reply = r#"{"model":"m","tokens":1,"logprob":-0.5,"perplexity":1.6487212707,"scored":[{"token":1,"text":"a","logprob":null},
        {"token":2,"text":"b","logprob":-0.5,"top":[{"token":2,"text":"b","logprob":-0.5}]}]}"#;
    let (out, seen) = said(&["score", "-"], b"ab", reply);
    assert_eq!(
        out,
        "model\tm\ntokens\t1\nlogprob\t-0.5\nperplexity\t1.6487212707\n"
    );
    assert_eq!(seen.body, json!({"prompt": "ab", "top": 0}));
    let (out, seen) = said(&["score", "--ids", "--top", "1", "-"], b"1 2\n", reply);
    assert_eq!(out, "1\t\t\"a\"\t\n2\t-0.5\t\"b\"\t\"b\" -0.5000\n");
    assert_eq!(seen.body, json!({"prompt": [1, 2], "top": 1}));
    let (out, _) = said(&["score", "--tokens", "-"], b"ab", reply);
    assert_eq!(out, "1\t\t\"a\"\n2\t-0.5\t\"b\"\n");
}

#[test]
fn a_missing_file_is_named() {
    let home = Home::new();
    let output = home.hyp(&["score", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/file"));
}

#[test]
fn scripts_for_shells_and_the_page() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.bare(&["completions", shell]).output().unwrap();
        assert!(text(&output.stdout).contains("detokenize"), "{shell}");
    }
    // What TAB offers after `hyp help`.
    let output = home.bare(&["completions", "bash"]).output().unwrap();
    let (_, help) = text(&output.stdout).split_once("hyp__subcmd__help)\n").unwrap();
    let words = help.lines().next().unwrap();
    assert!(words.contains(" ask ") && words.contains(" score "), "{words}");
    let output = home.bare(&["man"]).output().unwrap();
    assert!(text(&output.stdout).contains(".SH \"EXIT STATUS\""));
    let output = home.bare(&["frobnicate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(home.bare(&[]).output().unwrap().status.code(), Some(2));
}

#[test]
fn help_is_a_command_too() {
    let home = Home::new();
    let stdout = |args: &[&str]| {
        let output = home.bare(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    assert_eq!(stdout(&["help"]), stdout(&["--help"]));
    assert_eq!(stdout(&["help", "ask"]), stdout(&["ask", "--help"]));
    let ask = stdout(&["ask", "--help"]);
    let at = |part: &str| ask.find(part).unwrap();
    assert!(
        at("--raw") < at("Global options:") && at("Global options:") < at("--json"),
        "{ask}"
    );
    let output = home.bare(&["help", "frobnicate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
