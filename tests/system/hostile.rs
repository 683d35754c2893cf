//! Damaged models that may well be listed. Invariant: asking one gives an answer or a clear error, and costs the others
//! nothing.
use hyprstream_tests::{Daemon, fixtures};
use std::fs;

/// How often the header is damaged, each time elsewhere.
const VARIANTS: u64 = 24;

/// A well-known sequence of numbers (xorshift), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Answers, or refuses the model or the request; anything else is a fault of the daemon.
fn survives(daemon: &Daemon, name: &str) {
    let ended = daemon.hyp(["ask", "--raw", "-m", name, "--max-tokens", "2", "hello"]);
    assert!(matches!(ended.code, Some(0 | 6 | 7)), "{name}: {ended:?}");
    assert!(!daemon.log().contains("panicked"), "{name}: {}", daemon.log());
}

/// A good model still answers, and the daemon ends in order.
fn unharmed(daemon: Daemon) {
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    daemon.stop();
}

#[test]
fn bits_flipped_in_the_header_do_no_harm() {
    let daemon = Daemon::tiny();
    let good = fs::read(fixtures::tiny()).unwrap();
    let names: Vec<String> = (0..VARIANTS).map(|seed| format!("flipped-{seed}")).collect();
    for (seed, name) in (1..).zip(&names) {
        let (mut bad, mut numbers) = (
            good.clone(),
            Numbers(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)),
        );
        for _ in 0..6 {
            let at = numbers.below(14_000);
            bad[at] ^= 1 << numbers.below(8);
        }
        fs::write(daemon.models().join(format!("{name}.gguf")), bad).unwrap();
    }
    for name in &names {
        daemon.await_model(name);
        survives(&daemon, name);
    }
    unharmed(daemon);
}

#[test]
fn weights_that_are_no_numbers_do_no_harm() {
    let daemon = Daemon::tiny();
    let good = fs::read(fixtures::tiny()).unwrap();
    for (name, byte) in [("ones", 0xff), ("infinite", 0x7c), ("huge", 0x7b)] {
        let mut bad = good.clone();
        let half = bad.len() / 2;
        bad[half..].fill(byte);
        fs::write(daemon.models().join(format!("{name}.gguf")), bad).unwrap();
        daemon.await_model(name);
        survives(&daemon, name);
        daemon.hyp(["ask", "-m", name, "-t", "1", "--max-tokens", "2", "hello"]);
        let file = daemon.folder().join("text");
        fs::write(&file, "one two three").unwrap();
        daemon.hyp(["score", "-m", name, file.to_str().unwrap()]);
    }
    unharmed(daemon);
}

#[test]
fn tokenizers_that_make_no_sense_do_no_harm() {
    let daemon = Daemon::tiny();
    let good = fs::read_to_string(fixtures::tiny_folder().join("tokenizer.json")).unwrap();
    let bad = [
        ("empty", String::new()),
        ("no-object", "[]".to_owned()),
        ("deep", "[".repeat(200_000)),
        ("cut", good[..good.len() / 2].to_owned()),
        ("huge-id", good.replace("\"id\": 317", "\"id\": 4294967295")),
        ("no-model", good.replace("\"model\"", "\"modell\"")),
        ("endless-regex", good.replace("\\\\p{N}|", "(a+)+$|")),
    ];
    for (name, tokenizer) in bad {
        let source = daemon.folder().join(format!("{name}-source"));
        fs::create_dir(&source).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer_config.json"] {
            fs::copy(fixtures::tiny_folder().join(file), source.join(file)).unwrap();
        }
        fs::write(source.join("tokenizer.json"), tokenizer).unwrap();
        fixtures::install(&source, &daemon.models(), name);
        daemon.await_model(name);
        survives(&daemon, name);
    }
    unharmed(daemon);
}
