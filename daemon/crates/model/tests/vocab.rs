//! Real vocabularies give exactly the ids that their reference gave. Invariant: an absent file is reported as skipped,
//! never passed over in silence.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyprstream_model::gguf::Gguf;
use hyprstream_model::{Tokenizer, TokenizerSource};

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../../shared")
        .join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn load(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::new(&TokenizerSource::Gguf(gguf.metadata())).unwrap();
    println!(
        "{}: {} tokens in {:?}",
        path.display(),
        tokenizer.vocab_len(),
        start.elapsed()
    );
    tokenizer
}

fn parity(name: &str) {
    let Some(path) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) else {
        return;
    };
    let file = |ending: &str| std::fs::read_to_string(format!("{}.{ending}", path.display())).unwrap();
    let tokenizer = Arc::new(load(&path));
    let (texts, ids) = (file("inp"), file("out"));
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(texts.len().min(ids.len()), ids.len());
    let mut wrong = 0;
    for (text, expected) in texts.iter().zip(&ids) {
        let expected: Vec<u32> = expected
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        let found = tokenizer.encode(text, false, true).unwrap();
        if found != expected {
            eprintln!("{name}: {text:?}\n  expected {expected:?}\n  found    {found:?}");
            wrong += 1;
        }
        assert_eq!(tokenizer.decode(&found, false), *text, "{name}: back to text");
        let mut stream = tokenizer.stream(&[]);
        let streamed: String = found.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(streamed + &stream.finish(), *text, "{name}: streamed");
    }
    assert_eq!(wrong, 0, "{name}: {wrong} of {} texts differ", ids.len());
}

#[test]
fn gpt_2() {
    parity("gpt-2");
}

#[test]
fn llama_bpe() {
    parity("llama-bpe");
}

#[test]
fn qwen2() {
    parity("qwen2");
}

#[test]
fn llama_spm() {
    parity("llama-spm");
}

#[test]
fn phi_3() {
    parity("phi-3");
}

#[test]
fn word_piece_is_refused_by_name() {
    let Some(path) = shared("vocab/ggml-vocab-bert-bge.gguf") else {
        return;
    };
    let gguf = Gguf::open(&path).unwrap();
    let said = Tokenizer::new(&TokenizerSource::Gguf(gguf.metadata()))
        .unwrap_err()
        .to_string();
    assert!(said.contains("WordPiece"), "{said}");
}
