//! Golden models with F16 weights that use all of its bits, on every instruction set.
//!
//! Invariant: as prompt and as answer, logits are those of the same weights in F32, whose arithmetic the other golden
//! tests hold to transformers. Seen: 0.0003 apart where prompts take tiles, nothing elsewhere.
use crate::run::{Golden, LOGIT_ABS_MAX, distance, logits_as, open, runner_on};
use hyprstream_kernels::{Isa, KvFormat, Pool};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A value of bf16 as one of f16, with low bits that bf16 lacks, and the same in f32. Too small ones become zero.
fn halves(bits: u16, low: u32) -> (u16, u32) {
    let (sign, exponent, mantissa) = (
        u32::from(bits >> 15),
        u32::from(bits >> 7) & 0xff,
        u32::from(bits) & 0x7f,
    );
    let mantissa = mantissa << 3 | low & 7;
    if exponent <= 127 - 15 {
        return (0, 0);
    }
    let half = sign << 15 | (exponent - 112) << 10 | mantissa;
    (
        u16::try_from(half).unwrap(),
        sign << 31 | exponent << 23 | mantissa << 13,
    )
}

/// Copies of a golden model in F16 and in F32.
fn copies(golden: &Golden, name: &str) -> [PathBuf; 2] {
    let from = golden.folder.join("hf");
    let file = std::fs::read(from.join("model.safetensors")).unwrap();
    let (len, rest) = file.split_at(8);
    let (head, data) = rest.split_at(usize::try_from(u64::from_le_bytes(len.try_into().unwrap())).unwrap());
    let head: Map<String, Value> = serde_json::from_slice(head).unwrap();
    let (mut heads, mut tensors) = ([Map::new(), Map::new()], [Vec::new(), Vec::new()]);
    for (tensor, facts) in head.iter().filter(|(tensor, _)| *tensor != "__metadata__") {
        assert_eq!(facts["dtype"], "BF16", "{tensor}");
        let at = |end: usize| usize::try_from(facts["data_offsets"][end].as_u64().unwrap()).unwrap();
        let starts = [tensors[0].len(), tensors[1].len()];
        for (i, pair) in data[at(0)..at(1)].chunks_exact(2).enumerate() {
            let low = (i as u32).wrapping_mul(0x9e37_79b9) >> 29;
            let (half, float) = halves(u16::from_le_bytes([pair[0], pair[1]]), low);
            tensors[0].extend(half.to_le_bytes());
            tensors[1].extend(float.to_le_bytes());
        }
        for (i, dtype) in ["F16", "F32"].into_iter().enumerate() {
            let facts = json!({
                "dtype": dtype, "shape": facts["shape"], "data_offsets": [starts[i], tensors[i].len()],
            });
            heads[i].insert(tensor.clone(), facts);
        }
    }
    std::array::from_fn(|i| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", ["f16", "f32"][i]));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(from.join("config.json"), folder.join("config.json")).unwrap();
        let head = serde_json::to_vec(&heads[i]).unwrap();
        let file = [&(head.len() as u64).to_le_bytes()[..], &head, &tensors[i]].concat();
        std::fs::write(folder.join("model.safetensors"), file).unwrap();
        folder
    })
}

fn check(name: &str) {
    let golden = Golden::read(&format!("archs/{name}"));
    let [f16, f32] = copies(&golden, name).map(|folder| open(&folder));
    let (a, b) = (golden.sequences[0].as_slice(), golden.sequences[1].as_slice());
    for isa in Isa::ALL.into_iter().filter(|isa| isa.or_lower() == *isa) {
        for prefill in [true, false] {
            let [got, want] = [&f16, &f32].map(|model| {
                let mut runner = runner_on(model, Pool::with_isa(2, isa).unwrap(), KvFormat::F32);
                logits_as(&mut runner, &[a, b], &[1000, 7], prefill)
            });
            for (got, want) in got.iter().zip(&want) {
                let worst = distance(got, want);
                assert!(
                    worst <= LOGIT_ABS_MAX,
                    "{name}, {isa:?}, prefill {prefill}: off by {worst}"
                );
            }
        }
    }
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn mistral() {
    check("mistral");
}
