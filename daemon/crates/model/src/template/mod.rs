//! Chat templates: a conversation to the text that the model was trained on, as `transformers` renders it.
//! Invariant: a template, however hostile, ends in bounded time and memory, and reaches nothing but its input.

mod bounds;
mod error;
mod filters;
mod generation;
mod json;
mod operators;
mod python;
mod rewrite;
mod strftime;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

pub use error::TemplateError;

use bounds::Work;

/// Longest source in bytes; the longest in use has about 20 KB.
const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Name that templates carry in messages.
const NAME: &str = "chat template";
/// Most nested macro calls.
const CALL_DEPTH_MAX: usize = 100;

/// A compiled-once, render-many chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// Assignments to attributes in `source`, each of which is checked.
    kept: usize,
    /// Longest stretch of plain text in bytes; it bounds how many instructions one rendering may take.
    raw_max: usize,
}

/// What a template sees.
#[derive(Debug, Clone, Copy)]
pub struct TemplateInput<'a> {
    /// Messages as in the OpenAI protocol: `role`, `content`, and so on.
    pub messages: &'a [serde_json::Value],
    /// JSON schemas of tools; none at all is `none` to the template.
    pub tools: &'a [serde_json::Value],
    /// Whether the text ends with the start of an answer.
    pub add_generation_prompt: bool,
    /// Text of the begin token.
    pub bos_token: &'a str,
    /// Text of the end token.
    pub eos_token: &'a str,
    /// Further variables of this template, such as `enable_thinking`.
    pub vars: &'a serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` takes for now, in UTC.
    pub now: SystemTime,
}

impl ChatTemplate {
    /// Checks that `source` compiles.
    pub fn new(source: &str) -> Result<ChatTemplate, TemplateError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(TemplateError::SourceTooLong {
                len: source.len(),
                max: SOURCE_BYTES_MAX,
            });
        }
        let rewrite::Checked { source, kept } =
            rewrite::checked(&generation::without_marks(source), syntax())?;
        let (code, blocks) = compile(&source, kept)?;
        let all = std::iter::once(&code).chain(blocks.values());
        let raws =
            all.flat_map(|code| (0..).map_while(|i| code.get(i)))
                .map(|instruction| match instruction {
                    Instruction::EmitRaw(text) => text.len(),
                    _ => 0,
                });
        let raw_max = raws.max().unwrap_or(0);
        Ok(ChatTemplate {
            source,
            kept,
            raw_max,
        })
    }

    /// The text of a conversation.
    pub fn render(&self, input: &TemplateInput<'_>) -> Result<String, TemplateError> {
        let context = context(input);
        let work = Arc::new(Work::new(bounds::size(&context)));
        let env = environment(&work, input.now, self.raw_max);
        // Compiling takes well under a millisecond, and what is compiled borrows from the source.
        let (code, blocks) = compile(&self.source, self.kept)?;
        let mut out = String::new();
        let done = eval(
            &env,
            &code,
            context,
            &blocks,
            &mut make_string_output(&mut out),
            AutoEscape::None,
        );
        match done {
            Ok(_) => Ok(out),
            Err(error) => Err(failure(&error, &work)),
        }
    }
}

/// Compiled form: the template, and its named blocks.
type Code<'a> = (Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>);

/// The rules that `transformers` sets.
fn syntax() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true);
    builder.build().unwrap_or_default()
}

/// Compiles, and puts checked operators in place of those that could make values without bound.
fn compile(source: &str, kept: usize) -> Result<Code<'_>, TemplateError> {
    let syntax_error = |e: minijinja::Error| TemplateError::Syntax {
        line: e.line().unwrap_or(1),
        message: words(&e),
    };
    let tree = parse(source, NAME, syntax()).map_err(syntax_error)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (mut code, mut blocks) = generator.finish();
    let mut assigned = 0;
    for code in std::iter::once(&mut code).chain(blocks.values_mut()) {
        assigned += operators::replace(code);
    }
    if assigned != kept {
        let message = "an attribute is assigned to other than by {% set %}".to_owned();
        return Err(TemplateError::Syntax { line: 1, message });
    }
    Ok((code, blocks))
}

fn environment(work: &Arc<Work>, now: SystemTime, raw_max: usize) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_recursion_limit(CALL_DEPTH_MAX);
    env.set_fuel(Some(bounds::fuel(raw_max)));
    operators::install(&mut env, work);
    filters::install(&mut env, work);
    env.add_global(rewrite::ONE, 1);
    let raised = Arc::clone(work);
    env.add_function(
        "raise_exception",
        move |message: Value| -> Result<Value, minijinja::Error> {
            raised.raise(python::text(&message, &raised)?);
            Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                "raise_exception",
            ))
        },
    );
    env.add_function("strftime_now", move |format: &str| strftime::utc(now, format));
    let emitted = Arc::clone(work);
    env.set_formatter(move |out, _, value| {
        let text = python::text(value, &emitted)?;
        emitted.charge(text.len())?;
        out.write_str(&text).map_err(minijinja::Error::from)
    });
    env
}

/// Variables as `apply_chat_template` passes them.
fn context(input: &TemplateInput<'_>) -> Value {
    let mut all: Vec<(String, Value)> = vec![
        ("bos_token".into(), input.bos_token.into()),
        ("eos_token".into(), input.eos_token.into()),
        ("documents".into(), Value::from(())),
    ];
    all.extend(
        input
            .vars
            .iter()
            .map(|(name, value)| (name.clone(), from_json(value))),
    );
    let messages: Vec<Value> = input.messages.iter().map(message).collect();
    let tools: Vec<Value> = input.tools.iter().map(from_json).collect();
    all.push(("messages".into(), messages.into()));
    all.push((
        "tools".into(),
        if tools.is_empty() {
            Value::from(())
        } else {
            tools.into()
        },
    ));
    all.push(("add_generation_prompt".into(), input.add_generation_prompt.into()));
    Value::from_pairs(all)
}

/// Names that reasoning goes by; templates read the first or the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message, its reasoning under both names that templates read.
fn message(message: &serde_json::Value) -> Value {
    let reasoning = REASONING
        .iter()
        .find_map(|name| message.get(name).filter(|value| !value.is_null()));
    let (Some(reasoning), Some(fields)) = (reasoning, message.as_object()) else {
        return from_json(message);
    };
    let mut all = serde_json::Map::new();
    all.insert("thinking".into(), reasoning.clone());
    all.extend(fields.clone());
    all.insert("reasoning_content".into(), reasoning.clone());
    from_json(&serde_json::Value::Object(all))
}

/// JSON as the template sees it, keys in their order.
fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => int.into(),
            (None, Some(int)) => int.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(from_json).collect::<Vec<Value>>().into(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// What an error says, without its place.
fn words(error: &minijinja::Error) -> String {
    error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned)
}

fn failure(error: &minijinja::Error, work: &Work) -> TemplateError {
    if let Some(message) = work.raised() {
        return TemplateError::Raised { message };
    }
    if work.is_spent() || error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::TooMuchWork;
    }
    TemplateError::Failed {
        line: error.line().unwrap_or(1),
        message: words(error),
    }
}
