//! A model in memory: mapped weights, tokenizer, chat template. Invariant: what requests see of it never changes once it
//! is loaded, so any number of them share it.
use hyprstream_kernels::Pool;
use hyprstream_model::{
    ChatTemplate, Config, KnownDigest, ModelFile, OpenError, PackOptions, PackReport, PackStage,
    TemplateError, Tokenizer, TokenizerError, Weights,
};
use hyprstream_protocol::LoadStage;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A loaded model.
pub struct Model {
    name: String,
    file: ModelFile,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Result<ChatTemplate, TemplateError>>,
    packing: PackReport,
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

/// What a load may use.
pub struct LoadOptions<'a> {
    /// Packs and checks weights.
    pub pool: &'a Pool,
    /// The folder that keeps packed weights from load to load.
    pub cache: Option<&'a Path>,
    /// The digest of the model's file, where it is known.
    pub digest: Option<KnownDigest>,
}

impl LoadOptions<'_> {
    /// With packed weights in private memory.
    pub fn new(pool: &Pool) -> LoadOptions<'_> {
        LoadOptions {
            pool,
            cache: None,
            digest: None,
        }
    }
}

impl Model {
    /// Opens a GGUF file or a safetensors folder, builds the tokenizer and brings the weights into memory, packed where
    /// they can be. Blocks. `progress` hears of each stage, with the share done where it is known.
    pub fn load(
        name: &str,
        path: &Path,
        options: &LoadOptions<'_>,
        progress: &mut dyn FnMut(LoadStage, Option<f32>),
    ) -> Result<Model, LoadError> {
        progress(LoadStage::Opening, None);
        let mut file = ModelFile::open(path)?;
        let pack = PackOptions {
            pool: options.pool,
            cache: options.cache,
            digest: options.digest,
        };
        // A large vocabulary takes about as long as the weights, so they go side by side.
        let (packed, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| {
                file.tokenizer_source()
                    .map(|source| Tokenizer::new(&source))
                    .transpose()
            });
            let packed = file.pack(&pack, &mut |stage, share| {
                let stage = match stage {
                    PackStage::Checking => LoadStage::Weights,
                    PackStage::Packing => LoadStage::Packing,
                };
                progress(stage, Some(share));
            });
            progress(LoadStage::Tokenizer, None);
            (
                packed,
                tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic)),
            )
        });
        let tokenizer = tokenizer?.map(Arc::new);
        let packed = packed?;
        let packing = packed.report().clone();
        file.adopt(packed);
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
            packing,
            retired: AtomicBool::new(false),
        })
    }

    /// Where the packed weights came from, and what went wrong with them.
    pub fn packing(&self) -> &PackReport {
        &self.packing
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

/// Reads one byte of every page of what products read from the model's file, so that the first answer does not wait for
/// the disk page by page. The embedding stays where it is: few of its rows are ever asked for.
fn touch(weights: &Weights, progress: &mut dyn FnMut(f32)) {
    const PAGE: usize = 4096;
    let plain: Vec<_> = weights
        .factors()
        .filter(|(_, matrix)| !matrix.is_packed())
        .collect();
    let mut sum = 0u8;
    for (done, (_, matrix)) in plain.iter().enumerate() {
        progress(done as f32 / plain.len() as f32);
        let bytes = matrix.as_ref().bytes.iter();
        sum = bytes.step_by(PAGE).fold(sum, |sum, &byte| sum.wrapping_add(byte));
    }
    std::hint::black_box(sum);
}
