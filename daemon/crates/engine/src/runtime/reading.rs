//! How prompts get on: in chunks that go through the model part by part, between the steps of those that answer.
//! Invariant: a sequence that leaves takes its tokens out of its chunk at once, so that nothing is written to blocks that
//! it gave back, and the others' go on.
use super::{Runtime, Work};
use crate::forward::{Lane, Part};
use crate::sequence::Sequence;
use crate::shares::{Reader, deal, turn};
use std::time::Instant;

/// How many turns in a row the short lane may have while a chunk waits in the long one.
const PASSED_OVER_MAX: u32 = 8;

impl Runtime {
    /// Begins a chunk in each lane that is free. What is left of a prompt goes to the short lane only if that takes all
    /// of it, and only while a chunk is under way: else it would make a small chunk where a large one is cheaper.
    pub(super) fn plan_chunks(&mut self, answering: usize, now: Instant) {
        for lane in Lane::READING {
            let short = lane == Lane::Short;
            let taken = |lane: Lane| self.running.iter().any(|s| s.is_in(lane));
            if taken(lane) || short && !taken(Lane::Long) {
                continue;
            }
            let largest = lane.tokens_max(self.runner.step_tokens_max());
            let longest = if short { largest } else { usize::MAX };
            let chunk = self.pace.chunk(lane, answering, largest);
            self.plan_chunk(lane, chunk, longest, now);
        }
    }

    /// Deals `chunk` tokens out to those that have at most `longest` to read.
    fn plan_chunk(&mut self, lane: Lane, chunk: usize, longest: usize, now: Instant) {
        let mut readers = std::mem::take(&mut self.readers);
        readers.clear();
        for (at, s) in self.running.iter().enumerate() {
            if !s.is_answering() && s.can_run() && s.slice_max() <= longest {
                readers.push(reader(at, s));
            }
        }
        deal(&mut readers, chunk, &mut self.shares);
        for reader in readers.iter().filter(|r| r.gets > 0) {
            self.make_room(reader.at, lane, reader.gets, now);
        }
        self.readers = readers;
    }

    /// The lane whose turn it is: that with the sequence that would be dealt to first, or the long one where it waited
    /// for so long that all behind it would starve.
    pub(super) fn next_lane(&self) -> Option<Lane> {
        if self.passed_over >= PASSED_OVER_MAX && self.running.iter().any(|s| s.is_in(Lane::Long)) {
            return Some(Lane::Long);
        }
        let readers = self.running.iter().enumerate();
        let readers = readers.filter(|(_, s)| s.planned > 0 && s.lane != Lane::Step);
        let next = readers.min_by_key(|(at, s)| turn(&reader(*at, s), &self.shares));
        next.map(|(_, s)| s.lane)
    }

    /// Takes the tokens of the sequence at `at` out of the chunk that it is in; whether one was under way.
    pub(super) fn leave(&mut self, at: usize) -> bool {
        let sequence = &self.running[at];
        let (lane, tokens, prefill) = (sequence.lane, sequence.planned, sequence.is_prefill());
        let in_chunk = tokens > 0 && self.runner.tokens(lane) > 0;
        if in_chunk {
            let before =
                |(other, s): &(usize, &Sequence)| s.is_in(lane) && (s.is_prefill(), *other) < (prefill, at);
            let before = self.running.iter().enumerate().filter(before);
            let first: usize = before.map(|(_, s)| s.planned).sum();
            self.runner.leave(lane, first..first + tokens);
        }
        in_chunk && lane != Lane::Step
    }

    /// Computes parts of chunks for as long as the answers, whose step took so many seconds, can wait.
    pub(super) fn read(&mut self, answering: usize, step: f32, ended: &mut dyn FnMut(&Sequence)) {
        let mut left = self.pace.allowance(answering, step);
        let mut first = true;
        self.passed_over = self.passed_over.saturating_add(1);
        while let Some(lane) = self.next_lane() {
            let (part, tokens) = self.next_part(lane);
            if !first && self.pace.cost(lane, part, tokens) > left {
                break;
            }
            let started = Instant::now();
            let over = self.compute(lane);
            if lane == Lane::Long {
                self.passed_over = 0;
            }
            let seconds = self.watch.took(Work::Part(lane, part, tokens), started);
            self.pace.observe_part(lane, part, tokens, seconds);
            (left, first) = (left - seconds, false);
            if over {
                self.advance(lane, ended);
                break;
            }
        }
        self.pace.settle(if first || answering == 0 { 0.0 } else { left });
    }

    /// The part that comes next in a lane, and of how many tokens.
    fn next_part(&self, lane: Lane) -> (Part, usize) {
        match self.runner.tokens(lane) {
            0 => {
                let chunk = self.running.iter().filter(|s| s.is_in(lane));
                (Part::Attention(0), chunk.map(|s| s.planned).sum())
            }
            tokens => (self.runner.next_part(lane), tokens),
        }
    }
}

fn reader(at: usize, s: &Sequence) -> Reader {
    Reader {
        at,
        rank: s.rank,
        uid: s.uid,
        serial: s.serial,
        wants: s.slice_max(),
        read: s.cached.saturating_sub(s.reused),
        gets: 0,
    }
}
