//! Who is at the other end of a connection, as the kernel says (SO_PEERCRED). Invariant: an identity is never taken from
//! what the client sends.
use crate::authority::Subject;
use interprocess::local_socket::tokio::Stream;
use interprocess::local_socket::traits::StreamCommon;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// One user may hold so many connections, so that others get in.
const PER_USER_MAX: usize = 128;

/// The user at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id, where the kernel has one to tell.
    pub pid: Option<u32>,
    /// The user holds more connections than one may: every request is answered `busy`.
    pub crowded: bool,
}

impl Peer {
    /// The peer as polkit knows it.
    pub fn subject(&self) -> Subject {
        Subject::Process {
            pid: self.pid,
            uid: self.uid,
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

impl Crowd {
    /// Counts a connection.
    pub fn enter(&self, stream: &Stream) -> io::Result<(Peer, Counted)> {
        let peer = stream.peer_creds()?;
        let uid = peer.euid().ok_or(io::ErrorKind::PermissionDenied)?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = users.entry(uid).or_default();
        *held += 1;
        let crowded = *held > PER_USER_MAX;
        Ok((
            Peer { uid, pid, crowded },
            Counted {
                crowd: self.clone(),
                uid,
            },
        ))
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
