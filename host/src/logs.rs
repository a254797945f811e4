//! The log: one line a change of state, on standard error.

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// kube logs each failed attempt as an error; who asked says the same with what it means,
/// at a level of its own. A directive for it in `--log` wins over this one.
const QUIET: &str = "kube_client=off";

/// Starts the log.
///
/// # Errors
/// One sentence when `filter` is not a level or a list of directives.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|e| {
        format!(
            "--log {filter:?} is not a level or a list of directives such as info,windlass_apply=debug: {e}"
        )
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
