//! Who is at the other end of a connection, as the kernel says (SO_PEERCRED). Invariant: an identity is never taken from
//! what the client sends.
use crate::authority::Subject;
use interprocess::local_socket::tokio::Stream;
use interprocess::local_socket::traits::StreamCommon;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// One user may hold so many connections, so that others get in.
pub const PER_USER_MAX: usize = 128;
/// So many more are told that; what comes beyond them is closed unheard.
const PER_USER_TOLD: usize = 16;

/// The user at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id, where the kernel has one to tell.
    pub pid: Option<u32>,
    /// The user holds more connections than one may: every request is answered `busy`.
    pub crowded: bool,
    /// A token of the TCP door says who it is, not the kernel.
    pub by_token: bool,
}

impl Peer {
    /// The peer as polkit knows it.
    pub fn subject(&self) -> Subject {
        let (pid, uid) = (self.pid, self.uid);
        match self.by_token {
            true => Subject::Token { uid },
            false => Subject::Process { pid, uid },
        }
    }
}

/// Connections by user.
#[derive(Clone, Default)]
pub struct Crowd(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection in the count.
pub struct Counted {
    crowd: Crowd,
    uid: u32,
}

impl Counted {
    /// Whose connection it is.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Crowd {
    /// Counts a connection of the Unix socket. `None`: the user holds far too many, and it is to be closed.
    pub fn enter(&self, stream: &Stream) -> io::Result<Option<(Peer, Counted)>> {
        let peer = stream.peer_creds()?;
        let uid = peer.euid().ok_or(io::ErrorKind::PermissionDenied)?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        let by_token = false;
        Ok(self.count(uid).map(|(counted, crowded)| {
            let peer = Peer {
                uid,
                pid,
                crowded,
                by_token,
            };
            (peer, counted)
        }))
    }

    /// Counts a connection of this user, and says whether that makes more than one user may hold. `None`: far more.
    pub fn count(&self, uid: u32) -> Option<(Counted, bool)> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = users.entry(uid).or_default();
        if *held >= PER_USER_MAX + PER_USER_TOLD {
            return None;
        }
        *held += 1;
        let counted = Counted {
            crowd: self.clone(),
            uid,
        };
        Some((counted, *held > PER_USER_MAX))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut users = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = users.get_mut(&self.uid) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_is_told_then_sent_away_and_others_get_in() {
        let crowd = Crowd::default();
        let held: Vec<_> = (0..1000).map_while(|_| crowd.count(7)).collect();
        assert_eq!(held.len(), PER_USER_MAX + PER_USER_TOLD);
        assert_eq!(held.iter().filter(|(_, crowded)| *crowded).count(), PER_USER_TOLD);
        assert!(matches!(crowd.count(8), Some((_, false))));
        drop(held);
        assert!(matches!(crowd.count(7), Some((_, false))));
    }
}
