//! Standard error: where progress, logs and messages meet without tearing one another.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::LogFormat;
use crate::table::printable;

/// Standard error and the bars that may stand on it.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    bars: MultiProgress,
    is_terminal: bool,
    is_dumb: bool,
}

impl Terminal {
    /// Looks at standard error. `dumb` says that it cannot move its cursor.
    pub(crate) fn new(is_dumb: bool, color: bool) -> Self {
        console::set_colors_enabled_stderr(color);
        let is_terminal = is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr_with_hz(30)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { bars: MultiProgress::with_draw_target(target), is_terminal, is_dumb }
    }

    /// Whether bars can be drawn; `insist` says that they are wanted on a dumb terminal too.
    pub(crate) fn can_draw(&self, insist: bool) -> bool {
        self.is_terminal && (insist || !self.is_dumb)
    }

    /// Rows and columns.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (rows, columns) = console::Term::stderr().size();
        (rows.into(), columns.into())
    }

    /// The bars.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Prints a line above the bars.
    pub(crate) fn print(&self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    /// Writes whole lines above the bars. Where standard error is gone, nobody can be told.
    fn write(&self, lines: &[u8]) {
        self.bars.suspend(|| drop(io::stderr().lock().write_all(lines)));
    }
}

/// One event's text for the log.
pub(crate) struct LogLine(Terminal);

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Log {
    /// A command's: words for people.
    Command(LevelFilter),
    /// The daemon's: every line has its time and its fields.
    Daemon(LogFormat, LevelFilter),
}

/// Sends the log to standard error from now on.
pub(crate) fn install_log(terminal: &Terminal, log: Log, color: bool) {
    let (Log::Command(level) | Log::Daemon(_, level)) = log;
    let terminal = terminal.clone();
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(color)
        .with_writer(move || LogLine(terminal.clone()));
    match log {
        Log::Command(level) if level < LevelFilter::DEBUG => {
            lines.event_format(ForPeople).init();
        }
        Log::Daemon(LogFormat::Json, _) => {
            lines.json().with_span_list(false).finish().with(our_own(level)).init();
        }
        Log::Command(_) | Log::Daemon(LogFormat::Text, _) => {
            lines.finish().with(our_own(level)).init();
        }
    }
}

/// Leaves out what the libraries below say at levels that are for us; `trace` has it all.
fn our_own(level: LevelFilter) -> Targets {
    let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::INFO) };
    ["dist", "dist_"]
        .into_iter()
        .fold(Targets::new().with_default(others), |targets, name| targets.with_target(name, level))
}

/// Events as the program's own messages: `dist: warning: WHAT: NAME: VALUE`.
struct ForPeople;

impl<S, N> FormatEvent<S, N> for ForPeople
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => "note",
        };
        let mut words = Words::default();
        event.record(&mut words);
        let text: Vec<String> = [words.message].into_iter().chain(words.fields).collect();
        writeln!(writer, "dist: {level}: {}", printable(&text.join(": ")))
    }
}

/// What an event says.
#[derive(Default)]
struct Words {
    message: String,
    fields: Vec<String>,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            // Its words say what it is.
            "error" => self.fields.push(format!("{value:?}")),
            name => self.fields.push(format!("{name} {value:?}")),
        }
    }
}

/// Whether standard error is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_speaks_as_the_program_does() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .event_format(ForPeople)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(error = %"no\nfile", path = "/x", count = 3, "cannot read it");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "dist: warning: cannot read it: no\\nfile: path /x: count 3\n");
    }
}
