//! OpenAI's requests as ours: what is obeyed, what is refused by name, what is ignored.
use super::chat::ChatCompletion;
use super::completion::Completion;
use super::*;
use hyprstream_protocol::{ErrorBody, Prompt};

fn chat(value: Value) -> Result<ChatCompletion, ErrorBody> {
    ChatCompletion::read(value.as_object().unwrap().clone()).map_err(|failure| failure.0)
}

fn completion(value: Value) -> Result<Completion, ErrorBody> {
    Completion::read(value.as_object().unwrap().clone()).map_err(|failure| failure.0)
}

fn hello(more: Value) -> Value {
    let mut all = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    let more = more.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(more);
    all
}

#[test]
fn chat_parameters_are_read() {
    let request = chat(hello(json!({
        "temperature": 0, "top_p": 0.5, "max_tokens": 7, "stop": "x", "seed": -1, "presence_penalty": 1,
        "logprobs": true, "top_logprobs": 3, "n": 1, "user": "u", "stream": true,
        "stream_options": {"include_usage": true}, "logit_bias": {}, "response_format": {"type": "text"},
        "metadata": {"a": "b"}, "store": false, "top_k": 5, "tools": [{"type": "function"}], "tool_choice": "auto",
        "speculation": false,
    })))
    .unwrap();
    let sampling = &request.sampling;
    assert_eq!(
        (sampling.temperature, sampling.max_tokens, sampling.top_k),
        (Some(0.0), Some(7), Some(5))
    );
    assert_eq!((sampling.seed, sampling.logprobs), (Some(u64::MAX), Some(3)));
    assert_eq!(
        (&sampling.stop[..], sampling.speculation),
        (&["x".to_owned()][..], Some(false))
    );
    assert!(request.stream && request.include_usage && request.tools.len() == 1);
    let newer = chat(hello(
        json!({"max_tokens": 7, "max_completion_tokens": 9, "stop": ["a", "b"]}),
    ))
    .unwrap();
    assert_eq!(
        (newer.sampling.max_tokens, newer.sampling.stop.len()),
        (Some(9), 2)
    );
    assert!(
        chat(hello(json!({"tools": [{}], "tool_choice": "none"})))
            .unwrap()
            .tools
            .is_empty()
    );
    assert!(chat(hello(json!({"temperature": null, "stop": null, "seed": null}))).is_ok());
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    for (name, value) in [
        ("n", json!(2)),
        ("logit_bias", json!({"50256": -100})),
        ("temprature", json!(0.5)),
        ("response_format", json!({"type": "json_object"})),
        ("tool_choice", json!("required")),
        ("functions", json!([{"name": "f"}])),
        ("modalities", json!(["text", "audio"])),
        ("top_logprobs", json!(5)),
        ("temperature", json!("hot")),
        ("max_tokens", json!(-1)),
        ("stop", json!([1])),
        ("stream", json!("yes")),
    ] {
        let error = chat(hello(json!({name: value}))).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(name), "{error:?}");
        assert!(error.message.contains(name), "{error:?}");
    }
    assert_eq!(
        chat(json!({"model": "m"})).unwrap_err().field.as_deref(),
        Some("messages")
    );
    assert_eq!(
        completion(json!({"prompt": "x", "best_of": 3}))
            .unwrap_err()
            .field
            .as_deref(),
        Some("best_of")
    );
    assert_eq!(
        completion(json!({"prompt": "x", "suffix": "y"}))
            .unwrap_err()
            .field
            .as_deref(),
        Some("suffix")
    );
}

#[test]
fn messages_become_what_templates_know() {
    let request = chat(json!({"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]}));
    let messages = request.unwrap().messages;
    assert_eq!(messages[0]["role"], "system");
    assert_eq!(messages[1]["content"], "ab");
    assert_eq!(messages[2]["tool_calls"][0]["function"]["arguments"]["x"], 1);
    assert_eq!(messages[2]["content"], Value::Null);
    for (message, field) in [
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            "messages[0].content[0]",
        ),
        (json!({"role": "king", "content": "x"}), "messages[0].role"),
        (json!({"role": "user"}), "messages[0].content"),
        (json!("hello"), "messages[0]"),
    ] {
        assert_eq!(
            chat(json!({"messages": [message]})).unwrap_err().field.as_deref(),
            Some(field)
        );
    }
    assert!(chat(json!({"messages": []})).is_err());
}

#[test]
fn prompts_of_every_kind() {
    let prompts = |value: Value| completion(json!({"prompt": value})).map(|request| request.prompts);
    assert_eq!(prompts(json!("a")).unwrap(), [Prompt::Text("a".into())]);
    assert_eq!(prompts(json!([1, 2])).unwrap(), [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(
        prompts(json!(["a", [3]])).unwrap(),
        [Prompt::Text("a".into()), Prompt::Tokens(vec![3])]
    );
    for bad in [
        json!([]),
        json!(1),
        json!([1, "a"]),
        json!([-1]),
        json!([{"a": 1}]),
        json!([[1.5]]),
        json!({}),
    ] {
        assert!(prompts(bad.clone()).is_err(), "{bad}");
    }
    let scoring = completion(json!({"prompt": [1], "max_tokens": 0, "echo": true, "logprobs": 1})).unwrap();
    assert_eq!(
        (
            scoring.sampling.max_tokens,
            scoring.sampling.logprobs,
            scoring.echo
        ),
        (Some(0), Some(1), true)
    );
}

#[test]
fn errors_have_openai_form() {
    let failure = Failure(ErrorBody::new(ErrorCode::Busy, "full").retry_after_ms(1));
    let value = error_json(&failure);
    assert_eq!(value["error"]["type"], "rate_limit_error");
    assert_eq!(value["error"]["code"], "busy");
    let value = error_json(&Failure::bad_field("n", "no"));
    assert_eq!(
        (&value["error"]["type"], &value["error"]["param"]),
        (&json!("invalid_request_error"), &json!("n"))
    );
    let value = error_json(&Failure::new(ErrorCode::ContextExceeded, "long"));
    assert_eq!(value["error"]["code"], "context_length_exceeded");
}
