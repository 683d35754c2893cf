//! Has the configuration read again, for every door. Invariant: who asks hears how it ended.
use crate::app::App;
use crate::errors::Failure;
use crate::lifecycle;
use hyprstream_protocol::ErrorCode;

/// Reads it again; the settings that wait for a restart.
pub async fn reload(app: &App) -> Result<Vec<&'static str>, Failure> {
    app.admit()?;
    lifecycle::reload(app).await.map_err(|wrong| {
        let message = format!("the configuration was not changed: {wrong}");
        Failure::new(ErrorCode::BadRequest, message)
    })
}
