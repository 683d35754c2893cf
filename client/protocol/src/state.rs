//! What the daemon tells of itself: its models, its jobs, its memory.
use serde::{Deserialize, Serialize};

/// `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// One line for people: what it does right now.
    pub state: String,
    /// Folders that are searched for models.
    pub models_dirs: Vec<String>,
    /// The model that answers when a request names none.
    pub default_model: Option<String>,
    /// Names of the models in memory.
    pub loaded: Vec<String>,
    /// Requests that run: the caller's; all of them for the superuser and the daemon's own user. So in `state`.
    pub running: u32,
    /// Requests that wait, counted like those.
    pub queued: u32,
    /// How many may wait.
    pub queue_max: u32,
    /// Tokens that speculation guessed since the daemon started. Told like `kv_blocks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafted_tokens: Option<u64>,
    /// Guesses that came true. Told like `kv_blocks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_tokens: Option<u64>,
    /// Compute threads.
    pub threads: u32,
    /// Instruction set in use: `scalar`, `avx2`, `avx512`, `vnni` or `amx`.
    pub isa: String,
    /// Memory.
    pub memory: Memory,
    /// Blocks of the KV caches of all loaded models. Told to the superuser and to the daemon's own user alone, since they
    /// show how much others ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_blocks: Option<KvBlocks>,
}

/// Blocks of the KV caches. What is neither in use nor kept is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvBlocks {
    /// Tokens in one block.
    pub tokens: u32,
    /// All blocks.
    pub total: u32,
    /// Held by requests that run.
    pub in_use: u32,
    /// Held by none; kept until the room is needed, since the next request may begin with their text.
    pub kept: u32,
}

/// Memory of the daemon, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What models may use together.
    pub budget: u64,
    /// What loaded models have claimed of it.
    pub claimed: u64,
    /// Resident set of the process, mapped files included.
    pub resident: u64,
    /// The part of it that no file stands behind, so that it cannot be dropped and read again. Older daemons do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<u64>,
}

/// `GET /models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    /// All models, by name.
    pub models: Vec<Model>,
    /// The one that answers when a request names none.
    pub default: Option<String>,
}

/// One line of `hyp models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Name, as `--model` takes it: the path below its models folder, without `.gguf`.
    pub name: String,
    /// Where it stands.
    pub state: ModelState,
    /// Why it cannot be used, where the state is `broken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Architecture (`qwen3`), where the file could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Number of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Most frequent weight format (`Q4_K`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Trained context length in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Last change, seconds since 1970.
    pub modified_s: u64,
    /// Whether it came with hyprstream.
    #[serde(default)]
    pub starter: bool,
}

/// Where a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// On disk, can be loaded.
    Available,
    /// Being loaded.
    Loading,
    /// In memory.
    Loaded,
    /// Cannot be used; `reason` says why.
    Broken,
}

/// `GET /models/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDetail {
    /// As in the list.
    #[serde(flatten)]
    pub model: Model,
    /// File or folder.
    pub path: String,
    /// BLAKE3 of the content in hex; absent until it has been computed.
    pub digest: Option<String>,
    /// Bytes that loading it claims of the memory budget.
    pub memory_needed: Option<u64>,
    /// Shape of the network: layers, hidden size, heads, vocabulary, ...
    pub shape: serde_json::Map<String, serde_json::Value>,
    /// Tokenizer kind (`bpe`, `spm`), where the model has one.
    pub tokenizer: Option<String>,
    /// The chat template, where the model has one.
    pub chat_template: Option<String>,
}

/// `GET /jobs`: what the caller has running. The superuser sees everybody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Oldest first.
    pub jobs: Vec<Job>,
}

/// Answer to `POST /reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Settings that changed and count from the next start on, as `section.key`.
    pub waiting: Vec<String>,
}

/// One request at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Id, as in the journal.
    pub id: String,
    /// What it is.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// The model.
    pub model: String,
    /// Whose it is.
    pub uid: u32,
    /// Milliseconds since it came.
    pub age_ms: u64,
    /// Prompt length in tokens, once known.
    pub prompt_tokens: u32,
    /// Tokens generated so far.
    pub completion_tokens: u32,
}

/// What a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Continue a text.
    Generate,
    /// Answer a talk.
    Chat,
    /// Score a text.
    Score,
    /// Load a model.
    Load,
    /// Copy a model into the models folder.
    Install,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its model.
    Loading,
    /// Waits for its turn.
    Queued,
    /// Runs.
    Running,
}
