//! Connections that have not said yet who they are. Invariant: they are few, and a new one never waits for the old: whoever
//! has been silent longest goes. Who has a token shows it at once, and is hardly ever among those.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// So many may be silent at a time.
const SEATS: usize = 64;

/// The room.
#[derive(Clone, Default)]
pub struct Lobby(Arc<Mutex<VecDeque<Arc<Notify>>>>);

/// One connection's place in it.
pub struct Seat {
    lobby: Lobby,
    called: Arc<Notify>,
}

impl Lobby {
    /// Takes a connection in.
    pub fn enter(&self) -> Seat {
        let called = Arc::new(Notify::new());
        let mut seats = self.seats();
        if seats.len() >= SEATS
            && let Some(oldest) = seats.pop_front()
        {
            oldest.notify_one();
        }
        seats.push_back(Arc::clone(&called));
        Seat {
            lobby: self.clone(),
            called,
        }
    }

    fn seats(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Tells when the connection has to go.
    pub fn called(&self) -> Arc<Notify> {
        Arc::clone(&self.called)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.seats().retain(|seat| !Arc::ptr_eq(seat, &self.called));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_called(seat: &Seat) -> bool {
        let called = seat.called();
        tokio::time::timeout(Duration::from_millis(20), called.notified())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn the_oldest_makes_room_and_who_left_takes_none() {
        let lobby = Lobby::default();
        let mut seats: Vec<Seat> = (0..SEATS).map(|_| lobby.enter()).collect();
        drop(seats.pop());
        seats.push(lobby.enter());
        assert!(!is_called(&seats[0]).await);
        let new = lobby.enter();
        assert!(is_called(&seats[0]).await);
        assert!(!is_called(&seats[1]).await && !is_called(&new).await);
        assert_eq!(lobby.seats().len(), SEATS);
        drop((seats, new));
        assert_eq!(lobby.seats().len(), 0);
    }
}
