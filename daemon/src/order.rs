//! From a request of `protocol` to an order for the engine; what every door makes of what it was sent. Invariant: two
//! doors that get the same request make the same order.
use crate::answer::Order;
use crate::app::App;
use crate::errors::Failure;
use crate::prompt::Input;
use hyprstream_protocol::{ChatRequest, GenerateRequest, JobKind, LoadRequest, Priority, Sampling};
use serde_json::Value;

/// Who asks, and under which id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Whose request it is.
    pub uid: u32,
    /// The request's id.
    pub id: String,
}

/// Continue a text.
pub fn generate(app: &App, asker: Asker, request: GenerateRequest) -> Result<Order, Failure> {
    let input = Input::Prompt {
        prompt: request.prompt,
        parse_special: true,
    };
    let mut order = order(
        app,
        asker,
        JobKind::Generate,
        request.model.as_deref(),
        Some(input),
    )?;
    order.sampling = request.sampling;
    order.echo = request.echo;
    order.priority = request.priority;
    Ok(order)
}

/// Answer a talk.
pub fn chat(app: &App, asker: Asker, request: ChatRequest) -> Result<Order, Failure> {
    if request.messages.is_empty() {
        return Err(Failure::bad_field(
            "messages",
            "`messages` is empty; give at least one turn",
        ));
    }
    let messages = request
        .messages
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<Value>, _>>();
    let messages = messages.map_err(|_| Failure::fault("a message could not be written as JSON"))?;
    let input = Input::Chat {
        messages,
        tools: request.tools,
        vars: request.template_vars,
    };
    let mut order = order(app, asker, JobKind::Chat, request.model.as_deref(), Some(input))?;
    order.sampling = request.sampling;
    order.priority = request.priority;
    Ok(order)
}

/// Bring a model into memory. A load that failed before is tried again.
pub fn load(app: &App, asker: Asker, request: &LoadRequest) -> Result<Order, Failure> {
    let order = order(app, asker, JobKind::Load, Some(&request.model), None)?;
    app.models.forgive(&order.entry.name);
    Ok(order)
}

fn order(
    app: &App,
    asker: Asker,
    kind: JobKind,
    model: Option<&str>,
    input: Option<Input>,
) -> Result<Order, Failure> {
    let (entry, sampling) = (app.entry(model)?, Sampling::default());
    Ok(Order {
        id: asker.id,
        uid: asker.uid,
        kind,
        entry,
        input,
        sampling,
        echo: false,
        priority: Priority::default(),
    })
}
