//! Who has requests in the queue. Invariant: one user fills the queue at most once; beyond that others still get in, a few
//! each, up to twice its size.

/// Requests that were handed over and do not run yet, by user.
#[derive(Default)]
pub struct Queue {
    /// On their way to the engine's thread.
    arriving: Vec<(u32, usize)>,
    /// There.
    waiting: Vec<(u32, usize)>,
}

impl Queue {
    /// A request comes. `Err` with the number of all that wait, where there is no place for it: of `limit` places the first
    /// come get any; another half of them, and half again, is for those who have less than an eighth.
    pub fn arrive(&mut self, uid: u32, limit: usize) -> Result<(), usize> {
        let queued = self.len();
        let mine = count(&self.arriving, uid) + count(&self.waiting, uid);
        let crowded = queued >= limit;
        if crowded && (mine > 0 && mine >= limit / 8 || queued >= limit.saturating_mul(2)) {
            return Err(queued);
        }
        add(&mut self.arriving, uid);
        Ok(())
    }

    /// A request reached the engine's thread.
    pub fn arrived(&mut self, uid: u32) {
        if let Some(place) = self.arriving.iter_mut().find(|p| p.0 == uid) {
            place.1 = place.1.saturating_sub(1);
        }
        self.arriving.retain(|p| p.1 > 0);
    }

    /// Whose requests wait there now.
    pub fn set_waiting(&mut self, uids: impl Iterator<Item = u32>) {
        self.waiting.clear();
        uids.for_each(|uid| add(&mut self.waiting, uid));
    }

    /// All of them.
    pub fn len(&self) -> usize {
        let both = self.arriving.iter().chain(&self.waiting);
        both.map(|p| p.1).sum()
    }
}

fn count(places: &[(u32, usize)], uid: u32) -> usize {
    places.iter().find(|p| p.0 == uid).map_or(0, |p| p.1)
}

fn add(places: &mut Vec<(u32, usize)>, uid: u32) {
    match places.iter_mut().find(|p| p.0 == uid) {
        Some(place) => place.1 += 1,
        None => places.push((uid, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &mut Queue, uid: u32, limit: usize) -> usize {
        (0..1000).take_while(|_| queue.arrive(uid, limit).is_ok()).count()
    }

    #[test]
    fn one_user_fills_the_queue_and_others_still_get_in() {
        let mut queue = Queue::default();
        assert_eq!(fill(&mut queue, 1, 64), 64);
        assert_eq!(fill(&mut queue, 2, 64), 8);
        assert_eq!(queue.arrive(1, 64), Err(72));
        let others = (3..1000).map(|uid| fill(&mut queue, uid, 64)).sum::<usize>();
        assert_eq!((others, queue.len()), (56, 128), "bounded all the same");
    }

    #[test]
    fn places_come_back() {
        let mut queue = Queue::default();
        assert_eq!(fill(&mut queue, 1, 1), 1);
        queue.arrived(1);
        queue.set_waiting([1].into_iter());
        assert_eq!(queue.arrive(1, 1), Err(1));
        queue.set_waiting(std::iter::empty());
        assert_eq!((queue.len(), queue.arrive(1, 1)), (0, Ok(())));
        queue.arrived(9);
        assert_eq!(queue.len(), 1);
    }
}
