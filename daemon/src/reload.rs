//! Asks whoever serves to read the configuration again. Invariant: who asks hears how it ended.
use crate::app::App;
use crate::errors::Failure;
use hyprstream_protocol::ErrorCode;
use std::sync::OnceLock;
use tokio::sync::{mpsc, oneshot};

/// One wish, and where to say how it ended: what is wrong with the configuration, where something is.
pub type Wish = oneshot::Sender<Result<(), String>>;

/// Where wishes go.
#[derive(Default)]
pub struct Reloads(OnceLock<mpsc::Sender<Wish>>);

impl Reloads {
    /// From now on wishes come out of here. `None` when somebody listens already.
    #[expect(dead_code, reason = "the lifecycle listens once it can reload")]
    pub fn listen(&self) -> Option<mpsc::Receiver<Wish>> {
        let (sender, wishes) = mpsc::channel(1);
        self.0.set(sender).ok().map(|()| wishes)
    }
}

/// Has the configuration read again.
pub async fn reload(app: &App) -> Result<(), Failure> {
    app.admit()?;
    let cannot = || {
        let message = "this daemon reads its configuration at its start alone; restart it";
        Failure::new(ErrorCode::NoSuchRoute, message)
    };
    let wishes = app.reloads.0.get().ok_or_else(cannot)?;
    let (said, hear) = oneshot::channel();
    wishes.send(said).await.map_err(|_| Failure::stopping())?;
    let ended = hear.await.map_err(|_| Failure::stopping())?;
    ended.map_err(|wrong| {
        let message = format!("the configuration was not changed: {wrong}");
        Failure::new(ErrorCode::BadRequest, message)
    })
}
