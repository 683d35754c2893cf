//! Reads the configuration again. Invariant: either all of the new one counts, or the old one stays as it was.
use super::notify;
use crate::app::App;
use crate::args::Args;
use crate::config::Config;
use crate::ipc::Tokens;
use crate::models::available_memory;

/// Reads the configuration again, and tells systemd. The names of settings that changed and wait for a restart, or what is
/// wrong with the files.
pub async fn reload(app: &App) -> Result<Vec<&'static str>, String> {
    let _one = app.reloading.lock().await;
    notify::reloading();
    let (args, old) = (app.args.clone(), app.config());
    let reading = tokio::task::spawn_blocking(move || read(&args, &old));
    let read = reading
        .await
        .unwrap_or_else(|_| Err("reading it broke off; the journal has the details".to_owned()));
    let result = read.map(|(config, tokens)| {
        if let Some(tokens) = tokens {
            tracing::info!("tokens: {}", tokens.in_words());
            app.set_tokens(tokens);
        }
        apply(app, config)
    });
    match &result {
        Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration was read again"),
        Ok(waiting) => tracing::warn!(
            "the configuration was read again; these settings wait for a restart: {}",
            waiting.join(", ")
        ),
        Err(error) => tracing::error!("the configuration is as it was, since the new one is wrong:\n{error}"),
    }
    let first_line = result
        .as_ref()
        .err()
        .map(|error| error.lines().next().unwrap_or_default());
    notify::reloaded(app, first_line);
    result
}

/// The files as they are now: the configuration and, where there is a TCP door, who may come in by it.
fn read(args: &Args, old: &Config) -> Result<(Config, Option<Tokens>), String> {
    let config = args.settings().map_err(|error| error.to_string())?.config;
    let tokens = match old.tcp.listen.is_empty() {
        true => None,
        false => Some(Tokens::read(&config.tcp.tokens).map_err(|error| error.to_string())?),
    };
    Ok((config, tokens))
}

fn apply(app: &App, mut new: Config) -> Vec<&'static str> {
    let old = app.config();
    let waiting = keep_fixed(&old, &mut new);
    let budget = new.runtime.memory_max.bytes(available_memory());
    let idle_unload = new.runtime.idle_unload;
    app.set_config(new);
    // This tells whoever follows the models, who then look at the settings too.
    app.models.set_limits(budget, idle_unload);
    waiting
}

/// Puts back what only a new process can change, and names what of it was to be changed.
fn keep_fixed(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut waiting = Vec::new();
    macro_rules! fixed {
        ($($section:ident . $key:ident),* $(,)?) => {$(
            if new.$section.$key != old.$section.$key {
                waiting.push(concat!(stringify!($section), ".", stringify!($key)));
                new.$section.$key = old.$section.$key.clone();
            }
        )*};
    }
    fixed!(
        storage.models,
        storage.state,
        storage.cache,
        runtime.threads,
        runtime.kv_cache,
        runtime.kv_tokens,
        runtime.prefill_tokens_max,
        limits.queue_max,
        limits.sequences_max,
        limits.stall,
        tcp.listen,
        tcp.insecure,
        dbus.bus,
    );
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    #[test]
    fn what_only_a_restart_changes_stays_and_is_named() {
        let old = Config::defaults(&Place::system());
        let mut new = old.clone();
        new.runtime.threads = 7;
        new.limits.drain *= 2;
        new.limits.queue_max = 3;
        assert_eq!(
            keep_fixed(&old, &mut new),
            ["runtime.threads", "limits.queue_max"]
        );
        assert_eq!(new.runtime, old.runtime);
        assert_eq!(new.limits.drain, old.limits.drain * 2);
        assert!(keep_fixed(&old, &mut new).is_empty());
    }
}
