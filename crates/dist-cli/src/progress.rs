//! Progress on standard error, in one of three forms, from one stream of events.

mod bars;
mod json;
mod model;
mod plain;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use dist_core::{Event, Progress, Warning};

use crate::report;
use crate::terminal::Terminal;
use crate::units;
use model::Model;

/// Which form progress takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Bars on a terminal, plain lines elsewhere
    #[default]
    Auto,
    /// Bars
    Tty,
    /// One line for each change of a blob's state
    Plain,
    /// One JSON object for each event (docs/cli.md)
    Json,
    /// Nothing
    None,
}

/// Shows the progress of one command and gathers what is said at its end.
pub(crate) struct Reporter {
    start: Instant,
    model: Arc<Mutex<Model>>,
    view: View,
    warnings: Mutex<Vec<String>>,
}

enum View {
    Bars(bars::Bars),
    Plain(plain::Plain),
    Json(json::Json),
    None,
}

impl Reporter {
    /// Starts showing progress on `terminal`.
    pub(crate) fn start(mode: Mode, terminal: &Terminal) -> Arc<Self> {
        Self::show(Model::default(), mode, terminal)
    }

    /// Starts showing what is sent.
    pub(crate) fn start_uploading(mode: Mode, terminal: &Terminal) -> Arc<Self> {
        Self::show(Model::uploading(), mode, terminal)
    }

    fn show(model: Model, mode: Mode, terminal: &Terminal) -> Arc<Self> {
        let start = Instant::now();
        let model = Arc::new(Mutex::new(model));
        let view = match mode {
            Mode::Auto | Mode::Tty if terminal.can_draw(mode == Mode::Tty) => {
                View::Bars(bars::Bars::start(terminal, start, &model))
            }
            Mode::Auto | Mode::Tty | Mode::Plain => View::Plain(plain::Plain::new(terminal)),
            Mode::Json => View::Json(json::Json::new(terminal)),
            Mode::None => View::None,
        };
        Arc::new(Self { start, model, view, warnings: Mutex::default() })
    }

    /// Adds what could not be done and is no error; one line for all layers.
    pub(crate) fn warn(&self, warnings: &[Warning]) {
        for (what, count, first) in merged(warnings) {
            let entries = if count == 1 { "entry" } else { "entries" };
            self.event(Event::Warned {
                message: &format!("{what} ({count} {entries}, the first is {first})"),
            });
        }
    }

    /// Bytes that are known to be wanted and have not arrived; `None` where nothing was begun.
    pub(crate) fn missing(&self) -> Option<u64> {
        self.model().missing()
    }

    /// Draws the last state and prints the warnings. Nothing is shown after this.
    pub(crate) fn finish(&self) {
        let now = self.start.elapsed();
        match &self.view {
            View::Bars(bars) => bars.finish(),
            View::Plain(plain) => plain.finish(&self.model(), now),
            View::Json(json) => {
                json.finish(now);
                return; // the warnings were events
            }
            View::None => (),
        }
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.drain(..) {
            report::warn(&warning);
        }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event<'_>) {
        if let Event::Warned { message } = event {
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            if !warnings.iter().any(|warning| warning == message) {
                warnings.push(message.to_owned());
            }
        }
        let now = self.start.elapsed();
        let mut model = self.model();
        model.take(&event, now);
        match &self.view {
            View::Bars(_) | View::None => (),
            View::Plain(plain) => plain.event(&model, &event, now),
            View::Json(json) => json.event(&event, now),
        }
    }
}

/// Adds up what several layers say of one kind.
fn merged(warnings: &[Warning]) -> Vec<(&'static str, u64, &str)> {
    let mut merged: Vec<(&'static str, u64, &str)> = Vec::new();
    for Warning { what, count, first } in warnings {
        match merged.iter_mut().find(|(known, ..)| known == what) {
            Some((_, sum, _)) => *sum += count,
            None => merged.push((what, *count, first)),
        }
    }
    merged
}

/// The last line of the human forms: `41.2 MiB in 1.9s (21.6 MiB/s)`.
fn summary(bytes: u64, elapsed: Duration) -> String {
    let speed = model::rate(bytes, elapsed);
    format!(
        "{} in {} ({}/s)",
        units::binary_size(bytes),
        units::clock(elapsed),
        units::binary_size(speed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_kind_are_one() {
        let warning = |what, count| Warning { what, count, first: format!("{what}{count}") };
        let all = [warning("a", 1), warning("b", 2), warning("a", 3)];
        assert_eq!(merged(&all), [("a", 4, "a1"), ("b", 2, "b2")]);
    }
}
