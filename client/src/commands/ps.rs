//! `hyp ps`: what runs.
use super::Session;
use crate::exit::Failure;
use crate::table::{Align, Cell, Table, span};
use hyprstream_protocol::{Job, JobKind, JobState, Jobs};

/// Columns, in the order that programs may rely on.
const COLUMNS: &[(&str, Align)] = &[
    ("JOB", Align::Left),
    ("KIND", Align::Left),
    ("STATE", Align::Left),
    ("MODEL", Align::Left),
    ("USER", Align::Left),
    ("AGE", Align::Right),
    ("PROMPT", Align::Right),
    ("WRITTEN", Align::Right),
];

/// Lists the caller's requests; everybody's for the superuser.
pub fn run(session: &Session) -> Result<(), Failure> {
    let reply = session.client()?.get("/jobs")?;
    session.reply(&reply, |out, jobs: Jobs| {
        if jobs.jobs.is_empty() {
            session.remark("nothing runs");
            return Ok(());
        }
        let mut table = Table::new(COLUMNS);
        for job in &jobs.jobs {
            table.row(row(job));
        }
        out.table(&table)
    })
}

fn row(job: &Job) -> Vec<Cell> {
    let kind = match job.kind {
        JobKind::Generate => "generate",
        JobKind::Chat => "chat",
        JobKind::Score => "score",
        JobKind::Load => "load",
        JobKind::Install => "install",
    };
    let state = match job.state {
        JobState::Loading => "loading",
        JobState::Queued => "queued",
        JobState::Running => "running",
    };
    vec![
        Cell::text(&job.id),
        Cell::text(kind),
        Cell::text(state),
        Cell::text(&job.model),
        Cell::both(user_name(job.uid), job.uid),
        span(job.age_ms / 1000),
        Cell::text(job.prompt_tokens.to_string()),
        Cell::text(job.completion_tokens.to_string()),
    ]
}

fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}
