//! How a long build shows itself.
//!
//! The control plane is built once and then kept, but that once takes minutes. Somebody who waits that long wants to see that
//! it moves, on a terminal as a bar and in a CI log as a line now and then; a test that captures output wants nothing at all.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal: often enough to show life, rare enough for a log that is kept.
const LINE_EVERY: Duration = Duration::from_secs(20);

/// One bar's worth of progress: a label, a count that rises to a total, and an end.
///
/// The builder calls [`begin`](Progress::begin) once, [`step`](Progress::step) at least once a second, and
/// [`finish`](Progress::finish) once, whether the build succeeded or not.
pub trait Progress: Send + Sync {
    /// Says what is being made. `note` stands behind the bar, for what is worth knowing while waiting.
    fn begin(&self, label: &str, note: &str);
    /// Says how far it is. `total` is 0 while it is not known yet.
    fn step(&self, done: u64, total: u64);
    /// Ends the display; a bar that succeeded stays visible.
    fn finish(&self, success: bool);
}

/// Shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _label: &str, _note: &str) {}
    fn step(&self, _done: u64, _total: u64) {}
    fn finish(&self, _success: bool) {}
}

/// A bar on the terminal, or a plain line every 20 s when standard error is not one.
pub fn detect() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bar::new()) } else { Box::new(Lines::default()) }
}

/// A bar on standard error: ` building   <label> [####    ] 2m41s   <note>`.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template(" building   {prefix:<50} [{bar:20}] {elapsed}   {msg}")
                .expect("the template is a constant that a test renders")
                .progress_chars("##-"),
        );
        Self { bar }
    }
}

impl Progress for Bar {
    fn begin(&self, label: &str, note: &str) {
        self.bar.set_prefix(label.to_owned());
        self.bar.set_message(note.to_owned());
        self.bar.reset_elapsed();
        self.bar.enable_steady_tick(Duration::from_millis(250));
    }

    fn step(&self, done: u64, total: u64) {
        // A bar of length 0 is drawn full.
        self.bar.set_length(total.max(1));
        self.bar.set_position(done.min(total));
    }

    fn finish(&self, success: bool) {
        if success {
            self.bar.set_position(self.bar.length().unwrap_or(0));
            self.bar.finish();
        } else {
            self.bar.abandon();
        }
    }
}

/// Plain lines on standard error, for logs.
#[derive(Debug, Default)]
pub struct Lines {
    state: Mutex<Option<LinesState>>,
}

#[derive(Debug)]
struct LinesState {
    label: String,
    started: Instant,
    last_line: Instant,
}

impl Lines {
    fn with<R>(&self, use_it: impl FnOnce(&mut Option<LinesState>) -> R) -> R {
        use_it(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Progress for Lines {
    fn begin(&self, label: &str, note: &str) {
        eprintln!(" building   {label}   {note}");
        let now = Instant::now();
        self.with(|state| {
            *state = Some(LinesState { label: label.to_owned(), started: now, last_line: now })
        });
    }

    fn step(&self, done: u64, total: u64) {
        self.with(|state| {
            let Some(state) = state.as_mut() else { return };
            if state.last_line.elapsed() < LINE_EVERY {
                return;
            }
            state.last_line = Instant::now();
            let spent = minutes(state.started.elapsed());
            match total {
                0 => eprintln!(" building   {}   {spent}", state.label),
                _ => eprintln!(" building   {}   {done} of {total} packages   {spent}", state.label),
            }
        });
    }

    fn finish(&self, success: bool) {
        self.with(|state| {
            let Some(state) = state.take() else { return };
            let end = if success { "built in" } else { "failed after" };
            eprintln!(" building   {}   {end} {}", state.label, minutes(state.started.elapsed()));
        });
    }
}

/// `8m02s`, or `41s` below a minute.
fn minutes(spent: Duration) -> String {
    let seconds = spent.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{:02}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_say_it() {
        assert_eq!(minutes(Duration::from_secs(41)), "41s");
        assert_eq!(minutes(Duration::from_secs(482)), "8m02s");
    }

    #[test]
    fn the_bar_has_a_template_that_renders() {
        let bar = Bar::new();
        bar.begin("control plane", "once");
        assert_eq!((bar.bar.position(), bar.bar.length()), (0, Some(1)));
        bar.step(0, 0);
        assert_eq!(bar.bar.length(), Some(1), "an unknown total is no full bar");
        bar.step(3, 4);
        bar.finish(true);
        assert!(bar.bar.is_finished());
    }
}
