//! `hyp show`: all that is known of a model.
use super::{Session, models};
use crate::exit::Failure;
use crate::flags::ShowFlags;
use crate::http::segment;
use crate::print::Out;
use crate::table::{Cell, Fields, count, size};
use hyprstream_protocol::{ModelDetail, ModelState};

/// Shows one model.
pub fn run(session: &Session, flags: &ShowFlags) -> Result<(), Failure> {
    let reply = session
        .client()?
        .get(&format!("/models/{}", segment(&flags.name)))?;
    session.reply(&reply, |out, detail: ModelDetail| {
        if flags.template {
            template(session, out, &detail)
        } else {
            all(out, &detail)
        }
    })
}

fn template(session: &Session, out: &mut Out, detail: &ModelDetail) -> Result<(), Failure> {
    match &detail.chat_template {
        Some(template) => {
            out.text(template)?;
            out.end_line()
        }
        None => {
            session.remark(&format!("{} has no chat template", detail.model.name));
            Ok(())
        }
    }
}

fn all(out: &mut Out, detail: &ModelDetail) -> Result<(), Failure> {
    let model = &detail.model;
    let mut fields = Fields::new();
    fields
        .add("name", Cell::text(&model.name))
        .add("state", Cell::text(models::state(model.state)));
    if let Some(reason) = &model.reason {
        fields.add("reason", Cell::text(reason));
    }
    fields.add("path", Cell::text(&detail.path));
    let template = if detail.chat_template.is_some() {
        "yes"
    } else {
        "no"
    };
    let known = [
        ("architecture", model.arch.as_ref().map(Cell::text)),
        ("parameters", model.parameters.map(count)),
        ("format", model.format.as_ref().map(Cell::text)),
        (
            "context",
            model
                .context
                .map(|tokens| Cell::both(format!("{tokens} tokens"), tokens)),
        ),
        ("size", Some(size(model.bytes))),
        ("memory needed", detail.memory_needed.map(size)),
        ("tokenizer", detail.tokenizer.as_ref().map(Cell::text)),
        // Nobody has looked for the template of a model that cannot be read.
        (
            "chat template",
            Some(Cell::text(template)).filter(|_| model.state != ModelState::Broken),
        ),
        ("digest", detail.digest.as_ref().map(Cell::text)),
    ];
    let broken = model.state == ModelState::Broken;
    for (name, cell) in known {
        if cell.is_some() || !broken {
            fields.add(name, cell.unwrap_or_else(Cell::none));
        }
    }
    // The context stands above already.
    for (name, value) in detail.shape.iter().filter(|(name, _)| *name != "context") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fields.add(name, Cell::text(value));
    }
    out.fields(&fields)
}
