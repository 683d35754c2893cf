//! The sequences of one loaded model: who waits, who runs, what the next step carries. Invariant: blocks in use never
//! exceed the cache, and a sequence that left has given all its blocks back.
use crate::emit::{Flow, Outlet};
use crate::forward::{Runner, Slice};
use crate::options::SEQUENCES_MAX;
use crate::sampling::Candidates;
use crate::sequence::{Next, Sequence, Voice};
use crate::{EngineError, Model, Options, Request};
use hyprstream_kernels::{KV_BLOCK, Pool};
use hyprstream_protocol::JobState;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

pub struct Runtime {
    runner: Runner,
    context: usize,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Ended sequences whose last items wait for their client.
    closing: Vec<Outlet>,
    candidates: Candidates,
    options: Options,
}

/// What a call to [`Runtime::step`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// It computed.
    Work,
    /// It could do nothing: no sequences, or all wait for their clients.
    Nothing,
    /// The forward step panicked; the runtime must not be used again.
    Broke,
}

impl Runtime {
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, options: &Options) -> Option<Runtime> {
        let context = options.context_of(model.config());
        let candidates = Candidates::with_capacity(model.config().vocab);
        let runner = Runner::new(model, pool, options)?;
        Some(Runtime {
            runner,
            context,
            waiting: VecDeque::new(),
            running: Vec::with_capacity(options.sequences_max),
            closing: Vec::new(),
            candidates,
            options: options.clone(),
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.closing.is_empty()
    }

    pub fn accept(&mut self, request: Request) {
        self.waiting.push_back(Sequence::new(request, self.context));
    }

    /// Ends everything.
    pub fn fail_all(&mut self, error: &EngineError) {
        for mut sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            self.runner.cache().release(&mut sequence.table);
            sequence.outlet.fail(error.clone());
            self.closing.push(sequence.outlet);
        }
    }

    /// One step for all sequences that can run.
    pub fn step(&mut self, now: Instant, ended: &mut dyn FnMut(&Sequence)) -> Did {
        self.sweep(now);
        self.admit(ended);
        if !self.plan() {
            return Did::Nothing;
        }
        if catch_unwind(AssertUnwindSafe(|| self.compute())).is_err() {
            self.fail_all(&EngineError::Fault);
            return Did::Broke;
        }
        // What was computed from a file that changed meanwhile must not go out.
        if !self.refuse_damaged() {
            self.advance(ended);
        }
        Did::Work
    }

    fn refuse_damaged(&mut self) -> bool {
        let damaged = self.model().file().damaged();
        if damaged {
            let model = self.model().name().to_owned();
            self.fail_all(&EngineError::ModelDamaged { model });
        }
        damaged
    }

    /// Lets waiting items out, and sequences go whose client went, stalls or cancelled.
    fn sweep(&mut self, now: Instant) {
        let stall = self.options.stall;
        self.closing
            .retain_mut(|outlet| outlet.flush(now, stall) == Flow::Blocked);
        let mut at = 0;
        while at < self.running.len() {
            match verdict(&mut self.running[at], now, &self.options) {
                None => at += 1,
                Some(end) => {
                    let sequence = self.running.remove(at);
                    self.close(sequence, end);
                }
            }
        }
        let mut at = 0;
        while at < self.waiting.len() {
            match verdict(&mut self.waiting[at], now, &self.options) {
                None => at += 1,
                Some(end) => {
                    if let Some(sequence) = self.waiting.remove(at) {
                        self.close(sequence, end);
                    }
                }
            }
        }
    }

    /// Takes a sequence's blocks back and, unless nobody listens, tells why it ended.
    fn close(&mut self, mut sequence: Sequence, end: End) {
        self.runner.cache().release(&mut sequence.table);
        if let End::Error(error) = end {
            sequence.outlet.fail(error);
            self.closing.push(sequence.outlet);
        }
    }

    /// Lets waiting sequences run, oldest first, while there is room for their prompts.
    fn admit(&mut self, ended: &mut dyn FnMut(&Sequence)) {
        while self.running.len() < self.options.sequences_max {
            let Some(first) = self.waiting.front() else { return };
            // One block more for each that runs: those will need it soon, and evicting is dearer than waiting.
            let blocks = first.tokens.len().div_ceil(KV_BLOCK) + self.running.len();
            if blocks > self.runner.cache().free_blocks() {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            // Reserved at once, so that those admitted together never promise the same blocks.
            let tokens = sequence.tokens.len();
            if self.runner.cache().reserve(&mut sequence.table, tokens).is_err() {
                self.waiting.push_front(sequence);
                return;
            }
            sequence.start();
            if sequence.is_trivial() {
                sequence.finish_full();
                ended(&sequence);
                self.runner.cache().release(&mut sequence.table);
                self.closing.push(sequence.outlet);
            } else {
                self.running.push(sequence);
            }
        }
    }

    /// Chooses the tokens of the next step: first one for each sequence that answers, then prompts, which share what is
    /// left evenly, so that a short one does not wait for a long one.
    fn plan(&mut self) -> bool {
        let mut budget = self.runner.step_tokens_max();
        let mut slices = 0;
        for answering in [true, false] {
            let fits = |s: &Sequence| s.is_answering() == answering && s.can_run();
            let mut left = self.running.iter().filter(|s| fits(s)).count();
            let mut at = 0;
            while at < self.running.len() {
                let sequence = &self.running[at];
                if !fits(sequence) || budget == 0 || slices == SEQUENCES_MAX {
                    at += 1;
                    continue;
                }
                let tokens = sequence.slice_max().min(budget.div_ceil(left.max(1)));
                left = left.saturating_sub(1);
                if self.make_room(at, sequence.cached + tokens) {
                    let sequence = &mut self.running[at];
                    sequence.planned = tokens;
                    budget -= tokens;
                    slices += 1;
                    at += 1;
                }
            }
        }
        slices > 0
    }

    /// Reserves blocks for the sequence at `at`. Where none are free, the sequence that came last gives its own back and
    /// waits to be computed anew. False if that was the one at `at` itself.
    fn make_room(&mut self, at: usize, tokens: usize) -> bool {
        loop {
            if self
                .runner
                .cache()
                .reserve(&mut self.running[at].table, tokens)
                .is_ok()
            {
                return true;
            }
            let last = self.running.len() - 1;
            let mut evicted = self.running.remove(last);
            self.runner.cache().release(&mut evicted.table);
            (evicted.cached, evicted.planned) = (0, 0);
            evicted.progress.set_state(JobState::Queued);
            self.waiting.push_front(evicted);
            if last == at {
                return false;
            }
        }
    }

    fn compute(&mut self) {
        let mut slices = [const { None::<Slice<'_>> }; SEQUENCES_MAX];
        let mut voices = [const { None::<(usize, &[u32], &mut Voice)> }; SEQUENCES_MAX];
        // Decode slices come first, then prefill slices.
        let planned = |s: &&mut Sequence| s.planned > 0;
        let decoding = |s: &Sequence| s.planned > 0 && !s.is_prefill();
        let (mut decode, mut count) = (0, self.running.iter().filter(|s| decoding(s)).count());
        for sequence in self.running.iter_mut().filter(planned) {
            let (slice, tokens, voice) = sequence.parts();
            let at = if slice.prefill { &mut count } else { &mut decode };
            voices[*at] = Some((slice.start, tokens, voice));
            slices[*at] = Some(slice);
            *at += 1;
        }
        let empty = Slice {
            tokens: &[],
            start: 0,
            blocks: &[],
            prefill: false,
            logits: crate::forward::Logits::None,
        };
        let slices = slices.map(|s| s.unwrap_or(empty));
        let candidates = &mut self.candidates;
        self.runner.step(&slices[..count], &mut |slice, at, logits| {
            if let Some((start, tokens, voice)) = &mut voices[slice] {
                voice.hear(*start + at, tokens, logits, candidates);
            }
        });
    }

    fn advance(&mut self, ended: &mut dyn FnMut(&Sequence)) {
        let mut at = 0;
        while at < self.running.len() {
            if self.running[at].planned == 0 {
                at += 1;
                continue;
            }
            let error = match self.running[at].advance(self.context) {
                Ok(Next::Goes) => {
                    at += 1;
                    continue;
                }
                Ok(Next::Ended) => None,
                Err(error) => Some(error),
            };
            let mut sequence = self.running.remove(at);
            ended(&sequence);
            self.runner.cache().release(&mut sequence.table);
            if let Some(error) = error {
                sequence.outlet.fail(error);
            }
            self.closing.push(sequence.outlet);
        }
    }
}

enum End {
    Gone,
    Error(EngineError),
}

fn verdict(sequence: &mut Sequence, now: Instant, options: &Options) -> Option<End> {
    match sequence.outlet.flush(now, options.stall) {
        Flow::Gone => Some(End::Gone),
        Flow::Stalled => Some(End::Error(EngineError::Stalled {
            seconds: options.stall.as_secs(),
        })),
        _ if sequence.progress.is_cancelled() => Some(End::Error(EngineError::Cancelled)),
        Flow::Clear | Flow::Blocked => None,
    }
}
