//! Small vocabularies of the project's own give the ids of their reference libraries (tests/golden/vocabularies.py), and
//! streams give the text of all tokens. Invariant: hostile vocabularies and texts end in an error, never a panic or hang.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyprstream_model::gguf::Gguf;
use hyprstream_model::{GgufVocab, Tokenizer, TokenizerError, TokenizerSource};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tokenizers")
        .join(name)
}

fn from_gguf(name: &str) -> Arc<Tokenizer> {
    let gguf = Gguf::open(&fixture(name)).unwrap();
    Arc::new(Tokenizer::new(&TokenizerSource::Gguf(gguf.metadata())).unwrap())
}

fn from_json(path: &Path) -> Arc<Tokenizer> {
    Arc::new(
        Tokenizer::new(&TokenizerSource::Json {
            tokenizer: path,
            config: None,
        })
        .unwrap(),
    )
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

/// Compares with every case; a case says only what its reference can say.
fn check(tokenizer: &Tokenizer, cases: &str) {
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(fixture(cases)).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        for (key, special, marks) in [
            ("plain", false, false),
            ("marks", false, true),
            ("around", true, true),
        ] {
            if let Some(expected) = case.get(key) {
                assert_eq!(
                    tokenizer.encode(text, special, marks).unwrap(),
                    ids(expected),
                    "{key}: {text:?}"
                );
            }
        }
        let tokens = ids(case.get("marks").unwrap_or(&case["plain"]));
        assert_eq!(
            tokenizer.decode(&tokens, true),
            case["back"].as_str().unwrap(),
            "back: {text:?}"
        );
    }
}

#[test]
fn byte_level_ids_are_those_of_the_reference() {
    for name in ["llama3", "qwen2"] {
        for tokenizer in [
            from_gguf(&format!("{name}.gguf")),
            from_json(&fixture(&format!("{name}.json"))),
        ] {
            check(&tokenizer, &format!("{name}.cases.json"));
            assert_eq!(tokenizer.kind(), "bpe");
        }
    }
}

#[test]
fn sentencepiece_ids_are_those_of_the_reference() {
    let tokenizer = from_gguf("spm.gguf");
    check(&tokenizer, "spm-reference.cases.json");
    assert_eq!(
        (tokenizer.kind(), tokenizer.bos_text(), tokenizer.eos_text()),
        ("spm", "<s>", "</s>")
    );
    check(&from_json(&fixture("spm.json")), "spm.cases.json");
}

#[test]
fn a_real_tokenizer_json_gives_the_ids_of_the_reference() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/models/books-2m/tokenizer.json");
    if !path.exists() {
        eprintln!("SKIPPED: {} is absent", path.display());
        return;
    }
    check(&from_json(&path), "books-2m.cases.json");
}

#[test]
fn marks_are_marks_only_when_asked_for() {
    let tokenizer = from_gguf("qwen2.gguf");
    let mark = tokenizer.encode("<|im_end|>", false, true).unwrap();
    assert_eq!(mark.len(), 1);
    assert!(tokenizer.is_end(mark[0]) && tokenizer.is_special(mark[0]));
    let text = tokenizer.encode("<|im_end|>", false, false).unwrap();
    assert!(text.len() > 1 && text.iter().all(|id| !tokenizer.is_end(*id)));
    assert_eq!(tokenizer.decode(&mark, true), "");
    assert_eq!(tokenizer.decode(&mark, false), "<|im_end|>");
    assert_eq!(tokenizer.piece(mark[0]).unwrap().as_ref(), b"<|im_end|>");
    assert_eq!(tokenizer.piece(u32::MAX), None);
    // User-defined tokens are text to everyone.
    let tool = tokenizer.encode("<tool>", false, false).unwrap();
    assert_eq!(
        (tool.len(), tokenizer.decode(&tool, true).as_str()),
        (1, "<tool>")
    );
}

#[test]
fn sentencepieces_first_space_goes_at_the_start_of_a_text_only() {
    let tokenizer = from_gguf("spm.gguf");
    let hello = tokenizer.encode("the machine", false, false).unwrap();
    let after = |prompt: &[u32]| {
        let mut stream = tokenizer.stream(prompt);
        hello.iter().map(|id| stream.push(*id)).collect::<String>() + &stream.finish()
    };
    assert_eq!(after(&[]), "the machine");
    assert_eq!(
        after(&tokenizer.encode("<|im_start|>", true, true).unwrap()),
        "the machine"
    );
    assert_eq!(
        after(&tokenizer.encode("on", true, true).unwrap()),
        " the machine"
    );
}

proptest! {
    #[test]
    fn streams_give_the_text_of_all_tokens(tokens in proptest::collection::vec(0u32..700, 0..60)) {
        for tokenizer in [from_gguf("llama3.gguf"), from_gguf("spm.gguf"), from_json(&fixture("spm.json"))] {
            let mut stream = tokenizer.stream(&[]);
            let parts: Vec<String> = tokens.iter().map(|id| stream.push(*id)).collect();
            let text = parts.concat() + &stream.finish();
            let bytes: Vec<u8> = tokens
                .iter()
                .filter(|id| !tokenizer.is_special(**id))
                .flat_map(|id| tokenizer.piece(*id).unwrap_or_default().into_owned())
                .collect();
            let lossy = String::from_utf8_lossy(&bytes).into_owned();
            let expected = if tokenizer.kind() == "spm" { lossy.strip_prefix(' ').unwrap_or(&lossy) } else { &lossy };
            prop_assert_eq!(&text, expected);
            prop_assert_eq!(&tokenizer.decode(&tokens, true), expected);
        }
    }

    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        for tokenizer in [from_gguf("llama3.gguf"), from_gguf("spm.gguf")] {
            let tokens = tokenizer.encode(&text, false, false).unwrap();
            let back = if tokenizer.kind() == "spm" { text.replace('\u{2581}', " ") } else { text.clone() };
            prop_assert_eq!(tokenizer.decode(&tokens, false), back);
        }
    }
}

/// It writes spaces so, and cannot tell the two apart.
#[test]
fn sentencepieces_sign_for_a_space_comes_back_as_a_space() {
    let tokenizer = from_gguf("spm.gguf");
    let tokens = tokenizer.encode("a\u{2581}b\u{2581}", false, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false), "a b ");
}

fn bpe<'a>(tokens: &[&'a str], merges: &[&'a str]) -> GgufVocab<'a> {
    GgufVocab {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: tokens.to_vec(),
        merges: Some(merges.to_vec()),
        ..GgufVocab::default()
    }
}

fn spm<'a>(tokens: &[&'a str], scores: &[f32]) -> GgufVocab<'a> {
    GgufVocab {
        model: "llama",
        tokens: tokens.to_vec(),
        scores: Some(scores.to_vec()),
        ..GgufVocab::default()
    }
}

#[test]
fn hostile_gguf_vocabularies_are_refused_with_the_reason() {
    let long = "x".repeat(1 << 20);
    let good = bpe(&["a", "b", "ab"], &["a b"]);
    assert!(Tokenizer::from_gguf(&good).is_ok());
    let cases = [
        (bpe(&[], &[]), "empty"),
        (bpe(&["a", "a"], &[]), "same text"),
        (bpe(&["a", &long], &[]), "bytes long"),
        (bpe(&["a", "b", "ab"], &["a c"]), "`c`"),
        (bpe(&["a", "b"], &["a b"]), "not a token"),
        (bpe(&["a", "b", "ab"], &["ab"]), "two tokens"),
        (bpe(&["a", "b", "ab"], &[" ab"]), "two tokens"),
        (
            GgufVocab {
                pre: None,
                ..good.clone()
            },
            "tokenizer.ggml.pre",
        ),
        (
            GgufVocab {
                pre: Some("tekken-9"),
                ..good.clone()
            },
            "\"tekken-9\"",
        ),
        (
            GgufVocab {
                merges: None,
                ..good.clone()
            },
            "tokenizer.ggml.merges",
        ),
        (
            GgufVocab {
                bos: Some(3),
                ..good.clone()
            },
            "bos_token_id is 3",
        ),
        (
            GgufVocab {
                eot: Some(u32::MAX - 1),
                ..good.clone()
            },
            "eot_token_id",
        ),
        (
            GgufVocab {
                token_types: Some(vec![1]),
                ..good.clone()
            },
            "1 token types",
        ),
        (
            GgufVocab {
                model: "rwkv",
                ..good.clone()
            },
            "\"rwkv\"",
        ),
        (
            GgufVocab {
                model: "bert",
                ..good
            },
            "WordPiece",
        ),
        (spm(&["a"], &[]), "0 scores"),
        (spm(&["a", "b"], &[0.0, f32::NAN]), "token 1"),
        (spm(&["a", "b"], &[f32::INFINITY, 0.0]), "token 0"),
        (spm(&["a", "a"], &[0.0, 0.0]), "same text"),
        (
            GgufVocab {
                scores: None,
                ..spm(&["a"], &[])
            },
            "tokenizer.ggml.scores",
        ),
    ];
    for (vocab, reason) in cases {
        let said = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
        assert!(said.contains(reason), "{reason}: {said}");
    }
    assert!(matches!(
        Tokenizer::from_gguf(&bpe(&["a"], &[]))
            .unwrap()
            .encode("ab", false, false),
        Err(TokenizerError::NoToken)
    ));
}

fn file(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let mut file = json!({
        "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    });
    change(&mut file);
    Tokenizer::from_json(file.to_string().as_bytes(), None)
}

#[test]
fn hostile_tokenizer_files_are_refused_with_the_reason() {
    assert_eq!(
        file(|_| ()).unwrap().encode("abab", false, false).unwrap(),
        [2, 2]
    );
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 17] = [
        (|f| *f = json!([]), "malformed"),
        (|f| f["model"]["vocab"] = json!({}), "empty"),
        (|f| f["model"]["vocab"]["b"] = json!(0), "given twice"),
        (|f| f["model"]["vocab"]["z"] = json!(u32::MAX), "token ids"),
        (|f| f["model"]["vocab"]["z"] = json!(-1), "malformed"),
        (
            |f| f["model"]["vocab"]["x".repeat(1 << 20)] = json!(3),
            "bytes long",
        ),
        (|f| f["model"]["merges"] = json!(["a b c"]), "merge 0"),
        (|f| f["model"]["merges"] = json!([["a", "b", "c"]]), "merge 0"),
        (|f| f["model"]["merges"] = json!([["a", "z"]]), "`z`"),
        (|f| f["model"]["merges"] = json!([["ab", "ab"]]), "not a token"),
        (|f| f["model"]["unk_token"] = json!("?"), "unknown token"),
        (
            |f| f["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}),
            "\"Unigram\"",
        ),
        (
            |f| f["model"]["continuing_subword_prefix"] = json!("##"),
            "continuing_subword_prefix",
        ),
        (|f| f["decoder"] = json!({"type": "WordPiece"}), "\"WordPiece\""),
        (
            |f| {
                f["pre_tokenizer"] =
                    json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})
            },
            "pattern",
        ),
        (|f| f["added_tokens"] = json!([added("x", 9)]), "\"x\" is 9"),
        (
            |f| f["post_processor"] = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"q": {"id": "q", "ids": [77], "tokens": ["q"]}}}),
            "is 77",
        ),
    ];
    for (change, reason) in cases {
        let said = file(change).unwrap_err().to_string();
        assert!(said.contains(reason), "{reason}: {said}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(
        Tokenizer::from_json(deep.as_bytes(), None),
        Err(TokenizerError::Json(_))
    ));
}

fn added(text: &str, id: u32) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

#[test]
fn bytes_of_any_kind_are_no_panic() {
    let good = std::fs::read(fixture("spm.json")).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x15;
        if let Ok(tokenizer) = Tokenizer::from_json(&bad, None) {
            let _ = tokenizer.encode("some text <s> of 1 kind", true, true);
        }
        let _ = Tokenizer::from_json(&good[..at], None);
    }
}

#[test]
fn a_megabyte_of_anything_ends() {
    for tokenizer in [
        from_gguf("llama3.gguf"),
        from_gguf("spm.gguf"),
        from_json(&fixture("spm.json")),
    ] {
        for unit in ["a", " ", "\n", "é", "ab", "1", "!", "<|im_start|>", "🦙"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = Instant::now();
            let tokens = tokenizer.encode(&text, true, true);
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{unit:?}: {:?}",
                start.elapsed()
            );
            // The pattern engine keeps a state for each blank of a run, and stops at a million.
            let refused = unit == " " && matches!(tokens, Err(TokenizerError::TooSlow));
            assert!(
                refused || tokens.is_ok_and(|tokens| !tokens.is_empty()),
                "{unit:?}"
            );
        }
    }
    let run = " ".repeat(900_000);
    assert!(from_gguf("llama3.gguf").encode(&run, false, false).is_ok());
    let huge = "a".repeat(33 << 20);
    assert!(matches!(
        from_gguf("spm.gguf").encode(&huge, false, false),
        Err(TokenizerError::TextTooLong { .. })
    ));
}
