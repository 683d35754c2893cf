//! Streams answers as they come. Invariant: dropping the body, as hyper does when the client hangs up, drops the answer
//! and so ends the request.
use crate::answer::{Answer, Order, begin};
use crate::app::App;
use crate::errors::Failure;
use axum::body::{Body, Bytes};
use futures_core::Stream;
use hyprstream_protocol::Event;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Events that come together go out together, up to about so many bytes.
const CHUNK_BYTES: usize = 16 << 10;

/// Writes events in one door's form.
pub trait Render: Send + Unpin + 'static {
    /// One item of the answer with this index.
    fn item(&mut self, index: usize, item: Result<Event, Failure>, out: &mut Vec<u8>);
    /// After the last item of the last answer.
    fn end(&mut self, out: &mut Vec<u8>);
}

/// One or several answers, one after the other.
pub struct Streaming<R> {
    app: Arc<App>,
    current: Option<Answer>,
    first: Option<Result<Event, Failure>>,
    rest: VecDeque<Order>,
    index: usize,
    render: R,
}

impl<R: Render> Streaming<R> {
    /// `first` was taken from `answer` already.
    pub fn new(app: &Arc<App>, answer: Answer, first: Option<Result<Event, Failure>>, render: R) -> Self {
        let (app, rest) = (Arc::clone(app), VecDeque::new());
        Streaming {
            app,
            current: Some(answer),
            first,
            rest,
            index: 0,
            render,
        }
    }

    /// Further answers, begun when those before are over.
    pub fn then(mut self, rest: VecDeque<Order>) -> Self {
        self.rest = rest;
        self
    }

    /// As a body.
    pub fn body(self) -> Body {
        Body::from_stream(self)
    }

    fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, Failure>>> {
        loop {
            if let Some(first) = self.first.take() {
                return Poll::Ready(Some(first));
            }
            let Some(answer) = &mut self.current else {
                return Poll::Ready(None);
            };
            if let Some(item) = std::task::ready!(answer.poll_next(context)) {
                return Poll::Ready(Some(item));
            }
            self.current = None;
            if let Some(order) = self.rest.pop_front() {
                self.index += 1;
                match begin(&self.app, order) {
                    Ok(answer) => self.current = Some(answer),
                    Err(failure) => return Poll::Ready(Some(Err(failure))),
                }
            }
        }
    }
}

impl<R: Render> Stream for Streaming<R> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.current.is_none() && this.first.is_none() {
            return Poll::Ready(None);
        }
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES {
            match this.poll_item(context) {
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(item)) => {
                    let failed = item.is_err();
                    this.render.item(this.index, item, &mut out);
                    if failed {
                        (this.current, this.first) = (None, None);
                        this.rest.clear();
                        this.render.end(&mut out);
                        break;
                    }
                }
                Poll::Ready(None) => {
                    this.render.end(&mut out);
                    break;
                }
            }
        }
        if out.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Ready(Some(Ok(out.into())))
        }
    }
}
