//! From a call to what does it. Invariant: an object that the caller may not see answers like one that is not there, and
//! what may take its time keeps nobody else waiting, the caller's own next call among them.
use super::call::Call;
use super::objects::{DAEMON, MODEL, Object};
use super::refusal::Refusal;
use super::{daemon1, jobs, sessions, standard};
use std::sync::Arc;

/// Does what a call says. Calls of one caller come here one after the other.
pub async fn handle(call: Call) {
    if standard::is_quick(&call) {
        return finish(&call).await;
    }
    match call.client.permit() {
        Err(failure) => call.refuse(&Refusal::from(failure)).await,
        Ok(permit) => {
            tokio::spawn(async move {
                finish(&call).await;
                drop(permit);
            });
        }
    }
}

async fn finish(call: &Call) {
    let _active = call.door.app.activity.begin();
    if let Err(refusal) = route(call).await {
        call.refuse(&refusal).await;
    }
}

async fn route(call: &Call) -> Result<(), Refusal> {
    let object = call.door.find(&call.path, &call.client);
    let object = object.ok_or_else(|| Refusal::unknown_object(&call.path))?;
    let Some(interface) = call.interface.as_deref().or_else(|| meant(call, &object)) else {
        return Err(Refusal::unknown_method(&call.path, &call.member));
    };
    if standard::INTERFACES.contains(&interface) {
        return standard::method(call, &object, interface).await;
    }
    if object.interface() != Some(interface) {
        return Err(Refusal::unknown_interface(&call.path, interface));
    }
    match &object {
        Object::Daemon => daemon1::method(call).await,
        Object::Job(job) => jobs::method(call, job).await,
        Object::Session(session) => sessions::method(call, Arc::clone(session)).await,
        Object::Model(_) | Object::Branch => Err(Refusal::unknown_method(&call.path, &call.member)),
    }
}

/// The interface of a call that names none.
fn meant(call: &Call, object: &Object) -> Option<&'static str> {
    standard::interface_of(&call.member).or_else(|| object.interface())
}

/// Interfaces with their descriptions, as they are installed for tools that read them.
pub const DESCRIBED: &[(&str, &str)] = &[
    (
        DAEMON,
        include_str!("../../../packaging/dbus/org.hyprstream.Daemon1.xml"),
    ),
    (
        MODEL,
        include_str!("../../../packaging/dbus/org.hyprstream.Model1.xml"),
    ),
    (
        jobs::JOB,
        include_str!("../../../packaging/dbus/org.hyprstream.Job1.xml"),
    ),
    (
        sessions::SESSION,
        include_str!("../../../packaging/dbus/org.hyprstream.Session1.xml"),
    ),
];
