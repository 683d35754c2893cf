//! Who asks over TCP. Invariant: a request gets in only with a host name that is ours, an origin that is none or the same
//! host, and a token; whatever lacks one of them is refused before its body is read.
use super::lobby::{Lobby, Seat};
use super::peer::{Counted, Crowd, Peer};
use crate::app::App;
use crate::errors::Failure;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use hyprstream_protocol::ErrorCode;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All connections over TCP. Cheap to clone.
#[derive(Clone, Default)]
pub struct Guests {
    lobby: Lobby,
    crowd: Crowd,
    refused: Arc<AtomicU64>,
}

/// One connection over TCP.
pub struct Guest {
    guests: Guests,
    stay: Mutex<Stay>,
}

enum Stay {
    /// No request had a token yet.
    Unknown(Seat),
    /// The last one had this user's.
    Known { counted: Counted, crowded: bool },
}

impl Guests {
    /// A connection comes.
    pub fn enter(&self) -> Guest {
        Guest {
            guests: self.clone(),
            stay: Mutex::new(Stay::Unknown(self.lobby.enter())),
        }
    }
}

impl Guest {
    fn stay(&self) -> MutexGuard<'_, Stay> {
        self.stay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the connection has to make room for others, which it never has once it showed a token.
    pub async fn must_go(&self) {
        let called = match &*self.stay() {
            Stay::Unknown(seat) => Some(seat.called()),
            Stay::Known { .. } => None,
        };
        if let Some(called) = called {
            called.notified().await;
            if matches!(*self.stay(), Stay::Unknown(_)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Who sends this request, or why it is refused.
    pub fn identify(&self, app: &App, uri: &Uri, headers: &HeaderMap) -> Result<Peer, Failure> {
        let config = app.config();
        check_host(&config.tcp.hosts, uri, headers)?;
        check_origin(headers)?;
        let tokens = app.tokens();
        let token = bearer(headers).and_then(|given| tokens.find(given));
        let Some(token) = token else {
            self.report();
            let message = "this needs a token: send the header `Authorization: Bearer TOKEN`; an administrator gives \
                           tokens out, see hyprstreamd.toml(5)";
            return Err(Failure::new(ErrorCode::Unauthenticated, message));
        };
        Ok(Peer {
            uid: token.uid,
            pid: None,
            crowded: self.settle(token.uid),
            by_token: true,
        })
    }

    /// Counts the connection as this user's. Whether the user holds too many.
    fn settle(&self, uid: u32) -> bool {
        let mut stay = self.stay();
        if let Stay::Known { counted, crowded } = &*stay
            && counted.uid() == uid
        {
            return *crowded;
        }
        let Some((counted, crowded)) = self.guests.crowd.count(uid) else {
            return true;
        };
        *stay = Stay::Known { counted, crowded };
        crowded
    }

    /// Says in the journal that somebody tries, ever more seldom.
    fn report(&self) {
        let refused = self.guests.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if refused.is_power_of_two() {
            tracing::warn!("requests over TCP without a right token so far: {refused}");
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, token) = one.as_bytes().split_at_checked("bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then_some(token.trim_ascii())
}

/// A page of another site that has its name point to this machine (DNS rebinding) still sends its own name.
fn check_host(names: &[String], uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
    let mut all = headers.get_all(HOST).iter();
    let host = match (all.next(), all.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err(foreign_host("send one Host header")),
    };
    let given = uri.authority().map_or(host, Authority::as_str);
    for name in [host, given] {
        if !is_ours(names, name) {
            return Err(foreign_host(
                "use localhost or 127.0.0.1, or have the name put into [tcp] hosts",
            ));
        }
    }
    Ok(())
}

fn foreign_host(what: &str) -> Failure {
    let message = format!("the request is for another host: {what}");
    Failure::new(ErrorCode::Denied, message)
}

fn is_ours(names: &[String], authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    // Nobody has reason to send a user name here.
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_loopback = bare
        .unwrap_or(host)
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    is_loopback
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Browsers say which page a request comes from; the one that it goes to may ask, no other.
fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    if !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let host = headers.get(HOST).map(|host| host.as_bytes());
    let same = headers.get_all(ORIGIN).iter().all(|origin| {
        let origin = origin.as_bytes();
        let site = [b"http://".as_slice(), b"https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(*scheme));
        site.is_some() && site.map(<[u8]>::to_ascii_lowercase) == host.map(<[u8]>::to_ascii_lowercase)
    });
    if same {
        return Ok(());
    }
    let message =
        "pages of other sites may not ask here; use a program, or serve the page through the same host name";
    Err(Failure::new(ErrorCode::Denied, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_our_hosts() {
        let names = ["llm.example.org".to_owned()];
        let ours = |uri: &str, list: &[(&'static str, &str)]| {
            check_host(&names, &uri.parse().unwrap(), &headers(list)).is_ok()
        };
        for host in [
            "localhost",
            "LOCALHOST:11435",
            "127.0.0.1",
            "127.8.8.8:1",
            "[::1]:11435",
            "LLM.example.org:443",
        ] {
            assert!(ours("/", &[("host", host)]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "0.0.0.0:11435",
            "evil@localhost",
            "localhost/",
            "xllm.example.org",
        ] {
            assert!(!ours("/", &[("host", host)]), "{host}");
        }
        assert!(!ours("/", &[]));
        assert!(!ours("/", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(!ours("http://evil.example/", &[("host", "localhost")]));
        assert!(ours("http://localhost/", &[("host", "localhost")]));
    }

    #[test]
    fn only_the_same_origin() {
        let fits =
            |origin: &str| check_origin(&headers(&[("host", "localhost:1"), ("origin", origin)])).is_ok();
        assert!(fits("http://localhost:1") && fits("https://LOCALHOST:1"));
        for origin in [
            "null",
            "",
            "http://localhost",
            "http://localhost:2",
            "http://evil.example",
            "file://",
        ] {
            assert!(!fits(origin), "{origin}");
        }
        assert!(check_origin(&headers(&[("host", "localhost")])).is_ok());
    }

    #[test]
    fn a_token_is_one_bearer() {
        let with = |value: &str| bearer(&headers(&[("authorization", value)])).map(<[u8]>::to_vec);
        assert_eq!(with("Bearer abc").unwrap(), b"abc");
        assert_eq!(with("bEARER  abc ").unwrap(), b"abc");
        for wrong in ["Basic abc", "Bearer", "abc", ""] {
            assert_eq!(with(wrong), None, "{wrong}");
        }
        let two = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert_eq!(bearer(&two), None);
    }
}
