//! `hyp tokenize`: a text as the model sees it.
use super::{Session, usage};
use crate::exit::Failure;
use crate::flags::TokenizeFlags;
use crate::input;
use crate::table::{Align, Cell, Table};
use hyprstream_protocol::{TokenizeReply, TokenizeRequest};
use std::io::IsTerminal;

const COLUMNS: &[(&str, Align)] = &[("ID", Align::Right), ("TEXT", Align::Left)];

/// Cuts the text and prints its tokens.
pub fn run(session: &Session, flags: TokenizeFlags) -> Result<(), Failure> {
    let dash = flags.text == ["-"];
    if flags.text.is_empty() && std::io::stdin().is_terminal() {
        usage("tokenize", "no text: give one, or pipe one in");
    }
    let text = if dash || flags.text.is_empty() {
        input::stdin()?
    } else {
        flags.text.join(" ")
    };
    let request = TokenizeRequest {
        model: flags.model.model,
        text,
        add_special: !flags.no_special,
        parse_special: flags.parse_special,
    };
    let client = session.client()?;
    session.spinner.say("cutting the text");
    let reply = client.compute("/tokenize", &request)?;
    session.reply(&reply, |out, reply: TokenizeReply| {
        if flags.ids {
            let ids: Vec<String> = reply.tokens.iter().map(|piece| piece.token.to_string()).collect();
            return out.line(&ids.join(" "));
        }
        let mut table = Table::new(COLUMNS);
        for piece in &reply.tokens {
            table.row(vec![
                Cell::text(piece.token.to_string()),
                Cell::text(quoted(&piece.text)),
            ]);
        }
        out.table(&table)
    })
}

/// A token's text with its spaces and control characters to be seen: as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
