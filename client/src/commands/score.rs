//! `hyp score`: how likely a text is to a model.
use super::{Session, tokenize::quoted};
use crate::exit::Failure;
use crate::flags::ScoreFlags;
use crate::input;
use crate::print::Out;
use crate::table::{Align, Cell, Fields, Table};
use hyprstream_protocol::{Priority, Prompt, ScoreReply, ScoreRequest, ScoredToken};

const COLUMNS: &[(&str, Align)] = &[
    ("ID", Align::Right),
    ("LOGPROB", Align::Right),
    ("TEXT", Align::Left),
];
const COLUMNS_TOP: &[(&str, Align)] = &[
    ("ID", Align::Right),
    ("LOGPROB", Align::Right),
    ("TEXT", Align::Left),
    ("LIKELIEST", Align::Left),
];

/// Scores the file.
pub fn run(session: &Session, flags: ScoreFlags) -> Result<(), Failure> {
    let text = input::file(&flags.file)?;
    let prompt = if flags.ids {
        Prompt::Tokens(input::ids(&text, &flags.file.display().to_string())?)
    } else {
        Prompt::Text(text)
    };
    let client = session.client()?;
    session.spinner.say("scoring the text");
    let request = ScoreRequest {
        model: flags.model.model,
        prompt,
        top: flags.top,
        priority: Priority::default(),
    };
    let reply = client.compute("/score", &request)?;
    session.reply(&reply, |out, reply: ScoreReply| {
        if flags.tokens || flags.top > 0 {
            tokens(out, &reply.scored, flags.top > 0)
        } else {
            summary(out, &reply)
        }
    })
}

fn summary(out: &mut Out, reply: &ScoreReply) -> Result<(), Failure> {
    let mut fields = Fields::new();
    fields
        .add("model", Cell::text(&reply.model))
        .add("tokens", Cell::text(reply.tokens.to_string()))
        .add(
            "logprob",
            Cell::both(format!("{:.4}", reply.logprob), reply.logprob),
        )
        .add(
            "perplexity",
            Cell::both(format!("{:.4}", reply.perplexity), reply.perplexity),
        );
    out.fields(&fields)
}

fn tokens(out: &mut Out, scored: &[ScoredToken], top: bool) -> Result<(), Failure> {
    let mut table = Table::new(if top { COLUMNS_TOP } else { COLUMNS });
    for token in scored {
        let likeliest: Vec<String> = token
            .top
            .iter()
            .map(|top| format!("{} {:.4}", quoted(&top.text), top.logprob))
            .collect();
        let mut row = vec![
            Cell::text(token.token.to_string()),
            Cell::maybe(token.logprob, |logprob| {
                Cell::both(format!("{logprob:.4}"), logprob)
            }),
            Cell::text(quoted(&token.text)),
        ];
        if top {
            row.push(Cell::text(likeliest.join("  ")));
        }
        table.row(row);
    }
    out.table(&table)
}
