//! Who gets the next slot and the next prompt tokens. Invariant: among requests of one priority the user who got least so
//! far comes first, so many requests of one never starve another's single one; and who waits long enough comes first.
use hyprstream_kernels::KV_BLOCK;
use std::time::Duration;

/// After so long a waiting request counts as one of the next higher priority.
pub const AGING: Duration = Duration::from_secs(10);
/// The most tokens that one user can be ahead of another, so that nobody is made to wait for the past.
const LEAD_MAX: u64 = 4096;

/// How many tokens were computed for each user, of those that have requests here: drafts too, that came true or not.
#[derive(Default)]
pub struct Shares {
    accounts: Vec<(u32, u64)>,
}

impl Shares {
    /// A request of this user came. Who is new starts level with whoever got least.
    pub fn enter(&mut self, uid: u32) {
        if self.accounts.iter().all(|a| a.0 != uid) {
            let least = self.accounts.iter().map(|a| a.1).min();
            self.accounts.push((uid, least.unwrap_or(0)));
        }
    }

    /// Drops the accounts of those who are gone.
    pub fn retain(&mut self, mut present: impl FnMut(u32) -> bool) {
        self.accounts.retain(|a| present(a.0));
    }

    /// So many tokens are computed for this user.
    pub fn charge(&mut self, uid: u32, tokens: usize) {
        let mut most = 0;
        for account in &mut self.accounts {
            if account.0 == uid {
                account.1 = account.1.saturating_add(tokens as u64);
            }
            most = most.max(account.1);
        }
        let floor = most.saturating_sub(LEAD_MAX);
        for account in &mut self.accounts {
            account.1 = account.1.max(floor);
        }
    }

    /// Tokens that were computed for this user.
    pub fn served(&self, uid: u32) -> u64 {
        self.accounts.iter().find(|a| a.0 == uid).map_or(0, |a| a.1)
    }
}

/// The priority of a request that has waited so long: 0 is the highest.
pub fn rank(priority: u8, waited: Duration) -> u8 {
    let steps = waited.as_secs() / AGING.as_secs();
    priority.saturating_sub(steps.try_into().unwrap_or(u8::MAX))
}

/// A request that wants prompt tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Where it is in the list of those that run.
    pub at: usize,
    pub rank: u8,
    pub uid: u32,
    /// Order of arrival.
    pub serial: u64,
    /// Tokens that it could take.
    pub wants: usize,
    /// Tokens that it took before.
    pub read: usize,
    /// Tokens that it gets.
    pub gets: usize,
}

/// Whose turn it is: the least of these.
pub fn turn(reader: &Reader, shares: &Shares) -> (u8, u64, usize, u64) {
    let read = reader.read + reader.gets;
    (reader.rank, shares.served(reader.uid), read, reader.serial)
}

/// Deals `budget` tokens out, a block's worth at a time, each to the reader of the highest priority whose user got least;
/// among one user's, to the one that has read least, so that a short prompt does not wait for a long one.
pub fn deal(readers: &mut [Reader], mut budget: usize, shares: &mut Shares) {
    while budget > 0 {
        let next = readers
            .iter_mut()
            .filter(|r| r.gets < r.wants)
            .min_by_key(|r| turn(r, shares));
        let Some(reader) = next else { return };
        let tokens = KV_BLOCK.min(reader.wants - reader.gets).min(budget);
        reader.gets += tokens;
        budget -= tokens;
        shares.charge(reader.uid, tokens);
    }
}

/// One that runs, as far as it matters for who gives way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    pub rank: u8,
    pub uid: u32,
    pub serial: u64,
}

/// Which of those that run gives way to a request of this user and priority: one of a lower priority, or one of a user
/// who has at least two more than this one. The newest of them.
pub fn gives_way(running: &[Holder], uid: u32, priority: u8) -> Option<usize> {
    let slots = |uid: u32| running.iter().filter(|h| h.uid == uid).count();
    let mine = slots(uid);
    let candidates = running
        .iter()
        .enumerate()
        .filter(|(_, h)| h.rank > priority || (h.rank == priority && slots(h.uid) > mine + 1));
    let newest = candidates.max_by_key(|(_, h)| (h.rank, slots(h.uid), h.serial));
    newest.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(at: usize, uid: u32, wants: usize) -> Reader {
        Reader {
            at,
            rank: 1,
            uid,
            serial: at as u64,
            wants,
            read: 0,
            gets: 0,
        }
    }

    fn shares(uids: &[u32]) -> Shares {
        let mut shares = Shares::default();
        uids.iter().for_each(|&uid| shares.enter(uid));
        shares
    }

    fn gets(readers: &[Reader]) -> Vec<usize> {
        readers.iter().map(|r| r.gets).collect()
    }

    #[test]
    fn a_user_with_many_requests_gets_no_more_than_one_with_a_single_one() {
        let mut readers: Vec<_> = (0..15).map(|at| reader(at, 1, 1000)).collect();
        readers.push(reader(15, 2, 1000));
        deal(&mut readers, 512, &mut shares(&[1, 2]));
        assert_eq!(readers[15].gets, 256);
        assert_eq!(gets(&readers).iter().sum::<usize>(), 512);
    }

    #[test]
    fn a_small_budget_goes_round() {
        let mut shares = shares(&[1, 2]);
        let mut got = [0, 0];
        for _ in 0..10 {
            let mut readers = [reader(0, 1, 1000), reader(1, 2, 1000)];
            deal(&mut readers, 32, &mut shares);
            got = [got[0] + readers[0].gets, got[1] + readers[1].gets];
        }
        assert_eq!(got, [160, 160]);
    }

    #[test]
    fn what_one_does_not_want_goes_to_the_others() {
        let mut readers = [reader(0, 1, 10), reader(1, 2, 400), reader(2, 1, 400)];
        deal(&mut readers, 512, &mut shares(&[1, 2]));
        assert_eq!(gets(&readers).iter().sum::<usize>(), 512);
        assert_eq!(readers[0].gets, 10);
        deal(&mut [], 512, &mut shares(&[]));
    }

    #[test]
    fn higher_priority_reads_first() {
        let mut readers = [reader(0, 1, 100), reader(1, 2, 100)];
        readers[1].rank = 0;
        deal(&mut readers, 128, &mut shares(&[1, 2]));
        assert_eq!(gets(&readers), [28, 100]);
    }

    #[test]
    fn nobody_waits_long_for_the_past() {
        let mut shares = shares(&[1, 2]);
        shares.charge(1, 1_000_000);
        assert_eq!(shares.served(1) - shares.served(2), LEAD_MAX);
        shares.enter(3);
        assert_eq!(shares.served(3), shares.served(2));
        shares.retain(|uid| uid == 3);
        assert_eq!(shares.accounts.len(), 1);
    }

    #[test]
    fn waiting_raises_a_request_and_never_beyond_the_highest() {
        assert_eq!(rank(2, Duration::ZERO), 2);
        assert_eq!(rank(2, AGING), 1);
        assert_eq!(rank(2, AGING * 2), 0);
        assert_eq!(rank(2, AGING * 1000), 0);
    }

    #[test]
    fn slots_even_out_and_then_rest() {
        let holder = |uid, rank, serial| Holder { rank, uid, serial };
        let mut running: Vec<_> = (0..16).map(|serial| holder(1, 1, serial)).collect();
        assert_eq!(gives_way(&running, 2, 1), Some(15), "the newest of the many");
        let mut turn = 16;
        while let Some(at) = gives_way(&running, 2, 1) {
            assert_eq!(running[at].uid, 1);
            running[at] = holder(2, 1, turn);
            turn += 1;
        }
        let slots = |uid| running.iter().filter(|h| h.uid == uid).count();
        assert_eq!((slots(1), slots(2)), (8, 8));
        assert_eq!(gives_way(&running, 1, 1), None);
    }

    #[test]
    fn a_lower_priority_gives_way_and_an_equal_one_does_not() {
        let running = [
            Holder {
                rank: 2,
                uid: 1,
                serial: 0,
            },
            Holder {
                rank: 1,
                uid: 1,
                serial: 1,
            },
        ];
        assert_eq!(gives_way(&running, 1, 0), Some(0));
        assert_eq!(gives_way(&running, 1, 1), Some(0));
        assert_eq!(gives_way(&running, 1, 2), None);
        assert_eq!(gives_way(&[], 1, 0), None);
    }
}
