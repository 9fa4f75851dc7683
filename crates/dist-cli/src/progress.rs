//! Progress on standard error, in one of three forms, from one stream of events.

mod bars;
mod json;
mod model;
mod plain;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use dist_core::{Event, Progress, Warning};

use crate::report;
use crate::terminal::Terminal;
use crate::units;

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
        let view = match mode {
            Mode::Auto if terminal.can_draw() => View::Bars(bars::Bars::start(terminal)),
            Mode::Tty => View::Bars(bars::Bars::start(terminal)),
            Mode::Auto | Mode::Plain => View::Plain(plain::Plain::start(terminal)),
            Mode::Json => View::Json(json::Json::start(terminal)),
            Mode::None => View::None,
        };
        Arc::new(Self { view, warnings: Mutex::default() })
    }

    /// Adds what could not be done and is no error.
    pub(crate) fn warn(&self, warnings: &[Warning]) {
        for warning in warnings {
            let Warning { what, count, first } = warning;
            let entries = if *count == 1 { "entry" } else { "entries" };
            self.event(Event::Warned {
                message: &format!("{what} ({count} {entries}, the first is {first})"),
            });
        }
    }

    /// Draws the last state and prints the warnings. Nothing is shown after this.
    pub(crate) fn finish(&self) {
        match &self.view {
            View::Bars(bars) => bars.finish(),
            View::Plain(plain) => plain.finish(),
            View::Json(json) => {
                json.finish();
                return; // the warnings were events
            }
            View::None => (),
        }
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.drain(..) {
            report::warn(&warning);
        }
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
        match &self.view {
            View::Bars(bars) => bars.event(&event),
            View::Plain(plain) => plain.event(&event),
            View::Json(json) => json.event(&event),
            View::None => (),
        }
    }
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
