//! Tells everyone on the bus how the models change. Invariant: what a client has heard, put on what it read at first, is
//! how things are; nothing is looked at again unless something changed.
use super::objects::{DAEMON, MODEL, model_path, model_properties};
use super::{Door, PATH, Properties};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tells until it is ended.
pub async fn tell(door: Arc<Door>) {
    let mut catalog = door.app.catalog.changes();
    let mut memory = door.app.models.changes();
    let mut phase = door.app.phase.subscribe();
    let mut known = models(&door);
    let mut daemon = door.properties();
    loop {
        let changed = tokio::select! {
            changed = catalog.changed() => changed,
            changed = memory.changed() => changed,
            changed = phase.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = models(&door);
        compare(&door, &known, &now).await;
        known = now;
        let now = door.properties();
        if let Some(news) = difference(&daemon, &now) {
            door.changed(None, PATH, DAEMON, &news).await;
        }
        daemon = now;
    }
}

fn models(door: &Door) -> BTreeMap<String, Properties> {
    let snapshot = door.app.catalog.snapshot();
    let entries = snapshot.entries.values();
    entries
        .map(|entry| (model_path(&entry.name), model_properties(door, entry)))
        .collect()
}

async fn compare(door: &Door, before: &BTreeMap<String, Properties>, now: &BTreeMap<String, Properties>) {
    for path in before.keys().filter(|path| !now.contains_key(*path)) {
        door.removed(None, path, MODEL).await;
    }
    for (path, has) in now {
        match before.get(path) {
            None => door.added(None, path, MODEL, has).await,
            Some(had) => {
                if let Some(news) = difference(had, has) {
                    door.changed(None, path, MODEL, &news).await;
                }
            }
        }
    }
}

/// What is new; `None` when nothing is.
fn difference(before: &Properties, now: &Properties) -> Option<Properties> {
    let news: Properties = now
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .filter_map(|(name, value)| Some((*name, value.try_clone().ok()?)))
        .collect();
    (!news.is_empty()).then_some(news)
}
