//! How likely a text is. Invariant: every token but the first is scored exactly once, with at least half a context
//! before it wherever the text has that much.
use crate::answer::{Order, begin};
use crate::app::App;
use crate::catalog::Entry;
use crate::errors::Failure;
use crate::models::Lease;
use crate::prompt::{Input, tokens_of};
use hyprstream_protocol::{Event, JobKind, Priority, Prompt, Sampling, ScoreReply, ScoredToken, TokenEvent};
use std::ops::Range;
use std::sync::Arc;

/// Tokens and alternatives in one answer; with their texts about a hundred bytes each.
pub const SCORED_MAX: usize = 1 << 20;

/// The answer would be too large to hold.
pub fn too_much(tokens: usize, top: u8) -> Failure {
    let most = SCORED_MAX / (1 + usize::from(top));
    let message =
        format!("{tokens} tokens or more are too many to score at once with {top} alternatives each");
    Failure::bad_field(
        "prompt",
        format!("{message}; at most {most} can be, so send the text in parts"),
    )
}

/// Scores a prompt. Ends with the caller's task.
pub async fn score(
    app: &Arc<App>,
    id: &str,
    uid: u32,
    entry: Arc<Entry>,
    prompt: Prompt,
    top: u8,
    priority: Priority,
) -> Result<ScoreReply, Failure> {
    app.admit()?;
    let lease = app.models.acquire(&entry, |_, _| {}).await?;
    let tokens = tokens_of(
        &lease,
        Input::Prompt {
            prompt,
            parse_special: false,
        },
        SCORED_MAX,
    )
    .await?;
    if tokens.len() < 2 {
        let message = format!(
            "{} tokens cannot be scored: the first one has nothing before it",
            tokens.len()
        );
        return Err(Failure::bad_field("prompt", message));
    }
    if tokens.len().saturating_mul(1 + usize::from(top)) > SCORED_MAX {
        return Err(too_much(tokens.len(), top));
    }
    let context = app.engine.options().context_of(lease.model().config());
    let mut scored: Vec<ScoredToken> = Vec::with_capacity(tokens.len());
    for (window, fresh) in windows(tokens.len(), context) {
        let part = tokens.get(window).unwrap_or_default().to_vec();
        let order = Order {
            id: id.to_owned(),
            uid,
            kind: JobKind::Score,
            entry: Arc::clone(&entry),
            input: Some(Input::Prompt {
                prompt: Prompt::Tokens(part),
                parse_special: false,
            }),
            sampling: Sampling {
                max_tokens: Some(0),
                logprobs: Some(top),
                ..Sampling::default()
            },
            echo: true,
            priority,
        };
        let mut answer = begin(app, order)?;
        let mut at = 0;
        while let Some(event) = answer.next().await {
            if let Event::Prompt(token) = event? {
                if at >= fresh {
                    scored.push(scored_token(&lease, token));
                }
                at += 1;
            }
        }
    }
    Ok(reply(entry.name.clone(), scored))
}

fn scored_token(lease: &Lease, event: TokenEvent) -> ScoredToken {
    let token = event.token.unwrap_or_default();
    ScoredToken {
        token,
        text: lease.model().piece(token),
        logprob: event.logprob,
        top: event.top,
    }
}

fn reply(model: String, scored: Vec<ScoredToken>) -> ScoreReply {
    let known: Vec<f64> = scored
        .iter()
        .filter_map(|token| token.logprob.map(f64::from))
        .collect();
    let logprob: f64 = known.iter().sum();
    let perplexity = if known.is_empty() {
        1.0
    } else {
        (-logprob / known.len() as f64).exp()
    };
    let tokens = known.len().try_into().unwrap_or(u32::MAX);
    ScoreReply {
        model,
        tokens,
        logprob,
        perplexity,
        scored,
    }
}

/// Windows over `length` tokens, half a context apart, and how many of each one's first tokens are scored already.
fn windows(length: usize, context: usize) -> Vec<(Range<usize>, usize)> {
    let context = context.max(2);
    let step = (context / 2).max(1);
    let mut windows = vec![(0..length.min(context), 0)];
    let mut end = context;
    while end < length {
        let next = end.saturating_add(step).min(length);
        let start = next - context;
        windows.push((start..next, end - start));
        end = next;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_score_every_token_once_with_half_a_context_before() {
        for context in [2, 3, 8, 9] {
            for length in 1..60 {
                let mut next = 0;
                for (window, fresh) in windows(length, context) {
                    assert!(window.len() <= context && window.end <= length);
                    assert_eq!(window.start + fresh, next, "length {length}, context {context}");
                    assert!(window.start == 0 || fresh >= context / 2);
                    next = window.end;
                }
                assert_eq!(next, length);
            }
        }
    }

    #[test]
    fn perplexity_is_over_the_scored_tokens() {
        let token = |logprob| ScoredToken {
            token: 1,
            text: String::new(),
            logprob,
            top: Vec::new(),
        };
        let reply = reply(
            "m".into(),
            vec![token(None), token(Some(-1.0)), token(Some(-3.0))],
        );
        assert_eq!((reply.tokens, reply.logprob), (2, -4.0));
        assert!((reply.perplexity - 2f64.exp()).abs() < 1e-9);
    }
}
