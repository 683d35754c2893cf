//! Where fixtures lie and how they get into a models folder. Invariant: a file appears there whole, by a rename.
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

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
