//! Standard error: where progress, logs and messages meet without tearing one another.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};

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

/// Sends the log to standard error from now on.
pub(crate) fn install_log(
    terminal: &Terminal,
    level: tracing::level_filters::LevelFilter,
    color: bool,
) {
    let terminal = terminal.clone();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(color)
        .with_target(level >= tracing::Level::DEBUG)
        .with_writer(move || LogLine(terminal.clone()))
        .init();
}

/// Whether standard error is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}
