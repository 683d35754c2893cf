//! Who calls over the bus. Invariant: a caller's uid is what the bus says, its calls are taken in their order, few wait
//! and their bytes are bounded, and whoever leaves the bus is forgotten with all that is theirs.
use super::call::{Call, refuse};
use super::refusal::Refusal;
use super::{BUS, BUS_PATH, Door};
use crate::errors::Failure;
use hyprstream_protocol::{ErrorBody, ErrorCode};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use zbus::Message;

/// Calls of one caller that may wait to be looked at.
pub const WAITING_MAX: usize = 64;
/// Calls of one caller that may be at work.
pub const AT_WORK_MAX: usize = 64;
/// One user may hold so many connections to the bus that call us.
pub const PER_USER_MAX: usize = 64;
/// Callers that are remembered; the bus has fewer in all.
const CLIENTS_MAX: usize = 4096;
/// Descriptors of one caller's calls that wait or are at work.
const FILES_MAX: usize = 4;
/// After how long a caller that is refused for its many calls may try again.
const RETRY_MS: u64 = 500;

/// One connection of the bus.
pub struct Client {
    /// Its unique name.
    pub name: String,
    /// Whose it is.
    pub uid: u32,
    /// It came when its user held more connections than one may: while that is so, work is answered `Busy`.
    late: bool,
    /// How many connections its user holds, this one among them.
    held: Arc<AtomicUsize>,
    /// It left the bus.
    gone: AtomicBool,
    at_work: Arc<Semaphore>,
}

impl Client {
    /// Whether it left the bus.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The right to one more call at work.
    pub fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        if self.late && self.held.load(Ordering::Acquire) > PER_USER_MAX {
            let message = format!(
                "you hold more than {PER_USER_MAX} connections to the bus that call the daemon; close some"
            );
            return Err(Failure(
                ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(RETRY_MS),
            ));
        }
        let permit = Arc::clone(&self.at_work).try_acquire_owned();
        permit.map_err(|_| too_many())
    }
}

/// The bytes and descriptors of a call, counted until it is answered.
pub struct Weight {
    held: Arc<Held>,
    bytes: usize,
    files: usize,
}

/// What one caller's calls hold in all.
#[derive(Default)]
struct Held {
    bytes: AtomicUsize,
    files: AtomicUsize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.held.files.fetch_sub(self.files, Ordering::AcqRel);
    }
}

struct Waiting {
    calls: mpsc::Sender<(Message, Weight)>,
    held: Arc<Held>,
}

/// Everybody who called and is still on the bus.
#[derive(Default)]
pub struct Clients {
    table: Mutex<HashMap<String, Waiting>>,
    /// Callers by user.
    users: Mutex<HashMap<u32, Arc<AtomicUsize>>>,
    /// How many are followed; the bus is asked for news of those who leave only while there are any.
    followed: tokio::sync::Mutex<usize>,
}

const LEAVING: &str = "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''";

impl Clients {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody left; its task ends when it has seen the end of its calls.
    pub fn left(&self, name: &str) {
        self.table().remove(name);
    }

    /// One more caller of a user; the count of them.
    fn enter(&self, uid: u32) -> Arc<AtomicUsize> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let held = users.entry(uid).or_default();
        held.fetch_add(1, Ordering::AcqRel);
        Arc::clone(held)
    }

    /// One less.
    fn leave(&self, uid: u32) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = users.get(&uid)
            && held.fetch_sub(1, Ordering::AcqRel) == 1
        {
            users.remove(&uid);
        }
    }

    /// All are gone, as the bus is.
    pub fn all_left(&self) {
        self.table().clear();
    }
}

/// Puts a call into its caller's queue, or refuses it.
pub async fn take(door: &Arc<Door>, message: Message) {
    let header = message.header();
    let Some(sender) = header.sender().map(|name| name.as_str().to_owned()) else {
        return;
    };
    drop(header);
    if let Err((message, failure)) = enqueue(door, sender, message) {
        refuse(door, &message, &Refusal::from(failure)).await;
    }
}

fn enqueue(door: &Arc<Door>, sender: String, message: Message) -> Result<(), (Message, Failure)> {
    let bytes = message.data().bytes().len();
    let bytes_max = usize::try_from(door.app.config().http.body_max).unwrap_or(usize::MAX);
    if bytes > bytes_max {
        let what = format!("the call is larger than {bytes_max} bytes ([http] body_max); send less at once");
        return Err((message, Failure::new(ErrorCode::TooLarge, what)));
    }
    let files = message.data().fds().len();
    if files > files_of(&message) {
        let what = "the call brings a file that it does not take; only Install takes one";
        return Err((message, Failure::new(ErrorCode::BadRequest, what)));
    }
    let mut table = door.clients.table();
    if !table.contains_key(&sender) {
        if table.len() >= CLIENTS_MAX {
            return Err((message, too_many()));
        }
        let (calls, queue) = mpsc::channel(WAITING_MAX);
        let held = Arc::default();
        table.insert(sender.clone(), Waiting { calls, held });
        tokio::spawn(attend(Arc::clone(door), sender.clone(), queue));
    }
    let Some(waiting) = table.get(&sender) else {
        return Err((message, Failure::fault("a caller was lost from its table")));
    };
    let weight = Weight {
        held: Arc::clone(&waiting.held),
        bytes,
        files,
    };
    let held = waiting.held.bytes.fetch_add(bytes, Ordering::AcqRel);
    let held_files = waiting.held.files.fetch_add(files, Ordering::AcqRel);
    if held.saturating_add(bytes) > bytes_max || held_files.saturating_add(files) > FILES_MAX {
        return Err((message, too_many()));
    }
    match waiting.calls.try_send((message, weight)) {
        Ok(()) => Ok(()),
        Err(
            mpsc::error::TrySendError::Full((message, _)) | mpsc::error::TrySendError::Closed((message, _)),
        ) => Err((message, too_many())),
    }
}

/// How many descriptors a call may bring.
fn files_of(message: &Message) -> usize {
    let header = message.header();
    usize::from(header.member().is_some_and(|member| member.as_str() == "Install"))
}

fn too_many() -> Failure {
    let message = format!("too many of your calls wait already; try again in {RETRY_MS} ms");
    Failure(ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(RETRY_MS))
}

/// Serves one caller until it leaves.
async fn attend(door: Arc<Door>, name: String, mut queue: mpsc::Receiver<(Message, Weight)>) {
    follow(&door).await;
    if let Some(uid) = uid_of(&door, &name).await {
        let held = door.clients.enter(uid);
        let client = Arc::new(Client {
            name: name.clone(),
            uid,
            late: held.load(Ordering::Acquire) > PER_USER_MAX,
            held,
            gone: AtomicBool::new(false),
            at_work: Arc::new(Semaphore::new(AT_WORK_MAX)),
        });
        while let Some((message, weight)) = queue.recv().await {
            if let Some(call) = Call::new(&door, &client, message, weight) {
                super::route::handle(call).await;
            }
        }
        client.gone.store(true, Ordering::Release);
        door.forget(&client).await;
        door.clients.leave(uid);
    }
    door.clients.left(&name);
    unfollow(&door).await;
}

/// Who somebody is; `None` when it is gone already.
async fn uid_of(door: &Door, name: &str) -> Option<u32> {
    let asked = door
        .bus
        .call_method(Some(BUS), BUS_PATH, Some(BUS), "GetConnectionUnixUser", &name)
        .await;
    asked.ok()?.body().deserialize().ok()
}

async fn follow(door: &Door) {
    let mut followed = door.clients.followed.lock().await;
    if *followed == 0 {
        match_rule(door, "AddMatch").await;
    }
    *followed = followed.saturating_add(1);
}

async fn unfollow(door: &Door) {
    let mut followed = door.clients.followed.lock().await;
    *followed = followed.saturating_sub(1);
    if *followed == 0 {
        match_rule(door, "RemoveMatch").await;
    }
}

async fn match_rule(door: &Door, what: &str) {
    let asked = door
        .bus
        .call_method(Some(BUS), BUS_PATH, Some(BUS), what, &LEAVING)
        .await;
    if let (Err(error), false) = (asked, door.bus.is_closed()) {
        tracing::warn!("the bus refused {what} for callers that leave: {error}");
    }
}
