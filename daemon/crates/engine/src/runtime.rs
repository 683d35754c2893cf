//! The sequences of one loaded model: who waits, who runs, what the next step carries. Invariant: blocks in use never
//! exceed the cache, and a sequence that left has given all its blocks back, to be free or kept for its owner's next.
mod quota;
mod reading;
mod watch;

pub use quota::quota_blocks;

use crate::emit::{Flow, Outlet};
use crate::forward::{Lane, Logits, Runner, Slice};
use crate::options::{LOGIT_ROWS, SEQUENCES_MAX};
use crate::pace::Pace;
use crate::sampling::Candidates;
use crate::sequence::{Next, Sequence, Tally, Voice};
use crate::shares::{Holder, Reader, Shares, gives_way, rank};
use crate::speculation::RowCost;
use crate::{EngineError, KvBlocks, Model, Options, Request};
use hyprstream_kernels::{KV_BLOCK, Pool};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use watch::{Watch, Work};

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
    watch: Watch,
    readers: Vec<Reader>,
    /// Turns since the long lane had one.
    passed_over: u32,
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
    pub fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        options: &Options,
        beats: &Arc<AtomicU64>,
    ) -> Option<Runtime> {
        let context = options.context_of(model.config());
        let candidates = Candidates::with_capacity(model.config().vocab);
        let mut runner = Runner::new(model, pool, options)?;
        runner.beat(beats.clone());
        Some(Runtime {
            runner,
            context,
            waiting: VecDeque::new(),
            running: Vec::with_capacity(options.sequences_max),
            closing: Vec::new(),
            candidates,
            serial: 0,
            shares: Shares::default(),
            pace: Pace::new(),
            watch: Watch::default(),
            readers: Vec::with_capacity(options.sequences_max),
            passed_over: 0,
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

    /// Gets a little of the memory that comes next; false when there is enough.
    pub fn make_ready(&mut self) -> bool {
        self.runner.cache().make_ready()
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
        let sequence = Sequence::new(request, self.context, self.serial);
        self.serial += 1;
        match self.over_quota(&sequence) {
            Some(error) => self.close(sequence, End::Error(error)),
            None => self.waiting.push_back(sequence),
        }
    }

    /// Ends everything.
    pub fn fail_all(&mut self, error: &EngineError) {
        for mut sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            self.runner.cache().release(&mut sequence.table);
            sequence.outlet.fail(error.clone());
            self.closing.push(sequence.outlet);
        }
        self.runner.clear();
        // Whatever made all fail may have made what was computed wrong.
        self.runner.cache().forget_all();
    }

    /// One token for each sequence that answers, then prompts as far as they get until the next one is due.
    pub fn step(&mut self, now: Instant, ended: &mut dyn FnMut(&Sequence)) -> Did {
        self.sweep(now);
        self.admit(now, ended);
        let answering = self.plan(now);
        if answering == 0 && self.next_lane().is_none() {
            return Did::Nothing;
        }
        let computed = AssertUnwindSafe(|| {
            let seconds = self.answer(answering, ended);
            self.read(answering, seconds, ended);
        });
        if catch_unwind(computed).is_err() {
            self.fail_all(&EngineError::Fault);
            return Did::Broke;
        }
        Did::Work
    }

    /// Computes the step at hand and says how long it took.
    fn answer(&mut self, answering: usize, ended: &mut dyn FnMut(&Sequence)) -> f32 {
        if answering == 0 {
            return 0.0;
        }
        let started = Instant::now();
        self.compute(Lane::Step);
        let seconds = self.watch.took(Work::Step(answering), started);
        self.pace.observe_step(answering, seconds);
        if self.next_lane().is_none() {
            self.row_cost.measure(answering, seconds);
        }
        self.advance(Lane::Step, ended);
        seconds
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
                    self.leave(at);
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
        let indexed = indexed.filter(|(_, s)| self.may_run(s));
        indexed.min_by_key(|(_, s)| order(s)).map(|(at, _)| at)
    }

    /// Gives a waiting sequence the blocks of its tokens, those first that hold some of them already. All at once, so that
    /// those admitted together never promise the same blocks.
    fn take_blocks(&mut self, at: usize) -> bool {
        // One block more for each that runs: those will need it soon, and evicting is dearer than waiting.
        let spare = self.running.len();
        let sequence = &mut self.waiting[at];
        let mut table = std::mem::take(&mut sequence.table);
        let cache = self.runner.cache();
        let cached = cache.adopt(&mut table, sequence.uid, sequence.reusable());
        let tokens = sequence.tokens.len();
        let more = tokens.div_ceil(KV_BLOCK).saturating_sub(table.blocks().len());
        self.make_own_room(at, &table, more);
        let (cache, sequence) = (self.runner.cache(), &mut self.waiting[at]);
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
        let in_chunk = self.leave(at);
        let sequence = &mut self.running[at];
        keep(&mut self.runner, sequence);
        sequence.rest();
        sequence.parked = true;
        // Who loses a chunk for it keeps its age, so that it cannot happen for ever.
        if !in_chunk {
            sequence.queued = now;
        }
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

    /// Chooses the tokens of the next step, one for each sequence that answers and what is drafted, and those of the next
    /// chunk where none is under way. Returns how many the step has.
    fn plan(&mut self, now: Instant) -> usize {
        let step_max = self.runner.step_tokens_max();
        let mut answering = 0;
        for at in 0..self.running.len() {
            let sequence = &self.running[at];
            if !sequence.is_answering() || !sequence.can_run() || answering == step_max {
                continue;
            }
            if self.make_room(at, Lane::Step, 1, now) {
                self.shares.charge(self.running[at].uid, 1);
                answering += 1;
            }
        }
        answering += self.draft(step_max - answering);
        self.plan_chunks(answering, now);
        self.queue_parked();
        // Counted at the end: one that was planned may have had to give way to another.
        let step = self.running.iter().filter(|s| s.is_in(Lane::Step));
        step.map(|s| s.planned).sum()
    }

    /// Drafts tokens for the sequences that answer, `budget` in all at most, and one tile of logits together with what is
    /// planned. The more sequences share a step, the less a row may cost.
    fn draft(&mut self, budget: usize) -> usize {
        let mut left = self.running.iter().filter(|s| s.is_in(Lane::Step)).count();
        let mut rows = budget.min(LOGIT_ROWS.saturating_sub(left));
        let mut drafted = 0;
        let measured = || self.row_cost.share(left);
        let cost = self.options.draft_cost.unwrap_or_else(measured);
        for sequence in self.running.iter_mut().filter(|s| s.is_in(Lane::Step)) {
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
            // Right or wrong, each of them is work that others wait for.
            self.shares.charge(sequence.uid, count);
            rows -= count;
            drafted += count;
        }
        drafted
    }

    /// What speculation came to since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Plans so many tokens for the sequence at `at` and reserves their blocks. Where none can be had, the newest sequence
    /// of the lowest priority gives its own back and waits. False if that was the one at `at` itself.
    fn make_room(&mut self, at: usize, lane: Lane, tokens: usize, now: Instant) -> bool {
        loop {
            let sequence = &mut self.running[at];
            if sequence.parked {
                return false;
            }
            let end = sequence.cached + tokens;
            if !self.within_quota(at, end) {
                self.park_own(at, now);
                continue;
            }
            let sequence = &mut self.running[at];
            if self.runner.cache().reserve(&mut sequence.table, end).is_ok() {
                (sequence.planned, sequence.lane) = (tokens, lane);
                return true;
            }
            let holders = self.running.iter().enumerate().filter(|(_, s)| !s.parked);
            let last = holders.max_by_key(|(_, s)| (s.rank, s.serial));
            self.park(last.map_or(at, |(last, _)| last), now);
        }
    }

    /// Computes the step at hand, or the next part of a chunk. True if nothing is left of it to compute.
    fn compute(&mut self, lane: Lane) -> bool {
        let mut slices = [EMPTY; SEQUENCES_MAX];
        let mut voices = [const { None::<(usize, &[u32], &mut Voice)> }; SEQUENCES_MAX];
        // Decode slices come first, then prefill slices.
        let decoding = |s: &&Sequence| s.is_in(lane) && !s.is_prefill();
        let (mut decode, mut count) = (0, self.running.iter().filter(decoding).count());
        for sequence in self.running.iter_mut().filter(|s| s.is_in(lane)) {
            let (slice, tokens, voice) = sequence.parts();
            let at = if slice.prefill { &mut count } else { &mut decode };
            voices[*at] = Some((slice.start, tokens, voice));
            slices[*at] = slice;
            *at += 1;
        }
        let (slices, candidates) = (&slices[..count], &mut self.candidates);
        let mut hear = |slice: usize, at: usize, logits: &mut [f32]| {
            if let Some((start, tokens, voice)) = &mut voices[slice] {
                voice.hear(*start + at, tokens, logits, candidates);
            }
        };
        match lane {
            Lane::Step => {
                self.runner.step(slices, &mut hear);
                true
            }
            _ => {
                if self.runner.tokens(lane) == 0 {
                    self.runner.begin(lane, slices);
                }
                self.runner.advance(lane, slices, &mut hear)
            }
        }
    }

    /// Takes in what was computed in this lane.
    fn advance(&mut self, lane: Lane, ended: &mut dyn FnMut(&Sequence)) {
        // What was computed from a file that changed meanwhile must not go out.
        if self.refuse_damaged() {
            return;
        }
        let mut at = 0;
        while at < self.running.len() {
            if !self.running[at].is_in(lane) {
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

/// No tokens.
const EMPTY: Slice<'_> = Slice {
    tokens: &[],
    start: 0,
    blocks: &[],
    prefill: false,
    logits: Logits::None,
};

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

#[cfg(test)]
mod tests;
