//! A model in memory: mapped weights, tokenizer, chat template. Invariant: what requests see of it never changes once it
//! is loaded, so any number of them share it.
use hyprstream_model::{
    ChatTemplate, Config, ModelFile, OpenError, TemplateError, Tokenizer, TokenizerError, Weights,
};
use hyprstream_protocol::LoadStage;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A loaded model.
pub struct Model {
    name: String,
    file: ModelFile,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Result<ChatTemplate, TemplateError>>,
    /// Set for good when it is to leave memory; requests that are on their way still get their answers.
    retired: AtomicBool,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files are not what they should be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its tokenizer cannot be built.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl Model {
    /// Opens a GGUF file or a safetensors folder, builds the tokenizer and brings the weights into memory. Blocks.
    /// `progress` hears of each stage, with the share done where it is known.
    pub fn load(
        name: &str,
        path: &Path,
        progress: &mut dyn FnMut(LoadStage, Option<f32>),
    ) -> Result<Model, LoadError> {
        progress(LoadStage::Opening, None);
        let file = ModelFile::open(path)?;
        progress(LoadStage::Tokenizer, None);
        let tokenizer = match file.tokenizer_source() {
            Some(source) => Some(Arc::new(Tokenizer::new(&source)?)),
            None => None,
        };
        let template = file.chat_template_source().map(ChatTemplate::new);
        touch(file.weights(), &mut |share| {
            progress(LoadStage::Weights, Some(share))
        });
        progress(LoadStage::Ready, Some(1.0));
        Ok(Model {
            name: name.to_owned(),
            file,
            tokenizer,
            template,
            retired: AtomicBool::new(false),
        })
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The name that requests use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of the network.
    pub fn config(&self) -> &Config {
        self.file.config()
    }

    /// Weights.
    pub fn weights(&self) -> &Weights {
        self.file.weights()
    }

    /// The opened file.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The tokenizer, where the model has one.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// The chat template, where the model has one that compiles.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()?.as_ref().ok()
    }

    /// Why the chat template cannot be used, where there is one that does not compile.
    pub fn template_error(&self) -> Option<&TemplateError> {
        self.template.as_ref()?.as_ref().err()
    }

    /// Whether this token ends an answer: by what the file declares, or by what the vocabulary's special tokens mean.
    pub fn is_end(&self, token: u32) -> bool {
        self.file.special().is_end(token) || self.tokenizer.as_ref().is_some_and(|t| t.is_end(token))
    }

    /// Text of one token alone; bytes that are no whole character show as U+FFFD. Empty without a tokenizer.
    pub fn piece(&self, token: u32) -> String {
        let bytes = self.tokenizer.as_ref().and_then(|t| t.piece(token));
        bytes
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }
}

/// Reads one byte of every page, so that the first answer does not wait for the disk page by page.
fn touch(weights: &Weights, progress: &mut dyn FnMut(f32)) {
    const PAGE: usize = 4096;
    let steps = weights.layers.len() + 1;
    let mut sum = 0u8;
    let mut read = |bytes: &[u8]| sum = bytes.iter().step_by(PAGE).fold(sum, |a, &b| a.wrapping_add(b));
    for (done, layer) in weights.layers.iter().enumerate() {
        progress(done as f32 / steps as f32);
        for m in [
            &layer.q,
            &layer.k,
            &layer.v,
            &layer.o,
            &layer.gate,
            &layer.up,
            &layer.down,
        ] {
            read(m.as_ref().bytes);
        }
    }
    progress(weights.layers.len() as f32 / steps as f32);
    read(weights.embed.as_ref().bytes);
    read(weights.output.as_ref().bytes);
    std::hint::black_box(sum);
}
