//! `hyp show`: all that is known of a model.
use super::{Session, models};
use crate::exit::Failure;
use crate::flags::ShowFlags;
use crate::http::segment;
use crate::print::Out;
use crate::table::{Cell, Fields, count, size};
use hyprstream_protocol::ModelDetail;

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
    fields
        .add("path", Cell::text(&detail.path))
        .add("architecture", Cell::maybe(model.arch.as_ref(), Cell::text))
        .add("parameters", Cell::maybe(model.parameters, count))
        .add("format", Cell::maybe(model.format.as_ref(), Cell::text))
        .add(
            "context",
            Cell::maybe(model.context, |tokens| {
                Cell::both(format!("{tokens} tokens"), tokens)
            }),
        )
        .add("size", size(model.bytes))
        .add("memory needed", Cell::maybe(detail.memory_needed, size))
        .add("tokenizer", Cell::maybe(detail.tokenizer.as_ref(), Cell::text))
        .add(
            "chat template",
            Cell::text(if detail.chat_template.is_some() {
                "yes"
            } else {
                "no"
            }),
        )
        .add("digest", Cell::maybe(detail.digest.as_ref(), Cell::text));
    for (name, value) in &detail.shape {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fields.add(name, Cell::text(value));
    }
    out.fields(&fields)
}
