//! The sequences of one loaded model: who waits, who runs, what the next step carries. Invariant: blocks in use never
//! exceed the cache, and a sequence that left has given all its blocks back, to be free or kept for its owner's next.
use crate::emit::{Flow, Outlet};
use crate::forward::{Runner, Slice};
use crate::options::{LOGIT_ROWS, SEQUENCES_MAX};
use crate::pace::Pace;
use crate::sampling::Candidates;
use crate::sequence::{Next, Sequence, Tally, Voice};
use crate::shares::{Holder, Reader, Shares, deal, gives_way, rank};
use crate::speculation::RowCost;
use crate::{EngineError, KvBlocks, Model, Options, Request};
use hyprstream_kernels::{KV_BLOCK, Pool};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Runtime {
    runner: Runner,
    context: usize,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Ended sequences whose last items wait for their client.
    closing: Vec<Outlet>,
    candidates: Candidates,
    /// Requests that came so far.
    serial: u64,
    shares: Shares,
    pace: Pace,
    readers: Vec<Reader>,
    row_cost: RowCost,
    /// What speculation came to since it was last asked for.
    tally: Tally,
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
            serial: 0,
            shares: Shares::default(),
            pace: Pace::new(options.prefill_tokens_max),
            readers: Vec::with_capacity(options.sequences_max),
            row_cost: RowCost::default(),
            tally: Tally::default(),
            options: options.clone(),
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    /// Whose requests wait.
    pub fn waiting(&self) -> impl Iterator<Item = u32> {
        self.waiting.iter().map(|s| s.uid)
    }

    /// What the blocks of its cache are for.
    pub fn kv(&mut self) -> KvBlocks {
        self.runner.cache().usage()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.closing.is_empty()
    }

    pub fn accept(&mut self, request: Request) {
        let (waiting, running) = (&self.waiting, &self.running);
        self.shares
            .retain(|uid| waiting.iter().chain(running).any(|s| s.uid == uid));
        self.shares.enter(request.uid);
        let sequence = Sequence::new(request, self.context, self.serial, self.options.speculation);
        self.waiting.push_back(sequence);
        self.serial += 1;
    }

    /// Ends everything.
    pub fn fail_all(&mut self, error: &EngineError) {
        for mut sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            self.runner.cache().release(&mut sequence.table);
            sequence.outlet.fail(error.clone());
            self.closing.push(sequence.outlet);
        }
        // Whatever made all fail may have made what was computed wrong.
        self.runner.cache().forget_all();
    }

    /// One step for all sequences that can run.
    pub fn step(&mut self, now: Instant, ended: &mut dyn FnMut(&Sequence)) -> Did {
        self.sweep(now);
        self.admit(now, ended);
        let Some(load) = self.plan(now) else {
            return Did::Nothing;
        };
        let started = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| self.compute())).is_err() {
            self.fail_all(&EngineError::Fault);
            return Did::Broke;
        }
        let seconds = started.elapsed().as_secs_f32();
        self.pace.observe(load.answering, load.reading, seconds);
        if load.reading == 0 {
            self.row_cost.measure(load.answering, seconds);
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
        keep(&mut self.runner, &mut sequence);
        if let End::Error(error) = end {
            sequence.outlet.fail(error);
            self.closing.push(sequence.outlet);
        }
    }

    /// Lets waiting sequences run while there is room for them.
    fn admit(&mut self, now: Instant, ended: &mut dyn FnMut(&Sequence)) {
        while let Some(next) = self.next(now) {
            let room = self.running.len() < self.options.sequences_max;
            if !room || !self.take_blocks(next) {
                if self.make_way(next, now) {
                    continue;
                }
                return;
            }
            let Some(mut sequence) = self.waiting.remove(next) else {
                return;
            };
            sequence.rank = rank(sequence.priority, waited(&sequence, now));
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

    /// Which waiting sequence runs next: of the highest priority, of the user who runs least and got least, the oldest.
    fn next(&self, now: Instant) -> Option<usize> {
        let slots = |uid: u32| self.running.iter().filter(|s| s.uid == uid).count();
        let order = |s: &Sequence| {
            let rank = rank(s.priority, waited(s, now));
            (rank, slots(s.uid), self.shares.served(s.uid), s.serial)
        };
        let indexed = self.waiting.iter().enumerate();
        indexed.min_by_key(|(_, s)| order(s)).map(|(at, _)| at)
    }

    /// Gives a waiting sequence the blocks of its tokens, those first that hold some of them already. All at once, so that
    /// those admitted together never promise the same blocks.
    fn take_blocks(&mut self, at: usize) -> bool {
        // One block more for each that runs: those will need it soon, and evicting is dearer than waiting.
        let spare = self.running.len();
        let (cache, sequence) = (self.runner.cache(), &mut self.waiting[at]);
        let mut table = std::mem::take(&mut sequence.table);
        let cached = cache.adopt(&mut table, sequence.uid, sequence.reusable());
        let tokens = sequence.tokens.len();
        let more = tokens.div_ceil(KV_BLOCK).saturating_sub(table.blocks().len());
        let fits = more + spare <= cache.free_blocks() && cache.reserve(&mut table, tokens).is_ok();
        if fits {
            sequence.cached = cached;
        } else {
            cache.release(&mut table);
        }
        sequence.table = table;
        fits
    }

    /// Sends one that runs back to wait, where the waiting one at `at` has a better claim.
    fn make_way(&mut self, at: usize, now: Instant) -> bool {
        let (uid, priority) = (self.waiting[at].uid, self.waiting[at].priority);
        let mut holders = [Holder::default(); SEQUENCES_MAX];
        for (holder, s) in holders.iter_mut().zip(&self.running) {
            (holder.rank, holder.uid, holder.serial) = (s.rank, s.uid, s.serial);
        }
        let count = self.running.len().min(SEQUENCES_MAX);
        match gives_way(&holders[..count], uid, priority) {
            Some(victim) => {
                self.park(victim, now);
                self.queue_parked();
                true
            }
            None => false,
        }
    }

    /// Takes the blocks of one that runs; what they hold is kept as long as the room is not needed.
    fn park(&mut self, at: usize, now: Instant) {
        let sequence = &mut self.running[at];
        keep(&mut self.runner, sequence);
        sequence.rest();
        (sequence.parked, sequence.queued) = (true, now);
    }

    fn queue_parked(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            if self.running[at].parked {
                let mut sequence = self.running.remove(at);
                sequence.parked = false;
                self.waiting.push_front(sequence);
            } else {
                at += 1;
            }
        }
    }

    /// Chooses the tokens of the next step: first one for each sequence that answers, then what others have to read.
    fn plan(&mut self, now: Instant) -> Option<Load> {
        let mut load = Load::default();
        let step_max = self.runner.step_tokens_max();
        for at in 0..self.running.len() {
            let sequence = &self.running[at];
            if !sequence.is_answering() || !sequence.can_run() || load.answering == step_max {
                continue;
            }
            if self.make_room(at, 1, now) {
                self.shares.charge(self.running[at].uid, 1);
                load.answering += 1;
            }
        }
        // Half of what is left at most, so that prompts get on.
        load.answering += self.draft((step_max - load.answering) / 2);
        let budget = self.pace.prompt_tokens(load.answering);
        self.plan_readers(budget.min(step_max - load.answering), now);
        self.queue_parked();
        // Counted at the end: one that was planned may have had to give way to another.
        let planned = |answering: bool| {
            let those = self.running.iter().filter(|s| s.is_answering() == answering);
            those.map(|s| s.planned).sum::<usize>()
        };
        (load.answering, load.reading) = (planned(true), planned(false));
        (load.answering + load.reading > 0).then_some(load)
    }

    /// Drafts tokens for the sequences that answer, `budget` in all at most, and one tile of logits together with what is
    /// planned. The more sequences share a step, the less a row may cost.
    fn draft(&mut self, budget: usize) -> usize {
        let mut left = self.running.iter().filter(|s| s.planned > 0).count();
        let mut rows = budget.min(LOGIT_ROWS.saturating_sub(left));
        let mut drafted = 0;
        let measured = || self.row_cost.share(left);
        let cost = self.options.draft_cost.unwrap_or_else(measured);
        for sequence in self.running.iter_mut().filter(|s| s.planned > 0) {
            let max = sequence.drafts_max(self.context).min(rows.div_ceil(left.max(1)));
            left = left.saturating_sub(1);
            if max == 0 {
                continue;
            }
            let count = sequence.draft(max, cost);
            let tokens = sequence.cached + 1 + count;
            // Nobody gives way for a guess.
            if self.runner.cache().reserve(&mut sequence.table, tokens).is_err() {
                sequence.undraft(count);
                continue;
            }
            rows -= count;
            drafted += count;
        }
        drafted
    }

    /// What speculation came to since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn plan_readers(&mut self, budget: usize, now: Instant) {
        let mut readers = std::mem::take(&mut self.readers);
        readers.clear();
        for (at, s) in self.running.iter().enumerate() {
            if !s.is_answering() && s.can_run() {
                readers.push(Reader {
                    at,
                    rank: s.rank,
                    uid: s.uid,
                    serial: s.serial,
                    wants: s.slice_max(),
                    read: s.cached.saturating_sub(s.reused),
                    gets: 0,
                });
            }
        }
        deal(&mut readers, budget, &mut self.shares);
        for reader in readers.iter().filter(|r| r.gets > 0) {
            self.make_room(reader.at, reader.gets, now);
        }
        self.readers = readers;
    }

    /// Plans so many tokens for the sequence at `at` and reserves their blocks. Where none can be had, the newest sequence
    /// of the lowest priority gives its own back and waits. False if that was the one at `at` itself.
    fn make_room(&mut self, at: usize, tokens: usize, now: Instant) -> bool {
        loop {
            let sequence = &mut self.running[at];
            if sequence.parked {
                return false;
            }
            let end = sequence.cached + tokens;
            if self.runner.cache().reserve(&mut sequence.table, end).is_ok() {
                sequence.planned = tokens;
                return true;
            }
            let holders = self.running.iter().enumerate().filter(|(_, s)| !s.parked);
            let last = holders.max_by_key(|(_, s)| (s.rank, s.serial));
            self.park(last.map_or(at, |(last, _)| last), now);
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
            let sequence = &mut self.running[at];
            let before = sequence.tally();
            let next = sequence.advance(self.context);
            self.tally.add(sequence.tally().since(before));
            if next == Ok(Next::Goes) {
                let uid = sequence.uid;
                let (table, computed) = sequence.computed();
                self.runner.cache().publish(table, uid, computed);
                at += 1;
                continue;
            }
            let mut sequence = self.running.remove(at);
            ended(&sequence);
            match next {
                Ok(_) => keep(&mut self.runner, &mut sequence),
                Err(error) => {
                    self.runner.cache().discard(&mut sequence.table);
                    sequence.outlet.fail(error);
                }
            }
            self.closing.push(sequence.outlet);
        }
    }
}

/// Tokens of a step.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Of those that answer.
    answering: usize,
    /// Of those that read their prompt, or again what they had to give back.
    reading: usize,
}

fn waited(sequence: &Sequence, now: Instant) -> Duration {
    now.saturating_duration_since(sequence.queued)
}

/// Takes a sequence's blocks back; what is in them is kept for its owner's next request.
fn keep(runner: &mut Runner, sequence: &mut Sequence) {
    let uid = sequence.uid;
    let (table, computed) = sequence.computed();
    runner.cache().keep(table, uid, computed);
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
