//! Model files made in memory for tests. Invariant: they are valid until a test breaks them.

use std::path::{Path, PathBuf};

/// Shape of the tiny models: everything differs, so that a mix-up shows.
pub const VOCAB: usize = 10;
pub const HIDDEN: usize = 8;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 6;
pub const FFN: usize = 12;
pub const LAYERS: usize = 2;

/// A file of the folder with shared material beside the repository; `None`, and a message, where it is absent.
pub fn shared(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../../shared")
        .join(file);
    if !path.exists() {
        eprintln!("skipped: there is no ../shared/{file}");
        return None;
    }
    Some(path)
}

/// A metadata value with its type.
#[derive(Clone)]
pub enum Meta {
    U32(u32),
    U64(u64),
    I32(i32),
    F32(f32),
    Bool(u8),
    Str(String),
    Array(u32, Vec<Meta>),
    /// Type and bytes as they are.
    Raw(u32, Vec<u8>),
}

impl Meta {
    pub fn str(text: &str) -> Meta {
        Meta::Str(text.to_owned())
    }

    pub fn strings(texts: &[&str]) -> Meta {
        Meta::Array(8, texts.iter().map(|t| Meta::str(t)).collect())
    }

    fn kind(&self) -> u32 {
        match self {
            Meta::U32(_) => 4,
            Meta::U64(_) => 10,
            Meta::I32(_) => 5,
            Meta::F32(_) => 6,
            Meta::Bool(_) => 7,
            Meta::Str(_) => 8,
            Meta::Array(..) => 9,
            Meta::Raw(kind, _) => *kind,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Meta::U32(v) => out.extend(v.to_le_bytes()),
            Meta::U64(v) => out.extend(v.to_le_bytes()),
            Meta::I32(v) => out.extend(v.to_le_bytes()),
            Meta::F32(v) => out.extend(v.to_le_bytes()),
            Meta::Bool(v) => out.push(*v),
            Meta::Str(text) => write_string(out, text),
            Meta::Array(kind, entries) => {
                out.extend(kind.to_le_bytes());
                out.extend((entries.len() as u64).to_le_bytes());
                entries.iter().for_each(|e| e.write(out));
            }
            Meta::Raw(_, bytes) => out.extend(bytes),
        }
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// One tensor of a file to be.
#[derive(Clone)]
pub struct TestTensor {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Instead of the place that it would get.
    pub offset: Option<u64>,
}

impl TestTensor {
    pub fn f32(name: &str, dims: &[usize]) -> TestTensor {
        let len = dims.iter().product::<usize>();
        let data = (0..len)
            .flat_map(|i| ((i % 7) as f32 * 0.25 - 0.5).to_le_bytes())
            .collect();
        let dims = dims.iter().map(|&d| d as u64).collect();
        TestTensor {
            name: name.to_owned(),
            dims,
            kind: 0,
            data,
            offset: None,
        }
    }
}

/// A GGUF file to be.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<TestTensor>,
    pub alignment: usize,
}

impl GgufFile {
    /// A whole small model.
    pub fn model(arch: &str) -> GgufFile {
        let mut file = GgufFile {
            version: 3,
            metadata: Vec::new(),
            tensors: model_tensors(arch),
            alignment: 32,
        };
        file.set("general.architecture", Meta::str(arch));
        let sizes = [
            ("block_count", LAYERS),
            ("context_length", 64),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", FFN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.key_length", HEAD_DIM),
            ("attention.value_length", HEAD_DIM),
        ];
        for (key, value) in sizes {
            file.set(&format!("{arch}.{key}"), Meta::U32(value as u32));
        }
        file.set(
            &format!("{arch}.attention.layer_norm_rms_epsilon"),
            Meta::F32(1e-5),
        );
        file.set("tokenizer.ggml.model", Meta::str("gpt2"));
        file.set(
            "tokenizer.ggml.tokens",
            Meta::strings(&["a", "b", "c", "<s>", "</s>"]),
        );
        file.set("tokenizer.ggml.bos_token_id", Meta::U32(3));
        file.set("tokenizer.ggml.eos_token_id", Meta::U32(4));
        file
    }

    /// Adds or replaces a value.
    pub fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub fn tensor(&mut self, name: &str) -> &mut TestTensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    /// The header's bytes, padded to the data.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_string(&mut out, key);
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut next = 0u64;
        for t in &self.tensors {
            write_string(&mut out, &t.name);
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.unwrap_or(next).to_le_bytes());
            next = (next + t.data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for (i, t) in self.tensors.iter().enumerate() {
            out.extend(&t.data);
            if i + 1 < self.tensors.len() {
                out.resize(out.len().next_multiple_of(self.alignment), 0);
            }
        }
        out
    }
}

fn model_tensors(arch: &str) -> Vec<TestTensor> {
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut tensors = vec![
        TestTensor::f32("token_embd.weight", &[HIDDEN, VOCAB]),
        TestTensor::f32("output.weight", &[HIDDEN, VOCAB]),
        TestTensor::f32("output_norm.weight", &[HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add =
            |part: &str, dims: &[usize]| tensors.push(TestTensor::f32(&format!("blk.{layer}.{part}"), dims));
        add("attn_norm.weight", &[HIDDEN]);
        add("attn_q.weight", &[HIDDEN, q]);
        add("attn_k.weight", &[HIDDEN, kv]);
        add("attn_v.weight", &[HIDDEN, kv]);
        add("attn_output.weight", &[q, HIDDEN]);
        add("ffn_norm.weight", &[HIDDEN]);
        add("ffn_gate.weight", &[HIDDEN, FFN]);
        add("ffn_up.weight", &[HIDDEN, FFN]);
        add("ffn_down.weight", &[FFN, HIDDEN]);
        if arch == "qwen2" {
            add("attn_q.bias", &[q]);
            add("attn_k.bias", &[kv]);
            add("attn_v.bias", &[kv]);
        }
        if arch == "qwen3" {
            add("attn_q_norm.weight", &[HEAD_DIM]);
            add("attn_k_norm.weight", &[HEAD_DIM]);
        }
    }
    tensors
}

/// The same model's tensors under their names in safetensors.
fn hf_name(gguf: &str) -> String {
    let parts = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("output", "lm_head"),
        ("blk.", "model.layers."),
    ];
    let mut name = gguf.to_owned();
    for (from, to) in parts {
        if name.contains(&format!("{from}.")) || (from == "blk." && name.contains(from)) {
            name = name.replacen(from, to, 1);
        }
    }
    name
}

/// A safetensors file of some of the tensors of the small model.
pub fn safetensors(arch: &str, keep: impl Fn(&str) -> bool) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for t in model_tensors(arch) {
        let name = hf_name(&t.name);
        if !keep(&name) {
            continue;
        }
        let shape: Vec<u64> = t.dims.iter().rev().copied().collect();
        let start = data.len();
        data.extend(t.data);
        let entry =
            serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, entry);
    }
    safetensors_of(&serde_json::Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header.
pub fn safetensors_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The config.json of the small model.
pub fn config_json(arch: &str) -> serde_json::Value {
    serde_json::json!({
        "model_type": arch, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": FFN, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "sliding_window": null,
        "tie_word_embeddings": false, "rope_theta": 10000.0, "bos_token_id": 3, "eos_token_id": 4
    })
}

/// A folder with the small model.
pub fn hf_folder(arch: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config_json(arch).to_string()).unwrap();
    std::fs::write(
        folder.path().join("model.safetensors"),
        safetensors(arch, |_| true),
    )
    .unwrap();
    folder
}
