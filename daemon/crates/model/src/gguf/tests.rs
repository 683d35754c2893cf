//! GGUF files that are cut, flipped, overgrown and wrong in every way that has a name.

use super::*;
use crate::testing::{GgufFile, HIDDEN, Meta, TestTensor};
use crate::{OpenError, parse};
use proptest::prelude::*;

fn error_of(file: &GgufFile) -> String {
    match parse(file.bytes()) {
        Ok(_) => panic!("it opened"),
        Err(e) => e.to_string(),
    }
}

fn says(file: &GgufFile, part: &str) {
    let error = error_of(file);
    assert!(error.contains(part), "{error:?} should say {part:?}");
}

fn changed(change: impl FnOnce(&mut GgufFile)) -> GgufFile {
    let mut file = GgufFile::model("llama");
    change(&mut file);
    file
}

#[test]
fn both_versions_of_every_architecture_open() {
    for (arch, version) in [
        ("llama", 2),
        ("llama", 3),
        ("mistral", 3),
        ("qwen2", 3),
        ("qwen3", 2),
    ] {
        let mut file = GgufFile::model(arch);
        file.version = version;
        let model = parse(file.bytes()).unwrap();
        assert_eq!(model.config().arch.name, arch);
        assert_eq!(model.weights().layers[1].q_bias.is_some(), arch == "qwen2");
        assert_eq!(model.weights().layers[1].k_norm.is_some(), arch == "qwen3");
        assert_eq!(model.special().bos, Some(3));
        assert!(model.special().is_end(4) && !model.special().is_end(3));
        let q = &model.weights().layers[1].q;
        assert_eq!((q.rows(), q.cols(), q.as_ref().bytes.len()), (24, 8, 24 * 8 * 4));
    }
}

#[test]
fn every_type_of_value_is_read() {
    let file = changed(|f| {
        let nested = Meta::Array(9, vec![Meta::Array(4, vec![Meta::U32(1), Meta::U32(2)])]);
        f.set("x.nested", nested);
        f.set("x.u8", Meta::Raw(0, vec![200]));
        f.set("x.i8", Meta::Raw(1, vec![0xff]));
        f.set("x.u16", Meta::Raw(2, vec![1, 2]));
        f.set("x.i16", Meta::Raw(3, vec![0xfe, 0xff]));
        f.set("x.u64", Meta::U64(u64::MAX));
        f.set("x.i64", Meta::Raw(11, vec![0xff; 8]));
        f.set("x.f64", Meta::Raw(12, 1.5f64.to_le_bytes().to_vec()));
        f.set("x.bool", Meta::Bool(1));
        f.set("x.i32s", Meta::Array(5, vec![Meta::I32(-3), Meta::I32(4)]));
        f.set("x.f32s", Meta::Array(6, vec![Meta::F32(0.5)]));
    });
    let gguf = Gguf::parse(&file.bytes()).unwrap();
    let m = gguf.metadata();
    assert_eq!(m.get("x.u8"), Some(Value::Unsigned(200)));
    assert_eq!(m.get("x.i8"), Some(Value::Signed(-1)));
    assert_eq!(m.get("x.u16"), Some(Value::Unsigned(513)));
    assert_eq!(m.get("x.i16"), Some(Value::Signed(-2)));
    assert_eq!(m.uint("x.u64").unwrap(), Some(u64::MAX));
    assert_eq!(m.get("x.i64"), Some(Value::Signed(-1)));
    assert_eq!(m.f32("x.f64").unwrap(), Some(1.5));
    assert_eq!(m.bool("x.bool").unwrap(), Some(true));
    assert_eq!(m.ints("x.i32s").unwrap(), Some(vec![-3, 4]));
    assert_eq!(m.f32s("x.f32s").unwrap(), Some(vec![0.5]));
    assert_eq!(
        m.strings("tokenizer.ggml.tokens").unwrap().unwrap(),
        ["a", "b", "c", "<s>", "</s>"]
    );
    let outer = m.array("x.nested").unwrap().unwrap();
    let Some(Ok(Value::Array(inner))) = outer.iter().next() else {
        panic!("no inner array")
    };
    let inner: Vec<_> = inner.iter().map(Result::unwrap).collect();
    assert_eq!(inner, [Value::Unsigned(1), Value::Unsigned(2)]);
    assert!(matches!(m.str("x.u8"), Err(GgufError::WrongKind { .. })));
    assert!(matches!(m.u32("x.u64"), Err(GgufError::WrongKind { .. })));
    assert!(matches!(m.strings("x.i32s"), Err(GgufError::WrongKind { .. })));
    assert_eq!(m.str("absent").unwrap(), None);
    assert!(m.keys().is_sorted());
}

#[test]
fn a_cut_at_every_length_is_an_error_that_asks_to_wait() {
    let bytes = GgufFile::model("qwen3").bytes();
    for len in 0..bytes.len() {
        let Err(error) = parse(bytes[..len].to_vec()) else {
            panic!("{len} of {} bytes opened", bytes.len())
        };
        let short_magic = len < 4;
        assert!(error.is_incomplete() || short_magic, "at {len}: {error}");
    }
}

/// Whatever one flipped bit of the header does, the reader answers, and soon.
#[test]
fn every_flipped_bit_of_the_header_is_answered() {
    let file = GgufFile::model("qwen2");
    let bytes = file.bytes();
    for bit in 0..file.header().len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(model) = parse(flipped) {
            assert!(
                model
                    .weights()
                    .layers
                    .iter()
                    .all(|l| l.attn_norm.iter().all(|v| v.is_finite()))
            );
            for layer in &model.weights().layers {
                assert!(
                    hyprstream_kernels::MatrixRef::new(
                        layer.down.format(),
                        layer.down.rows(),
                        layer.down.cols(),
                        layer.down.as_ref().bytes
                    )
                    .is_some()
                );
            }
        }
    }
}

#[test]
fn other_files_are_named() {
    assert!(matches!(
        parse(b"PK\x03\x04and so on".to_vec()),
        Err(OpenError::NotAModel { .. })
    ));
    says(&changed(|f| f.version = 1), "version 1");
    says(&changed(|f| f.version = 4), "version 4");
    says(&changed(|f| f.version = 3u32.swap_bytes()), "big-endian");
    says(&changed(|f| f.tensors.clear()), "vocabulary");
    says(
        &changed(|f| f.set("split.count", Meta::Raw(2, vec![3, 0]))),
        "merge",
    );
    assert!(parse(changed(|f| f.set("split.count", Meta::Raw(2, vec![1, 0]))).bytes()).is_ok());
}

#[test]
fn counts_that_no_file_could_hold_are_refused() {
    for (at, what) in [(8, "tensors"), (16, "metadata keys")] {
        for count in [u64::MAX, u64::MAX / 24, 1 << 40, 1 << 20] {
            let mut bytes = GgufFile::model("llama").bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = parse(bytes).err().unwrap().to_string();
            assert!(
                error.contains(what) && error.contains(&count.to_string()),
                "{error}"
            );
        }
    }
    let huge = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    for (kind, len) in [
        (0, 1 << 50),
        (8, u64::MAX),
        (9, u64::MAX / 12),
        (12, u64::MAX / 4),
        (7, 1 << 33),
    ] {
        says(
            &changed(|f| f.set("x", Meta::Raw(9, huge(kind, len)))),
            "array entries",
        );
    }
    let long_string = [&u64::MAX.to_le_bytes()[..], b"ab"].concat();
    says(&changed(|f| f.set("x", Meta::Raw(8, long_string))), "a string");
    says(
        &changed(|f| f.set(&"k".repeat(70_000), Meta::U32(1))),
        "metadata key of 70000 bytes",
    );
    says(
        &changed(|f| f.tensor("output.weight").name = "n".repeat(300)),
        "tensor name of 300 bytes",
    );
}

#[test]
fn wrong_metadata_is_named() {
    let deep = (0..5).fold(Meta::Array(4, vec![]), |inner, _| Meta::Array(9, vec![inner]));
    says(&changed(|f| f.set("x", deep)), "nested more than 4 deep");
    says(&changed(|f| f.set("x", Meta::Raw(13, vec![]))), "unknown type 13");
    says(&changed(|f| f.set("x", Meta::Bool(2))), "is 2, not 0 or 1");
    says(
        &changed(|f| f.set("x", Meta::Array(7, vec![Meta::Bool(1), Meta::Bool(9)]))),
        "is 9",
    );
    let bad_text = [&1u64.to_le_bytes()[..], &[0xff]].concat();
    says(&changed(|f| f.set("x", Meta::Raw(8, bad_text))), "not UTF-8");
    says(
        &changed(|f| f.metadata.push(("llama.block_count".into(), Meta::U32(2)))),
        "appears twice",
    );
    for alignment in [0, 3, 48, 1 << 30] {
        says(
            &changed(|f| f.set("general.alignment", Meta::U32(alignment))),
            "power of two",
        );
    }
    says(
        &changed(|f| f.set("general.alignment", Meta::str("32"))),
        "holds a string",
    );
    says(
        &changed(|f| f.set("general.architecture", Meta::str("gpt9"))),
        "\"gpt9\"; hyprstream computes llama",
    );
    says(
        &changed(|f| f.set("general.architecture", Meta::U32(1))),
        "holds the integer 1",
    );
}

#[test]
fn another_alignment_is_honoured() {
    for alignment in [8, 64, 4096] {
        let mut file = GgufFile::model("llama");
        file.set("general.alignment", Meta::U32(alignment as u32));
        file.alignment = alignment;
        let model = parse(file.bytes()).unwrap();
        assert_eq!(model.weights().output_norm[0], -0.5);
    }
}

#[test]
fn wrong_tensors_are_named() {
    let with = |change: &dyn Fn(&mut TestTensor)| changed(|f| change(f.tensor("blk.0.attn_q.weight")));
    says(&with(&|t| t.kind = 23), "rows of 8 values");
    says(&with(&|t| t.kind = 99), "unknown type 99");
    says(
        &with(&|t| t.kind = 31),
        "Q4_0_4_4 (type 31), which GGUF has dropped",
    );
    says(
        &with(&|t| t.dims = vec![HIDDEN as u64, 3]),
        "has shape [3, 8]; the model's description asks for [24, 8]",
    );
    says(&with(&|t| t.dims = vec![1; 5]), "impossible dimensions");
    says(&with(&|t| t.dims = vec![8, 0]), "impossible dimensions [8, 0]");
    says(&with(&|t| t.dims = vec![u64::MAX, 2]), "impossible dimensions");
    says(
        &with(&|t| t.dims = vec![1 << 32, 1 << 31, 1]),
        "impossible dimensions",
    );
    says(&with(&|t| t.dims = vec![1 << 40]), "copy or download it again");
    says(
        &with(&|t| t.offset = Some(u64::MAX - 31)),
        "impossible dimensions",
    );
    says(&with(&|t| t.offset = Some((1 << 63) - 1)), "not a multiple of 32");
    says(&with(&|t| t.offset = Some(7)), "not a multiple of 32");
    says(&with(&|t| t.offset = Some(1 << 40)), "copy or download it again");
    says(&with(&|t| t.offset = Some(0)), "overlap");
    says(
        &with(&|t| t.name = "blk.0.attn_k.weight".into()),
        "blk.0.attn_k.weight appears twice",
    );
    says(
        &with(&|t| t.name = "blk.0.attn_qkv.weight".into()),
        "blk.0.attn_q.weight is missing; llama needs it",
    );
    says(
        &changed(|f| f.tensors.push(TestTensor::f32("blk.0.attn_output.bias", &[8]))),
        "not part of llama",
    );
    says(
        &changed(|f| f.tensors.push(TestTensor::f32("blk.2.attn_norm.weight", &[8]))),
        "not part of llama",
    );
}

#[test]
fn formats_without_kernels_are_named() {
    let file = changed(|f| {
        let t = f.tensor("blk.0.attn_q.weight");
        (t.kind, t.dims, t.data) = (23, vec![256, 24], vec![0; 136 * 24]);
    });
    says(&file, "has shape [24, 256]");
    let file =
        changed(|f| (f.tensor("output.weight").kind, f.tensor("output.weight").data) = (28, vec![0; 640]));
    says(
        &file,
        "tensor output.weight is F64; hyprstream computes F32, F16, BF16, Q8_0",
    );
}

#[test]
fn numbers_that_would_spoil_every_result_are_refused() {
    for bits in [f32::NAN, f32::INFINITY] {
        let file = changed(|f| {
            f.tensor("blk.1.ffn_norm.weight").data[8..12].copy_from_slice(&bits.to_le_bytes());
        });
        says(&file, "blk.1.ffn_norm.weight holds");
        says(
            &changed(|f| f.set("llama.rope.freq_base", Meta::F32(bits))),
            "rope theta is",
        );
        says(
            &changed(|f| f.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(bits))),
            "epsilon",
        );
    }
    let mut factors = TestTensor::f32("rope_freqs.weight", &[3]);
    says(
        &changed(|f| f.tensors.push(factors.clone())),
        "rope_freqs.weight holds -0.5",
    );
    factors.data = [1.0f32, 2.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let model = parse(changed(|f| f.tensors.push(factors)).bytes()).unwrap();
    assert_eq!(
        model.weights().rope_factors.as_deref(),
        Some(&[1.0, 2.0, 4.0][..])
    );
}

#[test]
fn sizes_out_of_all_proportion_are_refused() {
    let set = |key: &str, value: u32| changed(|f| f.set(&format!("llama.{key}"), Meta::U32(value)));
    says(
        &set("block_count", u32::MAX),
        "the number of layers is 4294967295",
    );
    says(&set("embedding_length", u32::MAX), "the hidden size");
    says(&set("attention.head_count", 0), "the number of heads is 0");
    says(&set("attention.head_count_kv", 3), "cannot share 3");
    says(&set("attention.head_count_kv", 8), "must be from 1 to 4");
    says(&set("attention.value_length", 7), "6 values a head and values 7");
    says(&set("rope.dimension_count", 5), "cannot be paired");
    says(&set("rope.dimension_count", 8), "the rotary width is 8");
    says(&set("context_length", 0), "the context length is 0");
    says(&set("expert_count", 8), "llama.expert_count is the integer 8");
    says(
        &changed(|f| f.set("llama.rope.scaling.type", Meta::str("longrope"))),
        "computes none, linear and yarn",
    );
    says(
        &changed(|f| f.metadata.retain(|(k, _)| k != "llama.context_length")),
        "llama.context_length is missing",
    );
    let per_layer = |a, b| Meta::Array(4, vec![Meta::U32(a), Meta::U32(b)]);
    says(
        &changed(|f| f.set("llama.attention.head_count", per_layer(4, 2))),
        "equal integers for every layer",
    );
    assert!(parse(changed(|f| f.set("llama.attention.head_count", per_layer(4, 4))).bytes()).is_ok());
}

#[test]
fn a_missing_output_is_the_embedding() {
    let model = parse(changed(|f| f.tensors.retain(|t| t.name != "output.weight")).bytes()).unwrap();
    assert!(model.config().tied);
    let weights = model.weights();
    assert_eq!(
        weights.output.as_ref().bytes.as_ptr(),
        weights.embed.as_ref().bytes.as_ptr()
    );
}

#[test]
fn ids_outside_the_vocabulary_count_as_absent() {
    let file = changed(|f| {
        f.set("tokenizer.ggml.eos_token_id", Meta::U32(10));
        f.set("tokenizer.ggml.bos_token_id", Meta::I32(-1));
    });
    let model = parse(file.bytes()).unwrap();
    assert_eq!((model.special().bos, model.special().eos), (None, None));
    assert!(model.special().ends.is_empty());
}

#[test]
fn kinds_are_sorted_and_agree_with_the_kernels() {
    assert!(KINDS.is_sorted_by_key(|k| k.id));
    for format in hyprstream_kernels::Format::ALL {
        assert_eq!(
            KINDS.iter().filter(|k| k.format == Some(format)).count(),
            1,
            "{format:?}"
        );
    }
    assert_eq!(TensorKind::by_id(12).unwrap().name, "Q4_K");
    assert_eq!(TensorKind::by_id(5), None);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(bytes.clone());
        let mut headed = GgufFile::model("llama").header();
        headed.truncate(24);
        headed.extend(bytes);
        let _ = parse(headed);
    }

    #[test]
    fn random_damage_never_panics(places in prop::collection::vec((0..4000usize, any::<u8>()), 1..6)) {
        let mut bytes = GgufFile::model("qwen3").bytes();
        for (at, value) in places {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = parse(bytes);
    }
}

/// The fuzzer starts from the small model of these tests. HYPRSTREAM_BLESS=1 writes it anew.
#[test]
fn the_fuzzers_seed_is_a_whole_model() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/seeds/gguf/qwen3.gguf");
    let bytes = GgufFile::model("qwen3").bytes();
    if std::env::var_os("HYPRSTREAM_BLESS").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(
        std::fs::read(&path).unwrap() == bytes,
        "run this test once with HYPRSTREAM_BLESS=1"
    );
}
