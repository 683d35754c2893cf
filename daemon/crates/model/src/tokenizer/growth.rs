//! How much a tokenizer.json may make of a text, checked before its parts are built. Invariant: a text grows at most
//! `GROWTH_MAX` times and gets at most `ADDED_MAX` tokens around it, so that a hostile file cannot turn a short prompt
//! into gigabytes.

use serde_json::Value;

use super::TokenizerError;

/// `▁` for a space is three times; NFKD makes up to eighteen characters of one.
const GROWTH_MAX: usize = 64;
/// Bytes put before a text.
const PREPEND_MAX: usize = 256;
/// Entries of a template, and ids of each.
const ADDED_MAX: usize = 64;
/// Normalizers within normalizers.
const DEPTH_MAX: usize = 8;

const PLAIN: [&str; 9] = [
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "StripAccents",
    "ByteLevel",
    "Nmt",
];

/// Refuses normalizers that are not known, and those that make much of little.
pub(super) fn check_normalizer(normalizer: &Value) -> Result<(), TokenizerError> {
    if growth(normalizer, DEPTH_MAX)? > GROWTH_MAX {
        return Err(unsupported(
            "normalizer",
            "one that makes a text more than 64 times as long",
        ));
    }
    Ok(())
}

fn growth(normalizer: &Value, depth: usize) -> Result<usize, TokenizerError> {
    let kind = normalizer
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("unnamed");
    match kind {
        "Sequence" if depth > 0 => {
            let parts = normalizer.get("normalizers").and_then(Value::as_array);
            let mut product = 1usize;
            for part in parts.into_iter().flatten() {
                product = product.saturating_mul(growth(part, depth - 1)?);
            }
            Ok(product)
        }
        "Replace" => {
            let content = normalizer
                .get("content")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let pattern = normalizer.pointer("/pattern/String").and_then(Value::as_str);
            // A regular expression may match a single byte.
            let shortest = pattern.map_or(1, str::len);
            if shortest == 0
                || normalizer
                    .pointer("/pattern/Regex")
                    .is_some_and(|regex| regex == "")
            {
                return Err(unsupported("normalizer", "a Replace of nothing"));
            }
            Ok(content.len().div_ceil(shortest).max(1))
        }
        "Prepend" => {
            let text = normalizer
                .get("prepend")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if text.len() > PREPEND_MAX {
                return Err(unsupported("normalizer", "a Prepend of more than 256 bytes"));
            }
            Ok(1)
        }
        kind if PLAIN.contains(&kind) => Ok(1),
        kind => Err(unsupported(
            "normalizer",
            &kind.chars().take(80).collect::<String>(),
        )),
    }
}

/// Refuses templates that put a book around a text.
pub(super) fn check_post_processor(processor: &Value) -> Result<(), TokenizerError> {
    let lengths = [
        processor.get("single").and_then(Value::as_array).map(Vec::len),
        processor.get("pair").and_then(Value::as_array).map(Vec::len),
        processor
            .get("processors")
            .and_then(Value::as_array)
            .map(Vec::len),
    ];
    let special = processor.get("special_tokens").and_then(Value::as_object);
    let ids = special.into_iter().flat_map(|map| map.values());
    let ids = ids.map(|token| token.get("ids").and_then(Value::as_array).map(Vec::len));
    if lengths
        .into_iter()
        .chain(ids)
        .flatten()
        .any(|length| length > ADDED_MAX)
    {
        return Err(unsupported("post_processor", "one that adds more than 64 tokens"));
    }
    let nested = processor.get("processors").and_then(Value::as_array);
    nested.into_iter().flatten().try_for_each(check_post_processor)
}

fn unsupported(part: &'static str, found: &str) -> TokenizerError {
    let supported = match part {
        "normalizer" => {
            "NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace and sequences of them"
        }
        _ => "templates that add a few tokens",
    };
    TokenizerError::UnsupportedPart {
        part,
        found: found.to_owned(),
        supported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_real_files_have_passes() {
        let llama = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
        check_normalizer(&llama).unwrap();
        check_normalizer(&json!({"type": "NFC"})).unwrap();
        let template = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
        check_post_processor(&template).unwrap();
    }

    #[test]
    fn growth_is_refused() {
        let tenfold = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(10)});
        check_normalizer(&tenfold).unwrap();
        let bad = [
            json!({"type": "Sequence", "normalizers": [tenfold, tenfold]}),
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}),
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
            json!({"type": "Prepend", "prepend": "x".repeat(1000)}),
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            (0..20).fold(
                json!({"type": "NFC"}),
                |inner, _| json!({"type": "Sequence", "normalizers": [inner]}),
            ),
        ];
        for normalizer in bad {
            assert!(check_normalizer(&normalizer).is_err(), "{normalizer}");
        }
        let long = json!({"type": "TemplateProcessing", "single": [],
            "special_tokens": {"x": {"id": "x", "ids": vec![1; 1000], "tokens": []}}});
        assert!(check_post_processor(&long).is_err());
        assert!(check_post_processor(&json!({"type": "Sequence", "processors": [long]})).is_err());
    }
}
