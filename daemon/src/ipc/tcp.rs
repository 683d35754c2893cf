//! The TCP door: off unless configured, on loopback unless that is said twice, for those with a token. Invariant: it is
//! never open without tokens, and never in plain to a network without a warning.
use super::tokens::{Tokens, TokensError};
use crate::config::Tcp;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// The listening door.
#[derive(Default)]
pub struct TcpDoor {
    /// Where connections come from.
    pub listeners: Vec<TcpListener>,
    /// Who may come in.
    pub tokens: Tokens,
}

/// Why the door stays shut.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// Nobody could come in.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The system says no.
    #[error("cannot listen at {address}: {source}; another [tcp] listen may be free")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl TcpDoor {
    /// Listens where the configuration says, which may be nowhere.
    pub fn open(config: &Tcp) -> Result<TcpDoor, TcpError> {
        if config.listen.is_empty() {
            return Ok(TcpDoor::default());
        }
        let tokens = Tokens::read(&config.tokens)?;
        for address in config.open_to_others() {
            tracing::warn!(
                "[tcp] insecure: at {address}, tokens and texts cross the network in plain; whoever can listen there can use \
                 the tokens"
            );
        }
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listening = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            });
            listeners.push(listening.map_err(|source| TcpError::Listen {
                address: *address,
                source,
            })?);
        }
        Ok(TcpDoor { listeners, tokens })
    }

    /// One line for the journal; `None` where the door is off.
    pub fn in_words(&self) -> Option<String> {
        let at = self
            .listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok());
        let at: Vec<_> = at.map(|address| address.to_string()).collect();
        (!at.is_empty()).then(|| format!("TCP at {}, tokens: {}", at.join(", "), self.tokens.in_words()))
    }
}
