//! Where fixtures lie and how they get into a models folder. Invariant: a file appears there whole, by a rename.
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The model that most tests talk to, as a q8_0 GGUF: random weights, a tokenizer, a chat template.
pub fn tiny() -> PathBuf {
    root().join("tests/golden/tiny/tiny.gguf")
}

/// The same model as a Hugging Face folder.
pub fn tiny_folder() -> PathBuf {
    root().join("tests/golden/tiny/tiny-hf")
}

/// What transformers says about [`tiny_folder`].
pub fn tiny_golden() -> Value {
    json(&root().join("tests/golden/tiny/golden.json"))
}

/// A random model without a tokenizer: `hf` or `model.gguf` below tests/golden/archs/NAME.
pub fn arch(name: &str, file: &str) -> PathBuf {
    root().join("tests/golden/archs").join(name).join(file)
}

/// The model that ships with the project, where it is built already.
pub fn starter() -> Option<PathBuf> {
    Some(root().join("packaging/starter/hyprstream-starter.gguf")).filter(|path| path.is_file())
}

/// Says that a test cannot run here, and why. tests/run counts these; a test never passes in silence for want of a fixture.
pub fn skipped(reason: &str) {
    eprintln!("SKIPPED: {reason}");
    if let Some(list) = std::env::var_os("HYPRSTREAM_SKIPPED") {
        let mut list = OpenOptions::new().append(true).create(true).open(list).unwrap();
        list.write_all(format!("{reason}\n").as_bytes()).unwrap();
    }
}

/// Reads JSON.
pub fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Puts a model file or folder into `folder` under `name`, as a file manager would move it there.
pub fn install(model: &Path, folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let part = to.with_file_name(format!(".{}.part", to.file_name().unwrap().to_str().unwrap()));
    if model.is_dir() {
        fs::create_dir(&part).unwrap();
        for entry in fs::read_dir(model).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), part.join(entry.file_name())).unwrap();
        }
    } else {
        fs::copy(model, &part).unwrap();
    }
    fs::rename(&part, &to).unwrap();
    to
}

/// A model of many bytes that says nothing: llama, q8_0, without a tokenizer. It goes with the value.
pub struct Large(TempDir);

impl Large {
    /// Of at least so many bytes.
    pub fn new(bytes: usize) -> Large {
        const HIDDEN: usize = 512;
        let matrix = |name: String, outputs: usize| (name, vec![HIDDEN, outputs]);
        let mut tensors = vec![
            matrix("token_embd.weight".into(), 64),
            matrix("output.weight".into(), 64),
            ("output_norm.weight".into(), vec![HIDDEN]),
        ];
        // Seven matrices of 512 x 512, 34 bytes for 32 values.
        let layers = bytes.div_ceil(7 * HIDDEN * HIDDEN / 32 * 34);
        for layer in 0..layers {
            for part in [
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_gate",
                "ffn_up",
                "ffn_down",
            ] {
                tensors.push(matrix(format!("blk.{layer}.{part}.weight"), HIDDEN));
            }
            for part in ["attn_norm", "ffn_norm"] {
                tensors.push((format!("blk.{layer}.{part}.weight"), vec![HIDDEN]));
            }
        }
        let numbers = [
            ("block_count", layers),
            ("context_length", 64),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", HIDDEN),
            ("attention.head_count", 8),
        ];
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("large.gguf"), gguf(&numbers, &tensors)).unwrap();
        Large(folder)
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("large.gguf")
    }
}

/// A GGUF file of a llama: vectors of ones in F32, matrices of small numbers in Q8_0.
fn gguf(numbers: &[(&str, usize)], tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((numbers.len() as u64 + 2).to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "llama.attention.layer_norm_rms_epsilon");
    out.extend(6u32.to_le_bytes());
    out.extend(1e-5f32.to_le_bytes());
    for (key, value) in numbers {
        text(&mut out, &format!("llama.{key}"));
        out.extend(4u32.to_le_bytes());
        out.extend((*value as u32).to_le_bytes());
    }
    let mut data = Vec::new();
    for (name, shape) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape
            .iter()
            .for_each(|&len| out.extend((len as u64).to_le_bytes()));
        let (kind, values) = (if shape.len() == 1 { 0u32 } else { 8 }, shape.iter().product());
        out.extend(kind.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        let block = 32;
        for at in (0..values).step_by(block) {
            if kind == 0 {
                data.extend(1f32.to_le_bytes().repeat(block));
            } else {
                // A scale of 2^-10 as f16, then numbers that differ from block to block.
                data.extend([0x00, 0x14]);
                data.extend((0..block).map(|i| (at / block * 7 + i * 13) as u8));
            }
        }
        // 2048 and 278528 are multiples of the alignment, 32.
        assert!(data.len().is_multiple_of(32));
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
