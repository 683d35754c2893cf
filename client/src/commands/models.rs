//! `hyp models`: what there is to ask.
use super::Session;
use crate::exit::Failure;
use crate::table::{Align, Cell, Table, count, size, span};
use hyprstream_protocol::{Model, ModelState, Models};
use std::time::{SystemTime, UNIX_EPOCH};

/// Columns, in the order that programs may rely on.
const COLUMNS: &[(&str, Align)] = &[
    ("NAME", Align::Left),
    ("STATE", Align::Left),
    ("ARCH", Align::Left),
    ("PARAMS", Align::Right),
    ("FORMAT", Align::Left),
    ("CONTEXT", Align::Right),
    ("SIZE", Align::Right),
    ("AGE", Align::Right),
    ("NOTE", Align::Left),
];

/// Lists the models.
pub fn run(session: &Session) -> Result<(), Failure> {
    let reply = session.client()?.get("/models")?;
    session.reply(&reply, |out, models: Models| {
        if models.models.is_empty() {
            session.remark("no models; `hyp status` tells which folders are searched");
            return Ok(());
        }
        let now_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut table = Table::new(COLUMNS);
        for model in &models.models {
            table.row(row(model, models.default.as_deref(), now_s));
        }
        out.table(&table)
    })
}

fn row(model: &Model, default: Option<&str>, now_s: u64) -> Vec<Cell> {
    let note = match &model.reason {
        Some(reason) => reason.as_str(),
        None if default == Some(model.name.as_str()) => "default",
        None if model.starter => "starter",
        None => "",
    };
    let age = span(now_s.saturating_sub(model.modified_s));
    vec![
        Cell::text(&model.name),
        Cell::text(state(model.state)),
        Cell::maybe(model.arch.as_ref(), Cell::text),
        Cell::maybe(model.parameters, count),
        Cell::maybe(model.format.as_ref(), Cell::text),
        Cell::maybe(model.context, |context| Cell::text(context.to_string())),
        size(model.bytes),
        age,
        Cell::text(note),
    ]
}

/// A state as it stands on the wire.
pub fn state(state: ModelState) -> &'static str {
    match state {
        ModelState::Available => "available",
        ModelState::Loading => "loading",
        ModelState::Loaded => "loaded",
        ModelState::Broken => "broken",
    }
}
