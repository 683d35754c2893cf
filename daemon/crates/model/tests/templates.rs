//! Chat templates render as `transformers` renders them (tests/golden/templates.py made the expectations).
//! Invariant: a template whose file is absent is reported as skipped, never passed over in silence.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hyprstream_model::{ChatTemplate, TemplateError, TemplateInput};
use serde_json::{Map, Value};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Renders every case of a template and returns what differs.
fn differences(source: &str, inputs: &Value, cases: &Value) -> Vec<String> {
    let template = ChatTemplate::new(source).unwrap();
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let chat = case["chat"].as_str().unwrap();
        let found = template.render(&TemplateInput {
            messages: inputs["chats"][chat].as_array().unwrap(),
            tools: &inputs["tools"].as_array().unwrap()[..case["tools"].as_u64().unwrap() as usize],
            add_generation_prompt: case["prompt"] == true,
            bos_token: inputs["bos_token"].as_str().unwrap(),
            eos_token: inputs["eos_token"].as_str().unwrap(),
            vars: case["vars"].as_object().unwrap(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(inputs["now"].as_u64().unwrap()),
        });
        let right = match (&found, case.get("text"), case.get("raises")) {
            (Ok(text), Some(expected), _) => expected == text,
            (Err(TemplateError::Raised { message }), _, Some(expected)) => expected == message,
            (Err(TemplateError::Failed { .. } | TemplateError::TooMuchWork), None, None) => true,
            _ => false,
        };
        if !right {
            wrong.push(format!("{case}\n  found {found:?}"));
        }
    }
    wrong
}

#[test]
fn every_template_renders_as_in_transformers() {
    let inputs = json(&fixtures().join("inputs.json"));
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(name) = name.strip_suffix(".cases.json") else {
            continue;
        };
        let own = fixtures().join(format!("{name}.jinja"));
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/templates");
        let file = if own.exists() {
            own
        } else {
            shared.join(format!("{name}.jinja"))
        };
        let Ok(source) = std::fs::read_to_string(&file) else {
            eprintln!("SKIPPED: {} is absent", file.display());
            continue;
        };
        let cases = json(&path);
        count += cases.as_array().unwrap().len();
        let differing = differences(&source, &inputs, &cases);
        println!(
            "{name}: {} of {} differ",
            differing.len(),
            cases.as_array().unwrap().len()
        );
        wrong.extend(differing.into_iter().map(|text| format!("{name}: {text}")));
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= 80, "the project's own templates are always there");
}

fn render(source: &str) -> Result<String, TemplateError> {
    ChatTemplate::new(source)?.render(&TemplateInput {
        messages: &[serde_json::json!({"role": "user", "content": "x".repeat(1000)})],
        tools: &[],
        add_generation_prompt: true,
        bos_token: "",
        eos_token: "",
        vars: &Map::new(),
        now: SystemTime::UNIX_EPOCH,
    })
}

/// Each would hang, eat the memory or overflow the stack.
#[test]
fn hostile_templates_end() {
    let doubling = |step: &str, count: usize| {
        format!("{{% set ns = namespace(x='ab') %}}{{% for i in range({count}) %}}{step}{{% endfor %}}")
    };
    let nest = |step: &str, count: usize| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range({count}) %}}{step}{{% endfor %}}{{{{ ns.x }}}}"
        )
    };
    let hostile = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        doubling("{% set ns.x = ns.x + ns.x %}", 60),
        doubling("{% set ns.x = ns.x ~ ns.x %}", 60),
        doubling("{% set ns.x = ns.x * 1000 %}", 60),
        doubling("{% set ns.x = ns.x | replace('a', ns.x) %}", 60),
        doubling("{% set ns.x = ns.x.replace('a', ns.x) %}", 60),
        doubling("{% set ns.x = [ns.x, ns.x] | join %}", 60),
        doubling("{% set ns.x = ns.x.join([ns.x, ns.x]) %}", 60),
        doubling("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", 60),
        doubling("{% set ns.x = ns.x | indent(1000000000, true) %}", 60),
        doubling("{{ ns.x * 10000000 }}", 1000),
        nest("{% set ns.x = [ns.x, ns.x] %}", 60),
        nest("{% set ns.x = ns.x + ns.x + [1] %}", 60),
        nest("{% set ns.x = [ns.x] %}", 100_000),
        nest("{% set ns.x = {'a': ns.x} %}", 100_000),
        nest("{% set ns.x = ns.x | batch(1000000000, 0) | list %}", 10),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% macro m(x) %}{{ m(x + x) }}{% endmacro %}{{ m('ab') }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns == namespace(x=ns) }}{{ ns | tojson }}"
            .to_owned(),
        "{{ [1] * 10000000000 }}".to_owned(),
        "{{ '%999999999d' | format(1) }}".to_owned(),
        "{{ '{:999999999}'.format(1) }}".to_owned(),
        "{{ raise_exception }}{{ range(100000000) | list }}".to_owned(),
        format!(
            "{}1{}",
            "{{ ".to_owned() + &"(".repeat(50_000),
            ")".repeat(50_000) + " }}"
        ),
        "{% if true %}".repeat(20_000),
        "{% set ns = namespace() %}{% for i in range(1000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}".to_owned(),
        "{% set ns = namespace() %}{% for i in range(1000) %}{% set n = namespace() %}{% set n.x = ns.x %}{% set ns.x = n %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = dict(x=ns.x) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='ab') %}{% for i in range(100000) %}{% set ns.x = ns.x[0:] ~ ns.x[0:] %}{% endfor %}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}".to_owned(),
        "{{ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) }}".to_owned(),
        format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(40_000)),
        format!("{{% if false %}}{}{{% endif %}}", "{% elif false %}".repeat(15_000)),
        "{% include 'x' %}".to_owned(),
        "{% import '/etc/passwd' as x %}".to_owned(),
        "{{ ''.__class__.__mro__ }}".to_owned(),
        "{{ ".to_owned(),
    ];
    for source in hostile {
        let start = std::time::Instant::now();
        let result = render(&source);
        let head: String = source.chars().take(100).collect();
        assert!(result.is_err(), "{head}: {} bytes", result.unwrap().len());
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{head}: {:?}",
            start.elapsed()
        );
    }
    let long = "x".repeat(1 << 20);
    assert!(matches!(render(&long), Err(TemplateError::SourceTooLong { .. })));
}

/// Slices are made on demand; a long chain of them must not recurse when it is read or dropped.
#[test]
fn long_chains_of_slices_are_short() {
    let chain = "{% set ns = namespace(x=[1, 2]) %}{% for i in range(50000) %}{% set ns.x = ns.x[0:] %}{% endfor %}{{ ns.x }}";
    assert_eq!(render(chain).unwrap(), "[1, 2]");
}

#[test]
fn errors_carry_the_templates_words_and_lines() {
    let raised = render("{{ raise_exception('no ' + 'way') }}").unwrap_err();
    assert_eq!(
        raised,
        TemplateError::Raised {
            message: "no way".into()
        }
    );
    let syntax = render("\n\n{% if %}").unwrap_err();
    assert!(
        matches!(syntax, TemplateError::Syntax { line: 3, .. }),
        "{syntax}"
    );
    let failed = render("\n{{ missing.attribute }}").unwrap_err();
    assert!(
        matches!(failed, TemplateError::Failed { line: 2, .. }),
        "{failed}"
    );
}

#[test]
fn a_long_conversation_renders() {
    let source = std::fs::read_to_string(fixtures().join("own-chatml.jinja")).unwrap();
    let messages: Vec<Value> = (0..2000)
        .map(|i| serde_json::json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": "x".repeat(500)}))
        .collect();
    let text = ChatTemplate::new(&source).unwrap().render(&TemplateInput {
        messages: &messages,
        tools: &[],
        add_generation_prompt: true,
        bos_token: "",
        eos_token: "",
        vars: &Map::new(),
        now: SystemTime::UNIX_EPOCH,
    });
    assert!(text.unwrap().len() > 1_000_000);
}
