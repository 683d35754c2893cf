//! Carries ureq's HTTP over a Unix socket. Invariant: no name is looked up and nothing but the given socket is opened.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

/// Hands one connected socket to ureq. Connections are not reused, so one is all that a call needs.
#[derive(Debug)]
pub struct OneStream(Mutex<Option<UnixStream>>);

impl OneStream {
    /// A connector whose first (and only) connection is `stream`.
    pub fn new(stream: UnixStream) -> Self {
        OneStream(Mutex::new(Some(stream)))
    }
}

impl Connector for OneStream {
    type Out = UnixTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<UnixTransport>, Error> {
        let stream = self
            .0
            .lock()
            .ok()
            .and_then(|mut slot| slot.take())
            .ok_or(Error::ConnectionFailed)?;
        let shared = Arc::new(Shared(stream));
        (details.register_shutdown)(Arc::downgrade(&shared) as Weak<dyn ShutdownHandle>)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(UnixTransport { shared, buffers }))
    }
}

/// The socket, shared with ureq's shutdown so that another thread can end a read that waits.
#[derive(Debug)]
struct Shared(UnixStream);

impl ShutdownHandle for Shared {
    fn shutdown(&self) {
        // An error means that it is closed already, which is what is wanted.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// One connection.
#[derive(Debug)]
pub struct UnixTransport {
    shared: Arc<Shared>,
    buffers: LazyBuffers,
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let mut stream = &self.shared.0;
        stream.set_write_timeout(timeout.not_zero().map(|t| *t))?;
        let output = self
            .buffers
            .output()
            .get(..amount)
            .ok_or(Error::ConnectionFailed)?;
        match stream.write_all(output) {
            // A daemon that refuses a large body answers and closes before it has read all of it. Its answer is
            // still there to be read, and says more than a broken pipe; if there is none, the read fails instead.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            other => other.map_err(|error| timed_out(error, timeout.reason)),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let mut stream = &self.shared.0;
        stream.set_read_timeout(timeout.not_zero().map(|t| *t))?;
        let input = self.buffers.input_append_buf();
        let amount = loop {
            match stream.read(input) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other.map_err(|error| timed_out(error, timeout.reason))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // Never pooled, so never asked in earnest.
        false
    }
}

fn timed_out(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(reason),
        _ => Error::Io(error),
    }
}

/// Answers every name with an address that is never used: the connector has its socket already.
#[derive(Debug)]
pub struct NoNames;

impl Resolver for NoNames {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}
