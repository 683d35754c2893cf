//! Folders that are incomplete, hostile or wrong in every way that has a name.

use crate::rope::RopeScaling;
use crate::testing::{self, config_json, hf_folder, safetensors, safetensors_of};
use crate::{ModelFile, OpenError, TokenizerSource, inspect};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

fn error_of(folder: &Path) -> OpenError {
    let inspected = inspect(folder).err().map(|e| e.to_string());
    let Err(error) = ModelFile::open(folder) else {
        panic!("it opened")
    };
    if !error.to_string().contains("holds") {
        assert_eq!(
            inspected,
            Some(error.to_string()),
            "inspect makes the same checks"
        );
    }
    error
}

fn says(folder: &Path, part: &str) {
    let error = error_of(folder).to_string();
    assert!(error.contains(part), "{error:?} should say {part:?}");
}

fn with_config(arch: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = hf_folder(arch);
    let mut config = config_json(arch);
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn config_says(change: impl FnOnce(&mut Value), part: &str) {
    says(with_config("llama", change).path(), part);
}

#[test]
fn every_architecture_opens() {
    for arch in ["llama", "mistral", "qwen2", "qwen3"] {
        let folder = hf_folder(arch);
        let model = ModelFile::open(folder.path()).unwrap();
        assert_eq!(model.config().arch.name, arch);
        assert_eq!(model.config().windows, [None, None]);
        assert_eq!(model.weights().layers[1].v_bias.is_some(), arch == "qwen2");
        assert_eq!(model.weights().layers[1].q_norm.is_some(), arch == "qwen3");
        assert_eq!((model.special().bos, model.special().eos), (Some(3), Some(4)));
        assert!(model.tokenizer_source().is_none() && model.chat_template_source().is_none());
        let direct = ModelFile::open(&folder.path().join("model.safetensors")).unwrap();
        assert_eq!(direct.config(), model.config());
        assert_eq!(direct.summary().format, "F32");
    }
}

#[test]
fn a_pipe_or_folder_in_place_of_a_file_is_named() {
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "model.safetensors",
    ] {
        let folder = hf_folder("qwen3");
        let path = folder.path().join(file);
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir(&path).unwrap();
        says(folder.path(), &format!("{file} is not a regular file"));
        std::fs::remove_dir(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        says(folder.path(), &format!("{file} is not a regular file"));
    }
}

#[test]
fn windows_follow_the_rule_of_the_architecture() {
    let windows = |arch, change: &dyn Fn(&mut Value)| {
        ModelFile::open(with_config(arch, change).path())
            .unwrap()
            .config()
            .windows
            .clone()
    };
    assert_eq!(
        windows("mistral", &|c| c["sliding_window"] = json!(16)),
        [Some(16), Some(16)]
    );
    let absent = |c: &mut Value| drop(c.as_object_mut().unwrap().remove("sliding_window"));
    assert_eq!(windows("mistral", &absent), [Some(4096), Some(4096)]);
    assert_eq!(
        windows("llama", &|c| c["sliding_window"] = json!(16)),
        [None, None]
    );
    let upper = |c: &mut Value| {
        (
            c["use_sliding_window"],
            c["sliding_window"],
            c["max_window_layers"],
        ) = (json!(true), json!(16), json!(1));
    };
    assert_eq!(windows("qwen2", &upper), [None, Some(16)]);
    assert_eq!(
        windows("qwen3", &|c| c["sliding_window"] = json!(16)),
        [None, None]
    );
    let typed = |c: &mut Value| {
        upper(c);
        c["layer_types"] = json!(["sliding_attention", "full_attention"]);
    };
    assert_eq!(windows("qwen3", &typed), [Some(16), None]);
    let short = |c: &mut Value| c["layer_types"] = json!(["full_attention"]);
    says(with_config("qwen3", short).path(), "1 entries for 2 layers");
    let other = |c: &mut Value| c["layer_types"] = json!(["full_attention", "linear_attention"]);
    says(with_config("qwen3", other).path(), "linear_attention");
    let none = |c: &mut Value| c["layer_types"] = json!(["full_attention", "sliding_attention"]);
    says(with_config("qwen3", none).path(), "there is no window");
}

#[test]
fn rotary_embeddings_in_both_spellings() {
    let rope = |change: &dyn Fn(&mut Value)| {
        ModelFile::open(with_config("llama", change).path())
            .unwrap()
            .config()
            .rope
            .clone()
    };
    let plain = rope(&|_| ());
    assert_eq!(
        (plain.dims, plain.theta, plain.scaling),
        (6, 10_000.0, RopeScaling::None)
    );
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32 });
    let old = rope(&|c| (c["rope_theta"], c["rope_scaling"]) = (json!(5e5), llama3.clone()));
    let new = rope(&|c| {
        c.as_object_mut().unwrap().remove("rope_theta");
        c["rope_parameters"] = llama3.clone();
        c["rope_parameters"]["rope_theta"] = json!(5e5);
    });
    assert_eq!(old, new);
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low: 1.0,
        high: 4.0,
        original: 32.0,
    };
    assert_eq!((old.theta, old.scaling), (5e5, scaling));
    let linear = rope(&|c| c["rope_scaling"] = json!({ "type": "linear", "factor": 2.0 }));
    assert_eq!(linear.scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(rope(&|c| c["partial_rotary_factor"] = json!(0.7)).dims, 4);
    let set = |v: Value| move |c: &mut Value| c["rope_scaling"] = v;
    config_says(
        set(json!({ "type": "dynamic", "factor": 2 })),
        "rope_type is \"dynamic\"",
    );
    config_says(set(json!({ "rope_type": "linear" })), "factor is missing");
    config_says(
        set(json!({ "type": "linear", "factor": -1 })),
        "the rope factor is -1",
    );
    config_says(
        set(json!({ "full_attention": { "rope_theta": 1e4 } })),
        "one rotary embedding for all layers",
    );
    config_says(set(json!([1])), "rope_scaling is an array of 1, not an object");
    config_says(
        |c| c["partial_rotary_factor"] = json!(0.5),
        "3 rotary values cannot be paired",
    );
    config_says(|c| c["partial_rotary_factor"] = json!(1e9), "the rotary width");
    config_says(|c| c["rope_theta"] = json!(0), "rope theta is 0");
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    config_says(
        |c| c["model_type"] = json!("gpt9"),
        "\"gpt9\"; hyprstream computes llama, mistral, qwen2, qwen3",
    );
    config_says(|c| c["hidden_act"] = json!("gelu"), "hidden_act is \"gelu\"");
    config_says(|c| c["mlp_bias"] = json!(true), "mlp_bias is true");
    config_says(|c| c["attention_bias"] = json!(true), "attention_bias is true");
    config_says(
        |c| c["quantization_config"] = json!({ "quant_method": "awq" }),
        "use a GGUF file",
    );
    let biased = with_config("qwen2", |c| c["attention_bias"] = json!(true));
    assert!(ModelFile::open(biased.path()).is_ok(), "qwen2 does not ask");
}

#[test]
fn hostile_descriptions_are_refused() {
    config_says(|c| *c = json!([]), "model_type is missing");
    config_says(
        |c| c["hidden_size"] = json!(-8),
        "hidden_size is -8, not an integer",
    );
    config_says(|c| c["hidden_size"] = json!("8"), "not an integer");
    config_says(|c| c["hidden_size"] = json!(8.5), "not an integer");
    config_says(
        |c| c["num_hidden_layers"] = json!(u64::MAX),
        "the number of layers",
    );
    config_says(
        |c| c["num_attention_heads"] = json!(0),
        "the number of heads is 0",
    );
    config_says(|c| c["num_key_value_heads"] = json!(3), "cannot share 3");
    config_says(|c| c["vocab_size"] = json!(1u64 << 40), "the vocabulary");
    config_says(
        |c| c["vocab_size"] = json!(11),
        "has shape [10, 8]; the model's description asks for [11, 8]",
    );
    config_says(|c| c["rms_norm_eps"] = json!(-1), "epsilon is -1");
    config_says(|c| c["rms_norm_eps"] = json!(1e300), "epsilon is inf");
    config_says(
        |c| drop(c.as_object_mut().unwrap().remove("intermediate_size")),
        "intermediate_size is missing",
    );
    config_says(
        |c| {
            c["head_dim"] = Value::Null;
            c["hidden_size"] = json!(9);
        },
        "cannot be split over 4 heads",
    );
    let folder = hf_folder("llama");
    let write = |text: &[u8]| std::fs::write(folder.path().join("config.json"), text).unwrap();
    for text in [
        &b""[..],
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"{\"a\": NaN}",
        &b"[".repeat(100_000),
    ] {
        write(text);
        says(folder.path(), "config.json");
    }
    write(&vec![b' '; 5 << 20]);
    says(folder.path(), "config.json is longer than");
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(error_of(folder.path()).is_incomplete());
}

#[test]
fn hostile_headers_are_refused() {
    let folder = hf_folder("llama");
    let file = folder.path().join("model.safetensors");
    let t = |dtype: &str, shape: &str, offsets: &str| {
        format!("{{\"t\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
    };
    // The last ends so near the largest number that adding the header's length wraps around.
    let wrapping: Vec<String> = (0..16u64)
        .map(|i| {
            let (start, end) = (i << 60, if i == 15 { u64::MAX - 7 } else { (i + 1) << 60 });
            let shape = end - start;
            format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}")
        })
        .collect();
    let headers = [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "{\"t\":1}".to_owned(),
        "[".repeat(100_000),
        t("F32", "[2]", "[0,4]"),
        t("F32", "[2]", "[4,12]"),
        t("F32", "[2]", "[8,0]"),
        t("F32", "[-1]", "[0,8]"),
        t("F99", "[2]", "[0,8]"),
        t("F32", "[4294967296,4294967296]", "[0,8]"),
        t("F32", "[18446744073709551615]", "[0,18446744073709551615]"),
        format!("{{{}}}", wrapping.join(",")),
    ];
    for header in headers {
        std::fs::write(&file, safetensors_of(&header, &[0; 8])).unwrap();
        let error = error_of(folder.path()).to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    for len in [17u64 << 20, u64::MAX, 1 << 20] {
        std::fs::write(&file, len.to_le_bytes()).unwrap();
        says(folder.path(), "model.safetensors");
    }
    let nan = safetensors("llama", |_| true);
    let header = usize::try_from(u64::from_le_bytes(*nan.first_chunk().unwrap())).unwrap();
    let norm = 8 + header + 2 * 8 * 10 * 4;
    let mut nan = nan;
    nan[norm..norm + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, nan).unwrap();
    says(folder.path(), "model.norm.weight holds NaN at index 0");
}

#[test]
fn a_cut_at_every_length_is_an_error_that_asks_to_wait() {
    let folder = hf_folder("qwen3");
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    // Every length of the header, and some of the data.
    for len in (0..bytes.len()).filter(|len| *len < 300 || len % 97 == 0) {
        std::fs::write(&file, &bytes[..len]).unwrap();
        let error = error_of(folder.path());
        assert!(error.is_incomplete(), "at {len}: {error}");
    }
    std::fs::write(&file, [&bytes[..], b"x"].concat()).unwrap();
    assert!(!error_of(folder.path()).is_incomplete());
}

fn sharded(index: &Value) -> tempfile::TempDir {
    let folder = hf_folder("llama");
    let path = folder.path();
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    let in_first = |name: &str| name.starts_with("model.layers.0");
    std::fs::write(path.join("one.safetensors"), safetensors("llama", in_first)).unwrap();
    std::fs::write(
        path.join("two.safetensors"),
        safetensors("llama", |n| !in_first(n)),
    )
    .unwrap();
    std::fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

#[test]
fn shards_are_joined() {
    let first = "model.layers.0.mlp.up_proj.weight";
    let index = |a: &str, b: &str| json!({ "weight_map": { first: a, "lm_head.weight": b } });
    let folder = sharded(&index("one.safetensors", "two.safetensors"));
    let whole = hf_folder("llama");
    let (parts, whole) = (
        ModelFile::open(folder.path()).unwrap(),
        ModelFile::open(whole.path()).unwrap(),
    );
    assert_eq!(
        parts.weights().layers[0].up.as_ref().bytes,
        whole.weights().layers[0].up.as_ref().bytes
    );
    assert_eq!(parts.summary().parameters, whole.summary().parameters);
    assert!(
        ModelFile::open(&folder.path().join("two.safetensors")).is_ok(),
        "a shard stands for its model"
    );
    let bad = |a: &str, part: &str| says(sharded(&index(a, "two.safetensors")).path(), part);
    bad("../one.safetensors", "not inside the folder");
    bad("/etc/passwd", "not inside the folder");
    bad("sub/../../one.safetensors", "not inside the folder");
    bad("", "not inside the folder");
    bad("three.safetensors", "three.safetensors is missing");
    bad(
        "two.safetensors",
        "model.layers.0.mlp.up_proj.weight in two.safetensors, which does not hold it",
    );
    bad("config.json", "config.json");
    for shape in [
        json!({}),
        json!([]),
        json!({ "weight_map": {} }),
        json!({ "weight_map": { "t": 1 } }),
    ] {
        says(sharded(&shape).path(), "model.safetensors.index.json lacks");
    }
    let missing = sharded(&index("one.safetensors", "two.safetensors"));
    std::fs::remove_file(missing.path().join("two.safetensors")).unwrap();
    assert!(error_of(missing.path()).is_incomplete());
}

#[test]
fn what_stands_beside_the_weights_is_found() {
    let folder = hf_folder("llama");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", "{}");
    let named = json!([{ "name": "tool_use", "template": "no" }, { "name": "default", "template": "yes" }]);
    let config = json!({ "add_bos_token": true, "chat_template": named });
    write("tokenizer_config.json", &config.to_string());
    write(
        "generation_config.json",
        &json!({ "eos_token_id": [4, 2, 99, 4] }).to_string(),
    );
    let model = ModelFile::open(folder.path()).unwrap();
    let Some(TokenizerSource::Json { tokenizer, config }) = model.tokenizer_source() else {
        panic!("no source")
    };
    assert_eq!(
        (tokenizer.file_name().unwrap(), config.is_some()),
        ("tokenizer.json".as_ref(), true)
    );
    assert_eq!(model.chat_template_source(), Some("yes"));
    assert_eq!(
        (model.special().eos, &model.special().ends),
        (Some(4), &vec![2, 4])
    );
    assert_eq!(
        (model.special().bos, model.special().add_bos),
        (Some(3), Some(true))
    );
    assert_eq!(model.summary().has_tokenizer.as_deref(), Some("tokenizer.json"));
    write("chat_template.jinja", "first");
    assert_eq!(
        ModelFile::open(folder.path()).unwrap().chat_template_source(),
        Some("first")
    );
}

#[test]
fn a_file_that_shrinks_later_is_noticed() {
    let folder = hf_folder("llama");
    let model = ModelFile::open(folder.path()).unwrap();
    assert!(!model.damaged());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("model.safetensors"));
    file.unwrap().set_len(100).unwrap();
    assert!(model.damaged());
    assert!(model.weights().layers[1].down.as_ref().bytes.contains(&0));
}

#[test]
fn real_models_agree_across_formats() {
    let found = [
        testing::shared("models/books-2m"),
        testing::shared("models/books-2m-f32.gguf"),
    ];
    let [Some(folder), Some(gguf)] = found else { return };
    let (hf, gguf) = (ModelFile::open(&folder).unwrap(), ModelFile::open(&gguf).unwrap());
    assert_eq!(
        (hf.config().hidden, hf.config().layers, hf.config().tied),
        (192, 4, true)
    );
    let mut config = hf.config().clone();
    config.rope.layout = gguf.config().rope.layout;
    assert_eq!(&config, gguf.config());
    assert_eq!(hf.weights().output_norm, gguf.weights().output_norm);
    assert_eq!(
        hf.weights().embed.as_ref().bytes,
        gguf.weights().embed.as_ref().bytes
    );
    assert_eq!(hf.summary().parameters, gguf.summary().parameters);
    assert_eq!(gguf.summary().has_tokenizer.as_deref(), Some("bpe"));
    let Some(q8) = testing::shared("models/books-2m-q8_0.gguf") else {
        return;
    };
    assert_eq!(inspect(&q8).unwrap().format, "Q8_0");
}

#[test]
fn models_written_by_transformers_open() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden/archs");
    let mut opened = 0;
    for arch in std::fs::read_dir(golden).unwrap() {
        for inner in std::fs::read_dir(arch.unwrap().path()).unwrap() {
            let path = inner.unwrap().path();
            if path.join("config.json").exists() {
                ModelFile::open(&path).unwrap();
                opened += 1;
            }
        }
    }
    assert!(opened >= 7, "{opened} models");
}

#[test]
fn real_vocabularies_are_read_but_are_no_models() {
    for name in ["llama-bpe", "qwen2", "llama-spm", "phi-3", "gpt-2"] {
        let Some(path) = testing::shared(&format!("vocab/ggml-vocab-{name}.gguf")) else {
            return;
        };
        let gguf = crate::gguf::Gguf::open(&path).unwrap();
        let tokens = gguf.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
        assert!(tokens.len() > 30_000);
        let error = inspect(&path).unwrap_err().to_string();
        assert!(error.contains("not a model"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_damage_never_panics(places in prop::collection::vec((0..4000usize, any::<u8>()), 1..6)) {
        let folder = hf_folder("qwen2");
        let file = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        for (at, value) in places {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        std::fs::write(&file, bytes).unwrap();
        let _ = ModelFile::open(folder.path());
    }
}
