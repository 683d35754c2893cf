//! The tree of objects, as one caller sees it. Invariant: what is not the caller's is not there, whatever way is asked.
use super::clients::Client;
use super::jobs::{JOB, JOBS_PATH, Job};
use super::sessions::{SESSION, SESSIONS_PATH, Session};
use super::{Door, PATH, Properties};
use crate::catalog::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use zbus::{ObjectPath, Variant};

/// Where models are.
pub const MODELS_PATH: &str = "/org/hyprstream/Daemon1/models";
/// The interface of a model.
pub const MODEL: &str = "org.hyprstream.Model1";
/// The daemon's own interface.
pub const DAEMON: &str = "org.hyprstream.Daemon1";

/// What is private to users.
#[derive(Default)]
pub struct Objects {
    /// By path.
    pub jobs: HashMap<String, Arc<Job>>,
    /// By path.
    pub sessions: HashMap<String, Arc<Session>>,
}

/// What stands at a path.
pub enum Object {
    /// The daemon.
    Daemon,
    /// A folder on the way to others.
    Branch,
    /// A model.
    Model(Arc<Entry>),
    /// A job.
    Job(Arc<Job>),
    /// A session.
    Session(Arc<Session>),
}

impl Object {
    /// Its own interface.
    pub fn interface(&self) -> Option<&'static str> {
        match self {
            Object::Daemon => Some(DAEMON),
            Object::Branch => None,
            Object::Model(_) => Some(MODEL),
            Object::Job(_) => Some(JOB),
            Object::Session(_) => Some(SESSION),
        }
    }

    /// What it shows.
    pub fn properties(&self, door: &Door) -> Properties {
        match self {
            Object::Daemon => door.properties(),
            Object::Branch => Properties::new(),
            Object::Model(entry) => model_properties(door, entry),
            Object::Job(job) => job.properties(),
            Object::Session(session) => session.properties(),
        }
    }
}

/// Whether a caller may see what belongs to `owner`.
fn sees(client: &Client, owner: &Client) -> bool {
    client.uid == 0 || client.uid == owner.uid
}

/// Bytes that a path does not take, as `_` and two hexadecimal digits, `_` among them.
pub fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            _ => out.push_str(&format!("_{byte:02x}")),
        }
    }
    out
}

/// The object of a model.
pub fn model_path(name: &str) -> String {
    format!("{MODELS_PATH}/{}", escape(name))
}

/// A model as it is shown.
pub fn model_properties(door: &Door, entry: &Entry) -> Properties {
    let model = door.app.describe(entry);
    let state = serde_json::to_value(model.state).ok();
    let state = state
        .as_ref()
        .and_then(|state| state.as_str())
        .unwrap_or("broken");
    let text = |text: Option<String>| Variant::new(text.unwrap_or_default());
    Properties::from([
        ("Name", Variant::new(model.name)),
        ("State", Variant::new(state.to_owned())),
        ("Reason", text(model.reason)),
        ("Architecture", text(model.arch)),
        ("Parameters", Variant::new(model.parameters.unwrap_or(0))),
        ("Format", text(model.format)),
        ("Context", Variant::new(model.context.unwrap_or(0))),
        ("Size", Variant::new(model.bytes)),
        ("Modified", Variant::new(model.modified_s)),
        ("Starter", Variant::new(model.starter)),
        ("Digest", text(entry.digest.clone())),
    ])
}

type Interfaces = HashMap<&'static str, Properties>;

impl Door {
    /// The private objects.
    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands at a path, for this caller.
    pub fn find(&self, path: &str, client: &Client) -> Option<Object> {
        if path == PATH {
            return Some(Object::Daemon);
        }
        let branches = [MODELS_PATH, JOBS_PATH, SESSIONS_PATH];
        let above = path == "/" || PATH.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        if above || branches.contains(&path) {
            return Some(Object::Branch);
        }
        if path.starts_with(MODELS_PATH) {
            let snapshot = self.app.catalog.snapshot();
            let mut entries = snapshot.entries.values();
            return entries
                .find(|entry| model_path(&entry.name) == path)
                .map(|entry| Object::Model(Arc::clone(entry)));
        }
        let objects = self.objects();
        let job = objects.jobs.get(path).filter(|job| sees(client, &job.owner));
        let session = objects.sessions.get(path);
        let session = session.filter(|session| sees(client, &session.owner));
        job.map(|job| Object::Job(Arc::clone(job)))
            .or_else(|| session.map(|session| Object::Session(Arc::clone(session))))
    }

    /// Every object below the daemon's that this caller sees, by path.
    fn visible(&self, client: &Client) -> BTreeMap<String, Object> {
        let snapshot = self.app.catalog.snapshot();
        let models = snapshot.entries.values();
        let mut all: BTreeMap<String, Object> = models
            .map(|entry| (model_path(&entry.name), Object::Model(Arc::clone(entry))))
            .collect();
        let objects = self.objects();
        let jobs = objects.jobs.values().filter(|job| sees(client, &job.owner));
        all.extend(jobs.map(|job| (job.path.clone(), Object::Job(Arc::clone(job)))));
        let sessions = objects.sessions.values();
        let sessions = sessions.filter(|session| sees(client, &session.owner));
        all.extend(sessions.map(|session| (session.path.clone(), Object::Session(Arc::clone(session)))));
        all
    }

    /// The answer to GetManagedObjects.
    pub fn managed(&self, client: &Client) -> HashMap<ObjectPath<'static>, Interfaces> {
        let visible = self.visible(client).into_iter();
        visible
            .filter_map(|(path, object)| {
                let interfaces = Interfaces::from([(object.interface()?, object.properties(self))]);
                Some((ObjectPath::try_from(path).ok()?, interfaces))
            })
            .collect()
    }

    /// The names of the nodes right below a path, for introspection.
    pub fn children(&self, path: &str, client: &Client) -> Vec<String> {
        let fixed = [MODELS_PATH, JOBS_PATH, SESSIONS_PATH].map(str::to_owned);
        let below = |whole: String| {
            let rest = match path {
                "/" => whole.strip_prefix('/')?,
                _ => whole.strip_prefix(path)?.strip_prefix('/')?,
            };
            rest.split('/').next().map(str::to_owned)
        };
        let all = fixed.into_iter().chain(self.visible(client).into_keys());
        let names: std::collections::BTreeSet<String> = all.filter_map(below).collect();
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_a_path_of_its_own() {
        let names = ["qwen/Qwen3-0.6B", "a_2f", "a/", "é", "a b"];
        let paths: std::collections::HashSet<String> = names.iter().map(|name| model_path(name)).collect();
        assert_eq!(paths.len(), names.len());
        for path in &paths {
            ObjectPath::try_from(path.as_str()).unwrap();
        }
        assert_eq!(escape("a_b/c"), "a_5fb_2fc");
    }
}
