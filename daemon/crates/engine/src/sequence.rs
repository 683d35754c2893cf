//! One request on its way through the engine: its tokens, its blocks, its text. Invariant: positions below `cached` are
//! in the KV cache, and every token but the newest was reported before the next is chosen.
use crate::emit::Outlet;
use crate::forward::{Lane, Logits, Slice};
use crate::runtime::quota_blocks;
use crate::sampling::{Candidates, Chosen, top_logprobs};
use crate::speculation::{DRAFT_MAX, Speculation};
use crate::stop::{Matched, StopMatcher};
use crate::{BlockTable, EngineError, Model, Progress, Request, Sampler, SamplingParams};
use hyprstream_kernels::{KV_BLOCK, log_sum_exp};
use hyprstream_model::DecodeStream;
use hyprstream_protocol::{Event, FinishReason, JobState, Timings, TokenEvent, TokenLogprob, Usage};
use std::sync::Arc;
use std::time::Instant;

pub struct Sequence {
    pub id: String,
    /// Whose it is.
    pub uid: u32,
    /// 0 for the highest priority.
    pub priority: u8,
    /// The priority that it runs with: waiting may have raised it.
    pub rank: u8,
    /// Order of arrival.
    pub serial: u64,
    /// Since when it waits for its turn.
    pub queued: Instant,
    /// It gave its blocks back in the middle of planning a step.
    pub parked: bool,
    /// Prompt tokens that were found in the KV cache when it first ran.
    pub reused: usize,
    pub model: Arc<Model>,
    /// Blocks that its user may have.
    pub kv_blocks_max: usize,
    /// Between the plan of a step and its end, the newest ones may be drafts.
    pub tokens: Vec<u32>,
    /// How many of the tokens were given.
    pub prompt: usize,
    pub table: BlockTable,
    /// Positions in the KV cache.
    pub cached: usize,
    /// Tokens in the step at hand, or in the chunk under way; 0 if it rests.
    pub planned: usize,
    /// Where those are.
    pub lane: Lane,
    pub outlet: Outlet,
    pub progress: Arc<Progress>,
    voice: Voice,
    text: Text,
    speculation: Option<Speculation>,
    /// Draft tokens in the step at hand: the last ones of `tokens`.
    drafts: usize,
    tally: Tally,
    /// Prompt tokens whose events are out, where `echo` was asked for.
    reported: usize,
    echo: bool,
    clock: Clock,
}

/// What turns logits into tokens, apart from the tokens themselves, so that a step can read those meanwhile.
pub struct Voice {
    sampler: Sampler,
    /// What follows the newest token that is certain, and each draft token that was chosen as well.
    chosen: Vec<Chosen>,
    /// Tokens before this position are certain.
    known: usize,
    /// Nothing more can be said in this step: the rest of the draft is wrong.
    silent: bool,
    /// The last logits that counted were not finite.
    lost: bool,
    heard: Vec<Chosen>,
    prompt: usize,
    reported: usize,
}

/// Tokens that speculation drafted, and those among them that saved a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub drafted: u32,
    pub accepted: u32,
}

struct Text {
    decode: Option<DecodeStream>,
    stop: StopMatcher,
}

struct Clock {
    came: Instant,
    started: Option<Instant>,
    prefilled: Option<Instant>,
}

/// Whether a sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Goes,
    Ended,
}

impl Sequence {
    pub fn new(request: Request, context: usize, serial: u64) -> Sequence {
        let Request {
            id,
            uid,
            priority,
            model,
            kv_tokens_max,
            mut tokens,
            sampling,
            echo,
            progress,
            sink,
        } = request;
        let came = Instant::now();
        let priority = priority as u8;
        let prompt = tokens.len();
        let kv_blocks_max = quota_blocks(kv_tokens_max);
        let context = context.min(kv_blocks_max.saturating_mul(KV_BLOCK));
        let longest = prompt.saturating_add(sampling.max_tokens).min(context);
        tokens.reserve_exact(longest.saturating_sub(prompt));
        progress.set_prompt_tokens(prompt as u32);
        progress.set_state(JobState::Queued);
        let decode = model.tokenizer().map(|tokenizer| tokenizer.stream(&tokens));
        let stop = StopMatcher::new(sampling.stop.clone());
        let speculation = sampling.speculation.then(|| Speculation::new(longest));
        let voice = Voice {
            sampler: Sampler::new(sampling),
            chosen: Vec::with_capacity(if speculation.is_some() { DRAFT_MAX + 1 } else { 1 }),
            known: prompt,
            silent: false,
            lost: false,
            heard: Vec::new(),
            prompt,
            reported: 0,
        };
        Sequence {
            id,
            uid,
            priority,
            rank: priority,
            serial,
            queued: came,
            parked: false,
            reused: 0,
            kv_blocks_max,
            table: BlockTable::with_capacity(longest),
            tokens,
            prompt,
            cached: 0,
            planned: 0,
            lane: Lane::Step,
            outlet: Outlet::new(sink),
            progress,
            voice,
            text: Text { decode, stop },
            speculation,
            drafts: 0,
            tally: Tally::default(),
            reported: 0,
            echo,
            clock: Clock {
                came,
                started: None,
                prefilled: None,
            },
            model,
        }
    }

    pub fn params(&self) -> &SamplingParams {
        self.voice.sampler.params()
    }

    /// Tokens that are not in the KV cache yet.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.drafts - self.cached
    }

    /// The role of the tokens that come next: given ones, or generated ones, which after an eviction may be many.
    pub fn is_prefill(&self) -> bool {
        self.cached < self.prompt
    }

    /// How many tokens a chunk could carry: a slice holds tokens of one role.
    pub fn slice_max(&self) -> usize {
        let end = if self.is_prefill() {
            self.prompt
        } else {
            self.tokens.len()
        };
        end - self.cached
    }

    /// Whether the next step gives a new token of the answer, rather than reading the prompt or what an eviction took.
    pub fn is_answering(&self) -> bool {
        self.pending() == 1 && !self.is_prefill()
    }

    /// Whether it has tokens in this lane.
    pub fn is_in(&self, lane: Lane) -> bool {
        self.planned > 0 && self.lane == lane
    }

    /// Whether a step or a chunk could take it.
    pub fn can_run(&self) -> bool {
        self.planned == 0 && !self.parked && !self.outlet.is_blocked()
    }

    /// The part of a context that its user may have.
    fn within(&self, context: usize) -> usize {
        context.min(self.kv_blocks_max.saturating_mul(KV_BLOCK))
    }

    /// How many tokens could be drafted for the step at hand: one less than the answer may still grow by.
    pub fn drafts_max(&self, context: usize) -> usize {
        if self.speculation.is_none() || self.planned != 1 || !self.is_in(Lane::Step) {
            return 0;
        }
        let context = self.within(context);
        let answer = self.params().max_tokens.saturating_sub(self.generated());
        answer
            .min(context.saturating_sub(self.tokens.len()))
            .saturating_sub(1)
    }

    /// Adds up to `max` draft tokens to the step at hand and returns how many.
    pub fn draft(&mut self, max: usize, cost: f32) -> usize {
        let Some(speculation) = &mut self.speculation else {
            return 0;
        };
        let (model, ignored) = (&self.model, self.voice.sampler.params().ignore_eos);
        let ends = |token| !ignored && model.is_end(token);
        self.drafts = speculation.draft(&mut self.tokens, cost, max, &ends);
        self.planned += self.drafts;
        self.drafts
    }

    /// Takes the last `count` draft tokens out of the step at hand.
    pub fn undraft(&mut self, count: usize) {
        let count = count.min(self.drafts);
        self.tokens.truncate(self.tokens.len() - count);
        self.drafts -= count;
        self.planned -= count;
    }

    /// Leaves the step or the chunk; its blocks are gone, so everything is to be computed anew.
    pub fn rest(&mut self) {
        self.undraft(self.drafts);
        (self.cached, self.planned) = (0, 0);
        // Heard anew with the tokens. What was chosen stays: it is said once, and a second choice would take other random
        // numbers.
        self.voice.heard.clear();
        if let Some(speculation) = &mut self.speculation {
            speculation.rest();
        }
        self.progress.set_state(JobState::Queued);
    }

    /// Whether a token was chosen that is not said yet.
    #[cfg(test)]
    pub fn is_heard(&self) -> bool {
        !self.voice.chosen.is_empty()
    }

    /// What speculation came to so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.drafts - self.prompt
    }

    /// The tokens whose keys and values could be taken from the cache: all but the last, whose logits are needed; none
    /// where every prompt token's are.
    pub fn reusable(&self) -> &[u32] {
        if self.wants_prompt_logprobs() {
            return &[];
        }
        &self.tokens[..self.tokens.len() - 1]
    }

    /// The tokens whose keys and values are in its blocks.
    pub fn computed(&mut self) -> (&mut BlockTable, &[u32]) {
        (&mut self.table, &self.tokens[..self.cached])
    }

    fn wants_prompt_logprobs(&self) -> bool {
        self.echo && self.params().logprobs.is_some()
    }

    /// Reports that it runs; again after an eviction it stays silent.
    pub fn start(&mut self) {
        self.progress.set_state(JobState::Running);
        if self.clock.started.is_some() {
            return;
        }
        self.clock.started = Some(Instant::now());
        self.reused = self.cached;
        let model = self.model.name().to_owned();
        self.outlet.push(Ok(Event::Started {
            id: self.id.clone(),
            model,
            prompt_tokens: self.prompt as u32,
        }));
        if self.echo {
            // With log-probabilities the others follow as they are computed.
            let known = if self.wants_prompt_logprobs() {
                1
            } else {
                self.prompt
            };
            for &token in &self.tokens[..known] {
                let text = self.model.piece(token);
                self.outlet.push(Ok(Event::Prompt(TokenEvent {
                    text,
                    token: Some(token),
                    ..TokenEvent::default()
                })));
            }
            self.reported = known;
        }
    }

    /// Whether there is nothing to compute: no answer and no log-probabilities wanted.
    pub fn is_trivial(&self) -> bool {
        self.params().max_tokens == 0 && (!self.wants_prompt_logprobs() || self.prompt < 2)
    }

    /// The step's view of this sequence: what to compute, all tokens, and what hears the logits.
    pub fn parts(&mut self) -> (Slice<'_>, &[u32], &mut Voice) {
        let end = self.cached + self.planned;
        let last = end == self.tokens.len() && self.voice.sampler.params().max_tokens > 0;
        let unheard = self.wants_prompt_logprobs() && end.min(self.prompt - 1) >= self.reported.max(1);
        let logits = match (unheard || self.drafts > 0, last) {
            (true, _) => Logits::All,
            (false, true) => Logits::Last,
            (false, false) => Logits::None,
        };
        self.voice.reported = self.reported;
        self.voice.known = self.tokens.len() - self.drafts;
        self.voice.silent = false;
        let slice = Slice {
            tokens: &self.tokens[self.cached..end],
            start: self.cached,
            blocks: self.table.blocks(),
            prefill: self.is_prefill(),
            logits,
        };
        (slice, &self.tokens, &mut self.voice)
    }

    /// Takes in what the step computed.
    pub fn advance(&mut self, context: usize) -> Result<Next, EngineError> {
        let context = self.within(context);
        let drafted = self.drafts;
        self.undraft(drafted);
        self.cached += std::mem::take(&mut self.planned);
        self.report_prompt();
        if self.cached < self.tokens.len() {
            return Ok(Next::Goes);
        }
        self.clock.prefilled.get_or_insert_with(Instant::now);
        if self.params().max_tokens == 0 {
            self.finish(FinishReason::Length, String::new());
            return Ok(Next::Ended);
        }
        let mut chosen = std::mem::take(&mut self.voice.chosen);
        let next = self.answer(drafted, chosen.drain(..), context);
        self.voice.chosen = chosen;
        next
    }

    /// Says what was chosen. All but the last were drafts, so the cache has them already.
    fn answer(
        &mut self,
        drafted: usize,
        chosen: impl ExactSizeIterator<Item = Chosen>,
        context: usize,
    ) -> Result<Next, EngineError> {
        let lost = std::mem::take(&mut self.voice.lost);
        if chosen.len() == 0 && !lost {
            return Err(EngineError::Fault);
        }
        self.tally.drafted = self.tally.drafted.saturating_add(drafted as u32);
        if let Some(speculation) = &mut self.speculation {
            speculation.learn(drafted, (chosen.len() + usize::from(lost)).saturating_sub(1));
        }
        for (at, chosen) in chosen.enumerate() {
            if at > 0 {
                self.cached += 1;
                self.tally.accepted = self.tally.accepted.saturating_add(1);
            }
            if self.speak(chosen, context) == Next::Ended {
                return Ok(Next::Ended);
            }
        }
        if lost {
            let model = self.model.name().to_owned();
            return Err(EngineError::NotFinite { model });
        }
        Ok(Next::Goes)
    }

    fn report_prompt(&mut self) {
        for heard in std::mem::take(&mut self.voice.heard) {
            let text = self.model.piece(heard.token);
            self.outlet
                .push(Ok(Event::Prompt(token_event(&self.model, heard, text))));
            self.reported += 1;
        }
    }

    fn speak(&mut self, chosen: Chosen, context: usize) -> Next {
        if !self.params().ignore_eos && self.model.is_end(chosen.token) {
            let rest = self.text.end();
            self.finish(FinishReason::Stop, rest);
            return Next::Ended;
        }
        self.tokens.push(chosen.token);
        self.progress.set_completion_tokens(self.generated() as u32);
        let (text, stopped) = match self.text.push(chosen.token) {
            Matched::Text(text) => (text, false),
            Matched::Stop(text) => (text, true),
        };
        let event = token_event(&self.model, chosen, text);
        self.outlet.push(Ok(Event::Token(event)));
        if stopped {
            self.finish(FinishReason::Stop, String::new());
            return Next::Ended;
        }
        if self.generated() >= self.params().max_tokens || self.tokens.len() >= context {
            let rest = self.text.end();
            self.finish(FinishReason::Length, rest);
            return Next::Ended;
        }
        Next::Goes
    }

    /// Lets `rest` out and says that the answer is complete.
    pub fn finish(&mut self, reason: FinishReason, rest: String) {
        if !rest.is_empty() {
            self.outlet.push(Ok(Event::Token(TokenEvent {
                text: rest,
                ..TokenEvent::default()
            })));
        }
        let usage = Usage {
            prompt_tokens: self.prompt as u32,
            completion_tokens: self.generated() as u32,
            cached_tokens: self.reused as u32,
            drafted_tokens: self.tally.drafted,
            accepted_tokens: self.tally.accepted,
        };
        self.outlet.push(Ok(Event::Done {
            reason,
            usage,
            timings: self.clock.timings(),
        }));
    }

    /// Ends the answer where the context ends: there is no room for one more token.
    pub fn finish_full(&mut self) {
        let rest = self.text.end();
        self.finish(FinishReason::Length, rest);
    }

    /// Milliseconds since the request came.
    pub fn age_ms(&self) -> u64 {
        self.clock.came.elapsed().as_millis() as u64
    }
}

impl Tally {
    pub fn since(self, before: Tally) -> Tally {
        Tally {
            drafted: self.drafted.saturating_sub(before.drafted),
            accepted: self.accepted.saturating_sub(before.accepted),
        }
    }

    pub fn add(&mut self, other: Tally) {
        self.drafted = self.drafted.saturating_add(other.drafted);
        self.accepted = self.accepted.saturating_add(other.accepted);
    }
}

impl Voice {
    /// Hears the logits of the token at `position`.
    pub fn hear(&mut self, position: usize, tokens: &[u32], logits: &mut [f32], candidates: &mut Candidates) {
        let next = position + 1;
        if next >= self.known {
            let heard = self.lost || self.chosen.len() > next - self.known;
            if self.sampler.params().max_tokens == 0 || self.silent || heard {
                return;
            }
            // As without drafts, each token is chosen once, after the tokens before it: random numbers stay in step.
            match self
                .sampler
                .choose(logits, &tokens[..next], self.prompt, candidates)
            {
                Some(chosen) => {
                    self.silent = tokens.get(next).is_some_and(|&draft| draft != chosen.token);
                    self.chosen.push(chosen);
                }
                None => (self.silent, self.lost) = (true, true),
            }
        } else if next < self.prompt && next >= self.reported {
            let token = tokens[next];
            let normalizer = log_sum_exp(logits);
            let logprob = normalizer.map(|n| (f64::from(logits[token as usize]) - n) as f32);
            let count = usize::from(self.sampler.params().logprobs.unwrap_or(0));
            let top = normalizer.map_or_else(Vec::new, |n| top_logprobs(logits, n, count, candidates));
            self.heard.push(Chosen { token, logprob, top });
        }
    }
}

impl Text {
    fn push(&mut self, token: u32) -> Matched {
        let text = self.decode.as_mut().map(|d| d.push(token)).unwrap_or_default();
        self.stop.push(text)
    }

    /// What was held back, at the end of the answer.
    fn end(&mut self) -> String {
        let tail = self.decode.as_mut().map(DecodeStream::finish).unwrap_or_default();
        match self.stop.push(tail) {
            Matched::Text(text) => text + &self.stop.finish(),
            Matched::Stop(text) => text,
        }
    }
}

impl Clock {
    fn timings(&self) -> Timings {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let prefilled = self.prefilled.unwrap_or(now);
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        Timings {
            queue_ms: ms(self.came, started),
            prefill_ms: ms(started, prefilled),
            decode_ms: ms(prefilled, now),
        }
    }
}

fn token_event(model: &Model, chosen: Chosen, text: String) -> TokenEvent {
    let top = chosen.top.into_iter();
    let top = top
        .map(|(token, logprob)| TokenLogprob {
            token,
            text: model.piece(token),
            logprob,
        })
        .collect();
    TokenEvent {
        text,
        token: Some(chosen.token),
        logprob: chosen.logprob,
        top,
    }
}
