//! The model that ships with the project. Invariant: where it is not built yet, these tests say that they were skipped.
use hyprstream_tests::{Daemon, fixtures};
use serde_json::json;

#[test]
fn the_starter_model_answers_about_hyprstream() {
    let Some(starter) = fixtures::starter() else {
        fixtures::skipped("the starter model: it is absent");
        return;
    };
    assert!(
        std::fs::metadata(&starter).unwrap().len() <= 8 << 20,
        "the starter model is larger than 8 MB"
    );
    let daemon = Daemon::with(&[(starter, "s.gguf")], "[runtime]\nthreads = 2\n");
    let ask = |question: &str| {
        daemon
            .hyp(["ask", "-m", "s", "-t", "0", "--max-tokens", "120", question])
            .ok()
    };
    let what = ask("What is hyprstream?");
    assert!(what.contains("hyprstream"), "{what}");
    let models = ask("How do I list the models?");
    assert!(models.contains("hyp models"), "{models}");
    assert_eq!(ask("What is hyprstream?"), what);
    daemon.stop();
}

#[test]
fn the_starter_model_is_the_default_until_there_is_another() {
    if fixtures::starter().is_none() {
        fixtures::skipped("the starter model: it is absent");
        return;
    }
    let daemon = Daemon::with(&[], "");
    daemon.await_model("hyprstream-starter");
    let default = || daemon.get("/hyprstream/v1/models").json()["default"].clone();
    assert_eq!(default(), "hyprstream-starter");
    fixtures::install(&fixtures::tiny(), &daemon.models(), "tiny.gguf");
    daemon.await_model("tiny");
    assert_eq!(default(), "tiny");
    daemon.stop();
}

#[test]
fn an_answer_goes_on_where_the_model_would_end_it() {
    let Some(starter) = fixtures::starter() else {
        fixtures::skipped("an answer of a known length: the starter model is absent");
        return;
    };
    let daemon = Daemon::with(&[(starter, "s.gguf")], "[runtime]\nthreads = 2\n");
    let end = |ignore_eos: bool| {
        let sampling = json!({"temperature": 0, "max_tokens": 160, "ignore_eos": ignore_eos});
        let messages = json!([{"role": "user", "content": "What is hyprstream?"}]);
        let request = json!({"model": "s", "messages": messages, "sampling": sampling});
        let events = daemon.post("/hyprstream/v1/chat", &request).lines();
        let done = events.last().unwrap();
        (
            done["reason"].clone(),
            done["usage"]["completion_tokens"].as_u64().unwrap(),
        )
    };
    let (reason, tokens) = end(false);
    assert!(reason == "stop" && tokens < 160, "{reason} after {tokens}");
    assert_eq!(end(true), (json!("length"), 160));
    daemon.stop();
}
