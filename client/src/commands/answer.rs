//! Prints a streaming answer as it comes. Invariant: what is printed is what came, in order, and an answer that did not end
//! well is a failure.
use super::Session;
use crate::exit::Failure;
use crate::http::CallError;
use crate::print::Out;
use crate::stream::{Events, Line};
use hyprstream_protocol::{Event, FinishReason, LoadStage};
use std::io::Read;

/// Prints an answer to its end. Text that came is added to `so_far`, also where the answer breaks.
pub fn print(session: &Session, events: Events<impl Read>, so_far: &mut String) -> Result<(), Failure> {
    let mut out = Out::new();
    let result = print_to(&mut out, session, events, so_far);
    session.spinner.clear();
    // The line ends whatever happened, so that a message begins on a new one.
    out.end_line().and(result)
}

fn print_to(
    out: &mut Out,
    session: &Session,
    events: Events<impl Read>,
    so_far: &mut String,
) -> Result<(), Failure> {
    let json = session.flags.json;
    for line in events {
        let Line { text, event } = line?;
        if json {
            session.spinner.clear();
            out.line(&text)?;
        }
        match event {
            Event::Token(token) => {
                if !token.text.is_empty() {
                    session.spinner.clear();
                }
                if !json {
                    out.text(&token.text)?;
                }
                so_far.push_str(&token.text);
            }
            Event::Done { reason, .. } => {
                if reason == FinishReason::Length && out.is_terminal() && !json {
                    session.spinner.clear();
                    out.end_line()?;
                    session.remark("the answer was cut at its longest; --max-tokens N allows more");
                }
                return Ok(());
            }
            Event::Error(body) => return Err(CallError::Daemon(body).into()),
            waiting if !json => {
                if let Some(text) = waiting_for(&waiting) {
                    session.spinner.say(text);
                }
            }
            _ => {}
        }
    }
    Err(CallError::Closed.into())
}

/// What is being waited for, in words.
pub fn waiting_for(event: &Event) -> Option<String> {
    match event {
        Event::Loading {
            model,
            stage,
            progress,
        } => {
            let stage = match stage {
                LoadStage::Waiting => "another model loads first",
                LoadStage::Opening => "opening",
                LoadStage::Tokenizer => "building the tokenizer",
                LoadStage::Weights => "reading the weights",
                LoadStage::Packing => "packing the weights",
                LoadStage::Ready => "ready",
            };
            let share = progress
                .map(|share| format!(" {:.0}%", share.clamp(0.0, 1.0) * 100.0))
                .unwrap_or_default();
            Some(format!("loading {model}: {stage}{share}"))
        }
        Event::Queued { ahead: 0 } => Some("waiting: next in line".to_owned()),
        Event::Queued { ahead } => Some(format!("waiting: {ahead} ahead")),
        Event::Started { prompt_tokens: 1, .. } => Some("reading the prompt (1 token)".to_owned()),
        Event::Started { prompt_tokens, .. } => Some(format!("reading the prompt ({prompt_tokens} tokens)")),
        Event::Prompt(_) | Event::Token(_) | Event::Done { .. } | Event::Error(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_told_in_words() {
        let loading = |stage, progress| Event::Loading {
            model: "m".to_owned(),
            stage,
            progress,
        };
        let said = |event| waiting_for(&event).unwrap();
        assert_eq!(
            said(loading(LoadStage::Weights, Some(0.456))),
            "loading m: reading the weights 46%"
        );
        assert_eq!(said(loading(LoadStage::Opening, None)), "loading m: opening");
        assert_eq!(said(Event::Queued { ahead: 3 }), "waiting: 3 ahead");
        let started = |prompt_tokens| Event::Started {
            id: String::new(),
            model: String::new(),
            prompt_tokens,
        };
        assert_eq!(said(started(1)), "reading the prompt (1 token)");
        assert_eq!(said(started(2)), "reading the prompt (2 tokens)");
        assert_eq!(waiting_for(&Event::Token(Default::default())), None);
    }
}
